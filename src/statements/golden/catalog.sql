-- Written and compared by golden.rs.

-- catalog::striped_items (ordinary, uuids, numeric)
SELECT s.inventory_id AS id, pg_catalog.max(s.stripe) AS stripes,
       true AS present
  FROM ONLY shop.stock_stripe AS s
 GROUP BY s.inventory_id;

-- catalog::striped_items (partitioned, text ids, integer)
SELECT s.inventory_id AS id, pg_catalog.max(s.stripe) AS stripes,
       EXISTS (SELECT FROM shop.stock AS stock
                WHERE stock.id OPERATOR(pg_catalog.=) s.inventory_id) AS present
  FROM ONLY shop.stock_stripe AS s
 GROUP BY s.inventory_id;

-- catalog::condition: $1 Oid, $2 Oid
WITH tree AS (
    SELECT t.tgqual::pg_catalog.text AS nodes FROM pg_catalog.pg_trigger AS t WHERE t.oid OPERATOR(pg_catalog.=) $1
), called AS (
    SELECT found.part[1] AS field, found.part[2]::pg_catalog.oid AS oid
      FROM tree CROSS JOIN LATERAL
           pg_catalog.regexp_matches(tree.nodes, ':(funcid|opno|resulttype) ([0-9]+)', 'g') AS found (part)
), functions AS (
    SELECT p.oid, p.proowner, p.pronamespace, p.provolatile, p.proname, c.field
      FROM called AS c
      LEFT JOIN pg_catalog.pg_operator AS o
        ON c.field OPERATOR(pg_catalog.=) 'opno' AND o.oid OPERATOR(pg_catalog.=) c.oid
      JOIN pg_catalog.pg_proc AS p
        ON p.oid OPERATOR(pg_catalog.=) CASE c.field WHEN 'funcid' THEN c.oid ELSE o.oprcode::pg_catalog.oid END
     WHERE c.field OPERATOR(pg_catalog.<>) 'resulttype'
)
SELECT ARRAY(SELECT f.oid FROM functions AS f WHERE f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid) AS functions,
       NOT EXISTS (
           SELECT FROM tree CROSS JOIN LATERAL
                  pg_catalog.regexp_matches(tree.nodes, '(?<!\\)\{([A-Z_]+)', 'g') AS node (name)
            WHERE node.name[1] OPERATOR(pg_catalog.<>) ALL (ARRAY[
       'VAR', 'CONST', 'OPEXPR', 'DISTINCTEXPR', 'NULLIFEXPR', 'SCALARARRAYOPEXPR',
       'BOOLEXPR', 'NULLTEST', 'BOOLEANTEST', 'RELABELTYPE', 'COERCEVIAIO', 'COERCETODOMAIN',
       'FUNCEXPR', 'SQLVALUEFUNCTION', 'CASE', 'CASEEXPR', 'WHEN', 'CASEWHEN',
       'CASETESTEXPR', 'COALESCE', 'COALESCEEXPR', 'MINMAX', 'MINMAXEXPR', 'ARRAY',
       'ARRAYEXPR']))
       AND NOT EXISTS (
           SELECT FROM functions AS f
            WHERE NOT (f.proowner OPERATOR(pg_catalog.=) $2
                       AND f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid)
              AND NOT (f.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
                       AND (f.field OPERATOR(pg_catalog.=) 'opno'
                            OR f.provolatile OPERATOR(pg_catalog.=) 'i'
                            OR f.proname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY[
       'now', 'transaction_timestamp', 'statement_timestamp', 'clock_timestamp', 'current_setting', 'pg_trigger_depth',
       'concat', 'concat_ws', 'date_trunc', 'date_part', 'extract', 'to_char',
       'timezone']))))
       AND NOT EXISTS (
           SELECT FROM called AS c JOIN pg_catalog.pg_type AS y ON y.oid OPERATOR(pg_catalog.=) c.oid
            WHERE c.field OPERATOR(pg_catalog.=) 'resulttype'
              AND NOT (y.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
                       AND y.typtype OPERATOR(pg_catalog.=) 'b')
              AND NOT (y.typowner OPERATOR(pg_catalog.=) $2 AND y.typtype OPERATOR(pg_catalog.=) 'd'
                       AND y.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid)) AS plain;

-- catalog::grants_of_trigger: $1 OidArray
SELECT c.oid, a.grantee, COALESCE(r.rolsuper, false) AS to_superuser
  FROM pg_catalog.pg_class AS c
 CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee
 WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1) AND a.privilege_type OPERATOR(pg_catalog.=) 'TRIGGER'
   AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
 ORDER BY c.oid;

-- catalog::subscribed: $1 OidArray
SELECT FROM pg_catalog.pg_subscription_rel AS r
  JOIN pg_catalog.pg_subscription AS s ON s.oid OPERATOR(pg_catalog.=) r.srsubid
  JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.subdbid
 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
   AND r.srrelid OPERATOR(pg_catalog.=) ANY ($1) LIMIT 1;

-- catalog::configured, of a stock table: $1 Oid
SELECT a.stock_table::pg_catalog.oid AS stock_table, a.stock_schema::pg_catalog.text AS stock_schema,
       a.stock_name::pg_catalog.text AS stock_name, a.run_as, a.check_name::pg_catalog.text AS check_name,
       a.id_column::pg_catalog.text AS id_column, a.quantity_column::pg_catalog.text AS quantity_column,
       a.movement_table::pg_catalog.oid AS movement_table, a.request_table::pg_catalog.oid AS request_table,
       a.stripe_table::pg_catalog.oid AS stripe_table, a.total_table::pg_catalog.oid AS total_table
  FROM public.inventory_attachment AS a
 WHERE a.stock_table OPERATOR(pg_catalog.=) $1;

-- catalog::configured, of tables: $1 OidArray
SELECT a.stock_table::pg_catalog.oid AS stock_table, a.stock_schema::pg_catalog.text AS stock_schema,
       a.stock_name::pg_catalog.text AS stock_name, a.run_as, a.check_name::pg_catalog.text AS check_name,
       a.id_column::pg_catalog.text AS id_column, a.quantity_column::pg_catalog.text AS quantity_column,
       a.movement_table::pg_catalog.oid AS movement_table, a.request_table::pg_catalog.oid AS request_table,
       a.stripe_table::pg_catalog.oid AS stripe_table, a.total_table::pg_catalog.oid AS total_table
  FROM public.inventory_attachment AS a
 WHERE ARRAY[a.stock_table, a.movement_table, a.request_table, a.stripe_table, a.total_table]::pg_catalog.oid[]
       OPERATOR(pg_catalog.&&) $1;

-- catalog::attached
SELECT ARRAY(SELECT a.stock_table::pg_catalog.oid FROM public.inventory_attachment AS a) AS stock_tables,
       EXISTS (SELECT FROM public.inventory_sharing) AS several;

-- catalog::relations_in: $1 Oid
SELECT ARRAY(
    SELECT d.objid FROM pg_catalog.pg_depend AS d
     WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid
       AND d.refobjid OPERATOR(pg_catalog.=) $1
       AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid) AS relations;

-- catalog::striped_tables: $1 Oid
SELECT a.stock_table::pg_catalog.oid AS stock_table
  FROM public.inventory_attachment AS a
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.stock_table
 WHERE a.striped AND c.relowner OPERATOR(pg_catalog.=) $1;

-- catalog::stripe_tables: $1 Oid
SELECT a.stripe_table::pg_catalog.oid AS stripe_table
  FROM public.inventory_attachment AS a
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.stripe_table
 WHERE c.relowner OPERATOR(pg_catalog.=) $1;

-- catalog::open_cursors
SELECT name FROM pg_catalog.pg_cursors;

-- catalog::dropped_objects
SELECT d.objid AS table, d.address_names[3] AS column, d.object_identity AS identity
  FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
 WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
   AND (d.object_type OPERATOR(pg_catalog.=) 'table' OR d.object_type OPERATOR(pg_catalog.=) 'table column')
   AND NOT d.is_temporary;

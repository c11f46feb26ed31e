-- Reads the catalog entry of a table that is, or is to become, the stock table.
-- $1 table, $2 id column, $3 quantity column, $4 the CHECK that names both columns, or NULL to find them by name.
-- Every name and operator is qualified, so the caller's search_path has no effect.
SELECT c.oid,
       c.relkind::pg_catalog.text AS kind,
       c.relpersistence::pg_catalog.text AS persistence,
       EXISTS (SELECT FROM pg_catalog.pg_inherits AS h
                WHERE h.inhparent OPERATOR(pg_catalog.=) c.oid AND c.relkind OPERATOR(pg_catalog.=) 'r')
           AS has_children,
       c.relowner AS owner,
       pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned,
       pg_catalog.quote_ident(n.nspname) AS schema,
       pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       EXISTS (SELECT FROM pg_catalog.pg_index AS x
                WHERE x.indrelid OPERATOR(pg_catalog.=) c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate
                  AND x.indpred IS NULL AND x.indexprs IS NULL
                  AND x.indnkeyatts OPERATOR(pg_catalog.=) 1 AND x.indkey[0] OPERATOR(pg_catalog.=) i.attnum)
           AS unique_index,
       EXISTS (SELECT FROM pg_catalog.pg_index AS x
                WHERE x.indrelid OPERATOR(pg_catalog.=) c.oid
                  AND q.attnum OPERATOR(pg_catalog.=) ANY (x.indkey::pg_catalog.int2[])) AS quantity_indexed,
       -- There is no index on confrelid, so a table without triggers of foreign keys is not looked for.
       CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'p'
              OR EXISTS (SELECT FROM pg_catalog.pg_trigger AS t
                          WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid AND t.tgisinternal)
            THEN EXISTS (SELECT FROM pg_catalog.pg_constraint AS f
                          WHERE f.contype OPERATOR(pg_catalog.=) 'f'
                            AND (f.confrelid OPERATOR(pg_catalog.=) c.oid
                                 OR f.confrelid OPERATOR(pg_catalog.=) ANY (ARRAY(
                                    -- pg_partition_tree would lock them until the transaction ends.
                                    WITH RECURSIVE part AS (
                                        SELECT h.inhrelid FROM pg_catalog.pg_inherits AS h
                                         WHERE h.inhparent OPERATOR(pg_catalog.=) c.oid
                                           AND c.relkind OPERATOR(pg_catalog.=) 'p'
                                         UNION ALL
                                        SELECT h.inhrelid FROM pg_catalog.pg_inherits AS h
                                          JOIN part ON h.inhparent OPERATOR(pg_catalog.=) part.inhrelid
                                    )
                                    SELECT part.inhrelid FROM part))))
            ELSE false END AS referenced,
       c.relname::pg_catalog.text AS bare_name,
       i.attnum AS id_number, i.attname::pg_catalog.text AS id_name,
       pg_catalog.quote_ident(i.attname) AS id_quoted, i.atttypid AS id_type, i.attnotnull AS id_not_null,
       i.attgenerated OPERATOR(pg_catalog.<>) '' AS id_generated,
       COALESCE((SELECT o.collisdeterministic FROM pg_catalog.pg_collation AS o
                  WHERE o.oid OPERATOR(pg_catalog.=) i.attcollation), true) AS id_deterministic,
       i.atttypmod AS id_modifier,
       q.attnum AS quantity_number, q.attname::pg_catalog.text AS quantity_name,
       pg_catalog.quote_ident(q.attname) AS quantity_quoted, q.atttypid AS quantity_type,
       q.attnotnull AS quantity_not_null,
       q.attgenerated OPERATOR(pg_catalog.<>) '' AS quantity_generated, true AS quantity_deterministic,
       q.atttypmod AS quantity_modifier
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  LEFT JOIN pg_catalog.pg_constraint AS mark
    ON mark.conrelid OPERATOR(pg_catalog.=) c.oid AND mark.contype OPERATOR(pg_catalog.=) 'c' AND mark.convalidated
   AND mark.conname OPERATOR(pg_catalog.=) $4::pg_catalog.name
  LEFT JOIN pg_catalog.pg_attribute AS i
    ON i.attrelid OPERATOR(pg_catalog.=) c.oid AND i.attnum OPERATOR(pg_catalog.>) 0 AND NOT i.attisdropped
   AND CASE WHEN $4 IS NULL THEN i.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name
            ELSE i.attnum OPERATOR(pg_catalog.=) mark.conkey[1] END
  LEFT JOIN pg_catalog.pg_attribute AS q
    ON q.attrelid OPERATOR(pg_catalog.=) c.oid AND q.attnum OPERATOR(pg_catalog.>) 0 AND NOT q.attisdropped
   AND CASE WHEN $4 IS NULL THEN q.attname OPERATOR(pg_catalog.=) $3::pg_catalog.name
            ELSE q.attnum OPERATOR(pg_catalog.=) mark.conkey[2] END
 WHERE c.oid OPERATOR(pg_catalog.=) $1

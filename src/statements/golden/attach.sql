-- Written and compared by golden.rs.

-- attach::bad_rows (ordinary, uuids, numeric)
SELECT stock.id::pg_catalog.text AS id, stock.quantity::pg_catalog.text AS quantity,
       pg_catalog.count(*) OVER () AS rows
  FROM shop.stock AS stock
 WHERE NOT (stock.quantity IS NOT NULL AND stock.quantity OPERATOR(pg_catalog.>=) 0
         AND stock.quantity OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.numeric
         AND (pg_catalog.min_scale(stock.quantity) OPERATOR(pg_catalog.+)
              CASE WHEN stock.quantity OPERATOR(pg_catalog.<) 1 THEN 0
                   ELSE pg_catalog.length(pg_catalog.trunc(stock.quantity)::pg_catalog.text) END)
             OPERATOR(pg_catalog.<=) 28)
 ORDER BY stock.id LIMIT 5;

-- attach::bad_rows (partitioned, text ids, integer)
SELECT stock.id::pg_catalog.text AS id, stock."On hand"::pg_catalog.text AS quantity,
       pg_catalog.count(*) OVER () AS rows
  FROM shop.stock AS stock
 WHERE NOT (stock."On hand" IS NOT NULL AND stock."On hand" OPERATOR(pg_catalog.>=) 0)
 ORDER BY stock.id LIMIT 5;

-- attach::longest_id
SELECT pg_catalog.max(
           CASE WHEN pg_catalog.getdatabaseencoding()::pg_catalog.text
                     OPERATOR(pg_catalog.=) ANY (ARRAY['UTF8', 'SQL_ASCII'])
                  OR pg_catalog.octet_length(id::pg_catalog.text) OPERATOR(pg_catalog.<=) 85
                THEN pg_catalog.octet_length(id::pg_catalog.text)
                ELSE pg_catalog.octet_length(pg_catalog.convert_to(id::pg_catalog.text, 'UTF8')) END) AS bytes
  FROM shop.stock;

-- attach::count_items
SELECT pg_catalog.count(*) AS items FROM shop.stock;

-- attach::check_name: $1 Oid, $2 Text, $3 Int2, $4 Int2
SELECT named.name::pg_catalog.text AS name, pg_catalog.quote_ident(named.name::pg_catalog.text) AS quoted,
       k.oid IS NOT NULL AS exists,
       k.oid IS NOT NULL AND NOT COALESCE(
           k.contype OPERATOR(pg_catalog.=) 'c' AND k.conkey OPERATOR(pg_catalog.=) ARRAY[$3, $4], false) AS foreign
  FROM (SELECT ($2 OPERATOR(pg_catalog.||) '_non_negative')::pg_catalog.name) AS named (name)
  LEFT JOIN pg_catalog.pg_constraint AS k
    ON k.conrelid OPERATOR(pg_catalog.=) $1 AND k.conname OPERATOR(pg_catalog.=) named.name;

-- attach::set_not_null (ordinary, uuids, numeric)
ALTER TABLE shop.stock ALTER COLUMN quantity SET NOT NULL;

-- attach::set_not_null (partitioned, text ids, integer)
ALTER TABLE shop.stock ALTER COLUMN "On hand" SET NOT NULL;

-- attach::drop_constraint
ALTER TABLE shop.stock DROP CONSTRAINT quantity_non_negative;

-- attach::add_check, 1 (ordinary, uuids, numeric)
ALTER TABLE shop.stock ADD CONSTRAINT quantity_non_negative
     CHECK (id IS NOT NULL AND quantity OPERATOR(pg_catalog.>=) '0'::pg_catalog.numeric
     AND quantity OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.numeric) NOT VALID;

-- attach::add_check, 1 (partitioned, text ids, integer)
ALTER TABLE shop.stock ADD CONSTRAINT quantity_non_negative
     CHECK (id IS NOT NULL AND "On hand" OPERATOR(pg_catalog.>=) 0) NOT VALID;

-- attach::add_check, 2
ALTER TABLE shop.stock VALIDATE CONSTRAINT quantity_non_negative;

-- attach::insert_configuration: $1 Oid, $2 Text, $3 Text, $4 Text,
--   $5 Text, $6 Oid, $7 Oid, $8 Oid,
--   $9 Oid, $10 Bool
INSERT INTO public.inventory_attachment
        (stock_table, stock_schema, stock_name, check_name, id_column, quantity_column, run_as,
         movement_table, request_table, stripe_table, total_table, striped)
 SELECT c.oid::pg_catalog.regclass, n.nspname, c.relname, $2::pg_catalog.name, $3::pg_catalog.name,
        $4::pg_catalog.name, $5, $6::pg_catalog.regclass, $7::pg_catalog.regclass, $8::pg_catalog.regclass,
        $9::pg_catalog.regclass, $10
   FROM pg_catalog.pg_class AS c
   JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  WHERE c.oid OPERATOR(pg_catalog.=) $1;

-- attach::delete_configuration: $1 Oid
DELETE FROM public.inventory_attachment AS a WHERE a.stock_table OPERATOR(pg_catalog.=) $1;

-- attach::delete_dropped
DELETE FROM public.inventory_attachment AS a
 WHERE a.stock_table OPERATOR(pg_catalog.=) ANY (ARRAY(
    SELECT gone.stock_table::pg_catalog.oid FROM public.inventory_attachment AS gone
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) gone.stock_table)
       FOR UPDATE SKIP LOCKED));

-- attach::begin_sharing: $1 Regclass
INSERT INTO public.inventory_sharing (stock_table)
 SELECT $1 WHERE EXISTS (
    SELECT FROM public.inventory_attachment AS a WHERE a.stock_table OPERATOR(pg_catalog.<>) $1)
     ON CONFLICT DO NOTHING;

-- attach::end_sharing
DELETE FROM public.inventory_sharing WHERE NOT EXISTS (SELECT FROM public.inventory_attachment);

-- attach::set_striped: $1 Oid
UPDATE public.inventory_attachment AS a SET striped = true
 WHERE a.stock_table OPERATOR(pg_catalog.=) $1 AND NOT a.striped;

-- attach::try_set_striped: $1 Oid
UPDATE public.inventory_attachment AS a SET striped = true
  FROM (SELECT c.ctid AS place FROM public.inventory_attachment AS c
         WHERE c.stock_table OPERATOR(pg_catalog.=) $1 AND NOT c.striped FOR UPDATE SKIP LOCKED) AS free
 WHERE a.ctid OPERATOR(pg_catalog.=) free.place;

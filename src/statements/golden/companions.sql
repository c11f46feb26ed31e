-- Written and compared by golden.rs.

-- companions::find: $1 Oid, $2 Text
SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       pg_catalog.obj_description(c.oid, 'pg_class') AS description
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE n.oid OPERATOR(pg_catalog.=) $1 AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name;

-- companions::schema: $1 Text
SELECT n.oid, pg_catalog.quote_ident(n.nspname) AS quoted FROM pg_catalog.pg_namespace AS n
 WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name;

-- companions::find_stripes: $1 Oid, $2 Oid
SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, made_for.name AS made_for, EXISTS (
           SELECT FROM pg_catalog.pg_class AS s
             JOIN pg_catalog.pg_namespace AS m ON m.oid OPERATOR(pg_catalog.=) s.relnamespace
            WHERE s.relkind::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p'])
              AND s.relowner OPERATOR(pg_catalog.=) $1 AND s.oid OPERATOR(pg_catalog.<>) $2
              AND (pg_catalog.format('%I.%I', m.nspname, s.relname) OPERATOR(pg_catalog.=) made_for.name
                   OR s.relnamespace OPERATOR(pg_catalog.=) c.relnamespace
                      AND c.relname::pg_catalog.text OPERATOR(pg_catalog.=)
                          (s.relname::pg_catalog.text OPERATOR(pg_catalog.||) '_stripe'))
              AND EXISTS (
           SELECT FROM pg_catalog.pg_constraint AS k
             JOIN pg_catalog.pg_attribute AS q
               ON q.attrelid OPERATOR(pg_catalog.=) k.conrelid AND q.attnum OPERATOR(pg_catalog.=) k.conkey[2]
            WHERE k.conrelid OPERATOR(pg_catalog.=) s.oid AND k.contype OPERATOR(pg_catalog.=) 'c'
              AND pg_catalog.array_length(k.conkey, 1) OPERATOR(pg_catalog.=) 2
              AND (k.conname OPERATOR(pg_catalog.~) '_non_negative$' OR k.conname OPERATOR(pg_catalog.=)
                   (q.attname OPERATOR(pg_catalog.||) '_non_negative')::pg_catalog.name))) AS is_known
  FROM pg_catalog.pg_description AS d
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) d.objoid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 CROSS JOIN LATERAL (VALUES (pg_catalog.substr(d.description, 37,
           pg_catalog.length(d.description) OPERATOR(pg_catalog.-) 37))) AS made_for (name)
 WHERE d.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
   AND d.objsubid OPERATOR(pg_catalog.=) 0 AND c.relowner OPERATOR(pg_catalog.=) $1
   AND pg_catalog.starts_with(d.description, 'The stripes of the striped items of ')
   AND pg_catalog.right(d.description, 1) OPERATOR(pg_catalog.=) '.'
 ORDER BY c.oid;

-- companions::is_marked: $1 Oid
SELECT EXISTS (
           SELECT FROM pg_catalog.pg_constraint AS k
             JOIN pg_catalog.pg_attribute AS q
               ON q.attrelid OPERATOR(pg_catalog.=) k.conrelid AND q.attnum OPERATOR(pg_catalog.=) k.conkey[2]
            WHERE k.conrelid OPERATOR(pg_catalog.=) $1 AND k.contype OPERATOR(pg_catalog.=) 'c'
              AND pg_catalog.array_length(k.conkey, 1) OPERATOR(pg_catalog.=) 2
              AND (k.conname OPERATOR(pg_catalog.~) '_non_negative$' OR k.conname OPERATOR(pg_catalog.=)
                   (q.attname OPERATOR(pg_catalog.||) '_non_negative')::pg_catalog.name)) AS is_marked;

-- companions::count_shared
SELECT pg_catalog.count(DISTINCT s.inventory_id::pg_catalog.text) AS items,
       pg_catalog.sum(s.quantity)::pg_catalog.text AS quantity
  FROM shop.stock_stripe AS s JOIN shop.stock AS stock ON stock.id OPERATOR(pg_catalog.=) s.inventory_id;

-- companions::partitions: $1 Regclass
SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       pg_catalog.obj_description(c.oid, 'pg_class') AS description
  FROM pg_catalog.pg_partition_tree($1) AS tree
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) tree.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE tree.level OPERATOR(pg_catalog.>) 0 ORDER BY c.oid;

-- companions::default_grants: $1 Oid
SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s %I.%I FROM %s CASCADE',
           CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname,
           CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END) AS revocation
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
 WHERE a.grantee OPERATOR(pg_catalog.<>) c.relowner
   AND (c.oid OPERATOR(pg_catalog.=) $1
        OR c.oid OPERATOR(pg_catalog.=) ANY (
            SELECT d.objid FROM pg_catalog.pg_depend AS d
             WHERE d.refobjid OPERATOR(pg_catalog.=) $1
               AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
               AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
               AND d.deptype OPERATOR(pg_catalog.=) 'i'));

-- companions::quote: $1 Text
SELECT pg_catalog.quote_ident($1) AS quoted;

-- companions::create_trigger
CREATE TRIGGER "0_inventory" BEFORE INSERT OR UPDATE OR DELETE ON shop.stock
   FOR EACH STATEMENT EXECUTE FUNCTION public.inventory_guard();

-- companions::drop_trigger
DROP TRIGGER "0_inventory" ON shop.stock;

-- companions::has_rows
SELECT FROM shop.stock_stripe LIMIT 1;

-- companions::index_movements
CREATE INDEX ON shop.stock_movement USING brin (movement_id) WITH (autosummarize = on);

-- companions::index_movements
CREATE INDEX ON shop.stock_movement USING brin (occurred_at) WITH (autosummarize = on);

-- companions::comments, of a table and of a column
COMMENT ON TABLE shop.companion IS
    'The idempotency keys of shop.stock: a row for each call with one.';

-- companions::comments, of a table and of a column
COMMENT ON COLUMN shop.companion.idempotency_key IS 'The key.';

-- companions::create_table
CREATE TABLE shop.companion (
    idempotency_key text PRIMARY KEY,
    function_name text NOT NULL,
    arguments_hash bytea NOT NULL,
    answer json,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (fillfactor = 100);

-- companions::comments, of a table and of a column
COMMENT ON TABLE shop.companion IS
    'The stripes of the striped items of shop.stock.';

-- companions::comments, of a table and of a column
COMMENT ON COLUMN shop.companion.inventory_id IS 'The item.';

-- companions::create_table (ordinary, uuids, numeric)
CREATE TABLE shop.companion (
    inventory_id uuid NOT NULL,
    stripe smallint NOT NULL CHECK (stripe > 0),
    quantity numeric NOT NULL CHECK (quantity >= '0'::numeric AND quantity < 'Infinity'::numeric),
    PRIMARY KEY (inventory_id, stripe)) WITH (fillfactor = 10);

-- companions::create_table (partitioned, text ids, integer)
CREATE TABLE shop.companion (
    inventory_id text NOT NULL,
    stripe smallint NOT NULL CHECK (stripe > 0),
    quantity numeric NOT NULL CHECK (quantity >= '0'::numeric AND quantity < 'Infinity'::numeric),
    PRIMARY KEY (inventory_id, stripe)) WITH (fillfactor = 10);

-- companions::comments, of a table and of a column
COMMENT ON TABLE shop.companion IS
    'The totals that were last written into the rows of striped items of shop.stock.';

-- companions::comments, of a table and of a column
COMMENT ON COLUMN shop.companion.inventory_id IS 'The item.';

-- companions::create_table (ordinary, uuids, numeric)
CREATE TABLE shop.companion (
    inventory_id uuid PRIMARY KEY,
    quantity numeric NOT NULL) WITH (fillfactor = 100);

-- companions::create_table (partitioned, text ids, integer)
CREATE TABLE shop.companion (
    inventory_id text PRIMARY KEY,
    quantity numeric NOT NULL) WITH (fillfactor = 100);

-- companions::comments, of a table and of a column
COMMENT ON TABLE shop.companion IS
    'The ledger of shop.stock: a row for each change of stock, which is never changed.';

-- companions::comments, of a table and of a column
COMMENT ON COLUMN shop.companion.movement_id IS 'The order of the movements of an item.';

-- companions::create_table (ordinary, uuids, numeric)
CREATE TABLE shop.companion (
    movement_id bigint GENERATED ALWAYS AS IDENTITY,
    inventory_id uuid NOT NULL,
    stripe smallint,
    kind text NOT NULL,
    old_quantity numeric NOT NULL,
    new_quantity numeric NOT NULL,
    delta numeric NOT NULL GENERATED ALWAYS AS (new_quantity - old_quantity) STORED,
    reference text,
    idempotency_key text,
    actor text NOT NULL,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (inventory_id, movement_id)) WITH (fillfactor = 100);

-- companions::create_table (partitioned, text ids, integer)
CREATE TABLE shop.companion (
    movement_id bigint GENERATED ALWAYS AS IDENTITY,
    inventory_id text NOT NULL,
    stripe smallint,
    kind text NOT NULL,
    old_quantity numeric NOT NULL,
    new_quantity numeric NOT NULL,
    delta numeric NOT NULL GENERATED ALWAYS AS (new_quantity - old_quantity) STORED,
    reference text,
    idempotency_key text,
    actor text NOT NULL,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (inventory_id, movement_id)) WITH (fillfactor = 100);

-- attach_inventory and detach_inventory: the answer, the NOTICE, and each refusal with its SQLSTATE, DETAIL and HINT.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

-- nothing attached yet
SELECT detach_inventory();
SELECT attach_inventory(NULL);
SELECT attach_inventory('pg_class', NULL);
SELECT attach_inventory('pg_class', p_quantity_column => NULL);
SELECT attach_inventory('pg_class', p_ledger => NULL);
SELECT attach_inventory('pg_class', p_run_as => NULL);
SELECT attach_inventory('pg_class', p_run_as => 'postgres');

-- what cannot be a stock table
CREATE VIEW v AS SELECT gen_random_uuid() AS id, 1 AS quantity;
SELECT attach_inventory('v');
CREATE TEMPORARY TABLE t (id uuid PRIMARY KEY, quantity integer);
\set VERBOSITY terse
SELECT attach_inventory('t'); -- DETAIL would name the session's own temporary schema
\set VERBOSITY verbose
CREATE TABLE parent (id uuid PRIMARY KEY, quantity integer);
CREATE TABLE child () INHERITS (parent);
SELECT attach_inventory('parent');
CREATE TABLE flawed (id uuid, id_date date PRIMARY KEY, quantity integer, price real, twice integer GENERATED ALWAYS
    AS (quantity * 2) STORED);
SELECT attach_inventory('flawed');
SELECT attach_inventory('flawed', 'no_such');
SELECT attach_inventory('flawed', p_quantity_column => 'no_such');
SELECT attach_inventory('flawed', 'id_date');
SELECT attach_inventory('flawed', p_quantity_column => 'price');
SELECT attach_inventory('flawed', p_quantity_column => 'twice');
ALTER TABLE flawed ALTER id SET NOT NULL;
SELECT attach_inventory('flawed');

-- rows that are no stock
CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric);
INSERT INTO inventory SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, q
    FROM unnest(ARRAY[5, NULL, 'NaN', 'Infinity', '-Infinity', -0.01, -2, 0]::numeric[]) WITH ORDINALITY AS u(q, n);
SELECT attach_inventory('inventory');
SELECT conname FROM pg_constraint WHERE conrelid = 'inventory'::regclass AND contype = 'c';
DELETE FROM inventory WHERE quantity IS NULL OR NOT (quantity >= 0 AND quantity < 'Infinity');

-- what is called as attach would call something, and is something else
CREATE VIEW inventory_movement AS SELECT 1 AS movement_id;
SELECT attach_inventory('inventory');
DROP VIEW inventory_movement;
CREATE TABLE inventory_request (idempotency_key text PRIMARY KEY);
SELECT attach_inventory('inventory');
DROP TABLE inventory_request;
ALTER TABLE inventory ADD CONSTRAINT quantity_non_negative CHECK (quantity >= 0);
SELECT attach_inventory('inventory');
ALTER TABLE inventory DROP CONSTRAINT quantity_non_negative;

-- attached, again, and something else
SELECT attach_inventory('inventory');
SELECT conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'inventory'::regclass AND contype = 'c';
SELECT attach_inventory('inventory');
SELECT attach_inventory('inventory', p_run_as => 'caller');
SELECT attach_inventory('inventory', p_ledger => false);
SELECT attach_inventory('parent');

-- the table changes under the attachment
ALTER TABLE inventory DROP CONSTRAINT inventory_pkey;
SELECT decrement_inventory('00000000-0000-0000-0000-000000000001', 1);
ALTER TABLE inventory ADD PRIMARY KEY (id);
ALTER TABLE inventory ALTER quantity TYPE real;
SELECT decrement_inventory('00000000-0000-0000-0000-000000000001', 1);
ALTER TABLE inventory ALTER quantity TYPE numeric;
ALTER TABLE inventory RENAME CONSTRAINT quantity_non_negative TO other;
SELECT decrement_inventory('00000000-0000-0000-0000-000000000001', 1);
ALTER TABLE inventory RENAME CONSTRAINT other TO quantity_non_negative;
SELECT decrement_inventory('00000000-0000-0000-0000-000000000001', 1);
ALTER TABLE inventory DROP COLUMN quantity;
SELECT decrement_inventory('00000000-0000-0000-0000-000000000001', 1);
SELECT detach_inventory();
SELECT detach_inventory();
ALTER TABLE inventory ADD COLUMN quantity numeric(12,2) DEFAULT 1;
SELECT attach_inventory('inventory');
\set VERBOSITY terse
DROP TABLE inventory_movement; -- DETAIL would name its oid
SELECT decrement_inventory('00000000-0000-0000-0000-000000000001', 1);
SELECT detach_inventory();
SELECT attach_inventory('inventory');
DROP TABLE inventory_request;
SELECT decrement_inventory('00000000-0000-0000-0000-000000000001', 1);
\set VERBOSITY verbose
SELECT detach_inventory();
SELECT attach_inventory('inventory', p_ledger => false);
SELECT detach_inventory();

-- an index on the quantity costs every sale
CREATE TABLE indexed (id uuid PRIMARY KEY, quantity integer);
CREATE INDEX ON indexed (quantity);
SELECT attach_inventory('indexed');
SELECT detach_inventory();
CREATE UNLOGGED TABLE unlogged (id uuid PRIMARY KEY, quantity integer);
SELECT attach_inventory('unlogged');
SELECT detach_inventory();

DROP VIEW v;
DROP TABLE t, child, parent, flawed, inventory, inventory_movement, inventory_request, inventory_stripe, indexed,
    indexed_movement, indexed_request, indexed_stripe,
    unlogged, unlogged_movement, unlogged_request, unlogged_stripe;

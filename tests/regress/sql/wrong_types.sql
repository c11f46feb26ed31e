-- Arguments of wrong types and in wrong numbers are refused by PostgreSQL itself, before the function is called. Only
-- the SQLSTATE is pinned: the words, and the place in PostgreSQL's source, are those of its version.
\set VERBOSITY sqlstate
\pset format unaligned
\pset tuples_only on
\set one '''00000000-0000-0000-0000-000000000001'''

CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer);
INSERT INTO inventory VALUES (:one, 10);
SELECT attach_inventory('inventory') ->> 'table';

SELECT decrement_inventory('not a uuid', 1);
SELECT decrement_inventory('', 1);
SELECT decrement_inventory(:one, 'two');
SELECT decrement_inventory(:one, '');
SELECT decrement_inventory(:one::text, 1);
SELECT decrement_inventory(1, 1);
SELECT decrement_inventory(:one, true);
SELECT decrement_inventory(:one, '1'::text);
SELECT decrement_inventory(:one, 1::double precision);
SELECT decrement_inventory(:one, 1::money);
SELECT decrement_inventory(:one, ARRAY[1]);
SELECT decrement_inventory(:one);
SELECT decrement_inventory();
SELECT decrement_inventory(:one, 1, 1);
SELECT decrement_inventory(p_inventory_id => :one, quantity => 1);
SELECT attach_inventory('no_such_table');
SELECT attach_inventory('inventory', p_ledger => 'perhaps');
SELECT detach_inventory(true);
SET inventory_ext.error_style = 'html';
SET inventory_ext.row_lock = 'share';
SET inventory_ext.no_such_setting = 1;

-- whole numbers of every type are numeric enough
SELECT decrement_inventory(:one, 1::smallint) ->> 'new_quantity';
SELECT decrement_inventory(:one, 1::integer) ->> 'new_quantity';
SELECT decrement_inventory(:one, 1::bigint) ->> 'new_quantity';
SELECT decrement_inventory(:one, ' 1 ') ->> 'new_quantity';
SELECT decrement_inventory(:one, '1e0') ->> 'new_quantity';
SELECT decrement_inventory('{00000000000000000000000000000001}', 1) ->> 'new_quantity';

SELECT quantity FROM inventory;
SELECT detach_inventory();
DROP TABLE inventory, inventory_movement, inventory_request, inventory_stripe;

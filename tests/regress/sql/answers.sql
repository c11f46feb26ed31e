-- What a sale answers on each kind of quantity column: five keys, and every digit that the table holds.
\set ON_ERROR_STOP 1
\pset format unaligned
\pset tuples_only on
\set one '''00000000-0000-0000-0000-000000000001'''

CREATE TABLE s (id uuid PRIMARY KEY, quantity smallint);
INSERT INTO s VALUES (:one, 32767);
SELECT attach_inventory('s');
SELECT decrement_inventory(:one, 1);
SELECT decrement_inventory(:one, 32766);
SELECT detach_inventory();

CREATE TABLE i (id uuid PRIMARY KEY, quantity integer);
INSERT INTO i VALUES (:one, 2147483647);
SELECT attach_inventory('i');
SELECT decrement_inventory(:one, 1.0);
SELECT decrement_inventory(:one, 2147483646);
SELECT detach_inventory();

CREATE TABLE b (id uuid PRIMARY KEY, quantity bigint);
INSERT INTO b VALUES (:one, 9223372036854775807);
SELECT attach_inventory('b');
SELECT decrement_inventory(:one, 1);
SELECT decrement_inventory(:one, 9223372036854775806);
SELECT detach_inventory();

CREATE TABLE n (id uuid PRIMARY KEY, quantity numeric);
INSERT INTO n VALUES (:one, 1234567890123456.789012345678);
SELECT attach_inventory('n');
SELECT decrement_inventory(:one, 0.000000000001);
SELECT decrement_inventory(:one, 1234567890123456);
SELECT decrement_inventory(:one, 0.7890);
SELECT detach_inventory();

CREATE TABLE n12_2 (id uuid PRIMARY KEY, quantity numeric(12,2));
INSERT INTO n12_2 VALUES (:one, 11.52);
SELECT attach_inventory('n12_2');
SELECT decrement_inventory(:one, 1);
SELECT decrement_inventory(:one, 0.02);
SELECT decrement_inventory(:one, 0.5);
SELECT decrement_inventory(:one, 10.000);
SELECT detach_inventory();

-- named arguments, in any order
SELECT attach_inventory(p_table => 'n', p_quantity_column => 'quantity', p_id_column => 'id', p_run_as => 'caller');
UPDATE n SET quantity = 3;
SELECT decrement_inventory(p_quantity => 2, p_inventory_id => :one);
SELECT detach_inventory();

DROP TABLE s, i, b, n, n12_2;
DROP TABLE s_movement, i_movement, b_movement, n_movement, n12_2_movement;
DROP TABLE s_request, i_request, b_request, n_request, n12_2_request;

-- Bad calls on numeric quantity columns.
-- Each call fails with its SQLSTATE, MESSAGE, DETAIL and HINT, and leaves the stock alone; only 0.005 is sold where the
-- column keeps it. The extension's errors name no place in its source, so VERBOSITY verbose is stable.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\set one '''00000000-0000-0000-0000-000000000001'''
\set other '''00000000-0000-0000-0000-0000000000ff'''

-- numeric
CREATE TABLE n (id uuid PRIMARY KEY, quantity numeric);
INSERT INTO n VALUES (:one, 3);
SELECT attach_inventory('n') ->> 'table';
SELECT decrement_inventory(NULL, 1);
SELECT decrement_inventory(:one, NULL);
SELECT decrement_inventory(NULL, NULL);
SELECT decrement_inventory(:one, 0);
SELECT decrement_inventory(:one, 0.00);
SELECT decrement_inventory(:one, -1);
SELECT decrement_inventory(:one, -0.005);
SELECT decrement_inventory(:one, 'NaN');
SELECT decrement_inventory(:one, 'Infinity');
SELECT decrement_inventory(:one, '-Infinity');
SELECT decrement_inventory(:one, 0.005);
SELECT decrement_inventory(:one, 12345678901234567890123456789);
SELECT decrement_inventory(:one, 1.2345678901234567890123456789);
SELECT decrement_inventory(:one, 1e40);
SELECT decrement_inventory(:one, -1e40);
SELECT decrement_inventory(:one, 1e-40);
SELECT decrement_inventory(:one, 5);
SELECT decrement_inventory(:other, 1);
SELECT quantity FROM n;
SELECT detach_inventory();
DROP TABLE n, n_movement, n_request;

-- numeric(12,2)
CREATE TABLE n12_2 (id uuid PRIMARY KEY, quantity numeric(12,2));
INSERT INTO n12_2 VALUES (:one, 3);
SELECT attach_inventory('n12_2') ->> 'table';
SELECT decrement_inventory(NULL, 1);
SELECT decrement_inventory(:one, NULL);
SELECT decrement_inventory(NULL, NULL);
SELECT decrement_inventory(:one, 0);
SELECT decrement_inventory(:one, 0.00);
SELECT decrement_inventory(:one, -1);
SELECT decrement_inventory(:one, -0.005);
SELECT decrement_inventory(:one, 'NaN');
SELECT decrement_inventory(:one, 'Infinity');
SELECT decrement_inventory(:one, '-Infinity');
SELECT decrement_inventory(:one, 0.005);
SELECT decrement_inventory(:one, 12345678901234567890123456789);
SELECT decrement_inventory(:one, 1.2345678901234567890123456789);
SELECT decrement_inventory(:one, 1e40);
SELECT decrement_inventory(:one, -1e40);
SELECT decrement_inventory(:one, 1e-40);
SELECT decrement_inventory(:one, 10000000000);
SELECT decrement_inventory(:one, 9999999999.99);
SELECT decrement_inventory(:one, 99999999999.99);
SELECT decrement_inventory(:one, 5.00);
SELECT decrement_inventory(:other, 1);
SELECT quantity FROM n12_2;
SELECT detach_inventory();
DROP TABLE n12_2, n12_2_movement, n12_2_request;

-- Bad calls on smallint, integer and bigint quantity columns. Each call fails with its SQLSTATE, MESSAGE, DETAIL and
-- HINT, and leaves the stock alone. The extension's errors name no place in its source, so VERBOSITY verbose is
-- stable.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\set one '''00000000-0000-0000-0000-000000000001'''
\set other '''00000000-0000-0000-0000-0000000000ff'''

-- smallint
CREATE TABLE s (id uuid PRIMARY KEY, quantity smallint);
INSERT INTO s VALUES (:one, 3);
SELECT attach_inventory('s') ->> 'table';
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
SELECT decrement_inventory(:one, 0.5);
SELECT decrement_inventory(:one, 32768);
SELECT decrement_inventory(:one, 32767);
SELECT decrement_inventory(:one, 5);
SELECT decrement_inventory(:other, 1);
SELECT quantity FROM s;
SELECT detach_inventory();
DROP TABLE s, s_movement, s_request;

-- integer
CREATE TABLE i (id uuid PRIMARY KEY, quantity integer);
INSERT INTO i VALUES (:one, 3);
SELECT attach_inventory('i') ->> 'table';
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
SELECT decrement_inventory(:one, 1.01);
SELECT decrement_inventory(:one, 2147483648);
SELECT decrement_inventory(:one, 2147483647);
SELECT decrement_inventory(:one, 5);
SELECT decrement_inventory(:other, 1);
SELECT quantity FROM i;
SELECT detach_inventory();
DROP TABLE i, i_movement, i_request;

-- bigint
CREATE TABLE b (id uuid PRIMARY KEY, quantity bigint);
INSERT INTO b VALUES (:one, 3);
SELECT attach_inventory('b') ->> 'table';
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
SELECT decrement_inventory(:one, 1.01);
SELECT decrement_inventory(:one, 9223372036854775808);
SELECT decrement_inventory(:one, 9223372036854775807);
SELECT decrement_inventory(:one, 5);
SELECT decrement_inventory(:other, 1);
SELECT quantity FROM b;
SELECT detach_inventory();
DROP TABLE b, b_movement, b_request;

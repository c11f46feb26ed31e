-- Bad calls on numeric columns of unusual precision and scale.
-- Each call fails with its SQLSTATE, MESSAGE, DETAIL and HINT, and leaves the stock alone; only 0.005 is sold where the
-- column keeps it. The extension's errors name no place in its source, so VERBOSITY verbose is stable.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\set one '''00000000-0000-0000-0000-000000000001'''
\set other '''00000000-0000-0000-0000-0000000000ff'''

-- numeric(5,0)
CREATE TABLE n5_0 (id uuid PRIMARY KEY, quantity numeric(5,0));
INSERT INTO n5_0 VALUES (:one, 3);
SELECT attach_inventory('n5_0') ->> 'table';
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
SELECT decrement_inventory(:one, 100000);
SELECT decrement_inventory(:one, 99999);
SELECT decrement_inventory(:one, 5);
SELECT decrement_inventory(:other, 1);
SELECT quantity FROM n5_0;
SELECT detach_inventory();
DROP TABLE n5_0, n5_0_movement, n5_0_request;

-- numeric(6,3)
CREATE TABLE n6_3 (id uuid PRIMARY KEY, quantity numeric(6,3));
INSERT INTO n6_3 VALUES (:one, 3);
SELECT attach_inventory('n6_3') ->> 'table';
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
SELECT decrement_inventory(:one, 0.0005);
SELECT decrement_inventory(:one, 1000);
SELECT decrement_inventory(:one, 999.999);
SELECT decrement_inventory(:one, 5);
SELECT decrement_inventory(:other, 1);
SELECT quantity FROM n6_3;
SELECT detach_inventory();
DROP TABLE n6_3, n6_3_movement, n6_3_request;

-- numeric(4,-2)
CREATE TABLE n4_m2 (id uuid PRIMARY KEY, quantity numeric(4,-2));
INSERT INTO n4_m2 VALUES (:one, 300);
SELECT attach_inventory('n4_m2') ->> 'table';
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
SELECT decrement_inventory(:one, 50);
SELECT decrement_inventory(:one, 150);
SELECT decrement_inventory(:one, 1000000);
SELECT decrement_inventory(:one, 999900);
SELECT decrement_inventory(:one, 500);
SELECT decrement_inventory(:other, 100);
SELECT quantity FROM n4_m2;
SELECT detach_inventory();
DROP TABLE n4_m2, n4_m2_movement, n4_m2_request;

-- numeric(2,4)
CREATE TABLE n2_4 (id uuid PRIMARY KEY, quantity numeric(2,4));
INSERT INTO n2_4 VALUES (:one, 0.0030);
SELECT attach_inventory('n2_4') ->> 'table';
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
SELECT decrement_inventory(:one, 0.00005);
SELECT decrement_inventory(:one, 0.01);
SELECT decrement_inventory(:one, 0.0099);
SELECT decrement_inventory(:one, 1);
SELECT decrement_inventory(:one, 0.0050);
SELECT decrement_inventory(:other, 0.0001);
SELECT quantity FROM n2_4;
SELECT detach_inventory();
DROP TABLE n2_4, n2_4_movement, n2_4_request;

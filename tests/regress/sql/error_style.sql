-- The two error styles: the same facts in DETAIL, another SQLSTATE, and in the postgrest style a MESSAGE without any
-- value, because PostgREST makes the HTTP status line of it. Argument errors and 55000 are the same in both.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\set one '''00000000-0000-0000-0000-000000000001'''
\set other '''00000000-0000-0000-0000-0000000000ff'''

CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2));
INSERT INTO inventory VALUES (:one, 3);
CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.quantity := 2.99; RETURN NEW; END $$;
CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
SELECT attach_inventory('inventory') ->> 'table';

SET inventory_ext.error_style = 'sqlstate';
SELECT decrement_inventory(:one, 5);
SELECT decrement_inventory(:other, 1);
SELECT decrement_inventory(:one, 0.005);
SELECT decrement_inventory(:one, 'NaN');
SELECT decrement_inventory(:one, NULL);
CREATE TRIGGER t BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION spoil();
SELECT decrement_inventory(:one, 1);
DROP TRIGGER t ON inventory;
CREATE TRIGGER t BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION drop_it();
SELECT decrement_inventory(:one, 1);
DROP TRIGGER t ON inventory;

SET inventory_ext.error_style = 'postgrest';
SELECT decrement_inventory(:one, 5);
SELECT decrement_inventory(:other, 1);
SELECT decrement_inventory(:one, 0.005);
SELECT decrement_inventory(:one, 'NaN');
SELECT decrement_inventory(:one, NULL);
CREATE TRIGGER t BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION spoil();
SELECT decrement_inventory(:one, 1);
DROP TRIGGER t ON inventory;
CREATE TRIGGER t BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION drop_it();
SELECT decrement_inventory(:one, 1);
DROP TRIGGER t ON inventory;

SELECT quantity FROM inventory;
SELECT detach_inventory();
SELECT decrement_inventory(:one, 1);
SELECT detach_inventory();
RESET inventory_ext.error_style;
SELECT decrement_inventory(:one, 1);
SELECT decrement_inventory(NULL, 1);
SELECT decrement_inventory(:one, -1);

DROP TABLE inventory, inventory_movement, inventory_request, inventory_stripe;
DROP FUNCTION spoil, drop_it;

-- The trigger functions. PUBLIC keeps EXECUTE: the owner of a stock table creates the triggers, and so does a restored
-- dump. PostgreSQL rejects a direct call of a trigger function. In a trigger that attach_inventory did not create, they
-- raise an error.

CREATE FUNCTION @extschema@.inventory_movement_begin() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_movement_begin_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_movement_begin() IS
$comment$Opens a statement on the stock table.

A BEFORE STATEMENT trigger of the stock table and of its stripes.$comment$;

CREATE FUNCTION @extschema@.inventory_movement_record() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_movement_record_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_movement_record() IS
$comment$Buffers the change of one item's quantity.

An AFTER ROW trigger of the stock table and of its stripes.$comment$;

CREATE FUNCTION @extschema@.inventory_movement_flush() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_movement_flush_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_movement_flush() IS
$comment$Writes the buffered changes when the outermost statement ends.

An AFTER STATEMENT trigger of the stock table and of its stripes.$comment$;

CREATE FUNCTION @extschema@.inventory_movement_guard() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_movement_guard_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_movement_guard() IS
$comment$Rejects changes of a ledger other than by the triggers of its stock table.

A BEFORE STATEMENT trigger of the ledger.$comment$;

CREATE FUNCTION @extschema@.inventory_truncate_guard() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_truncate_guard_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_truncate_guard() IS
$comment$Rejects a TRUNCATE of the stock table.

A BEFORE STATEMENT trigger.$comment$;

CREATE FUNCTION @extschema@.inventory_request_guard() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_request_guard_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_request_guard() IS
$comment$Rejects direct writes to the idempotency keys.

A BEFORE STATEMENT trigger of their table.$comment$;

CREATE FUNCTION @extschema@.inventory_stripe_guard() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_stripe_guard_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_stripe_guard() IS
$comment$Rejects direct writes to stripes and to the quantity of a striped item.

A trigger of the stripes, and of a stock table without a ledger.$comment$;

-- Dropping a ledger or another companion of an attached table would silently lose history or stock.
CREATE FUNCTION @extschema@.inventory_drop_guard() RETURNS pg_catalog.event_trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_drop_guard_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_drop_guard() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_drop_guard() IS
$comment$Rejects a DROP of the companion tables of an attached stock table.

An event trigger.$comment$;

CREATE EVENT TRIGGER inventory_drop_guard ON sql_drop EXECUTE FUNCTION @extschema@.inventory_drop_guard();

COMMENT ON EVENT TRIGGER inventory_drop_guard IS
    'Rejects a DROP of the companion tables of an attached stock table. Call detach_inventory first.';

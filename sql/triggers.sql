-- The trigger functions. PUBLIC keeps EXECUTE: the owner of a stock table makes the triggers, a restored dump makes them again, and
-- PostgreSQL rejects a direct call of a trigger function. In any trigger that attach_inventory did not make they raise an error.

CREATE FUNCTION @extschema@.inventory_movement_begin() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_movement_begin_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_movement_begin() IS
$comment$Notes that a statement on the stock table begins; a BEFORE STATEMENT trigger of the stock table and of its stripes.$comment$;

CREATE FUNCTION @extschema@.inventory_movement_record() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_movement_record_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_movement_record() IS
$comment$Notes a change of one item's quantity; an AFTER ROW trigger of the stock table and of its stripes.$comment$;

CREATE FUNCTION @extschema@.inventory_movement_flush() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_movement_flush_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_movement_flush() IS
$comment$Writes the noted changes at the end of the outermost statement; an AFTER STATEMENT trigger of the stock table and of its stripes.$comment$;

CREATE FUNCTION @extschema@.inventory_movement_guard() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_movement_guard_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_movement_guard() IS
$comment$Refuses to change a ledger but by the triggers of its stock table; a BEFORE STATEMENT trigger of the ledger.$comment$;

CREATE FUNCTION @extschema@.inventory_truncate_guard() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_truncate_guard_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_truncate_guard() IS
$comment$Refuses TRUNCATE; a BEFORE STATEMENT trigger of the stock table.$comment$;

CREATE FUNCTION @extschema@.inventory_request_guard() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_request_guard_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_request_guard() IS
$comment$Refuses direct writes to the idempotency keys; a BEFORE STATEMENT trigger of their table.$comment$;

CREATE FUNCTION @extschema@.inventory_stripe_guard() RETURNS pg_catalog.trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_stripe_guard_wrapper';

COMMENT ON FUNCTION @extschema@.inventory_stripe_guard() IS
$comment$Refuses direct writes to stripes, and to what the stripes of an item hold; a trigger of the stripes, and of a stock table without a ledger.$comment$;

-- Dropping a ledger or what else belongs to an attached table would lose the history, or stock, without a word.
CREATE FUNCTION @extschema@.inventory_drop_guard() RETURNS pg_catalog.event_trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_drop_guard_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_drop_guard() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_drop_guard() IS
$comment$Refuses to drop the tables that belong to an attached stock table; an event trigger.$comment$;

CREATE EVENT TRIGGER inventory_drop_guard ON sql_drop EXECUTE FUNCTION @extschema@.inventory_drop_guard();

COMMENT ON EVENT TRIGGER inventory_drop_guard IS
    'Refuses to drop the tables that belong to an attached stock table; detach_inventory first.';

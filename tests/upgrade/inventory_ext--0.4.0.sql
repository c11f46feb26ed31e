-- The installation script of 0.4.0.

-- The stock tables: a row each, written only by attach_inventory, detach_inventory and stripe_inventory. The rows are
-- dumped with the database, so a restored shop continues to sell. The id and quantity columns are read from the CHECK
-- that attach added to the stock table: the CHECK names both, follows a rename, and is dumped with the table. A row
-- keeps the names of the schema, the table and the columns at the time of the attach. Another table that takes the name
-- later is rejected. The totals worker looks at the tables that have been striped.
CREATE TABLE @extschema@.inventory_attachment (
    stock_table pg_catalog.regclass PRIMARY KEY,
    stock_schema pg_catalog.name NOT NULL,
    stock_name pg_catalog.name NOT NULL,
    check_name pg_catalog.name NOT NULL,
    id_column pg_catalog.name NOT NULL,
    quantity_column pg_catalog.name NOT NULL,
    run_as pg_catalog.text NOT NULL
        CHECK (run_as OPERATOR(pg_catalog.=) 'owner' OR run_as OPERATOR(pg_catalog.=) 'caller'),
    movement_table pg_catalog.regclass,
    request_table pg_catalog.regclass NOT NULL,
    stripe_table pg_catalog.regclass NOT NULL,
    total_table pg_catalog.regclass NOT NULL,
    attached_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    striped boolean NOT NULL DEFAULT false
);

REVOKE ALL ON TABLE @extschema@.inventory_attachment FROM PUBLIC;

COMMENT ON TABLE @extschema@.inventory_attachment IS
    'The stock tables: a row each, written by attach_inventory, detach_inventory and stripe_inventory.';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.inventory_attachment', '');

-- Once several tables are attached, USAGE on the schema of a table is needed to sell from it: a tenant must not reach
-- the stock of another by removing its own table. So that counts until no table is attached. A row for each table, so
-- that the owners of two need not wait for each other.
CREATE TABLE @extschema@.inventory_sharing (
    stock_table pg_catalog.regclass PRIMARY KEY
);

REVOKE ALL ON TABLE @extschema@.inventory_sharing FROM PUBLIC;

COMMENT ON TABLE @extschema@.inventory_sharing IS
    'The stock tables that were attached, or detached, while others were attached; until none is.';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.inventory_sharing', '');

-- The argument that names an item: a text, for ids of any type. Implicit casts accept columns and arguments of these
-- types, and the input function accepts literals, and strings and numbers of JSON, without an overload.

CREATE TYPE @extschema@.inventory_key;

CREATE FUNCTION @extschema@.inventory_key_in(pg_catalog.cstring) RETURNS @extschema@.inventory_key
LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textin';

CREATE FUNCTION @extschema@.inventory_key_out(@extschema@.inventory_key) RETURNS pg_catalog.cstring
LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textout';

CREATE FUNCTION @extschema@.inventory_key_recv(pg_catalog.internal) RETURNS @extschema@.inventory_key
LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textrecv';

CREATE FUNCTION @extschema@.inventory_key_send(@extschema@.inventory_key) RETURNS pg_catalog.bytea
LANGUAGE internal STABLE STRICT PARALLEL SAFE AS 'textsend';

REVOKE ALL ON FUNCTION @extschema@.inventory_key_in(pg_catalog.cstring) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.inventory_key_out(@extschema@.inventory_key) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.inventory_key_recv(pg_catalog.internal) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.inventory_key_send(@extschema@.inventory_key) FROM PUBLIC;

CREATE TYPE @extschema@.inventory_key (
    INPUT = @extschema@.inventory_key_in,
    OUTPUT = @extschema@.inventory_key_out,
    RECEIVE = @extschema@.inventory_key_recv,
    SEND = @extschema@.inventory_key_send,
    INTERNALLENGTH = VARIABLE,
    STORAGE = extended
);

COMMENT ON TYPE @extschema@.inventory_key IS
    'The id of an item, of type uuid, bigint, integer, text or varchar, as an argument.';

CREATE CAST (pg_catalog.uuid AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.int8 AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.int4 AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.int2 AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.text AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
CREATE CAST (pg_catalog.varchar AS @extschema@.inventory_key) WITH INOUT AS IMPLICIT;
COMMENT ON FUNCTION @extschema@.inventory_key_in(pg_catalog.cstring) IS 'Reads an inventory_key.';
COMMENT ON FUNCTION @extschema@.inventory_key_out(@extschema@.inventory_key) IS 'Prints an inventory_key.';
COMMENT ON FUNCTION @extschema@.inventory_key_recv(pg_catalog.internal) IS 'Reads an inventory_key in binary format.';
COMMENT ON FUNCTION @extschema@.inventory_key_send(@extschema@.inventory_key) IS
    'Writes an inventory_key in binary format.';
COMMENT ON CAST (pg_catalog.uuid AS @extschema@.inventory_key) IS 'An id of type uuid as an argument.';
COMMENT ON CAST (pg_catalog.int8 AS @extschema@.inventory_key) IS 'An id of type bigint as an argument.';
COMMENT ON CAST (pg_catalog.int4 AS @extschema@.inventory_key) IS 'An id of type integer as an argument.';
COMMENT ON CAST (pg_catalog.int2 AS @extschema@.inventory_key) IS 'An id of type smallint as an argument.';
COMMENT ON CAST (pg_catalog.text AS @extschema@.inventory_key) IS 'An id of type text as an argument.';
COMMENT ON CAST (pg_catalog.varchar AS @extschema@.inventory_key) IS 'An id of type varchar as an argument.';

-- The public functions. Their names, arguments and defaults are the contract. The installing role grants EXECUTE.
-- A function whose arguments change gets another C function: the library may be newer than the catalog (api/outdated).

CREATE FUNCTION @extschema@.attach_inventory(
    p_table pg_catalog.regclass,
    p_id_column pg_catalog.name DEFAULT 'id',
    p_quantity_column pg_catalog.name DEFAULT 'quantity',
    p_ledger pg_catalog.bool DEFAULT true,
    p_run_as pg_catalog.text DEFAULT 'owner',
    p_companion_schema pg_catalog.name DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_table_wrapper';

REVOKE ALL ON FUNCTION @extschema@.attach_inventory(
    pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.bool, pg_catalog.text,
    pg_catalog.name) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.attach_inventory(
    pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.bool, pg_catalog.text, pg_catalog.name) IS
$comment$Makes an existing table a stock table.

Checks the table, makes the quantity column NOT NULL, and adds a CHECK that the quantity is not negative, NaN or
infinite. If a check fails, nothing changes. Creates the tables <table>_request for idempotency keys, <table>_stripe and
<table>_stripe_total for the stripes of hot items, and with p_ledger <table>_movement, with an opening movement for each
item. Creates the triggers that record every change of stock. Tables left by an earlier attach are reused; stripes left
in them are moved back into the rows of their items. The caller must own the table. If the table is attached already
with the same options, raises a NOTICE and changes nothing. Any number of tables can be attached; a call means the one
that inventory_ext.stock_table names, else the one whose schema comes first in search_path, else the only one.

p_table: an ordinary or partitioned table. p_id_column: a column of type uuid, bigint, integer, text or varchar, NOT
NULL, with a plain unique index of its own. p_quantity_column: a column of type numeric, smallint, integer or bigint.
p_ledger: whether to keep a ledger. p_run_as: owner, sales run with the rights of the table's owner; caller, the grants
of the caller and row-level security apply. p_companion_schema: the schema of the tables that are created, if it is not
that of the table; the owner of the table must have CREATE on it.

Returns {"success": true, "table", "id_column", "quantity_column", "ledger", "run_as", "items"}.

Errors: 22004 an argument is NULL; 22023 p_run_as has another value; 3F000 p_companion_schema does not exist; 42501 the
caller does not own the table; 42P01 the table does not exist; 42809 the table cannot hold stock, or belongs to an
attached one; 42602 the schema of the table is named $user; 42703 a column does not exist; 42804 a column has another
type; 42P22 the collation of the id is not deterministic; 42P07 and 42710 a relation or constraint with the name of a
new one exists, or belongs to another table; 55000 the table is attached with other options, the id is not unique, a
trigger may not run as the owner, a row differs from the stripes left of it, or stripes are left that may be those of
another table; 55006 called from code that another function runs; 25001 the transaction is REPEATABLE READ or
SERIALIZABLE; 22023 an id has more than 255 bytes; 23514 rows have a quantity that is not allowed.$comment$;

CREATE FUNCTION @extschema@.detach_inventory(
    p_table pg_catalog.regclass DEFAULT NULL
) RETURNS pg_catalog.void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_table_wrapper';

REVOKE ALL ON FUNCTION @extschema@.detach_inventory(pg_catalog.regclass) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.detach_inventory(pg_catalog.regclass) IS
$comment$Stops managing a stock table.

The table stays as it is, with its NOT NULL and its CHECK. The ledger and the idempotency keys stay, too. Changes of
stock are no longer recorded, and striped items are merged. The caller must own the table; if the table was dropped,
EXECUTE is enough.

p_table: the table; NULL, the only one that is attached.

Errors: IV007 something on the table changed a merged quantity; 55000 the table is not attached, or p_table is NULL and
several are; 55006 called from code that another function runs; 25001 the transaction is REPEATABLE READ or
SERIALIZABLE; 42501 the caller does not own the table.$comment$;

CREATE FUNCTION @extschema@.decrement_inventory(
    p_inventory_id pg_catalog.uuid,
    p_quantity pg_catalog.numeric
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'decrement_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.decrement_inventory(pg_catalog.uuid, pg_catalog.numeric) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.decrement_inventory(pg_catalog.uuid, pg_catalog.numeric) IS
$comment$Deducts a quantity from the stock of an item, exactly and completely, or changes nothing.

Locks the row of the item until the transaction ends. Sales of the same item wait for each other; sales of other items
do not.

p_inventory_id: the item. p_quantity: the units to deduct, greater than zero, with at most 28 digits and no more
decimals than the quantity column keeps; nothing is rounded.

Returns {"success": true, "inventory_id", "old_quantity", "new_quantity", "deducted"}, and "stripe" for a striped item.
The function has verified old - new = deducted on the row as written.

Errors: IV001 insufficient stock; IV002 unknown item; IV003 the idempotency key was used before; IV007 something on the
table changed the deduction; 22004 an argument is NULL; 22023 the quantity is not finite or not positive; 22003 the
column cannot keep all digits; 55000 no stock table is attached, its ids are of another type than uuid, or several are
attached and none is chosen. In the postgrest style IV001 is PT409, IV002 PT404, IV003 PT422 and IV007 PT500.$comment$;

CREATE FUNCTION @extschema@.decrement_item(
    p_item @extschema@.inventory_key,
    p_quantity pg_catalog.numeric,
    p_reference pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'decrement_item_wrapper';

REVOKE ALL ON FUNCTION @extschema@.decrement_item(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.decrement_item(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) IS
$comment$Deducts a quantity from the stock of an item whose id has any type, exactly and completely, or changes nothing.

Locks as decrement_inventory does.

p_item: the item, by an id of the type that the table has. p_quantity: the units to deduct, greater than zero, with at
most 28 digits and no more decimals than the quantity column keeps. p_reference: the reference of the movement, at most
255 bytes. p_idempotency_key: identifies the call when it is retried, at most 255 bytes.

Returns the keys of decrement_inventory; "inventory_id" is a number for ids of type bigint or integer.

Errors: IV001 insufficient stock; IV002 unknown item; IV003 the idempotency key was used before; IV007 something on the
table changed the deduction; 22004 an argument is NULL; 22023 the quantity is not finite or not positive; 22003 the
column cannot keep all digits; 22P02 p_item is no id of the table;
55000 no stock table is attached.$comment$;

CREATE FUNCTION @extschema@.decrement_inventory_batch(
    p_items pg_catalog.jsonb,
    p_reference pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL,
    p_on_shortage pg_catalog.text DEFAULT 'abort'
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'decrement_inventory_batch_wrapper';

REVOKE ALL ON FUNCTION @extschema@.decrement_inventory_batch(
    pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.decrement_inventory_batch(
    pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.text) IS
$comment$Deducts a whole order, all of it or nothing.

p_items: an array of {"inventory_id": string or number, "quantity": number}, with one to inventory_ext.max_batch_lines
elements; a quantity may be a string that holds a number; lines on the same item are summed. p_reference: the reference
of the movements, at most 255 bytes. p_idempotency_key: identifies the order when it is retried, at most 255 bytes.
p_on_shortage: abort, a short line or an unknown item fails the order; skip, such lines are left out; partial, a short
line deducts the available quantity.

Returns {"success": true, "lines": [{"inventory_id", "old_quantity", "new_quantity", "deducted"}], "short": [{"reason",
"inventory_id", "available", "requested", "deducted"}]}, with items in the order in which they are first named, and
"stripe" in the line of a striped item.

Errors: IV001 short lines, and IV002 unknown items, both with all of them in DETAIL; IV003 the idempotency key was used
before; IV007 something on the table changed the deduction; 22004 an argument is NULL; 22023 p_items is malformed
(DETAIL has the element) or p_on_shortage has another value; 22003 the column cannot keep all digits; 54000 too many
lines; 55000 no stock table is attached.$comment$;

CREATE FUNCTION @extschema@.restock_inventory(
    p_inventory_id @extschema@.inventory_key,
    p_quantity pg_catalog.numeric,
    p_reference pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'restock_item_wrapper';

REVOKE ALL ON FUNCTION @extschema@.restock_inventory(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.restock_inventory(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) IS
$comment$Adds a quantity to the stock of an item, for a delivery or a return.

p_inventory_id: the item. p_quantity: the units to add, greater than zero, with at most 28 digits and no more decimals
than the quantity column keeps. p_reference: the reference of the movement, at most 255 bytes. p_idempotency_key:
identifies the call when it is retried, at most 255 bytes.

Returns {"success": true, "inventory_id", "old_quantity", "new_quantity", "added"}, and "stripe" for a striped item.

Errors: IV002 unknown item; IV003 the idempotency key was used before; IV007 something on the table changed the
addition; 22004 an argument is NULL; 22023 the quantity is not finite or not positive; 22003 the column cannot keep all
digits; 22P02 a key is no id of the table;
55000 no stock table is attached.$comment$;

CREATE FUNCTION @extschema@.adjust_inventory(
    p_inventory_id @extschema@.inventory_key,
    p_counted_quantity pg_catalog.numeric,
    p_expected_quantity pg_catalog.numeric DEFAULT NULL,
    p_reason pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL,
    p_counted_at pg_catalog.timestamptz DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'adjust_counted_item_wrapper';

REVOKE ALL ON FUNCTION @extschema@.adjust_inventory(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.numeric, pg_catalog.text, pg_catalog.text,
    pg_catalog.timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.adjust_inventory(
    @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.numeric, pg_catalog.text, pg_catalog.text,
    pg_catalog.timestamptz) IS
$comment$Sets the stock of an item to a counted quantity.

A count that equals the stock changes nothing and leaves no movement.

p_inventory_id: the item. p_counted_quantity: the counted quantity, zero or more, with at most 28 digits and no more
decimals than the quantity column keeps. p_expected_quantity: if given and not equal to the stock, nothing changes and
IV005 has the stock in DETAIL. p_reason: the reference of the movement, at most 255 bytes. p_idempotency_key: identifies
the call when it is retried, at most 255 bytes. p_counted_at: if given, the moment of the count: the difference to the
stock of that moment, which the ledger has, is added to the stock of now, so that sales can go on while goods are
counted; p_expected_quantity is then compared with the stock of that moment.

Returns {"success": true, "inventory_id", "old_quantity", "new_quantity", "adjusted"}, where adjusted is new - old. For
a striped item the quantities are the sums of all stripes.

Errors: IV002 unknown item; IV003 the idempotency key was used before; IV005 the stock differs from p_expected_quantity;
IV001 more was sold since p_counted_at than was counted; IV007 something on the table changed the adjustment; 22004 an
argument is NULL; 22023 the quantity is not finite or is negative, or p_counted_at is in the future, or before the item
was there; 22003 the column cannot keep all digits; 22P02 a key is no id of the table; 55000 no stock table is attached,
or p_counted_at is given and it has no ledger.$comment$;

CREATE FUNCTION @extschema@.transfer_inventory(
    p_from @extschema@.inventory_key,
    p_to @extschema@.inventory_key,
    p_quantity pg_catalog.numeric,
    p_reference pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'transfer_items_wrapper';

REVOKE ALL ON FUNCTION @extschema@.transfer_inventory(
    @extschema@.inventory_key, @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.text,
    pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.transfer_inventory(
    @extschema@.inventory_key, @extschema@.inventory_key, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) IS
$comment$Moves a quantity from one item to another, such as the same product at two locations.

p_from, p_to: two different items. p_quantity: the units to move, greater than zero, with at most 28 digits and no more
decimals than the quantity column keeps. p_reference: the reference of the movements, at most 255 bytes.
p_idempotency_key: identifies the call when it is retried, at most 255 bytes.

Returns {"success": true, "from": {"inventory_id", "old_quantity", "new_quantity"}, "to": {the same keys},
"transferred"}, and "stripe" on a side that is striped.

Errors: IV001 p_from has less; IV002 unknown item; IV003 the idempotency key was used before; IV007 something on the
table changed the transfer; 22004 an argument is NULL; 22023 the quantity is not finite or not positive, or both items
are the same; 22003 the column cannot keep all digits; 22P02 a key is no id of the table;
55000 no stock table is attached.$comment$;

CREATE FUNCTION @extschema@.purge_requests(
    p_older_than pg_catalog.interval
) RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'purge_requests_wrapper';

REVOKE ALL ON FUNCTION @extschema@.purge_requests(pg_catalog.interval) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.purge_requests(pg_catalog.interval) IS
$comment$Deletes idempotency keys that are older than an interval.

A deleted key is free: a retry of its request runs again.

p_older_than: zero or more, counted back from now.

Returns the number of deleted keys.

Errors: 22004 the argument is NULL; 22023 the interval is negative; 55000 no stock table is attached.$comment$;

CREATE FUNCTION @extschema@.stripe_inventory(
    p_inventory_id @extschema@.inventory_key,
    p_stripes pg_catalog.int4 DEFAULT 16
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'stripe_item_wrapper';

REVOKE ALL ON FUNCTION @extschema@.stripe_inventory(@extschema@.inventory_key, pg_catalog.int4) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.stripe_inventory(@extschema@.inventory_key, pg_catalog.int4) IS
$comment$Splits the stock of a hot item into stripes, so that many sessions can sell it at once.

A sale of a striped item takes one free stripe and does not wait while there is one. The row of the stock table shows
the total, which a background worker updates within a second; available_inventory is exact. Direct writes to the
quantity of the row are rejected. The call waits for all running sales, and new sales wait until its transaction ends.
An item that is already striped is split again, evenly.

p_inventory_id: the item. p_stripes: 2 to 256, about the number of sessions that sell the item at once.

Returns {"success": true, "inventory_id", "quantity", "stripes"}.

Errors: IV002 unknown item; IV007 something on the table changed the quantity; 22004 an argument is NULL; 22023 too few
or too many stripes; 22P02 a key is no id of the table; 25001 the table was attached after the snapshot of the
transaction; 55000 no stock table is attached; 55006 called from code that another function runs, or in a statement that
writes the stock table.$comment$;

CREATE FUNCTION @extschema@.unstripe_inventory(
    p_inventory_id @extschema@.inventory_key
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'unstripe_item_wrapper';

REVOKE ALL ON FUNCTION @extschema@.unstripe_inventory(@extschema@.inventory_key) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.unstripe_inventory(@extschema@.inventory_key) IS
$comment$Merges the stripes of an item back into its row of the stock table.

The call waits for all running sales, and new sales wait until its transaction ends. An item that is not striped stays
as it is.

p_inventory_id: the item.

Returns {"success": true, "inventory_id", "quantity"}.

Errors: IV002 unknown item; IV007 something on the table changed the quantity; 22004 the argument is NULL; 22P02 a key
is no id of the table; 55000 no stock table is attached; 55006 called from code that another function runs, or in a
statement that writes the stock table.$comment$;

CREATE FUNCTION @extschema@.available_inventory(
    p_inventory_id @extschema@.inventory_key
) RETURNS pg_catalog.numeric
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'available_item_wrapper';

REVOKE ALL ON FUNCTION @extschema@.available_inventory(@extschema@.inventory_key) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.available_inventory(@extschema@.inventory_key) IS
$comment$Returns the exact committed quantity of an item, striped or not.

Locks no row.

p_inventory_id: the item.

Errors: IV002 unknown item; 22004 the argument is NULL; 22P02 a key is no id of the table;
55000 no stock table is attached.$comment$;

CREATE FUNCTION @extschema@.audit_inventory(
    p_item @extschema@.inventory_key DEFAULT NULL,
    p_full pg_catalog.bool DEFAULT false
) RETURNS TABLE (
    kind pg_catalog.text,
    inventory_id pg_catalog.text,
    stripe pg_catalog.int2,
    expected pg_catalog.numeric,
    actual pg_catalog.numeric,
    difference pg_catalog.numeric,
    after_movement pg_catalog.int8,
    before_movement pg_catalog.int8,
    since pg_catalog.timestamptz,
    until pg_catalog.timestamptz,
    detail pg_catalog.json
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'audit_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.audit_inventory(@extschema@.inventory_key, pg_catalog.bool) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.audit_inventory(@extschema@.inventory_key, pg_catalog.bool) IS
$comment$Compares the stock with the ledger, and the ledger with itself; seals the movements that it has verified.

Everything is read in one snapshot. No row is locked, and no sale waits. A run that may write is kept in <stock>_audit,
and the next one continues where the chain of each item was verified last. Only a member of the role that owns the stock
table may audit.

p_item: an item; NULL, all items. p_full: reads the whole ledger again and compares it with what was sealed.

Returns a row for each discrepancy, also one that was found before. kind is on_hand_drift, the stock differs from the
last movement; broken_chain, a movement does not begin where the one before ended; stripe_drift, a stripe differs from
its last movement; missing_item, an item of the ledger has no row; unknown_item, a row has no movement; and with p_full
altered_movement, missing_movement, inserted_movement and altered_seal, against what was sealed. expected: the quantity
that the ledger says. actual: the quantity in the stock, or where the movement begins. difference: actual - expected.
after_movement, before_movement: the movements between which it arose; NULL, before the first, or after the last.
since, until: when they were written; until is now after the last. detail: kind, reference, actor and xact_id of the
movement before which it arose, and "movement", the movement that was altered, removed or inserted.

Errors: 22004 p_full is NULL; 22P02 p_item is no id of the table; 42501 the caller is no member of the owner; 42P07 a
relation has the name of a table of the audit; 55000 no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.inventory_digest() RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_digest_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_digest() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_digest() IS
$comment$Returns the newest seal, to be kept outside of the database.

Whoever has it can prove later that nothing that was sealed has been altered since, not even by the owner.

Returns {"stock_table", "seal", "sealed_at", "movements", "hash"}: the number of the seal, when it was made, how many
movements are sealed, and a SHA-256 in hexadecimal digits.

Errors: 42501 the caller is no member of the owner; 55000 nothing is sealed yet, no stock table is attached, or it has
no ledger.$comment$;

CREATE FUNCTION @extschema@.verify_inventory(
    p_digest pg_catalog.json
) RETURNS TABLE (
    kind pg_catalog.text,
    movement_id pg_catalog.int8,
    inventory_id pg_catalog.text,
    detail pg_catalog.json
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.verify_inventory(pg_catalog.json) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.verify_inventory(pg_catalog.json) IS
$comment$Compares the ledger with a digest: whether anything that was sealed has been altered since.

Reads the whole ledger and everything that was sealed up to the digest.

p_digest: what inventory_digest returned, at most 65536 bytes.

Returns a row for each movement that was altered_movement, missing_movement or inserted_movement since it was sealed;
altered_seal with movement_id NULL where a seal, or what it keeps of the item, was altered. No row: all is intact.

Errors: 22004 the argument is NULL; 22023 it is no digest, or too long; 42501 the caller is no member of the owner;
55000 no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.movement_proof(
    p_movement_id pg_catalog.int8
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'movement_proof_wrapper';

REVOKE ALL ON FUNCTION @extschema@.movement_proof(pg_catalog.int8) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.movement_proof(pg_catalog.int8) IS
$comment$Returns the proof that a movement is in the newest seal, which can be checked without the database.

p_movement_id: the movement.

Returns {"movement", "steps_in_segment", "segment", "steps_in_seal", "seal", "later_seals", "hash"}: the fields of the
movement, and what is hashed with them up to the hash of the newest digest.

Errors: 22004 the argument is NULL; 22023 there is no such movement; 42501 the caller is no member of the owner; 55000
the movement is not sealed, or is not what was sealed, no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.inventory_at(
    p_item @extschema@.inventory_key,
    p_at pg_catalog.timestamptz
) RETURNS pg_catalog.numeric
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_at_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_at(@extschema@.inventory_key, pg_catalog.timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_at(@extschema@.inventory_key, pg_catalog.timestamptz) IS
$comment$Returns the stock of an item at a moment, as the ledger has it.

A movement counts from the moment when it was written, which is a little before its commit. Reads the movements of the
item, with the rights with which available_inventory reads its stock.

p_item: the item. p_at: the moment.

Returns the quantity; NULL if the item was not there.

Errors: IV002 the ledger does not know the item; 22004 an argument is NULL; 22P02 a key is no id of the table; 55000 no
stock table is attached, it has no ledger, or the movements of that moment were archived and the archive is not
there.$comment$;

CREATE FUNCTION @extschema@.inventory_changes(
    p_after pg_catalog.json DEFAULT NULL,
    p_limit pg_catalog.int4 DEFAULT 1000
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_changes_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_changes(pg_catalog.json, pg_catalog.int4) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_changes(pg_catalog.json, pg_catalog.int4) IS
$comment$Returns the movements after a position, for a reader that follows the ledger.

No movement is left out because it is committed late, and none is returned twice: movements are returned when every
transaction that can have an earlier one has ended. The caller needs SELECT on the ledger.

p_after: "next" of the result before; NULL, from the first movement on. p_limit: the most movements, 1 to 10000.

Returns {"changes": [{"movement_id", "inventory_id", "stripe", "kind", "old_quantity", "new_quantity", "delta",
"reference", "idempotency_key", "actor", "xact_id", "occurred_at"}], "next"}, in the order of movement_id. Without a
change, call again later with the new "next".

Errors: 22004 p_limit is NULL; 22023 p_after is no position, or p_limit is out of range; 42501 the caller may not read
the ledger, or not all of it; 55000 no stock table is attached, it has no ledger, or the ledger was restored from a
backup that is older than the position.$comment$;

CREATE FUNCTION @extschema@.audit_sales(
    p_sales pg_catalog.regclass,
    p_reference_column pg_catalog.name,
    p_item_column pg_catalog.name,
    p_quantity_column pg_catalog.name,
    p_since pg_catalog.timestamptz DEFAULT NULL
) RETURNS TABLE (
    kind pg_catalog.text,
    reference pg_catalog.text,
    inventory_id pg_catalog.text,
    sold pg_catalog.numeric,
    deducted pg_catalog.numeric,
    movements pg_catalog.int8[]
)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'audit_sales_wrapper';

REVOKE ALL ON FUNCTION @extschema@.audit_sales(
    pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.audit_sales(
    pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.timestamptz) IS
$comment$Compares the ledger with the shop's own sales.

The quantities of all lines of a reference and an item are compared with what calls with that reference deducted of the
item. Lines without a reference or an item, and sales without a reference, are not compared. Only a member of the role
that owns the stock table may call it; the sales are read with the rights of the caller.

p_sales: the table or view of the sales. p_reference_column, p_item_column, p_quantity_column: its columns, of any types
that read as a reference, an id and a number. p_since: deductions that ended before are not returned.

Returns a row for each reference and item that differ. kind: not_deducted, nothing was deducted; not_sold, the sales do
not have what was deducted; deducted_twice, several transactions each deducted the quantity that was sold;
quantity_differs, another quantity was deducted. sold, deducted: the quantities. movements: the movements of the ledger.

Errors: 22004 an argument is NULL; 42703 the sales table has no such column; 42P01 there is no such table; 42501 the
caller is no member of the owner, or may not read the sales; 55000 no stock table is attached, or it has no
ledger.$comment$;

CREATE FUNCTION @extschema@.reconcile_inventory(
    p_item @extschema@.inventory_key,
    p_trust pg_catalog.text DEFAULT 'stock',
    p_apply pg_catalog.bool DEFAULT false,
    p_reason pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reconcile_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.reconcile_inventory(
    @extschema@.inventory_key, pg_catalog.text, pg_catalog.bool, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.reconcile_inventory(
    @extschema@.inventory_key, pg_catalog.text, pg_catalog.bool, pg_catalog.text) IS
$comment$Puts an item right that an audit has found wrong. History is never edited.

Shows what it would do; with p_apply it does it, under the lock of the item, if nothing has changed since the newest
audit of the item. Only a member of the role that owns the stock table may call it.

p_item: the item. p_trust: stock, the missing movement is recorded, of kind correction (opening or closing if the item
appeared or disappeared), so that the ledger says what the stock says; ledger, the row is written back to what the
ledger says, without a movement. A break between two movements is acknowledged: later audits do not report it. p_apply:
whether to do it. p_reason: the reference of the movement, at most 255 bytes.

Returns {"success": true, "inventory_id", "trust", "applied", "run", "steps": [{"step": record, write or acknowledge,
and its facts}]}; no step, nothing is wrong.

Errors: 0A000 p_trust is ledger, and there is no row to write, or the item is striped; 22004 an argument is NULL; 22023
p_trust has another value; 22P02 a key is no id of the table; 42501 the caller is no member of the owner; 55000 the item
was not audited, or has changed since, no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.archive_movements(
    p_before pg_catalog.timestamptz
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_movements_wrapper';

REVOKE ALL ON FUNCTION @extschema@.archive_movements(pg_catalog.timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.archive_movements(pg_catalog.timestamptz) IS
$comment$Moves closed history out of the ledger, while sales go on.

Audits first. Of each chain, the movements that were written before p_before and are sealed go to
<stock>_movement_archive; a movement of kind opening is left that has the number and the time of the last of them, and
the balance. Audits, inventory_at and verify_inventory go on; a full audit reads the archive, too, as long as it is
there. Only a member of the role that owns the stock table may archive.

p_before: a moment of the past.

Returns {"success": true, "archive", "movements", "chains", "run", "discrepancies"}: the table, how many movements of
how many chains went there, the run that is kept, and how many discrepancies the audit found; what is not verified
stays.

Errors: 22004 the argument is NULL; 22023 it is in the future; 42501 the caller is no member of the owner; 42P07 a
relation has the name of the archive; 55000 no stock table is attached, or it has no ledger.$comment$;

CREATE FUNCTION @extschema@.schedule_inventory_audit(
    p_schedule pg_catalog.text DEFAULT '0 3 * * *'
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'schedule_inventory_audit_wrapper';

REVOKE ALL ON FUNCTION @extschema@.schedule_inventory_audit(pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.schedule_inventory_audit(pg_catalog.text) IS
$comment$Registers a daily audit with pg_cron, or says what to do without it.

What the caller registered for the table before is replaced. The job runs as the caller, who must be a member of the
role that owns the stock table.

p_schedule: when it runs, as in a crontab, at most 255 bytes.

Returns {"success": true, "scheduled": true, "job", "name", "command"} if pg_cron is installed in this database, else
{"success": true, "scheduled": false, "command", "crontab", "hint"} with the line of a crontab.

Errors: 22004 the argument is NULL; 22023 it is too long, or it or a name has control characters; 42501 the caller is no
member of the owner, or may not use pg_cron; 55000 no stock table is attached. An invalid schedule is rejected by
pg_cron.$comment$;

CREATE FUNCTION @extschema@.inventory_audit_report(
    p_run pg_catalog.int8 DEFAULT NULL
) RETURNS pg_catalog.text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inventory_audit_report_wrapper';

REVOKE ALL ON FUNCTION @extschema@.inventory_audit_report(pg_catalog.int8) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.inventory_audit_report(pg_catalog.int8) IS
$comment$Returns a run of the audit as an HTML page that can be opened by itself.

The page says what was checked and what is wrong, with a chart of the stock of each wrong item and the break marked, for
at most 20 items, and the movements of each kind on each of the last 31 days. It needs nothing from elsewhere.

p_run: run_id in <stock>_audit; NULL, the newest run.

Errors: 22023 there is no such run; 42501 the caller is no member of the owner; 55000 no stock table is attached, or it
has no ledger.$comment$;

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

-- Default privileges of the installing role apply to the objects created above. This block revokes them. PUBLIC keeps
-- EXECUTE on the trigger functions and nothing else.
DO LANGUAGE plpgsql $rights$
DECLARE
    revocation pg_catalog.text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    FOR revocation IN
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s FROM %s CASCADE', object.name,
                   CASE WHEN acl.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                        ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(acl.grantee)) END)
          FROM (SELECT 'FUNCTION ' OPERATOR(pg_catalog.||) p.oid::pg_catalog.regprocedure::pg_catalog.text,
                       p.proacl, p.proowner,
                       p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.trigger'::pg_catalog.regtype::pg_catalog.oid
                  FROM pg_catalog.pg_proc AS p
                 WHERE p.pronamespace OPERATOR(pg_catalog.=)
                       '@extschema@'::pg_catalog.regnamespace::pg_catalog.oid
                   AND (p.probin OPERATOR(pg_catalog.=) 'MODULE_PATHNAME'
                        OR p.proname OPERATOR(pg_catalog.=) ANY ('{inventory_key_in, inventory_key_out,
                            inventory_key_recv, inventory_key_send}'::pg_catalog.name[]))
                UNION ALL
                SELECT 'TABLE ' OPERATOR(pg_catalog.||) c.oid::pg_catalog.regclass::pg_catalog.text,
                       c.relacl, c.relowner, false
                  FROM pg_catalog.pg_class AS c
                 WHERE c.oid OPERATOR(pg_catalog.=) ANY (ARRAY['@extschema@.inventory_attachment',
                       '@extschema@.inventory_sharing']::pg_catalog.regclass[]::pg_catalog.oid[])
               ) AS object (name, acl, owner, is_trigger)
         CROSS JOIN LATERAL pg_catalog.aclexplode(object.acl) AS acl
         WHERE acl.grantee OPERATOR(pg_catalog.<>) object.owner
           AND NOT (object.is_trigger AND acl.grantee OPERATOR(pg_catalog.=) 0)
    LOOP
        EXECUTE revocation;
    END LOOP;
    -- PUBLIC may have no EXECUTE by default.
    GRANT EXECUTE ON FUNCTION @extschema@.inventory_movement_begin(), @extschema@.inventory_movement_record(),
        @extschema@.inventory_movement_flush(), @extschema@.inventory_movement_guard(),
        @extschema@.inventory_truncate_guard(), @extschema@.inventory_request_guard(),
        @extschema@.inventory_stripe_guard() TO PUBLIC;
    -- The owner of the database can then dump it. PostgreSQL 14 and later have this role.
    GRANT SELECT ON TABLE @extschema@.inventory_attachment, @extschema@.inventory_sharing TO pg_database_owner;
END
$rights$;

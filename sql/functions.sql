-- The public functions: names, arguments and defaults are the contract. EXECUTE is granted by whoever installs this.

CREATE FUNCTION @extschema@.attach_inventory(
    p_table pg_catalog.regclass,
    p_id_column pg_catalog.name DEFAULT 'id',
    p_quantity_column pg_catalog.name DEFAULT 'quantity',
    p_ledger pg_catalog.bool DEFAULT true,
    p_run_as pg_catalog.text DEFAULT 'owner'
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.attach_inventory(pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.bool, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.attach_inventory(pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.bool, pg_catalog.text) IS
$comment$Makes an existing table the stock table.

Checks the table, makes the quantity column NOT NULL and adds a CHECK that it is neither negative nor NaN nor infinite;
nothing at all changes where a check fails. Creates the tables <table>_request for idempotency keys, <table>_stripe and
<table>_stripe_total for the stripes of hot items and, with p_ledger, <table>_movement with an opening movement for every
item, and the triggers that record every change of stock. Tables left by an earlier attach are reused; stripes left in
them go back into the rows of their items. Needs ownership of the table. p_table: an ordinary or partitioned table.
p_id_column: a uuid column, NOT NULL, with a plain unique index of its own. p_quantity_column: numeric, smallint, integer
or bigint. p_ledger: keep a ledger. p_run_as: owner, sales run with the rights of the table's owner; or caller, grants and
row-level security of the caller decide. Answers {"success": true, "table", "id_column", "quantity_column", "ledger",
"run_as", "items"}. The same table with the same options again: a NOTICE and no change. Errors: 22004 NULL, 22023 another
word in p_run_as, 42501 not the owner, 42P01 no such table, 42809 not a table that can hold stock, 42703 no such column, 42804 a column of
another type, 42P07 and 42710 another relation or constraint has the name of one to be made, 55000 another table is attached, the id is not
unique, a trigger must not run as the owner, or a row differs from the stripes left of it, 55006 called by code that
another function runs, 23514 rows that are no stock.$comment$;

CREATE FUNCTION @extschema@.detach_inventory() RETURNS pg_catalog.void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.detach_inventory() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.detach_inventory() IS
$comment$Stops managing the stock table.

The table stays as it is, with its NOT NULL and its CHECK, and so do the ledger and the idempotency keys; changes of
stock are no longer recorded. Needs ownership of the table; where the table was dropped, EXECUTE alone. Errors: 55000 no stock table attached, 42501 not the owner.$comment$;

CREATE FUNCTION @extschema@.decrement_inventory(
    p_inventory_id pg_catalog.uuid,
    p_quantity pg_catalog.numeric
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'decrement_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.decrement_inventory(pg_catalog.uuid, pg_catalog.numeric) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.decrement_inventory(pg_catalog.uuid, pg_catalog.numeric) IS
$comment$Deducts a quantity from an item's stock, exactly and at once, or changes nothing.

The row of the item is locked until the transaction ends; sales of the same item wait for each other, other items do
not. p_inventory_id: the item. p_quantity: units to deduct, greater than zero, at most 28 digits and no more decimals
than the quantity column keeps; nothing is rounded. Answers {"success": true, "inventory_id", "old_quantity",
"new_quantity", "deducted"}, of a striped item also "stripe", where old - new = deducted was verified on the row as written. Errors: IV001 insufficient
stock, IV002 unknown item, IV007 something on the table changed the deduction, 22004 NULL, 22023 not finite or not
positive, 22003 digits the column cannot keep, 55000 no stock table attached; in the postgrest style PT409, PT404 and
PT500 stand for IV001, IV002 and IV007.$comment$;

CREATE FUNCTION @extschema@.decrement_inventory_batch(
    p_items pg_catalog.jsonb,
    p_reference pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL,
    p_on_shortage pg_catalog.text DEFAULT 'abort'
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'decrement_inventory_batch_wrapper';

REVOKE ALL ON FUNCTION @extschema@.decrement_inventory_batch(pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.decrement_inventory_batch(pg_catalog.jsonb, pg_catalog.text, pg_catalog.text, pg_catalog.text) IS
$comment$Deducts a whole order, all of it or nothing.

p_items: an array of {"inventory_id": uuid, "quantity": number}, one to inventory_ext.max_batch_lines elements; a quantity
may be a text with a number in it; lines on one item are summed. p_reference: what the movements belong to, at most 255
bytes. p_idempotency_key: names the order for its retries, at most 255 bytes. p_on_shortage: abort, any short or unknown
line fails the order; skip, such lines are left out; partial, of a short line what is there is taken. Answers {"success":
true, "lines": [{"inventory_id", "old_quantity", "new_quantity", "deducted"}], "short": [{"reason", "inventory_id",
"available", "requested", "deducted"}]}, items in the order first named; the line of a striped item has also "stripe". Errors: IV001 short lines and IV002 unknown
items, all of them named in DETAIL, IV003 key used before, IV007 something on the table changed the deduction, 22004
NULL, 22023 malformed p_items (the element is named) or another word in p_on_shortage, 22003 digits the column cannot
keep, 54000 too many lines, 55000 no stock table attached.$comment$;

CREATE FUNCTION @extschema@.restock_inventory(
    p_inventory_id pg_catalog.uuid,
    p_quantity pg_catalog.numeric,
    p_reference pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'restock_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.restock_inventory(pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.restock_inventory(pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) IS
$comment$Adds a quantity to an item's stock: goods in, or a return.

p_inventory_id: the item. p_quantity: units to add, greater than zero, at most 28 digits and no more decimals than the
quantity column keeps. p_reference: what the movement belongs to, at most 255 bytes. p_idempotency_key: names the call
for its retries, at most 255 bytes. Answers {"success": true, "inventory_id", "old_quantity", "new_quantity", "added"}, of a striped item also "stripe".
Errors: IV002 unknown item, IV003 key used before, IV007 something on the table changed the addition, 22004 NULL,
22023 not finite or not positive, 22003 digits the column cannot keep, 55000 no stock table attached.$comment$;

CREATE FUNCTION @extschema@.adjust_inventory(
    p_inventory_id pg_catalog.uuid,
    p_counted_quantity pg_catalog.numeric,
    p_expected_quantity pg_catalog.numeric DEFAULT NULL,
    p_reason pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'adjust_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.adjust_inventory(pg_catalog.uuid, pg_catalog.numeric, pg_catalog.numeric, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.adjust_inventory(pg_catalog.uuid, pg_catalog.numeric, pg_catalog.numeric, pg_catalog.text) IS
$comment$Sets an item's stock to what was counted.

p_inventory_id: the item. p_counted_quantity: what is there, zero or more, at most 28 digits and no more decimals than
the quantity column keeps. p_expected_quantity: what the stock is believed to be; where given and not so, nothing changes
and IV005 says what it is. p_reason: kept as the movement's reference, at most 255 bytes. A count that finds what the
stock says changes nothing and leaves no movement. Answers {"success": true, "inventory_id", "old_quantity",
"new_quantity", "adjusted"}, adjusted being new - old; of a striped item the quantities are those of all stripes. Errors: IV002 unknown item, IV005 stale expected quantity, IV007
something on the table changed the adjustment, 22004 NULL, 22023 not finite or negative, 22003 digits the column
cannot keep, 55000 no stock table attached.$comment$;

CREATE FUNCTION @extschema@.transfer_inventory(
    p_from pg_catalog.uuid,
    p_to pg_catalog.uuid,
    p_quantity pg_catalog.numeric,
    p_reference pg_catalog.text DEFAULT NULL,
    p_idempotency_key pg_catalog.text DEFAULT NULL
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'transfer_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.transfer_inventory(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.transfer_inventory(pg_catalog.uuid, pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) IS
$comment$Moves a quantity from one item to another, such as the same product at two locations.

p_from, p_to: two items. p_quantity: units to move, greater than zero, at most 28 digits and no more decimals than the
quantity column keeps. p_reference: what the movements belong to, at most 255 bytes. p_idempotency_key: names the call
for its retries, at most 255 bytes. Answers {"success": true, "from": {"inventory_id", "old_quantity", "new_quantity"},
"to": {the same}, "transferred"}; a striped side has also "stripe". Errors: IV001 p_from has less, IV002 unknown item, IV003 key used before, IV007
something on the table changed the transfer, 22004 NULL, 22023 not finite, not positive or one item twice, 22003 digits
the column cannot keep, 55000 no stock table attached.$comment$;

CREATE FUNCTION @extschema@.purge_requests(
    p_older_than pg_catalog.interval
) RETURNS pg_catalog.int8
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'purge_requests_wrapper';

REVOKE ALL ON FUNCTION @extschema@.purge_requests(pg_catalog.interval) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.purge_requests(pg_catalog.interval) IS
$comment$Forgets idempotency keys that are older than an interval.

A forgotten key is free: a retry of its request would run again. p_older_than: zero or more, counted back from now.
Answers how many keys were forgotten. Errors: 22004 NULL, 22023 negative, 55000 no stock table attached.$comment$;

CREATE FUNCTION @extschema@.stripe_inventory(
    p_inventory_id pg_catalog.uuid,
    p_stripes pg_catalog.int4 DEFAULT 16
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'stripe_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.stripe_inventory(pg_catalog.uuid, pg_catalog.int4) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.stripe_inventory(pg_catalog.uuid, pg_catalog.int4) IS
$comment$Cuts the stock of a hot item into stripes, so that many sessions can sell it at once.

A sale of a striped item takes one free stripe and waits for nobody while there is one; the row of the stock table shows the
total, which a background worker brings up to date within a second, and available_inventory is exact. Direct writes to the
quantity of the row are refused. Waits for all running sales, and new ones wait until the transaction ends. An item that is
striped already is cut anew, evenly. p_inventory_id: the item. p_stripes: 2 to 256, about as many as sessions that sell it at
once. Answers {"success": true, "inventory_id", "quantity", "stripes"}. Errors: IV002 unknown item, 22004 NULL, 22023 too few
or too many stripes, 55000 no stock table attached.$comment$;

CREATE FUNCTION @extschema@.unstripe_inventory(
    p_inventory_id pg_catalog.uuid
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'unstripe_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.unstripe_inventory(pg_catalog.uuid) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.unstripe_inventory(pg_catalog.uuid) IS
$comment$Puts the stripes of an item together again: its row of the stock table holds the stock from then on.

Waits for all running sales, and new ones wait until the transaction ends. An item that is not striped stays as it is.
p_inventory_id: the item. Answers {"success": true, "inventory_id", "quantity"}. Errors: IV002 unknown item, 22004 NULL, 55000
no stock table attached.$comment$;

CREATE FUNCTION @extschema@.available_inventory(
    p_inventory_id pg_catalog.uuid
) RETURNS pg_catalog.numeric
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'available_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.available_inventory(pg_catalog.uuid) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.available_inventory(pg_catalog.uuid) IS
$comment$Answers what an item has, exactly, striped or not: what is committed when it is asked for.

p_inventory_id: the item. Locks no row. Errors: IV002 unknown item, 22004 NULL, 55000 no stock table attached.$comment$;

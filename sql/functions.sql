-- The public functions: names, arguments and defaults are the contract. EXECUTE is granted by whoever installs this.

CREATE FUNCTION @extschema@.attach_inventory(
    p_table pg_catalog.regclass,
    p_id_column pg_catalog.name DEFAULT 'id',
    p_quantity_column pg_catalog.name DEFAULT 'quantity',
    p_ledger pg_catalog.bool DEFAULT false,
    p_run_as pg_catalog.text DEFAULT 'owner'
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_inventory_wrapper';

CREATE FUNCTION @extschema@.detach_inventory() RETURNS pg_catalog.void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_inventory_wrapper';

CREATE FUNCTION @extschema@.decrement_inventory(
    p_inventory_id pg_catalog.uuid,
    p_quantity pg_catalog.numeric
) RETURNS pg_catalog.json
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'decrement_inventory_wrapper';

REVOKE ALL ON FUNCTION @extschema@.attach_inventory(
    pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.bool, pg_catalog.text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.detach_inventory() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.decrement_inventory(pg_catalog.uuid, pg_catalog.numeric) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.attach_inventory(
    pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.bool, pg_catalog.text) IS
$comment$Makes an existing table the stock table.

Checks the table, makes the quantity column NOT NULL and adds a CHECK that it is neither negative nor NaN nor infinite;
nothing else about the table changes, and nothing at all where a check fails. Needs ownership of the table. p_table: an
ordinary or partitioned table. p_id_column: a uuid column, NOT NULL, with a plain unique index of its own.
p_quantity_column: numeric, smallint, integer or bigint. p_ledger: must be false in this version. p_run_as: owner, sales run
with the rights of the table's owner; or caller, grants and row-level security of the caller decide. Answers
{"success": true, "table", "id_column", "quantity_column", "ledger", "run_as", "items"}. The same table with the same
options again: a NOTICE and no change. Errors: 22004 NULL, 22023 another word in p_run_as, 0A000 p_ledger, 42501 not the
owner, 42809 not a table that can hold stock, 42703 no such column, 42804 a column of another type, 55000 another table is
attached or the id is not unique, 23514 rows that are no stock.$comment$;

COMMENT ON FUNCTION @extschema@.detach_inventory() IS
$comment$Stops managing the stock table.

The table stays as it is, with its NOT NULL and its CHECK. Needs ownership of the table; where the table was dropped,
EXECUTE alone. Errors: 55000 no stock table attached, 42501 not the owner.$comment$;

COMMENT ON FUNCTION @extschema@.decrement_inventory(pg_catalog.uuid, pg_catalog.numeric) IS
$comment$Deducts a quantity from an item's stock, exactly and at once, or changes nothing.

The row of the item is locked until the transaction ends; sales of the same item wait for each other, other items do
not. p_inventory_id: the item. p_quantity: units to deduct, greater than zero, at most 28 digits and no more decimals
than the quantity column keeps; nothing is rounded. Answers {"success": true, "inventory_id", "old_quantity",
"new_quantity", "deducted"}, where old - new = deducted was verified on the row as written. Errors: IV001 insufficient
stock, IV002 unknown item, IV007 something on the table changed the deduction, 22004 NULL, 22023 not finite or not
positive, 22003 digits the column cannot keep, 55000 no stock table attached; in the postgrest style PT409, PT404 and
PT500 stand for IV001, IV002 and IV007.$comment$;

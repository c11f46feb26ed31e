-- Which table is the stock table. One row at most; written by attach_inventory and detach_inventory alone.
-- Dumped with the database, so that a restored shop goes on selling. Column numbers follow a renamed column; they count only
-- where stock_oid still is the table's oid, in a restored database the names do.
CREATE TABLE @extschema@.inventory_attachment (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    stock_table pg_catalog.regclass NOT NULL,
    stock_oid pg_catalog.oid NOT NULL,
    id_column pg_catalog.name NOT NULL,
    id_number pg_catalog.int2 NOT NULL,
    quantity_column pg_catalog.name NOT NULL,
    quantity_number pg_catalog.int2 NOT NULL,
    run_as pg_catalog.text NOT NULL CHECK (run_as OPERATOR(pg_catalog.=) 'owner' OR run_as OPERATOR(pg_catalog.=) 'caller'),
    attached_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

REVOKE ALL ON TABLE @extschema@.inventory_attachment FROM PUBLIC;

COMMENT ON TABLE @extschema@.inventory_attachment IS
    'Which table is the stock table: one row at most, written by attach_inventory and detach_inventory.';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.inventory_attachment', '');

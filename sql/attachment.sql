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

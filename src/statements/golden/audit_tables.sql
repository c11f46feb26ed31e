-- Written and compared by golden.rs.

-- audit_tables::create_tables, 1
CREATE TABLE shop.stock_audit (
    run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    is_full boolean NOT NULL,
    checked_movements bigint NOT NULL,
    checked_items bigint NOT NULL,
    discrepancies bigint NOT NULL,
    found json NOT NULL,
    inventory_id text,
    position bigint NOT NULL,
    oldest_transaction bigint NOT NULL,
    next_transaction bigint NOT NULL,
    actor text NOT NULL,
    acknowledged json,
    seal_number bigint UNIQUE,
    sealed bigint,
    sealed_at timestamptz,
    previous_seal bytea,
    root bytea,
    seal bytea);

-- audit_tables::create_tables, 2 (ordinary, uuids, numeric)
CREATE TABLE shop.stock_audit_chain (
    inventory_id uuid NOT NULL,
    stripe smallint NOT NULL,
    movement_id bigint NOT NULL,
    kind text NOT NULL,
    quantity text NOT NULL,
    occurred_at timestamptz,
    head bytea NOT NULL,
    broken boolean NOT NULL,
    PRIMARY KEY (inventory_id, stripe)) WITH (fillfactor = 70);

-- audit_tables::create_tables, 2 (partitioned, text ids, integer)
CREATE TABLE shop.stock_audit_chain (
    inventory_id text NOT NULL,
    stripe smallint NOT NULL,
    movement_id bigint NOT NULL,
    kind text NOT NULL,
    quantity text NOT NULL,
    occurred_at timestamptz,
    head bytea NOT NULL,
    broken boolean NOT NULL,
    PRIMARY KEY (inventory_id, stripe)) WITH (fillfactor = 70);

-- audit_tables::create_tables, 3 (ordinary, uuids, numeric)
CREATE TABLE shop.stock_audit_segment (
    seal_number bigint NOT NULL,
    place bigint NOT NULL,
    inventory_id uuid NOT NULL,
    stripe smallint NOT NULL,
    first_movement bigint NOT NULL,
    last_movement bigint NOT NULL,
    quantity text NOT NULL,
    previous bytea NOT NULL,
    root bytea NOT NULL,
    head bytea NOT NULL,
    movements bytea NOT NULL,
    PRIMARY KEY (inventory_id, stripe, last_movement, seal_number));

-- audit_tables::create_tables, 3 (partitioned, text ids, integer)
CREATE TABLE shop.stock_audit_segment (
    seal_number bigint NOT NULL,
    place bigint NOT NULL,
    inventory_id text NOT NULL,
    stripe smallint NOT NULL,
    first_movement bigint NOT NULL,
    last_movement bigint NOT NULL,
    quantity text NOT NULL,
    previous bytea NOT NULL,
    root bytea NOT NULL,
    head bytea NOT NULL,
    movements bytea NOT NULL,
    PRIMARY KEY (inventory_id, stripe, last_movement, seal_number));

-- audit_tables::keep_uncompressed
ALTER TABLE shop.stock_audit_segment ALTER COLUMN movements SET STORAGE EXTERNAL;

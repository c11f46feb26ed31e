//! The statements that create the tables of the audit.

use crate::core::item_id::IdType;
use crate::pg::spi::Sql;
use crate::statements::audit::AuditNames;

/// Creates the tables of the audit.
pub fn create_tables(audit: &AuditNames, id_type: IdType) -> [Sql; 3] {
    let id = id_type.name();
    let runs = format!(
        "CREATE TABLE {} (
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
    seal bytea)",
        audit.runs
    );
    let chains = format!(
        "CREATE TABLE {} (
    inventory_id {id} NOT NULL,
    stripe smallint NOT NULL,
    movement_id bigint NOT NULL,
    kind text NOT NULL,
    quantity text NOT NULL,
    occurred_at timestamptz,
    head bytea NOT NULL,
    broken boolean NOT NULL,
    PRIMARY KEY (inventory_id, stripe)) WITH (fillfactor = 70)",
        audit.chains
    );
    let segments = format!(
        "CREATE TABLE {} (
    seal_number bigint NOT NULL,
    place bigint NOT NULL,
    inventory_id {id} NOT NULL,
    stripe smallint NOT NULL,
    first_movement bigint NOT NULL,
    last_movement bigint NOT NULL,
    quantity text NOT NULL,
    previous bytea NOT NULL,
    root bytea NOT NULL,
    head bytea NOT NULL,
    movements bytea NOT NULL,
    PRIMARY KEY (inventory_id, stripe, last_movement, seal_number))",
        audit.segments
    );
    [runs, chains, segments].map(|text| Sql::new(text, &[]))
}

/// Hashes are kept as they are: PostgreSQL would try to compress them, which takes a fifth of the time of a sealing.
pub fn keep_uncompressed(audit: &AuditNames) -> Sql {
    Sql::new(format!("ALTER TABLE {} ALTER COLUMN movements SET STORAGE EXTERNAL", audit.segments), &[])
}

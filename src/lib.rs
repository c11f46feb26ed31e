//! inventory_ext: stock, decided inside PostgreSQL. This file is the contents page.

pub mod answer;
pub mod attach;
pub mod attached_error;
pub mod attachment;
pub mod batch;
pub mod call;
pub mod catalog;
pub mod companions;
pub mod configuration;
pub mod context;
pub mod cursors;
pub mod decrement;
pub mod drop_guard;
pub mod encoding;
pub mod error;
pub mod failpoint;
pub mod health;
pub mod holding;
pub mod idempotency;
pub mod identity;
pub mod items;
pub mod jsonb;
pub mod ledger;
pub mod leftover;
pub mod opening;
pub mod permit;
pub mod quantity;
pub mod relation;
pub mod report;
pub mod session_key;
pub mod settings;
pub mod spi;
pub mod stock;
pub mod stripe_lock;
pub mod stripes;
pub mod totals;
pub mod trigger;
pub mod triggers;
pub mod utility;
pub mod watch;

#[cfg(feature = "pg_test")]
mod server_tests;

pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/attachment.sql", name = "attachment");
pgrx::extension_sql_file!("../sql/functions.sql", name = "functions", requires = ["attachment"]);
pgrx::extension_sql_file!("../sql/triggers.sql", name = "triggers", requires = ["functions"]);
pgrx::extension_sql_file!("../sql/rights.sql", name = "rights", requires = ["triggers"]);

/// Called by PostgreSQL once a backend, when the library is loaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    watch::define();
    ledger::watch_transactions();
    utility::watch_commands();
}

/// Where `cargo pgrx test` looks for what its server needs.
#[cfg(test)]
pub mod pg_test {
    /// Nothing to prepare.
    pub fn setup(_options: Vec<&str>) {}

    /// No settings of its own.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        Vec::new()
    }
}

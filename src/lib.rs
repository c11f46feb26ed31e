//! inventory_ext: stock, decided inside PostgreSQL. This file is the contents page.

pub mod answer;
pub mod attach;
pub mod attachment;
pub mod batch;
pub mod call;
pub mod catalog;
pub mod companions;
pub mod context;
pub mod decrement;
pub mod encoding;
pub mod error;
pub mod failpoint;
pub mod holding;
pub mod idempotency;
pub mod identity;
pub mod items;
pub mod ledger;
pub mod quantity;
pub mod settings;
pub mod spi;
pub mod stock;
pub mod stripe_guard;
pub mod stripe_lock;
pub mod stripes;
pub mod totals;
pub mod trigger;

#[cfg(feature = "pg_test")]
mod server_tests;

pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/attachment.sql", name = "attachment");
pgrx::extension_sql_file!("../sql/functions.sql", name = "functions", requires = ["attachment"]);
pgrx::extension_sql_file!("../sql/triggers.sql", name = "triggers", requires = ["functions"]);

/// Called by PostgreSQL once a backend, when the library is loaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    attachment::watch_catalog();
    ledger::watch_transactions();
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

//! inventory_ext: stock, decided inside PostgreSQL.
//!
//! The layers, each of which imports only from those before it, and the functions that the entry points in `pg` call.
//! docs/internals.md draws them.

pub mod advice;
pub mod api;
pub mod attach;
pub mod audit;
pub mod core;
pub mod ledger;
pub mod pg;
pub mod statements;
pub mod stats;
pub mod stock;
pub mod stripes;
pub mod table;

#[cfg(feature = "pg_test")]
mod server_tests;

pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/attachment.sql", name = "attachment");
pgrx::extension_sql_file!("../sql/key.sql", name = "key", requires = ["attachment"]);
pgrx::extension_sql_file!("../sql/functions.sql", name = "functions", requires = ["key"]);
pgrx::extension_sql_file!("../sql/triggers.sql", name = "triggers", requires = ["functions"]);
pgrx::extension_sql_file!("../sql/rights.sql", name = "rights", requires = ["triggers"]);
pgrx::extension_sql_file!("../sql/statistics.sql", name = "statistics", requires = ["rights"]);

/// Called by PostgreSQL once a backend, when the library is loaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::settings::define();
    stats::register();
    pg::report::register();
    pg::invalidation::register();
    pg::utility::register();
    pg::trigger::register(api::triggers::handlers());
    pg::transaction::register(ledger::buffer::at_end());
    pg::worker::register(stripes::work::work());
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

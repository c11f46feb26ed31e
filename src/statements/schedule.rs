//! The statements that register the daily audit.

use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// The statement that the job runs: an audit of this table, in one statement.
pub fn command(extension_schema: &str, stock: &str) -> String {
    let stock = stock.replace('\'', "''");
    let chosen = format!("pg_catalog.set_config('inventory_ext.stock_table', '{stock}', true)");
    format!("SELECT pg_catalog.count(*) FROM {extension_schema}.audit_inventory(p_full => {chosen} IS NULL)")
}

/// The database.
pub fn database() -> Sql {
    Sql::new("SELECT pg_catalog.current_database()::pg_catalog.text AS database", &[])
}

/// Returns a row where pg_cron is installed.
pub fn has_cron() -> Sql {
    let text = "SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname OPERATOR(pg_catalog.=) 'pg_cron'";
    Sql::new(text, &[])
}

/// Registers a job.
pub fn register() -> Sql {
    let text = "SELECT cron.schedule($1, $2, $3)::pg_catalog.int8 AS job";
    Sql::new(text, &[SqlType::Text, SqlType::Text, SqlType::Text])
}

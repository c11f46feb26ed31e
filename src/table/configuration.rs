//! The configuration row: which table is the stock table, and which tables belong to it.
//!
//! Read with the latest snapshot, as the owner of the configuration table. The row is what attach wrote, or what a restored dump
//! or a subscription brought along; whether it still is an attachment is decided in health.rs.

use crate::core::error::{Fault, Outcome};
use crate::pg::role::act_as;
use crate::pg::spi::{Arg, Connection, Sight};
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// The search_path of statements on the extension's own tables.
pub const CATALOG_PATH: &CStr = c"pg_catalog, pg_temp";

/// The extension's configuration table.
#[derive(Clone, PartialEq)]
pub struct Configuration {
    /// Its oid.
    pub oid: Oid,
    /// Its owner, as whom it is read and written.
    pub owner: Oid,
    /// Schema and name, quoted.
    pub relation: String,
    /// The schema of the extension, quoted.
    pub schema: String,
}

/// The configuration row.
#[derive(Clone, PartialEq)]
pub struct Configured {
    /// The oid the row names; the table may be gone.
    pub table: Oid,
    /// The schema and the name that the table had when it was attached.
    pub attached_as: [String; 2],
    /// As attached, for comparison with a second attach.
    pub run_as: String,
    /// The CHECK that names both columns.
    pub check_name: String,
    /// The id column, as it was called then.
    pub id_column: String,
    /// The quantity column, as it was called then.
    pub quantity_column: String,
    /// The ledger, where there is one.
    pub movement_table: Option<Oid>,
    /// The idempotency keys.
    pub request_table: Oid,
    /// The stripes.
    pub stripe_table: Oid,
    /// The totals last written to the rows of striped items.
    pub total_table: Oid,
    /// A subscription writes to the table, a partition of it or a companion.
    pub subscribed: bool,
}

impl Configured {
    /// The tables that belong to the stock table.
    pub fn companions(&self) -> Vec<Oid> {
        let always = [self.request_table, self.stripe_table, self.total_table];
        always.into_iter().chain(self.movement_table).collect()
    }
}

/// The relations that subscriptions of this database write to. A database made from a template may have entries of another.
const SUBSCRIBED: &str = "\
SELECT FROM pg_catalog.pg_subscription_rel AS r
  JOIN pg_catalog.pg_subscription AS s ON s.oid OPERATOR(pg_catalog.=) r.srsubid
  JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.subdbid
 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";

/// Whether a subscription writes to one of these tables.
pub fn is_subscribed(spi: &Connection, configuration: &Configuration, tables: Vec<Oid>) -> bool {
    let _acting = act_as(configuration.owner, CATALOG_PATH);
    let sql = format!("{SUBSCRIBED} AND r.srrelid OPERATOR(pg_catalog.=) ANY ($1) LIMIT 1");
    spi.once(&sql, &[pg_sys::OIDARRAYOID], &[Arg::owned(tables)]).count() > 0
}

/// Finds the configuration table of the installed extension.
pub fn configuration(spi: &Connection) -> Outcome<Configuration> {
    let plan = spi.prepare(CONFIGURATION, &[]);
    let rows = spi.run(&plan, &[], Sight::Latest);
    match (rows.get(0, 1), rows.get(0, 2), rows.text(0, 3), rows.text(0, 4)) {
        (Some(oid), Some(owner), Some(relation), Some(schema)) => Ok(Configuration { oid, owner, relation, schema }),
        _ => Err(Fault::not_attached()),
    }
}

const CONFIGURATION: &str = "\
SELECT c.oid, c.relowner, pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(n.nspname)
  FROM pg_catalog.pg_extension AS e
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
  JOIN pg_catalog.pg_class AS c
    ON c.relnamespace OPERATOR(pg_catalog.=) n.oid AND c.relname OPERATOR(pg_catalog.=) 'inventory_attachment'
 WHERE e.extname OPERATOR(pg_catalog.=) 'inventory_ext'";

/// Reads the configuration row as the owner of its table.
pub fn configured(spi: &Connection, configuration: &Configuration) -> Outcome<Option<Configured>> {
    let _acting = act_as(configuration.owner, CATALOG_PATH);
    let sql = format!(
        "SELECT a.stock_table::pg_catalog.oid, a.stock_schema::pg_catalog.text, a.stock_name::pg_catalog.text, a.run_as,
                a.check_name::pg_catalog.text, a.id_column::pg_catalog.text, a.quantity_column::pg_catalog.text,
                a.movement_table::pg_catalog.oid, a.request_table::pg_catalog.oid, a.stripe_table::pg_catalog.oid,
                a.total_table::pg_catalog.oid,
                EXISTS ({SUBSCRIBED} AND (
                    r.srrelid OPERATOR(pg_catalog.=) ANY (ARRAY[a.stock_table, a.movement_table, a.request_table,
                                                                a.stripe_table, a.total_table]::pg_catalog.oid[])
                    OR r.srrelid OPERATOR(pg_catalog.=) ANY (
                        SELECT tree.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(a.stock_table) AS tree)))
           FROM {} AS a",
        configuration.relation
    );
    let plan = spi.prepare(&sql, &[]);
    let rows = spi.run(&plan, &[], Sight::Latest);
    let Some(table) = rows.get(0, 1) else {
        return Ok(None);
    };
    let row = || {
        Some(Configured {
            table,
            attached_as: [rows.text(0, 2)?, rows.text(0, 3)?],
            run_as: rows.text(0, 4)?,
            check_name: rows.text(0, 5)?,
            id_column: rows.text(0, 6)?,
            quantity_column: rows.text(0, 7)?,
            movement_table: rows.get(0, 8),
            request_table: rows.get(0, 9)?,
            stripe_table: rows.get(0, 10)?,
            total_table: rows.get(0, 11)?,
            subscribed: rows.get(0, 12)?,
        })
    };
    row().map(Some).ok_or_else(|| Fault::internal("the configuration row has a null"))
}

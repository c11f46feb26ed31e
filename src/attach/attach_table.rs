//! Makes a table the stock table.
//!
//! Lock order: the configuration table, then companions left by an earlier attach, then the stock table, all until the
//! transaction ends; so attaches run one after the other and wait for running sales. Statements on the stock table run
//! as its owner, statements on the configuration as the owner of the extension.

use crate::attach::checks::{require_suitable, unsuitable_kind};
use crate::attach::companions;
use crate::attach::constraint::{check_rows, constrain, count_items};
use crate::attach::install;
use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::invalidation;
use crate::pg::lock::{TableLock, lock_alone};
use crate::pg::relation::{self, Facts};
use crate::pg::report;
use crate::pg::role::{act_as, act_as_unfiltered};
use crate::pg::spi::Connection;
use crate::pg::transaction::require_writable;
use crate::statements::attach as statements;
use crate::stock::call::require_no_other;
use crate::table::cache::describe_configured;
use crate::table::catalog::{self, ColumnDescription, Columns, Description, RelationKind};
use crate::table::configuration::{
    CATALOG_PATH, CompanionOids, Configuration, Configured, configuration, configured, is_subscribed,
};
use crate::table::cursors;
use crate::table::health;
use serde_json::json;

/// The arguments of attach_inventory.
pub struct Options {
    /// The table.
    pub table: Oid,
    /// Its id column.
    pub id_column: String,
    /// Its quantity column.
    pub quantity_column: String,
    /// Keep a ledger.
    pub ledger: bool,
    /// owner or caller.
    pub run_as: String,
}

impl Options {
    /// Checks the word in p_run_as.
    pub fn checked(self) -> Result<Self> {
        let allowed = ["owner", "caller"];
        if allowed.contains(&self.run_as.as_str()) {
            return Ok(self);
        }
        Err(Error::unknown_word("p_run_as", &self.run_as, &allowed, "Pass owner or caller."))
    }

    fn describe(&self, spi: &Connection) -> Result<Description> {
        let columns = Columns::Named(&self.id_column, &self.quantity_column);
        catalog::describe(spi, self.table, columns)?.ok_or_else(|| {
            Error::unsuitable(
                "42P01",
                "there is no such table",
                "no_table",
                json!({"oid": self.table.to_u32()}),
                "Pass the name of an existing table.",
            )
        })
    }
}

/// Attaches a table, and returns the result as JSON. The same table with the same options again is a NOTICE.
pub fn attach(spi: &Connection, options: &Options) -> Result<String> {
    require_writable(c"attach_inventory()");
    require_no_other("attach_inventory")?;
    require_ownership(&options.describe(spi)?)?;
    let configuration = configuration(spi)?;
    lock_configuration(spi, &configuration);
    if let Some(configured) = configured(spi, &configuration)? {
        return already(spi, options, &configured);
    }
    let (table, companions) = lock_table(spi, options)?;
    cursors::leaving_none(table.owner, || attach_locked(spi, options, &configuration, (&table, &companions)))
}

fn attach_locked(
    spi: &Connection,
    options: &Options,
    configuration: &Configuration,
    (table, companions): (&Description, &[Oid]),
) -> Result<String> {
    require_suitable(table, [&options.id_column, &options.quantity_column])?;
    // Rows are written to them as the owner, even if later sales run with the rights of the caller.
    let facts: Vec<Facts> = companions.iter().copied().filter_map(relation::facts).collect();
    if let Some(objection) = health::objection(&facts, table.owner) {
        return Err(objection);
    }
    if is_subscribed(spi, configuration, relation::with_partitions(table.oid)) {
        return Err(Error::subscriber(&table.name));
    }
    let objection = health::objection(&health::stock_facts(table.oid), table.owner);
    if let Some(objection) = objection.clone().filter(|_| options.run_as == "owner") {
        return Err(objection);
    }
    if companions::have_stripes(spi, table)? {
        health::require_writable_by_caller(objection, table.owner)?;
    }
    let (items, check_name) = {
        let _acting = act_as_unfiltered(table.owner, CATALOG_PATH);
        (check_rows(spi, table)?, constrain(spi, table)?)
    };
    let companions = install::make(spi, configuration, table, options.ledger)?;
    record(spi, configuration, (options, table), &check_name, &companions);
    invalidation::announce_change(configuration.oid);
    warn(table);
    Ok(result(table, options, items))
}

fn result(table: &Description, options: &Options, items: i64) -> String {
    let Options { id_column, quantity_column, ledger, run_as, .. } = options;
    spaced(&json!({
        "success": true, "table": table.name, "id_column": id_column, "quantity_column": quantity_column,
        "ledger": ledger, "run_as": run_as, "items": items,
    }))
}

/// Refuses a caller who has not the rights of the owner.
pub fn require_ownership(table: &Description) -> Result<()> {
    if table.owned { Ok(()) } else { Err(Error::not_owner(&table.name)) }
}

/// Locks the configuration until the transaction ends.
pub fn lock_configuration(spi: &Connection, configuration: &Configuration) {
    let _acting = act_as(configuration.owner, CATALOG_PATH);
    spi.once(&statements::lock_configuration(&configuration.relation), &[]);
}

/// Locks the table, and the companions that an earlier attach left, as ALTER TABLE will, and describes the
/// table as it can no longer change.
///
/// The stock table comes last: a session that has read the ledger and then sells must not wait for an attach that waits
/// for the ledger.
fn lock_table(spi: &Connection, options: &Options) -> Result<(Description, Vec<Oid>)> {
    let seen = options.describe(spi)?;
    require_ownership(&seen)?;
    if seen.kind == RelationKind::Other {
        return Err(unsuitable_kind(&seen));
    }
    let companions = companions::left(spi, &seen);
    let tables: Vec<Oid> = companions.iter().copied().chain([seen.oid]).collect();
    lock_alone(&tables, TableLock::AccessExclusive);
    let locked = options.describe(spi)?;
    require_ownership(&locked)?;
    Ok((locked, companions))
}

/// A second attach: the same is a notice, anything else an error.
fn already(spi: &Connection, options: &Options, configured: &Configured) -> Result<String> {
    let attached = describe_configured(spi, configured)?;
    let wanted = options.describe(spi)?;
    let number = |column: &Option<ColumnDescription>| column.as_ref().map(|column| column.number);
    let same = attached.oid == wanted.oid
        && number(&attached.id) == number(&wanted.id)
        && number(&attached.quantity) == number(&wanted.quantity)
        && configured.companions.movements.is_some() == options.ledger
        && configured.run_as == options.run_as;
    if !same {
        return Err(Error::already_attached(&attached.name));
    }
    report::notice(&format!("{} is attached already", attached.name));
    let _acting = act_as_unfiltered(attached.owner, CATALOG_PATH);
    Ok(result(&attached, options, count_items(spi, &attached)?))
}

fn record(
    spi: &Connection,
    configuration: &Configuration,
    (options, table): (&Options, &Description),
    check_name: &str,
    companions: &CompanionOids,
) {
    let _acting = act_as(configuration.owner, CATALOG_PATH);
    let args = [
        Arg::owned(table.oid),
        Arg::text(check_name),
        Arg::text(options.id_column.as_str()),
        Arg::text(options.quantity_column.as_str()),
        Arg::text(options.run_as.as_str()),
        Arg::owned(companions.movements),
        Arg::owned(companions.requests),
        Arg::owned(companions.stripes),
        Arg::owned(companions.totals),
    ];
    spi.once(&statements::insert_configuration(&configuration.relation), &args);
}

fn warn(table: &Description) {
    if table.quantity_indexed {
        report::warning(
            "an index on the stock table holds the quantity column",
            "Every sale must write to that index; without it updates can be HOT and are faster.",
        );
    }
    if table.unlogged {
        report::warning(
            "the stock table is unlogged",
            "A crash of the server empties it; ALTER TABLE with SET LOGGED keeps the stock.",
        );
    }
}

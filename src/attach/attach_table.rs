//! Makes a table the stock table.
//!
//! Lock order: companions left by an earlier attach, then the stock table, both until the transaction ends; so attaches
//! of one table run one after the other, and wait for running sales. Statements on the stock table run as its owner,
//! statements on the configuration as the owner of the extension.

use crate::attach::checks::{require_suitable, unsuitable_kind};
use crate::attach::companions::{self, Found, Home};
use crate::attach::constraint::{check_rows, constrain, count_items};
use crate::attach::install::{self, Installed};
use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::invalidation;
use crate::pg::lock::{TableLock, lock_alone, lock_and_look};
use crate::pg::relation::{self, Facts};
use crate::pg::report;
use crate::pg::role::act_as_unfiltered;
use crate::pg::spi::{Connection, checked};
use crate::pg::transaction::{has_one_snapshot, require_writable};
use crate::statements::attach as statements;
use crate::stock::call::require_no_other;
use crate::table::cache::describe_configured;
use crate::table::called::Called;
use crate::table::catalog::{self, ColumnDescription, Columns, Description, RelationKind};
use crate::table::configuration::{
    CATALOG_PATH, Configuration, Configured, configuration, configured, configured_with, is_subscribed,
};
use crate::table::cursors;
use crate::table::trust;
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
    /// The schema of the companions, where it is not that of the table.
    pub companion_schema: Option<String>,
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

    fn describe(&self) -> Result<Description> {
        let columns = Columns::Named(&self.id_column, &self.quantity_column);
        catalog::describe(self.table, columns).ok_or_else(|| Error::no_table(self.table.to_u32()))
    }
}

/// Attaches a table, and returns the result as JSON. The same table with the same options again is a NOTICE.
pub fn attach(spi: &Connection, options: &Options) -> Result<String> {
    require_writable(c"attach_inventory()");
    require_new_snapshots("attach_inventory")?;
    require_no_other("attach_inventory")?;
    require_ownership(&options.describe()?)?;
    let configuration = configuration()?;
    if let Some(configured) = configured(spi, &configuration, options.table)? {
        return already(spi, options, &configured);
    }
    let (table, home, companions) = lock_table(spi, options)?;
    // Another session may have attached it meanwhile.
    if let Some(configured) = configured(spi, &configuration, options.table)? {
        return already(spi, options, &configured);
    }
    require_free(spi, &configuration, &table, &companions)?;
    companions::require_own_stripes(spi, &configuration, &table, &companions)?;
    let attachment = New { table: &table, home: &home, companions: &companions };
    let called = Called::of(companions.iter().map(|found| found.oid).chain([table.oid, configuration.oid]));
    cursors::leaving_none(table.owner, || {
        checked(called.into_check(), |spi| attach_locked(spi, options, &configuration, &attachment))
    })
}

/// What is being attached, locked.
struct New<'a> {
    table: &'a Description,
    home: &'a Home,
    /// The companions that an earlier attach left.
    companions: &'a [Found],
}

fn attach_locked(
    spi: &Connection,
    options: &Options,
    configuration: &Configuration,
    New { table, home, companions }: &New<'_>,
) -> Result<String> {
    require_suitable(table, [&options.id_column, &options.quantity_column])?;
    // Rows are written to them as the owner, even if later sales run with the rights of the caller.
    let facts: Vec<Facts> = companions.iter().filter_map(|found| relation::facts(found.oid)).collect();
    if let Some(objection) = trust::objection(&facts, table.owner) {
        return Err(objection);
    }
    if is_subscribed(spi, configuration, relation::with_partitions(table.oid)) {
        return Err(Error::subscriber(&table.name));
    }
    let objection = trust::objection(&trust::stock_facts(table.oid), table.owner);
    if let Some(objection) = objection.clone().filter(|_| options.run_as == "owner") {
        return Err(objection);
    }
    if companions::have_stripes(spi, table, home)? {
        trust::require_writable_by_caller(objection, table.owner)?;
    }
    let marked = companions::is_marked(spi, table)?;
    let (items, check_name) = {
        let _acting = act_as_unfiltered(table.owner, CATALOG_PATH);
        (check_rows(spi, table)?, constrain(spi, table)?)
    };
    let installed = install::make(spi, configuration, (table, marked), (home, companions), options.ledger)?;
    record(spi, configuration, (options, table), &check_name, &installed)?;
    invalidation::announce_change(configuration.oid);
    warn(table);
    Ok(result(table, options, items))
}

/// Refuses a table that is a part of another attachment, and companions that another attached table uses.
fn require_free(
    spi: &Connection,
    configuration: &Configuration,
    table: &Description,
    companions: &[Found],
) -> Result<()> {
    let relatives = relation::with_ancestors(table.oid).into_iter().chain(relation::with_partitions(table.oid));
    let is_there = |other: &&Configured| relation::schema_of(other.table).is_some();
    if let Some(other) = configured_with(spi, configuration, relatives.collect())?.iter().find(is_there) {
        return Err(Error::part_of_attached(&table.name, &relation::qualified_name(other.table)));
    }
    for companion in companions {
        if let Some(other) = configured_with(spi, configuration, vec![companion.oid])?.iter().find(is_there) {
            let other = relation::qualified_name(other.table);
            return Err(Error::companion_in_use(&table.name, &companion.name, Some(&other)));
        }
    }
    Ok(())
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

/// Locks the table, and the companions that an earlier attach left, as ALTER TABLE will, and describes the
/// table as it can no longer change.
///
/// The stock table comes last: a session that has read the ledger and then sells must not wait for an attach that waits
/// for the ledger.
fn lock_table(spi: &Connection, options: &Options) -> Result<(Description, Home, Vec<Found>)> {
    let seen = options.describe()?;
    require_ownership(&seen)?;
    if seen.kind == RelationKind::Other {
        return Err(unsuitable_kind(&seen));
    }
    let home = companions::home(spi, &seen, options.companion_schema.as_deref())?;
    let companions = companions::left(spi, &seen, &home);
    // The partitions, too: one of them may be being attached by itself.
    let stock = relation::with_partitions(seen.oid);
    let tables: Vec<Oid> = companions.iter().map(|found| found.oid).chain(stock).collect();
    lock_alone(&tables, TableLock::AccessExclusive);
    // Those that were attached meanwhile; with the table locked no more come.
    lock_alone(&relation::with_partitions(seen.oid), TableLock::AccessExclusive);
    let locked = options.describe()?;
    require_ownership(&locked)?;
    Ok((locked, home, companions))
}

/// A second attach: the same is a notice, anything else an error.
fn already(spi: &Connection, options: &Options, configured: &Configured) -> Result<String> {
    // Its rows are counted as the owner: what could change that is locked first.
    lock_and_look(&relation::with_partitions(configured.table), TableLock::AccessShare);
    let attached = describe_configured(configured)?;
    let wanted = options.describe()?;
    let number = |column: &Option<ColumnDescription>| column.as_ref().map(|column| column.number);
    let same = attached.oid == wanted.oid
        && number(&attached.id) == number(&wanted.id)
        && number(&attached.quantity) == number(&wanted.quantity)
        && configured.companions.movements.is_some() == options.ledger
        && configured.run_as == options.run_as
        && is_home(spi, &wanted, options, configured)?;
    if !same {
        return Err(Error::already_attached(&attached.name));
    }
    if attached.kind == RelationKind::Partitioned {
        let objection = trust::objection(&trust::stock_facts(attached.oid), attached.owner);
        objection.filter(|found| trust::forbids_reading(Some(found))).map_or(Ok(()), Err)?;
    }
    report::notice(&format!("{} is attached already", attached.name));
    let _acting = act_as_unfiltered(attached.owner, CATALOG_PATH);
    Ok(result(&attached, options, count_items(spi, &attached)?))
}

/// Whether the companions are in the schema that is asked for, where one is.
fn is_home(spi: &Connection, table: &Description, options: &Options, configured: &Configured) -> Result<bool> {
    let Some(schema) = options.companion_schema.as_deref() else { return Ok(true) };
    let home = companions::home(spi, table, Some(schema))?;
    Ok(relation::schema_of(configured.companions.requests) == Some(home.oid))
}

fn record(
    spi: &Connection,
    configuration: &Configuration,
    (options, table): (&Options, &Description),
    check_name: &str,
    Installed { companions, striped }: &Installed,
) -> Result<()> {
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
        Arg::owned(*striped),
    ];
    let (relation, sharing) = (&configuration.relation, configuration.sharing());
    configuration.writing(|| {
        // Of tables that are gone nothing is left to detach.
        spi.once(&statements::delete_dropped(relation), &[]);
        spi.once(&statements::insert_configuration(relation), &args);
        spi.once(&statements::begin_sharing(relation, &sharing), &[Arg::owned(table.oid)]);
    })
}

/// Refuses a transaction whose statements see one snapshot: openings are made of the rows that it shows.
pub fn require_new_snapshots(function: &'static str) -> Result<()> {
    if has_one_snapshot() { Err(Error::one_snapshot(function)) } else { Ok(()) }
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

//! The configuration: a row for each attached table, with the tables that belong to it.
//!
//! Read with the latest snapshot, as the owner of the configuration table. A row is one that attach wrote, or one that
//! a restored dump or a subscription brought along; `table::health` decides whether it still is an attachment.

use crate::core::error::{Error, Result};
use crate::core::part::Companion;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::lock::{TableLock, lock_and_look, lock_for_writing};
use crate::pg::namespace;
use crate::pg::relation;
use crate::pg::role::{Acting, act_as};
use crate::pg::spi::Connection;
use crate::pg::system_catalog::{self, ExtensionRow};
use crate::statements::catalog::{self, ConfiguredBy};
use crate::table::called::Called;
use crate::table::catalog::partitions;
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
    /// The table that says whether several tables have been attached at once.
    sharing_oid: Oid,
    /// The names of both tables. The owner of the schema, who need not be that of the extension, may rename it.
    called: Called,
}

impl Configuration {
    /// The table that says whether several tables have been attached at once.
    pub fn sharing(&self) -> String {
        format!("{}.inventory_sharing", self.schema)
    }

    /// Runs statements that write these two tables, as their owner, who is a superuser: no trigger of anybody may fire,
    /// whatever was granted on the tables. One that is being created is waited for, and then seen.
    pub fn writing<T>(&self, write: impl FnOnce() -> T) -> Result<T> {
        let tables = [self.oid, self.sharing_oid];
        lock_for_writing(&tables);
        self.called.require()?;
        for facts in tables.into_iter().filter_map(relation::facts) {
            if let Some(trigger) = facts.triggers.first() {
                return Err(Error::configuration_trigger(&facts.name, &trigger.name));
            }
        }
        let _acting = act_as(self.owner, CATALOG_PATH);
        Ok(write())
    }

    /// Takes the locks of a statement that reads these two tables, and then refuses it where they have other names.
    fn reading(&self) -> Result<Acting> {
        lock_and_look(&[self.oid, self.sharing_oid], TableLock::AccessShare);
        self.called.require()?;
        Ok(act_as(self.owner, CATALOG_PATH))
    }
}

/// The attached tables.
pub struct AttachedTables {
    /// The tables, also those that were dropped.
    pub tables: Vec<Oid>,
    /// Several have been attached at once.
    pub several: bool,
}

/// The configuration row of an attached table.
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
    /// The tables that belong to the stock table.
    pub companions: CompanionOids,
    /// A subscription writes to the table, a partition of it or a companion.
    pub subscribed: bool,
}

/// The companions of an attached table.
#[derive(Clone, PartialEq)]
pub struct CompanionOids {
    /// The ledger, where there is one.
    pub movements: Option<Oid>,
    /// The idempotency keys.
    pub requests: Oid,
    /// The stripes.
    pub stripes: Oid,
    /// The totals last written to the rows of striped items.
    pub totals: Oid,
}

impl CompanionOids {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (Companion, Oid)> {
        let movements = self.movements.map(|oid| (Companion::Movements, oid));
        let others = [
            (Companion::Requests, self.requests),
            (Companion::Stripes, self.stripes),
            (Companion::Totals, self.totals),
        ];
        others.into_iter().chain(movements)
    }

    /// The tables.
    pub fn oids(&self) -> Vec<Oid> {
        self.all().map(|(_, oid)| oid).collect()
    }

    /// The table of a companion; none of a ledger that is not kept.
    pub fn table(&self, companion: Companion) -> Option<Oid> {
        self.all().find(|(of, _)| *of == companion).map(|(_, oid)| oid)
    }

    /// The companion that a table is.
    pub fn companion(&self, table: Oid) -> Option<Companion> {
        self.all().find(|(_, oid)| *oid == table).map(|(companion, _)| companion)
    }
}

/// Whether a subscription writes to one of these tables.
pub fn is_subscribed(spi: &Connection, configuration: &Configuration, tables: Vec<Oid>) -> bool {
    // Most databases have never had a subscription, and planning the statement is what takes time.
    if system_catalog::is_empty(system_catalog::SUBSCRIPTIONS) {
        return false;
    }
    let _acting = act_as(configuration.owner, CATALOG_PATH);
    spi.once_latest(&catalog::subscribed(), &[Arg::owned(tables)]).count() > 0
}

/// Finds the configuration table of the installed extension, which must be of the version of the library.
pub fn configuration() -> Result<Configuration> {
    let ExtensionRow { schema, version } = system_catalog::extension().ok_or_else(Error::not_attached)?;
    let library = env!("CARGO_PKG_VERSION");
    if version != library {
        return Err(Error::outdated(&version, library));
    }
    let oid = namespace::relation_in(schema, c"inventory_attachment").ok_or_else(Error::not_attached)?;
    let missing = || Error::internal("a table of the extension is missing");
    let sharing_oid = namespace::relation_in(schema, c"inventory_sharing").ok_or_else(missing)?;
    Ok(Configuration {
        oid,
        sharing_oid,
        called: Called::of([oid, sharing_oid]),
        owner: relation::owner(oid).ok_or_else(missing)?,
        relation: relation::qualified_name(oid),
        schema: system_catalog::quoted_schema(schema).ok_or_else(missing)?,
    })
}

/// The attached tables.
pub fn attached(spi: &Connection, configuration: &Configuration) -> Result<AttachedTables> {
    let _acting = configuration.reading()?;
    let rows = spi.once_latest(&catalog::attached(&configuration.relation, &configuration.sharing()), &[]);
    Ok(AttachedTables { tables: rows.required(0, c"stock_tables")?, several: rows.required(0, c"several")? })
}

/// The attached tables of an owner that have had stripes.
pub fn striped_tables(spi: &Connection, configuration: &Configuration, owner: Oid) -> Result<Vec<Oid>> {
    let _acting = configuration.reading()?;
    let rows = spi.once_latest(&catalog::striped_tables(&configuration.relation), &[Arg::owned(owner)]);
    (0..rows.count()).map(|row| rows.required(row, c"stock_table")).collect()
}

/// The tables of stripes of all attached tables of an owner.
pub fn stripe_tables(spi: &Connection, configuration: &Configuration, owner: Oid) -> Result<Vec<Oid>> {
    let _acting = configuration.reading()?;
    let rows = spi.once_latest(&catalog::stripe_tables(&configuration.relation), &[Arg::owned(owner)]);
    (0..rows.count()).map(|row| rows.required(row, c"stripe_table")).collect()
}

/// Reads the configuration row of a stock table.
pub fn configured(spi: &Connection, configuration: &Configuration, stock: Oid) -> Result<Option<Configured>> {
    Ok(read(spi, configuration, ConfiguredBy::Stock, Arg::owned(stock))?.pop())
}

/// Reads the configuration rows in which one of these tables is the stock table or a companion.
pub fn configured_with(spi: &Connection, configuration: &Configuration, tables: Vec<Oid>) -> Result<Vec<Configured>> {
    read(spi, configuration, ConfiguredBy::Tables, Arg::owned(tables))
}

fn read(
    spi: &Connection,
    configuration: &Configuration,
    by: ConfiguredBy,
    argument: Arg<'_>,
) -> Result<Vec<Configured>> {
    let _acting = configuration.reading()?;
    let rows = spi.once_latest(&catalog::configured(&configuration.relation, by), &[argument]);
    let read = |row| {
        let table = rows.required(row, c"stock_table")?;
        let companions = CompanionOids {
            movements: rows.get(row, c"movement_table"),
            requests: rows.required(row, c"request_table")?,
            stripes: rows.required(row, c"stripe_table")?,
            totals: rows.required(row, c"total_table")?,
        };
        let written = [table].into_iter().chain(companions.oids()).chain(partitions(table)).collect();
        Ok(Configured {
            table,
            attached_as: [rows.required_text(row, c"stock_schema")?, rows.required_text(row, c"stock_name")?],
            run_as: rows.required_text(row, c"run_as")?,
            check_name: rows.required_text(row, c"check_name")?,
            id_column: rows.required_text(row, c"id_column")?,
            quantity_column: rows.required_text(row, c"quantity_column")?,
            companions,
            subscribed: is_subscribed(spi, configuration, written),
        })
    };
    (0..rows.count()).map(read).collect()
}

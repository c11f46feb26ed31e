//! Advice: what would make the stock tables of this database faster, or keep them so, and why.
//!
//! It rests on the counters of calls, on PostgreSQL's own statistics and on the catalogs; it changes nothing. A table
//! that cannot be used is part of the advice, too; one that another session has locked is left out.

mod rules;

use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::lock::{TableLock, try_lock_table};
use crate::pg::relation;
use crate::pg::spi::{Connection, connected};
use crate::pg::transaction::looking;
use crate::statements::advice as statements;
use crate::table::attachment::Attachment;
use crate::table::configuration::{configuration, configured};
use crate::table::{cache, choice};
use serde_json::{Value, json};

/// One piece of advice.
#[derive(Debug)]
pub struct Advice {
    /// Its kind.
    pub kind: &'static str,
    /// The stock table; None where it is gone.
    pub table: Option<Oid>,
    /// The item, where it is about one.
    pub item: Option<String>,
    /// What to do.
    pub advice: String,
    /// Why.
    pub detail: Value,
}

/// What PostgreSQL knows of a stock table and its companions.
#[derive(Debug, Default)]
struct TableFacts {
    updated: i64,
    hot_updated: i64,
    fillfactor: Option<i32>,
    /// Indexes that contain the quantity.
    indexes: Vec<String>,
    deferrable: Vec<String>,
    /// Of the ledger; None, there is none, or it was never analyzed.
    movements: Option<i64>,
    ledger_bytes: Option<i64>,
    /// Columns of the ledger that want a BRIN index.
    without_brin: Vec<String>,
    keys: Option<i64>,
}

/// All advice for the attached tables of this database.
pub fn advice() -> Result<Vec<Advice>> {
    let mut all = Vec::new();
    for table in choice::all()? {
        let look = || -> Result<_> {
            if !is_free(table)? {
                return Ok(Vec::new());
            }
            let stock = cache::attached(table)?;
            let facts = connected(|spi| facts(spi, &stock))?;
            let mut advice = rules::apply(&stock, &facts);
            let usable = stock.require_healthy().and_then(|()| stock.require_trusted_code());
            advice.extend(usable.err().map(|error| unusable(table, &error)));
            Ok(advice)
        };
        match looking(look) {
            Ok(Ok(advice)) => all.extend(advice),
            Ok(Err(error)) => all.push(unusable(table, &error)),
            Err(message) => all.push(Advice {
                kind: "unusable",
                table: Some(table),
                item: None,
                advice: "See why calls on this table fail.".to_owned(),
                detail: json!({"message": message}),
            }),
        }
    }
    Ok(all)
}

/// Whether all tables that are looked at can be locked without waiting: another session may have one for long.
fn is_free(table: Oid) -> Result<bool> {
    let configured = connected(|spi| configured(spi, &configuration()?, table))?;
    let companions = configured.map(|row| row.companions.oids()).unwrap_or_default();
    let partitions = relation::with_partitions(table);
    let mut tables = [table].into_iter().chain(partitions).chain(companions);
    Ok(tables.all(|table| try_lock_table(table, TableLock::RowExclusive)))
}

fn unusable(table: Oid, error: &Error) -> Advice {
    let (message, reason) = (&error.message, error.detail.get("reason"));
    let detail = json!({"sqlstate": error.code.sqlstate, "message": message, "reason": reason});
    Advice { kind: "unusable", table: Some(table), item: None, advice: error.hint.to_owned(), detail }
}

fn facts(spi: &Connection, stock: &Attachment) -> Result<TableFacts> {
    let args = [
        Arg::owned(stock.oid),
        Arg::owned(stock.companions.movements),
        Arg::owned(stock.companions.requests),
        Arg::text(stock.quantity_name.as_str()),
    ];
    let rows = spi.once_latest(&statements::facts(), &args);
    if rows.count() == 0 {
        return Err(Error::stock_table_dropped(stock.oid.to_u32()));
    }
    Ok(TableFacts {
        updated: rows.required(0, c"updated")?,
        hot_updated: rows.required(0, c"hot_updated")?,
        fillfactor: rows.get(0, c"fillfactor"),
        indexes: rows.required(0, c"indexes")?,
        deferrable: rows.required(0, c"deferrable")?,
        movements: rows.get(0, c"movements").filter(|movements| *movements >= 0),
        ledger_bytes: rows.get(0, c"ledger_bytes"),
        without_brin: rows.required(0, c"without_brin")?,
        keys: rows.get(0, c"keys").filter(|keys| *keys >= 0),
    })
}

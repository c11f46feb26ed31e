//! The runs that are kept.

use crate::audit::chain::Acknowledged;
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::seal::Seal;
use crate::ledger::context;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::spi::{Connection, Rows};
use crate::statements::audit::{self as statements, AuditNames};
use crate::table::attachment::Attachment;
use serde_json::Value;

/// The most discrepancies that are kept with a run, and described by the movement before which they arose.
pub const MOST_KEPT: usize = 10_000;

/// A run that has done its work.
pub struct Finished<'a> {
    /// audit, reconciliation or archive.
    pub kind: &'static str,
    /// The oldest transaction that ran when it began, and when that was.
    pub begun: &'a Rows<'a>,
    /// The whole ledger was read.
    pub full: bool,
    /// The movements that were read.
    pub movements: i64,
    /// The items that were checked.
    pub items: i64,
    /// How many discrepancies there are.
    pub discrepancies: i64,
    /// What was found, or done.
    pub found: Vec<Value>,
    /// The item, where it was about one.
    pub item: Option<&'a ItemId>,
    /// Every later movement has a number above this.
    pub position: i64,
    /// Every transaction that has one up to that began before this one.
    pub next_transaction: i64,
    /// Who called.
    pub role: Oid,
    /// The breaks that are acknowledged.
    pub acknowledged: Option<Value>,
    /// What was sealed.
    pub seal: Option<&'a Seal>,
}

/// Keeps a run, and returns its number.
pub fn keep_run(spi: &Connection, tables: &AuditNames, run: &Finished<'_>) -> Result<i64> {
    let hash = |hash: Option<[u8; 32]>| Arg::owned(hash.map(|hash| hash.to_vec()));
    let (seal, item) = (run.seal, run.item.map(ToString::to_string));
    let acknowledged = run.acknowledged.as_ref().map(Value::to_string);
    let args = [
        Arg::text(run.kind),
        run.begun.arg(0, c"moment"),
        Arg::owned(run.full),
        Arg::owned(run.movements),
        Arg::owned(run.items),
        Arg::owned(run.discrepancies),
        Arg::text(Value::from(run.found.clone()).to_string().as_str()),
        Arg::text(item.as_deref()),
        Arg::owned(run.position),
        Arg::owned(oldest_other(run.begun, run.next_transaction)?),
        Arg::owned(run.next_transaction),
        Arg::text(context::actor(run.role)?.as_str()),
        Arg::text(acknowledged.as_deref()),
        Arg::owned(seal.map(|seal| seal.number)),
        Arg::owned(seal.map(|seal| seal.movements)),
        Arg::owned(seal.map(|seal| seal.time)),
        hash(seal.map(|seal| seal.previous)),
        hash(seal.map(|seal| seal.root)),
        hash(seal.map(Seal::hash)),
    ];
    spi.once(&statements::keep_run(tables), &args).required(0, c"run_id")
}

/// The oldest transaction but this one that may have run in a snapshot: what this one has written is seen by it.
fn oldest_other(begun: &Rows<'_>, next: i64) -> Result<i64> {
    let end: i64 = begun.required(0, c"end")?;
    // From `end` up to `next`, which was read before, transactions had begun.
    let untold = if begun.get(0, c"own") == Some(end) { end + 1 } else { end };
    let other = begun.get::<i64>(0, c"other").unwrap_or(i64::MAX);
    Ok(other.min(untold).min(next))
}

/// The breaks that reconciliations have acknowledged.
pub fn acknowledged(spi: &Connection, tables: &AuditNames, stock: &Attachment) -> Result<Acknowledged> {
    let rows = spi.run_active(&statements::acknowledged(tables), &[]);
    let mut breaks = Acknowledged::new();
    for row in 0..rows.count() {
        for known in list(tables, &rows.required_text(row, c"acknowledged")?)? {
            let number = |key| known.get(key).and_then(Value::as_i64);
            let stripe = number("stripe").and_then(|stripe| i16::try_from(stripe).ok());
            let item = known.get("item").and_then(Value::as_str).map(|item| stock.item("item", item)).transpose()?;
            let (Some(item), Some(stripe), Some(movement)) = (item, stripe, number("movement")) else {
                return Err(Error::altered_run(&tables.runs, "an acknowledged break lacks its place"));
            };
            breaks.insert((item, stripe, movement));
        }
    }
    Ok(breaks)
}

/// The objects of a list that a run has kept.
pub fn list(tables: &AuditNames, json: &str) -> Result<Vec<Value>> {
    serde_json::from_str(json).map_err(|_| Error::altered_run(&tables.runs, "a list of the run is none"))
}

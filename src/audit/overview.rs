//! The newest audit of every attached table, for those who watch over the shops of others.

use crate::audit::tables::{RUNS, RUNS_SUFFIX};
use crate::core::error::Result;
use crate::pg::Oid;
use crate::pg::args::Moment;
use crate::pg::lock::{TableLock, try_lock_table};
use crate::pg::lookup::{self, NewestColumns, key_index_among};
use crate::pg::relation;
use crate::pg::spi::connected;
use crate::pg::system_catalog::column_named;
use crate::pg::transaction::looking;
use crate::table::beside_ledger::LedgerHome;
use crate::table::choice;
use crate::table::configuration::{configuration, configured};

/// The newest audit of a stock table.
pub struct Newest {
    /// The stock table.
    pub table: Oid,
    /// When it ended; None, there was none, or it could not be read.
    pub ended: Option<Moment>,
    /// What it found.
    pub discrepancies: Option<i64>,
}

/// Those of all attached tables that have a ledger. A table of audits that cannot be read, or only after waiting,
/// counts as none. It is read without the executor, and without the planner, which would evaluate the predicate of an
/// index.
pub fn newest() -> Result<Vec<Newest>> {
    let mut audits = Vec::new();
    for table in choice::all()? {
        let ledger =
            connected(|spi| configured(spi, &configuration()?, table))?.and_then(|row| row.companions.movements);
        let (Some(ledger), Some(owner)) = (ledger, relation::owner(table)) else { continue };
        let read = looking(|| {
            if !try_lock_table(ledger, TableLock::AccessShare) {
                return None;
            }
            newest_run(LedgerHome::of_ledger(ledger)?.owned((RUNS_SUFFIX, RUNS), owner)?)
        });
        let (ended, discrepancies) = read.ok().flatten().unzip();
        audits.push(Newest { table, ended, discrepancies });
    }
    Ok(audits)
}

/// The newest audit among the runs; None where there was none, or the table has lost its primary key.
fn newest_run(runs: Oid) -> Option<(Moment, i64)> {
    let number = |name| Some(column_named(runs, name)?.number);
    let columns =
        NewestColumns { kind: number("kind")?, moment: number("finished_at")?, count: number("discrepancies")? };
    let key = key_index_among(runs, number("run_id")?, |index| try_lock_table(index, TableLock::AccessShare))?;
    lookup::newest(runs, &key, "audit", &columns).map(|(moment, discrepancies)| (Moment(moment), discrepancies))
}

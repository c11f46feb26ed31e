//! The newest audit of every attached table, for those who watch over the shops of others.

use crate::audit::tables::{RUNS, RUNS_SUFFIX};
use crate::core::error::Result;
use crate::pg::Oid;
use crate::pg::args::Moment;
use crate::pg::lock::{TableLock, try_lock_table};
use crate::pg::relation;
use crate::pg::role::act_as_unfiltered;
use crate::pg::spi::connected;
use crate::pg::transaction::in_subtransaction;
use crate::statements::report as statements;
use crate::table::beside_ledger::LedgerHome;
use crate::table::choice;
use crate::table::configuration::{CATALOG_PATH, configuration, configured};

/// The newest audit of a stock table.
pub struct Newest {
    /// The stock table.
    pub table: Oid,
    /// When it ended; None, there was none, or it could not be read.
    pub ended: Option<Moment>,
    /// What it found.
    pub discrepancies: Option<i64>,
}

/// Those of all attached tables that have a ledger. A table of audits is read with the rights of its owner; one that
/// cannot be read, or only after waiting, counts as none.
pub fn newest() -> Result<Vec<Newest>> {
    let mut audits = Vec::new();
    for table in choice::all()? {
        let ledger =
            connected(|spi| configured(spi, &configuration()?, table))?.and_then(|row| row.companions.movements);
        let (Some(ledger), Some(owner)) = (ledger, relation::owner(table)) else { continue };
        let read = in_subtransaction(|| {
            if !try_lock_table(ledger, TableLock::AccessShare) {
                return None;
            }
            let runs = LedgerHome::of_ledger(ledger)?.owned((RUNS_SUFFIX, RUNS), owner)?;
            let _acting = act_as_unfiltered(owner, CATALOG_PATH);
            connected(|spi| {
                let rows = spi.once(&statements::newest_of(&relation::qualified_name(runs)), &[]);
                Some((rows.get(0, c"ended")?, rows.get(0, c"discrepancies")?))
            })
        });
        let (ended, discrepancies) = read.ok().flatten().unzip();
        audits.push(Newest { table, ended, discrepancies });
    }
    Ok(audits)
}

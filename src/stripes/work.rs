//! The work of the background worker: totals, and the stripes of items that have become quiet.
//!
//! It looks at the tables of an owner five times a second and ends when nothing has changed for a while. It ends only
//! while no transaction that wrote stripes is open: such a transaction locks the table of stripes first, and then looks
//! for a worker. It works as the owner in a security-restricted operation, for a limited time for each table.

use crate::core::error::Result;
use crate::pg::Oid;
use crate::pg::failpoint::{self, Point};
use crate::pg::lock::{Lock, Mode, TableLock, try_lock_table};
use crate::pg::spi::{Connection, checked, connected};
use crate::pg::worker::{self, Look, Work};
use crate::stats::contention;
use crate::stripes::automatic;
use crate::stripes::totals::{is_lagging, update};
use crate::table::attachment::{Attachment, Judged};
use crate::table::cache;
use crate::table::configuration::{configuration, stripe_tables, striped_tables};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a worker tries to take its lock, and the pause between two tries. DROP DATABASE waits five seconds for
/// others to go; this is less.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);
const CLAIM_PAUSE: Duration = Duration::from_millis(1);

/// The work of the worker.
pub fn work() -> Work {
    Work { claim, tables, look, end }
}

/// Claims to be the worker of an owner, of which there is one at most; or finds that it still is.
fn claim(owner: Oid) -> bool {
    let lock = Lock::of_worker(owner);
    lock.is_held_alone() || claimed(|| lock.take_for_session())
}

/// Tries for a while to become the worker: a session that looks for one has the lock for a moment, another worker has
/// it for as long as it lives.
fn claimed(mut take: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !take() {
        if begin.elapsed() > CLAIM_PATIENCE {
            return false;
        }
        worker::pause(CLAIM_PAUSE);
    }
    true
}

fn tables(owner: Oid) -> Vec<Oid> {
    // Without a configuration there is no attached table.
    connected(|spi| striped_tables(spi, &configuration()?, owner)).unwrap_or_else(|_| Vec::new())
}

/// Looks at the totals of one table.
fn look(owner: Oid, table: Oid) -> Look {
    // Code of the owner can release the locks of a session, not those of a transaction.
    if !claimed(|| Lock::of_worker(owner).take(Mode::Exclusive)) {
        return Look::Unchanged;
    }
    let Some(stock) = striped_stock(table).filter(|stock| stock.owner == owner) else { return Look::Unchanged };
    let work = |spi: &Connection| update(spi, &stock).and_then(|look| automatic::merge_quiet(spi, &stock, look));
    let look = checked(stock.check(Judged::Writing), work).unwrap_or_else(|error| error.raise());
    // Once more, while the transaction still has the lock.
    Lock::of_worker(owner).take_for_session();
    look
}

fn striped_stock(table: Oid) -> Option<Rc<Attachment>> {
    let stock = cache::attached(table).ok().filter(|stock| stock.has_striped())?;
    // Code that must not run as the owner would run here.
    (stock.require_healthy().is_ok() && stock.require_trusted_code().is_ok()).then_some(stock)
}

/// Gives the claim away where no total lags, and no transaction that wrote stripes is open: the tables of stripes are
/// locked until the commit. A transaction that writes stripes from here on waits for this one, and then finds no
/// worker.
fn end(owner: Oid) -> bool {
    let lock = Lock::of_worker(owner);
    let mut locked = Vec::new();
    let ended: Result<bool> = connected(|spi| {
        let configuration = configuration()?;
        // Stock tables are locked before stripes, as everywhere.
        let stocks: Vec<_> =
            striped_tables(spi, &configuration, owner)?.into_iter().filter_map(striped_stock).collect();
        locked = stripe_tables(spi, &configuration, owner)?;
        let mut stripes = locked.iter();
        if !claimed(|| lock.take(Mode::Exclusive)) || !stripes.all(|table| try_lock_table(*table, TableLock::Share)) {
            return Ok(false);
        }
        for stock in stocks {
            if is_lagging(spi, &stock)? || contention::has_divided(stock.oid, stock.striped().keys()) {
                return Ok(false);
            }
        }
        Ok(true)
    });
    // Without a configuration nothing is left to do.
    if !ended.unwrap_or(true) {
        return false;
    }
    failpoint::reached(Point::TotalsOver);
    lock.release(Mode::Exclusive);
    lock.release_for_session();
    // A table that was attached meanwhile is not locked: its sales found a worker that was about to end.
    let attached = connected(|spi| stripe_tables(spi, &configuration()?, owner)).unwrap_or_else(|_| Vec::new());
    attached.iter().all(|table| locked.contains(table)) || !claim(owner)
}

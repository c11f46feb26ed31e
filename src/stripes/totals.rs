//! The totals in the rows of striped items, and the start of the background worker that brings them up to date.
//!
//! Sales of a striped item leave its row alone, so the total is written after they have committed. The first sale
//! starts a worker for the tables of their owner in the database. A worker that was killed is started again by the next
//! call that finds a total that lags. Each owner has a worker of its own, so code of one owner cannot end or hold up
//! the work for others. Its work is in `stripes::work`.

use crate::core::error::Result;
use crate::core::item_id::ItemId;
use crate::core::quantity::Quantity;
use crate::ledger::attribution;
use crate::ledger::heap_writer;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::failpoint::{self, Point};
use crate::pg::lock::{Lock, Mode};
use crate::pg::report;
use crate::pg::spi::{Connection, Rows, connected};
use crate::pg::transaction::is_standby;
use crate::pg::worker::{self, Look, Start};
use crate::statements::Statement;
use crate::stats::contention::has_divided;
use crate::table::attachment::Attachment;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A worker is there after some milliseconds; a sale waits for it so long at most.
const START_PATIENCE_MS: u32 = 100;
/// How often a session that sells other items looks for totals that lag.
const REVIVAL: Duration = Duration::from_secs(1);

thread_local! {
    /// The log has the reason why there is no worker: one line a session, so it outlives the call.
    static LOGGED: Cell<bool> = const { Cell::new(false) };
}

/// Starts a worker where totals lag, or an item that divided itself is to be put together, and there is none: it was
/// killed, or the server was stopped.
pub fn revive_worker(stock: &Attachment) -> Result<()> {
    if !stock.has_striped() || worker::is_this_process() || is_standby() {
        return Ok(());
    }
    if stock.looked.get().is_some_and(|last| last.elapsed() < REVIVAL) {
        return Ok(());
    }
    stock.looked.set(Some(Instant::now()));
    if has_worker(stock.owner) || stock.require_trusted_code().is_err() {
        return Ok(());
    }
    if has_divided(stock.oid, stock.striped().keys()) || connected(|spi| is_lagging(spi, stock))? {
        start_worker(stock.owner);
    }
    Ok(())
}

/// Starts a worker for the tables of an owner where there is none; false where none could be started. A standby has
/// none: its primary's does the work.
pub fn start_worker(owner: Oid) -> bool {
    let launch = Lock::of_launch(owner);
    if worker::is_this_process() || is_standby() || has_worker(owner) || !launch.take(Mode::Exclusive) {
        return true;
    }
    let is_started = !matches!(worker::start(owner, START_PATIENCE_MS, || has_worker(owner)), Start::NoneFree);
    if !is_started && !LOGGED.replace(true) {
        report::log(
            "no background worker is free to keep the totals of striped items",
            "Raise max_worker_processes; until then the stock rows of striped items lag, available_inventory does not.",
        );
    }
    launch.release(Mode::Exclusive);
    is_started
}

/// A worker holds its lock alone, as long as it lives.
fn has_worker(owner: Oid) -> bool {
    let lock = Lock::of_worker(owner);
    let free = lock.take(Mode::Share);
    if free {
        failpoint::reached(Point::WorkerSought);
        lock.release(Mode::Share);
    }
    !free
}

/// Whether a total in a row differs from the sum of the stripes.
pub(super) fn is_lagging(spi: &Connection, stock: &Attachment) -> Result<bool> {
    let (ids, totals) = sums(spi, stock)?;
    let _acting = stock.act_on_companions();
    Ok(stock.run(spi, Statement::FindLagging, &[stock.bind_items(&ids), Arg::owned(totals)]).count() > 0)
}

/// Brings the totals in the rows of striped items up to date.
pub(super) fn update(spi: &Connection, stock: &Attachment) -> Result<Look> {
    let (ids, totals) = sums(spi, stock)?;
    let _acting = stock.act_on_companions();
    let args = [stock.bind_items(&ids), Arg::owned(totals)];
    if stock.run(spi, Statement::FindLagging, &args).count() == 0 {
        return Ok(Look::Unchanged);
    }
    let (ids, totals) = write(spi, stock, &stock.run(spi, Statement::LockLagging, &args))?;
    attribution::upserting(stock.companions.totals, || {
        stock.run(spi, Statement::KeepTotals, &[stock.bind_items(&ids), Arg::owned(totals)]);
    });
    Ok(Look::Changed)
}

/// Writes the totals of locked rows, natively where that is allowed. Returns the items and totals that were written.
fn write(spi: &Connection, stock: &Attachment, lagging: &Rows<'_>) -> Result<(Vec<ItemId>, Vec<String>)> {
    let total = |row| Ok((lagging.item(row, c"id")?, lagging.required_text(row, c"total")?));
    let rows = (0..lagging.count()).map(total).collect::<Result<Vec<(ItemId, String)>>>()?;
    if stock.names.by_ctid {
        let place = |row: usize| {
            let total = rows.get(row).and_then(|(_, total)| total.parse::<Quantity>().ok());
            Ok(total.zip(Some(lagging.required(row, c"row")?)).map(|(total, place)| (place, total)))
        };
        let places: Option<Vec<_>> = (0..rows.len()).map(place).collect::<Result<_>>()?;
        if let Some(places) = places
            && heap_writer::show_totals(stock, &places)?
        {
            return Ok(rows.into_iter().unzip());
        }
    }
    let totals: Vec<String> = rows.iter().map(|(_, total)| total.clone()).collect();
    let args = [stock.bind_items(rows.iter().map(|(id, _)| id)), Arg::owned(totals)];
    let written = attribution::writing_totals(stock.oid, rows, || stock.run(spi, Statement::WriteTotals, &args));
    let shown = |row| Ok((written.item(row, c"id")?, written.required_text(row, c"total")?));
    (0..written.count()).map(shown).collect()
}

fn sums(spi: &Connection, stock: &Attachment) -> Result<(Vec<ItemId>, Vec<String>)> {
    let _acting = stock.act_on_companions();
    let rows = stock.run(spi, Statement::SumsOfItems, &[]);
    (0..rows.count()).map(|row| Ok((rows.item(row, c"id")?, rows.required_text(row, c"total")?))).collect()
}

//! The keeper: a background worker that brings the totals in the stock rows of striped items up to date.
//!
//! Sales of a striped item leave its stock row alone, so somebody must write the total after they have committed. The first
//! sale starts a keeper for the database; it looks every [`PAUSE`] and ends when nothing has changed for a while. It ends
//! only while no transaction that wrote stripes is open: such a transaction locks the table of stripes first, and then sees
//! whether there is a keeper.

#![allow(unsafe_code)]

use crate::attachment::{self, Attachment, Kept};
use crate::error;
use crate::identity::act_as_unfiltered;
use crate::spi::{Arg, Connection, Sight, connected};
use crate::stripe_guard::writing_totals;
use crate::stripe_lock::{Lock, Mode};
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus};
use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum, Uuid, check_for_interrupts, pg_guard};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks: how long a total lags, and a little more.
const PAUSE: Duration = Duration::from_millis(200);
/// So many looks without a change end a keeper. DROP DATABASE waits five seconds for others to go; this is less.
const IDLE_LOOKS: u32 = 10;
/// A keeper is there after some milliseconds; so long one is waited for at most.
const START_PATIENCE_MS: u32 = 100;

thread_local! {
    static IS_KEEPER: Cell<bool> = const { Cell::new(false) };
    static TOLD: Cell<bool> = const { Cell::new(false) };
}

/// Sees to it that there is a keeper.
pub fn keep() {
    let launch = Lock::of_launch();
    if IS_KEEPER.get() || is_kept() || !launch.take(Mode::Exclusive) {
        return;
    }
    start();
    launch.release(Mode::Exclusive);
}

/// A keeper holds its lock alone, as long as it lives.
fn is_kept() -> bool {
    let keeper = Lock::of_keeper();
    let free = keeper.take(Mode::Share);
    if free {
        keeper.release(Mode::Share);
    }
    !free
}

fn start() {
    // SAFETY: variables of the backend, set once.
    let (database, own_pid) = unsafe { (pg_sys::MyDatabaseId, pg_sys::MyProcPid) };
    let started = BackgroundWorkerBuilder::new("inventory_ext totals")
        .set_type("inventory_ext totals")
        .set_library("inventory_ext")
        .set_function("inventory_totals_main")
        .set_argument(database.into_datum())
        .set_notify_pid(own_pid)
        .enable_spi_access()
        .load_dynamic();
    let Ok(worker) = started else {
        if !TOLD.replace(true) {
            error::log(
                "no background worker is free to keep the totals of striped items",
                "Raise max_worker_processes; until then the stock rows of striped items lag, available_inventory does not.",
            );
        }
        return;
    };
    for _ in 0..START_PATIENCE_MS {
        if is_kept() || matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)) {
            return;
        }
        check_for_interrupts!();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The whole life of a keeper. Its argument is the database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn inventory_totals_main(database: Datum) {
    // SAFETY: the argument is what `start` passed, an oid; the signal is handled as in any backend: the next check for
    // interrupts ends the process.
    unsafe {
        handle_sigterm();
        pg_sys::BackgroundWorkerUnblockSignals();
        let database = pg_sys::Oid::from_datum(database, false).unwrap_or(pg_sys::InvalidOid);
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
        // Totals are made again from the stripes: no commit of theirs need wait for the disk.
        pg_sys::SetConfigOption(
            c"synchronous_commit".as_ptr(),
            c"off".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
    IS_KEEPER.set(true);
    let mut idle_looks = 0;
    let mut look = in_transaction(|| if Lock::of_keeper().take_for_session() { Look::Changed } else { Look::Over });
    while look != Look::Over {
        pause();
        idle_looks = if look == Look::Changed { 0 } else { idle_looks + 1 };
        look = in_transaction(|| look_at_totals(idle_looks >= IDLE_LOOKS));
    }
}

unsafe extern "C-unwind" {
    // The handler itself, not pgrx's safe wrapper of it.
    #[link_name = "die"]
    fn ends_at_next_check(signal: std::ffi::c_int);
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
unsafe fn handle_sigterm() {
    // SAFETY: installs the handler that every backend has.
    unsafe { pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(ends_at_next_check)) };
}

#[cfg(feature = "pg18")]
unsafe fn handle_sigterm() {
    // SAFETY: installs the handler that every backend has.
    unsafe { pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(ends_at_next_check)) };
}

fn pause() {
    // SAFETY: waits for the latch of this process, which its signal handlers set.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            PAUSE.as_millis() as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts!();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Changed,
    Unchanged,
    Over,
}

fn in_transaction(act: impl FnOnce() -> Look) -> Look {
    // SAFETY: as any background worker brackets its work; an error ends the process.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, c"bringing totals up to date".as_ptr());
    }
    let look = act();
    // SAFETY: closes what was opened above.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
    }
    look
}

fn look_at_totals(may_end: bool) -> Look {
    let Some(stock) = striped_stock() else {
        // Whoever stripes an item before this is given back finds a keeper that is about to end: so it looks once more.
        Lock::of_keeper().release_for_session();
        let again = striped_stock().is_some() && Lock::of_keeper().take_for_session();
        return if again { Look::Changed } else { Look::Over };
    };
    // SAFETY: locks a relation that is there, for it is watched under the lock on the stock table; held until the commit.
    let alone = may_end && unsafe { pg_sys::ConditionalLockRelationOid(stock.stripes.oid, pg_sys::ShareLock as i32) };
    let look = connected(|spi| bring_up_to_date(spi, &stock));
    if alone && look == Look::Unchanged {
        // Whoever writes stripes from here on waits for this transaction, and then finds no keeper.
        Lock::of_keeper().release_for_session();
        return Look::Over;
    }
    look
}

fn striped_stock() -> Option<Rc<Attachment>> {
    attachment::current().ok().filter(|stock| !stock.striped.is_empty())
}

fn bring_up_to_date(spi: &Connection, stock: &Attachment) -> Look {
    let (ids, totals) = sums(spi, stock);
    let source = stock.source();
    let (id, quantity) = (&stock.id, &stock.quantity);
    let given = "ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)";
    let types = || vec![pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID];
    let _acting = act_as_unfiltered(stock.owner, stock.search_path.as_deref());
    let behind = format!(
        "SELECT stock.{id}, given.total::pg_catalog.text FROM {given} JOIN {source} ON stock.{id} OPERATOR(pg_catalog.=) given.id
          WHERE stock.{quantity} OPERATOR(pg_catalog.<>) given.total"
    );
    let plan = stock.plan(spi, Kept::BehindTotals, || (behind.clone(), types()));
    let args = [Arg::owned(ids), Arg::owned(totals)];
    if spi.run(plan, &args, Sight::Isolation).count() == 0 {
        return Look::Unchanged;
    }
    // A row that somebody else holds is left for the next look.
    let plan = stock.plan(spi, Kept::LockTotals, || {
        (format!("{behind} ORDER BY stock.{id} FOR NO KEY UPDATE OF stock SKIP LOCKED"), types())
    });
    let behind = spi.run(plan, &args, Sight::Isolation);
    let ids: Vec<Uuid> = (0..behind.count()).filter_map(|row| behind.get(row, 1)).collect();
    let totals: Vec<String> = (0..behind.count()).filter_map(|row| behind.text(row, 2)).collect();
    let plan = stock.plan(spi, Kept::WriteTotals, || {
        let sql = format!(
            "UPDATE {source} SET {quantity} = given.total FROM {given} WHERE stock.{id} OPERATOR(pg_catalog.=) given.id"
        );
        (sql, types())
    });
    writing_totals(|| spi.run(plan, &[Arg::owned(ids), Arg::owned(totals)], Sight::Isolation));
    Look::Changed
}

fn sums(spi: &Connection, stock: &Attachment) -> (Vec<Uuid>, Vec<String>) {
    let _acting = act_as_unfiltered(stock.stripes.owner, stock.search_path.as_deref());
    let plan = stock.plan(spi, Kept::SumStripes, || {
        let sql = format!(
            "SELECT inventory_id, pg_catalog.sum(quantity)::pg_catalog.text FROM {} GROUP BY inventory_id",
            stock.stripes.name
        );
        (sql, vec![])
    });
    let rows = spi.run(plan, &[], Sight::Isolation);
    let sum = |row| Some((rows.get::<Uuid>(row, 1)?, rows.text(row, 2)?));
    (0..rows.count()).filter_map(sum).unzip()
}

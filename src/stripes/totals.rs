//! The totals worker: a background worker that brings the totals in the stock rows of striped items up to date.
//!
//! Sales of a striped item leave its stock row alone, so the total is written after they have committed. The first sale starts a
//! worker for the database; it looks every [`PAUSE`] and ends when nothing has changed for a while. It ends only while no
//! transaction that wrote stripes is open: such a transaction locks the table of stripes first, and then sees whether there is a
//! worker. A worker that was killed is started again by the next call that finds a total behind. It works as the owner of the
//! table in a security-restricted operation, and with settings of its own, whatever the database's are.

#![allow(unsafe_code)]

use crate::ledger::attribution::{self, writing_totals};
use crate::pg::failpoint::{self, Place};
use crate::pg::lock::{Lock, Mode};
use crate::pg::report;
use crate::pg::role::{act_as_unfiltered, always_restrict};
use crate::pg::spi::{Arg, Connection, Sight, connected, is_standby};
use crate::table::attachment::{self, Attachment, Kept};
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus};
use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum, Uuid, check_for_interrupts, pg_guard};
use std::cell::Cell;
use std::ffi::CStr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Between two looks: how long a total lags, and a little more.
const PAUSE: Duration = Duration::from_millis(200);
/// So many looks without a change end a keeper. DROP DATABASE waits five seconds for others to go; this is less.
const IDLE_LOOKS: u32 = 10;
/// A keeper is there after some milliseconds; so long one is waited for at most.
const START_PATIENCE_MS: u32 = 100;

/// How often a session that sells other items looks whether totals were left behind.
const REVIVAL: Duration = Duration::from_secs(1);

thread_local! {
    /// This process is the worker.
    static IS_KEEPER: Cell<bool> = const { Cell::new(false) };
    /// The log has the reason why there is no worker.
    static TOLD: Cell<bool> = const { Cell::new(false) };
    /// When this session looked last.
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Starts a worker where totals are behind and there is none: it was killed, or the server was stopped.
pub fn revive(stock: &Attachment) {
    if stock.striped.is_empty() || IS_KEEPER.get() || is_standby() {
        return;
    }
    if LOOKED.get().is_some_and(|last| last.elapsed() < REVIVAL) {
        return;
    }
    LOOKED.set(Some(Instant::now()));
    if !is_kept() && stock.require_trusted_code().is_ok() && connected(|spi| is_behind(spi, stock)) {
        keep();
    }
}

fn is_behind(spi: &Connection, stock: &Attachment) -> bool {
    let (ids, totals) = sums(spi, stock);
    let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
    behind(spi, stock, &[Arg::owned(ids), Arg::owned(totals)])
}

/// Sees to it that there is a worker. A standby has none: its primary's does the work.
pub fn keep() {
    let launch = Lock::of_launch();
    if IS_KEEPER.get() || is_standby() || is_kept() || !launch.take(Mode::Exclusive) {
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
            report::log(
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

/// What the database or a role may have set otherwise, and the worker relies on. Totals are made again from the stripes, so no
/// commit of theirs need wait for the disk.
const SETTINGS: [(&CStr, &CStr); 11] = [
    (c"synchronous_commit", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"lock_timeout", c"0"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"row_security", c"on"),
    (c"session_replication_role", c"origin"),
    (c"inventory_ext.actor", c""),
    (c"inventory_ext.reference", c""),
];

/// # Safety
/// Called once, by the worker, with the name of a setting that exists.
unsafe fn set(name: &CStr, value: &CStr) {
    // SAFETY: PostgreSQL copies both texts.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// The whole life of a worker. Its argument is the database.
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
        for (name, value) in SETTINGS {
            set(name, value);
        }
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        set(c"transaction_timeout", c"0");
    }
    always_restrict();
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
    // Code of the owner can give back the locks of a session, not those of a transaction.
    if !Lock::of_keeper().take(Mode::Exclusive) {
        return Look::Over;
    }
    let Some(stock) = striped_stock() else {
        connected(|spi| failpoint::reached(spi, Place::TotalsOver));
        // Whoever stripes an item before this is given back finds a keeper that is about to end: so it looks once more.
        Lock::of_keeper().release_wholly();
        let again = striped_stock().is_some() && Lock::of_keeper().take_for_session();
        return if again { Look::Changed } else { Look::Over };
    };
    // SAFETY: locks a relation that is there, for it is watched under the lock on the stock table; held until the commit.
    let alone = may_end && unsafe { pg_sys::ConditionalLockRelationOid(stock.stripes.oid, pg_sys::ShareLock as i32) };
    let look = connected(|spi| bring_up_to_date(spi, &stock));
    if alone && look == Look::Unchanged {
        // Whoever writes stripes from here on waits for this transaction, and then finds no keeper.
        Lock::of_keeper().release_wholly();
        return Look::Over;
    }
    if look == Look::Changed {
        Lock::of_keeper().take_for_session();
    }
    look
}

fn striped_stock() -> Option<Rc<Attachment>> {
    let stock = attachment::current().ok().filter(|stock| !stock.striped.is_empty())?;
    // Code that must not run as the owner would run here.
    (stock.require_healthy().is_ok() && stock.require_trusted_code().is_ok()).then_some(stock)
}

const GIVEN: &str =
    "ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)";

fn types() -> Vec<pg_sys::Oid> {
    vec![pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID]
}

fn select_behind(stock: &Attachment) -> String {
    let (source, id, quantity) = (stock.source(), &stock.id, &stock.quantity);
    format!(
        "SELECT stock.{id}, given.total::pg_catalog.text FROM {GIVEN}
           JOIN {source} ON stock.{id} OPERATOR(pg_catalog.=) given.id
          WHERE stock.{quantity} OPERATOR(pg_catalog.<>) given.total"
    )
}

/// Whether the row of any of these items shows another total.
fn behind(spi: &Connection, stock: &Attachment, args: &[Arg<'_>]) -> bool {
    let plan = stock.plan(spi, Kept::BehindTotals, || (select_behind(stock), types()));
    spi.run(plan, args, Sight::Isolation).count() > 0
}

fn bring_up_to_date(spi: &Connection, stock: &Attachment) -> Look {
    let (ids, totals) = sums(spi, stock);
    let (source, id, quantity) = (stock.source(), &stock.id, &stock.quantity);
    let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
    let args = [Arg::owned(ids), Arg::owned(totals)];
    if !behind(spi, stock, &args) {
        return Look::Unchanged;
    }
    // A row that somebody else holds is left for the next look.
    let plan = stock.plan(spi, Kept::LockTotals, || {
        (format!("{} ORDER BY stock.{id} FOR NO KEY UPDATE OF stock SKIP LOCKED", select_behind(stock)), types())
    });
    let behind = spi.run(plan, &args, Sight::Isolation);
    let rows: Vec<(Uuid, String)> =
        (0..behind.count()).filter_map(|row| Some((behind.get(row, 1)?, behind.text(row, 2)?))).collect();
    let plan = stock.plan(spi, Kept::WriteTotals, || {
        let sql = format!(
            "UPDATE {source} SET {quantity} = given.total FROM {GIVEN} WHERE stock.{id} OPERATOR(pg_catalog.=) given.id
             RETURNING stock.{id}, stock.{quantity}::pg_catalog.text"
        );
        (sql, types())
    });
    let (ids, totals): (Vec<Uuid>, Vec<String>) = rows.iter().cloned().unzip();
    let written = writing_totals(rows, || spi.run(plan, &[Arg::owned(ids), Arg::owned(totals)], Sight::Isolation));
    let (ids, shown): (Vec<Uuid>, Vec<String>) =
        (0..written.count()).filter_map(|row| Some((written.get::<Uuid>(row, 1)?, written.text(row, 2)?))).unzip();
    // What the row shows now: by it a later attach recognizes a row that nothing else has written.
    let plan = stock.plan(spi, Kept::KeepTotals, || {
        let sql = format!(
            "INSERT INTO {} AS t (inventory_id, quantity) SELECT given.id, given.total FROM {GIVEN}
             ON CONFLICT (inventory_id) DO UPDATE SET quantity = EXCLUDED.quantity",
            stock.totals.name
        );
        (sql, types())
    });
    attribution::upserting(stock.totals.oid, || {
        spi.run(plan, &[Arg::owned(ids), Arg::owned(shown)], Sight::Isolation);
    });
    Look::Changed
}

fn sums(spi: &Connection, stock: &Attachment) -> (Vec<Uuid>, Vec<String>) {
    let _acting = stock.act_on_companions();
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

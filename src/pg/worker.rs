//! The background worker `inventory_ext totals`: how it is started, its life, and its entry point.
//!
//! Its work is in `stripes::work`, which registers it. It connects as the bootstrap superuser, with settings of its
//! own, independent of those of the database, and every switch to another role is a security-restricted operation.

use crate::core::error::Error;
use crate::pg::report;
use crate::pg::role::always_restrict;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum, PgTryBuilder, check_for_interrupts, pg_guard};
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::panic::UnwindSafe;
use std::sync::OnceLock;
use std::time::Duration;

/// Between two looks: how long a total lags, and a little more.
const PAUSE: Duration = Duration::from_millis(200);
/// The number of rounds without a change that end a worker. DROP DATABASE waits five seconds for others to go; this is
/// less.
const IDLE_ROUNDS: u32 = 10;
/// How long a look at one table may take, and wait for a lock: the others are not to wait for it.
const LOOK_PATIENCE_MS: i32 = 2_000;
/// How long it may take where the owner's code goes on after it was cancelled: then the process ends.
const LAST_PATIENCE_MS: i32 = 4_000;
/// After a look that failed, so many rounds pass before the next one, and twice as many each time it fails again.
const FIRST_REST: u32 = 5;
const LONGEST_REST: u32 = 150;

/// The result of a look at the totals of one table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Totals were written.
    Changed,
    /// All totals were right.
    Unchanged,
}

/// The work of the worker for the tables of an owner; each function runs in a transaction of its own.
pub struct Work {
    /// Claims to be the worker of this owner, or claims it again; false where there is another.
    pub claim: fn(Oid) -> bool,
    /// The tables of the owner that have striped items.
    pub tables: fn(Oid) -> Vec<Oid>,
    /// Brings the totals of a table up to date: the owner, and the table.
    pub look: fn(Oid, Oid) -> Look,
    /// Gives the claim away where nothing is left to do; false where the worker must go on.
    pub end: fn(Oid) -> bool,
}

/// Set once, when the library is loaded: PostgreSQL calls the entry point by its name.
static WORK: OnceLock<Work> = OnceLock::new();

thread_local! {
    /// This process is the worker: a fact of the process, set once.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Registers the work; called once a backend. A second registration has no effect.
pub fn register(work: Work) {
    let _ = WORK.set(work);
}

/// Whether this process is the worker.
pub fn is_this_process() -> bool {
    IS_WORKER.get()
}

/// How a start ended.
pub enum Start {
    /// No background worker is free: see max_worker_processes.
    NoneFree,
    /// The worker was requested.
    Requested,
}

/// Requests a worker for the tables of an owner in this database and waits for at most `patience_ms` until `is_there`,
/// or until it has ended again.
pub fn start(owner: Oid, patience_ms: u32, is_there: impl Fn() -> bool) -> Start {
    // SAFETY: variables of the backend, set once.
    let (database, own_pid) = unsafe { (pg_sys::MyDatabaseId, pg_sys::MyProcPid) };
    let started = BackgroundWorkerBuilder::new("inventory_ext totals")
        .set_type("inventory_ext totals")
        .set_library("inventory_ext")
        .set_function("inventory_totals_main")
        .set_argument(both(database, owner).into_datum())
        .set_notify_pid(own_pid)
        .enable_spi_access()
        .load_dynamic();
    let Ok(worker) = started else { return Start::NoneFree };
    for _ in 0..patience_ms {
        if is_there() || matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)) {
            break;
        }
        check_for_interrupts!();
        std::thread::sleep(Duration::from_millis(1));
    }
    Start::Requested
}

/// Database and owner in the one argument that a worker has.
fn both(database: Oid, owner: Oid) -> i64 {
    (i64::from(database.to_u32()) << 32) | i64::from(owner.to_u32())
}

/// Settings that the worker relies on, in place of those of the database or a role. Totals are computed from the
/// stripes, so none of its commits need wait for the disk.
const SETTINGS: [(&CStr, &CStr); 11] = [
    (c"synchronous_commit", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"lock_timeout", c"2s"),
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

/// The entry point of the worker. Its argument is the database and the owner.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn inventory_totals_main(argument: Datum) {
    let Some(work) = WORK.get() else { Error::internal("the totals worker has no work").raise() };
    // SAFETY: the argument is the number that `start` passed.
    let argument = unsafe { i64::from_datum(argument, false) }.map(i64::cast_unsigned);
    let Some(argument) = argument else { Error::internal("the totals worker has no database").raise() };
    let [database, owner] = [argument >> 32, argument].map(|oid| Oid::from(oid as u32));
    // SAFETY: the signal is handled as in any backend: the next check for interrupts ends the process.
    unsafe {
        handle_sigterm();
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
        for (name, value) in SETTINGS {
            set(name, value);
        }
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        set(c"transaction_timeout", c"0");
    }
    always_restrict();
    IS_WORKER.set(true);
    run(work, owner);
}

/// A worker that runs.
struct Running<'w> {
    work: &'w Work,
    owner: Oid,
    /// The timeout that ends the process.
    last: std::ffi::c_int,
}

/// After a look that failed: the rounds until the next one, and the length of the rest.
type Rest = (u32, u32);

fn run(work: &Work, owner: Oid) {
    // SAFETY: registers a timeout of this process. Any number past PostgreSQL's own asks for a free one.
    let last = unsafe { RegisterTimeout(FREE_TIMEOUT, Some(give_up)) };
    let worker = Running { work, owner, last };
    let mut rests = HashMap::new();
    let mut idle_rounds = 0;
    if !worker.claim() {
        return;
    }
    loop {
        pause(PAUSE);
        if !worker.claim() {
            return;
        }
        idle_rounds = match worker.round(&mut rests) {
            None => return,
            Some(Look::Changed) => 0,
            Some(Look::Unchanged) => idle_rounds + 1,
        };
        let end = work.end;
        if idle_rounds >= IDLE_ROUNDS && worker.guarded(move || end(owner)) == Some(true) {
            return;
        }
    }
}

impl Running<'_> {
    fn claim(&self) -> bool {
        in_transaction(|| (self.work.claim)(self.owner))
    }

    /// Looks at each table; None where another process is the worker by now. An error, such as one of code that the
    /// owner wrote, concerns that table alone.
    fn round(&self, rests: &mut HashMap<Oid, Rest>) -> Option<Look> {
        let (owner, tables, look) = (self.owner, self.work.tables, self.work.look);
        // Where the tables are not known, something is left to do.
        let Some(tables) = self.guarded(move || tables(owner)) else { return Some(Look::Changed) };
        let mut round = Look::Unchanged;
        for table in tables {
            if let Some((remaining, _)) = rests.get_mut(&table)
                && *remaining > 0
            {
                *remaining -= 1;
                continue;
            }
            match self.guarded(move || look(owner, table)) {
                Some(look) => {
                    rests.remove(&table);
                    round = if look == Look::Changed { look } else { round };
                }
                None => {
                    let rest = rests.get(&table).map_or(FIRST_REST, |(_, last)| (last * 2).min(LONGEST_REST));
                    rests.insert(table, (rest, rest));
                    // Code that failed can have released the locks of the session before.
                    if !self.claim() {
                        return None;
                    }
                }
            }
        }
        Some(round)
    }

    /// Runs `act` in a transaction, for a limited time. An error of it goes to the log, and the transaction is rolled
    /// back.
    fn guarded<T>(&self, act: impl FnOnce() -> T + UnwindSafe) -> Option<T> {
        let last = self.last;
        let result = PgTryBuilder::new(|| {
            in_transaction(|| {
                // SAFETY: one timeout cancels what this process does, as statement_timeout does in a session; the
                // other ends the process.
                unsafe {
                    enable_timeout_after(STATEMENT_TIMEOUT, LOOK_PATIENCE_MS);
                    enable_timeout_after(last, LAST_PATIENCE_MS);
                }
                let result = act();
                end_timeouts(last);
                Ok(result)
            })
        })
        .catch_others(|caught| match caught {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => Err(report.message().to_owned()),
            CaughtError::RustPanic { ereport, .. } => Err(ereport.message().to_owned()),
        })
        .execute();
        result
            .inspect_err(|message| {
                end_timeouts(last);
                // SAFETY: rolls back the transaction in which the error was raised, as any process does.
                unsafe { pg_sys::AbortCurrentTransaction() };
                let message = format!("totals of striped items were not brought up to date: {message}");
                let hint = "They are looked at again after a while; available_inventory is exact meanwhile.";
                // The text may have to be converted, for which PostgreSQL reads its catalogs.
                in_transaction(|| report::log(&message, hint));
            })
            .ok()
    }
}

/// Ends the timeouts, and forgets a cancellation that came too late.
fn end_timeouts(last: std::ffi::c_int) {
    // SAFETY: timeouts of this process, and the flag that a handler sets.
    unsafe {
        disable_timeout(STATEMENT_TIMEOUT, false);
        disable_timeout(last, false);
        pg_sys::QueryCancelPending = 0;
    }
}

/// Ends the process at its next check for interrupts, as pg_terminate_backend does. Called by a signal handler.
unsafe extern "C-unwind" fn give_up() {
    // SAFETY: the handler of SIGTERM only sets flags, and a latch.
    unsafe { ends_at_next_check(pg_sys::SIGTERM as i32) };
}

unsafe extern "C-unwind" {
    // The handler itself, not pgrx's safe wrapper of it.
    #[link_name = "die"]
    fn ends_at_next_check(signal: std::ffi::c_int);
    // Not among the functions that pgrx declares.
    fn enable_timeout_after(timeout: std::ffi::c_int, delay_ms: std::ffi::c_int);
    fn disable_timeout(timeout: std::ffi::c_int, keep_indicator: bool);
    fn RegisterTimeout(timeout: std::ffi::c_int, handler: Option<unsafe extern "C-unwind" fn()>) -> std::ffi::c_int;
}

/// The fourth of PostgreSQL's timeouts, in every version from 9.6 on.
const STATEMENT_TIMEOUT: std::ffi::c_int = 3;
/// More than the number of the last of PostgreSQL's own, and less than the most that there may be, in every version.
const FREE_TIMEOUT: std::ffi::c_int = 19;

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

/// Waits; a signal ends the wait.
pub fn pause(pause: Duration) {
    // SAFETY: waits for the latch of this process, which its signal handlers set.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            pause.as_millis() as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts!();
}

fn in_transaction<T>(act: impl FnOnce() -> T) -> T {
    // SAFETY: as any background worker brackets its work; an error ends the process, or `guarded` catches it.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, c"bringing totals up to date".as_ptr());
    }
    let result = act();
    // SAFETY: closes the transaction opened above.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
    }
    result
}

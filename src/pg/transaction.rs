//! The transaction of the backend: isolation level, commands, subtransactions, and the entry points at their ends.

use crate::core::error::Error;
use crate::pg::report::packed;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_guard, pg_sys};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

/// The number of a subtransaction; numbers rise.
pub type Subtransaction = pg_sys::SubTransactionId;

/// Runs at the ends of transactions.
pub struct AtEnd {
    /// Where a transaction is about to commit or to be prepared; an error aborts it.
    pub before_commit: fn() -> Result<(), Box<Error>>,
    /// Where a transaction has ended.
    pub ended: fn(),
    /// Where a transaction has committed, or aborted.
    pub over: fn(bool),
    /// Where a subtransaction has aborted, and with it those that began after it.
    pub subtransaction_aborted: fn(Subtransaction),
}

/// Set once, when the library is loaded: PostgreSQL calls back without an argument of ours.
static AT_END: OnceLock<AtEnd> = OnceLock::new();

/// Registers for the ends of transactions; called once a backend.
pub fn register(at_end: AtEnd) {
    if AT_END.set(at_end).is_ok() {
        // SAFETY: the callbacks are of the library, which is never unloaded.
        unsafe {
            pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(subtransaction_ends), std::ptr::null_mut());
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _nothing: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE};
    let Some(at_end) = AT_END.get() else { return };
    if event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE {
        (at_end.before_commit)().unwrap_or_else(|error| error.raise());
    }
    (at_end.ended)();
    if event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT {
        (at_end.over)(event == XACT_EVENT_COMMIT);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ends(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _nothing: *mut std::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB
        && let Some(at_end) = AT_END.get()
    {
        (at_end.subtransaction_aborted)(subtransaction);
    }
}

/// The subtransaction that runs.
pub fn subtransaction() -> Subtransaction {
    // SAFETY: reads a counter of the backend.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// The number of the command that runs, within the transaction.
pub fn command() -> u32 {
    // SAFETY: reads a counter of the backend; the number is not marked as used.
    unsafe { pg_sys::GetCurrentCommandId(false) }
}

/// Ends a command of the transaction: its effects are visible to the next, also in our own caches.
pub fn next_command() {
    // SAFETY: the counter is advanced between two statements of ours, as SPI does after each.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// Whether all statements of this transaction see one snapshot: REPEATABLE READ and SERIALIZABLE.
pub fn has_one_snapshot() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The next transaction that will begin.
pub fn next_transaction() -> Result<i64, Box<Error>> {
    // SAFETY: reads a counter in shared memory.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    i64::try_from(next).map_err(|_| Error::internal("a transaction has no number"))
}

/// Whether the transaction has a number: it may have written something.
pub fn has_number() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// Gives the transaction its number, so that what it does from here on is known to belong to one that runs.
pub fn require_number() {
    // SAFETY: assigns a number where there is none.
    unsafe { pg_sys::GetTopTransactionId() };
}

/// Runs `act` with a new snapshot active, which cursors that it opens see: what is committed now, at any isolation
/// level.
pub fn with_new_snapshot<T>(act: impl FnOnce() -> T) -> T {
    next_command();
    // SAFETY: the snapshot is taken off again below; where PostgreSQL raises an error in between, its abort does that.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let result = act();
    // SAFETY: the snapshot pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// Whether nothing can be written: on a standby, or in a read-only transaction.
pub fn is_read_only() -> bool {
    // SAFETY: reads variables of the backend.
    unsafe { pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() }
}

/// The cluster: its system identifier.
pub fn system() -> String {
    // SAFETY: reads the control file in shared memory.
    unsafe { pg_sys::GetSystemIdentifier() }.to_string()
}

/// Lets the session be cancelled here.
pub fn check_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Whether this server is a standby.
pub fn is_standby() -> bool {
    // SAFETY: reads the state of the server.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Raises PostgreSQL's own error 25006 where nothing can be written: on a standby, or in a read-only transaction.
pub fn require_writable(command: &CStr) {
    // SAFETY: raises an error or does nothing; the name is a C string.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(command.as_ptr());
        pg_sys::PreventCommandIfReadOnly(command.as_ptr());
    }
}

/// Whether a transaction of this server can be prepared, to be committed by another session.
pub fn can_be_prepared() -> bool {
    // SAFETY: a setting that does not change while the server runs.
    unsafe { pg_sys::max_prepared_xacts > 0 }
}

/// The database of this session.
pub fn database() -> pg_sys::Oid {
    // SAFETY: a variable of the backend, set when it starts.
    unsafe { pg_sys::MyDatabaseId }
}

/// Set once, when the library is loaded: the callback below has no argument of ours.
static AT_EXIT: OnceLock<fn()> = OnceLock::new();

/// Registers for the exits of processes; called when the library is loaded.
pub fn at_exit(act: fn()) {
    let _ = AT_EXIT.set(act);
}

/// Watches the exit of this process, while which it still has its shared memory; to be called once in a process. One
/// that was forked from a process with the library has forgotten what that one had registered.
pub fn watch_exit() {
    // SAFETY: the callback is of the library, which is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(process_exits), pg_sys::Datum::null()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn process_exits(_code: i32, _nothing: pg_sys::Datum) {
    if let Some(act) = AT_EXIT.get() {
        act();
    }
}

/// The functions of PostgreSQL that end a statement, or a session, from outside.
const STOPS: [&str; 3] = ["ProcessInterrupts", "ProcessRecoveryConflictInterrupt", "ProcessRecoveryConflictInterrupts"];

/// Whether an error says that the statement is to end. The SQLSTATE alone does not say so, for code of users can raise
/// any. A lock that was waited for too long ends what wanted it.
fn is_stop(caught: &CaughtError) -> bool {
    let CaughtError::PostgresError(report) = caught else { return false };
    // SAFETY: the error is on PostgreSQL's stack.
    let code = unsafe { pg_sys::geterrcode() };
    report.function_name().is_some_and(|function| STOPS.contains(&function)) && packed("55P03").cast_signed() != code
}

/// What becomes of a subtransaction where there was no error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Kept,
    RolledBack,
}

/// Runs `act` in a subtransaction. An error rolls it back, and its message is returned; but one that ends the statement
/// goes on from there.
pub fn in_subtransaction<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    within_subtransaction(Outcome::Kept, act)
}

/// The same for what only looks: the subtransaction is rolled back in any case, and its locks are released.
pub fn looking<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    within_subtransaction(Outcome::RolledBack, act)
}

fn within_subtransaction<T>(outcome: Outcome, act: impl FnOnce() -> T) -> Result<T, String> {
    // SAFETY: variables of the backend, restored below as PL/pgSQL restores them around a block.
    let (context, owner) = unsafe { (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner) };
    // SAFETY: those that were in force before.
    let restore = || unsafe {
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
    };
    // SAFETY: a transaction runs, for a function was called; the subtransaction is ended in any case.
    unsafe { pg_sys::BeginInternalSubTransaction(std::ptr::null()) };
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        let result = act();
        // SAFETY: the subtransaction that was begun above.
        unsafe {
            match outcome {
                Outcome::Kept => pg_sys::ReleaseCurrentSubTransaction(),
                Outcome::RolledBack => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
            }
        }
        Ok(result)
    }))
    .catch_others(|caught| {
        let is_stop = is_stop(&caught);
        // SAFETY: the subtransaction that was begun above; the error stays on PostgreSQL's stack.
        unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() };
        if is_stop {
            restore();
            caught.rethrow();
        }
        Err(match &caught {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report.message().to_owned(),
            CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
        })
    })
    .execute();
    restore();
    result
}

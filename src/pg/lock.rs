//! Locks on tables, and locks of our own on striped items, single stripes and the totals worker.
//!
//! Lock order of stripes: a sale shares the lock of the item and holds that of one stripe alone; a call that needs all
//! stripes holds the lock of the item alone, so that no call takes a lock for each of 256 stripes. A row lock cannot be
//! released before the transaction ends, and PostgreSQL keeps one even on a row that it then skips because it no longer
//! meets the condition: a sale that looked for a stripe with enough would keep those that had too little, in no order,
//! until two such sales wait for each other. So a stripe is locked here first, then its row; no session waits for the
//! row. These are advisory locks in a space of their own (pg_locks shows a third number from 3 on, which SQL functions
//! cannot use), held until the transaction ends. All locks belong to the transaction, see [`OfTransaction`].

use crate::core::item_id::ItemId;
use crate::pg::wait_event::{Shown, WaitEvent};
use pgrx::pg_sys::{self, LOCKTAG, Oid};

/// While it lives, locks belong to the (sub)transaction.
///
/// A cursor has a resource owner of its own: where it fails within a savepoint, PostgreSQL releases the locks that it
/// took, also those of calls that succeeded before the savepoint.
struct OfTransaction(pg_sys::ResourceOwner);

impl OfTransaction {
    fn begin() -> Self {
        // SAFETY: variables of the backend; there is a transaction, for a call runs.
        unsafe {
            let before = pg_sys::CurrentResourceOwner;
            pg_sys::CurrentResourceOwner = pg_sys::CurTransactionResourceOwner;
            Self(before)
        }
    }
}

impl Drop for OfTransaction {
    fn drop(&mut self) {
        // SAFETY: the owner that was in force before; while an error unwinds, PostgreSQL sets another one afterwards.
        unsafe { pg_sys::CurrentResourceOwner = self.0 };
    }
}

/// A resource owner that lets go of all that is taken while it is in force.
struct Passing {
    before: pg_sys::ResourceOwner,
    passing: pg_sys::ResourceOwner,
}

impl Passing {
    fn begin() -> Self {
        // SAFETY: variables of the backend; the new one ends with the one before, at the latest.
        unsafe {
            let before = pg_sys::CurrentResourceOwner;
            let passing = pg_sys::ResourceOwnerCreate(before, c"inventory_ext".as_ptr());
            pg_sys::CurrentResourceOwner = passing;
            Self { before, passing }
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // SAFETY: the owner that was in force before. While an error unwinds, PostgreSQL sets another one afterwards,
        // and releases the passing one with it.
        unsafe {
            pg_sys::CurrentResourceOwner = self.before;
            if !std::thread::panicking() {
                use pg_sys::ResourceReleasePhase as Phase;
                for phase in [
                    Phase::RESOURCE_RELEASE_BEFORE_LOCKS,
                    Phase::RESOURCE_RELEASE_LOCKS,
                    Phase::RESOURCE_RELEASE_AFTER_LOCKS,
                ] {
                    // As in an abort, which releases locks instead of handing them on.
                    pg_sys::ResourceOwnerRelease(self.passing, phase, false, false);
                }
                pg_sys::ResourceOwnerDelete(self.passing);
            }
        }
    }
}

/// Runs statements that only read, and releases the locks that they took. A session that keeps the lock of a table it
/// has read, and waits for another one, could deadlock with one that alters both.
pub fn releasing_locks<T>(read: impl FnOnce() -> T) -> T {
    let _passing = Passing::begin();
    read()
}

/// The modes in which tables are locked.
#[derive(Clone, Copy)]
pub enum TableLock {
    /// As a statement that reads rows.
    AccessShare,
    /// As a statement that writes rows.
    RowExclusive,
    /// As CREATE INDEX CONCURRENTLY and VACUUM.
    ShareUpdateExclusive,
    /// Against all writers, beside others of the kind.
    Share,
    /// Against all writers, alone.
    ShareRowExclusive,
    /// As ALTER TABLE.
    AccessExclusive,
}

impl TableLock {
    fn mode(self) -> pg_sys::LOCKMODE {
        (match self {
            Self::AccessShare => pg_sys::AccessShareLock,
            Self::RowExclusive => pg_sys::RowExclusiveLock,
            Self::ShareUpdateExclusive => pg_sys::ShareUpdateExclusiveLock,
            Self::Share => pg_sys::ShareLock,
            Self::ShareRowExclusive => pg_sys::ShareRowExclusiveLock,
            Self::AccessExclusive => pg_sys::AccessExclusiveLock,
        }) as pg_sys::LOCKMODE
    }
}

/// Locks a table, which need not exist, until the transaction ends.
pub fn lock_table(table: Oid, lock: TableLock) {
    let _owner = OfTransaction::begin();
    // SAFETY: locks an oid.
    unsafe { pg_sys::LockRelationOid(table, lock.mode()) };
}

/// The same where the lock is free; returns whether it was.
pub fn try_lock_table(table: Oid, lock: TableLock) -> bool {
    let _owner = OfTransaction::begin();
    // SAFETY: locks an oid.
    unsafe { pg_sys::ConditionalLockRelationOid(table, lock.mode()) }
}

/// Releases a lock of this transaction on a table; one that was taken before that stays.
pub fn unlock_table(table: Oid, lock: TableLock) {
    let _owner = OfTransaction::begin();
    // SAFETY: releases a lock taken before.
    unsafe { pg_sys::UnlockRelationOid(table, lock.mode()) };
}

/// Takes the locks of a statement that writes rows, in this order, and then reads the invalidation messages that came
/// before.
///
/// Taking a lock reads them too, but not where the transaction has the lock already; a schema can be renamed even then.
pub fn lock_for_writing(tables: &[Oid]) {
    if !tables.is_empty() {
        lock_and_look(tables, TableLock::RowExclusive);
    }
}

/// The same with locks of this mode, of which there may be none.
pub fn lock_and_look(tables: &[Oid], lock: TableLock) {
    tables.iter().for_each(|table| lock_table(*table, lock));
    // SAFETY: calls back into pg::invalidation, and into PostgreSQL's own caches.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// Locks tables against their writers, in this order.
///
/// CREATE INDEX CONCURRENTLY holds the weaker of the two locks while it waits for old transactions; they must not find
/// a request for the stronger one before them in the queue, or each would wait for the other. So the weaker lock comes
/// first, on all of the tables: it holds up no sale, and once it is granted no such command runs.
pub fn lock_alone(tables: &[Oid], lock: TableLock) {
    for lock in [TableLock::ShareUpdateExclusive, lock] {
        tables.iter().for_each(|table| lock_table(*table, lock));
    }
}

/// When this process last began to wait for a lock, of a row, a table or our own: another value after a statement says
/// that it waited. PostgreSQL starts the clock of its deadlock check where it does, and keeps the time.
pub fn last_wait() -> i64 {
    // Of utils/timeout.h, for which pgrx has no bindings; the number is the same in all versions.
    const DEADLOCK_TIMEOUT: std::ffi::c_uint = 1;
    unsafe extern "C-unwind" {
        fn get_timeout_start_time(id: std::ffi::c_uint) -> pg_sys::TimestampTz;
    }
    // SAFETY: reads a variable of the backend.
    unsafe { get_timeout_start_time(DEADLOCK_TIMEOUT) }
}

/// The lock that comes before all stripes of an item: one restock at a time.
pub const GATE: i16 = 0;

/// SQL functions use 1 and 2.
const FIRST_SPACE: u16 = 3;
/// The item as a whole: after the gate and 256 stripes.
pub const ITEM: i16 = 257;
const WORKER_SPACE: u16 = u16::MAX;
const LAUNCH_SPACE: u16 = u16::MAX - 1;
const AUDIT_SPACE: u16 = u16::MAX - 2;
/// The lock method of locks that are released one by one.
const USER_LOCKS: u16 = 2;

/// One lock of our own.
pub struct Lock(LOCKTAG);

/// The mode of a lock of our own.
#[derive(Clone, Copy)]
pub enum Mode {
    /// Beside others of the kind.
    Share,
    /// Alone.
    Exclusive,
}

impl Lock {
    /// Of one stripe of an item of a stock table, or of its gate. Two items of the table share a lock where their 32
    /// bits agree; they only wait for each other.
    pub fn of_stripe(stock: Oid, id: &ItemId, stripe: i16) -> Self {
        Self::new([stock.to_u32(), id.lock_word()], FIRST_SPACE + stripe.unsigned_abs())
    }

    /// Of a striped item as a whole.
    pub fn of_item(stock: Oid, id: &ItemId) -> Self {
        Self::of_stripe(stock, id, ITEM)
    }

    /// Of the totals worker for the tables of an owner.
    pub fn of_worker(owner: Oid) -> Self {
        Self::new([owner.to_u32(), 0], WORKER_SPACE)
    }

    /// Of the session that starts that totals worker.
    pub fn of_launch(owner: Oid) -> Self {
        Self::new([owner.to_u32(), 0], LAUNCH_SPACE)
    }

    /// Of the audit of a stock table that may write.
    pub fn of_audit(stock: Oid) -> Self {
        Self::new([stock.to_u32(), 0], AUDIT_SPACE)
    }

    fn new([locktag_field2, locktag_field3]: [u32; 2], locktag_field4: u16) -> Self {
        Self(LOCKTAG {
            // SAFETY: a variable of the backend, set once.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2,
            locktag_field3,
            locktag_field4,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: USER_LOCKS as u8,
        })
    }

    /// Waits for the lock.
    pub fn wait(&self, mode: Mode) {
        self.acquire(mode, false, false);
    }

    /// The same, while this process shows what it waits for.
    pub fn wait_shown(&self, mode: Mode, event: WaitEvent) {
        let _shown = Shown::begin(event);
        self.acquire(mode, false, false);
    }

    /// Takes the lock until the transaction ends, where it is free.
    pub fn take(&self, mode: Mode) -> bool {
        self.acquire(mode, false, true)
    }

    /// Takes the lock until this process ends, where it is free.
    pub fn take_for_session(&self) -> bool {
        self.acquire(Mode::Exclusive, true, true)
    }

    /// Whether this process has the lock alone.
    pub fn is_held_alone(&self) -> bool {
        let mode = number(Mode::Exclusive);
        // SAFETY: looks up the locks of this process.
        unsafe {
            #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
            return pg_sys::LockHeldByMe(&raw const self.0, mode);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            return pg_sys::LockHeldByMe(&raw const self.0, mode, false);
        }
    }

    /// Releases a lock that `wait` or `take` took.
    pub fn release(&self, mode: Mode) {
        let _owner = OfTransaction::begin();
        // SAFETY: releases a lock that this transaction took.
        unsafe { pg_sys::LockRelease(&raw const self.0, number(mode), false) };
    }

    /// Releases what `take_for_session` took; for the totals worker, which has no other advisory lock.
    pub fn release_for_session(&self) {
        // SAFETY: releases the advisory locks of this session.
        unsafe { pg_sys::LockReleaseSession(USER_LOCKS) };
    }

    fn acquire(&self, mode: Mode, session: bool, dont_wait: bool) -> bool {
        let _owner = OfTransaction::begin();
        // SAFETY: the tag is a value; PostgreSQL copies it.
        let result = unsafe { pg_sys::LockAcquire(&raw const self.0, number(mode), session, dont_wait) };
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

fn number(mode: Mode) -> pg_sys::LOCKMODE {
    match mode {
        Mode::Share => TableLock::Share.mode(),
        Mode::Exclusive => pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
    }
}

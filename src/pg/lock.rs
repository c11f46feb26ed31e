//! Locks on striped items and on single stripes, which can be tried and given back.
//!
//! A sale shares the lock of the item and holds that of one stripe alone; what needs all stripes of an item holds the lock of the
//! item alone, so that no call takes a lock for each of 256 stripes. A row lock cannot be given back before the transaction ends, and PostgreSQL keeps one even on a row that it then skips
//! because it no longer meets the condition: a sale that looked for a stripe with enough would go on holding those that had
//! too little, in no order, until two such sales wait for each other. So a stripe is locked here first, then its row; nobody
//! ever waits for the row. They are advisory locks in a space of their own (pg_locks shows a third number from 3 on, which
//! SQL functions cannot ask for), held until the transaction ends.

#![allow(unsafe_code)]

use crate::pg::role::OfTransaction;
use pgrx::Uuid;
use pgrx::pg_sys::{self, LOCKTAG};

/// The lock that comes before all stripes of an item: goods come in one after the other.
pub const GATE: i16 = 0;

/// SQL functions use 1 and 2.
const FIRST_SPACE: u16 = 3;
/// After the gate and 256 stripes.
const ITEM: i16 = 257;
const KEEPER_SPACE: u16 = u16::MAX;
const LAUNCH_SPACE: u16 = u16::MAX - 1;

/// One lock.
pub struct Lock(LOCKTAG);

/// How strong a lock is.
#[derive(Clone, Copy)]
pub enum Mode {
    /// Beside others of the kind.
    Share,
    /// Alone.
    Exclusive,
}

impl Lock {
    /// Of one stripe of an item, or of its gate. Two items share a lock where their 64 bits agree; they would only wait for
    /// each other.
    pub fn of_stripe(id: &Uuid, stripe: i16) -> Self {
        let bytes = id.as_bytes();
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|place| bytes[at + place]));
        Self::new([word(0) ^ word(8), word(4) ^ word(12)], FIRST_SPACE + stripe.unsigned_abs())
    }

    /// Of a striped item as a whole.
    pub fn of_item(id: &Uuid) -> Self {
        Self::of_stripe(id, ITEM)
    }

    /// Of whoever keeps the totals of this database up to date.
    pub fn of_keeper() -> Self {
        Self::new([0, 0], KEEPER_SPACE)
    }

    /// Of whoever starts the keeper.
    pub fn of_launch() -> Self {
        Self::new([0, 0], LAUNCH_SPACE)
    }

    fn new([locktag_field2, locktag_field3]: [u32; 2], locktag_field4: u16) -> Self {
        Self(LOCKTAG {
            // SAFETY: a variable of the backend, set once.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2,
            locktag_field3,
            locktag_field4,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: 2,
        })
    }

    /// Waits for the lock.
    pub fn wait(&self, mode: Mode) {
        self.acquire(mode, false, false);
    }

    /// Takes the lock where it is free, until the transaction ends.
    pub fn take(&self, mode: Mode) -> bool {
        self.acquire(mode, false, true)
    }

    /// Takes the lock where it is free, until this process ends.
    pub fn take_for_session(&self) -> bool {
        self.acquire(Mode::Exclusive, true, true)
    }

    /// Whether this transaction has the lock alone.
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

    /// Gives back what `wait` or `take` took.
    pub fn release(&self, mode: Mode) {
        let _owner = OfTransaction::begin();
        // SAFETY: releases a lock that this transaction took.
        unsafe { pg_sys::LockRelease(&raw const self.0, number(mode), false) };
    }

    /// Gives back what `take` and `take_for_session` took, however often.
    pub fn release_wholly(&self) {
        self.release(Mode::Exclusive);
        // SAFETY: releases the advisory locks of this session, which is the keeper's: it has no others.
        unsafe { pg_sys::LockReleaseSession(2) };
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
        Mode::Share => pg_sys::ShareLock as pg_sys::LOCKMODE,
        Mode::Exclusive => pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
    }
}

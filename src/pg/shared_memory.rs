//! Words of shared memory, which all backends of the server read and write, and one lock for what takes several steps.
//!
//! On PostgreSQL 17 and later the memory is a named segment that the first backend creates; before, it is reserved at
//! the server's start, where the library is in shared_preload_libraries. Each word is read and written atomically, so
//! that no process leaves a lock behind when it is killed; the one lock is PostgreSQL's, which an error or the exit of
//! its process releases. After a crash the server begins with new memory.

use pgrx::pg_sys;
use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// In front of the words: the lock, on cache lines of its own.
const LOCK_BYTES: usize = 128;

/// The word that says when the memory was made, in microseconds since 2000-01-01 00:00 UTC. All others begin at zero.
pub const MADE_AT: usize = 1;

/// The number of words, from the number of backends; set once, when the library is loaded.
static SIZE: OnceLock<fn(usize) -> usize> = OnceLock::new();
/// The same as a number, for PostgreSQL's callback, which has no argument for it.
static WORDS: AtomicUsize = AtomicUsize::new(0);
/// Where the memory begins, in this process; null, it was not attached.
static BEGIN: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Why it was not, in this process.
static FAILURE: OnceLock<Unavailable> = OnceLock::new();

/// Why there is no shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The library was not loaded at the server's start.
    NotPreloaded,
    /// The server could not create it, and said why.
    Failed(String),
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotPreloaded => f.write_str("inventory_ext is not in shared_preload_libraries"),
            Self::Failed(message) => f.write_str(message),
        }
    }
}

/// The memory.
#[derive(Clone, Copy)]
pub struct SharedMemory {
    /// The words.
    pub words: &'static [AtomicU64],
    lock: *mut pg_sys::LWLock,
}

/// Reserves the memory where the library is loaded at the server's start; called once a process.
pub fn register(size: fn(usize) -> usize) {
    let _ = SIZE.set(size);
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    hooks::register();
}

/// The most backends that there are at once.
pub fn backends() -> usize {
    // SAFETY: a variable of the server, set before any backend starts.
    unsafe { pg_sys::MaxBackends }.unsigned_abs() as usize
}

/// The number of this process, without a system call.
pub fn process() -> u32 {
    // SAFETY: a variable of the backend.
    unsafe { pg_sys::MyProcPid }.unsigned_abs()
}

/// The number of this backend, less than [`backends`].
pub fn own_place() -> Option<usize> {
    // SAFETY: a variable of the backend.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    let place = unsafe { pg_sys::MyProcNumber };
    // SAFETY: as above.
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    let place = unsafe { pg_sys::MyBackendId } - 1;
    usize::try_from(place).ok().filter(|place| *place < backends())
}

/// The memory of this server, attached by the first call in a process. A failure is remembered: not every call is to
/// pay for the attempt.
pub fn attach() -> Result<SharedMemory, &'static Unavailable> {
    if let Some(memory) = attached() {
        return Ok(memory);
    }
    if let Some(failure) = FAILURE.get() {
        return Err(failure);
    }
    let begin = create().map_err(|failure| FAILURE.get_or_init(|| failure))?;
    BEGIN.store(begin, Ordering::Relaxed);
    Ok(mapped(begin))
}

/// The same where it is attached already: for the end of a transaction, or of the process, which can attach nothing.
pub fn attached() -> Option<SharedMemory> {
    let begin = BEGIN.load(Ordering::Relaxed);
    (!begin.is_null()).then(|| mapped(begin))
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn create() -> Result<*mut c_void, Unavailable> {
    segment::create()
}

#[cfg(not(any(feature = "pg17", feature = "pg18")))]
fn create() -> Result<*mut c_void, Unavailable> {
    Err(Unavailable::NotPreloaded)
}

impl SharedMemory {
    /// Runs `act` while no other process runs anything under the lock.
    pub fn locked<T>(&self, act: impl FnOnce() -> T) -> T {
        // SAFETY: the lock was initialized with the memory; an error within `act` releases it.
        unsafe { pg_sys::LWLockAcquire(self.lock, pg_sys::LWLockMode::LW_EXCLUSIVE) };
        let result = act();
        // SAFETY: acquired above.
        unsafe { pg_sys::LWLockRelease(self.lock) };
        result
    }
}

fn words() -> usize {
    let words = SIZE.get().map_or(0, |size| size(backends()));
    WORDS.store(words, Ordering::Relaxed);
    words
}

fn bytes() -> usize {
    LOCK_BYTES + words() * size_of::<AtomicU64>()
}

fn mapped(begin: *mut c_void) -> SharedMemory {
    let count = WORDS.load(Ordering::Relaxed);
    // SAFETY: the memory has so many words behind the lock, stays mapped until the process ends, and is only accessed
    // through atomics; PostgreSQL aligns it to a cache line.
    unsafe {
        let first = begin.cast::<u8>().add(LOCK_BYTES).cast::<AtomicU64>();
        SharedMemory { words: std::slice::from_raw_parts(first, count), lock: begin.cast() }
    }
}

/// Initializes new memory.
///
/// # Safety
/// The memory has [`bytes`], and no other process has it yet.
unsafe extern "C-unwind" fn initialize(begin: *mut c_void) {
    // SAFETY: as the caller promises.
    unsafe {
        std::ptr::write_bytes(begin.cast::<u8>(), 0, LOCK_BYTES + WORDS.load(Ordering::Relaxed) * 8);
        pg_sys::LWLockInitialize(begin.cast(), pg_sys::LWLockNewTrancheId());
        let made_at = begin.cast::<u8>().add(LOCK_BYTES).cast::<i64>().add(MADE_AT);
        *made_at = pg_sys::GetCurrentTimestamp();
    }
}

/// Names the lock for pg_stat_activity, in this process.
fn name_lock(begin: *mut c_void) {
    // SAFETY: the lock was initialized; the name is static.
    unsafe {
        let tranche = (*begin.cast::<pg_sys::LWLock>()).tranche;
        pg_sys::LWLockRegisterTranche(i32::from(tranche), c"InventoryStats".as_ptr());
    }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
mod segment {
    use super::{Unavailable, bytes, c_void, initialize, name_lock, pg_sys};
    use crate::pg::encoding::c_text;
    use crate::pg::transaction::in_subtransaction;

    /// Creates or finds the segment, in a subtransaction: where that fails, what it held is released, and the call that
    /// wanted to be counted goes on.
    pub(super) fn create() -> Result<*mut c_void, Unavailable> {
        let size = bytes();
        // A library of another version may be loaded in other sessions: its memory has another size, and so a name.
        let name = c_text(&format!("inventory_ext {size}"));
        let attach = || {
            let mut found = false;
            // SAFETY: the name is a C string of less than 64 bytes; the callback initializes as many bytes.
            unsafe { pg_sys::GetNamedDSMSegment(name.as_ptr(), size, Some(initialize), &raw mut found) }
        };
        let attached = in_subtransaction(attach).map_err(Unavailable::Failed);
        attached.inspect(|begin| name_lock(*begin))
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
mod hooks {
    use super::{BEGIN, Ordering, bytes, initialize, name_lock, pg_sys};
    use pgrx::pg_guard;
    use std::cell::Cell;

    /// Its number in lwlocknames.h of these versions.
    const ADDIN_SHMEM_INIT_LOCK: usize = 21;

    thread_local! {
        /// The hook of another library, to be called on; set once, when the library is loaded.
        static NEXT_REQUEST: Cell<pg_sys::shmem_request_hook_type> = const { Cell::new(None) };
        /// The hook of another library, likewise.
        static NEXT_STARTUP: Cell<pg_sys::shmem_startup_hook_type> = const { Cell::new(None) };
    }

    pub(super) fn register() {
        // SAFETY: called from _PG_init, which runs before shared memory is created where the library is preloaded.
        unsafe {
            if pg_sys::process_shared_preload_libraries_in_progress {
                NEXT_REQUEST.set(pg_sys::shmem_request_hook);
                pg_sys::shmem_request_hook = Some(request);
                NEXT_STARTUP.set(pg_sys::shmem_startup_hook);
                pg_sys::shmem_startup_hook = Some(start);
            }
        }
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn request() {
        // SAFETY: the hooks of this phase are called on; the size does not change until the memory is created.
        unsafe {
            if let Some(next) = NEXT_REQUEST.get() {
                next();
            }
            pg_sys::RequestAddinShmemSpace(bytes());
        }
    }

    #[pg_guard]
    unsafe extern "C-unwind" fn start() {
        // SAFETY: as above; memory that is new is initialized under PostgreSQL's own lock.
        unsafe {
            if let Some(next) = NEXT_STARTUP.get() {
                next();
            }
            let mut found = false;
            let lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let begin = pg_sys::ShmemInitStruct(c"inventory_ext".as_ptr(), bytes(), &raw mut found);
            if !found {
                initialize(begin);
            }
            pg_sys::LWLockRelease(lock);
            name_lock(begin);
            BEGIN.store(begin, Ordering::Relaxed);
        }
    }
}

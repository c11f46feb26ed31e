//! The setting `inventory_ext.idempotency_key`, which knows in which transaction it was set.
//!
//! A key that outlives its transaction would, behind a pooler, make the calls of other customers into retries of one.
//! So each value carries a note of the transaction that set it. PostgreSQL keeps the note with the value, through
//! savepoints, functions with a SET clause, and errors. A value that was set before the library was loaded, as in a
//! session's first call, gets the note that it would have got.

use crate::pg::encoding;
use pgrx::pg_sys::{self, GucStack, config_generic, config_string};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};

const NAME: &CStr = c"inventory_ext.idempotency_key";

/// The idempotency key of the call, where one is set, and whether it was set in this transaction.
pub fn value() -> Option<(String, bool)> {
    let value = KEY.with(|key| key.value.get());
    // SAFETY: PostgreSQL keeps the value alive as long as it is in force; it is copied.
    let key = (!value.is_null()).then(|| encoding::from_c(unsafe { CStr::from_ptr(value) }))?;
    (!key.is_empty()).then(|| (key, KEY.with(|key| key.set_in.get()) == transaction()))
}

/// The value of the setting, where PostgreSQL keeps it, and the transaction that set it.
struct Key {
    value: Cell<*mut c_char>,
    set_in: Cell<u32>,
    /// So many values are still to be taken over from earlier transactions while the setting is being defined.
    committed: Cell<u32>,
}

thread_local! {
    /// PostgreSQL writes to it when the setting changes, so it is state of the backend.
    static KEY: Key =
        const { Key { value: Cell::new(std::ptr::null_mut()), set_in: Cell::new(0), committed: Cell::new(0) } };
}

/// The number of the transaction within this session; 0 outside of one.
fn transaction() -> u32 {
    // SAFETY: reads the entry of this process, where it has one.
    unsafe {
        if pg_sys::MyProc.is_null() {
            return 0;
        }
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).lxid;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return (*pg_sys::MyProc).vxid.lxid;
    }
}

/// Notes beside each value which transaction set it; PostgreSQL keeps the note with the value when it saves and
/// restores one.
unsafe extern "C-unwind" fn key_is_set(
    _: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL frees the note as it frees memory of this kind, whose size is that of the number.
    unsafe {
        let note = allocate(size_of::<u32>()).cast::<u32>();
        if note.is_null() {
            return false;
        }
        let committed = KEY.with(|key| key.committed.replace(key.committed.get().saturating_sub(1)));
        // RESET restores the value that the session began with, which is not of this transaction either.
        let by_statement = source == pg_sys::GucSource::PGC_S_SESSION;
        note.write(if committed == 0 && by_statement { transaction() } else { 0 });
        extra.write(note.cast());
    }
    true
}

unsafe extern "C-unwind" fn key_is_in_force(_: *const c_char, extra: *mut c_void) {
    // SAFETY: the note that key_is_set made for this value.
    let set_in = if extra.is_null() { 0 } else { unsafe { extra.cast::<u32>().read() } };
    KEY.with(|key| key.set_in.set(set_in));
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
unsafe fn allocate(size: usize) -> *mut c_void {
    unsafe extern "C" {
        fn malloc(size: usize) -> *mut c_void;
    }
    // SAFETY: as the caller of the hook will free it.
    unsafe { malloc(size) }
}

#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
unsafe fn allocate(size: usize) -> *mut c_void {
    // SAFETY: as the caller of the hook will free it.
    unsafe { pg_sys::guc_malloc(pg_sys::LOG as i32, size) }
}

/// Makes the setting known to the server; called once a backend.
pub fn define() {
    // SAFETY: called from _PG_init, before the setting is defined.
    KEY.with(|key| key.committed.set(unsafe { committed_values() }));
    // SAFETY: the name and texts are constants, the value lives as long as the thread, and so as the backend.
    KEY.with(|key| unsafe {
        pg_sys::DefineCustomStringVariable(
            NAME.as_ptr(),
            c"The idempotency key of the next call.".as_ptr(),
            c"Used where a function is not given p_idempotency_key; must be set in the transaction of the call."
                .as_ptr(),
            key.value.as_ptr(),
            std::ptr::null(),
            pg_sys::GucContext::PGC_USERSET,
            0,
            Some(key_is_set),
            Some(key_is_in_force),
            None,
        );
        key.committed.set(0);
    });
}

/// How many values PostgreSQL will hand to the new setting that no statement of this transaction has set.
///
/// A setting of an unknown library is kept as a text with a stack of the values before it, one entry for each level of
/// this transaction that has set it. Defining the setting hands over, in this order: its built-in value; the value that
/// the session began with; the one at the bottom of the stack, if it is another; then those that this transaction set.
///
/// # Safety
/// To be called before the setting is defined.
unsafe fn committed_values() -> u32 {
    // SAFETY: the entry, where there is one, and its stack live until the setting is defined; such an entry is a text.
    unsafe {
        let Some(entry) = entry(NAME) else { return 1 };
        let (text, entry) = (&*entry.cast::<config_string>(), &*entry);
        let mut value = *text.variable;
        let mut set_by = (entry.scontext, entry.source, entry.srole);
        let mut stack: *mut GucStack = entry.stack;
        while !stack.is_null() {
            value = (*stack).prior.val.stringval;
            set_by = ((*stack).scontext, (*stack).source, (*stack).srole);
            stack = (*stack).prev;
        }
        let began_with = (entry.reset_scontext, entry.reset_source, entry.reset_srole);
        let another = value != text.reset_val || set_by != began_with;
        1 + u32::from(!text.reset_val.is_null()) + u32::from(another)
    }
}

/// Whether a setting has a value that a statement of this transaction has set.
pub fn is_set_in_transaction(name: &CStr) -> bool {
    // SAFETY: the entry lives as long as the setting; PostgreSQL stacks the value before, until the transaction ends.
    entry(name).is_some_and(|entry| unsafe {
        !(*entry).stack.is_null() && (*entry).source == pg_sys::GucSource::PGC_S_SESSION
    })
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
fn entry(name: &CStr) -> Option<*mut config_generic> {
    // SAFETY: PostgreSQL's own list of settings, as long as it says.
    unsafe {
        let count = usize::try_from(pg_sys::GetNumConfigOptions()).unwrap_or(0);
        let all = std::slice::from_raw_parts(pg_sys::get_guc_variables(), count);
        all.iter().copied().find(|entry| CStr::from_ptr((**entry).name) == name)
    }
}

#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
fn entry(name: &CStr) -> Option<*mut config_generic> {
    // SAFETY: looks a setting up; a missing one is NULL, and no error.
    let entry = unsafe { pg_sys::find_option(name.as_ptr(), false, true, pg_sys::DEBUG5 as i32) };
    (!entry.is_null()).then_some(entry)
}

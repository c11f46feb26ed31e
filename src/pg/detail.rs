//! Withholds the row that PostgreSQL shows where a constraint refuses it.
//!
//! PostgreSQL shows as much of the row as the role in force may read. While a statement runs as the owner of the table
//! that is all of it, also columns that the caller may not read.

use pgrx::pg_sys;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use std::ffi::{c_char, c_int, c_void};

const WITHHELD: &std::ffi::CStr = c"The row is not shown: the statement ran as the owner of the table.";

unsafe extern "C-unwind" {
    /// Not among pgrx's bindings, which have no variadic functions.
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
}

/// The time during which rows are withheld.
pub struct Withheld(Box<pg_sys::ErrorContextCallback>);

/// Withholds rows until the result is dropped, in the reverse order of its making.
pub fn withhold() -> Withheld {
    // SAFETY: reads and writes the head of a list of the backend. The entry is boxed, so it stays where it is until it
    // is taken off the list again: by its drop, also while an error of PostgreSQL unwinds.
    unsafe {
        let previous = pg_sys::error_context_stack;
        let entry = pg_sys::ErrorContextCallback { previous, callback: Some(remove), arg: std::ptr::null_mut() };
        let mut entry = Box::new(entry);
        pg_sys::error_context_stack = &raw mut *entry;
        Withheld(entry)
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        // SAFETY: takes the entry off the list, and all that were put on it later.
        unsafe { pg_sys::error_context_stack = self.0.previous };
    }
}

/// Called for every report, before it is sent.
unsafe extern "C-unwind" fn remove(_: *mut c_void) {
    // SAFETY: a report is being made. Its copy is made outside of the memory that is kept for reports, and freed.
    unsafe {
        // The class of a SQLSTATE is in its low twelve bits.
        let class = |code: c_int| code & 0xfff;
        let code = pg_sys::geterrcode();
        let of_view = code == PgSqlErrorCode::ERRCODE_WITH_CHECK_OPTION_VIOLATION as c_int;
        if !of_view && class(code) != class(PgSqlErrorCode::ERRCODE_CHECK_VIOLATION as c_int) {
            return;
        }
        let reporting = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
        let copy = pg_sys::CopyErrorData();
        // Code of the owner that raises an error of its own names no table.
        let is_of_constraint = !(*copy).detail.is_null() && (of_view || !(*copy).table_name.is_null());
        pg_sys::FreeErrorData(copy);
        pg_sys::CurrentMemoryContext = reporting;
        if is_of_constraint {
            errdetail_internal(c"%s".as_ptr(), WITHHELD.as_ptr());
        }
    }
}

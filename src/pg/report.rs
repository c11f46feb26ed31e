//! Reports errors and notices to PostgreSQL.
//!
//! pgrx has no safe function for a SQLSTATE of our own class. `raise` unwinds to PostgreSQL's handler; `finish` jumps
//! there, and may only be called by the outermost function.

use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::pg::encoding::{c_text, to_server};
use crate::pg::settings::{self, ErrorStyle};
use pgrx::PgLogLevel;
use pgrx::pg_sys;
use serde_json::Value;
use std::ffi::CString;

impl Error {
    /// Raises the error; PostgreSQL aborts the statement. All frames between here and PostgreSQL are unwound.
    pub fn raise(self) -> ! {
        let (sqlstate, message) = self.in_style();
        let detail = spaced(&Value::Object(self.detail));
        report(PgLogLevel::ERROR as i32, sqlstate, &message, Some(&detail), Some(self.hint));
        unreachable!("an error report of level ERROR does not return")
    }

    /// SQLSTATE and MESSAGE in the error style in force.
    fn in_style(&self) -> (&'static str, String) {
        match (settings::error_style(), self.code.postgrest) {
            (ErrorStyle::Postgrest, Some([sqlstate, constant])) => (sqlstate, constant.to_owned()),
            _ => (self.code.sqlstate, self.message.clone()),
        }
    }

    /// The report, with texts that PostgreSQL frees with the memory of the failed call; the error itself is dropped.
    fn into_error_data(self) -> pg_sys::ErrorData {
        let (sqlstate, message) = self.in_style();
        let detail = spaced(&Value::Object(self.detail));
        let [message, detail, hint] = [message.as_str(), &detail, self.hint].map(palloced);
        let (elevel, sqlerrcode) = (PgLogLevel::ERROR as i32, packed(sqlstate));
        pg_sys::ErrorData { elevel, sqlerrcode, message, detail, hint, ..Default::default() }
    }
}

/// The result of a public function, in the encoding of the database; or its error.
///
/// To be called last, by the function that PostgreSQL called, with no value left to be dropped: PostgreSQL jumps from
/// here to where it handles errors, as from a C function. Unwinding to the same place costs more than the refused call
/// itself.
pub fn finish(result: Result<String>) -> Vec<u8> {
    let report = match result {
        Ok(json) => return to_server(&json),
        Err(error) => error.into_error_data(),
    };
    // The box of the error is freed by now: after the jump it would leak.
    jump(report)
}

/// A copy that PostgreSQL frees with the memory of the failed call.
fn palloced(text: &str) -> *mut std::ffi::c_char {
    let text = c_text(text);
    // SAFETY: copies a C string into the memory context of the call.
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}

fn jump(mut data: pg_sys::ErrorData) -> ! {
    unsafe extern "C-unwind" {
        // pgrx's own binding catches the jump and unwinds instead.
        #[link_name = "ThrowErrorData"]
        fn throw_error_data(data: *mut pg_sys::ErrorData);
    }
    // SAFETY: the texts live in memory of PostgreSQL. The frames that are jumped over, this one, `finish`, the public
    // function and pgrx's wrapper of it, hold nothing that must be dropped.
    unsafe { throw_error_data(&raw mut data) };
    unreachable!("an error report of level ERROR does not return")
}

/// A NOTICE to the caller.
pub fn notice(message: &str) {
    report(PgLogLevel::NOTICE as i32, "00000", message, None, None);
}

/// A message for those who ask for it.
pub fn debug(message: &str) {
    report(PgLogLevel::DEBUG1 as i32, "00000", message, None, None);
}

/// A line in the server's log.
pub fn log(message: &str, hint: &str) {
    report(PgLogLevel::LOG as i32, "01000", message, None, Some(hint));
}

/// A WARNING to the caller, with a hint.
pub fn warning(message: &str, hint: &str) {
    report(PgLogLevel::WARNING as i32, "01000", message, None, Some(hint));
}

fn report(elevel: i32, sqlstate: &str, message: &str, detail: Option<&str>, hint: Option<&str>) {
    let message = c_text(message);
    let detail = detail.map(c_text);
    let hint = hint.map(c_text);
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut());
    let mut data = pg_sys::ErrorData {
        elevel,
        sqlerrcode: packed(sqlstate),
        message: message.as_ptr().cast_mut(),
        detail: pointer(&detail),
        hint: pointer(&hint),
        ..Default::default()
    };
    // SAFETY: ThrowErrorData reads the struct and copies every text before it returns or raises; the texts outlive the
    // call. pgrx turns the raise into an unwinding that keeps the report on PostgreSQL's error stack.
    unsafe { pg_sys::ThrowErrorData(&raw mut data) }
}

/// The five characters of a SQLSTATE in six bits each, as PostgreSQL's MAKE_SQLSTATE packs them.
fn packed(sqlstate: &str) -> i32 {
    sqlstate
        .bytes()
        .enumerate()
        .fold(0, |code, (place, byte)| code | (i32::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * place)))
}

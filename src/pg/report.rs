//! Hands errors and notices to PostgreSQL.
//!
//! This module may be unsafe: a SQLSTATE of our own class has no safe road through pgrx. `raise` unwinds to PostgreSQL's handler;
//! `answered` jumps there, and may only be called by the outermost function.

#![allow(unsafe_code)]

use crate::core::error::{Fault, Outcome};
use crate::core::json::spaced;
use crate::pg::encoding::{c_text, to_server};
use pgrx::PgLogLevel;
use pgrx::pg_sys;
use serde_json::Value;
use std::ffi::CString;

impl Fault {
    /// Raises the error; PostgreSQL aborts the statement. Everything between here and PostgreSQL is unwound.
    pub fn raise(self) -> ! {
        self.report(PgLogLevel::ERROR as i32);
        unreachable!("an error report of level ERROR does not return")
    }

    /// The report, with texts that PostgreSQL frees with the memory of the failed call; of the fault itself nothing is left.
    fn into_error_data(self) -> pg_sys::ErrorData {
        let sqlerrcode = packed(self.sqlstate);
        let told = spaced(&Value::Object(self.detail));
        let [message, detail, hint] = [self.message.as_str(), &told, self.hint].map(palloced);
        pg_sys::ErrorData { elevel: PgLogLevel::ERROR as i32, sqlerrcode, message, detail, hint, ..Default::default() }
    }

    fn report(self, elevel: i32) {
        let detail = spaced(&Value::Object(self.detail));
        report(elevel, self.sqlstate, &self.message, Some(&detail), Some(self.hint));
    }
}

/// The answer of a public function, as PostgreSQL takes it; or its error.
///
/// To be called last, by the function that PostgreSQL called, with nothing left to be dropped: PostgreSQL jumps from here to
/// where it handles errors, as from a C function. An unwinding to the same place costs more than the refused call itself.
pub fn answered(outcome: Outcome<String>) -> Vec<u8> {
    let report = match outcome {
        Ok(answer) => return to_server(&answer),
        Err(fault) => fault.into_error_data(),
    };
    // The box of the fault is freed by now: after the jump nobody would.
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
    // SAFETY: the texts live in memory of PostgreSQL. The frames that are jumped over, this one, `answered`, the public function
    // and pgrx's wrapper of it, hold nothing that must be dropped.
    unsafe { throw_error_data(&raw mut data) };
    unreachable!("an error report of level ERROR does not return")
}

/// A NOTICE to the caller.
pub fn notice(message: &str) {
    report(PgLogLevel::NOTICE as i32, "00000", message, None, None);
}

/// A line in the server's log.
pub fn log(message: &str, hint: &str) {
    report(PgLogLevel::LOG as i32, "01000", message, None, Some(hint));
}

/// A WARNING to the caller, with what can be done about it.
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

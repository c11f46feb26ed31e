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
use pgrx::pg_sys::panic::CaughtError;
use serde_json::Value;
use std::cell::Cell;
use std::ffi::CString;

thread_local! {
    /// The hook of another library, to be called on; set once, when the library is loaded.
    static NEXT: Cell<pg_sys::emit_log_hook_type> = const { Cell::new(None) };
    /// The error that is raised is a refusal: PostgreSQL's hook has no argument of ours.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

const SHORTAGE: &str = "IV001";

/// Keeps refusals out of the server's log where that is asked for; called once a process.
pub fn register() {
    // SAFETY: called from _PG_init; the library is never unloaded.
    unsafe {
        NEXT.set(pg_sys::emit_log_hook);
        pg_sys::emit_log_hook = Some(filter_log);
    }
}

unsafe extern "C-unwind" fn filter_log(data: *mut pg_sys::ErrorData) {
    // SAFETY: PostgreSQL calls with an error that it is about to report; a hook calls the next one.
    unsafe {
        let code = (*data).sqlerrcode.cast_unsigned();
        if REFUSED.take() && !settings::log_refusals() && [packed(SHORTAGE), packed("PT409")].contains(&code) {
            (*data).output_to_server = false;
        }
        if let Some(next) = NEXT.get() {
            next(data);
        }
    }
}

impl Error {
    /// Raises the error; PostgreSQL aborts the statement. All frames between here and PostgreSQL are unwound.
    pub fn raise(self) -> ! {
        let (sqlstate, message) = self.in_style();
        let detail = spaced(&Value::Object(self.detail));
        report(PgLogLevel::ERROR as i32, sqlstate, &message, Some(&detail), Some(self.hint));
        unreachable!("an error report of level ERROR does not return")
    }

    /// SQLSTATE and MESSAGE in the error style in force, for an error that is about to be raised.
    fn in_style(&self) -> (&'static str, String) {
        REFUSED.set(self.code.sqlstate == SHORTAGE);
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
        let (elevel, sqlerrcode) = (PgLogLevel::ERROR as i32, packed(sqlstate).cast_signed());
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

/// A line in the server's log, with facts.
pub fn log_with(message: &str, facts: &Value) {
    report(PgLogLevel::LOG as i32, "00000", message, Some(&spaced(facts)), None);
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
        sqlerrcode: packed(sqlstate).cast_signed(),
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
pub fn packed(sqlstate: &str) -> u32 {
    let bits = |byte: u8| u32::from(byte.wrapping_sub(b'0') & 0x3f);
    sqlstate.bytes().enumerate().fold(0, |code, (place, byte)| code | (bits(byte) << (6 * place)))
}

/// The five characters of a packed SQLSTATE.
pub fn unpacked(code: u32) -> String {
    (0..5).map(|place| char::from(b'0' + (code >> (6 * place) & 0x3f) as u8)).collect()
}

/// The packed SQLSTATE of an error that unwinds.
pub fn sqlstate_of_panic(payload: &(dyn std::any::Any + Send)) -> u32 {
    match payload.downcast_ref() {
        // pgrx knows only codes that are PostgreSQL's own; the error itself is still on PostgreSQL's stack.
        // SAFETY: there is an error on it.
        Some(CaughtError::PostgresError(_)) => unsafe { pg_sys::geterrcode() }.cast_unsigned(),
        Some(CaughtError::ErrorReport(report) | CaughtError::RustPanic { ereport: report, .. }) => {
            (report.sql_error_code() as i32).cast_unsigned()
        }
        None => packed("XX000"),
    }
}

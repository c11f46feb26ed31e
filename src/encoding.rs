//! Text on its way between Rust, which is UTF-8, and a database, which may have another encoding.

#![allow(unsafe_code)]

use pgrx::pg_sys;
use std::ffi::{CStr, CString};

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;

/// Text in the encoding of the database.
///
/// Raises PostgreSQL's own error 22P05 where a character does not exist there.
pub fn to_server(text: &str) -> Vec<u8> {
    // SAFETY: the text is alive and of the length that is passed; the conversion gives back the same pointer or a new
    // NUL-terminated text.
    convert(text.as_bytes(), |bytes| unsafe {
        pg_sys::pg_any_to_server(bytes.as_ptr().cast(), bytes.len() as i32, UTF8)
    })
}

/// Text from the encoding of the database.
pub fn from_server(bytes: &[u8]) -> String {
    // SAFETY: as above, the other way.
    let text =
        convert(bytes, |bytes| unsafe { pg_sys::pg_server_to_any(bytes.as_ptr().cast(), bytes.len() as i32, UTF8) });
    String::from_utf8(text).unwrap_or_else(|broken| String::from_utf8_lossy(broken.as_bytes()).into_owned())
}

/// Text in the encoding of the database, for C; cut at a NUL, which no text of PostgreSQL has.
pub fn c_text(text: &str) -> CString {
    let mut bytes = to_server(text);
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    CString::new(bytes).unwrap_or_default()
}

/// A C string in the encoding of the database.
pub fn from_c(text: &CStr) -> String {
    from_server(text.to_bytes())
}

fn convert(bytes: &[u8], conversion: impl Fn(&[u8]) -> *mut std::ffi::c_char) -> Vec<u8> {
    // SAFETY: reads a variable of the backend.
    if bytes.is_ascii() || unsafe { pg_sys::GetDatabaseEncoding() } == UTF8 {
        return bytes.to_vec();
    }
    let converted = conversion(bytes);
    if converted.cast_const().cast() == bytes.as_ptr() {
        return bytes.to_vec();
    }
    // SAFETY: a new text of the conversion, freed once it is copied.
    unsafe {
        let copy = CStr::from_ptr(converted).to_bytes().to_vec();
        pg_sys::pfree(converted.cast());
        copy
    }
}

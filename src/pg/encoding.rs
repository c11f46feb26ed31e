//! Text on its way between Rust, which is UTF-8, and a database, which may have another encoding.
//!
//! A character that the other side cannot hold becomes an escape, `\u0141` on the way in and `\xFC` on the way out: a
//! sale must not fail for the name of who makes it.

use pgrx::pg_sys;
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt::Write;

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;
const SQL_ASCII: i32 = pg_sys::pg_enc::PG_SQL_ASCII as i32;

fn database_encoding() -> i32 {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetDatabaseEncoding() }
}

/// Text in the encoding of the database.
pub fn to_server(text: &str) -> Vec<u8> {
    let encoding = database_encoding();
    // SQL_ASCII means that the database takes any bytes.
    if text.is_ascii() || encoding == UTF8 || encoding == SQL_ASCII {
        return text.as_bytes().to_vec();
    }
    convert(text.as_bytes(), UTF8, encoding, |rest| {
        let character = std::str::from_utf8(rest).ok().and_then(|rest| rest.chars().next());
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        let mut escape = String::new();
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            // Writing to a String does not fail.
            let _ = write!(escape, "\\u{unit:04x}");
        }
        (escape, character.len_utf8())
    })
}

/// Text from the encoding of the database.
pub fn from_server(bytes: &[u8]) -> String {
    from_server_with(bytes, "\\x")
}

/// The same as bytes, which are copied where they have to be converted; those of SQL_ASCII are what they are.
pub fn utf8(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.is_ascii() || [UTF8, SQL_ASCII].contains(&database_encoding()) {
        return Cow::Borrowed(bytes);
    }
    Cow::Owned(from_server(bytes).into_bytes())
}

/// The same where no character had to become an escape; else that text as the error.
pub fn exact_from_server(bytes: &[u8]) -> Result<String, String> {
    let text = from_server(bytes);
    if bytes.is_ascii() || to_server(&text) == bytes { Ok(text) } else { Err(text) }
}

/// JSON text from the encoding of the database: the escape is one that JSON reads as such.
pub fn json_from_c(text: &CStr) -> String {
    from_server_with(text.to_bytes(), "\\\\x")
}

fn from_server_with(bytes: &[u8], sign: &str) -> String {
    let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("{sign}{byte:02X}")).collect::<String>();
    let encoding = database_encoding();
    let text = if bytes.is_ascii() || encoding == UTF8 || encoding == SQL_ASCII {
        bytes.to_vec()
    } else {
        convert(bytes, encoding, UTF8, |rest| (escaped(&rest[..1]), 1))
    };
    String::from_utf8(text).unwrap_or_else(|broken| {
        let chunks = broken.as_bytes().utf8_chunks();
        chunks.map(|chunk| chunk.valid().to_owned() + &escaped(chunk.invalid())).collect()
    })
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

/// Converts all convertible characters; `escape` returns an ASCII text for the first other one, and its length.
fn convert(bytes: &[u8], from: i32, to: i32, escape: impl Fn(&[u8]) -> (String, usize)) -> Vec<u8> {
    // SAFETY: looks a conversion up; there may be none.
    let conversion = unsafe { pg_sys::FindDefaultConversionProc(from, to) };
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (converted, used) = if conversion == pg_sys::InvalidOid {
            let ascii = rest.iter().take_while(|byte| byte.is_ascii()).count();
            (rest[..ascii].to_vec(), ascii)
        } else {
            convert_prefix(conversion, rest, from, to)
        };
        result.extend(converted);
        rest = &rest[used..];
        if !rest.is_empty() {
            let (text, length) = escape(rest);
            result.extend(text.into_bytes());
            rest = &rest[length.clamp(1, rest.len())..];
        }
    }
    result
}

fn convert_prefix(conversion: pg_sys::Oid, bytes: &[u8], from: i32, to: i32) -> (Vec<u8>, usize) {
    let mut source = bytes.to_vec();
    let mut target = vec![0_u8; bytes.len() * pg_sys::MAX_CONVERSION_GROWTH as usize + 1];
    // SAFETY: both buffers are of the lengths that are passed; the conversion stops at a character that it cannot
    // convert, and ends its output with a NUL.
    let used = unsafe {
        pg_sys::pg_do_encoding_conversion_buf(
            conversion,
            from,
            to,
            source.as_mut_ptr(),
            source.len() as i32,
            target.as_mut_ptr(),
            target.len() as i32,
            true,
        )
    };
    let length = target.iter().position(|&byte| byte == 0).unwrap_or(target.len());
    target.truncate(length);
    (target, usize::try_from(used).unwrap_or(0).min(bytes.len()))
}

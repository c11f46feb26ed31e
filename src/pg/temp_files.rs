//! Records in temporary files of the backend, so that memory does not grow with their number.
//!
//! Records are divided by a hash of what belongs together; each part is then read as a whole. The files count for
//! `temp_file_limit` and go when the transaction ends, however it ends.

use crate::core::error::{Error, Result};
use pgrx::pg_sys;

/// Files, one for each part.
pub struct TempFiles(Vec<TempFile>);

struct TempFile {
    file: *mut pg_sys::BufFile,
    /// The bytes that were written to the file.
    size: usize,
    /// What comes after them, a page at most: most records are small.
    rest: Vec<u8>,
}

const PAGE: usize = pg_sys::BLCKSZ as usize;

impl Drop for TempFiles {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for part in &self.0 {
                // SAFETY: opened by `new`, closed once; an abort closes it otherwise.
                unsafe { pg_sys::BufFileClose(part.file) };
            }
        }
    }
}

impl TempFiles {
    /// So many empty parts, for as long as the SPI connection that is open.
    pub fn new(parts: usize) -> Self {
        // SAFETY: creates a file that belongs to the resource owner in force.
        let part = |_| TempFile { file: unsafe { pg_sys::BufFileCreateTemp(false) }, size: 0, rest: Vec::new() };
        Self((0..parts.max(1)).map(part).collect())
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.0.len()
    }

    /// Adds bytes to a part.
    pub fn write(&mut self, part: usize, bytes: &[u8]) {
        let part = &mut self.0[part];
        if part.rest.len() + bytes.len() > PAGE {
            part.flush();
        }
        part.rest.extend(bytes);
    }

    /// Reads a part as a whole.
    pub fn read(&self, part: usize) -> Result<Vec<u8>> {
        let TempFile { file, size, rest } = &self.0[part];
        let mut bytes = Vec::new();
        let length = size + rest.len();
        bytes.try_reserve_exact(length).map_err(|_| Error::out_of_memory(length))?;
        bytes.resize(*size, 0_u8);
        // SAFETY: the file is open, and the buffer has room for as much as is read.
        let read = unsafe {
            pg_sys::BufFileSeek(*file, 0, 0, 0);
            pg_sys::BufFileRead(*file, bytes.as_mut_ptr().cast(), *size)
        };
        if read != *size {
            return Err(Error::internal("a temporary file is shorter than it was written"));
        }
        bytes.extend(rest);
        Ok(bytes)
    }
}

impl TempFile {
    fn flush(&mut self) {
        // SAFETY: the file is open; the bytes are only read.
        unsafe { pg_sys::BufFileWrite(self.file, self.rest.as_ptr().cast_mut().cast(), self.rest.len()) };
        self.size += self.rest.len();
        self.rest.clear();
    }
}

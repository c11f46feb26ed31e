//! Records in temporary files of the backend, so that memory does not grow with their number.
//!
//! Records are divided by a hash of what belongs together; each part is then read as a whole, or from its beginning
//! on. The files count for `temp_file_limit` and go when the transaction ends, however it ends.

use crate::core::error::{Error, Result};
use pgrx::pg_sys;
use std::io::{self, Read};

/// Files, one for each part.
pub struct TempFiles(Vec<TempFile>);

struct TempFile {
    file: *mut pg_sys::BufFile,
    /// The bytes that were written to the file.
    size: usize,
    /// What comes after them, a page at most: most records are small.
    rest: Vec<u8>,
    records: u64,
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
        let part = |_| {
            // SAFETY: creates a file that belongs to the resource owner in force.
            let file = unsafe { pg_sys::BufFileCreateTemp(false) };
            TempFile { file, size: 0, rest: Vec::new(), records: 0 }
        };
        Self((0..parts.max(1)).map(part).collect())
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.0.len()
    }

    /// The bytes of a part.
    pub fn size(&self, part: usize) -> usize {
        self.0[part].size + self.0[part].rest.len()
    }

    /// The records of a part.
    pub fn records(&self, part: usize) -> u64 {
        self.0[part].records
    }

    /// Adds a record to a part.
    pub fn write(&mut self, part: usize, bytes: &[u8]) {
        let part = &mut self.0[part];
        part.records += 1;
        if part.rest.len() + bytes.len() > PAGE {
            part.flush();
        }
        part.rest.extend(bytes);
    }

    /// Reads a part as a whole.
    pub fn read(&self, part: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let length = self.size(part);
        bytes.try_reserve_exact(length).map_err(|_| Error::out_of_memory(length))?;
        bytes.resize(length, 0_u8);
        let read = self.reader(part).read_exact(&mut bytes);
        read.map_err(|_| Error::internal("a temporary file is shorter than it was written"))?;
        Ok(bytes)
    }

    /// Reads a part from its beginning on. One reader of a part at a time.
    pub fn reader(&self, part: usize) -> PartReader<'_> {
        let part = &self.0[part];
        // SAFETY: the file is open.
        unsafe { pg_sys::BufFileSeek(part.file, 0, 0, 0) };
        PartReader { part, position: 0 }
    }
}

/// Reads a part.
pub struct PartReader<'a> {
    part: &'a TempFile,
    position: usize,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let TempFile { file, size, rest, .. } = self.part;
        let read = if self.position < *size {
            let length = buffer.len().min(size - self.position);
            // SAFETY: the file is open, and the buffer has room for as much as is read.
            unsafe { pg_sys::BufFileRead(*file, buffer.as_mut_ptr().cast(), length) }
        } else {
            rest.get(self.position - size..).unwrap_or_default().read(buffer)?
        };
        self.position += read;
        Ok(read)
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

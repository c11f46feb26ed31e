//! PostgreSQL's sort of byte strings: in memory as far as that goes, then in temporary files, which count for
//! `temp_file_limit` and go when the transaction ends, however it ends.
//!
//! It sorts tuples of one column, because a sort of values does not count the memory of a bytea.

use crate::core::error::{Error, Result};
use pgrx::pg_sys::{self, Datum, TupleTableSlot};
use pgrx::{IntoDatum, varlena_to_byte_slice};
use std::ptr::null_mut;

/// The memory of a sort, in kB.
const MEMORY: i32 = 16 << 10;

/// Byte strings that are sorted, for as long as the SPI connection that is open.
pub struct Sort {
    state: *mut pg_sys::Tuplesortstate,
    /// What is added.
    added: *mut TupleTableSlot,
    /// What is read.
    read: *mut TupleTableSlot,
}

impl Drop for Sort {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `begin`, ended once; an abort ends them otherwise.
            unsafe {
                pg_sys::tuplesort_end(self.state);
                pg_sys::ExecDropSingleTupleTableSlot(self.added);
                pg_sys::ExecDropSingleTupleTableSlot(self.read);
            }
        }
    }
}

impl Sort {
    /// Of nothing so far.
    pub fn begin() -> Self {
        // SAFETY: bytea has an order, and no collation; no worker sorts with this one. The arrays have one element,
        // for the one column, and are copied.
        unsafe {
            let row = pg_sys::CreateTemplateTupleDesc(1);
            pg_sys::TupleDescInitEntry(row, 1, c"bytes".as_ptr(), pg_sys::BYTEAOID, -1, 0);
            let mut order = (*pg_sys::lookup_type_cache(pg_sys::BYTEAOID, pg_sys::TYPECACHE_LT_OPR as i32)).lt_opr;
            let (mut column, mut collation, mut nulls_first) = (1, pg_sys::InvalidOid, false);
            let state = pg_sys::tuplesort_begin_heap(
                row,
                1,
                &mut column,
                &mut order,
                &mut collation,
                &mut nulls_first,
                MEMORY,
                null_mut(),
                Default::default(),
            );
            let added = pg_sys::MakeSingleTupleTableSlot(row, &raw const pg_sys::TTSOpsVirtual);
            let read = pg_sys::MakeSingleTupleTableSlot(row, &raw const pg_sys::TTSOpsMinimalTuple);
            pg_sys::ExecStoreAllNullTuple(added);
            Self { state, added, read }
        }
    }

    /// Adds a byte string.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let datum: Datum = bytes.into_datum().ok_or_else(|| Error::internal("a byte string is none"))?;
        // SAFETY: the sort is not performed yet, and copies the one column of the slot; the value is ours to free.
        unsafe {
            *(*self.added).tts_values = datum;
            *(*self.added).tts_isnull = false;
            pg_sys::tuplesort_puttupleslot(self.state, self.added);
            pg_sys::pfree(datum.cast_mut_ptr());
        }
        Ok(())
    }

    /// Sorts them, and reads one after the other.
    pub fn each(self, mut act: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        // SAFETY: all are added, and this is the only place that sorts them, once.
        unsafe { pg_sys::tuplesort_performsort(self.state) };
        // SAFETY: the sort is performed.
        while unsafe { pg_sys::tuplesort_gettupleslot(self.state, true, false, self.read, null_mut()) } {
            // SAFETY: the slot has a tuple, whose one column is a bytea that is not compressed; it is there until the
            // next one is read.
            let bytes = unsafe {
                pg_sys::slot_getsomeattrs_int(self.read, 1);
                varlena_to_byte_slice((*(*self.read).tts_values).cast_mut_ptr())
            };
            act(bytes)?;
        }
        Ok(())
    }
}

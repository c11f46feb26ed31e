//! Writes rows of heap tables without the executor: the row, and its entries in the indexes.
//!
//! PostgreSQL writes its own catalogs so. `table::native` decides for which tables: nothing of a user's may run on the
//! write, and nothing that the executor would check may be left out.

use crate::core::error::{Error, Result};
use crate::core::quantity::Quantity;
use crate::pg::args::{Arg, read_quantity};
use crate::pg::types::SqlType;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::OnceCell;
use std::marker::PhantomData;

/// The place of a row.
pub type TupleId = pg_sys::ItemPointerData;

/// A row as its values: of each column in the order of their numbers, of dropped ones NULL.
#[derive(Clone)]
pub struct NewRow<'a> {
    values: Vec<Datum>,
    nulls: Vec<bool>,
    life: PhantomData<&'a ()>,
}

impl NewRow<'_> {
    /// Dropped columns become NULL, as in every row that PostgreSQL writes: their old values would be kept for good.
    unsafe fn forget_dropped(&mut self, descriptor: pg_sys::TupleDesc) {
        // SAFETY: the caller names the descriptor of the row.
        let columns = unsafe { pgrx::PgTupleDesc::from_pg_unchecked(descriptor) };
        for (place, _) in columns.iter().enumerate().filter(|(_, column)| column.attisdropped) {
            self.values[place] = Datum::null();
            self.nulls[place] = true;
        }
    }
}

/// A heap table, open for writing. Its lock, RowExclusive, was taken before.
pub struct Heap {
    relation: pg_sys::Relation,
    /// Opened when the first row needs entries in them.
    indexes: OnceCell<Vec<Index>>,
}

impl Drop for Heap {
    fn drop(&mut self) {
        drop(self.indexes.take());
        // While an error of PostgreSQL unwinds, its abort closes the table.
        if !std::thread::panicking() {
            // SAFETY: opened by `open`, closed once.
            unsafe { pg_sys::relation_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
        }
    }
}

/// An index, open for writing.
struct Index {
    relation: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
}

impl Drop for Index {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `Heap::indexes`, closed once.
            unsafe {
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                pg_sys::index_insert_cleanup(self.relation, self.info);
                pg_sys::pfree(self.info.cast());
                pg_sys::index_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
    }
}

/// A row in its buffer, which is pinned.
struct Fetched {
    tuple: pg_sys::HeapTupleData,
    buffer: pg_sys::Buffer,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pinned by heap_fetch, released once; an abort releases it otherwise.
            unsafe { pg_sys::ReleaseBuffer(self.buffer) };
        }
    }
}

impl Heap {
    /// Opens a table.
    pub fn open(table: Oid) -> Self {
        // SAFETY: the table is locked, so it is there.
        let relation = unsafe { pg_sys::table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE) };
        Self { relation, indexes: OnceCell::new() }
    }

    /// Raises PostgreSQL's own error where the table is published without a replica identity.
    pub fn require_replica_identity(&self) {
        // SAFETY: the table is open.
        unsafe { pg_sys::CheckCmdReplicaIdentity(self.relation, pg_sys::CmdType::CMD_UPDATE) };
    }

    /// Whether a role may write a column.
    pub fn may_update(&self, column: i16, role: Oid) -> bool {
        let update = pg_sys::ACL_UPDATE.into();
        // SAFETY: looks privileges up; the table is open.
        unsafe {
            let table = (*self.relation).rd_id;
            pg_sys::pg_class_aclcheck(table, role, update) == pg_sys::AclResult::ACLCHECK_OK
                || pg_sys::pg_attribute_aclcheck(table, column, role, update) == pg_sys::AclResult::ACLCHECK_OK
        }
    }

    /// A row of NULLs.
    pub fn empty_row<'a>(&self) -> NewRow<'a> {
        // SAFETY: the table is open, and its descriptor with it.
        let columns = unsafe { (*(*self.relation).rd_att).natts as usize };
        NewRow { values: vec![Datum::null(); columns], nulls: vec![true; columns], life: PhantomData }
    }

    /// Sets the value of a column, which must be of this type.
    pub fn set<'a>(&self, row: &mut NewRow<'a>, column: i16, value: Arg<'a>, sql_type: SqlType) -> Result<()> {
        let place = usize::try_from(column - 1).map_err(|_| Error::internal("a column has no number"))?;
        // SAFETY: the table is open, and its descriptor with it.
        let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*self.relation).rd_att) };
        let fits = descriptor.get(place).is_some_and(|column| {
            column.atttypid == sql_type.oid() || (column.atttypid == pg_sys::VARCHAROID && sql_type == SqlType::Text)
        });
        if !fits {
            return Err(Error::internal("a column has another type than its value"));
        }
        row.values[place] = value.datum;
        row.nulls[place] = value.is_null;
        Ok(())
    }

    /// Whether this transaction has written the row: PostgreSQL checks the foreign keys of such a row again.
    pub fn is_new(&self, place: TupleId) -> Result<bool> {
        Ok(is_of_this_transaction(&self.fetch(place)?.tuple))
    }

    /// Whether a transaction has written the row that ran, or had not begun, when the calling statement began.
    pub fn is_written_meanwhile(&self, place: TupleId) -> Result<bool> {
        let writer = writer(&self.fetch(place)?.tuple);
        // SAFETY: the snapshot of the calling statement, which is active for as long as it runs.
        Ok(unsafe { pg_sys::ActiveSnapshotSet() && pg_sys::XidInMVCCSnapshot(writer, pg_sys::GetActiveSnapshot()) })
    }

    /// Writes a quantity into one column of a row that this transaction has locked, and whose version is the newest.
    /// Returns the quantity in the new row, as the table holds it.
    pub fn update(&self, mut place: TupleId, column: i16, value: Arg<'_>, sql_type: SqlType) -> Result<Quantity> {
        // SAFETY: the tuple stays pinned while its values are in use; the new one is a copy.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let mut fetched = self.fetch(place)?;
            let mut row = self.empty_row();
            let (values, nulls) = (row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            pg_sys::heap_deform_tuple(&raw mut fetched.tuple, descriptor, values, nulls);
            row.forget_dropped(descriptor);
            self.set(&mut row, column, value, sql_type)?;
            let new = pg_sys::heap_form_tuple(descriptor, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            (*(*new).t_data).t_ctid = (*fetched.tuple.t_data).t_ctid;
            (*new).t_self = place;
            (*new).t_tableOid = (*self.relation).rd_id;
            let mut failure = pg_sys::TM_FailureData::default();
            let mut mode = pg_sys::LockTupleMode::LockTupleNoKeyExclusive;
            #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
            let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
            let result = pg_sys::heap_update(
                self.relation,
                &raw mut place,
                new,
                pg_sys::GetCurrentCommandId(true),
                std::ptr::null_mut(),
                true,
                &raw mut failure,
                &raw mut mode,
                #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
                &raw mut indexes,
            );
            if result != pg_sys::TM_Result::TM_Ok {
                return Err(Error::internal("a locked row was changed by another transaction"));
            }
            if u32::from((*(*new).t_data).t_infomask2) & pg_sys::HEAP_ONLY_TUPLE == 0 {
                self.index(&row, &raw mut (*new).t_self, true);
            }
            let mut is_null = false;
            let stored = pg_sys::heap_getattr(new, column.into(), descriptor, &mut is_null);
            let written = if is_null { Err("null".to_owned()) } else { read_quantity(stored, sql_type) };
            pg_sys::heap_freetuple(new);
            written.map_err(|_| Error::internal("a row was written without a quantity"))
        }
    }

    fn fetch(&self, place: TupleId) -> Result<Fetched> {
        let mut fetched = Fetched {
            tuple: pg_sys::HeapTupleData { t_self: place, ..Default::default() },
            buffer: pg_sys::InvalidBuffer as pg_sys::Buffer,
        };
        // SAFETY: both pointers are to the result; any version is read, and this transaction has locked it.
        let found = unsafe {
            let any = &raw mut pg_sys::SnapshotAnyData;
            pg_sys::heap_fetch(
                self.relation,
                any,
                &raw mut fetched.tuple,
                &raw mut fetched.buffer,
                #[cfg(not(feature = "pg14"))]
                false,
            )
        };
        if found {
            return Ok(fetched);
        }
        std::mem::forget(fetched);
        Err(Error::internal("a locked row is not there"))
    }

    /// Adds a row at the end of the table.
    pub fn insert(&self, row: &mut NewRow<'_>) {
        // SAFETY: the values are of the types of the columns, as `set` has seen. The tuple is a copy of the values;
        // PostgreSQL copies it into the table.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let tuple = pg_sys::heap_form_tuple(descriptor, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            (*tuple).t_tableOid = (*self.relation).rd_id;
            let at_end = pg_sys::HEAP_INSERT_SKIP_FSM as i32;
            pg_sys::heap_insert(self.relation, tuple, pg_sys::GetCurrentCommandId(true), at_end, std::ptr::null_mut());
            self.index(row, &raw mut (*tuple).t_self, false);
            pg_sys::heap_freetuple(tuple);
        }
    }

    /// Adds rows at the end of the table, page by page.
    pub fn insert_many(&self, rows: &[NewRow<'_>]) {
        // SAFETY: as above; a slot has room for the values of a row of this table; it points to what they point to.
        unsafe {
            // A copy, because of the descriptor of the table every slot would keep account.
            let descriptor = pg_sys::CreateTupleDescCopy((*self.relation).rd_att);
            let slot_of = |row: &NewRow<'_>| {
                let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
                std::ptr::copy_nonoverlapping(row.values.as_ptr(), (*slot).tts_values, row.values.len());
                std::ptr::copy_nonoverlapping(row.nulls.as_ptr(), (*slot).tts_isnull, row.nulls.len());
                pg_sys::ExecStoreVirtualTuple(slot)
            };
            let mut slots: Vec<_> = rows.iter().map(slot_of).collect();
            pg_sys::heap_multi_insert(
                self.relation,
                slots.as_mut_ptr(),
                slots.len() as i32,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::HEAP_INSERT_SKIP_FSM as i32,
                std::ptr::null_mut(),
            );
            for (row, slot) in rows.iter().zip(slots) {
                self.index(row, &raw mut (*slot).tts_tid, false);
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::FreeTupleDesc(descriptor);
        }
    }

    /// Adds the entries of a row to all indexes.
    unsafe fn index(&self, row: &NewRow<'_>, place: pg_sys::ItemPointer, is_update: bool) {
        for &Index { relation, info } in self.indexes() {
            // SAFETY: the index belongs to the table; it has plain columns of it, as `table::native` has seen.
            unsafe {
                let (mut values, mut nulls) = ([Datum::null(); 32], [true; 32]);
                for key in 0..(*info).ii_NumIndexAttrs as usize {
                    let column = (*info).ii_IndexAttrNumbers[key] as usize - 1;
                    (values[key], nulls[key]) = (row.values[column], row.nulls[column]);
                }
                let unique = if (*info).ii_Unique {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                } else {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                };
                let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
                pg_sys::index_insert(relation, values, nulls, place, self.relation, unique, is_update, info);
            }
        }
    }

    fn indexes(&self) -> &[Index] {
        self.indexes.get_or_init(|| {
            // SAFETY: the table is open; its indexes cannot go while it is locked.
            unsafe {
                let list = pg_sys::RelationGetIndexList(self.relation);
                let count = if list.is_null() { 0 } else { (*list).length };
                let open = |position| {
                    let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
                    let relation = pg_sys::index_open(pg_sys::list_nth_oid(list, position), mode);
                    // One that is being built and not ready needs no entries: the build adds those of this transaction
                    // when it has ended. To read its predicate could call code of its owner.
                    if !(*(*relation).rd_index).indisready {
                        pg_sys::index_close(relation, mode);
                        return None;
                    }
                    Some(Index { relation, info: pg_sys::BuildIndexInfo(relation) })
                };
                let indexes: Vec<_> = (0..count).filter_map(open).collect();
                pg_sys::list_free(list);
                indexes
            }
        })
    }
}

fn writer(tuple: &pg_sys::HeapTupleData) -> pg_sys::TransactionId {
    // SAFETY: the header of a tuple in a pinned buffer.
    unsafe { (*tuple.t_data).t_choice.t_heap.t_xmin }
}

fn is_of_this_transaction(tuple: &pg_sys::HeapTupleData) -> bool {
    // SAFETY: the header of a tuple in a pinned buffer. A frozen one keeps the number of its transaction, which
    // PostgreSQL compares, too: COPY FREEZE writes such rows.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(writer(tuple)) }
}

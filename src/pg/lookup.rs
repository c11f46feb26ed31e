//! Reads one row by its key without the executor: through a B-tree index on the key alone, as the snapshot shows it.

use crate::core::item_id::ItemId;
use crate::core::quantity::Quantity;
use crate::pg::args::{Arg, read_id, read_quantity};
use crate::pg::heap::TupleId;
use crate::pg::types::SqlType;
use pgrx::pg_sys::{self, Oid};

/// A unique index on one column, in the order that PostgreSQL's own operators give.
#[derive(Clone, Copy)]
pub struct KeyIndex {
    index: Oid,
    /// The number of the column in the table.
    column: i16,
    /// The function of its `=`.
    equal: Oid,
    collation: Oid,
}

/// The index of a table that rows are found by, where there is one that needs nothing of a user's.
pub fn key_index(table: Oid, column: i16) -> Option<KeyIndex> {
    key_index_among(table, column, |_| true)
}

/// The same among those indexes that may be opened. Opening one waits for its lock.
pub fn key_index_among(table: Oid, column: i16, may_open: impl Fn(Oid) -> bool) -> Option<KeyIndex> {
    let (no_lock, weak) = (pg_sys::NoLock as pg_sys::LOCKMODE, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    // SAFETY: the table is locked by the caller; its indexes are opened and closed with a weak lock, and the arrays of
    // an open index have a member for each key.
    unsafe {
        let relation = pg_sys::table_open(table, no_lock);
        let list = pg_sys::RelationGetIndexList(relation);
        let count = if list.is_null() { 0 } else { (*list).length };
        let found = (0..count).find_map(|place| {
            let index = Some(pg_sys::list_nth_oid(list, place)).filter(|index| may_open(*index))?;
            let open = pg_sys::index_open(index, weak);
            let found = as_key(open, column).map(|(equal, collation)| KeyIndex { index, column, equal, collation });
            pg_sys::index_close(open, weak);
            found
        });
        pg_sys::list_free(list);
        pg_sys::relation_close(relation, no_lock);
        found
    }
}

/// The function of `=` and the collation, where an index is a plain unique B-tree on this column alone.
unsafe fn as_key(index: pg_sys::Relation, column: i16) -> Option<(Oid, Oid)> {
    // SAFETY: the index is open.
    unsafe {
        let form = &*(*index).rd_index;
        let is_null = |column: u32| pg_sys::heap_attisnull((*index).rd_indextuple, column as i32, std::ptr::null_mut());
        let is_plain = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
            && form.indisunique
            && form.indisvalid
            && form.indimmediate
            // Older snapshots must not use such an index.
            && !form.indcheckxmin
            && form.indnkeyatts == 1
            && *form.indkey.values.as_ptr() == column
            && is_null(pg_sys::Anum_pg_index_indexprs)
            && is_null(pg_sys::Anum_pg_index_indpred);
        if !is_plain {
            return None;
        }
        let (family, key_type) = (*(*index).rd_opfamily, *(*index).rd_opcintype);
        let default = pg_sys::GetDefaultOpClass(key_type, pg_sys::BTREE_AM_OID);
        if default == pg_sys::InvalidOid || pg_sys::get_opclass_family(default) != family {
            return None;
        }
        let equal = pg_sys::BTEqualStrategyNumber as i16;
        let operator = pg_sys::get_opfamily_member(family, key_type, key_type, equal);
        let function = pg_sys::get_opcode(operator);
        // PostgreSQL's own: an operator class of a user would run a user's code.
        (function.to_u32() < pg_sys::FirstNormalObjectId && function != pg_sys::InvalidOid)
            .then_some((function, *(*index).rd_indcollation))
    }
}

/// The quantity in the row of an item, as a new snapshot of the isolation level shows it; None where there is no row.
/// The error is the text of a value that is no quantity. The table is locked by the caller.
pub fn quantity(
    table: Oid,
    key: &KeyIndex,
    id: &ItemId,
    (column, sql_type): (i16, SqlType),
) -> Option<Result<Quantity, String>> {
    let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    // SAFETY: the table is locked, and so its index stays; the key is of the type that its `=` takes; the row is read
    // before the scan, which pins it, ends. What this transaction has written is seen, as a new statement would see it.
    unsafe {
        pg_sys::CommandCounterIncrement();
        let relation = pg_sys::table_open(table, no_lock);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
        let mut scan_key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyEntryInitialize(
            &raw mut scan_key,
            0,
            key.column,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::InvalidOid,
            key.collation,
            key.equal,
            Arg::item(id).datum,
        );
        let scan = pg_sys::systable_beginscan(relation, key.index, true, snapshot, 1, &raw mut scan_key);
        let row = pg_sys::systable_getnext(scan);
        let found = (!row.is_null()).then(|| {
            let mut is_null = false;
            let value = pg_sys::heap_getattr(row, column.into(), (*relation).rd_att, &mut is_null);
            if is_null { Err("null".to_owned()) } else { read_quantity(value, sql_type) }
        });
        pg_sys::systable_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::relation_close(relation, no_lock);
        found
    }
}

/// The place of a row.
pub fn place(page: u32, number: u16) -> TupleId {
    let mut place = TupleId::default();
    pgrx::itemptr::item_pointer_set_all(&mut place, page, number);
    place
}

/// The id in the row at a place of a heap table, whichever version of the row that is, and whether it is committed;
/// None where there is none. The table is locked by the caller. Nothing of a user's runs.
pub fn id_at(table: Oid, place: TupleId, column: i16) -> Option<ItemId> {
    let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    let mut row = pg_sys::HeapTupleData { t_self: place, ..Default::default() };
    let mut buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
    // SAFETY: the table is locked, and so it is there; both pointers are to the result; the row stays pinned while its
    // value is read, which is of a type of ids and copied.
    unsafe {
        let relation = pg_sys::table_open(table, no_lock);
        let is_heap = (*(*relation).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID;
        let any = &raw mut pg_sys::SnapshotAnyData;
        let found = is_heap && pg_sys::heap_fetch(relation, any, &raw mut row, &raw mut buffer, false);
        let id = found.then(|| {
            let mut is_null = false;
            let value = pg_sys::heap_getattr(&raw mut row, column.into(), (*relation).rd_att, &mut is_null);
            let descriptor = pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att);
            let column = usize::try_from(column - 1).ok().and_then(|place| descriptor.get(place));
            let id_type = column.and_then(|column| SqlType::id_type(column.atttypid)).filter(|_| !is_null)?;
            read_id(value, id_type).ok()
        });
        if found {
            pg_sys::ReleaseBuffer(buffer);
        }
        pg_sys::relation_close(relation, no_lock);
        id.flatten()
    }
}

/// The columns of a table that are wanted, by their numbers.
pub struct NewestColumns {
    /// A text.
    pub kind: i16,
    /// A moment.
    pub moment: i16,
    /// A bigint.
    pub count: i16,
}

/// The most rows that are looked at: one that has more of other kinds is not to hold up who reads.
const MOST_ROWS: usize = 10_000;

/// Of the rows of this kind in a table, moment and count of the one with the greatest key, as the newest snapshot
/// shows it; None where there is none among the last [`MOST_ROWS`]. The table is locked by the caller, and its columns
/// are of these types. Nothing of a user's runs.
pub fn newest(table: Oid, key: &KeyIndex, kind: &str, columns: &NewestColumns) -> Option<(i64, i64)> {
    let (no_lock, weak) = (pg_sys::NoLock as pg_sys::LOCKMODE, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    // SAFETY: the table is locked, and so its index stays; each row is read before the scan goes on.
    unsafe {
        let relation = pg_sys::table_open(table, no_lock);
        let index = pg_sys::index_open(key.index, weak);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::systable_beginscan_ordered(relation, index, snapshot, 0, std::ptr::null_mut());
        let mut found = None;
        for _ in 0..MOST_ROWS {
            pgrx::check_for_interrupts!();
            let row = pg_sys::systable_getnext_ordered(scan, pg_sys::ScanDirection::BackwardScanDirection);
            if row.is_null() || found.is_some() {
                break;
            }
            let value = |column: i16| {
                let mut is_null = false;
                let value = pg_sys::heap_getattr(row, column.into(), (*relation).rd_att, &mut is_null);
                (!is_null).then_some(value)
            };
            if value(columns.kind).is_some_and(|value| is_short_text(value, kind)) {
                found = value(columns.moment).zip(value(columns.count));
            }
        }
        let found = found.map(|(moment, count)| (moment.value() as i64, count.value() as i64));
        pg_sys::systable_endscan_ordered(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::index_close(index, weak);
        pg_sys::relation_close(relation, no_lock);
        found
    }
}

/// Whether a text is this short one. A long one, which is compressed or kept elsewhere, is not read.
unsafe fn is_short_text(value: pg_sys::Datum, text: &str) -> bool {
    let value = value.cast_mut_ptr();
    // SAFETY: the value is a text that is not null; only one that is there as a whole is read.
    unsafe {
        let is_there = pgrx::varatt_is_4b_u(value) || (pgrx::varatt_is_1b(value) && !pgrx::varatt_is_1b_e(value));
        is_there && pgrx::varlena_to_byte_slice(value) == text.as_bytes()
    }
}

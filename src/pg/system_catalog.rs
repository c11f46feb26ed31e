//! Rows of the system catalogs: of a table, its columns, indexes and foreign keys, and of the extension.
//!
//! Read without SQL, because the first call of every session reads them, and planning a statement costs it more than
//! all of this. No lock on the table is needed; what is read is the latest committed state, at any isolation level.

use crate::pg::encoding;
use crate::pg::role::current_role;
use pgrx::pg_sys::{self, HeapTuple, Oid, SysCacheIdentifier};
use pgrx::{FromDatum, IntoDatum};
use std::ffi::CStr;

/// A row of pg_class.
pub struct TableRow {
    /// relkind.
    pub kind: u8,
    /// relpersistence.
    pub persistence: u8,
    /// Its owner.
    pub owner: Oid,
    /// The role in force has the rights of the owner.
    pub is_owned: bool,
    /// Its name.
    pub name: String,
    /// Its schema.
    pub schema: Oid,
    /// Rights on it were granted or revoked.
    pub has_grants: bool,
}

/// A row of pg_attribute.
pub struct ColumnRow {
    /// Its number.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_oid: Oid,
    /// Its type modifier; -1 for none.
    pub modifier: i32,
    /// Equal values have equal bytes: not so in some collations.
    pub is_deterministic: bool,
    /// Declared NOT NULL.
    pub not_null: bool,
    /// GENERATED.
    pub is_generated: bool,
}

/// A row of pg_index.
pub struct IndexRow {
    /// The numbers of its columns, also of those that are included; 0 for an expression.
    pub columns: Vec<i16>,
    /// The column that it is a plain, valid, immediate unique index on, alone.
    pub unique_on: Option<i16>,
}

/// A row of pg_extension.
pub struct ExtensionRow {
    /// Its schema.
    pub schema: Oid,
    /// Its version.
    pub version: String,
}

/// The functions of the triggers that a foreign key puts on the table that it refers to.
const OF_REFERENCED: std::ops::RangeInclusive<u32> = pg_sys::F_RI_FKEY_CASCADE_DEL..=pg_sys::F_RI_FKEY_NOACTION_UPD;

/// Reads the row of a relation; None where there is no such relation.
pub fn table(oid: Oid) -> Option<TableRow> {
    cached(SysCacheIdentifier::RELOID, oid, |row| {
        // SAFETY: a row of pg_class; the attribute of the cache is looked at, not kept.
        unsafe {
            let class = &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_class>(row);
            let mut no_grants = false;
            let place = pg_sys::Anum_pg_class_relacl as pg_sys::AttrNumber;
            pg_sys::SysCacheGetAttr(SysCacheIdentifier::RELOID as i32, row, place, &raw mut no_grants);
            TableRow {
                kind: class.relkind as u8,
                persistence: class.relpersistence as u8,
                owner: class.relowner,
                is_owned: pg_sys::has_privs_of_role(current_role(), class.relowner),
                name: text(class.relname.data.as_ptr()),
                schema: class.relnamespace,
                has_grants: !no_grants,
            }
        }
    })
}

/// Reads the column of this name; None where there is none.
pub fn column_named(table: Oid, name: &str) -> Option<ColumnRow> {
    let name = encoding::c_text(name);
    // SAFETY: looks a name up; dropped columns are not found.
    with(unsafe { pg_sys::SearchSysCacheAttName(table, name.as_ptr()) }, column_of).flatten()
}

/// Reads the column of this number; None where there is none, or it was dropped.
pub fn column(table: Oid, number: i16) -> Option<ColumnRow> {
    let number = number.into_datum()?;
    let cache = SysCacheIdentifier::ATTNUM as i32;
    // SAFETY: looks a number up.
    with(unsafe { pg_sys::SearchSysCache2(cache, table.into(), number) }, column_of).flatten()
}

fn column_of(row: HeapTuple) -> Option<ColumnRow> {
    // SAFETY: a row of pg_attribute.
    let column = unsafe { &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_attribute>(row) };
    let has_collation = column.attcollation != pg_sys::InvalidOid;
    (column.attnum > 0 && !column.attisdropped).then(|| ColumnRow {
        number: column.attnum,
        // SAFETY: a name is NUL-terminated.
        name: unsafe { text(column.attname.data.as_ptr()) },
        type_oid: column.atttypid,
        modifier: column.atttypmod,
        // SAFETY: looks a collation up, which a column of it keeps.
        is_deterministic: !has_collation || unsafe { pg_sys::get_collation_isdeterministic(column.attcollation) },
        not_null: column.attnotnull,
        is_generated: column.attgenerated != 0,
    })
}

/// The columns that a CHECK of this name contains, in their order; nothing where there is none, or it is not valid.
pub fn columns_of_check(table: Oid, name: &str) -> Vec<i16> {
    let name = encoding::c_text(name);
    // SAFETY: looks a name up; a missing one is an invalid oid.
    let check = unsafe { pg_sys::get_relation_constraint_oid(table, name.as_ptr(), true) };
    let columns = cached(SysCacheIdentifier::CONSTROID, check, |row| {
        // SAFETY: a row of pg_constraint; the array is copied.
        unsafe {
            let constraint = &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_constraint>(row);
            if constraint.contype as u8 != pg_sys::CONSTRAINT_CHECK || !constraint.convalidated {
                return None;
            }
            let mut is_null = false;
            let place = pg_sys::Anum_pg_constraint_conkey as pg_sys::AttrNumber;
            let keys = pg_sys::SysCacheGetAttr(SysCacheIdentifier::CONSTROID as i32, row, place, &raw mut is_null);
            Vec::<i16>::from_datum(keys, is_null)
        }
    });
    columns.flatten().unwrap_or_default()
}

/// The indexes of a table.
pub fn indexes(table: Oid) -> Vec<IndexRow> {
    let place = pg_sys::Anum_pg_index_indrelid;
    scan(pg_sys::IndexRelationId, (pg_sys::IndexIndrelidIndexId, place, table), |row, _| {
        // SAFETY: a row of pg_index, whose array of columns has as many as it says.
        unsafe {
            let index = &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_index>(row);
            let is_null = |column: u32| pg_sys::heap_attisnull(row, column as i32, std::ptr::null_mut());
            let columns = std::slice::from_raw_parts(index.indkey.values.as_ptr(), index.indnatts as usize).to_vec();
            let is_plain = index.indisunique
                && index.indisvalid
                && index.indimmediate
                && index.indnkeyatts == 1
                && is_null(pg_sys::Anum_pg_index_indpred)
                && is_null(pg_sys::Anum_pg_index_indexprs);
            let unique_on = columns.first().copied().filter(|_| is_plain);
            IndexRow { columns, unique_on }
        }
    })
}

/// Whether a foreign key refers to this very table: such a key puts triggers on it.
pub fn is_referenced(table: Oid) -> bool {
    let place = pg_sys::Anum_pg_trigger_tgrelid;
    let triggers = scan(pg_sys::TriggerRelationId, (pg_sys::TriggerRelidNameIndexId, place, table), |row, _| {
        // SAFETY: a row of pg_trigger.
        let trigger = unsafe { &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_trigger>(row) };
        trigger.tgisinternal && OF_REFERENCED.contains(&trigger.tgfoid.to_u32())
    });
    triggers.contains(&true)
}

/// The installed extension; None where there is none.
pub fn extension() -> Option<ExtensionRow> {
    // SAFETY: looks a name up; a missing one is an invalid oid.
    let oid = unsafe { pg_sys::get_extension_oid(c"inventory_ext".as_ptr(), true) };
    let key = (pg_sys::ExtensionOidIndexId, pg_sys::Anum_pg_extension_oid, oid);
    let mut found = scan(pg_sys::ExtensionRelationId, key, |row, descriptor| {
        // SAFETY: a row of pg_extension, whose version is a text that is never NULL; it is copied.
        unsafe {
            let extension = &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_extension>(row);
            let mut is_null = false;
            let place = pg_sys::Anum_pg_extension_extversion as i32;
            let version = pg_sys::heap_getattr(row, place, descriptor, &mut is_null);
            let version = Vec::<u8>::from_datum(version, is_null)?;
            Some(ExtensionRow { schema: extension.extnamespace, version: encoding::from_server(&version) })
        }
    });
    found.pop().flatten()
}

/// The catalog of the tables that subscriptions write to.
pub const SUBSCRIPTIONS: Oid = pg_sys::SubscriptionRelRelationId;

/// Whether a catalog has no page, and so never had a row.
pub fn is_empty(catalog: Oid) -> bool {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: opens a catalog, asks for its size, and closes it.
    unsafe {
        let relation = pg_sys::table_open(catalog, lock);
        let main = pg_sys::ForkNumber::MAIN_FORKNUM;
        let pages = pg_sys::RelationGetNumberOfBlocksInFork(relation, main);
        pg_sys::relation_close(relation, lock);
        pages == 0
    }
}

/// The name of a schema, quoted; None where there is no such schema.
pub fn quoted_schema(schema: Oid) -> Option<String> {
    // SAFETY: looks a name up, which is copied into the current memory context, or null.
    let name = unsafe { pg_sys::get_namespace_name(schema) };
    // SAFETY: quotes a name.
    (!name.is_null()).then(|| unsafe { text(pg_sys::quote_identifier(name)) })
}

/// A name, quoted where SQL needs that.
pub fn quoted(name: &str) -> String {
    let name = encoding::c_text(name);
    // SAFETY: quotes a name into the current memory context.
    unsafe { text(pg_sys::quote_identifier(name.as_ptr())) }
}

unsafe fn text(name: *const std::ffi::c_char) -> String {
    // SAFETY: the caller names a C string.
    encoding::from_c(unsafe { CStr::from_ptr(name) })
}

fn cached<T>(cache: SysCacheIdentifier::Type, oid: Oid, read: impl FnOnce(HeapTuple) -> T) -> Option<T> {
    // SAFETY: looks a row up by its oid.
    with(unsafe { pg_sys::SearchSysCache1(cache as i32, oid.into()) }, read)
}

/// Reads a row of a cache, where there is one, and releases it.
fn with<T>(row: HeapTuple, read: impl FnOnce(HeapTuple) -> T) -> Option<T> {
    if row.is_null() {
        return None;
    }
    let found = read(row);
    // SAFETY: the row is of a cache, and released once.
    unsafe { pg_sys::ReleaseSysCache(row) };
    Some(found)
}

/// Reads the rows of a catalog whose column has this value, through an index that begins with the column.
fn scan<T>(
    catalog: Oid,
    (index, column, value): (u32, u32, Oid),
    mut read: impl FnMut(HeapTuple, pg_sys::TupleDesc) -> T,
) -> Vec<T> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let mut found = Vec::new();
    // SAFETY: the catalog and its index exist; the key is of type oid; a row is read before the next one replaces it.
    unsafe {
        let relation = pg_sys::table_open(catalog, lock);
        let mut key = pg_sys::ScanKeyData::default();
        let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
        pg_sys::ScanKeyInit(&raw mut key, column as pg_sys::AttrNumber, equal, pg_sys::F_OIDEQ.into(), value.into());
        let scan = pg_sys::systable_beginscan(relation, index.into(), true, std::ptr::null_mut(), 1, &raw mut key);
        loop {
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break;
            }
            found.push(read(row, (*relation).rd_att));
        }
        pg_sys::systable_endscan(scan);
        pg_sys::relation_close(relation, lock);
    }
    found
}

/// Whether there is such a database.
pub fn is_database(database: Oid) -> bool {
    let cache = pg_sys::SysCacheIdentifier::DATABASEOID as i32;
    let none = pg_sys::Datum::null();
    // SAFETY: looks a database up.
    unsafe { pg_sys::SearchSysCacheExists(cache, database.into(), none, none, none) }
}

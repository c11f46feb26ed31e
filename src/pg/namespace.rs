//! Names as the caller means them: the schemas of the search_path in force, and tables in them.

use crate::pg::encoding;
use crate::pg::role::current_role;
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, CString};

/// More schemas than this are looked up in two steps.
const USUAL_SCHEMAS: usize = 16;

/// The schemas of the search_path, in its order: those that exist and that the role in force has USAGE on, without the
/// schema of temporary tables.
pub fn search_path() -> Vec<Oid> {
    let fetch = |room: usize| {
        let mut schemas = vec![pg_sys::InvalidOid; room];
        // SAFETY: PostgreSQL writes at most as many oids as there is room for, and returns the number that there are.
        let count = unsafe { pg_sys::fetch_search_path_array(schemas.as_mut_ptr(), room as i32) } as usize;
        schemas.truncate(count);
        (schemas, count)
    };
    let (schemas, count) = fetch(USUAL_SCHEMAS);
    if count > USUAL_SCHEMAS { fetch(count).0 } else { schemas }
}

/// The table, view or index of this name in a schema.
pub fn relation_in(schema: Oid, name: &CStr) -> Option<Oid> {
    // SAFETY: looks a name up; a missing one is an invalid oid.
    let found = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// Whether a relation has a column of this name.
pub fn has_column(relation: Oid, name: &CStr) -> bool {
    // SAFETY: looks a name up; a missing one has no number.
    unsafe { pg_sys::get_attnum(relation, name.as_ptr()) != 0 }
}

/// Whether a schema is that of temporary tables, of any session.
pub fn is_temporary(schema: Oid) -> bool {
    // SAFETY: looks a name up.
    unsafe { pg_sys::isAnyTempNamespace(schema) }
}

/// The owner of a schema; None where there is no such schema.
pub fn owner(schema: Oid) -> Option<Oid> {
    let cache = pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
    // SAFETY: looks a schema up, reads its row and releases it.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, schema.into());
        if row.is_null() {
            return None;
        }
        let owner = (*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_namespace>(row)).nspowner;
        pg_sys::ReleaseSysCache(row);
        Some(owner)
    }
}

/// The relation that a qualified or unqualified name means, as in SQL; None where there is none. PostgreSQL raises an
/// error where the text is no name, or the role in force has no USAGE on the schema.
pub fn relation_named(text: &str) -> Option<Oid> {
    let text = encoding::c_text(text);
    // SAFETY: parses a C string into a list in the current memory context, and looks it up without a lock.
    let found = unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let names = pg_sys::stringToQualifiedNameList(text.as_ptr());
        #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
        let names = pg_sys::stringToQualifiedNameList(text.as_ptr(), std::ptr::null_mut());
        let range = pg_sys::makeRangeVarFromNameList(names);
        let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
        let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        pg_sys::RangeVarGetRelidExtended(range, no_lock, missing_ok, None, std::ptr::null_mut())
    };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// Whether the role in force has USAGE on a schema.
pub fn may_use(schema: Oid) -> bool {
    may_be_used_by(schema, current_role())
}

/// Whether a role has USAGE on a schema.
pub fn may_be_used_by(schema: Oid, role: Oid) -> bool {
    let usage = pg_sys::AclMode::from(pg_sys::ACL_USAGE);
    // SAFETY: looks rights up.
    let result = unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let result = pg_sys::pg_namespace_aclcheck(schema, role, usage);
        #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
        let result = pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, role, usage);
        result
    };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// A name for lookups.
pub fn name(text: &str) -> CString {
    encoding::c_text(text)
}

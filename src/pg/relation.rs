//! Facts about relations that PostgreSQL's own caches have at hand: triggers, columns, owner, partitions.
//!
//! Read whenever the attachment is looked up, so without SQL. Every function names a table by oid and takes the weakest
//! lock for the time it reads; a table that is gone is None or an empty list.

use crate::pg::encoding;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

/// One trigger of a table.
pub struct TriggerFacts {
    /// The trigger itself.
    pub oid: Oid,
    /// Its name.
    pub name: String,
    /// The function it runs.
    pub function: Oid,
    /// It has a WHEN clause, an expression that its creator wrote.
    pub condition: bool,
    /// Fires for ordinary sessions: enabled for the origin, or always.
    pub enabled: bool,
    /// May be deferred to the end of the transaction.
    pub deferrable: bool,
    /// Made by PostgreSQL for a constraint.
    pub internal: bool,
    /// Its function is given arguments.
    pub has_arguments: bool,
}

/// One column of a table.
pub struct ColumnFacts {
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_oid: Oid,
    /// Its type modifier; -1 for none.
    pub modifier: i32,
    /// Declared NOT NULL.
    pub not_null: bool,
    /// Where its values come from.
    pub source: Source,
}

/// Where the values of a column come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the statement that writes the row.
    Writer,
    /// From a sequence of its own.
    Identity,
    /// From an expression.
    Expression,
}

/// The facts about one table that are read at once.
pub struct Facts {
    /// The table.
    pub oid: Oid,
    /// The table's owner.
    pub owner: Oid,
    /// An ordinary table.
    pub ordinary: bool,
    /// It inherits from another table, or another one from it.
    pub inherits: bool,
    /// Row-level security is on, and forced on the owner.
    pub forced_rls: bool,
    /// Its name, without its schema.
    pub name: String,
    /// Its triggers.
    pub triggers: Vec<TriggerFacts>,
    /// Its columns.
    pub columns: Vec<ColumnFacts>,
}

/// Reads a table; None where there is no such table.
pub fn facts(table: Oid) -> Option<Facts> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: opens a relation if it is there, reads it while it is open, and closes it; the facts are copied.
    unsafe {
        let relation = pg_sys::try_relation_open(table, lock);
        if relation.is_null() {
            return None;
        }
        let class = &*(*relation).rd_rel;
        let facts = Facts {
            oid: table,
            owner: class.relowner,
            ordinary: class.relkind as u8 == pg_sys::RELKIND_RELATION,
            inherits: class.relispartition || pg_sys::has_superclass(table) || has_children(table),
            forced_rls: class.relrowsecurity && class.relforcerowsecurity,
            name: encoding::from_c(CStr::from_ptr(class.relname.data.as_ptr())),
            triggers: triggers(relation),
            columns: columns(relation),
        };
        pg_sys::relation_close(relation, lock);
        Some(facts)
    }
}

/// Whether tables inherit from it, or are partitions of it.
pub fn has_children(table: Oid) -> bool {
    // SAFETY: returns a list of oids in the current memory context; the flag in pg_class may outlive the children.
    unsafe {
        pg_sys::has_subclass(table)
            && !pg_sys::find_inheritance_children(table, pg_sys::NoLock as pg_sys::LOCKMODE).is_null()
    }
}

unsafe fn triggers(relation: pg_sys::Relation) -> Vec<TriggerFacts> {
    // SAFETY: the relation is open; its list of triggers has as many as it says.
    unsafe {
        let list = (*relation).trigdesc;
        if list.is_null() {
            return Vec::new();
        }
        let triggers = std::slice::from_raw_parts((*list).triggers, (*list).numtriggers as usize);
        let read = |trigger: &pg_sys::Trigger| TriggerFacts {
            name: encoding::from_c(CStr::from_ptr(trigger.tgname)),
            oid: trigger.tgoid,
            function: trigger.tgfoid,
            condition: !trigger.tgqual.is_null(),
            enabled: matches!(trigger.tgenabled as u8, b'O' | b'A'),
            deferrable: trigger.tgdeferrable,
            internal: trigger.tgisinternal,
            has_arguments: trigger.tgnargs > 0,
        };
        triggers.iter().map(read).collect()
    }
}

unsafe fn columns(relation: pg_sys::Relation) -> Vec<ColumnFacts> {
    // SAFETY: the relation is open, and its descriptor with it.
    let descriptor = unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*relation).rd_att) };
    let read = |column: &pg_sys::FormData_pg_attribute| ColumnFacts {
        // SAFETY: a name is NUL-terminated.
        name: encoding::from_c(unsafe { CStr::from_ptr(column.attname.data.as_ptr()) }),
        type_oid: column.atttypid,
        modifier: column.atttypmod,
        not_null: column.attnotnull,
        source: match (column.attidentity as u8, column.attgenerated as u8) {
            (0, 0) => Source::Writer,
            (_, 0) => Source::Identity,
            _ => Source::Expression,
        },
    };
    descriptor.iter().filter(|column| !column.attisdropped).map(read).collect()
}

/// The table and its partitions, of all levels; nothing where there is no such table.
pub fn with_partitions(table: Oid) -> Vec<Oid> {
    // SAFETY: looks the table up; a missing one has no kind.
    if unsafe { pg_sys::get_rel_relkind(table) } == 0 {
        return Vec::new();
    }
    // SAFETY: returns a list of oids in the current memory context; no lock is taken.
    unsafe {
        let list = pg_sys::find_all_inheritors(table, pg_sys::NoLock as pg_sys::LOCKMODE, std::ptr::null_mut());
        let count = if list.is_null() { 0 } else { (*list).length };
        (0..count).map(|place| pg_sys::list_nth_oid(list, place)).collect()
    }
}

/// Whether triggers of this table, or of a partition of it, are still to fire for rows that the transaction has
/// written.
pub fn has_pending_triggers(table: Oid) -> bool {
    // SAFETY: looks through the queue of trigger events of the transaction.
    with_partitions(table).into_iter().any(|table| unsafe { pg_sys::AfterTriggerPendingOnRel(table) })
}

/// The owner of a function; None where there is no such function.
pub fn function_owner(function: Oid) -> Option<Oid> {
    let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
    // SAFETY: looks a function up, reads its row and releases it.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, function.into());
        if row.is_null() {
            return None;
        }
        let owner = (*pgrx::pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_proc>(row)).proowner;
        pg_sys::ReleaseSysCache(row);
        Some(owner)
    }
}

/// The schema and the name of a function; None where there is no such function.
pub fn function_name(function: Oid) -> Option<(Oid, String)> {
    let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
    // SAFETY: looks a function up, copies from its row and releases it.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, function.into());
        if row.is_null() {
            return None;
        }
        let function = &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_proc>(row);
        let found = (function.pronamespace, encoding::from_c(CStr::from_ptr(function.proname.data.as_ptr())));
        pg_sys::ReleaseSysCache(row);
        Some(found)
    }
}

/// The number of a column of this name; None where there is none.
pub fn column_number(table: Oid, name: &CStr) -> Option<i16> {
    // SAFETY: looks a name up; a missing one has no number.
    let number = unsafe { pg_sys::get_attnum(table, name.as_ptr()) };
    (number > 0).then_some(number)
}

/// The owner of a relation; None where there is no such relation.
pub fn owner(relation: Oid) -> Option<Oid> {
    let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
    // SAFETY: looks a relation up, reads its row and releases it.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, relation.into());
        if row.is_null() {
            return None;
        }
        let owner = (*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_class>(row)).relowner;
        pg_sys::ReleaseSysCache(row);
        Some(owner)
    }
}

/// The schema of a relation; None where there is no such relation.
pub fn schema_of(relation: Oid) -> Option<Oid> {
    // SAFETY: looks an oid up; a missing one is in no schema.
    let schema = unsafe { pg_sys::get_rel_namespace(relation) };
    (schema != pg_sys::InvalidOid).then_some(schema)
}

/// Schema and name of a relation, quoted; its number where there is no such relation.
pub fn qualified_name(relation: Oid) -> String {
    // SAFETY: looks names up, which are copied into the current memory context, or null; quotes them.
    unsafe {
        let (schema, name) =
            (pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation)), pg_sys::get_rel_name(relation));
        if schema.is_null() || name.is_null() {
            return relation.to_u32().to_string();
        }
        encoding::from_c(CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name)))
    }
}

/// The schema and the name of a relation, as they are; None where there is no such relation.
pub fn full_name(relation: Oid) -> Option<[String; 2]> {
    // SAFETY: looks names up, which are copied into the current memory context, or null.
    unsafe {
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation));
        let name = pg_sys::get_rel_name(relation);
        let is_there = !schema.is_null() && !name.is_null();
        is_there.then(|| [schema, name].map(|text| encoding::from_c(CStr::from_ptr(text))))
    }
}

/// A table and the tables that it is a partition of, on all levels.
pub fn with_ancestors(table: Oid) -> Vec<Oid> {
    // SAFETY: looks a relation up; the ancestors are a list of oids in the current memory context.
    unsafe {
        if !pg_sys::get_rel_relispartition(table) {
            return vec![table];
        }
        let list = pg_sys::get_partition_ancestors(table);
        let count = if list.is_null() { 0 } else { (*list).length };
        [table].into_iter().chain((0..count).map(|place| pg_sys::list_nth_oid(list, place))).collect()
    }
}

/// The table that has this name in this schema now, where it is a table.
pub fn table_named(schema: &str, name: &str) -> Option<Oid> {
    let [schema, name] = [schema, name].map(encoding::c_text);
    // SAFETY: looks names up; a missing one is an invalid oid.
    unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        let found = if namespace == pg_sys::InvalidOid {
            pg_sys::InvalidOid
        } else {
            pg_sys::get_relname_relid(name.as_ptr(), namespace)
        };
        let kind = pg_sys::get_rel_relkind(found) as u8;
        (found != pg_sys::InvalidOid && matches!(kind, pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE))
            .then_some(found)
    }
}

/// Makes a trigger depend on the extension: DROP EXTENSION takes the trigger along, and needs no CASCADE, which might
/// take more. ALTER TRIGGER ... DEPENDS ON EXTENSION would lock the extension until the transaction ends, and so hold
/// up the attach of every other table.
pub fn tie_to_extension(table: Oid, trigger: &str) {
    let trigger = encoding::c_text(trigger);
    let object = |class_id: Oid, object_id: Oid| pg_sys::ObjectAddress {
        classId: class_id,
        objectId: object_id,
        objectSubId: 0,
    };
    // SAFETY: looks two names up, which must exist, and records a dependency between what they name.
    unsafe {
        let trigger = object(pg_sys::TriggerRelationId, pg_sys::get_trigger_oid(table, trigger.as_ptr(), false));
        let extension = pg_sys::get_extension_oid(c"inventory_ext".as_ptr(), false);
        let extension = object(pg_sys::ExtensionRelationId, extension);
        let kind = pg_sys::DependencyType::DEPENDENCY_AUTO_EXTENSION;
        pg_sys::recordDependencyOn(&raw const trigger, &raw const extension, kind);
        pg_sys::CommandCounterIncrement();
    }
}

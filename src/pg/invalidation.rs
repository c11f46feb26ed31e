//! Invalidation: when what a session has cached may be out of date, from PostgreSQL's own invalidation messages.
//!
//! Each cached thing is a [`Watch`] with the relations, functions, roles and names that it consists of. A message only
//! raises counters, of the watches that it concerns or, about subscriptions, of all; the cache compares them. Anyone
//! can cause messages about a role or a schema of its own, as often as it likes: they concern no other watch.

use crate::pg::encoding;
use crate::pg::transaction::next_command;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;

/// What is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Watch {
    /// The list of the attached tables.
    List,
    /// The schemas of the attached tables.
    Places,
    /// An attached table.
    Table(Oid),
}

/// The kinds of things that messages are about. 0 stands for "every relation" in a message, so it is never watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Relation(u32),
    /// By the hash that names it in messages.
    Function(u32),
    /// A table, by the hash of its name; likewise.
    Name(u32),
    /// A role; likewise.
    Role(u32),
    /// A schema, by its number or by its name; likewise.
    Schema(u32),
}

#[derive(Default)]
struct Watched {
    watches: HashMap<Subject, Vec<Watch>>,
    subjects: HashMap<Watch, Vec<Subject>>,
    counts: HashMap<Watch, u64>,
    /// The watch that is being looked up.
    current: Option<Watch>,
    /// The watch that every relation concerns.
    for_all: Option<Watch>,
}

impl Watched {
    fn forget_subjects(&mut self, watch: Watch) {
        for subject in self.subjects.remove(&watch).unwrap_or_default() {
            if let Some(watches) = self.watches.get_mut(&subject) {
                watches.retain(|other| *other != watch);
                if watches.is_empty() {
                    self.watches.remove(&subject);
                }
            }
        }
    }

    fn add(&mut self, subject: Subject) {
        let Some(watch) = self.current else { return };
        let watches = self.watches.entry(subject).or_default();
        if !watches.contains(&watch) {
            watches.push(watch);
            self.subjects.entry(watch).or_default().push(subject);
        }
    }
}

thread_local! {
    /// PostgreSQL calls back without an argument of ours, so this is state of the backend.
    static WATCHED: RefCell<Watched> = RefCell::new(Watched::default());
    /// The messages so far that concern every watch; likewise.
    static OF_ALL: Cell<u64> = const { Cell::new(0) };
}

/// The number of messages so far that concern a watch.
pub fn generation(watch: Watch) -> u64 {
    let own = WATCHED.with_borrow(|watched| watched.counts.get(&watch).copied().unwrap_or(0));
    OF_ALL.get() + own
}

/// The time during which subjects are added to a watch; then they are added to the one before, whose lookup goes on.
#[must_use]
pub struct Lookup(Option<Watch>);

impl Drop for Lookup {
    fn drop(&mut self) {
        WATCHED.with_borrow_mut(|watched| watched.current = self.0);
    }
}

/// A watch is for these relations, and for what is added until the result is dropped.
pub fn start(watch: Watch, relations: &[Oid]) -> Lookup {
    let lookup = WATCHED.with_borrow_mut(|watched| {
        watched.forget_subjects(watch);
        watched.for_all = watched.for_all.filter(|other| *other != watch);
        Lookup(watched.current.replace(watch))
    });
    add_relations(relations);
    lookup
}

/// A watch is for every relation, until it is started for some: while it is being found out which they are.
pub fn start_with_all(watch: Watch) {
    drop(start(watch, &[]));
    WATCHED.with_borrow_mut(|watched| watched.for_all = Some(watch));
}

/// Ends a watch.
pub fn end(watch: Watch) {
    WATCHED.with_borrow_mut(|watched| watched.forget_subjects(watch));
}

/// The watch that is being looked up is for more relations, too.
pub fn add_relations(relations: &[Oid]) {
    WATCHED.with_borrow_mut(|watched| {
        let known = relations.iter().map(|relation| relation.to_u32()).filter(|&oid| oid != 0);
        known.for_each(|oid| watched.add(Subject::Relation(oid)));
    });
}

fn add(subject: Subject) {
    WATCHED.with_borrow_mut(|watched| watched.add(subject));
}

/// The watch that is being looked up is for a function, too.
pub fn add_function(function: Oid) {
    add(Subject::Function(hash(pg_sys::SysCacheIdentifier::PROCOID, [function.into(), Datum::null()])));
}

/// The same for a role: whether it is a superuser, and its name.
pub fn add_role(role: Oid) {
    add(Subject::Role(hash(pg_sys::SysCacheIdentifier::AUTHOID, [role.into(), Datum::null()])));
}

/// The same for the schema of a relation.
pub fn add_schema_of(relation: Oid) {
    // SAFETY: looks an oid up.
    let schema = unsafe { pg_sys::get_rel_namespace(relation) };
    add(Subject::Schema(hash(pg_sys::SysCacheIdentifier::NAMESPACEOID, [schema.into(), Datum::null()])));
}

/// The same for a name of a table and a schema: that there is a schema of the name, and a table of the name in it.
pub fn add_name(schema: &str, table: &str) {
    let [schema, table] = [schema, table].map(encoding::c_text).map(|text| padded(&text));
    let name = |name: &pg_sys::NameData| Datum::from(std::ptr::from_ref(name));
    add(Subject::Schema(hash(pg_sys::SysCacheIdentifier::NAMESPACENAME, [name(&schema), Datum::null()])));
    // SAFETY: looks a name up; a missing one is an invalid oid.
    let found = unsafe { pg_sys::get_namespace_oid(schema.data.as_ptr(), true) };
    if found != pg_sys::InvalidOid {
        add(Subject::Name(hash(pg_sys::SysCacheIdentifier::RELNAMENSP, [name(&table), found.into()])));
    }
}

/// A name as PostgreSQL keeps it: cut to its length, and padded.
fn padded(text: &CStr) -> pg_sys::NameData {
    let mut name = pg_sys::NameData { data: [0; pg_sys::NAMEDATALEN as usize] };
    // SAFETY: copies a C string into a name, which has room for what fits.
    unsafe { pg_sys::namestrcpy(&raw mut name, text.as_ptr()) };
    name
}

/// The hash that names an entry of a cache in messages.
fn hash(cache: pg_sys::SysCacheIdentifier::Type, [first, second]: [Datum; 2]) -> u32 {
    let none = Datum::null();
    // SAFETY: hashes keys of the types that the cache has.
    unsafe { pg_sys::GetSysCacheHashValue(cache as i32, first, second, none, none) }
}

/// Tells every backend, when this transaction commits, and this one at once, that something about a watched relation
/// changed.
pub fn announce_change(relation: Oid) {
    // SAFETY: queues an invalidation message for an existing relation.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
    // This session reads its own messages at the end of a command: a second call of the same statement must know.
    next_command();
}

/// Registers for the messages; called once a backend.
pub fn register() {
    use pg_sys::SysCacheIdentifier::{AUTHOID, NAMESPACENAME, NAMESPACEOID, PROCOID, RELNAMENSP, SUBSCRIPTIONRELMAP};
    // SAFETY: the callbacks are of the library, which is never unloaded; they touch only state of ours.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), Datum::null());
        pg_sys::CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP as i32, Some(changed), Datum::null());
        for cache in [NAMESPACENAME, NAMESPACEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(schema_changed), Datum::null());
        }
        pg_sys::CacheRegisterSyscacheCallback(AUTHOID as i32, Some(role_changed), Datum::null());
        pg_sys::CacheRegisterSyscacheCallback(PROCOID as i32, Some(function_changed), Datum::null());
        pg_sys::CacheRegisterSyscacheCallback(RELNAMENSP as i32, Some(name_changed), Datum::null());
    }
}

fn note_all() {
    OF_ALL.set(OF_ALL.get() + 1);
}

fn note(subject: Subject) {
    let noted = WATCHED.with(|watched| {
        let mut watched = watched.try_borrow_mut().ok()?;
        let Watched { watches, counts, for_all, .. } = &mut *watched;
        for watch in watches.get(&subject).into_iter().flatten().chain(&*for_all) {
            *counts.entry(*watch).or_default() += 1;
        }
        Some(())
    });
    if noted.is_none() {
        // A message that comes while the lists are in use counts for all.
        note_all();
    }
}

unsafe extern "C-unwind" fn relation_changed(_: Datum, relation: Oid) {
    if relation == pg_sys::InvalidOid { note_all() } else { note(Subject::Relation(relation.to_u32())) }
}

unsafe extern "C-unwind" fn changed(_: Datum, _: i32, _: u32) {
    note_all();
}

unsafe extern "C-unwind" fn function_changed(_: Datum, _: i32, hash: u32) {
    if hash == 0 { note_all() } else { note(Subject::Function(hash)) }
}

unsafe extern "C-unwind" fn role_changed(_: Datum, _: i32, hash: u32) {
    if hash == 0 { note_all() } else { note(Subject::Role(hash)) }
}

unsafe extern "C-unwind" fn schema_changed(_: Datum, _: i32, hash: u32) {
    if hash == 0 { note_all() } else { note(Subject::Schema(hash)) }
}

unsafe extern "C-unwind" fn name_changed(_: Datum, _: i32, hash: u32) {
    if hash == 0 { note_all() } else { note(Subject::Name(hash)) }
}

//! Invalidation: when what a session has cached may be out of date, from PostgreSQL's own invalidation messages.
//!
//! Each cached thing is a [`Watch`] with the relations, functions and names that it consists of. A message only raises
//! counters, of the watches that it concerns or, about schemas, roles and subscriptions, of all; the cache compares
//! them.

use crate::pg::transaction::next_command;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

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
    /// Likewise.
    Name(u32),
}

#[derive(Default)]
struct Watched {
    watches: HashMap<Subject, Vec<Watch>>,
    subjects: HashMap<Watch, Vec<Subject>>,
    counts: HashMap<Watch, u64>,
    /// The watch that was started last.
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

/// A watch is for these relations, and these names, and nothing else from now on.
pub fn start(watch: Watch, relations: &[Oid], names: &[u32]) {
    WATCHED.with_borrow_mut(|watched| {
        watched.forget_subjects(watch);
        watched.current = Some(watch);
        watched.for_all = watched.for_all.filter(|other| *other != watch);
        names.iter().for_each(|name| watched.add(Subject::Name(*name)));
    });
    add_relations(relations);
}

/// A watch is for every relation, until it is started for some: while it is being found out which they are.
pub fn start_with_all(watch: Watch) {
    start(watch, &[], &[]);
    WATCHED.with_borrow_mut(|watched| watched.for_all = Some(watch));
}

/// Ends a watch.
pub fn end(watch: Watch) {
    WATCHED.with_borrow_mut(|watched| watched.forget_subjects(watch));
}

/// The watch that was started last is for more relations, too.
pub fn add_relations(relations: &[Oid]) {
    WATCHED.with_borrow_mut(|watched| {
        let known = relations.iter().map(|relation| relation.to_u32()).filter(|&oid| oid != 0);
        known.for_each(|oid| watched.add(Subject::Relation(oid)));
    });
}

/// The watch that was started last is for a function, too, by the hash that names it in messages.
pub fn add_function(hash: u32) {
    WATCHED.with_borrow_mut(|watched| watched.add(Subject::Function(hash)));
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
    use pg_sys::SysCacheIdentifier::{AUTHOID, NAMESPACEOID, PROCOID, RELNAMENSP, SUBSCRIPTIONRELMAP};
    // SAFETY: the callbacks are of the library, which is never unloaded; they touch only state of ours.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), Datum::null());
        for cache in [AUTHOID, NAMESPACEOID, SUBSCRIPTIONRELMAP] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(changed), Datum::null());
        }
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

unsafe extern "C-unwind" fn name_changed(_: Datum, _: i32, hash: u32) {
    if hash == 0 { note_all() } else { note(Subject::Name(hash)) }
}

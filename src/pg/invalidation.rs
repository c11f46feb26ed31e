//! Invalidation: when the cached attachment may be out of date, from PostgreSQL's own invalidation messages.
//!
//! Watched are the relations that the attachment consists of, the name that the stock table had when it was attached,
//! the functions of its triggers, schemas, roles and subscriptions. A message only raises a counter; the cache compares
//! it.

use crate::pg::transaction::next_command;
use pgrx::pg_sys::{self, Datum, Oid};
use std::cell::{Cell, RefCell};

struct Watched {
    /// 0 stands for "every relation" in a message, so it is never one of these.
    relations: Vec<u32>,
    functions: Vec<u32>,
    name: Option<u32>,
}

thread_local! {
    /// PostgreSQL calls back without an argument of ours, so this is state of the backend.
    static WATCHED: RefCell<Watched> =
        const { RefCell::new(Watched { relations: Vec::new(), functions: Vec::new(), name: None }) };
    /// The messages so far that concern the attachment; likewise.
    static GENERATION: Cell<u32> = const { Cell::new(0) };
}

/// The number of relevant messages so far.
pub fn generation() -> u32 {
    GENERATION.get()
}

/// Watches these relations, and this name, and nothing else from now on.
pub fn start(relations: &[Oid], name: Option<u32>) {
    let relations = relations.iter().map(|relation| relation.to_u32()).filter(|&oid| oid != 0).collect();
    WATCHED.set(Watched { relations, functions: Vec::new(), name });
}

/// Watches more relations.
pub fn add_relations(relations: &[Oid]) {
    WATCHED.with_borrow_mut(|watched| watched.relations.extend(relations.iter().map(|relation| relation.to_u32())));
}

/// Watches a function, by the hash that names it in messages.
pub fn add_function(hash: u32) {
    WATCHED.with_borrow_mut(|watched| watched.functions.push(hash));
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

fn note_if(relevant: impl FnOnce(&Watched) -> bool) {
    // A message that comes while the list is being written counts as relevant.
    let relevant = WATCHED.with(|watched| watched.try_borrow().map_or(true, |watched| relevant(&watched)));
    if relevant {
        GENERATION.set(GENERATION.get().wrapping_add(1));
    }
}

unsafe extern "C-unwind" fn relation_changed(_: Datum, relation: Oid) {
    note_if(|watched| relation == pg_sys::InvalidOid || watched.relations.contains(&relation.to_u32()));
}

unsafe extern "C-unwind" fn changed(_: Datum, _: i32, _: u32) {
    note_if(|_| true);
}

unsafe extern "C-unwind" fn function_changed(_: Datum, _: i32, hash: u32) {
    note_if(|watched| hash == 0 || watched.functions.contains(&hash));
}

unsafe extern "C-unwind" fn name_changed(_: Datum, _: i32, hash: u32) {
    note_if(|watched| hash == 0 || watched.name == Some(hash));
}

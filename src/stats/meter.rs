//! Measures a call from its beginning to its end, however it ends.
//!
//! The calls that run are a stack of this process, not an argument: where the process is ended in the middle of a call,
//! PostgreSQL unwinds nothing, and the call is counted when the process exits.

use crate::core::error::Result;
use crate::pg::Oid;
use crate::pg::clock;
use crate::pg::lock;
use crate::pg::report::{self, sqlstate_of_panic};
use crate::pg::settings;
use crate::pg::shared_memory::{self, SharedMemory};
use crate::pg::transaction::watch_exit;
use crate::stats::counters::{self, EntryPlace, Figures};
use crate::stats::function::Function;
use crate::stats::hot::{self, HotList};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A call that runs.
struct RunningCall {
    function: Function,
    table: Oid,
    /// Where it will be counted, once the table is known.
    place: Option<EntryPlace>,
    begin: u64,
    /// Nothing that takes time came between its beginning and now; see `was_busy`.
    has_just_begun: bool,
    /// When this process had last waited for a lock when it began.
    last_wait: i64,
    reference: Option<String>,
    figures: Figures,
    /// The item for which it waited until an error ended that, and how long.
    gave_up: Option<(String, u64)>,
}

thread_local! {
    /// The calls of this process that run, the innermost last.
    static RUNNING: RefCell<Vec<RunningCall>> = const { RefCell::new(Vec::new()) };
    /// The exit of this process is watched: a fact of the process, set once.
    static EXIT_WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Whether calls are to be counted.
pub fn is_on() -> bool {
    settings::track()
}

/// The shared memory, where calls are counted.
pub fn memory() -> Option<SharedMemory> {
    if is_on() { shared_memory::attach().ok() } else { None }
}

/// Runs a call, and counts it.
pub fn counted<T>(function: Function, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(memory) = memory() else { return act() };
    if !EXIT_WATCHED.replace(true) {
        watch_exit();
    }
    let begin = clock::nanoseconds();
    let depth = RUNNING.with_borrow_mut(|running| {
        running.push(RunningCall {
            function,
            table: Oid::INVALID,
            place: None,
            begin,
            has_just_begun: true,
            last_wait: lock::last_wait(),
            reference: None,
            figures: Figures::default(),
            gave_up: None,
        });
        running.len() - 1
    });
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => {
            let error = result.as_ref().err();
            have_place(memory, depth);
            let table = ended(memory, depth, error.map(|error| report::packed(error.code.sqlstate)));
            if let Some(error) = error.filter(|error| error.code.sqlstate == "IV001") {
                refused_items(&error.detail, |item| hot::note(memory, HotList::Refusals, table, item, 1));
            }
            result
        }
        Err(payload) => {
            ended(memory, depth, Some(sqlstate_of_panic(payload.as_ref())));
            resume_unwind(payload)
        }
    }
}

/// A call that failed before its table was known has no place yet; now the catalogs can still be read.
fn have_place(memory: SharedMemory, depth: usize) {
    RUNNING.with_borrow_mut(|running| {
        if let Some(call) = running.get_mut(depth).filter(|call| call.place.is_none()) {
            call.place = counters::prepare(memory, call.table, call.function);
        }
    });
}

/// Counts the call at this depth, and returns its table. Those that run within it have ended.
fn ended(memory: SharedMemory, depth: usize, sqlstate: Option<u32>) -> Oid {
    RUNNING.with_borrow_mut(|running| {
        let Some(call) = running.get_mut(depth) else { return Oid::INVALID };
        let table = call.table;
        if let Some((item, time)) = &call.gave_up {
            hot::note(memory, HotList::Waits, table, item, *time);
        }
        call.figures.time = clock::nanoseconds() - call.begin;
        call.figures.sqlstate = sqlstate;
        counters::count(memory, call.place, (table, call.function), &call.figures);
        running.truncate(depth);
        table
    })
}

/// The process ends, in the middle of these calls.
pub(super) fn count_interrupted(memory: SharedMemory) {
    let depth = RUNNING.with_borrow(Vec::len);
    (0..depth).rev().for_each(|depth| {
        ended(memory, depth, Some(report::packed("57P01")));
    });
}

/// The items that an error says are short.
fn refused_items(detail: &serde_json::Map<String, Value>, mut refuse: impl FnMut(&str)) {
    let mut of = |facts: &serde_json::Map<String, Value>| match facts.get("inventory_id") {
        Some(Value::String(item)) => refuse(item),
        Some(Value::Number(item)) => refuse(&item.to_string()),
        _ => {}
    };
    of(detail);
    for line in detail.get("lines").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
        of(line);
    }
}

fn innermost(act: impl FnOnce(&mut RunningCall)) {
    RUNNING.with_borrow_mut(|running| running.last_mut().map(act));
}

/// The running call is about this stock table.
pub fn is_about(table: Oid) {
    let Some(memory) = memory() else { return };
    innermost(|running| {
        running.place = counters::prepare(memory, table, running.function);
        running.table = table;
    });
}

/// What the running call did until now took time, and is over.
pub fn was_busy() {
    innermost(|running| running.has_just_begun = false);
}

/// The running call has this reference.
pub fn has_reference(reference: Option<&str>) {
    if let Some(reference) = reference {
        innermost(|running| running.reference = Some(reference.to_owned()));
    }
}

/// The running call wrote so many movements.
pub fn moved(movements: usize) {
    innermost(|running| running.figures.movements += movements as u64);
}

/// The result of the running call is that of an earlier one.
pub fn replayed() {
    innermost(|running| running.figures.replayed = true);
}

/// The running call took a lock, which it waited for so long.
pub(super) fn locked(waited: Option<u64>) {
    innermost(|running| {
        running.figures.locked = true;
        if let Some(time) = waited {
            running.figures.lock_time += time;
            running.figures.waits += 1;
        }
    });
}

/// An error has ended the wait of the running call for an item.
pub(super) fn gave_up(item: String, time: u64) {
    innermost(|running| running.gave_up = Some((item, time)));
}

/// The reference of the running call.
pub(super) fn reference() -> Option<String> {
    RUNNING.with_borrow(|running| running.last().and_then(|running| running.reference.clone()))
}

/// Calls `act` with the moment at which the running call begins to take a lock, and its reference. A call that takes
/// that of one item first of all begins with it, so that the clock is not read again.
pub(super) fn begin_to_lock<T>(is_of_one_item: bool, act: impl FnOnce(u64, Option<&str>) -> T) -> T {
    RUNNING.with_borrow_mut(|running| {
        let Some(running) = running.last_mut() else { return act(clock::nanoseconds(), None) };
        let is_first = is_of_one_item && running.has_just_begun && running.last_wait == lock::last_wait();
        running.has_just_begun = false;
        act(if is_first { running.begin } else { clock::nanoseconds() }, running.reference.as_deref())
    })
}

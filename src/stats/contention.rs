//! Which items stay contended, so that they are worth stripes, and which striped ones have become quiet.
//!
//! An item has a few words, found by a hash of its table and id: two items that share a hash share their figures, which
//! decide on speed alone.

use crate::core::item_id::ItemId;
use crate::pg::Oid;
use crate::pg::clock;
use crate::pg::shared_memory::{SharedMemory, attach, attached};
use crate::pg::transaction::{Subtransaction, subtransaction};
use crate::stats::counters::{key_of_table, probe};
use crate::stats::layout::{FIRST_WATCHED, WATCHED, WATCHED_WORDS};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many waits within a second make an item contended: five tills that meet now and then do not.
const MANY_WAITS: u64 = 20;
const WINDOW: u64 = 1_000_000_000;
/// Before so much of it has passed, not all sessions that want the item may have come.
const ONSET: u64 = 250_000_000;
/// A striped item is quiet with fewer sales than this in that time.
const FEW_SALES: u64 = 10;
const REST: u64 = 1_000_000_000;
/// The place of a divided item is free for another one when the totals worker has not looked at it for so long; that of
/// any other item, after its last second.
const FORGOTTEN: u64 = 60_000_000_000;
/// The places that are looked at for one item.
const NEIGHBOURS: usize = 8;

const KEY: usize = 0;
const BEGIN: usize = 1;
const COUNT: usize = 2;
/// 1: the item was divided because it was contended.
const DIVIDED: usize = 3;
/// Until when it is not to be divided.
const PAUSED: usize = 4;

type Words = &'static [AtomicU64];

/// That an item was divided, or that its stripes were put together, by a subtransaction.
struct DivisionChange {
    made_in: Subtransaction,
    key: u64,
    is_divided: bool,
}

thread_local! {
    /// What this transaction has divided and put together; its end has no argument of ours.
    static CHANGES: RefCell<Vec<DivisionChange>> = const { RefCell::new(Vec::new()) };
}

fn hash(table: Oid, id: &ItemId) -> u64 {
    let bytes = id.to_bytes();
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(key_of_table(table.to_u32()) ^ 0xcbf2_9ce4_8422_2325, fnv).max(1)
}

fn places(memory: SharedMemory, key: u64) -> impl Iterator<Item = Words> {
    probe(key, WATCHED).take(NEIGHBOURS).map(move |place| {
        let begin = FIRST_WATCHED + place * WATCHED_WORDS;
        &memory.words[begin..begin + WATCHED_WORDS]
    })
}

fn find(memory: SharedMemory, key: u64) -> Option<Words> {
    places(memory, key).find(|words| words[KEY].load(Ordering::Relaxed) == key)
}

/// The place of an item, which it gets where it has none.
fn find_or_take(memory: SharedMemory, key: u64, now: u64) -> Option<Words> {
    let take = |words: &Words| {
        let old = words[KEY].load(Ordering::Relaxed);
        let rest = if words[DIVIDED].load(Ordering::Relaxed) == 1 { FORGOTTEN } else { WINDOW };
        let is_old = now.saturating_sub(words[BEGIN].load(Ordering::Relaxed)) > rest;
        let is_free = old == 0 || (is_old && words[PAUSED].load(Ordering::Relaxed) < now);
        is_free && words[KEY].compare_exchange(old, key, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    find(memory, key).or_else(|| {
        let words = places(memory, key).find(take)?;
        [COUNT, DIVIDED, PAUSED].into_iter().for_each(|word| words[word].store(0, Ordering::Relaxed));
        words[BEGIN].store(now, Ordering::Relaxed);
        Some(words)
    })
}

/// Notes a wait for an item; returns whether it has been waited for so often that it is contended.
pub fn waited(memory: SharedMemory, table: Oid, id: &ItemId) -> bool {
    let now = clock::nanoseconds();
    let Some(words) = find_or_take(memory, hash(table, id), now) else { return false };
    if now.saturating_sub(words[BEGIN].load(Ordering::Relaxed)) > WINDOW {
        words[BEGIN].store(now, Ordering::Relaxed);
        words[COUNT].store(0, Ordering::Relaxed);
    }
    let is_contended = words[COUNT].fetch_add(1, Ordering::Relaxed) + 1 >= MANY_WAITS;
    let has_lasted = now.saturating_sub(words[BEGIN].load(Ordering::Relaxed)) >= ONSET;
    is_contended && has_lasted && words[PAUSED].load(Ordering::Relaxed) < now
}

/// The item could not be divided: how long no session tries again.
pub fn pause(memory: SharedMemory, table: Oid, id: &ItemId, pause: Duration) {
    if let Some(words) = find(memory, hash(table, id)) {
        let until = clock::nanoseconds() + u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX / 2);
        words[PAUSED].store(until, Ordering::Relaxed);
    }
}

/// The item was divided because it was contended, if the transaction commits.
pub fn divided(table: Oid, id: &ItemId) {
    note(table, id, true);
}

/// The stripes of the item are put together, or its owner decides on them, if the transaction commits.
pub fn merged(table: Oid, id: &ItemId) {
    note(table, id, false);
}

fn note(table: Oid, id: &ItemId, is_divided: bool) {
    // At the end of the transaction it would be too late to attach.
    if attach().is_err() {
        return;
    }
    let change = DivisionChange { made_in: subtransaction(), key: hash(table, id), is_divided };
    CHANGES.with_borrow_mut(|changes| changes.push(change));
}

/// A subtransaction has aborted, and with it those that began after it.
pub fn subtransaction_aborted(aborted: Subtransaction) {
    CHANGES.with_borrow_mut(|changes| changes.retain(|change| change.made_in < aborted));
}

/// The transaction has committed, or aborted.
pub fn over(is_committed: bool) {
    let changes = CHANGES.take();
    // It was attached when the first change was noted.
    let Some(memory) = attached().filter(|_| is_committed) else { return };
    let now = clock::nanoseconds();
    for DivisionChange { key, is_divided, .. } in changes {
        let words = if is_divided { find_or_take(memory, key, now) } else { find(memory, key) };
        if let Some(words) = words {
            words[COUNT].store(0, Ordering::Relaxed);
            words[BEGIN].store(now, Ordering::Relaxed);
            words[DIVIDED].store(u64::from(is_divided), Ordering::Relaxed);
        }
    }
}

/// A striped item was sold.
pub fn sold(table: Oid, id: &ItemId) {
    if let Ok(memory) = attach()
        && let Some(words) = find(memory, hash(table, id))
    {
        words[COUNT].fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether an item that was divided because it was contended has become quiet. To be asked by one process.
pub fn is_quiet(memory: SharedMemory, table: Oid, id: &ItemId) -> bool {
    let now = clock::nanoseconds();
    let Some(words) = find(memory, hash(table, id)) else { return false };
    if words[DIVIDED].load(Ordering::Relaxed) == 0 || now.saturating_sub(words[BEGIN].load(Ordering::Relaxed)) < REST {
        return false;
    }
    words[BEGIN].store(now, Ordering::Relaxed);
    words[COUNT].swap(0, Ordering::Relaxed) < FEW_SALES
}

/// Whether one of these items is striped because it was contended.
pub fn has_divided<'i>(table: Oid, mut ids: impl Iterator<Item = &'i ItemId>) -> bool {
    let Ok(memory) = attach() else { return false };
    let is_divided =
        |id| find(memory, hash(table, id)).is_some_and(|words| words[DIVIDED].load(Ordering::Relaxed) == 1);
    ids.any(is_divided)
}

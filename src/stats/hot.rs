//! The items that calls wait for most, and those that are refused most: two lists of bounded length.
//!
//! Both are kept by the space-saving algorithm of Metwally, Agrawal and El Abbadi (2005): an item that is not in a full
//! list takes the place of the least one and inherits its weight as a possible error. An item whose weight is more than
//! the total divided by the length of the list is always in it. A list is written under the one lock, only where a call
//! waited or was refused.

use crate::pg::Oid;
use crate::pg::settings;
use crate::pg::shared_memory::SharedMemory;
use crate::pg::transaction::database;
use crate::stats::layout::{FIRST_HOT, HOT_WORDS, MOST_HOT};
use crate::stats::text;
use std::sync::atomic::{AtomicU64, Ordering};

/// A list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HotList {
    /// By nanoseconds that calls waited.
    Waits = 0,
    /// By the number of refusals.
    Refusals = 1,
}

/// The database and the table; 0, the place is free.
const TABLE: usize = 0;
const WEIGHT: usize = 1;
const ERROR: usize = 2;
const COUNT: usize = 3;
const TEXT: usize = 8;

/// An item of a list.
pub struct Hot {
    /// The stock table.
    pub table: u32,
    /// The item, cut after 64 bytes.
    pub item: String,
    /// Nanoseconds, or refusals; too much by the error at most.
    pub weight: u64,
    /// What it inherited.
    pub error: u64,
    /// How often it was noted since it is in the list.
    pub count: u64,
}

fn places(memory: SharedMemory, list: HotList) -> impl Iterator<Item = &'static [AtomicU64]> {
    let begin = FIRST_HOT + list as usize * MOST_HOT * HOT_WORDS;
    memory.words[begin..begin + MOST_HOT * HOT_WORDS].chunks_exact(HOT_WORDS)
}

/// Adds to the weight of an item.
pub fn note(memory: SharedMemory, list: HotList, table: Oid, item: &str, weight: u64) {
    let key = u64::from(database().to_u32()) << 32 | u64::from(table.to_u32());
    let packed = text::pack(item);
    let used = 1 + (packed[0] as usize).div_ceil(8);
    memory.locked(|| {
        let get = |words: &[AtomicU64], word: usize| words[word].load(Ordering::Relaxed);
        let is_it = |words: &&[AtomicU64]| {
            let same = |(word, value): (&AtomicU64, &u64)| word.load(Ordering::Relaxed) == *value;
            get(words, TABLE) == key && words[TEXT..].iter().zip(&packed[..used]).all(same)
        };
        let within = || places(memory, list).take(settings::hot_items());
        if let Some(words) = within().find(is_it) {
            words[WEIGHT].fetch_add(weight, Ordering::Relaxed);
            words[COUNT].fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lightest = |words: &&[AtomicU64]| if get(words, TABLE) == 0 { 0 } else { get(words, WEIGHT) + 1 };
        let Some(words) = within().min_by_key(lightest) else { return };
        let inherited = if get(words, TABLE) == 0 { 0 } else { get(words, WEIGHT) };
        for (word, value) in [(TABLE, key), (WEIGHT, inherited + weight), (ERROR, inherited), (COUNT, 1)] {
            words[word].store(value, Ordering::Relaxed);
        }
        text::store(&words[TEXT..], &packed);
    });
}

/// The items of this database in a list, the heaviest first.
pub fn read(memory: SharedMemory, list: HotList) -> Vec<Hot> {
    let own = u64::from(database().to_u32());
    let mut items: Vec<Hot> = memory.locked(|| {
        let get = |words: &[AtomicU64], word: usize| words[word].load(Ordering::Relaxed);
        let of_database = |words: &&[AtomicU64]| get(words, TABLE) >> 32 == own;
        let item = |words: &[AtomicU64]| Hot {
            table: get(words, TABLE) as u32,
            item: text::unpack(&text::load(&words[TEXT..])),
            weight: get(words, WEIGHT),
            error: get(words, ERROR),
            count: get(words, COUNT),
        };
        places(memory, list).take(settings::hot_items()).filter(of_database).map(item).collect()
    });
    items.sort_by_key(|item| std::cmp::Reverse(item.weight));
    items
}

/// Empties the lists of this database.
pub fn reset(memory: SharedMemory) {
    let own = u64::from(database().to_u32());
    memory.locked(|| {
        let lists = places(memory, HotList::Waits).chain(places(memory, HotList::Refusals));
        let of_database = |words: &&[AtomicU64]| words[TABLE].load(Ordering::Relaxed) >> 32 == own;
        lists.filter(of_database).for_each(|words| words[TABLE].store(0, Ordering::Relaxed));
    });
}

//! The counters of each function of each stock table.
//!
//! A table, and a pair of a table and a function, gets a place of its own and keeps it. Where all are taken, those of
//! tables and databases that are gone become free.

use crate::pg::Oid;
use crate::pg::clock;
use crate::pg::relation::schema_of;
use crate::pg::shared_memory::{MADE_AT, SharedMemory};
use crate::pg::system_catalog::is_database;
use crate::pg::transaction::{database, has_number};
use crate::stats::function::Function;
use crate::stats::histogram;
use crate::stats::layout::{
    ENTRIES, ENTRY_WORDS, FIRST_ENTRY, FIRST_TABLE, NOT_COUNTED, SQLSTATES, TABLE_WORDS, TABLES,
};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

/// The figures of a call that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// How long it took, in nanoseconds.
    pub time: u64,
    /// The movements that it wrote, whether they were committed or not.
    pub movements: u64,
    /// The result was that of an earlier call with the same idempotency key.
    pub replayed: bool,
    /// It took locks on items.
    pub locked: bool,
    /// How long it waited for them, in nanoseconds.
    pub lock_time: u64,
    /// How often it waited for one.
    pub waits: u64,
    /// The packed SQLSTATE of its error; None where it succeeded.
    pub sqlstate: Option<u32>,
}

const KEY: usize = 0;
const REPLAYS: usize = 1;
const MOVEMENTS: usize = 2;
const TIME: usize = 3;
const LONGEST: usize = 4;
const WAITS: usize = 5;
const LOCK_TIME: usize = 6;
const LONGEST_LOCK: usize = 7;
const FIRST_SQLSTATE: usize = 8;
/// Errors whose SQLSTATE has no place of its own.
const OTHERS: usize = FIRST_SQLSTATE + 2 * SQLSTATES;
const TIMES: usize = OTHERS + 2;
const LOCK_TIMES: usize = TIMES + histogram::BUCKETS;

/// A place of an entry, and the key that it had when it was found.
#[derive(Clone, Copy)]
pub struct EntryPlace {
    number: usize,
    key: u64,
}

impl EntryPlace {
    /// Its words, unless another entry has the place by now.
    fn words(self, memory: SharedMemory) -> Option<&'static [AtomicU64]> {
        let words = entry(memory, self.number);
        (words[KEY].load(Ordering::Relaxed) == self.key).then_some(words)
    }
}

/// A place that this process has used.
struct CachedPlace {
    table: u32,
    function: Function,
    place: EntryPlace,
}

thread_local! {
    /// A cache of places, which another key may have by now.
    static PLACES: RefCell<Vec<CachedPlace>> = const { RefCell::new(Vec::new()) };
    /// When this process last found all places taken: a fact of the process.
    static FULL_SINCE: Cell<Option<u64>> = const { Cell::new(None) };
}
const MOST_PLACES: usize = 32;

/// Finds a place for the calls of a function of a table, while the catalogs can be read.
pub fn prepare(memory: SharedMemory, table: Oid, function: Function) -> Option<EntryPlace> {
    place(memory, table.to_u32(), function, true)
}

/// Counts a call, at the place that was prepared for it. `table` is invalid where the call failed before its stock
/// table was known. How many calls there were, and how many of them without an error, follows from the histogram.
pub fn count(
    memory: SharedMemory,
    prepared: Option<EntryPlace>,
    (table, function): (Oid, Function),
    figures: &Figures,
) {
    let find = || place(memory, table.to_u32(), function, false)?.words(memory);
    let Some(words) = prepared.and_then(|place| place.words(memory)).or_else(find) else {
        memory.words[NOT_COUNTED].fetch_add(1, Ordering::Relaxed);
        return;
    };
    let add = |word: usize, number: u64| {
        if number > 0 {
            words[word].fetch_add(number, Ordering::Relaxed);
        }
    };
    add(MOVEMENTS, figures.movements);
    add(REPLAYS, u64::from(figures.replayed));
    add(TIME, figures.time);
    raise(&words[LONGEST], figures.time);
    add(TIMES + histogram::bucket(figures.time), 1);
    if figures.locked {
        add(WAITS, figures.waits);
        add(LOCK_TIME, figures.lock_time);
        raise(&words[LONGEST_LOCK], figures.lock_time);
        add(LOCK_TIMES + histogram::bucket(figures.lock_time), 1);
    }
    if let Some(sqlstate) = figures.sqlstate {
        add(place_of_sqlstate(words, sqlstate), 1);
    }
}

fn raise(word: &AtomicU64, number: u64) {
    if word.load(Ordering::Relaxed) < number {
        word.fetch_max(number, Ordering::Relaxed);
    }
}

/// The word that counts a SQLSTATE.
fn place_of_sqlstate(words: &[AtomicU64], sqlstate: u32) -> usize {
    let wanted = u64::from(sqlstate) + 1;
    let is_ours = |place: &usize| claim(&words[FIRST_SQLSTATE + 2 * place], wanted);
    (0..SQLSTATES).find(is_ours).map_or(OTHERS + 1, |place| FIRST_SQLSTATE + 2 * place + 1)
}

/// Whether a word has this value, which it gets where it has none.
fn claim(word: &AtomicU64, value: u64) -> bool {
    match word.load(Ordering::Relaxed) {
        0 => match word.compare_exchange(0, value, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(other) => other == value,
        },
        other => other == value,
    }
}

fn entry(memory: SharedMemory, place: usize) -> &'static [AtomicU64] {
    let begin = FIRST_ENTRY + place * ENTRY_WORDS;
    &memory.words[begin..begin + ENTRY_WORDS]
}

fn place(memory: SharedMemory, table: u32, function: Function, may_free: bool) -> Option<EntryPlace> {
    let known = PLACES.with_borrow(|places| {
        let is_it = |cached: &&CachedPlace| {
            cached.table == table && cached.function == function && cached.place.words(memory).is_some()
        };
        places.iter().find(is_it).map(|cached| cached.place)
    });
    if known.is_some() {
        return known;
    }
    let slot = place_of_table(memory, table, may_free)?;
    let key = ((slot as u64 + 1) << 8) | function as u64;
    let number = find_or_claim(memory, (key, ENTRIES, may_free), |place| &entry(memory, place)[KEY])?;
    let place = EntryPlace { number, key };
    PLACES.with_borrow_mut(|places| {
        if places.len() >= MOST_PLACES {
            places.clear();
        }
        places.push(CachedPlace { table, function, place });
    });
    Some(place)
}

/// Every place once, from that of a hash on.
pub(super) fn probe(key: u64, places: usize) -> impl Iterator<Item = usize> {
    let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize;
    (0..places).map(move |step| (first + step) % places)
}

/// The place that has a key, which it gets where none has. Places can become free again, so a new one is chosen under
/// the lock, after a look at all.
fn find_or_claim(
    memory: SharedMemory,
    (key, places, may_free): (u64, usize, bool),
    word: impl Fn(usize) -> &'static AtomicU64,
) -> Option<usize> {
    let find = || probe(key, places).find(|place| word(*place).load(Ordering::Relaxed) == key);
    let claim = || memory.locked(|| find().or_else(|| probe(key, places).find(|place| claim(word(*place), key))));
    find().or_else(|| {
        if is_full_for_now() {
            return None;
        }
        let place = claim();
        if place.is_some() || !may_free {
            return place;
        }
        free_places(memory);
        let place = claim();
        FULL_SINCE.set(if place.is_none() { Some(clock::nanoseconds()) } else { None });
        place
    })
}

/// For so long a process does not look again for a place, where all are taken.
const PAUSE: u64 = 1_000_000_000;

fn is_full_for_now() -> bool {
    FULL_SINCE.get().is_some_and(|since| clock::nanoseconds() - since < PAUSE)
}

/// Frees the places of databases, and of tables of this database, that are gone: no process counts for them any more.
/// A table that this transaction may have dropped others still have.
fn free_places(memory: SharedMemory) {
    let word = |slot: usize| &memory.words[FIRST_TABLE + slot * TABLE_WORDS];
    let is_gone = |key: u64| {
        let [of, table] = [key >> 32, key & 0xffff_ffff].map(|oid| Oid::from(oid as u32));
        let is_ours = of == database() && table != Oid::INVALID && !has_number();
        !is_database(of) || (is_ours && schema_of(table).is_none())
    };
    let used = (0..TABLES).map(|slot| (slot, word(slot).load(Ordering::Relaxed))).filter(|(_, key)| *key > 0);
    // The catalogs are not read under the lock.
    let gone: Vec<(usize, u64)> = used.filter(|(_, key)| is_gone(*key)).collect();
    memory.locked(|| {
        let gone = gone.iter().filter(|(slot, key)| word(*slot).load(Ordering::Relaxed) == *key);
        for (slot, _) in gone {
            let is_of_slot =
                |place: &usize| entry(memory, *place)[KEY].load(Ordering::Relaxed) >> 8 == *slot as u64 + 1;
            for place in (0..ENTRIES).filter(is_of_slot) {
                entry(memory, place).iter().rev().for_each(|word| word.store(0, Ordering::Relaxed));
            }
            let begin = FIRST_TABLE + slot * TABLE_WORDS;
            memory.words[begin..begin + TABLE_WORDS].iter().rev().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    });
}

pub(super) fn key_of_table(table: u32) -> u64 {
    u64::from(database().to_u32()) << 32 | u64::from(table)
}

/// The words of a stock table; None where there is no room for more tables.
pub(super) fn words_of_table(memory: SharedMemory, table: u32) -> Option<&'static [AtomicU64]> {
    let begin = FIRST_TABLE + place_of_table(memory, table, true)? * TABLE_WORDS;
    Some(&memory.words[begin..begin + TABLE_WORDS])
}

fn place_of_table(memory: SharedMemory, table: u32, may_free: bool) -> Option<usize> {
    let key = key_of_table(table);
    find_or_claim(memory, (key, TABLES, may_free), |slot| &memory.words[FIRST_TABLE + slot * TABLE_WORDS])
}

/// When the counters of this database were reset; 0, they never were. Its place is that of its invalid table.
fn reset_at(memory: SharedMemory) -> Option<&'static AtomicU64> {
    place_of_table(memory, 0, true).map(|slot| &memory.words[FIRST_TABLE + slot * TABLE_WORDS + 1])
}

/// Since when the calls of this database are counted: microseconds since 2000-01-01 00:00 UTC.
pub fn since(memory: SharedMemory) -> Option<i64> {
    let reset = reset_at(memory).map(|word| word.load(Ordering::Relaxed)).filter(|moment| *moment > 0);
    reset.or(Some(memory.words[MADE_AT].load(Ordering::Relaxed))).map(u64::cast_signed)
}

/// The calls, of all databases, for which there was no place.
pub fn not_counted(memory: SharedMemory) -> u64 {
    memory.words[NOT_COUNTED].load(Ordering::Relaxed)
}

/// Sets the counters of this database to zero.
pub fn reset(memory: SharedMemory, now: i64) {
    for (_, _, words) in entries(memory) {
        words[KEY + 1..].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
    if let Some(word) = reset_at(memory) {
        word.store(now.cast_unsigned(), Ordering::Relaxed);
    }
}

/// The entries in use, of all databases.
pub fn used(memory: SharedMemory) -> usize {
    (0..ENTRIES).filter(|place| entry(memory, *place)[KEY].load(Ordering::Relaxed) > 0).count()
}

/// The entries of this database: stock table, function, words.
fn entries(memory: SharedMemory) -> Vec<(u32, Function, &'static [AtomicU64])> {
    let own = database().to_u32();
    let of_database = |place| {
        let words = entry(memory, place);
        let key = words[KEY].load(Ordering::Relaxed);
        let slot = (key >> 8).checked_sub(1)? as usize;
        let table = memory.words.get(FIRST_TABLE + slot * TABLE_WORDS)?.load(Ordering::Relaxed);
        let function = Function::of_number(key as u8)?;
        (table >> 32 == u64::from(own)).then_some((table as u32, function, words))
    };
    (0..ENTRIES).filter_map(of_database).collect()
}

/// The counters of a function of a stock table, read.
pub struct Counted {
    /// The stock table; 0 where none was known.
    pub table: u32,
    /// The function.
    pub function: Function,
    /// How often it was called.
    pub calls: u64,
    /// How often without an error.
    pub successes: u64,
    /// Results of an earlier call.
    pub replays: u64,
    /// Movements written.
    pub movements: u64,
    /// Time of all calls.
    pub time: Times,
    /// Calls that took locks.
    pub locking: u64,
    /// Waits for one.
    pub waits: u64,
    /// Time that they were waited for.
    pub lock_time: Times,
    /// Errors by packed SQLSTATE; None for all that have no place.
    pub errors: Vec<(Option<u32>, u64)>,
}

/// Durations, in nanoseconds.
pub struct Times {
    /// Their sum.
    pub total: u64,
    /// The longest.
    pub longest: u64,
    /// How many were in each bucket.
    pub histogram: Vec<u64>,
}

/// All counters of this database.
pub fn read(memory: SharedMemory) -> Vec<Counted> {
    entries(memory).into_iter().map(|(table, function, words)| read_entry(table, function, words)).collect()
}

fn read_entry(table: u32, function: Function, words: &[AtomicU64]) -> Counted {
    let word = |word: usize| words[word].load(Ordering::Relaxed);
    let times = |[total, longest, first]: [usize; 3]| Times {
        total: word(total),
        longest: word(longest),
        histogram: histogram::read(&words[first..first + histogram::BUCKETS]),
    };
    let apart = (0..SQLSTATES).map(|place| FIRST_SQLSTATE + 2 * place);
    let mut errors: Vec<_> =
        apart.map(|place| (word(place).checked_sub(1).map(|code| code as u32), word(place + 1))).collect();
    errors.retain(|(code, count)| code.is_some() && *count > 0);
    if word(OTHERS + 1) > 0 {
        errors.push((None, word(OTHERS + 1)));
    }
    // The errors were read first, so that there are not more of them than calls, unless the counters were reset since.
    let failures: u64 = errors.iter().map(|(_, count)| count).sum();
    let (time, lock_time) = (times([TIME, LONGEST, TIMES]), times([LOCK_TIME, LONGEST_LOCK, LOCK_TIMES]));
    let calls = time.histogram.iter().sum::<u64>();
    Counted {
        table,
        function,
        calls,
        successes: calls.saturating_sub(failures),
        replays: word(REPLAYS),
        movements: word(MOVEMENTS),
        time,
        locking: lock_time.histogram.iter().sum(),
        waits: word(WAITS),
        lock_time,
        errors,
    }
}

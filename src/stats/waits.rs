//! Who takes the lock of which item now, and how long that took.
//!
//! Each backend has words of its own, which it alone writes: before it takes a lock, and after. Their first word is odd
//! while they are written, so that a reader knows what it may not use.

use crate::core::item_id::{IdType, ItemId};
use crate::pg::Oid;
use crate::pg::clock;
use crate::pg::lock;
use crate::pg::report;
use crate::pg::settings;
use crate::pg::shared_memory::{SharedMemory, own_place, process};
use crate::pg::transaction::database;
use crate::stats::hot::{self, HotList};
use crate::stats::layout::{FIRST_WAIT, TEXT_WORDS, WAIT_WORDS};
use crate::stats::{meter, text};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const SEQUENCE: usize = 0;
/// 0: this backend takes no lock.
const PROCESS: usize = 1;
const TABLE: usize = 2;
const SINCE: usize = 3;
/// The number of the stripe and one more; 0, it is a row.
const STRIPE: usize = 4;
const ID_KIND: usize = 5;
const ITEM: usize = 8;
const REFERENCE: usize = ITEM + TEXT_WORDS;

/// Whose lock is taken.
#[derive(Clone, Copy)]
pub enum LockTarget<'a> {
    /// The row of an item.
    Item(&'a ItemId),
    /// The rows of several.
    Items,
    /// A stripe of an item; 0, a lock on the item as a whole.
    Stripe(&'a ItemId, i16),
}

impl<'a> LockTarget<'a> {
    /// The rows of some items.
    pub fn of(ids: &'a [ItemId]) -> Self {
        match ids {
            [id] => Self::Item(id),
            _ => Self::Items,
        }
    }

    fn item(self) -> Option<&'a ItemId> {
        match self {
            Self::Item(id) | Self::Stripe(id, _) => Some(id),
            Self::Items => None,
        }
    }
}

/// Takes a lock; returns also how long that was waited for, in nanoseconds; None, it was free.
pub fn taking<T>(table: Oid, target: LockTarget<'_>, take: impl FnOnce() -> T) -> (T, Option<u64>) {
    let Some(memory) = meter::memory() else { return (take(), None) };
    let (begin, published) = meter::begin_to_lock(matches!(target, LockTarget::Item(_)), |begin, reference| {
        (begin, own_place().map(|place| Published::new(of_backend(memory, place), (table, target), begin, reference)))
    });
    let measured = Measured { target, begin, last_wait: lock::last_wait() };
    let taken = take();
    drop(published);
    let waited = measured.end();
    if let (Some(time), Some(item)) = (waited, target.item()) {
        note(table, &[item], time);
    }
    (taken, waited)
}

/// A lock that is being taken: the figures of the call have it also where an error ends the wait.
struct Measured<'t> {
    target: LockTarget<'t>,
    begin: u64,
    last_wait: i64,
}

impl Measured<'_> {
    /// The clock is read only after a wait.
    fn end(&self) -> Option<u64> {
        let waited = (lock::last_wait() != self.last_wait).then(|| clock::nanoseconds() - self.begin);
        meter::locked(waited);
        waited
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(time) = self.end()
            && let Some(item) = self.target.item()
        {
            meter::gave_up(item.to_string(), time);
        }
    }
}

/// This process takes no lock any more: it ends, and nothing unwinds.
pub(super) fn forget(memory: SharedMemory) {
    if let Some(place) = own_place() {
        drop(Published(of_backend(memory, place)));
    }
}

/// Notes a wait for items: in the list of hot items, and in the log where that is asked for.
pub fn note(table: Oid, items: &[&ItemId], time: u64) {
    let Some(memory) = meter::memory() else { return };
    for item in items {
        hot::note(memory, HotList::Waits, table, &item.to_string(), time / items.len() as u64);
    }
    let (milliseconds, least) = (time as f64 / 1e6, settings::log_lock_wait());
    if least.is_some_and(|least| milliseconds >= least) {
        let names: Vec<_> = items.iter().map(|item| item.to_json()).collect();
        let facts = json!({"table": table.to_u32(), "inventory_id": names, "reference": meter::reference()});
        report::log_with(&format!("inventory_ext waited {milliseconds:.3} ms for the lock of an item"), &facts);
    }
}

/// The words of this backend say which lock it takes, as long as this lives.
struct Published(&'static [AtomicU64]);

impl Published {
    fn new(
        words: &'static [AtomicU64],
        (table, target): (Oid, LockTarget<'_>),
        since: u64,
        reference: Option<&str>,
    ) -> Self {
        let put = |word: usize, value: u64| words[word].store(value, Ordering::Relaxed);
        begin_change(words);
        put(PROCESS, u64::from(process()));
        put(TABLE, u64::from(database().to_u32()) << 32 | u64::from(table.to_u32()));
        put(SINCE, since);
        put(STRIPE, if let LockTarget::Stripe(_, stripe) = target { u64::from(stripe.unsigned_abs()) + 1 } else { 0 });
        match target.item() {
            None => put(ID_KIND, 0),
            Some(ItemId::Uuid(bytes)) => {
                let halves = u128::from_be_bytes(*bytes);
                put(ID_KIND, IdKind::Uuid as u64);
                put(ITEM, (halves >> 64) as u64);
                put(ITEM + 1, halves as u64);
            }
            Some(ItemId::Integer(number)) => put_number(words, i64::from(*number)),
            Some(ItemId::Bigint(number)) => put_number(words, *number),
            Some(ItemId::Text(item)) => {
                put(ID_KIND, IdKind::Text as u64);
                text::store(&words[ITEM..ITEM + TEXT_WORDS], &text::pack(item));
            }
        }
        match reference {
            Some(reference) => text::store(&words[REFERENCE..], &text::pack(reference)),
            None => put(REFERENCE, 0),
        }
        end_change(words);
        Self(words)
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        begin_change(self.0);
        self.0[PROCESS].store(0, Ordering::Relaxed);
        end_change(self.0);
    }
}

/// How the id of an item is kept.
#[derive(Clone, Copy)]
enum IdKind {
    Uuid = 1,
    Number = 2,
    Text = 3,
}

fn put_number(words: &[AtomicU64], number: i64) {
    words[ID_KIND].store(IdKind::Number as u64, Ordering::Relaxed);
    words[ITEM].store(number.cast_unsigned(), Ordering::Relaxed);
}

fn of_backend(memory: SharedMemory, place: usize) -> &'static [AtomicU64] {
    let begin = FIRST_WAIT + place * WAIT_WORDS;
    &memory.words[begin..begin + WAIT_WORDS]
}

fn begin_change(words: &[AtomicU64]) {
    let sequence = words[SEQUENCE].load(Ordering::Relaxed) | 1;
    words[SEQUENCE].store(sequence, Ordering::Relaxed);
    fence(Ordering::Release);
}

fn end_change(words: &[AtomicU64]) {
    let sequence = words[SEQUENCE].load(Ordering::Relaxed);
    words[SEQUENCE].store(sequence.wrapping_add(1), Ordering::Release);
}

/// A backend that takes a lock.
pub struct Waiting {
    /// Its process.
    pub process: u32,
    /// The stock table.
    pub table: u32,
    /// The item; None where it takes the locks of several, see `table::queue`.
    pub item: Option<String>,
    /// The stripe; 0, the item as a whole; None, a row.
    pub stripe: Option<i16>,
    /// The reference of its call, cut after 64 bytes.
    pub reference: Option<String>,
    /// For how many nanoseconds.
    pub time: u64,
}

/// The backends of this database that take a lock now. Most do not wait: pg_stat_activity knows which do.
pub fn read(memory: SharedMemory) -> Vec<Waiting> {
    of_backends(memory, |process, _| process != 0).collect()
}

/// How many backends have taken the lock of this item in the last second, or want it now.
pub fn wanting(memory: SharedMemory, table: Oid, id: &ItemId) -> usize {
    let (id, now) = (id.to_string(), clock::nanoseconds());
    let lately = |process, since| process != 0 || now.saturating_sub(since) < SECOND;
    let is_it = |waiting: &Waiting| waiting.table == table.to_u32() && waiting.item.as_deref() == Some(text::kept(&id));
    of_backends(memory, lately).filter(is_it).count()
}

const SECOND: u64 = 1_000_000_000;

/// The words of the backends of this database, where process and moment are wanted. What a backend has taken last stays
/// in its words.
fn of_backends(memory: SharedMemory, is_wanted: impl Fn(u64, u64) -> bool) -> impl Iterator<Item = Waiting> {
    let backends = (memory.words.len() - FIRST_WAIT) / WAIT_WORDS;
    (0..backends).filter_map(move |place| read_one(of_backend(memory, place), &is_wanted))
}

/// So often a reader tries to find words that are not being written.
const TRIES: usize = 1_000;

fn read_one(words: &[AtomicU64], is_wanted: impl Fn(u64, u64) -> bool) -> Option<Waiting> {
    let copy = (0..TRIES).find_map(|_| {
        let sequence = words[SEQUENCE].load(Ordering::Acquire);
        let copy = text::load(words);
        fence(Ordering::Acquire);
        (sequence.is_multiple_of(2) && words[SEQUENCE].load(Ordering::Relaxed) == sequence).then_some(copy)
    })?;
    if !is_wanted(copy[PROCESS], copy[SINCE]) || copy[TABLE] >> 32 != u64::from(database().to_u32()) {
        return None;
    }
    let item = match copy[ID_KIND] {
        kind if kind == IdKind::Uuid as u64 => {
            let id = u128::from(copy[ITEM]) << 64 | u128::from(copy[ITEM + 1]);
            ItemId::from_bytes(&id.to_be_bytes(), IdType::Uuid).map(|id| id.to_string())
        }
        kind if kind == IdKind::Number as u64 => Some(copy[ITEM].cast_signed().to_string()),
        kind if kind == IdKind::Text as u64 => Some(text::unpack(&copy[ITEM..ITEM + TEXT_WORDS])),
        _ => None,
    };
    let reference = &copy[REFERENCE..REFERENCE + TEXT_WORDS];
    Some(Waiting {
        process: copy[PROCESS] as u32,
        table: copy[TABLE] as u32,
        item,
        stripe: copy[STRIPE].checked_sub(1).and_then(|stripe| i16::try_from(stripe).ok()),
        reference: (reference[0] > 0).then(|| text::unpack(reference)),
        time: clock::nanoseconds().saturating_sub(copy[SINCE]),
    })
}

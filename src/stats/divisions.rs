//! How a session that has locked a row learns that another one has divided the item meanwhile.
//!
//! An item is divided under its row lock alone, beside open sales of other items. PostgreSQL sends the invalidation
//! message of the commit after the new rows can be seen, so a session may lock the row before it has the message. Two
//! words of the stock table close the gap: how many transactions that divide items are open, and how many there have
//! been. They change before the commit, so whoever locks the row afterwards sees them. What a session knows of stripes
//! is valid as long as it was read while none was open, and none has come since.

use crate::pg::Oid;
use crate::pg::shared_memory::{SharedMemory, Unavailable, attach};
use crate::pg::transaction::can_be_prepared;
use crate::stats::counters::words_of_table;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

const OPEN: usize = 2;
const BEGUN: usize = 3;

/// What a session knows of the divisions of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// No session of this server can divide items by itself.
    Never,
    /// So many had begun, and none was open.
    Settled(u64),
    /// It must look at the table.
    Unsettled,
}

thread_local! {
    /// The tables whose items this transaction divides; the end of a transaction has no argument of ours.
    static DIVIDING: RefCell<Vec<&'static [AtomicU64]>> = const { RefCell::new(Vec::new()) };
}

/// The state of a table, to be read before its stripes are.
pub fn state(table: Oid) -> Known {
    let words = match attach() {
        Err(Unavailable::NotPreloaded) => return Known::Never,
        // Other sessions may have the memory.
        Err(Unavailable::Failed(_)) => return Known::Unsettled,
        Ok(memory) => words_of_table(memory, table.to_u32()),
    };
    // Another session may have got a place for the table meanwhile.
    let Some(words) = words else { return Known::Unsettled };
    let begun = words[BEGUN].load(Ordering::SeqCst);
    if words[OPEN].load(Ordering::SeqCst) == 0 { Known::Settled(begun) } else { Known::Unsettled }
}

/// Begins to divide an item of a table; false where other sessions could not learn of it. A transaction that can be
/// prepared is none to divide in: it may outlive this memory, and be committed by a session that does not know of it.
pub fn begin(memory: SharedMemory, table: Oid) -> bool {
    if can_be_prepared() {
        return false;
    }
    let Some(words) = words_of_table(memory, table.to_u32()) else { return false };
    words[OPEN].fetch_add(1, Ordering::SeqCst);
    words[BEGUN].fetch_add(1, Ordering::SeqCst);
    DIVIDING.with_borrow_mut(|dividing| dividing.push(words));
    true
}

/// The transaction is over, and what it has committed can be seen.
pub fn over() {
    for words in DIVIDING.take() {
        // Where nothing is open, the place was freed, and the table was gone again.
        let _ = words[OPEN].fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| open.checked_sub(1));
    }
}

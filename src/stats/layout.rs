//! Where each figure is in shared memory.

use crate::stats::histogram;

/// Stock tables, of all databases of the server; of those that come later nothing is counted.
pub const TABLES: usize = 1_024;
/// Pairs of a table and a function.
pub const ENTRIES: usize = 1_024;
/// The most items that a list of hot items keeps.
pub const MOST_HOT: usize = 1_000;
/// The SQLSTATEs of one entry that are counted apart; all others are counted together.
pub const SQLSTATES: usize = 12;
/// A text that is kept: its length, and 64 bytes.
pub const TEXT_WORDS: usize = 9;

const HEADER_WORDS: usize = 8;
/// The words of a table: its key, when its counters were last reset, and two of `stats::divisions`.
pub const TABLE_WORDS: usize = 4;
/// The items whose contention is watched, to divide them.
pub const WATCHED: usize = 256;
/// The words of such an item.
pub const WATCHED_WORDS: usize = 8;
/// The words of an entry: figures, SQLSTATEs, two histograms.
pub const ENTRY_WORDS: usize = 8 + 2 * (SQLSTATES + 1) + 2 * histogram::BUCKETS;
/// The words of a hot item.
pub const HOT_WORDS: usize = 8 + TEXT_WORDS;
/// The words of a backend.
pub const WAIT_WORDS: usize = 8 + 2 * TEXT_WORDS;

/// Calls that were not counted, for want of room.
pub const NOT_COUNTED: usize = 0;
/// Where the tables begin.
pub const FIRST_TABLE: usize = HEADER_WORDS;
/// Where the entries begin.
pub const FIRST_ENTRY: usize = FIRST_TABLE + TABLES * TABLE_WORDS;
/// Where the lists of hot items begin.
pub const FIRST_HOT: usize = FIRST_ENTRY + ENTRIES * ENTRY_WORDS;
/// Where the watched items begin.
pub const FIRST_WATCHED: usize = FIRST_HOT + 2 * MOST_HOT * HOT_WORDS;
/// Where the backends begin.
pub const FIRST_WAIT: usize = FIRST_WATCHED + WATCHED * WATCHED_WORDS;

/// The number of words for so many backends.
pub fn size(backends: usize) -> usize {
    FIRST_WAIT + backends * WAIT_WORDS
}

//! Statistics of calls in shared memory: counters, the hottest items, and who takes which lock now.
//!
//! Nothing here fails a call: where there is no shared memory, nothing is counted, and the views say why. Counters are
//! words that are added to when a call has ended, however it ended; they survive a rollback, and begin at zero when the
//! server does. Who reads them while calls run may see some figures of a call before others.

pub mod contention;
pub mod counters;
pub mod divisions;
pub mod function;
pub mod histogram;
pub mod hot;
pub mod layout;
pub mod meter;
pub mod text;
pub mod waits;

use crate::pg::{shared_memory, transaction};

/// Reserves shared memory, and registers for the exits of processes; called when the library is loaded.
pub fn register() {
    shared_memory::register(layout::size);
    transaction::at_exit(process_ends);
}

/// PostgreSQL unwinds nothing where it ends a process in the middle of a call.
fn process_ends() {
    if let Some(memory) = shared_memory::attached() {
        waits::forget(memory);
        meter::count_interrupted(memory);
    }
}

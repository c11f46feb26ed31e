//! The ledger: who changes stock and on whose behalf, the movements that are recorded, and idempotency keys.

pub mod attribution;
pub mod buffer;
pub mod context;
pub mod heap_writer;
pub mod past;
pub mod recorder;
pub mod requests;
pub mod writer;

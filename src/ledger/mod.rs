//! The ledger: who changes stock, what is recorded, idempotency keys.

pub mod attribution;
pub mod context;
pub mod recorder;
pub mod requests;

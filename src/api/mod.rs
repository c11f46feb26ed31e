//! The functions that SQL can call, one file a verb: arguments, call, result. The COMMENT ON of a function describes
//! it.

mod adjust;
mod attach;
mod available;
mod order;
mod outdated;
mod purge;
mod restock;
mod sell;
mod stripe;
mod transfer;
pub mod triggers;

//! The functions that SQL can call, one file a verb: arguments, call, result. The COMMENT ON of a function describes
//! it.

mod adjust;
mod archive;
mod attach;
mod audit;
mod available;
mod history;
mod order;
mod outdated;
mod purge;
mod reconcile;
mod report;
mod restock;
mod sell;
mod stats;
mod stripe;
mod transfer;
pub mod triggers;

//! Audit: proves that stock is what the ledger says, or says where it went wrong; seals what it has verified.
//!
//! One pass reads stock, stripes, checkpoints and movements in one snapshot, and divides them by item into temporary
//! files; then each item is checked as a whole. No row of the stock is locked.

pub mod access;
pub mod archive;
pub mod chain;
pub mod charts;
pub mod discrepancy;
pub mod history;
pub mod kept;
pub mod overview;
pub mod reconcile;
pub mod records;
pub mod report;
pub mod run;
pub mod sales;
pub mod scan;
pub mod schedule;
pub mod sealed_queue;
pub mod sealing;
pub mod seals;
pub mod tables;

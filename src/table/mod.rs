//! The attached table: its configuration, its catalog entries, the cache, its rows and its triggers.

pub mod attachment;
pub mod beside_ledger;
pub mod cache;
pub mod called;
pub mod catalog;
pub mod choice;
pub mod companion;
pub mod configuration;
pub mod cursors;
pub mod fired;
pub mod health;
pub mod native;
pub mod queue;
pub mod rows;
pub mod triggers;
pub mod trust;

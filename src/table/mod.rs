//! The attached table: its configuration, its catalog entries, the cache, its rows.

pub mod attachment;
pub mod catalog;
pub mod configuration;
pub mod cursors;
pub mod health;
pub mod triggers;

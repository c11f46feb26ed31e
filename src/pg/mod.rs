//! PostgreSQL: the only folder with `unsafe`, SPI and pg_sys. The entry points of triggers, callbacks and the worker
//! lie here.

#![allow(unsafe_code)]

pub mod args;
pub mod clock;
pub mod detail;
pub mod encoding;
pub mod failpoint;
pub mod heap;
pub mod invalidation;
pub mod jsonb;
pub mod lock;
pub mod lookup;
pub mod namespace;
pub mod portal;
pub mod relation;
pub mod report;
pub mod role;
pub mod session_key;
pub mod settings;
pub mod shared_memory;
pub mod sort;
pub mod spi;
pub mod system_catalog;
pub mod temp_files;
pub mod transaction;
pub mod trigger;
pub mod types;
pub mod utility;
pub mod wait_event;
pub mod worker;
pub mod writability;

pub use pgrx::pg_sys::Oid;

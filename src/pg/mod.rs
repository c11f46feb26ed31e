//! PostgreSQL: the only folder with `unsafe`, SPI and pg_sys calls.

pub mod encoding;
pub mod failpoint;
pub mod invalidation;
pub mod jsonb;
pub mod lock;
pub mod relation;
pub mod report;
pub mod role;
pub mod session_key;
pub mod settings;
pub mod spi;
pub mod trigger;
pub mod utility;

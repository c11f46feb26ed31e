//! Pure Rust, tested without a server: quantities, items, order lines, JSON, errors.

pub mod attachment_error;
pub mod error;
pub mod json;
pub mod order_lines;
pub mod quantity;

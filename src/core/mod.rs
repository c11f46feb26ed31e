//! Pure Rust without PostgreSQL, tested without a server: quantities, items, order lines, JSON, errors.

pub mod decimal_text;
pub mod error;
pub mod item_id;
pub mod json;
pub mod movement;
pub mod numeric_digits;
pub mod obstacle;
pub mod order_lines;
pub mod part;
pub mod quantity;
pub mod seal;

//! One change of stock, wherever it is kept.

pub mod call;
pub mod change;
pub mod order;
pub mod sale;

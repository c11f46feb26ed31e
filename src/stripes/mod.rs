//! Hot items: their stock is divided into stripes, and a background worker keeps the totals in their rows up to date.

pub mod automatic;
pub mod guard;
pub mod layout;
mod rebalance;
pub mod striped;
pub mod totals;
pub mod work;

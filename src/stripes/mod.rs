//! Hot items: stripes, and the totals worker.

pub mod layout;
pub mod striped;
pub mod totals;

//! One change of stock, wherever it is kept: in a row, in stripes, of one item or of many.

pub mod adjust;
pub mod amount;
pub mod call;
pub mod change;
pub mod hold;
pub mod order;
pub mod sale;
pub mod shortage;
pub mod transfer;

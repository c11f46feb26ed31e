//! Quantities as arguments: finite, positive or not negative, of at most 28 digits.

use crate::core::error::{Error, Result};
use crate::core::quantity::{Quantity, Unfit};
use crate::pg::args::NumericArg;

/// Reads a quantity that must be greater than zero.
pub fn positive(argument: &str, value: Option<&NumericArg>) -> Result<Quantity> {
    let quantity = read(argument, value)?;
    if quantity.is_positive() { Ok(quantity) } else { Err(Error::not_positive(argument, quantity)) }
}

/// Reads a quantity that may be zero.
pub fn not_negative(argument: &str, value: Option<&NumericArg>) -> Result<Quantity> {
    let quantity = read(argument, value)?;
    if quantity.is_negative() { Err(Error::negative(argument, quantity)) } else { Ok(quantity) }
}

fn read(argument: &str, value: Option<&NumericArg>) -> Result<Quantity> {
    let value = value.ok_or_else(|| Error::null_argument(argument))?;
    value.read().map_err(|(unfit, text)| match unfit {
        Unfit::TooManyDigits => Error::too_many_digits(argument, &text),
        Unfit::NotFinite | Unfit::Malformed => Error::not_finite(argument, &text),
    })
}

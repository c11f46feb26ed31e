//! Quantity: an exact, finite number of units of stock.
//!
//! A quantity keeps at most 28 digits. A number with more is refused by name; nothing is ever rounded. It prints with
//! the digits it was read with: `11.50` stays `11.50`.

use rust_decimal::Decimal;
use std::fmt;
use std::str::FromStr;

/// The most digits a quantity keeps; rust_decimal's 96-bit mantissa holds every number of 28 digits.
pub const MAX_DIGITS: usize = 28;

/// An exact number of units: at most [`MAX_DIGITS`] digits, never NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(Decimal);

/// Why a text is not a [`Quantity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// NaN, Infinity or -Infinity, which `numeric` allows and stock does not.
    NotFinite,
    /// More than [`MAX_DIGITS`] digits, zeros at either end not counted.
    TooManyDigits,
    /// Not a number in plain decimal notation.
    Malformed,
}

/// The capacity of a quantity column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// `numeric` without precision: bounded by [`MAX_DIGITS`] alone.
    Unbounded,
    /// `numeric(precision, scale)`; the scale may be negative since PostgreSQL 15.
    Fixed {
        /// Total digits kept.
        precision: i32,
        /// Digits after the decimal point.
        scale: i32,
    },
    /// smallint, integer or bigint.
    Integer {
        /// The greatest value of the type.
        max: i64,
    },
}

/// Why a quantity does not fit a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The column keeps fewer decimals, so the quantity would be rounded.
    Decimals {
        /// Decimals the column keeps; negative when it keeps only multiples of a power of ten.
        kept: i32,
    },
    /// The column can never hold so much.
    Magnitude,
}

impl FromStr for Quantity {
    type Err = Unfit;

    /// Reads decimal notation, with or without an exponent, as PostgreSQL reads `numeric`, but for spaces, underscores
    /// and other bases.
    fn from_str(text: &str) -> Result<Self, Unfit> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if ["nan", "infinity", "inf"].iter().any(|word| unsigned.eq_ignore_ascii_case(word)) {
            return Err(Unfit::NotFinite);
        }
        let negative = text.starts_with('-');
        match unsigned.split_once(['e', 'E']) {
            None => Self::plain(unsigned, negative),
            Some((mantissa, exponent)) => Self::plain(&shifted(mantissa, exponent)?, negative),
        }
    }
}

/// The most zeros that an exponent stands for. A number with more has too many digits, but for zero.
const MAX_SHIFT: usize = 2 * MAX_DIGITS;

/// Plain notation of a mantissa with an exponent.
fn shifted(mantissa: &str, exponent: &str) -> Result<String, Unfit> {
    let down = exponent.starts_with('-');
    let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{decimals}");
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(&all) || !is_number(digits) {
        return Err(Unfit::Malformed);
    }
    if all.bytes().all(|digit| digit == b'0') {
        return Ok("0".to_owned());
    }
    let significant = digits.trim_start_matches('0');
    let shift: usize =
        if significant.is_empty() { 0 } else { significant.parse().map_err(|_| Unfit::TooManyDigits)? };
    if shift > MAX_SHIFT + all.len() {
        return Err(Unfit::TooManyDigits);
    }
    let (digits, point) = if down {
        (format!("{}{all}", "0".repeat(shift)), whole.len())
    } else {
        (format!("{all}{}", "0".repeat(shift.saturating_sub(decimals.len()))), whole.len() + shift)
    };
    let (whole, decimals) = digits.split_at(point);
    Ok(if decimals.is_empty() { whole.to_owned() } else { format!("{whole}.{decimals}") })
}

impl Quantity {
    fn plain(unsigned: &str, negative: bool) -> Result<Self, Unfit> {
        if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(Unfit::Malformed);
        }
        let (whole, decimals) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let whole = whole.trim_start_matches('0');
        if whole.len() + decimals.trim_end_matches('0').len() > MAX_DIGITS {
            return Err(Unfit::TooManyDigits);
        }
        // Zeros at the end are no digits: those that do not fit are dropped.
        let surplus = (whole.len() + decimals.len()).saturating_sub(MAX_DIGITS);
        let read = Decimal::from_str_exact(&unsigned[..unsigned.len() - surplus]).map_err(|_| Unfit::Malformed)?;
        Ok(Self(if negative { -read } else { read }))
    }
}

impl From<i64> for Quantity {
    fn from(units: i64) -> Self {
        Self(Decimal::from(units))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Quantity {
    /// No units.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// A whole number of units of the last of so many decimals; None where it has more digits than a quantity keeps.
    pub fn from_parts(mantissa: i128, decimals: u32) -> Option<Self> {
        let fits = mantissa.unsigned_abs() < 10_u128.pow(MAX_DIGITS as u32) && decimals <= MAX_DIGITS as u32;
        fits.then(|| Decimal::try_from_i128_with_scale(mantissa, decimals).ok()).flatten().map(Self)
    }

    /// The same text as `to_string`, faster where the digits fit a machine word.
    pub fn printed(self) -> String {
        let (Ok(digits), scale) = (u64::try_from(self.0.mantissa().unsigned_abs()), self.0.scale() as usize) else {
            return self.to_string();
        };
        let mut text = digits.to_string();
        if text.len() <= scale {
            text.insert_str(0, &"0".repeat(scale + 1 - text.len()));
        }
        if scale > 0 {
            text.insert(text.len() - scale, '.');
        }
        if self.is_negative() {
            text.insert(0, '-');
        }
        text
    }

    /// More than nothing.
    pub fn is_positive(self) -> bool {
        self > Self::ZERO
    }

    /// The exact sum; None where it has more digits than a quantity keeps, trailing zeros not counted.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.sum_at_scale(other).or_else(|| self.canonical().sum_at_scale(other.canonical()))
    }

    fn sum_at_scale(self, other: Self) -> Option<Self> {
        let scale = self.0.scale().max(other.0.scale());
        let at_scale = |d: Decimal| 10_i128.checked_pow(scale - d.scale())?.checked_mul(d.mantissa());
        let sum = at_scale(self.0)?.checked_add(at_scale(other.0)?)?;
        if sum.unsigned_abs() >= 10_u128.pow(MAX_DIGITS as u32) {
            return None;
        }
        Decimal::try_from_i128_with_scale(sum, scale).ok().map(Self)
    }

    /// The exact difference; None where it has more digits than a quantity keeps, trailing zeros not counted.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(other.negated())
    }

    /// The same number of units with the other sign.
    pub fn negated(self) -> Self {
        Self(-self.0)
    }

    /// Divides the quantity into `parts` as even as full units allow; the fraction of a unit goes to the first part.
    pub fn shares(self, parts: i16) -> Vec<Self> {
        let parts = i128::from(parts.max(1));
        let unit = 10_i128.pow(self.0.scale());
        let (units, rest) = (self.0.mantissa() / unit, self.0.mantissa() % unit);
        let share = |part: i128| {
            let mine = units / parts + i128::from(part < units % parts);
            mine * unit + if part == 0 { rest } else { 0 }
        };
        // No share has more digits than the whole.
        (0..parts).map(|part| Self(Decimal::from_i128_with_scale(share(part), self.0.scale()))).collect()
    }

    /// The same quantity without trailing zeros, so that equal quantities read alike.
    pub fn canonical(self) -> Self {
        Self(self.0.normalize())
    }

    /// The same quantity with so many decimals, which are at least those that it needs.
    pub fn with_decimals(self, decimals: u32) -> Self {
        let mut same = self.0;
        same.rescale(decimals);
        Self(same)
    }

    /// The number of decimals it is written with.
    pub fn scale(self) -> u32 {
        self.0.scale()
    }

    /// The quantity as a whole number of units of its last decimal.
    pub fn mantissa(self) -> i128 {
        self.0.mantissa()
    }

    /// Whether it could be written with one more zero at the end, so that none was dropped when it was read.
    pub fn has_room(self) -> bool {
        self.0.scale() < MAX_DIGITS as u32 && self.0.mantissa().unsigned_abs() < 10_u128.pow(MAX_DIGITS as u32 - 1)
    }

    /// Written with more decimals than the other.
    pub fn is_finer_than(self, other: Self) -> bool {
        self.0.scale() > other.0.scale()
    }

    /// Less than nothing.
    pub fn is_negative(self) -> bool {
        self < Self::ZERO
    }

    /// The quantity as a whole number of units, where it is one that fits.
    pub fn to_i64(self) -> Option<i64> {
        let normal = self.0.normalize();
        (normal.scale() == 0).then(|| i64::try_from(normal.mantissa()).ok()).flatten()
    }

    /// Checks that a column of this capacity can hold the quantity without rounding it.
    pub fn fits(self, capacity: Capacity) -> Result<(), Misfit> {
        let (decimals_kept, limit) = match capacity {
            Capacity::Unbounded => return Ok(()),
            Capacity::Integer { max } => (0, Some(max)),
            Capacity::Fixed { scale, .. } => (scale, None),
        };
        if self.decimals() > decimals_kept {
            return Err(Misfit::Decimals { kept: decimals_kept });
        }
        let too_great = match (capacity, limit) {
            (_, Some(max)) => self.0.abs() > Decimal::from(max),
            (Capacity::Fixed { precision, scale }, _) => self.whole_digits() > precision - scale,
            _ => false,
        };
        if too_great { Err(Misfit::Magnitude) } else { Ok(()) }
    }

    /// Decimals needed, without trailing zeros: 2 for 0.50 is 1; -2 for 300.
    fn decimals(self) -> i32 {
        let normal = self.0.normalize();
        let mut decimals = normal.scale() as i32;
        let mut mantissa = normal.mantissa();
        while decimals <= 0 && mantissa != 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            decimals -= 1;
        }
        if mantissa == 0 { i32::MIN } else { decimals }
    }

    /// Digits before the decimal point, without leading zeros: 3 for 120.5, 0 for 0.5, -2 for 0.001.
    fn whole_digits(self) -> i32 {
        let mantissa = self.0.mantissa().unsigned_abs();
        if mantissa == 0 {
            return i32::MIN;
        }
        let digits = mantissa.ilog10() as i32 + 1;
        digits - self.0.scale() as i32
    }
}

/// A printed number without the zeros at its end.
fn without_zeros(printed: &str) -> &str {
    if printed.contains('.') { printed.trim_end_matches('0').trim_end_matches('.') } else { printed }
}

/// Whether two printed numbers differ: 1.0 and 1.00 do not. Numbers of too many digits are compared as texts.
pub fn differ(one: &str, other: &str) -> bool {
    match (one.parse::<Quantity>(), other.parse::<Quantity>()) {
        (Ok(one), Ok(other)) => one != other,
        _ => without_zeros(one) != without_zeros(other),
    }
}

#[cfg(test)]
#[path = "quantity_tests.rs"]
mod tests;

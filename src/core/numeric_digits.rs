//! The digits of a numeric as PostgreSQL stores them: base 10,000, the most significant first.

use crate::core::quantity::Quantity;

/// Decimal digits in one of PostgreSQL's.
const WIDTH: i32 = 4;
const BASE: i128 = 10_000;

/// Bits of the first two bytes, which say how the rest is read.
const SHORT: u16 = 0x8000;
const SPECIAL: u16 = 0xC000;
const NEGATIVE: u16 = 0x4000;
const SHORT_NEGATIVE: u16 = 0x2000;

/// Reads the stored form of a numeric, without the length before it; None where that is no number, such as NaN, or has
/// more digits than are read here.
pub fn read(stored: &[u8]) -> Option<Quantity> {
    let word = |place: usize| stored.get(2 * place..2 * place + 2)?.try_into().ok().map(u16::from_ne_bytes);
    let header = word(0)?;
    let (negative, scale, weight, first) = match header & SPECIAL {
        SPECIAL => return None,
        SHORT => {
            // Seven bits, of which the first is the sign.
            let weight = i32::from(header & 0x7F);
            let weight = if weight >= 0x40 { weight - 0x80 } else { weight };
            (header & SHORT_NEGATIVE != 0, u32::from((header & 0x1F80) >> 7), weight, 1)
        }
        sign => (sign == NEGATIVE, u32::from(header & 0x3FFF), i32::from(word(1)?.cast_signed()), 2),
    };
    let count = i32::try_from(stored.len() / 2).ok()? - first;
    let digits = (first..first + count).map(|place| usize::try_from(place).ok().and_then(word).map(i128::from));
    let digits = digits.collect::<Option<Vec<_>>>()?;
    let whole = digits.iter().try_fold(0_i128, |sum, digit| sum.checked_mul(BASE)?.checked_add(*digit))?;
    // The last digit counts 10^power; the number has `scale` decimals, of which the last ones may not be stored.
    let power = WIDTH * (weight - count + 1) + i32::try_from(scale).ok()?;
    let ten = |power: u32| 10_i128.checked_pow(power);
    let mantissa = if whole == 0 {
        0
    } else if power >= 0 {
        whole.checked_mul(ten(power.unsigned_abs())?)?
    } else {
        let divisor = ten(power.unsigned_abs())?;
        // What is cut are the zeros that fill the last digit up.
        if whole % divisor != 0 {
            return None;
        }
        whole / divisor
    };
    Quantity::from_parts(if negative { -mantissa } else { mantissa }, scale)
}

#[cfg(test)]
mod tests {
    use super::read;

    fn stored(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// The short form: sign, decimals and weight in one word.
    fn short(negative: bool, scale: u16, weight: i16, digits: &[u16]) -> Option<String> {
        let sign = if negative { 0x2000 } else { 0 };
        let header = 0x8000 | sign | scale << 7 | (weight.cast_unsigned() & 0x7F);
        read(&stored(&[&[header], digits].concat())).map(|quantity| quantity.to_string())
    }

    #[test]
    fn numbers_are_read_with_all_their_decimals() {
        assert_eq!(short(false, 2, 0, &[11, 5200]).as_deref(), Some("11.52"));
        assert_eq!(short(true, 2, 0, &[11, 5000]).as_deref(), Some("-11.50"));
        assert_eq!(short(false, 0, 2, &[1]).as_deref(), Some("100000000"));
        assert_eq!(short(false, 2, 1, &[1, 2]).as_deref(), Some("10002.00"));
        assert_eq!(short(false, 7, -1, &[1200]).as_deref(), Some("0.1200000"));
        assert_eq!(short(false, 9, -2, &[1, 2000]).as_deref(), Some("0.000000012"));
        assert_eq!(short(false, 3, 0, &[]).as_deref(), Some("0.000"));
        assert_eq!(short(false, 0, 0, &[]).as_deref(), Some("0"));
    }

    #[test]
    fn the_long_form_is_read_too() {
        let long = |sign: u16, weight: i16, digits: &[u16]| {
            read(&stored(&[&[sign, weight.cast_unsigned()], digits].concat())).map(|quantity| quantity.to_string())
        };
        assert_eq!(long(2, 0, &[7]).as_deref(), Some("7.00"));
        assert_eq!(long(0x4000 | 2, 0, &[7]).as_deref(), Some("-7.00"));
    }

    #[test]
    fn what_is_no_quantity_is_left_to_the_text() {
        for special in [0xC000, 0xD000, 0xF000] {
            assert_eq!(read(&stored(&[special])), None);
        }
        assert_eq!(short(false, 0, 7, &[1, 0, 0, 0, 0, 0, 0, 1]), None, "29 digits");
        assert_eq!(short(false, 0, 40, &[1]), None);
        assert_eq!(short(false, 40, 0, &[1]), None, "more decimals than are kept");
        assert_eq!(read(&[]), None);
    }
}

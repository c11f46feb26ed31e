//! Quantity against whole-number arithmetic of its own: no server, many random numbers.

use super::*;
use proptest::prelude::*;

fn quantity(text: &str) -> Quantity {
    match text.parse() {
        Ok(q) => q,
        Err(unfit) => unreachable!("{text}: {unfit:?}"),
    }
}

/// A decimal text of a mantissa and a scale, written by hand.
fn written(mantissa: i128, scale: usize) -> String {
    let digits = format!("{:0width$}", mantissa.unsigned_abs(), width = scale + 1);
    let (whole, decimals) = digits.split_at(digits.len() - scale);
    let sign = if mantissa < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{decimals}") }
}

#[test]
fn prints_the_digits_it_was_read_with() {
    for text in ["11.50", "0", "0.00", "1", "0.0000000000000000000000000001", "9999999999999999999999999999"] {
        assert_eq!(quantity(text).to_string(), text);
    }
}

#[test]
fn refuses_what_is_no_finite_number() {
    for text in ["NaN", "nan", "Infinity", "-Infinity", "+inf", "-INF"] {
        assert_eq!(text.parse::<Quantity>(), Err(Unfit::NotFinite));
    }
    for text in ["", "-", "+", " 1", "1,5", "1.2.3", "--1", "+-1", "e1", "1e", "1e+", "1e1.5", "1e--1", "1e1e1", ".e1"]
    {
        assert_eq!(text.parse::<Quantity>(), Err(Unfit::Malformed), "{text:?}");
    }
}

#[test]
fn an_exponent_moves_the_point() {
    for (text, plain) in [
        ("1e3", "1000"),
        ("1E+2", "100"),
        ("1e-7", "0.0000001"),
        ("+1.50", "1.50"),
        ("-2.5E-3", "-0.0025"),
        ("0.1e1", "01"),
        ("1.000000001e5", "100000.0001"),
        ("1.e1", "10"),
        (".5e1", "5"),
        ("12e0", "12"),
        ("12e-000", "12"),
        ("0e999999999999999999999999", "0"),
        ("1e27", "1000000000000000000000000000"),
    ] {
        assert_eq!(text.parse::<Quantity>(), plain.parse(), "{text}");
    }
    for text in ["1e28", "1e-29", "1e99999999999999999999", "-1e-4000000000", "1.5e28"] {
        assert_eq!(text.parse::<Quantity>(), Err(Unfit::TooManyDigits), "{text}");
    }
}

#[test]
fn keeps_28_digits_and_refuses_29() {
    assert!("1234567890123456789012345678".parse::<Quantity>().is_ok());
    assert!("12345678901234.56789012345678".parse::<Quantity>().is_ok());
    for text in ["12345678901234567890123456789", "1.0000000000000000000000000001", "0.00000000000000000000000000001"] {
        assert_eq!(text.parse::<Quantity>(), Err(Unfit::TooManyDigits), "{text}");
    }
}

#[test]
fn a_column_of_two_decimals_refuses_a_third() {
    let money = Capacity::Fixed { precision: 12, scale: 2 };
    assert_eq!(quantity("0.005").fits(money), Err(Misfit::Decimals { kept: 2 }));
    assert_eq!(quantity("0.50000").fits(money), Ok(()));
    assert_eq!(quantity("9999999999.99").fits(money), Ok(()));
    assert_eq!(quantity("10000000000").fits(money), Err(Misfit::Magnitude));
}

#[test]
fn a_negative_scale_keeps_only_multiples() {
    let hundreds = Capacity::Fixed { precision: 3, scale: -2 };
    assert_eq!(quantity("300").fits(hundreds), Ok(()));
    assert_eq!(quantity("99900").fits(hundreds), Ok(()));
    assert_eq!(quantity("100000").fits(hundreds), Err(Misfit::Magnitude));
    assert_eq!(quantity("350").fits(hundreds), Err(Misfit::Decimals { kept: -2 }));
}

#[test]
fn a_scale_above_the_precision_keeps_only_small_fractions() {
    let tiny = Capacity::Fixed { precision: 2, scale: 4 };
    assert_eq!(quantity("0.0099").fits(tiny), Ok(()));
    assert_eq!(quantity("0.01").fits(tiny), Err(Misfit::Magnitude));
}

#[test]
fn whole_columns_refuse_fractions_and_overflow() {
    let small = Capacity::Integer { max: 32767 };
    assert_eq!(quantity("32767").fits(small), Ok(()));
    assert_eq!(quantity("32768").fits(small), Err(Misfit::Magnitude));
    assert_eq!(quantity("1.0").fits(small), Ok(()));
    assert_eq!(quantity("1.5").fits(small), Err(Misfit::Decimals { kept: 0 }));
    assert_eq!(quantity("1.00").to_i64(), Some(1));
    assert_eq!(quantity("1.01").to_i64(), None);
    assert_eq!(quantity("9223372036854775808").to_i64(), None);
}

#[test]
fn a_loss_in_the_28th_digit_is_seen() {
    let before = quantity("1000000000000000000000000000");
    assert_ne!(before.checked_sub(before), Some(quantity("0.0000000000000000000000000001")));
    assert_eq!(before.checked_sub(before), Some(Quantity::ZERO));
}

proptest! {
    #[test]
    fn reading_and_printing_is_the_identity(
        mantissa in -(10_i128.pow(28) - 1)..10_i128.pow(28), scale in 0_usize..=28,
    ) {
        let text = written(mantissa, scale);
        if scale < 28 || mantissa.unsigned_abs() < 10_u128.pow(28) {
            let read = quantity(&text);
            // rust_decimal has no negative zero
            let expected = if mantissa == 0 { written(0, scale) } else { text };
            prop_assert_eq!(read.to_string(), expected);
        }
    }

    #[test]
    fn a_difference_agrees_with_whole_numbers(
        before in 0_i64..1_000_000_000_000, taken in 1_i64..1_000_000_000_000, off in -1_i64..=1, scale in 0_usize..=6,
    ) {
        let after = quantity(&written(i128::from(before - taken + off), scale));
        let [before, taken] = [before, taken].map(|number| quantity(&written(i128::from(number), scale)));
        prop_assert_eq!(before.checked_sub(taken) == Some(after), off == 0);
    }

    #[test]
    fn fits_agrees_with_whole_numbers(
        mantissa in 1_i128..10_i128.pow(20), written_scale in 0_usize..=8, precision in 1_i32..=20, scale in 0_i32..=8,
    ) {
        // value = mantissa / 10^8 after alignment; the column keeps multiples of 10^(8 - scale) below 10^(precision + 8
        // - scale)
        let aligned = mantissa * 10_i128.pow(8 - written_scale as u32);
        let unit = 10_i128.pow((8 - scale) as u32);
        let expected = if aligned % unit != 0 {
            Err(Misfit::Decimals { kept: scale })
        } else if aligned / unit >= 10_i128.pow(precision as u32) {
            Err(Misfit::Magnitude)
        } else {
            Ok(())
        };
        let q = quantity(&written(mantissa, written_scale));
        prop_assert_eq!(q.fits(Capacity::Fixed { precision, scale }), expected);
    }
}

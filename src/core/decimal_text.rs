//! Numbers as the texts that PostgreSQL prints, of any length: for quantities that no statement of ours has written.

/// Whether two numbers are equal, without regard to the zeros they end with. NaN equals itself.
pub fn are_equal(one: &str, other: &str) -> bool {
    one == other || canonical(one) == canonical(other)
}

/// Sign, digits before the point and digits after it, without zeros at the ends.
fn canonical(text: &str) -> (bool, &str, &str) {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, decimals) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let (whole, decimals) = (whole.trim_start_matches('0'), decimals.trim_end_matches('0'));
    let is_zero = whole.is_empty() && decimals.is_empty();
    (text.starts_with('-') && !is_zero, whole, decimals)
}

#[cfg(test)]
mod tests {
    use super::are_equal;

    #[test]
    fn zeros_at_the_ends_do_not_count() {
        for (one, other) in [("1.50", "1.5"), ("0", "0.00"), ("0", "-0"), ("10", "10.0"), ("NaN", "NaN")] {
            assert!(are_equal(one, other), "{one} {other}");
        }
        for (one, other) in [("1.5", "15"), ("1", "-1"), ("100", "1"), ("0.1", "0.01"), ("NaN", "0"), ("1", "1.01")] {
            assert!(!are_equal(one, other), "{one} {other}");
        }
        let long = "9".repeat(60);
        assert!(are_equal(&format!("{long}.0"), &long));
    }
}

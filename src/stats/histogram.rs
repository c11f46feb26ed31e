//! Histograms of durations with fixed buckets, four to each doubling.

use std::sync::atomic::{AtomicU64, Ordering};

/// The buckets that share a doubling.
const STEPS: usize = 4;
/// From one microsecond to about 67 seconds, what is less, and what is more.
const DOUBLINGS: usize = 26;
/// The number of buckets.
pub const BUCKETS: usize = DOUBLINGS * STEPS + 2;

/// The bucket of a duration in nanoseconds. Bucket 0 is for less than a microsecond.
pub fn bucket(nanoseconds: u64) -> usize {
    let micros = nanoseconds / 1_000;
    if micros == 0 {
        return 0;
    }
    let doubling = micros.ilog2() as usize;
    // The two bits after the first one, which may be below a microsecond.
    let step = (nanoseconds * STEPS as u64 / (1_000 << doubling)) as usize % STEPS;
    (1 + doubling * STEPS + step).min(BUCKETS - 1)
}

/// Where a bucket ends, in nanoseconds; the last one has no end.
pub fn end(bucket: usize) -> Option<u64> {
    if bucket >= BUCKETS - 1 {
        return None;
    }
    let (doubling, step) = (bucket / STEPS, bucket % STEPS);
    Some((1_000_u64 << doubling) * (STEPS + step) as u64 / STEPS as u64)
}

/// The duration below which a share of all lie, in nanoseconds, from the ends of the buckets and the longest of all;
/// None where there is none.
pub fn quantile(counts: &[u64], longest: u64, share: f64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    let wanted = (total as f64 * share).ceil().max(1.0) as u64;
    let mut below = 0;
    let place = counts.iter().position(|count| {
        below += count;
        below >= wanted
    });
    place.filter(|_| total > 0).map(|place| end(place).map_or(longest, |end| end.min(longest)))
}

/// The counts of a histogram.
pub fn read(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_of_nothing_and_of_one() {
        assert_eq!(quantile(&[0; BUCKETS], 0, 0.5), None);
        let mut counts = [0; BUCKETS];
        counts[bucket(1_700)] = 1;
        assert_eq!(quantile(&counts, 1_700, 0.5), Some(1_700));
        counts[BUCKETS - 1] = 1_000;
        assert_eq!(quantile(&counts, 90_000_000_000, 0.99), Some(90_000_000_000));
    }

    proptest! {
        #[test]
        fn a_duration_lies_in_its_bucket(nanoseconds in 0_u64..200_000_000_000) {
            let place = bucket(nanoseconds);
            prop_assert!(end(place).is_none_or(|end| nanoseconds < end), "{place}");
            prop_assert!(place == 0 || end(place - 1).is_some_and(|begin| begin <= nanoseconds), "{place}");
        }

        #[test]
        fn a_quantile_is_at_most_a_quarter_too_long(
            mut durations in prop::collection::vec(1_000_u64..60_000_000_000, 1..200), share in 0.01_f64..1.0
        ) {
            durations.sort_unstable();
            let mut counts = [0; BUCKETS];
            durations.iter().for_each(|duration| counts[bucket(*duration)] += 1);
            let wanted = ((durations.len() as f64 * share).ceil() as usize).max(1);
            let exact = durations[wanted - 1];
            let longest = durations[durations.len() - 1];
            let found = quantile(&counts, longest, share).unwrap_or(0);
            prop_assert!(exact <= found && found as f64 <= exact as f64 * 1.26, "{exact} {found}");
        }
    }
}

//! Sealed movements of a chain in the order of their numbers, read segment by segment.
//!
//! Segments of an honest chain follow one another, so that two or three are open at once. Those that an owner has
//! planted need not be in order; they take no more time than their size, and no more memory than so many of them.

use crate::audit::records::sealed;
use crate::core::seal::Hash;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// The most segments that are open at once; where there are more, they do not follow one another, which is reported.
const MOST_OPEN: usize = 64;

/// A segment, from its next movement on.
struct OpenedSegment {
    movements: Vec<(i64, Hash)>,
    place: usize,
}

impl OpenedSegment {
    fn next(&self) -> Option<(i64, Hash)> {
        self.movements.get(self.place).copied()
    }

    fn number(&self) -> Option<i64> {
        self.next().map(|(number, _)| number)
    }
}

impl PartialEq for OpenedSegment {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
    }
}

impl Eq for OpenedSegment {}

impl PartialOrd for OpenedSegment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OpenedSegment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number().cmp(&other.number())
    }
}

/// The sealed movements that are not taken yet.
#[derive(Default)]
pub struct SealedQueue(BinaryHeap<Reverse<OpenedSegment>>);

impl SealedQueue {
    /// Adds those of a segment: of each its number and its hash. It is left out where too many are open.
    pub fn add(&mut self, segment: &[u8]) {
        if self.0.len() >= MOST_OPEN {
            return;
        }
        let mut movements: Vec<_> = sealed(segment).collect();
        movements.sort_by_key(|(number, _)| *number);
        if !movements.is_empty() {
            self.0.push(Reverse(OpenedSegment { movements, place: 0 }));
        }
    }

    /// Takes the next one, if its number is one that is asked for.
    pub fn take_if(&mut self, is_asked: impl FnOnce(i64) -> bool) -> Option<(i64, Hash)> {
        let mut first = self.0.peek_mut()?;
        let next = first.0.next().filter(|(number, _)| is_asked(*number))?;
        if first.0.place + 1 < first.0.movements.len() {
            first.0.place += 1;
        } else {
            PeekMut::pop(first);
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(numbers: &[i64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes().into_iter().chain([*number as u8; 32])).collect()
    }

    proptest! {
        #[test]
        fn movements_of_any_segments_come_in_the_order_of_numbers(segments in prop::collection::vec(
            prop::collection::vec(any::<i64>(), 0..20), 0..20)) {
            let mut queue = SealedQueue::default();
            segments.iter().for_each(|numbers| queue.add(&segment(numbers)));
            let taken: Vec<_> = std::iter::from_fn(|| queue.take_if(|_| true)).collect();
            let mut expected = segments.concat();
            expected.sort_unstable();
            prop_assert_eq!(taken.iter().map(|(number, _)| *number).collect::<Vec<_>>(), expected);
            prop_assert!(taken.iter().all(|(number, hash)| *hash == [*number as u8; 32]));
        }
    }

    #[test]
    fn very_many_segments_of_one_number_take_no_memory() {
        let mut queue = SealedQueue::default();
        (0..300_000).for_each(|_| queue.add(&segment(&[5])));
        assert_eq!(std::iter::from_fn(|| queue.take_if(|number| number == 5)).count(), MOST_OPEN);
        queue.add(&segment(&[6]));
        assert_eq!(queue.take_if(|_| true).map(|(number, _)| number), Some(6));
    }

    #[test]
    fn a_movement_that_is_not_asked_for_stays() {
        let mut queue = SealedQueue::default();
        queue.add(&segment(&[7, 5]));
        assert_eq!(queue.take_if(|number| number < 5), None);
        assert_eq!(queue.take_if(|number| number == 5).map(|(number, _)| number), Some(5));
        assert_eq!(queue.take_if(|_| true).map(|(number, _)| number), Some(7));
        assert_eq!(queue.take_if(|_| true), None);
    }
}

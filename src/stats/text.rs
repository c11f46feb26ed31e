//! Short texts in words of shared memory. One that is longer than 64 bytes is cut.

use crate::stats::layout::TEXT_WORDS;
use std::sync::atomic::{AtomicU64, Ordering};

const MOST_BYTES: usize = 8 * (TEXT_WORDS - 1);

/// What is kept of a text.
pub fn kept(text: &str) -> &str {
    let mut length = text.len().min(MOST_BYTES);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    &text[..length]
}

/// A text as words.
pub fn pack(text: &str) -> [u64; TEXT_WORDS] {
    let kept = kept(text).as_bytes();
    let mut words = [0; TEXT_WORDS];
    words[0] = kept.len() as u64;
    for (word, bytes) in words[1..].iter_mut().zip(kept.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(padded);
    }
    words
}

/// The text of such words. Words of two texts, of which one is being written, may give a text that is neither.
pub fn unpack(words: &[u64]) -> String {
    let bytes: Vec<u8> = words[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
    let length = (words[0] as usize).min(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Writes packed words; those after the end of the text stay what they are.
pub fn store(words: &[AtomicU64], packed: &[u64; TEXT_WORDS]) {
    let used = 1 + (packed[0] as usize).div_ceil(8);
    words.iter().zip(&packed[..used]).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
}

/// Reads words.
pub fn load(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_text_is_read_as_it_was_written_or_cut(text in ".{0,80}") {
            let read = unpack(&pack(&text));
            prop_assert_eq!(kept(&text), &read);
            prop_assert!(text.starts_with(&read));
            prop_assert!(read.len() == text.len() || read.len() > MOST_BYTES - 4);
        }
    }
}

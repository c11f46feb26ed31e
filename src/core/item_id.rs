//! The id of an item, for id columns of any type.
//!
//! Every function takes and passes ids as this one type; the conversion from and to PostgreSQL's values is in
//! `pg::args`. Ids sort as PostgreSQL sorts them, which is the lock order.

use serde_json::Value;
use std::fmt;

/// The id of one item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemId {
    /// Of an id column of type uuid.
    Uuid([u8; 16]),
}

impl ItemId {
    /// Reads a uuid in its canonical spelling: 32 hexadecimal digits, with hyphens after the 8th, 12th, 16th and 20th,
    /// or none.
    pub fn parse_uuid(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let hyphenated = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|&place| bytes[place] == b'-');
        if !hyphenated && bytes.len() != 32 {
            return None;
        }
        let mut digits =
            bytes.iter().enumerate().filter(|&(place, _)| !hyphenated || ![8, 13, 18, 23].contains(&place));
        let mut next = || digits.next().and_then(|(_, &digit)| char::from(digit).to_digit(16));
        let mut id = [0_u8; 16];
        for byte in &mut id {
            *byte = u8::try_from(next()? * 16 + next()?).ok()?;
        }
        Some(Self::Uuid(id))
    }

    /// 64 bits of the id, for an advisory lock.
    pub fn lock_words(&self) -> [u32; 2] {
        let Self::Uuid(bytes) = self;
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|place| bytes[at + place]));
        [word(0) ^ word(8), word(4) ^ word(12)]
    }

    /// Adds the id to a JSON text.
    pub fn push_json(&self, json: &mut String) {
        // A uuid needs no escaping.
        json.push('"');
        json.push_str(&self.to_string());
        json.push('"');
    }

    /// The id as a JSON value.
    pub fn to_json(&self) -> Value {
        Value::from(self.to_string())
    }
}

impl fmt::Display for ItemId {
    /// Prints the id as PostgreSQL does. The formatter of pgrx goes digit by digit, which is 3 % of a sale.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let Self::Uuid(bytes) = self;
        let mut text = [b'-'; 36];
        let mut place = 0;
        for (number, byte) in bytes.iter().enumerate() {
            if matches!(number, 4 | 6 | 8 | 10) {
                place += 1;
            }
            text[place] = DIGITS[usize::from(byte >> 4)];
            text[place + 1] = DIGITS[usize::from(byte & 15)];
            place += 2;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_printed_in_lower_case_with_hyphens() {
        let bytes = std::array::from_fn(|place| 0x0F + 0x0F * place as u8);
        assert_eq!(ItemId::Uuid(bytes).to_string(), "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
        assert_eq!(ItemId::Uuid([0; 16]).to_string(), "00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn a_uuid_is_read_with_all_hyphens_or_none() {
        let id = "aaaaaaaa-0000-4000-8000-000000000001";
        assert_eq!(ItemId::parse_uuid(id).map(|id| id.to_string()).as_deref(), Some(id));
        assert_eq!(ItemId::parse_uuid(&id.replace('-', "").to_uppercase()), ItemId::parse_uuid(id));
        for text in [
            "",
            "aaaaaaaa",
            "aaaaaaaa-0000-4000-8000-00000000000g",
            "aaaaaaaa0-000-4000-8000-000000000001",
            "ääaaaaaa-0000-4000-8000-0000000001",
        ] {
            assert!(ItemId::parse_uuid(text).is_none(), "{text}");
        }
    }
}

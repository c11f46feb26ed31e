//! The id of an item, for id columns of any type, and the key by which a caller names an item.
//!
//! Every function takes and passes ids as this one type; the conversion from and to PostgreSQL's values is in `pg`. Ids
//! sort as PostgreSQL sorts them, texts by bytes, which is the lock order.

use serde_json::Value;
use std::fmt;

/// The types that an id column can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdType {
    /// uuid
    Uuid,
    /// integer
    Integer,
    /// bigint
    Bigint,
    /// text, and varchar of any length
    Text,
}

impl IdType {
    /// The name of the type in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Integer => "integer",
            Self::Bigint => "bigint",
            Self::Text => "text",
        }
    }
}

/// The id of one item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemId {
    /// Of an id column of type uuid.
    Uuid([u8; 16]),
    /// Of an id column of type integer.
    Integer(i32),
    /// Of an id column of type bigint.
    Bigint(i64),
    /// Of an id column of type text or varchar.
    Text(String),
}

/// The longest text id, in bytes: it is kept in the indexes of the companions.
pub const MAX_ID_BYTES: usize = 255;

impl ItemId {
    /// Reads a key as an id of this type; None where it is none.
    pub fn parse(key: &str, id_type: IdType) -> Option<Self> {
        match id_type {
            IdType::Uuid => Self::parse_uuid(key),
            IdType::Integer => key.parse().ok().map(Self::Integer),
            IdType::Bigint => key.parse().ok().map(Self::Bigint),
            IdType::Text => Some(Self::Text(key.to_owned())),
        }
    }

    /// Reads an argument as an id of this type: a uuid in any spelling that PostgreSQL reads, which allows braces, and
    /// a hyphen after each four digits.
    pub fn parse_argument(key: &str, id_type: IdType) -> Option<Self> {
        if id_type != IdType::Uuid {
            return Self::parse(key, id_type);
        }
        let digits = key.strip_prefix('{').map_or(Some(key), |rest| rest.strip_suffix('}'))?;
        let mut bare = String::with_capacity(32);
        let mut after_hyphen = true;
        for character in digits.chars() {
            if character == '-' && !after_hyphen && bare.len().is_multiple_of(4) && bare.len() < 32 {
                after_hyphen = true;
            } else {
                bare.push(character);
                after_hyphen = false;
            }
        }
        if bare.len() == 32 { Self::parse_uuid(&bare) } else { None }
    }

    /// Reads a uuid in its canonical spelling: 32 hexadecimal digits, with hyphens after the 8th, 12th, 16th and 20th,
    /// or none.
    fn parse_uuid(text: &str) -> Option<Self> {
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

    /// The length of a text id that is longer than a key can be.
    pub fn excess(&self) -> Option<usize> {
        match self {
            Self::Text(text) if text.len() > MAX_ID_BYTES => Some(text.len()),
            _ => None,
        }
    }

    /// The id as bytes, from which [`Self::from_bytes`] makes it again; those of texts sort as ids do.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Uuid(bytes) => bytes.to_vec(),
            Self::Integer(number) => number.to_be_bytes().to_vec(),
            Self::Bigint(number) => number.to_be_bytes().to_vec(),
            Self::Text(text) => text.clone().into_bytes(),
        }
    }

    /// Reads the bytes of an id of this type.
    pub fn from_bytes(bytes: &[u8], id_type: IdType) -> Option<Self> {
        Some(match id_type {
            IdType::Uuid => Self::Uuid(bytes.try_into().ok()?),
            IdType::Integer => Self::Integer(i32::from_be_bytes(bytes.try_into().ok()?)),
            IdType::Bigint => Self::Bigint(i64::from_be_bytes(bytes.try_into().ok()?)),
            IdType::Text => Self::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
        })
    }

    /// 32 bits of the id, for an advisory lock. Two items of a table that share them only wait for each other.
    pub fn lock_word(&self) -> u32 {
        let fold = |number: u64| (number >> 32) as u32 ^ number as u32;
        match self {
            Self::Uuid(bytes) => {
                let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|place| bytes[at + place]));
                word(0) ^ word(4) ^ word(8) ^ word(12)
            }
            Self::Integer(number) => number.cast_unsigned(),
            Self::Bigint(number) => fold(number.cast_unsigned()),
            // FNV-1a.
            Self::Text(text) => fold(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })),
        }
    }

    /// Adds the id to a JSON text.
    pub fn push_json(&self, json: &mut String) {
        match self {
            // A uuid needs no escaping.
            Self::Uuid(_) => {
                json.push('"');
                json.push_str(&self.to_string());
                json.push('"');
            }
            Self::Integer(_) | Self::Bigint(_) => json.push_str(&self.to_string()),
            Self::Text(_) => json.push_str(&self.to_json().to_string()),
        }
    }

    /// The id as a JSON value: a number for whole numbers, else a string.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Uuid(_) => Value::from(self.to_string()),
            Self::Integer(number) => Value::from(*number),
            Self::Bigint(number) => Value::from(*number),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }
}

impl fmt::Display for ItemId {
    /// Prints the id as PostgreSQL does. For a uuid, the formatter of pgrx goes digit by digit, which is 3 % of a sale.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes = match self {
            Self::Uuid(bytes) => bytes,
            Self::Integer(number) => return number.fmt(f),
            Self::Bigint(number) => return number.fmt(f),
            Self::Text(text) => return f.write_str(text),
        };
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
        let read = |text: &str| ItemId::parse(text, IdType::Uuid);
        let id = "aaaaaaaa-0000-4000-8000-000000000001";
        assert_eq!(read(id).map(|id| id.to_string()).as_deref(), Some(id));
        assert_eq!(read(&id.replace('-', "").to_uppercase()), read(id));
        for text in [
            "",
            "aaaaaaaa",
            "aaaaaaaa-0000-4000-8000-00000000000g",
            "aaaaaaaa0-000-4000-8000-000000000001",
            "ääaaaaaa-0000-4000-8000-0000000001",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_argument_is_a_uuid_in_any_spelling_of_postgresql() {
        let read = |text: &str| ItemId::parse_argument(text, IdType::Uuid);
        let id = ItemId::parse("aaaaaaaa-0000-4000-8000-000000000001", IdType::Uuid);
        for text in [
            "aaaaaaaa-0000-4000-8000-000000000001",
            "{aaaaaaaa-0000-4000-8000-000000000001}",
            "{AAAAAAAA000040008000000000000001}",
            "aaaa-aaaa-0000-4000-8000-0000-0000-0001",
        ] {
            assert_eq!(read(text), id, "{text}");
        }
        for text in [
            "{aaaaaaaa-0000-4000-8000-000000000001",
            "aaaaaaaa-0000-4000-8000-000000000001}",
            "-aaaaaaaa-0000-4000-8000-000000000001",
            "aaaaaaaa--0000-4000-8000-000000000001",
            "aaaaaaaa-0000-4000-8000-000000000001-",
            "aaaaaa-aa-0000-4000-8000-000000000001",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_whole_number_is_read_within_its_type() {
        assert_eq!(ItemId::parse("-42", IdType::Integer), Some(ItemId::Integer(-42)));
        assert_eq!(ItemId::parse("3000000000", IdType::Bigint), Some(ItemId::Bigint(3_000_000_000)));
        for text in ["3000000000", "1.0", "1e2", "", " 1", "one"] {
            assert!(ItemId::parse(text, IdType::Integer).is_none(), "{text}");
        }
    }

    #[test]
    fn ids_are_json_numbers_or_strings() {
        let json = |id: ItemId| {
            let mut text = String::new();
            id.push_json(&mut text);
            assert_eq!(text, id.to_json().to_string());
            text
        };
        assert_eq!(json(ItemId::Integer(7)), "7");
        assert_eq!(json(ItemId::Bigint(-7)), "-7");
        assert_eq!(json(ItemId::Text("a \"quoted\" id".to_owned())), r#""a \"quoted\" id""#);
        assert_eq!(json(ItemId::Uuid([0; 16])), r#""00000000-0000-0000-0000-000000000000""#);
    }

    #[test]
    fn texts_sort_by_bytes() {
        let mut ids = ["b", "A", "ä", "a", "B"].map(|text| ItemId::Text(text.to_owned()));
        ids.sort();
        assert_eq!(ids.map(|id| id.to_string()), ["A", "B", "a", "b", "ä"]);
    }
}

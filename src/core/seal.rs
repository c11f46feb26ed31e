//! The hashes of seals: of movements, of segments of a chain, of seals.
//!
//! Everything that is hashed begins with a byte that says what it is, so that one can never stand for another. Fields
//! follow in their order, each as its length in four bytes, the most significant first, and its bytes; NULL is the
//! length `ffffffff` alone. Trees are those of RFC 6962: of n leaves the first 2^k stand on the left, where 2^k is the
//! greatest power of two below n. docs/audit.md has a program that checks a proof.

use sha2::{Digest, Sha256};
use std::fmt::{Display, Write as _};
use std::io::Write as _;

/// A SHA-256.
pub type Hash = [u8; 32];

const LEAF: u8 = 0;
const NODE: u8 = 1;
const SEGMENT: u8 = 2;
const SEAL: u8 = 3;

/// What comes before the first segment of a chain, and before the first seal.
pub const NOTHING: Hash = [0; 32];

/// Bytes that are hashed as a whole.
struct Fields(Vec<u8>);

impl Fields {
    fn of(what: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(what);
        Self(bytes)
    }

    fn bytes(mut self, field: Option<&[u8]>) -> Self {
        match field {
            // A text of PostgreSQL has less than 2^30 bytes.
            Some(field) => {
                self.0.extend((field.len() as u32).to_be_bytes());
                self.0.extend(field);
            }
            None => self.0.extend(u32::MAX.to_be_bytes()),
        }
        self
    }

    fn text(self, field: &str) -> Self {
        self.bytes(Some(field.as_bytes()))
    }

    fn number(mut self, field: impl Display) -> Self {
        let begin = self.0.len();
        self.0.extend([0; 4]);
        // Writing to a Vec does not fail.
        let _ = write!(self.0, "{field}");
        let length = (self.0.len() - begin - 4) as u32;
        self.0[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
        self
    }

    fn finish(self) -> Hash {
        Sha256::digest(&self.0).into()
    }
}

/// A movement as it is hashed: every column but `delta`, which follows from two others. Texts are UTF-8.
pub struct HashedMovement<'a> {
    /// movement_id
    pub id: i64,
    /// inventory_id
    pub item: &'a str,
    /// stripe
    pub stripe: Option<i16>,
    /// kind
    pub kind: &'a [u8],
    /// old_quantity
    pub old_quantity: &'a str,
    /// new_quantity
    pub new_quantity: &'a str,
    /// reference
    pub reference: Option<&'a [u8]>,
    /// idempotency_key
    pub key: Option<&'a [u8]>,
    /// actor
    pub actor: &'a [u8],
    /// xact_id
    pub transaction: u64,
    /// occurred_at, in microseconds since 2000-01-01 00:00 UTC
    pub time: i64,
}

impl HashedMovement<'_> {
    /// The fields as texts, in the order in which they are hashed.
    pub fn fields(&self) -> [Option<String>; 11] {
        let text = |text: &[u8]| Some(String::from_utf8_lossy(text).into_owned());
        let number = |number: &dyn Display| Some(number.to_string());
        [
            number(&self.id),
            number(&self.item),
            self.stripe.map(|stripe| stripe.to_string()),
            text(self.kind),
            number(&self.old_quantity),
            number(&self.new_quantity),
            self.reference.and_then(text),
            self.key.and_then(text),
            text(self.actor),
            number(&self.transaction),
            number(&self.time),
        ]
    }

    /// The hash of the movement.
    pub fn hash(&self) -> Hash {
        let fields = Fields::of(LEAF).number(self.id).text(self.item);
        let fields = match self.stripe {
            Some(stripe) => fields.number(stripe),
            None => fields.bytes(None),
        };
        fields
            .bytes(Some(self.kind))
            .text(self.old_quantity)
            .text(self.new_quantity)
            .bytes(self.reference)
            .bytes(self.key)
            .bytes(Some(self.actor))
            .number(self.transaction)
            .number(self.time)
            .finish()
    }
}

/// The hash of the numbers of movements, each in eight bytes, the most significant first.
pub fn numbers(numbers: impl Iterator<Item = i64>) -> Hash {
    let mut hash = Sha256::new();
    numbers.for_each(|number| hash.update(number.to_be_bytes()));
    hash.finalize().into()
}

/// Movements of one chain that were sealed together.
pub struct Segment<'a> {
    /// The item.
    pub item: &'a str,
    /// The stripe; 0 for the item itself.
    pub stripe: i16,
    /// The number of its first movement.
    pub first: i64,
    /// That of its last.
    pub last: i64,
    /// How many they are.
    pub count: i64,
    /// The quantity after the last.
    pub quantity: &'a str,
    /// The hash of the segment before it in its chain.
    pub previous: Hash,
    /// The root of the tree of its movements.
    pub root: Hash,
    /// The hash of their numbers.
    pub numbers: Hash,
}

impl Segment<'_> {
    /// The fields as texts, in the order in which they are hashed; hashes are hashed as bytes.
    pub fn fields(&self) -> [String; 6] {
        [
            self.item.to_owned(),
            self.stripe.to_string(),
            self.first.to_string(),
            self.last.to_string(),
            self.count.to_string(),
            self.quantity.to_owned(),
        ]
    }

    /// The hash of the segment.
    pub fn hash(&self) -> Hash {
        let fields = self.fields().iter().fold(Fields::of(SEGMENT), |hash, field| hash.text(field));
        fields.bytes(Some(&self.previous)).bytes(Some(&self.root)).bytes(Some(&self.numbers)).finish()
    }
}

/// One seal.
pub struct Seal {
    /// Its number, from 1 on.
    pub number: i64,
    /// The movements that it seals.
    pub movements: i64,
    /// When it was made, in microseconds since 2000-01-01 00:00 UTC.
    pub time: i64,
    /// The hash of the seal before it.
    pub previous: Hash,
    /// The root of the tree of its segments.
    pub root: Hash,
}

impl Seal {
    /// The hash of the seal.
    pub fn hash(&self) -> Hash {
        Fields::of(SEAL)
            .number(self.number)
            .number(self.movements)
            .number(self.time)
            .bytes(Some(&self.previous))
            .bytes(Some(&self.root))
            .finish()
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hash = Sha256::new();
    hash.update([NODE]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The root of a tree whose leaves come one by one.
#[derive(Default)]
pub struct Tree {
    /// The roots of full trees, the largest first.
    full: Vec<Hash>,
    leaves: u64,
}

impl Tree {
    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.leaves.trailing_ones() {
            if let Some(left) = self.full.pop() {
                hash = node(&left, &hash);
            }
        }
        self.full.push(hash);
        self.leaves += 1;
    }

    /// The root; of no leaves, nothing.
    pub fn root(&self) -> Hash {
        let mut roots = self.full.iter().rev();
        let last = roots.next().copied().unwrap_or(NOTHING);
        roots.fold(last, |right, left| node(left, &right))
    }
}

/// A step from a leaf to the root: the hash beside it.
#[derive(Debug, PartialEq, Eq)]
pub enum PathStep {
    /// It stands on the left.
    Left(Hash),
    /// It stands on the right.
    Right(Hash),
}

/// The steps from a leaf to the root.
pub fn path(leaves: &[Hash], place: usize) -> Vec<PathStep> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let half = leaves.len().next_power_of_two() / 2;
    let (left, right) = leaves.split_at(half);
    let root = |leaves: &[Hash]| {
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    };
    let (mut steps, last) = if place < half {
        (path(left, place), PathStep::Right(root(right)))
    } else {
        (path(right, place - half), PathStep::Left(root(left)))
    };
    steps.push(last);
    steps
}

/// A hash in hexadecimal digits.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads 64 hexadecimal digits.
pub fn from_hex(text: &str) -> Option<Hash> {
    let mut hash = NOTHING;
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|number| Fields::of(LEAF).number(number).finish()).collect()
    }

    fn root(leaves: &[Hash]) -> Hash {
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    }

    /// As RFC 6962 writes it down.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => NOTHING,
            [leaf] => *leaf,
            leaves => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    fn climb(leaf: Hash, steps: &[PathStep]) -> Hash {
        steps.iter().fold(leaf, |hash, step| match step {
            PathStep::Left(left) => node(left, &hash),
            PathStep::Right(right) => node(&hash, right),
        })
    }

    #[test]
    fn a_hash_is_written_and_read() {
        let hash = leaves(1)[0];
        assert_eq!(from_hex(&hex(&hash)), Some(hash));
        for text in ["", "ab", &"g".repeat(64), &"+0".repeat(32)] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn a_movement_has_the_hash_of_its_canonical_bytes() {
        let movement = HashedMovement {
            id: 7,
            item: "tea",
            stripe: None,
            kind: b"sale",
            old_quantity: "11.50",
            new_quantity: "10.50",
            reference: Some(b"order 1"),
            key: None,
            actor: b"till",
            transaction: 800,
            time: -5,
        };
        let bytes = b"\x00\x00\x00\x00\x017\x00\x00\x00\x03tea\xff\xff\xff\xff\x00\x00\x00\x04sale\
                      \x00\x00\x00\x0511.50\x00\x00\x00\x0510.50\x00\x00\x00\x07order 1\xff\xff\xff\xff\
                      \x00\x00\x00\x04till\x00\x00\x00\x03800\x00\x00\x00\x02-5";
        assert_eq!(hex(&movement.hash()), hex(&Sha256::digest(bytes)));
    }

    proptest! {
        #[test]
        fn every_leaf_climbs_to_the_root(count in 1_usize..70) {
            let leaves = leaves(count);
            prop_assert_eq!(root(&leaves), by_definition(&leaves));
            for (place, leaf) in leaves.iter().enumerate() {
                prop_assert_eq!(climb(*leaf, &path(&leaves, place)), root(&leaves));
            }
        }
    }
}

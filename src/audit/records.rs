//! What is known of each chain, as records in temporary files: written one by one, read in the order of chains.
//!
//! A part of the files is sorted in memory where it is small; one with very many movements of an item is sorted by
//! PostgreSQL, and read in pieces.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::seal::{Hash, NOTHING};
use crate::pg::sort::Sort;
use crate::pg::temp_files::TempFiles;
use std::io::Read;

/// The most bytes of a part that are sorted in memory; four times as much as most parts have.
const IN_MEMORY: usize = 16 << 20;
/// The bytes of a larger part that are read at once.
const PIECE: usize = 4 << 20;

/// The bytes of a sealed movement: its number and its hash.
pub const SEALED_BYTES: usize = 40;
/// The most movements in one segment: it is read as a whole.
pub const MOST_SEALED: usize = 4_096;

/// What a movement means for the presence of its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It is removed.
    Closing,
    /// Anything else.
    Other,
}

impl Mark {
    /// That of a kind.
    pub fn of(kind: &[u8]) -> Self {
        if kind == b"closing" { Self::Closing } else { Self::Other }
    }
}

/// One movement.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Its number.
    pub id: i64,
    /// When it was written.
    pub time: i64,
    /// Whether it removes the item.
    pub mark: Mark,
    /// It has the form of what archiving leaves.
    pub is_left: bool,
    /// The quantity before.
    pub old_quantity: &'a str,
    /// The quantity after.
    pub new_quantity: &'a str,
    /// Its hash; nothing where no hashes are read.
    pub hash: Hash,
}

/// The movement that a chain ends with, so far.
#[derive(Clone, Debug)]
pub struct ChainEnd {
    /// Its number.
    pub id: i64,
    /// When it was written.
    pub time: i64,
    /// Whether it removes the item.
    pub mark: Mark,
    /// The quantity after it.
    pub quantity: String,
}

impl ChainEnd {
    /// The chain ends with this movement now.
    pub fn set(end: &mut Option<Self>, link: &Link<'_>) {
        let Link { id, time, mark, new_quantity, .. } = *link;
        // Its memory is used again: this is done for every movement.
        let mut quantity = end.take().map_or_else(String::new, |end| end.quantity);
        quantity.clear();
        quantity.push_str(new_quantity);
        *end = Some(Self { id, time, mark, quantity });
    }
}

/// How far a chain is verified.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// The last movement; its hash is that of the last segment.
    pub last: Link<'a>,
    /// The chain was broken after it.
    pub broken: bool,
}

/// What a record says.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// How far the chain is verified.
    Checkpoint(Checkpoint<'a>),
    /// The item has stripes: said of the chain of its row, which comes before theirs.
    Striped,
    /// Movements up to this number were sealed.
    SealedUpTo(i64),
    /// Movements that were sealed together: of each its number and its hash.
    Sealed(&'a [u8]),
    /// A movement that was archived.
    Archived(Link<'a>),
    /// A movement of the ledger.
    Movement(Link<'a>),
    /// The quantity in the row, or in the stripe.
    OnHand(&'a str),
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The first bytes of the item, which most comparisons need alone.
    prefix: u128,
    /// The item, as bytes.
    pub item: &'a [u8],
    /// The stripe; 0 for the row of the item.
    pub stripe: i16,
    /// Its place in the chain: the number of the movement that it is about.
    pub place: i64,
    kind: u8,
    rest: &'a [u8],
}

/// Kinds sort as they are needed.
const CHECKPOINT: u8 = 0;
const STRIPED: u8 = 1;
const SEALED_UP_TO: u8 = 2;
const SEALED: u8 = 3;
const ARCHIVED: u8 = 4;
const MOVEMENT: u8 = 5;
const ON_HAND: u8 = 6;

/// What is true of a movement, as bits.
const CLOSING: u8 = 1;
const LEFT: u8 = 2;
const HASHED: u8 = 4;

impl<'a> Record<'a> {
    /// Records of an item sort by chain and place.
    fn sort_key(&self) -> (u128, &[u8], i16, i64, u8) {
        (self.prefix, self.item, self.stripe, self.place, self.kind)
    }

    /// What it says.
    pub fn what(&self) -> Result<What<'a>> {
        let mut reader = Unread(self.rest);
        let mut read = || {
            Some(match self.kind {
                CHECKPOINT => {
                    let id = reader.number()?;
                    let broken = reader.flag()?;
                    What::Checkpoint(Checkpoint { last: reader.link(id)?, broken })
                }
                STRIPED => What::Striped,
                SEALED_UP_TO => What::SealedUpTo(reader.number()?),
                SEALED => What::Sealed(self.rest),
                ARCHIVED => What::Archived(reader.link(self.place)?),
                MOVEMENT => What::Movement(reader.link(self.place)?),
                ON_HAND => What::OnHand(std::str::from_utf8(self.rest).ok()?),
                _ => return None,
            })
        };
        read().ok_or_else(broken_file)
    }

    /// Whether both are of one chain.
    pub fn is_of_chain_of(&self, other: &Record<'_>) -> bool {
        (self.prefix, self.stripe, self.item) == (other.prefix, other.stripe, other.item)
    }
}

fn broken_file() -> Box<Error> {
    Error::internal("a temporary file is not as it was written")
}

/// Writes records into the part that their item belongs to.
pub struct Writer {
    /// The parts.
    pub files: TempFiles,
    buffer: Vec<u8>,
}

impl Writer {
    /// Writes to these parts.
    pub fn new(files: TempFiles) -> Self {
        Self { files, buffer: Vec::new() }
    }

    /// Adds movements that were sealed together: of each its number and its hash. More than are sealed together were
    /// altered, and are not read: they could need any memory.
    pub fn add_sealed(&mut self, item: &ItemId, stripe: i16, movements: &[u8]) {
        if movements.len() > MOST_SEALED * SEALED_BYTES {
            return;
        }
        if let Some(last) = sealed(movements).map(|(number, _)| number).max() {
            self.add(item, stripe, What::SealedUpTo(last));
            self.add(item, stripe, What::Sealed(movements));
        }
    }

    /// Adds a record.
    pub fn add(&mut self, item: &ItemId, stripe: i16, what: What<'_>) {
        let part = item.lock_word() as usize % self.files.parts();
        let (place, kind) = match &what {
            What::Checkpoint(_) => (i64::MIN, CHECKPOINT),
            What::Striped => (i64::MIN, STRIPED),
            What::SealedUpTo(_) => (i64::MIN, SEALED_UP_TO),
            // They are needed from the first of them on; what an owner has altered need not be in order.
            What::Sealed(movements) => (sealed(movements).map(|(id, _)| id).min().unwrap_or(i64::MIN), SEALED),
            What::Archived(link) => (link.id, ARCHIVED),
            What::Movement(link) => (link.id, MOVEMENT),
            What::OnHand(_) => (i64::MAX, ON_HAND),
        };
        // The length of the whole comes first, and is known last.
        self.buffer.clear();
        self.buffer.extend([0; 4]);
        self.bytes(&item.to_bytes());
        // As bytes they sort as numbers do.
        self.buffer.extend((stripe ^ i16::MIN).to_be_bytes());
        self.buffer.extend((place ^ i64::MIN).to_be_bytes());
        self.buffer.push(kind);
        match what {
            What::Checkpoint(Checkpoint { last, broken }) => {
                self.buffer.extend(last.id.to_be_bytes());
                self.buffer.push(u8::from(broken));
                self.link(&last);
            }
            What::Striped => {}
            What::SealedUpTo(last) => self.buffer.extend(last.to_be_bytes()),
            What::Sealed(movements) => self.buffer.extend(movements),
            What::Archived(link) | What::Movement(link) => self.link(&link),
            What::OnHand(quantity) => self.buffer.extend(quantity.as_bytes()),
        }
        // A value of PostgreSQL has less than 2^30 bytes.
        let length = (self.buffer.len() as u32 - 4).to_be_bytes();
        self.buffer[..4].copy_from_slice(&length);
        self.files.write(part, &self.buffer);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend((bytes.len() as u32).to_be_bytes());
        self.buffer.extend(bytes);
    }

    fn link(&mut self, link: &Link<'_>) {
        self.buffer.extend(link.time.to_be_bytes());
        let flags = [(link.mark == Mark::Closing, CLOSING), (link.is_left, LEFT), (link.hash != NOTHING, HASHED)];
        self.buffer.push(flags.iter().filter(|(is_set, _)| *is_set).fold(0, |flags, (_, flag)| flags | flag));
        self.bytes(link.old_quantity.as_bytes());
        self.bytes(link.new_quantity.as_bytes());
        if link.hash != NOTHING {
            self.buffer.extend(link.hash);
        }
    }
}

/// Sealed movements: the number and the hash of each.
pub fn sealed(movements: &[u8]) -> impl Iterator<Item = (i64, Hash)> {
    movements.chunks_exact(SEALED_BYTES).filter_map(|movement| {
        let mut reader = Unread(movement);
        Some((reader.number()?, reader.array()?))
    })
}

/// Reads the records of a part in the order of chains, all at once or in pieces; the movements of one number in a chain
/// come together.
pub fn each_sorted(files: &TempFiles, part: usize, mut act: impl FnMut(&[Record<'_>]) -> Result<()>) -> Result<()> {
    if files.size(part) <= IN_MEMORY {
        let bytes = files.read(part)?;
        let mut records = read(&bytes)?;
        records.sort_unstable_by(|one, other| one.sort_key().cmp(&other.sort_key()));
        return act(&records);
    }
    let mut sort = Sort::begin();
    let mut reader = files.reader(part);
    let mut record = Vec::new();
    for _ in 0..files.records(part) {
        let mut length = [0; 4];
        reader.read_exact(&mut length).map_err(|_| broken_file())?;
        record.resize(u32::from_be_bytes(length) as usize, 0);
        reader.read_exact(&mut record).map_err(|_| broken_file())?;
        sort.add(&record)?;
    }
    let (mut piece, mut last) = (Vec::with_capacity(PIECE), 0);
    sort.each(|record| {
        let (number, kind) = number_of(record).ok_or_else(broken_file)?;
        // Sealed movements come before all others of a number, and may come apart from them.
        if piece.len() > PIECE && (kind <= SEALED || number_of(&piece[last..]).ok_or_else(broken_file)?.0 != number) {
            act(&read(&piece)?)?;
            piece.clear();
        }
        piece.extend((record.len() as u32).to_be_bytes());
        last = piece.len();
        piece.extend(record);
        Ok(())
    })?;
    act(&read(&piece)?)
}

/// The first bytes of a record, which say what number of movement in what chain it is about, and its kind.
fn number_of(record: &[u8]) -> Option<(&[u8], u8)> {
    let item = Unread(record).array().map(u32::from_be_bytes)?;
    let (number, rest) = record.split_at_checked(4 + item as usize + size_of::<i16>() + size_of::<i64>())?;
    rest.first().map(|kind| (number, *kind))
}

/// The records in bytes.
fn read(bytes: &[u8]) -> Result<Vec<Record<'_>>> {
    let mut reader = Unread(bytes);
    let mut records = Vec::new();
    while !reader.0.is_empty() {
        records.try_reserve(1).map_err(|_| Error::out_of_memory(bytes.len()))?;
        records.push(reader.record().ok_or_else(broken_file)?);
    }
    Ok(records)
}

struct Unread<'a>(&'a [u8]);

impl<'a> Unread<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        self.array().map(|[byte]| byte != 0)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.array().map(u32::from_be_bytes)?;
        self.take(length as usize)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn link(&mut self, id: i64) -> Option<Link<'a>> {
        let time = self.number()?;
        let [flags] = self.array()?;
        let mark = if flags & CLOSING > 0 { Mark::Closing } else { Mark::Other };
        let (old_quantity, new_quantity) = (self.text()?, self.text()?);
        let hash = if flags & HASHED > 0 { self.array()? } else { NOTHING };
        Some(Link { id, time, mark, is_left: flags & LEFT > 0, old_quantity, new_quantity, hash })
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let mut record = Unread(self.bytes()?);
        let item = record.bytes()?;
        let mut prefix = [0; 16];
        let length = item.len().min(prefix.len());
        prefix[..length].copy_from_slice(&item[..length]);
        let stripe = record.array().map(i16::from_be_bytes)? ^ i16::MIN;
        let place = record.number()? ^ i64::MIN;
        let [kind] = record.array()?;
        Some(Record { prefix: u128::from_be_bytes(prefix), item, stripe, place, kind, rest: record.0 })
    }
}

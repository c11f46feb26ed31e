//! Seals what was verified: segments of chains, a tree over them, and the seal that follows the one before.

use crate::audit::records::{ChainEnd, Link, MOST_SEALED, Mark, SEALED_BYTES, sealed};
use crate::audit::tables::Audited;
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::seal::{self, Hash, NOTHING, Seal, Segment, Tree};
use crate::pg::args::Arg;
use crate::pg::spi::Connection;
use crate::statements::audit::{self as statements, AuditNames};

/// The bytes, and the rows, that are written at once.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_ROWS: usize = 2_000;

/// The seal before.
#[derive(Clone, Copy)]
pub struct Previous {
    /// Its number; 0 where there is none.
    pub number: i64,
    /// Its hash.
    pub hash: Hash,
}

/// A seal in the making.
pub struct Sealer<'a> {
    spi: &'a Connection,
    audited: &'a Audited,
    tables: &'a AuditNames,
    previous: Previous,
    tree: Tree,
    segments: Vec<NewSegment>,
    chains: Vec<NewChain>,
    bytes: usize,
    /// The movements that are sealed.
    pub movements: i64,
    places: i64,
}

/// How far a chain was verified before.
pub struct Verified {
    /// The movement up to which it was verified; 0 where there is none.
    pub end: ChainEnd,
    /// The hash of its last segment.
    pub head: Hash,
    /// It was broken after that.
    pub broken: bool,
}

/// What is new in a chain: what was verified, and is not in a segment yet.
pub struct NewLinks {
    /// The hash of the segment before.
    head: Hash,
    /// The first movement; none where there is none.
    first: Option<i64>,
    tree: Tree,
    /// Of each movement its number and its hash.
    movements: Vec<u8>,
    /// The last movement, also when it is in a segment.
    end: Option<ChainEnd>,
}

impl NewLinks {
    /// Nothing, after a segment with this hash.
    pub fn after(head: Hash) -> Self {
        Self { head, first: None, tree: Tree::default(), movements: Vec::new(), end: None }
    }
}

struct NewSegment {
    place: i64,
    item: ItemId,
    stripe: i16,
    first: i64,
    last: i64,
    quantity: String,
    previous: Hash,
    root: Hash,
    head: Hash,
    movements: Vec<u8>,
}

struct NewChain {
    item: ItemId,
    stripe: i16,
    end: ChainEnd,
    head: Hash,
    broken: bool,
}

impl<'a> Sealer<'a> {
    /// Begins the seal after another one.
    pub fn new(spi: &'a Connection, audited: &'a Audited, tables: &'a AuditNames, previous: Previous) -> Self {
        Self {
            spi,
            audited,
            tables,
            previous,
            tree: Tree::default(),
            segments: Vec::new(),
            chains: Vec::new(),
            bytes: 0,
            movements: 0,
            places: 0,
        }
    }

    /// Seals a movement, the next one of what is new in a chain.
    pub fn add(&mut self, item: &ItemId, stripe: i16, new: &mut NewLinks, link: &Link<'_>) -> Result<()> {
        new.first.get_or_insert(link.id);
        new.tree.push(link.hash);
        new.movements.extend(link.id.to_be_bytes());
        new.movements.extend(link.hash);
        ChainEnd::set(&mut new.end, link);
        if new.movements.len() < MOST_SEALED * SEALED_BYTES { Ok(()) } else { self.end_segment(item, stripe, new) }
    }

    /// Seals the rest of what is new in a chain, and keeps how far it was verified.
    pub fn end(
        &mut self,
        item: &ItemId,
        stripe: i16,
        mut new: NewLinks,
        verified: Option<&Verified>,
        broken: bool,
    ) -> Result<()> {
        self.end_segment(item, stripe, &mut new)?;
        let was_broken = verified.is_some_and(|verified| verified.broken);
        if new.end.is_some() || broken != was_broken {
            let end = new.end.or_else(|| verified.map(|verified| verified.end.clone()));
            let nothing = || ChainEnd { id: 0, time: 0, mark: Mark::Other, quantity: "0".to_owned() };
            let (item, end) = (item.clone(), end.unwrap_or_else(nothing));
            self.chains.push(NewChain { item, stripe, end, head: new.head, broken });
            if self.chains.len() >= BATCH_ROWS {
                self.write();
            }
        }
        Ok(())
    }

    /// Seals a movement that archiving has left.
    pub fn add_left(&mut self, item: &ItemId, stripe: i16, link: &Link<'_>) -> Result<()> {
        let mut new = NewLinks::after(NOTHING);
        self.add(item, stripe, &mut new, link)?;
        self.end_segment(item, stripe, &mut new)
    }

    fn end_segment(&mut self, item: &ItemId, stripe: i16, new: &mut NewLinks) -> Result<()> {
        let (Some(first), Some(last)) = (new.first.take(), &new.end) else { return Ok(()) };
        let (tree, movements) = (std::mem::take(&mut new.tree), std::mem::take(&mut new.movements));
        let count = i64::try_from(movements.len() / SEALED_BYTES);
        let count = count.map_err(|_| Error::internal("a segment is too long"))?;
        let segment = Segment {
            item: &item.to_string(),
            stripe,
            first,
            last: last.id,
            count,
            quantity: &last.quantity,
            previous: new.head,
            root: tree.root(),
            numbers: seal::numbers(sealed(&movements).map(|(number, _)| number)),
        };
        let head = segment.hash();
        self.tree.push(head);
        self.movements += count;
        self.bytes += movements.len() + 200;
        self.segments.push(NewSegment {
            place: self.places,
            item: item.clone(),
            stripe,
            first,
            last: last.id,
            quantity: last.quantity.clone(),
            previous: new.head,
            root: segment.root,
            head,
            movements,
        });
        new.head = head;
        self.places += 1;
        if self.bytes > BATCH_BYTES || self.segments.len() >= BATCH_ROWS {
            self.write();
        }
        Ok(())
    }

    /// Writes what is waiting, in a connection of its own, which frees its memory.
    fn write(&mut self) {
        self.bytes = 0;
        let outer = self.spi;
        outer.nested(|spi| self.write_segments(spi));
        outer.nested(|spi| self.write_chains(spi));
    }

    fn write_segments(&mut self, spi: &Connection) {
        let id_type = self.audited.id_type;
        let segments = std::mem::take(&mut self.segments);
        if !segments.is_empty() {
            let numbers = |of: fn(&NewSegment) -> i64| Arg::owned(segments.iter().map(of).collect::<Vec<_>>());
            let hashes = |of: fn(&NewSegment) -> &[u8]| Arg::byte_strings(segments.iter().map(of));
            let args = [
                Arg::owned(self.previous.number + 1),
                numbers(|new| new.place),
                Arg::items(segments.iter().map(|new| &new.item), id_type),
                Arg::owned(segments.iter().map(|new| new.stripe).collect::<Vec<_>>()),
                numbers(|new| new.first),
                numbers(|new| new.last),
                Arg::owned(segments.iter().map(|new| new.quantity.clone()).collect::<Vec<_>>()),
                hashes(|new| &new.previous),
                hashes(|new| &new.root),
                hashes(|new| &new.head),
                hashes(|new| &new.movements),
            ];
            spi.once(&statements::add_segments(self.tables, id_type), &args);
        }
    }

    fn write_chains(&mut self, spi: &Connection) {
        let id_type = self.audited.id_type;
        let chains = std::mem::take(&mut self.chains);
        if !chains.is_empty() {
            let kind = |new: &NewChain| if new.end.mark == Mark::Closing { "closing" } else { "" }.to_owned();
            let args = [
                Arg::items(chains.iter().map(|new| &new.item), id_type),
                Arg::owned(chains.iter().map(|new| new.stripe).collect::<Vec<_>>()),
                Arg::owned(chains.iter().map(|new| new.end.id).collect::<Vec<_>>()),
                Arg::owned(chains.iter().map(kind).collect::<Vec<_>>()),
                Arg::owned(chains.iter().map(|new| new.end.quantity.clone()).collect::<Vec<_>>()),
                Arg::owned(chains.iter().map(|new| new.end.time).collect::<Vec<_>>()),
                Arg::byte_strings(chains.iter().map(|new| new.head.as_slice())),
                Arg::owned(chains.iter().map(|new| new.broken).collect::<Vec<_>>()),
            ];
            spi.once(&statements::keep_chains(self.tables, id_type), &args);
        }
    }

    /// Writes the rest, and returns the seal; None where nothing was new.
    pub fn finish(mut self, time: i64) -> Option<Seal> {
        self.write();
        let Previous { number, hash } = self.previous;
        (self.places > 0).then(|| Seal {
            number: number + 1,
            movements: self.movements,
            time,
            previous: hash,
            root: self.tree.root(),
        })
    }
}

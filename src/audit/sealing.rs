//! Seals what was verified: segments of chains, a tree over them, and the seal that follows the one before.

use crate::audit::chain::Verified;
use crate::audit::records::{Link, Mark, SEALED_BYTES};
use crate::audit::tables::Audited;
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::seal::{self, Hash, NOTHING, Seal, Segment, Tree};
use crate::pg::args::Arg;
use crate::pg::spi::{Connection, connected};
use crate::statements::audit::{self as statements, AuditNames};

/// The most movements in one segment: it is read as a whole.
const MOST_MOVEMENTS: usize = 4_096;
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
    movement: i64,
    mark: Mark,
    quantity: String,
    time: i64,
    head: Hash,
    broken: bool,
}

impl<'a> Sealer<'a> {
    /// Begins the seal after another one.
    pub fn new(audited: &'a Audited, tables: &'a AuditNames, previous: Previous) -> Self {
        Self {
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

    /// Seals what is new in a chain.
    pub fn add(&mut self, item: &ItemId, chain: &Verified<'_>) -> Result<()> {
        let mut head = chain.checkpoint.map_or(NOTHING, |checkpoint| checkpoint.last.hash);
        for links in chain.links.chunks(MOST_MOVEMENTS) {
            head = self.add_segment(item, chain.stripe, links, head)?;
        }
        let was_broken = chain.checkpoint.is_some_and(|checkpoint| checkpoint.broken);
        if !chain.links.is_empty() || chain.broken != was_broken {
            let last = chain.links.last().copied().or(chain.checkpoint.map(|checkpoint| checkpoint.last));
            self.chains.push(NewChain {
                item: item.clone(),
                stripe: chain.stripe,
                movement: last.map_or(0, |last| last.id),
                mark: last.map_or(Mark::Other, |last| last.mark),
                quantity: last.map_or_else(|| "0".to_owned(), |last| last.new_quantity.to_owned()),
                time: last.map_or(0, |last| last.time),
                head,
                broken: chain.broken,
            });
        }
        if self.bytes > BATCH_BYTES || self.chains.len() >= BATCH_ROWS {
            self.write();
        }
        Ok(())
    }

    /// Seals a movement that archiving has left.
    pub fn add_left(&mut self, item: &ItemId, stripe: i16, link: &Link<'_>) -> Result<()> {
        self.add_segment(item, stripe, &[*link], NOTHING)?;
        if self.bytes > BATCH_BYTES || self.segments.len() >= BATCH_ROWS {
            self.write();
        }
        Ok(())
    }

    fn add_segment(&mut self, item: &ItemId, stripe: i16, links: &[Link<'_>], previous: Hash) -> Result<Hash> {
        let (Some(first), Some(last)) = (links.first(), links.last()) else { return Ok(previous) };
        let mut tree = Tree::default();
        let mut movements = Vec::with_capacity(links.len() * SEALED_BYTES);
        for link in links {
            tree.push(link.hash);
            movements.extend(link.id.to_be_bytes());
            movements.extend(link.hash);
        }
        let count = i64::try_from(links.len()).map_err(|_| Error::internal("a segment is too long"))?;
        let segment = Segment {
            item: &item.to_string(),
            stripe,
            first: first.id,
            last: last.id,
            count,
            quantity: last.new_quantity,
            previous,
            root: tree.root(),
            numbers: seal::numbers(links.iter().map(|link| link.id)),
        };
        let head = segment.hash();
        self.tree.push(head);
        self.movements += count;
        self.bytes += movements.len() + 200;
        self.segments.push(NewSegment {
            place: self.places,
            item: item.clone(),
            stripe,
            first: first.id,
            last: last.id,
            quantity: last.new_quantity.to_owned(),
            previous,
            root: segment.root,
            head,
            movements,
        });
        self.places += 1;
        Ok(head)
    }

    /// Writes what is waiting, in a connection of its own, which frees its memory.
    fn write(&mut self) {
        self.bytes = 0;
        connected(|spi| self.write_segments(spi));
        connected(|spi| self.write_chains(spi));
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
            let kind = |new: &NewChain| if new.mark == Mark::Closing { "closing" } else { "" }.to_owned();
            let args = [
                Arg::items(chains.iter().map(|new| &new.item), id_type),
                Arg::owned(chains.iter().map(|new| new.stripe).collect::<Vec<_>>()),
                Arg::owned(chains.iter().map(|new| new.movement).collect::<Vec<_>>()),
                Arg::owned(chains.iter().map(kind).collect::<Vec<_>>()),
                Arg::owned(chains.iter().map(|new| new.quantity.clone()).collect::<Vec<_>>()),
                Arg::owned(chains.iter().map(|new| new.time).collect::<Vec<_>>()),
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

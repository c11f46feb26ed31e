//! Reads stock, stripes, checkpoints and movements, all in one snapshot, into records.

use crate::audit::records::{Checkpoint, Link, Mark, What, Writer};
use crate::audit::tables::Audited;
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::seal::{self, Hash, NOTHING};
use crate::pg::args::Arg;
use crate::pg::spi::{Connection, RowValues, missing_value};
use crate::pg::temp_files::TempFiles;
use crate::pg::types::SqlType;
use crate::statements::Names;
use crate::statements::audit::{self as statements, AuditNames, Range};
use std::collections::HashSet;

/// Segments are read a few at a time: each has up to 160 kB.
pub const FEW: i64 = 50;

/// What the reference of a movement begins with that archiving has left.
pub const LEFT_REFERENCE: &[u8] = b"archive, seal ";

/// The movements in one part: about 20 MB with all that is known of them.
const MOVEMENTS_IN_PART: i64 = 50_000;
/// The most parts; each has a file, and a buffer of a page.
const MOST_PARTS: i64 = 1_024;

/// From which movement on the ledger is read.
#[derive(Clone, Debug)]
pub enum Origin {
    /// From the first.
    First,
    /// After this one; and all movements of these items, whose chains are broken.
    After(i64, HashSet<ItemId>),
}

/// What is read.
pub struct ScanScope<'a> {
    /// One item, or all.
    pub item: Option<&'a ItemId>,
    /// The part of the ledger.
    pub start: Origin,
    /// Movements that were sealed up to this seal are compared with what was sealed.
    pub sealed_up_to: Option<i64>,
    /// The hashes of movements are needed, to be sealed or compared.
    pub hashes: bool,
    /// Stock and stripes, too.
    pub stock: bool,
    /// Movements that were archived, too.
    pub archive: bool,
    /// About how many movements there are.
    pub movements: i64,
}

/// The records, and how many movements were read.
pub struct Scanned {
    /// The records.
    pub files: TempFiles,
    /// The movements.
    pub movements: i64,
}

/// Reads everything.
pub fn read(spi: &Connection, names: &Names, audited: &Audited, scope: &ScanScope<'_>) -> Result<Scanned> {
    let parts = (scope.movements / MOVEMENTS_IN_PART + 1).clamp(1, MOST_PARTS);
    let parts = usize::try_from(parts).map_err(|_| Error::internal("a number of parts is no number"))?;
    let mut scan = Scan { spi, names, audited, scope, writer: Writer::new(TempFiles::new(parts)), movements: 0 };
    if scope.stock {
        scan.on_hand()?;
    }
    if let Some(tables) = &audited.tables {
        scan.checkpoints(tables)?;
        if let Some(seal) = scope.sealed_up_to {
            scan.sealed(tables, seal)?;
        }
    }
    match (&scope.start, scope.item) {
        (_, Some(item)) => scan.movements(Range::Item, &[Arg::item(item)], &HashSet::new())?,
        (Origin::First, None) => scan.movements(Range::All, &[], &HashSet::new())?,
        (Origin::After(position, broken), None) => {
            scan.movements(Range::After, &[Arg::owned(*position)], broken)?;
            if !broken.is_empty() {
                scan.movements(Range::Items, &[Arg::items(broken, audited.id_type)], &HashSet::new())?;
            }
        }
    }
    if let Some(archive) = audited.archive.as_ref().filter(|_| scope.archive) {
        let range = if scope.item.is_some() { Range::Item } else { Range::All };
        scan.archived(&archive.name, range)?;
    }
    Ok(Scanned { files: scan.writer.files, movements: scan.movements })
}

struct Scan<'a> {
    spi: &'a Connection,
    names: &'a Names,
    audited: &'a Audited,
    scope: &'a ScanScope<'a>,
    writer: Writer,
    movements: i64,
}

impl Scan<'_> {
    fn args(&self) -> Vec<Arg<'static>> {
        self.scope.item.map(Arg::item).into_iter().collect()
    }

    fn on_hand(&mut self) -> Result<()> {
        let (one, args) = (self.scope.item.is_some(), self.args());
        let id = SqlType::of_id(self.audited.id_type);
        self.spi.cursor(&statements::stock(self.names, one), &args).each(&[id, SqlType::Numeric], |row| {
            self.writer.add(&row.item(0)?, 0, What::OnHand(&row.decimal(1)?));
            Ok(())
        })?;
        let types = [id, SqlType::Int2, SqlType::Numeric];
        self.spi.cursor(&statements::stripes(self.names, one), &args).each(&types, |row| {
            let stripe = row.small(1).ok_or_else(|| Error::internal("a stripe has no number"))?;
            let item = row.item(0)?;
            self.writer.add(&item, 0, What::Striped);
            self.writer.add(&item, stripe, What::OnHand(&row.decimal(2)?));
            Ok(())
        })
    }

    fn checkpoints(&mut self, tables: &AuditNames) -> Result<()> {
        let (one, args) = (self.scope.item.is_some(), self.args());
        let types = [
            SqlType::of_id(self.audited.id_type),
            SqlType::Int2,
            SqlType::Int8,
            SqlType::Text,
            SqlType::Text,
            SqlType::Timestamptz,
            SqlType::Bytea,
            SqlType::Bool,
        ];
        self.spi.cursor(&statements::chains(self.names, tables, one), &args).each(&types, |row| {
            let (quantity, kind) = (row.required_text(4)?, row.required_text(3)?);
            let last = Link {
                id: row.number(2)?,
                time: row.number(5).unwrap_or(0),
                mark: Mark::of(kind.as_bytes()),
                is_left: false,
                old_quantity: "",
                new_quantity: &quantity,
                hash: hash_of(row, 6)?,
            };
            let stripe = row.small(1).ok_or_else(|| Error::internal("a chain has no stripe"))?;
            self.writer.add(&row.item(0)?, stripe, What::Checkpoint(Checkpoint { last, broken: row.flag(7)? }));
            Ok(())
        })
    }

    fn sealed(&mut self, tables: &AuditNames, seal: i64) -> Result<()> {
        let mut args = vec![Arg::owned(seal)];
        args.extend(self.args());
        let types = [SqlType::of_id(self.audited.id_type), SqlType::Int2, SqlType::Bytea];
        let sql = statements::sealed(self.names, tables, self.scope.item.is_some());
        self.spi.cursor(&sql, &args).in_batches_of(FEW).each(&types, |row| {
            let (item, stripe) = (row.item(0)?, row.small(1).unwrap_or(0));
            self.writer.add_sealed(&item, stripe, &row.bytes(2).unwrap_or_default());
            Ok(())
        })
    }

    fn movements(&mut self, range: Range, args: &[Arg<'_>], others: &HashSet<ItemId>) -> Result<()> {
        self.of_table(&self.audited.ledger, (range, args), |writer, (item, stripe), movement| {
            let is_read = !others.contains(item);
            if is_read {
                writer.add(item, stripe, What::Movement(movement.link()));
            }
            is_read
        })
    }

    fn archived(&mut self, archive: &str, range: Range) -> Result<()> {
        self.of_table(archive, (range, &self.args()), |writer, (item, stripe), movement| {
            writer.add(item, stripe, What::Archived(movement.link()));
            true
        })
    }

    fn of_table(
        &mut self,
        table: &str,
        (range, args): (Range, &[Arg<'_>]),
        mut add: impl FnMut(&mut Writer, (&ItemId, i16), &Movement) -> bool,
    ) -> Result<()> {
        let id_type = self.audited.id_type;
        let hashes = self.scope.hashes;
        let (spi, sql) = (self.spi, statements::movements(table, id_type, range, hashes));
        spi.cursor(&sql, args).each(&statements::movement_types(id_type), |row| {
            let item = row.item(1)?;
            let movement = Movement::read(row, &item, hashes)?;
            let is_read = add(&mut self.writer, (&item, row.small(2).unwrap_or(0)), &movement);
            self.movements += i64::from(is_read);
            Ok(())
        })
    }
}

/// A movement as it was read.
pub struct Movement {
    id: i64,
    time: i64,
    mark: Mark,
    is_left: bool,
    old_quantity: String,
    new_quantity: String,
    hash: Hash,
}

impl Movement {
    /// Reads a row of [`statements::movements`], with its hash or without.
    pub fn read(row: &RowValues, item: &ItemId, hashes: bool) -> Result<Self> {
        let quantities = [row.decimal(4)?, row.decimal(5)?];
        let hash = if hashes { Self::hashed(row, item, &quantities, |movement| movement.hash())? } else { NOTHING };
        let kind = row.utf8(3).ok_or_else(missing_value)?;
        let is_of_archiving = || row.utf8(6).is_some_and(|reference| reference.starts_with(LEFT_REFERENCE));
        let is_left = matches!(&*kind, b"opening" | b"closing") && is_of_archiving() && row.utf8(7).is_none();
        let [old_quantity, new_quantity] = quantities;
        let (id, time) = (row.number(0)?, row.number(10)?);
        Ok(Self { id, time, mark: Mark::of(&kind), is_left, old_quantity, new_quantity, hash })
    }

    /// The fields of such a row that are hashed.
    pub fn fields_of(row: &RowValues, item: &ItemId) -> Result<[Option<String>; 11]> {
        Self::hashed(row, item, &[row.decimal(4)?, row.decimal(5)?], |movement| movement.fields())
    }

    fn hashed<T>(
        row: &RowValues,
        item: &ItemId,
        [old_quantity, new_quantity]: &[String; 2],
        act: impl FnOnce(&seal::HashedMovement<'_>) -> T,
    ) -> Result<T> {
        let (kind, actor) = (row.utf8(3).ok_or_else(missing_value)?, row.utf8(8).ok_or_else(missing_value)?);
        let (reference, key) = (row.utf8(6), row.utf8(7));
        Ok(act(&seal::HashedMovement {
            id: row.number(0)?,
            item: &item.to_string(),
            stripe: row.small(2),
            kind: &kind,
            old_quantity,
            new_quantity,
            reference: reference.as_deref(),
            key: key.as_deref(),
            actor: &actor,
            transaction: row.number(9)?.cast_unsigned(),
            time: row.number(10)?,
        }))
    }

    /// As a link of its chain.
    pub fn link(&self) -> Link<'_> {
        Link {
            id: self.id,
            time: self.time,
            mark: self.mark,
            is_left: self.is_left,
            old_quantity: &self.old_quantity,
            new_quantity: &self.new_quantity,
            hash: self.hash,
        }
    }
}

/// A hash in a column.
pub fn hash_of(row: &RowValues, place: usize) -> Result<Hash> {
    let bytes = row.bytes(place).unwrap_or_default();
    // One of another length equals none.
    Ok(bytes.try_into().unwrap_or(NOTHING))
}

//! What was sealed: whether it is still what it was, and proofs.

use crate::audit::access::{as_owner, as_owner_of_all};
use crate::audit::chain::{self, Acknowledged, CheckExtent};
use crate::audit::discrepancy::{Discrepancy, Findings, Kind};
use crate::audit::records::{MOST_SEALED, SEALED_BYTES};
use crate::audit::scan::{self, FEW, Movement, Origin, ScanScope, hash_of};
use crate::audit::tables::{self, Audited};
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::seal::{self, Hash, NOTHING, PathStep, Seal, Segment, Tree, hex};
use crate::pg::args::Arg;
use crate::pg::spi::{Connection, RowValues};
use crate::pg::transaction::with_new_snapshot;
use crate::pg::types::SqlType;
use crate::statements::audit::{self as statements, AuditNames, Range};
use serde_json::{Value, json};

/// A seal as it is kept.
struct Kept {
    seal: Seal,
    hash: Hash,
}

/// The newest seal, as a JSON object to be kept outside of the database.
pub fn digest() -> Result<Value> {
    as_owner(|spi, stock| {
        let audited = tables::open(spi, stock, false)?;
        let tables = audited.tables.as_ref().ok_or_else(Error::nothing_sealed)?;
        let rows = spi.once(&statements::newest_seal(tables), &[]);
        if rows.count() == 0 {
            return Err(Error::nothing_sealed());
        }
        let number: i64 = rows.required(0, c"number")?;
        let movements: i64 = rows.required(0, c"movements")?;
        let hash: Vec<u8> = rows.required(0, c"seal")?;
        let sealed_at = rows.required_text(0, c"sealed_at")?;
        Ok(json!({
            "stock_table": stock.names.relation, "seal": number, "sealed_at": sealed_at, "movements": movements,
            "hash": hex(&hash),
        }))
    })
}

/// Whether everything that was sealed up to a digest is as it was.
pub fn verify(digest: &Value) -> Result<Vec<Discrepancy>> {
    let (number, hash) = read_digest(digest)?;
    as_owner_of_all(|spi, stock| {
        let audited = tables::open_any(spi, stock, false)?;
        let Some(tables) = &audited.tables else {
            return Ok(vec![Discrepancy::of_seal(number, "there are no seals", None)]);
        };
        with_new_snapshot(|| {
            let mut found = Findings::default().only(Kind::is_of_seals);
            altered(spi, &audited, tables, number, &mut found)?;
            let kept = seals(spi, tables, number)?;
            match kept.iter().find(|kept| kept.seal.number == number) {
                Some(kept) if kept.hash == hash => {}
                Some(_) => found.push(Discrepancy::of_seal(number, "the seal has another hash than the digest", None)),
                None => found.push(Discrepancy::of_seal(number, "there is no such seal", None)),
            }
            let last = spi.once_latest(&statements::last_number(&audited.sequence), &[]);
            let movements: i64 = last.required(0, c"number")?;
            let scope = ScanScope {
                item: None,
                start: Origin::First,
                sealed_up_to: Some(number),
                hashes: true,
                stock: false,
                archive: true,
                movements,
            };
            let scanned = scan::read(spi, &stock.names, &audited, &scope)?;
            let acknowledged = Acknowledged::new();
            let extent = CheckExtent { full: true, all_seals: false, acknowledged: &acknowledged };
            chain::check(&scanned, audited.id_type, extent, &mut None, &mut found)?;
            Ok(found.returned())
        })
    })
}

fn read_digest(digest: &Value) -> Result<(i64, Hash)> {
    let number = digest.get("seal").and_then(Value::as_i64).filter(|number| *number > 0);
    let hash = digest.get("hash").and_then(Value::as_str).and_then(seal::from_hex);
    number.zip(hash).ok_or_else(Error::malformed_digest)
}

/// The seals up to one, in their order.
fn seals(spi: &Connection, tables: &AuditNames, up_to: i64) -> Result<Vec<Kept>> {
    let mut kept = Vec::new();
    spi.cursor(&statements::seals(tables), &[Arg::owned(1_i64)]).in_batches_of(FEW).each(
        &statements::SEAL_TYPES,
        |row| {
            let seal = Seal {
                number: row.number(0)?,
                movements: row.number(1).unwrap_or(-1),
                time: row.number(2).unwrap_or(-1),
                previous: hash_of(row, 3)?,
                root: hash_of(row, 4)?,
            };
            if seal.number <= up_to {
                kept.push(Kept { seal, hash: hash_of(row, 5)? });
            }
            Ok(())
        },
    )?;
    Ok(kept)
}

/// A segment as it is kept.
struct KeptSegment {
    seal: i64,
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

impl KeptSegment {
    fn read(row: &RowValues) -> Result<Self> {
        Ok(Self {
            seal: row.number(0)?,
            place: row.number(1)?,
            item: row.item(2)?,
            stripe: row.small(3).unwrap_or(0),
            first: row.number(4)?,
            last: row.number(5)?,
            quantity: row.required_text(6)?,
            previous: hash_of(row, 7)?,
            root: hash_of(row, 8)?,
            head: hash_of(row, 9)?,
            movements: row.bytes(10).unwrap_or_default(),
        })
    }

    /// The hashes of its movements.
    fn leaves(&self) -> Vec<Hash> {
        let hash = |movement: &[u8]| movement.get(8..).and_then(|hash| hash.try_into().ok()).unwrap_or(NOTHING);
        self.movements.chunks(SEALED_BYTES).map(hash).collect()
    }

    /// The numbers of its movements.
    fn numbers(&self) -> Vec<i64> {
        let number =
            |movement: &[u8]| movement.get(..8).and_then(|id| id.try_into().ok()).map_or(0, i64::from_be_bytes);
        self.movements.chunks(SEALED_BYTES).map(number).collect()
    }

    fn with<T>(&self, act: impl FnOnce(&Segment<'_>) -> T) -> T {
        let item = self.item.to_string();
        act(&Segment {
            item: &item,
            stripe: self.stripe,
            first: self.first,
            last: self.last,
            count: i64::try_from(self.movements.len() / SEALED_BYTES).unwrap_or(0),
            quantity: &self.quantity,
            previous: self.previous,
            root: self.root,
            numbers: seal::numbers(self.numbers().into_iter()),
        })
    }

    fn is_intact(&self) -> bool {
        if self.movements.len() > MOST_SEALED * SEALED_BYTES {
            return false;
        }
        let mut tree = Tree::default();
        self.leaves().into_iter().for_each(|leaf| tree.push(leaf));
        let numbers = self.numbers();
        self.movements.len().is_multiple_of(SEALED_BYTES)
            && numbers.first() == Some(&self.first)
            && numbers.last() == Some(&self.last)
            && tree.root() == self.root
            && self.with(|segment| segment.hash()) == self.head
    }
}

/// What was altered in the seals up to one, and in what they keep.
pub fn altered(
    spi: &Connection,
    audited: &Audited,
    tables: &AuditNames,
    up_to: i64,
    found: &mut Findings,
) -> Result<()> {
    let kept = seals(spi, tables, up_to)?;
    let mut previous = NOTHING;
    for (number, Kept { seal, hash }) in (1_i64..).zip(&kept) {
        if seal.number != number || seal.previous != previous || seal.hash() != *hash {
            found.push(Discrepancy::of_seal(seal.number, "the seal is not what was sealed", None));
        }
        previous = *hash;
    }
    altered_segments(spi, audited, tables, up_to, found)?;
    let mut of_seal = kept.iter().map(|kept| (kept.seal.number, Tree::default(), 0)).collect::<Vec<_>>();
    spi.cursor(&statements::heads_in_order(tables), &[Arg::owned(up_to)]).each(&statements::HEAD_TYPES, |row| {
        let (number, length) = (row.number(0)?, row.number(2)?);
        let place = of_seal.binary_search_by_key(&number, |(number, _, _)| *number);
        if let Some((_, tree, movements)) = place.ok().and_then(|place| of_seal.get_mut(place)) {
            tree.push(hash_of(row, 1)?);
            *movements += length / SEALED_BYTES as i64;
        } else {
            let problem = "something is kept for a seal that is not there";
            found.push(Discrepancy::of_seal(number, problem, None));
        }
        Ok(())
    })?;
    for (Kept { seal, .. }, (number, tree, movements)) in kept.iter().zip(of_seal) {
        if tree.root() != seal.root || movements != seal.movements {
            found.push(Discrepancy::of_seal(number, "what was sealed is not complete, or was altered", None));
        }
    }
    Ok(())
}

/// What was altered in the segments, chain by chain.
fn altered_segments(
    spi: &Connection,
    audited: &Audited,
    tables: &AuditNames,
    up_to: i64,
    found: &mut Findings,
) -> Result<()> {
    let mut chain: Option<SealedChain> = None;
    let (sql, types) = statements::segments_by_chain(tables, audited.id_type);
    spi.cursor(&sql, &[Arg::owned(up_to)]).in_batches_of(FEW).each(&types, |row| {
        let segment = KeptSegment::read(row)?;
        if chain.as_ref().is_none_or(|chain| (&chain.item, chain.stripe) != (&segment.item, segment.stripe)) {
            chain = Some(SealedChain { item: segment.item.clone(), stripe: segment.stripe, end: None });
        }
        let follows = chain.as_mut().is_some_and(|chain| chain.is_followed_by(&segment));
        if !segment.is_intact() || !follows {
            let item = Some(segment.item);
            found.push(Discrepancy::of_seal(segment.seal, "what was sealed of an item was altered", item));
        }
        Ok(())
    })
}

/// What was sealed of a chain so far.
struct SealedChain {
    item: ItemId,
    stripe: i16,
    /// The hash of its last segment, and the last movement.
    end: Option<(Hash, i64)>,
}

impl SealedChain {
    /// Whether a segment follows. What archiving has left stands alone.
    fn is_followed_by(&mut self, next: &KeptSegment) -> bool {
        let is_left = |last: i64| next.previous == NOTHING && next.first == next.last && next.last <= last;
        let follows = match self.end {
            Some((_, last)) if is_left(last) => return true,
            None => next.previous == NOTHING,
            Some((head, last)) => next.previous == head && next.first > last,
        };
        self.end = Some((next.head, next.last));
        follows
    }
}

/// The proof that a movement is in the newest seal.
pub fn proof(movement: i64) -> Result<Value> {
    as_owner(|spi, stock| {
        let audited = tables::open(spi, stock, false)?;
        let tables = audited.tables.as_ref().ok_or_else(|| Error::not_sealed(movement))?;
        let Located { item, stripe, hash, fields } = find(spi, &audited, movement)?;
        let segment = segment_of(spi, &audited, tables, (&item, stripe, movement, hash))?;
        let place = segment.numbers().iter().position(|number| *number == movement);
        let place = place.ok_or_else(|| Error::not_sealed(movement))?;
        let mut heads = Vec::new();
        let sql = statements::heads(tables);
        spi.once(&sql, &[Arg::owned(segment.seal)]).each(&[SqlType::Bytea], |row| {
            heads.push(hash_of(row, 0)?);
            Ok(())
        })?;
        let place_in_seal = usize::try_from(segment.place).map_err(|_| Error::not_sealed(movement))?;
        let kept = with_new_snapshot(|| seals(spi, tables, i64::MAX))?;
        let later: Vec<_> = kept.iter().filter(|kept| kept.seal.number > segment.seal).collect();
        let own = kept.iter().find(|kept| kept.seal.number == segment.seal);
        let own = own.ok_or_else(|| Error::not_sealed(movement))?;
        let of_seal = |seal: &Seal| json!({"number": seal.number, "movements": seal.movements, "time": seal.time});
        let with_root = |kept: &&Kept| {
            let mut value = of_seal(&kept.seal);
            value["root"] = json!(hex(&kept.seal.root));
            value
        };
        let mut seal = of_seal(&own.seal);
        seal["previous"] = json!(hex(&own.seal.previous));
        Ok(json!({
            "movement": fields,
            "steps_in_segment": steps(&seal::path(&segment.leaves(), place)),
            "segment": segment.with(|segment| json!({
                "fields": segment.fields(), "previous": hex(&segment.previous), "numbers": hex(&segment.numbers),
            })),
            "steps_in_seal": steps(&seal::path(&heads, place_in_seal)),
            "seal": seal,
            "later_seals": later.iter().map(with_root).collect::<Vec<_>>(),
            "hash": hex(&later.last().copied().unwrap_or(own).hash),
        }))
    })
}

fn steps(path: &[PathStep]) -> Value {
    let step = |step: &PathStep| match step {
        PathStep::Left(hash) => json!({"left": hex(hash)}),
        PathStep::Right(hash) => json!({"right": hex(hash)}),
    };
    path.iter().map(step).collect()
}

struct Located {
    item: ItemId,
    /// 0 for the item itself.
    stripe: i16,
    hash: Hash,
    fields: [Option<String>; 11],
}

fn find(spi: &Connection, audited: &Audited, movement: i64) -> Result<Located> {
    let mut found = None;
    // What archiving has left has the number of a movement that is in the archive.
    for table in audited.archive.iter().map(|archive| &archive.name).chain([&audited.ledger]) {
        let sql = statements::movements(table, audited.id_type, Range::One, true);
        spi.once(&sql, &[Arg::owned(movement)]).each(&statements::movement_types(audited.id_type), |row| {
            let item = row.item(1)?;
            let (hash, fields) = (Movement::read(row, &item, true)?.link().hash, Movement::fields_of(row, &item)?);
            found = found.take().or(Some(Located { item, stripe: row.small(2).unwrap_or(0), hash, fields }));
            Ok(())
        })?;
    }
    found.ok_or_else(|| Error::unknown_movement(movement))
}

fn segment_of(
    spi: &Connection,
    audited: &Audited,
    tables: &AuditNames,
    (item, stripe, movement, hash): (&ItemId, i16, i64, Hash),
) -> Result<KeptSegment> {
    let (mut found, mut is_known) = (None, false);
    let (_, types) = statements::segments_by_chain(tables, audited.id_type);
    let args = [Arg::item(item), Arg::owned(stripe), Arg::owned(movement)];
    spi.once(&statements::segment_of(tables, audited.id_type), &args).each(&types, |row| {
        // A later one may have what archiving has left under the number.
        let segment = KeptSegment::read(row)?;
        let place = segment.numbers().iter().position(|number| *number == movement);
        is_known |= place.is_some();
        if place.is_some_and(|place| segment.leaves().get(place) == Some(&hash)) {
            found = Some(segment);
        }
        Ok(())
    })?;
    found.ok_or_else(|| if is_known { Error::sealed_otherwise(movement) } else { Error::not_sealed(movement) })
}

/// Whether a movement of an item was sealed with a hash that begins with these digits.
pub fn was_sealed_as(
    spi: &Connection,
    audited: &Audited,
    tables: &AuditNames,
    (item, stripe, movement): (&ItemId, i16, i64),
    digits: &str,
) -> Result<bool> {
    let mut found = false;
    let (_, types) = statements::segments_by_chain(tables, audited.id_type);
    let args = [Arg::item(item), Arg::owned(stripe), Arg::owned(movement)];
    spi.run_active(&statements::segment_of(tables, audited.id_type), &args).each(&types, |row| {
        let segment = KeptSegment::read(row)?;
        let mut sealed = segment.numbers().into_iter().zip(segment.leaves());
        found |= sealed.any(|(number, hash)| number == movement && hex(&hash).starts_with(digits));
        Ok(())
    })?;
    Ok(found)
}

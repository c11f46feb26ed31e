//! Checks one item: its chains, and what is on hand.

use crate::audit::discrepancy::{Discrepancy, Kind};
use crate::audit::records::{Checkpoint, Link, Mark, Record, SEALED_BYTES, What};
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use serde_json::json;
use std::collections::HashSet;

/// The breaks that a reconciliation has acknowledged: item, stripe, and the movement that does not begin where the one
/// before ended.
pub type Acknowledged = HashSet<(ItemId, i16, i64)>;

/// What is checked.
#[derive(Clone, Copy)]
pub struct CheckExtent<'a> {
    /// From the first movement on; else from the checkpoint.
    pub full: bool,
    /// Everything that was sealed is read: what was archived must be among it.
    pub all_seals: bool,
    /// Breaks that are known.
    pub acknowledged: &'a Acknowledged,
}

/// A chain as far as it was verified.
pub struct Verified<'a> {
    /// The stripe; 0 for the row of the item.
    pub stripe: i16,
    /// How far it was verified before.
    pub checkpoint: Option<Checkpoint<'a>>,
    /// What is new.
    pub links: Vec<Link<'a>>,
    /// It is broken after that.
    pub broken: bool,
}

/// Checks an item whose sorted records these are; returns its chains.
pub fn check<'a>(
    item: &ItemId,
    records: &[Record<'a>],
    extent: CheckExtent<'_>,
    found: &mut Vec<Discrepancy>,
) -> Result<Vec<Verified<'a>>> {
    let is_striped = records.iter().any(|record| record.stripe > 0 && record.is_on_hand());
    let chains = records.chunk_by(|one, other| one.stripe == other.stripe);
    chains.map(|records| Chain::new(item, records, extent)?.check(is_striped, found)).collect()
}

struct Chain<'a, 'r> {
    item: &'r ItemId,
    stripe: i16,
    extent: CheckExtent<'r>,
    checkpoint: Option<Checkpoint<'a>>,
    /// What was sealed, by number.
    sealed: Vec<(i64, &'a [u8])>,
    /// What was archived, and what the ledger has, by number.
    movements: Vec<(Link<'a>, bool)>,
    on_hand: Option<&'a str>,
    /// The movement that was seen last.
    last: Option<Link<'a>>,
    /// A sealed movement between `last` and the next one is not what it was, which has been reported.
    explained: bool,
    /// No break was found so far that is not known.
    whole: bool,
    /// Movements of the ledger, and of the archive, were seen.
    seen: [bool; 2],
    links: Vec<Link<'a>>,
    found: Vec<Discrepancy>,
}

impl<'a, 'r> Chain<'a, 'r> {
    fn new(item: &'r ItemId, records: &[Record<'a>], extent: CheckExtent<'r>) -> Result<Self> {
        let mut chain = Self {
            item,
            stripe: records.first().map_or(0, |record| record.stripe),
            extent,
            checkpoint: None,
            sealed: Vec::new(),
            movements: Vec::new(),
            on_hand: None,
            last: None,
            explained: false,
            whole: true,
            seen: [false; 2],
            links: Vec::new(),
            found: Vec::new(),
        };
        // An item with very many movements must not end the server where there is no memory for them.
        let bytes = records.len() * size_of::<(Link<'_>, bool)>();
        let reserved = chain.movements.try_reserve_exact(records.len());
        reserved.and_then(|()| chain.links.try_reserve(records.len())).map_err(|_| Error::out_of_memory(bytes))?;
        for record in records {
            match record.what()? {
                What::Checkpoint(checkpoint) => chain.checkpoint = Some(checkpoint),
                What::Sealed(movements) => chain.sealed.extend(movements.chunks_exact(SEALED_BYTES).map(numbered)),
                What::Archived(link) => chain.movements.push((link, true)),
                What::Movement(link) => chain.movements.push((link, false)),
                What::OnHand(quantity) => chain.on_hand = Some(quantity),
            }
        }
        chain.sealed.sort_by_key(|(id, _)| *id);
        let verified = chain.checkpoint.map(|checkpoint| checkpoint.last).filter(|last| last.id > 0);
        chain.last = if extent.full { None } else { verified };
        Ok(chain)
    }

    fn check(mut self, is_striped: bool, found: &mut Vec<Discrepancy>) -> Result<Verified<'a>> {
        let (sealed, movements) = (std::mem::take(&mut self.sealed), std::mem::take(&mut self.movements));
        let last_sealed = sealed.last().map_or(0, |(id, _)| *id);
        let (mut sealed, mut there) = (sealed.as_slice(), movements.as_slice());
        loop {
            let next =
                sealed.first().map(|(id, _)| *id).into_iter().chain(there.first().map(|(link, _)| link.id)).min();
            let Some(id) = next else { break };
            let (of_sealed, rest) = sealed.split_at(sealed.iter().take_while(|(number, _)| *number == id).count());
            let (of_there, rest_there) = there.split_at(there.iter().take_while(|(link, _)| link.id == id).count());
            (sealed, there) = (rest, rest_there);
            let next = there.first().map(|(link, _)| *link);
            let number = Number { id, last_sealed, sealed: of_sealed, there: of_there, next };
            self.number(&number);
        }
        self.compare(is_striped);
        found.append(&mut self.found);
        let Self { stripe, checkpoint, links, whole, .. } = self;
        Ok(Verified { stripe, checkpoint, links, broken: !whole })
    }

    fn discrepancy(&self, kind: Kind, before: Option<Link<'_>>) -> Discrepancy {
        Discrepancy {
            after: self.last.map(|link| (link.id, link.time)),
            before: before.map(|link| (link.id, link.time)),
            ..Discrepancy::new(kind, self.item, self.stripe)
        }
    }

    /// Checks what there is of one number: the movement, and what was sealed and archived of it.
    fn number(&mut self, number: &Number<'a, '_>) {
        let verified = self.checkpoint.map_or(0, |checkpoint| checkpoint.last.id);
        let was_sealed = number.id <= verified.max(number.last_sealed);
        if was_sealed && !self.extent.full {
            return;
        }
        let (archived, movement) = (number.one(true), number.one(false));
        let Some(link) = movement.or(archived) else {
            self.missing(number);
            return;
        };
        if number.begins_after_archive(&link) && self.seen == [false; 2] {
            // What was archived is not in the database any more: the chain begins with what archiving has left.
            self.found.retain(|found| found.kind != Kind::MissingMovement);
            self.last = None;
            self.explained = true;
        }
        let is_left = !self.seen[0] && archived.is_some_and(|archived| number.is_left(&archived, movement));
        let altered = number.altered(is_left, self.extent.all_seals);
        self.seen = [self.seen[0] || movement.is_some(), self.seen[1] || archived.is_some()];
        // What archiving has left begins with nothing; the movement that it stands for is in the archive.
        let began = archived.filter(|_| is_left).unwrap_or(link).old_quantity;
        let expected = self.last.map_or("0", |last| last.new_quantity);
        let is_known = || self.extent.acknowledged.contains(&(self.item.clone(), self.stripe, link.id));
        let broken = Discrepancy::differ(expected, began) && !self.explained && !is_known();
        if let Some(kind) = altered {
            let detail = json!({"movement": link.id});
            let found = Discrepancy { movement: Some(link.id), detail, ..self.discrepancy(kind, Some(link)) };
            self.found.push(found);
        } else if broken {
            let (expected, actual) = (Some(expected.to_owned()), Some(began.to_owned()));
            let found = Discrepancy { expected, actual, ..self.discrepancy(Kind::BrokenChain, Some(link)) };
            self.found.push(found);
            self.whole = false;
        }
        // What follows a movement that was altered or inserted does not begin where it ends.
        self.explained = altered.is_some();
        if self.whole && !was_sealed {
            self.links.push(link);
        }
        self.last = Some(link);
    }

    /// A sealed movement is not there.
    fn missing(&mut self, number: &Number<'_, '_>) {
        let discrepancy = self.discrepancy(Kind::MissingMovement, number.next);
        let detail = json!({"movement": number.id});
        self.found.push(Discrepancy { movement: Some(number.id), detail, ..discrepancy });
        self.explained = true;
    }

    fn compare(&mut self, is_striped: bool) {
        let on_hand = self.on_hand;
        let last = self.last.filter(|last| self.stripe > 0 || last.mark != Mark::Closing);
        let balance = last.map(|last| last.new_quantity);
        // The row of a striped item shows a total, which lags; what the row itself holds is nothing.
        let (actual, drift) = match (self.stripe, is_striped) {
            (0, false) => (on_hand, Kind::OnHandDrift),
            (0, true) => (on_hand.map(|_| "0"), Kind::OnHandDrift),
            _ => (on_hand, Kind::StripeDrift),
        };
        let kind = match (balance, actual) {
            (Some(balance), Some(actual)) if Discrepancy::differ(balance, actual) => drift,
            (Some(_), None) if self.stripe == 0 => Kind::MissingItem,
            (Some(balance), None) if Discrepancy::differ(balance, "0") => Kind::StripeDrift,
            (None, Some(_)) if self.stripe == 0 => Kind::UnknownItem,
            (None, Some(actual)) if Discrepancy::differ("0", actual) => Kind::StripeDrift,
            _ => return,
        };
        if self.explained {
            return;
        }
        let (expected, actual) = (balance.map(str::to_owned), actual.map(str::to_owned));
        self.found.push(Discrepancy { expected, actual, ..self.discrepancy(kind, None) });
    }
}

/// A sealed movement: its number, and its hash.
fn numbered(movement: &[u8]) -> (i64, &[u8]) {
    let (number, hash) = movement.split_at(8);
    (number.iter().fold(0, |number, byte| number << 8 | i64::from(*byte)), hash)
}

/// What there is of one number of movement.
struct Number<'a, 's> {
    id: i64,
    /// The last number that was sealed.
    last_sealed: i64,
    sealed: &'s [(i64, &'a [u8])],
    /// The movements of the number, and whether they were archived.
    there: &'s [(Link<'a>, bool)],
    /// The movement after it.
    next: Option<Link<'a>>,
}

impl<'a> Number<'a, '_> {
    fn is_sealed(&self, link: &Link<'_>) -> bool {
        self.sealed.iter().any(|(_, hash)| *hash == link.hash)
    }

    /// The movement of the archive, or of the ledger: one that was sealed, where there are several.
    fn one(&self, archived: bool) -> Option<Link<'a>> {
        let of_table = || self.there.iter().filter(|(_, of)| *of == archived).map(|(link, _)| *link);
        of_table().find(|link| self.is_sealed(link)).or_else(|| of_table().next())
    }

    /// Whether the movement of the ledger was left by archiving, with the number of the last one that it archived.
    fn is_left(&self, archived: &Link<'_>, movement: Option<Link<'_>>) -> bool {
        self.is_sealed(archived)
            && movement.is_some_and(|left| {
                left.is_left
                    && left.time == archived.time
                    && !Discrepancy::differ("0", left.old_quantity)
                    && !Discrepancy::differ(archived.new_quantity, left.new_quantity)
                    // A digest may be older than the archiving, which sealed what it left.
                    && (self.sealed.len() == 1 || self.is_sealed(&left))
            })
    }

    /// Whether it was left by archiving, and what was archived is not there any more.
    fn begins_after_archive(&self, link: &Link<'_>) -> bool {
        let begins = !Discrepancy::differ("0", link.old_quantity);
        self.sealed.len() == 2 && self.there.len() == 1 && self.is_sealed(link) && link.is_left && begins
    }

    /// Whether what there is is not what was sealed under the number.
    fn altered(&self, is_left: bool, all_seals: bool) -> Option<Kind> {
        let of_table = |archived: bool| self.there.iter().filter(move |(_, of)| *of == archived).count();
        if of_table(true) > 1 || of_table(false) > 1 {
            return Some(Kind::InsertedMovement);
        }
        let all_known = is_left || self.there.iter().all(|(link, _)| self.is_sealed(link));
        match self.sealed {
            _ if all_known => None,
            [] if all_seals && of_table(true) > 0 => Some(Kind::InsertedMovement),
            [] if self.id > self.last_sealed => None,
            [] => Some(Kind::InsertedMovement),
            _ => Some(Kind::AlteredMovement),
        }
    }
}

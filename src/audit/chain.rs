//! Checks chains, movement by movement, and what is on hand; gives what it has verified to be sealed.

use crate::audit::discrepancy::{Discrepancy, Findings, Kind};
use crate::audit::records::{ChainEnd, Checkpoint, Link, Mark, Record, What, each_sorted};
use crate::audit::scan::Scanned;
use crate::audit::sealed_queue::SealedQueue;
use crate::audit::sealing::{NewLinks, Sealer, Verified};
use crate::core::error::{Error, Result};
use crate::core::item_id::{IdType, ItemId};
use crate::core::seal::{Hash, NOTHING};
use crate::pg::transaction::check_interrupts;
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

/// Checks all that was read, and seals what it verifies; returns how many items there are.
pub fn check(
    scanned: &Scanned,
    id_type: IdType,
    extent: CheckExtent<'_>,
    sealer: &mut Option<Sealer<'_>>,
    found: &mut Findings,
) -> Result<i64> {
    let mut checker = Checker { id_type, extent, sealer, found, chain: None, items: 0 };
    for part in 0..scanned.files.parts() {
        each_sorted(&scanned.files, part, |records| checker.take(records))?;
        checker.end_chain()?;
    }
    Ok(checker.items)
}

struct Checker<'a, 's> {
    id_type: IdType,
    extent: CheckExtent<'a>,
    sealer: &'a mut Option<Sealer<'s>>,
    found: &'a mut Findings,
    /// The chain that is read.
    chain: Option<Chain<'a>>,
    items: i64,
}

impl Checker<'_, '_> {
    /// Takes the records that come next: of the chain that is read, and of others.
    fn take(&mut self, records: &[Record<'_>]) -> Result<()> {
        check_interrupts();
        for records in records.chunk_by(|one, other| one.is_of_chain_of(other)) {
            let Some(first) = records.first() else { continue };
            let is_of = |chain: &Chain<'_>| (chain.stripe, chain.item_bytes.as_slice()) == (first.stripe, first.item);
            if !self.chain.as_ref().is_some_and(is_of) {
                self.begin_chain(first)?;
            }
            let chain = self.chain.as_mut().ok_or_else(|| Error::internal("no chain is checked"))?;
            for records in records.chunk_by(|one, other| one.place == other.place) {
                chain.take(records, self.sealer)?;
            }
        }
        Ok(())
    }

    fn begin_chain(&mut self, first: &Record<'_>) -> Result<()> {
        let is_same_item = self.chain.as_ref().is_some_and(|chain| chain.item_bytes == first.item);
        self.items += i64::from(!is_same_item);
        self.end_chain()?;
        let item = ItemId::from_bytes(first.item, self.id_type);
        let item = item.ok_or_else(|| Error::internal("an item in a temporary file is none"))?;
        self.chain = Some(Chain {
            item,
            item_bytes: first.item.to_vec(),
            stripe: first.stripe,
            extent: self.extent,
            is_striped: false,
            verified: None,
            sealed: SealedQueue::default(),
            last_sealed: 0,
            on_hand: None,
            last: None,
            explained: false,
            whole: true,
            seen: [false; 2],
            new: NewLinks::after(NOTHING),
            found: self.found.like(),
        });
        Ok(())
    }

    fn end_chain(&mut self) -> Result<()> {
        let Some(mut chain) = self.chain.take() else { return Ok(()) };
        chain.missing_before(None);
        chain.compare();
        self.found.append(chain.found);
        match self.sealer {
            Some(sealer) => sealer.end(&chain.item, chain.stripe, chain.new, chain.verified.as_ref(), !chain.whole),
            None => Ok(()),
        }
    }
}

struct Chain<'a> {
    item: ItemId,
    item_bytes: Vec<u8>,
    stripe: i16,
    extent: CheckExtent<'a>,
    is_striped: bool,
    verified: Option<Verified>,
    /// What was sealed, by number, as far as it is needed: from the next movement on.
    sealed: SealedQueue,
    /// The last number that was sealed.
    last_sealed: i64,
    on_hand: Option<String>,
    /// The movement that was seen last.
    last: Option<ChainEnd>,
    /// A sealed movement between `last` and the next one is not what it was, which has been reported.
    explained: bool,
    /// No break was found so far that is not known.
    whole: bool,
    /// Movements of the ledger, and of the archive, were seen.
    seen: [bool; 2],
    new: NewLinks,
    found: Findings,
}

impl Chain<'_> {
    /// Takes what there is of one number of movement, or of the chain as a whole.
    fn take(&mut self, records: &[Record<'_>], sealer: &mut Option<Sealer<'_>>) -> Result<()> {
        let mut there = Vec::new();
        for record in records {
            match record.what()? {
                What::Checkpoint(checkpoint) => self.resume(&checkpoint),
                What::Striped => self.is_striped = true,
                What::SealedUpTo(last) => self.last_sealed = self.last_sealed.max(last),
                What::Sealed(movements) => self.sealed.add(movements),
                What::Archived(link) => there.push((link, true)),
                What::Movement(link) => there.push((link, false)),
                What::OnHand(quantity) => self.on_hand = Some(quantity.to_owned()),
            }
        }
        let Some((Link { id, .. }, _)) = there.first() else { return Ok(()) };
        self.missing_before(there.first().map(|(link, _)| link));
        let mut sealed = Vec::new();
        while let Some((_, hash)) = self.sealed.take_if(|number| number == *id) {
            sealed.push(hash);
        }
        sealed.sort_unstable();
        let number = Number { id: *id, last_sealed: self.last_sealed, sealed: &sealed, there: &there };
        self.number(&number, sealer)
    }

    fn resume(&mut self, Checkpoint { last, broken }: &Checkpoint<'_>) {
        let mut end = None;
        ChainEnd::set(&mut end, last);
        let Some(end) = end else { return };
        if end.id > 0 && !self.extent.full {
            self.last = Some(end.clone());
        }
        self.new = NewLinks::after(last.hash);
        self.verified = Some(Verified { end, head: last.hash, broken: *broken });
    }

    /// The sealed movements before the next one are not there.
    fn missing_before(&mut self, next: Option<&Link<'_>>) {
        let is_before = |number| next.is_none_or(|next| number < next.id);
        while let Some((id, _)) = self.sealed.take_if(is_before) {
            // Of one that archiving has left, and of the one that it stands for, the number is the same.
            while self.sealed.take_if(|number| number == id).is_some() {}
            let discrepancy = self.discrepancy(Kind::MissingMovement, next);
            self.found.push(Discrepancy { movement: Some(id), ..discrepancy });
            self.explained = true;
        }
    }

    fn discrepancy(&self, kind: Kind, before: Option<&Link<'_>>) -> Discrepancy {
        Discrepancy {
            after: self.last.as_ref().map(|link| (link.id, link.time)),
            before: before.map(|link| (link.id, link.time)),
            ..Discrepancy::new(kind, &self.item, self.stripe)
        }
    }

    /// Checks what there is of one number: the movement, and what was sealed and archived of it.
    fn number(&mut self, number: &Number<'_>, sealer: &mut Option<Sealer<'_>>) -> Result<()> {
        let verified = self.verified.as_ref().map_or(0, |verified| verified.end.id);
        let was_sealed = number.id <= verified.max(number.last_sealed);
        let (archived, movement) = (number.one(true), number.one(false));
        let Some(link) = movement.or(archived).filter(|_| self.extent.full || !was_sealed) else { return Ok(()) };
        if number.begins_after_archive(link) && self.seen == [false; 2] {
            // What was archived is not in the database any more: the chain begins with what archiving has left.
            self.found = self.found.like();
            self.last = None;
            self.explained = true;
        }
        let is_left = !self.seen[0] && archived.is_some_and(|archived| number.is_left(archived, movement));
        let altered = number.altered(is_left, self.extent.all_seals);
        self.seen = [self.seen[0] || movement.is_some(), self.seen[1] || archived.is_some()];
        // What archiving has left begins with nothing; the movement that it stands for is in the archive.
        let began = archived.filter(|_| is_left).unwrap_or(link).old_quantity;
        let expected = self.last.as_ref().map_or("0", |last| &last.quantity);
        let is_known = || self.extent.acknowledged.contains(&(self.item.clone(), self.stripe, link.id));
        let broken = Discrepancy::differ(expected, began) && !self.explained && !is_known();
        if let Some(kind) = altered {
            let found = Discrepancy { movement: Some(link.id), ..self.discrepancy(kind, Some(link)) };
            self.found.push(found);
        } else if broken {
            let (expected, actual) = (Some(expected.to_owned()), Some(began.to_owned()));
            let found = Discrepancy { expected, actual, ..self.discrepancy(Kind::BrokenChain, Some(link)) };
            self.found.push(found);
            self.whole = false;
        }
        // What follows a movement that was altered or inserted does not begin where it ends.
        self.explained = altered.is_some();
        if self.whole
            && !was_sealed
            && let Some(sealer) = sealer
        {
            sealer.add(&self.item, self.stripe, &mut self.new, link)?;
        }
        ChainEnd::set(&mut self.last, link);
        Ok(())
    }

    fn compare(&mut self) {
        let on_hand = self.on_hand.as_deref();
        let last = self.last.as_ref().filter(|last| self.stripe > 0 || last.mark != Mark::Closing);
        let balance = last.map(|last| last.quantity.as_str());
        // The row of a striped item shows a total, which lags; what the row itself holds is nothing.
        let (actual, drift) = match (self.stripe, self.is_striped) {
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

/// What there is of one number of movement.
struct Number<'a> {
    id: i64,
    /// The last number that was sealed.
    last_sealed: i64,
    /// The hashes that were sealed under it, in their order.
    sealed: &'a [Hash],
    /// The movements of the number, and whether they were archived.
    there: &'a [(Link<'a>, bool)],
}

impl<'a> Number<'a> {
    fn is_sealed(&self, link: &Link<'_>) -> bool {
        self.sealed.binary_search(&link.hash).is_ok()
    }

    /// The movement of the archive, or of the ledger: one that was sealed, where there are several.
    fn one(&self, archived: bool) -> Option<&'a Link<'a>> {
        let of_table = || self.there.iter().filter(|(_, of)| *of == archived).map(|(link, _)| link);
        of_table().find(|link| self.is_sealed(link)).or_else(|| of_table().next())
    }

    /// Whether the movement of the ledger was left by archiving, with the number of the last one that it archived.
    fn is_left(&self, archived: &Link<'_>, movement: Option<&Link<'_>>) -> bool {
        self.is_sealed(archived)
            && movement.is_some_and(|left| {
                left.is_left
                    && left.time == archived.time
                    && !Discrepancy::differ("0", left.old_quantity)
                    && !Discrepancy::differ(archived.new_quantity, left.new_quantity)
                    // A digest may be older than the archiving, which sealed what it left.
                    && (self.sealed.len() == 1 || self.is_sealed(left))
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

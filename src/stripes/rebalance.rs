//! Moves stock between the stripes of an item: to the session that sells, to one stripe, or to all of them evenly.
//!
//! Every move is a `transfer` within the act that runs; the sum of the stripes stays.

use crate::core::error::{Error, Result};
use crate::core::movement::MovementKind;
use crate::core::quantity::Quantity;
use crate::ledger::attribution::acting_as;
use crate::pg::lock::{ITEM, Mode};
use crate::stripes::striped::{Held, ItemLock, Search, Seen, Step, Striped, write};
use std::cmp::Reverse;

/// The number of such sales that a gathered or moved quantity serves.
const WORTH: usize = 4;
/// The most locks on stripes that a gathering sale keeps until its transaction ends; beyond that it keeps the item.
const MOST_STRIPES_KEPT: usize = 2;

impl<'a> Striped<'a> {
    /// Where the own stripe has too little and the held one has plenty, half of it goes to the own one: so a restock of
    /// one stripe spreads to those that sell.
    pub(super) fn share(&self, held: Held<'a>, requested: Quantity, own_is_short: bool) -> Result<Held<'a>> {
        let halves = held.quantity.checked_sub(requested).map(|spare| spare.shares(2));
        let Some(half) = halves.and_then(|halves| halves.get(1).copied()) else { return Ok(held) };
        let worth = times(requested, WORTH).is_some_and(|worth| half >= worth);
        if !own_is_short || held.stripe == self.own || !worth || !self.lock(self.own).take(Mode::Exclusive) {
            return Ok(held);
        }
        let (stripe, quantity) = (held.stripe, held.quantity);
        drop(held);
        let own = self.held(self.own)?;
        self.shift(vec![(stripe, quantity, half.negated()), (self.own, own.quantity, half)])?;
        self.held(stripe)
    }

    /// Goes on after a search whose sum suffices: takes the item alone and searches again, or, with the item held
    /// alone, moves to the fullest stripe the quantity that it lacks, and some more.
    pub fn gather(&self, requested: Quantity) -> Result<Search<'a>> {
        if self.item_lock.get() == ItemLock::Shared {
            // Two sales that kept their share would wait for each other.
            self.item().release(Mode::Share);
            self.wait(ITEM, Mode::Exclusive);
            self.item_lock.set(ItemLock::Alone);
            return self.search_alone(requested);
        }
        let seen = self.look()?;
        let available = self.total(&seen)?;
        let (into, _) = fullest(&seen)?;
        let wanted = times(requested, WORTH).map_or(available, |wanted| wanted.min(available));
        let used = self.collect(into, seen, Some(wanted))?;
        let held = self.read(into, requested)?.ok_or_else(|| Error::internal("the gathered stock is not there"))?;
        self.let_others_in(&used);
        Ok(Search::Held(held))
    }

    /// With the item held alone, which needs no lock of a stripe: the fullest stripe, where it has enough.
    pub(super) fn search_alone(&self, requested: Quantity) -> Result<Search<'a>> {
        let seen = self.look()?;
        let available = self.total(&seen)?;
        let (stripe, _) = fullest(&seen)?;
        let Some(held) = self.read(stripe, requested)? else { return Ok(Search::Sum(available)) };
        self.let_others_in(&[stripe]);
        Ok(Search::Held(held))
    }

    /// Keeps the stripes that were used instead of the item, where they are few: other sales go on with the rest.
    fn let_others_in(&self, used: &[i16]) {
        if self.item_lock.get() != ItemLock::Alone || used.len() > MOST_STRIPES_KEPT {
            return;
        }
        // All are free: a session that holds a stripe shares the item.
        if used.iter().all(|&stripe| self.lock(stripe).take(Mode::Exclusive)) {
            self.wait(ITEM, Mode::Share);
            self.item().release(Mode::Exclusive);
            self.item_lock.set(ItemLock::Shared);
        }
    }

    /// After `lock_all`: one stripe, with everything moved to it.
    pub fn gather_all(&self, seen: Seen) -> Result<Held<'a>> {
        self.collect(self.own, seen, None)?;
        self.held(self.own)
    }

    /// Spreads the quantity of a stripe over all, after `gather_all`.
    pub fn spread(&self, from: i16, quantity: Quantity) -> Result<()> {
        let shares = (1..=self.count).zip(quantity.shares(self.count));
        let away: Vec<_> = shares.filter(|&(stripe, share)| stripe != from && share.is_positive()).collect();
        let gone = away.iter().try_fold(Quantity::ZERO, |sum, (_, share)| sum.checked_add(*share));
        let gone = gone.ok_or_else(|| Error::overflow(&self.id, quantity, None::<Quantity>))?;
        // The others have nothing: all was moved to this one.
        let given = away.into_iter().map(|(stripe, share)| (stripe, Quantity::ZERO, share));
        let steps = given.chain([(from, quantity, gone.negated())]);
        if gone.is_positive() { self.shift(steps.collect()) } else { Ok(()) }
    }

    /// Moves to one stripe until it has so much, or everything, from the fullest stripes first. Returns the stripes
    /// that changed.
    fn collect(&self, into: i16, mut seen: Seen, wanted: Option<Quantity>) -> Result<Vec<i16>> {
        seen.sort_by_key(|&(stripe, quantity)| (Reverse(quantity), stripe));
        let overflow = |quantity, delta| move || Error::overflow(&self.id, quantity, delta);
        let here = seen.iter().find(|(stripe, _)| *stripe == into).map(|&(_, quantity)| quantity);
        let here = here.ok_or_else(|| Error::internal("a stripe is not there"))?;
        let mut has = here;
        let mut gathered = Quantity::ZERO;
        let mut steps = Vec::new();
        for (stripe, quantity) in
            seen.into_iter().filter(|&(stripe, quantity)| stripe != into && quantity.is_positive())
        {
            let lacking = |wanted: Quantity| wanted.checked_sub(has).ok_or_else(overflow(wanted, has.negated()));
            let lacking = wanted.map(lacking).transpose()?;
            let given = lacking.map_or(quantity, |lacking| lacking.min(quantity));
            if !given.is_positive() {
                break;
            }
            has = has.checked_add(given).ok_or_else(overflow(has, given))?;
            gathered = gathered.checked_add(given).ok_or_else(overflow(gathered, given))?;
            steps.push((stripe, quantity, given.negated()));
        }
        if gathered.is_positive() {
            steps.push((into, here, gathered));
        }
        let mut used: Vec<i16> = steps.iter().map(|&(stripe, ..)| stripe).chain([into]).collect();
        used.sort_unstable();
        used.dedup();
        if !steps.is_empty() {
            self.shift(steps)?;
        }
        Ok(used)
    }

    /// Moves stock between held stripes, each with its quantity and the quantity to add; their sum stays.
    fn shift(&self, steps: Vec<(i16, Quantity, Quantity)>) -> Result<()> {
        let step = |(stripe, old_quantity, delta)| Step { id: self.id.clone(), stripe, old_quantity, delta };
        let steps: Vec<Step> = steps.into_iter().map(step).collect();
        acting_as(MovementKind::Transfer, || write(self.spi, self.stock, &steps)).map(|_| ())
    }
}

fn fullest(seen: &Seen) -> Result<(i16, Quantity)> {
    let fullest = seen.iter().max_by_key(|&&(_, quantity)| quantity).copied();
    fullest.ok_or_else(|| Error::internal("a striped item has no stripes"))
}

fn times(quantity: Quantity, factor: usize) -> Option<Quantity> {
    (1..factor).try_fold(quantity, |sum, _| sum.checked_add(quantity))
}

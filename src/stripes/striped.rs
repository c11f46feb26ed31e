//! A striped item, locked and changed stripe by stripe.
//!
//! Lock order, after all rows of the stock table that the call locks: striped items by id ascending; of each the gate
//! that restocks pass, then the item, then stripes. A sale shares the item and holds one stripe; it waits for another
//! stripe only while it holds none. Where it needs several, it releases them and takes the item alone. Stripes that it
//! does not need are released. Whether a sum of stripes is too little is decided in `stock::shortage`.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::quantity::{Capacity, Quantity};
use crate::ledger::attribution;
use crate::ledger::heap_writer;
use crate::pg::args::Arg;
use crate::pg::failpoint::{self, Point};
use crate::pg::heap;
use crate::pg::lock::{GATE, ITEM, Lock, Mode};
use crate::pg::spi::{Connection, Rows, Snapshot};
use crate::pg::transaction::has_one_snapshot;
use crate::pg::types::SqlType;
use crate::pg::wait_event::WaitEvent;
use crate::statements::Statement;
use crate::stats::contention;
use crate::stats::waits::{self, LockTarget};
use crate::stripes::totals;
use crate::table::attachment::Attachment;
use crate::table::rows;
use std::cell::Cell;
use std::collections::HashMap;

/// Attempts to take a single stripe before falling back to gathering.
const TRIES: usize = 3;

/// A striped item that a call is about to change.
pub struct Striped<'a> {
    pub(super) spi: &'a Connection,
    pub(super) stock: &'a Attachment,
    pub(super) id: ItemId,
    pub(super) count: i16,
    pub(super) own: i16,
    pub(super) item_lock: Cell<ItemLock>,
}

/// The lock on the whole item that a search has taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemLock {
    /// None, or one that the transaction had before.
    None,
    /// Shared with other sales.
    Shared,
    /// Alone, until other sales can be let in again.
    Alone,
    /// Alone until the transaction ends.
    AloneToTheEnd,
}

/// A stripe, held until the transaction ends.
pub struct Held<'a> {
    /// Its number.
    pub stripe: i16,
    /// Its quantity.
    pub quantity: Quantity,
    row: Rows<'a>,
}

/// The result of a search for a stripe with enough.
pub enum Search<'a> {
    /// A stripe that has enough.
    Held(Held<'a>),
    /// No single stripe has enough; the sum of all stripes in one snapshot.
    Sum(Quantity),
}

/// All stripes of an item and the quantity of each.
pub type Seen = Vec<(i16, Quantity)>;

/// A change of one held stripe.
pub struct Step {
    /// The item.
    pub id: ItemId,
    /// The number of the stripe.
    pub stripe: i16,
    /// Its quantity, read under its lock.
    pub old_quantity: Quantity,
    /// The quantity to add.
    pub delta: Quantity,
}

impl<'a> Striped<'a> {
    /// The item, where it is striped. An item that the caller may not change is unknown.
    pub fn of(spi: &'a Connection, stock: &'a Attachment, id: &ItemId) -> Result<Option<Self>> {
        let Some(count) = stock.stripes_of(id) else { return Ok(None) };
        Self::permitted(spi, stock, id, count)?.map(Some).ok_or_else(|| Error::unknown_item(id))
    }

    /// The item, which has so many stripes; None where the caller may not change it.
    pub fn permitted(spi: &'a Connection, stock: &'a Attachment, id: &ItemId, count: i16) -> Result<Option<Self>> {
        // The row is not written, so the rights that a write would need are checked here.
        stock.require_sale_rights();
        let limited = stock.run_as_caller || stock.forced_rls;
        if limited && stock.run(spi, Statement::MayChangeItem, &[Arg::item(id)]).count() == 0 {
            return Ok(None);
        }
        // Before the worker is looked for: it ends only while no transaction has this lock.
        stock.lock_stripes();
        totals::start_worker(stock.owner);
        // Process numbers follow each other, so sessions spread over the stripes.
        let sessions = u32::from(count.unsigned_abs());
        let own = i16::try_from(std::process::id().checked_rem(sessions).map_or(0, |place| place + 1));
        let own = own.map_err(|_| Error::internal("an item has too many stripes"))?;
        let item_lock = Cell::new(ItemLock::None);
        Ok(Some(Self { spi, stock, id: id.clone(), count, own, item_lock }))
    }

    /// The item.
    pub fn id(&self) -> &ItemId {
        &self.id
    }

    /// The stripe that this session prefers.
    pub fn own(&self) -> i16 {
        self.own
    }

    /// A stripe that has at least so much. A stripe that another session holds counts with its committed quantity.
    pub fn search(&self, requested: Quantity) -> Result<Search<'a>> {
        if self.deepens(requested)? {
            // A restock meanwhile would be checked without the decimals of this sale.
            self.wait(ITEM, Mode::Exclusive);
            self.item_lock.set(ItemLock::AloneToTheEnd);
            return self.search_alone(requested);
        }
        if self.item().is_held_alone() {
            return self.search_alone(requested);
        }
        self.wait(ITEM, Mode::Share);
        self.item_lock.set(ItemLock::Shared);
        let own_is_free = self.lock(self.own).take(Mode::Exclusive);
        if own_is_free {
            if let Some(held) = self.read(self.own, requested)? {
                return Ok(Search::Held(held));
            }
            self.release(self.own);
        }
        let mut sum = None;
        for _ in 0..TRIES {
            let seen = self.look()?;
            sum = Some(self.total(&seen)?);
            let enough = self.with_enough(seen, requested);
            let Some(&nearest) = enough.first() else { break };
            let free = enough.into_iter().find(|&stripe| self.lock(stripe).take(Mode::Exclusive));
            let stripe = free.unwrap_or_else(|| {
                self.wait(nearest, Mode::Exclusive);
                nearest
            });
            if let Some(held) = self.read(stripe, requested)? {
                return self.share(held, requested, own_is_free).map(Search::Held);
            }
            self.release(stripe);
        }
        sum.map(Search::Sum).ok_or_else(|| Error::internal("the stripes of an item were not read"))
    }

    /// Releases the item after a search that found too little.
    pub fn let_go(&self) {
        match self.item_lock.replace(ItemLock::None) {
            ItemLock::None => {}
            ItemLock::Shared => self.item().release(Mode::Share),
            ItemLock::Alone | ItemLock::AloneToTheEnd => self.item().release(Mode::Exclusive),
        }
    }

    /// Whether a sale would give the item more decimals than it has: only where the column takes any number of them.
    fn deepens(&self, requested: Quantity) -> Result<bool> {
        let can = self.stock.capacity == Capacity::Unbounded && requested.is_finer_than(Quantity::ZERO);
        Ok(can && requested.is_finer_than(self.total(&self.look()?)?))
    }

    /// Checks that a sale leaves a sum of stripes that is a quantity: a column without a scale keeps the decimals of
    /// every sale.
    pub fn require_few_digits(&self, held: &Held<'_>, requested: Quantity) -> Result<()> {
        if self.stock.capacity == Capacity::Unbounded && requested.is_finer_than(held.quantity) {
            let total = self.total(&self.look()?)?;
            let rest = total.checked_sub(requested);
            rest.ok_or_else(|| Error::overflow(&self.id, total, requested.negated()))?;
        }
        Ok(())
    }

    /// A stripe that can be added to, and the most that the item has while it is held.
    ///
    /// With the gate held only sales run, and they only take: the committed sum is the most there can be.
    pub fn any(&self) -> Result<(Held<'a>, Quantity)> {
        self.wait(GATE, Mode::Exclusive);
        self.wait(ITEM, Mode::Share);
        let most = self.total(&self.committed()?)?;
        let free = self.rotation().find(|&stripe| self.lock(stripe).take(Mode::Exclusive));
        let stripe = free.unwrap_or_else(|| {
            self.wait(self.own, Mode::Exclusive);
            self.own
        });
        Ok((self.held(stripe)?, most))
    }

    /// The quantities of the stripes, with the item held alone and all its rows locked: in a transaction with an older
    /// snapshot PostgreSQL raises a serialization failure.
    pub fn lock_all(&self) -> Result<Seen> {
        self.wait(ITEM, Mode::Exclusive);
        let seen = self.read_with(Statement::LockStripes, Snapshot::Isolation)?;
        failpoint::reached(Point::Locked);
        Ok(seen)
    }

    /// Adds to a held stripe; verifies its new quantity and returns it.
    pub fn change(&self, held: &Held<'_>, delta: Quantity) -> Result<Quantity> {
        let delta = at_scale(self.stock, delta);
        held.quantity.checked_add(delta).ok_or_else(|| Error::overflow(&self.id, held.quantity, delta))?;
        contention::sold(self.stock.oid, &self.id);
        let step = heap_writer::RowWrite {
            id: &self.id,
            stripe: Some(held.stripe),
            row: held.row.required(0, c"row")?,
            old_quantity: held.quantity,
            delta,
        };
        let new_quantity = match heap_writer::change_stripes(self.stock, &[step])?.as_deref() {
            Some(&[new_quantity]) => Some(new_quantity),
            _ => self.change_by_statement(held, delta),
        };
        let expected = held.quantity.checked_add(delta);
        new_quantity
            .filter(|_| new_quantity == expected)
            .ok_or_else(|| Error::verification_failed(&self.id, held.quantity, new_quantity, delta.negated()))
    }

    fn change_by_statement(&self, held: &Held<'_>, delta: Quantity) -> Option<Quantity> {
        let _acting = self.stock.act_on_companions();
        let printed = delta.to_string();
        let args = [held.row.arg(0, c"row"), Arg::text(printed.as_str())];
        let written = attribution::writing(self.stock.companions.stripes, || {
            self.stock.run(self.spi, Statement::ChangeStripe, &args)
        });
        failpoint::reached(Point::Written);
        quantity(&written, 0, &self.id).ok()
    }

    pub(super) fn lock(&self, stripe: i16) -> Lock {
        Lock::of_stripe(self.stock.oid, &self.id, stripe)
    }

    /// Waits for a lock of the item; only where it is not free, that is measured.
    pub(super) fn wait(&self, place: i16, mode: Mode) {
        let lock = self.lock(place);
        if !lock.take(mode) {
            let (stripe, event) = if place == ITEM { (GATE, WaitEvent::Item) } else { (place, WaitEvent::Stripe) };
            waits::taking(self.stock.oid, LockTarget::Stripe(&self.id, stripe), || lock.wait_shown(mode, event));
        }
    }

    fn release(&self, stripe: i16) {
        self.lock(stripe).release(Mode::Exclusive);
    }

    pub(super) fn item(&self) -> Lock {
        Lock::of_item(self.stock.oid, &self.id)
    }

    /// All stripes, one's own first.
    fn rotation(&self) -> impl Iterator<Item = i16> + use<'a> {
        let (own, count) = (self.own, self.count);
        (0..count).map(move |step| (own - 1 + step) % count + 1)
    }

    fn with_enough(&self, mut seen: Seen, requested: Quantity) -> Vec<i16> {
        seen.retain(|&(_, quantity)| quantity >= requested);
        seen.sort_by_key(|&(stripe, _)| (stripe - self.own).rem_euclid(self.count));
        seen.into_iter().map(|(stripe, _)| stripe).collect()
    }

    /// The stripe where it has so much, its row locked. Its lock is held, so no session waits for the row, and a row
    /// that has less is not locked.
    pub(super) fn read(&self, stripe: i16, least: Quantity) -> Result<Option<Held<'a>>> {
        let _acting = self.stock.act_on_companions();
        let least = least.to_string();
        let args = [Arg::item(&self.id), Arg::owned(stripe), Arg::text(least.as_str())];
        let row = self.stock.run(self.spi, Statement::LockStripe, &args);
        if row.count() == 0 {
            return Ok(None);
        }
        failpoint::reached(Point::Locked);
        let quantity = quantity(&row, 0, &self.id)?;
        Ok(Some(Held { stripe, quantity, row }))
    }

    pub(super) fn held(&self, stripe: i16) -> Result<Held<'a>> {
        match self.read(stripe, Quantity::ZERO)? {
            Some(held) => Ok(held),
            None => Err(self.not_seen()),
        }
    }

    /// All stripes as the isolation level shows them, without a lock.
    pub(super) fn look(&self) -> Result<Seen> {
        self.read_with(Statement::LookAtStripes, Snapshot::Isolation)
    }

    /// All stripes as they are committed now, at any isolation level.
    fn committed(&self) -> Result<Seen> {
        let snapshot = if has_one_snapshot() { Snapshot::Latest } else { Snapshot::Isolation };
        self.read_with(Statement::LookAtStripes, snapshot)
    }

    fn read_with(&self, statement: Statement, snapshot: Snapshot) -> Result<Seen> {
        let acting = self.stock.act_on_companions();
        let rows = self.stock.run_with(self.spi, statement, &[Arg::item(&self.id)], snapshot);
        drop(acting);
        if rows.count() == 0 {
            return Err(self.not_seen());
        }
        let stripe = |row| Ok((rows.required(row, c"stripe")?, quantity(&rows, row, &self.id)?));
        (0..rows.count()).map(stripe).collect()
    }

    /// The error where the stripes are not visible: in a transaction whose snapshot is older than they, PostgreSQL
    /// raises a serialization failure, because the row of the item was written when it was striped. Or a trigger calls
    /// that fires while the stripes are merged.
    fn not_seen(&self) -> Box<Error> {
        match rows::lock(self.spi, self.stock, std::slice::from_ref(&self.id)) {
            Ok(rows) if rows.is_empty() => Error::unknown_item(&self.id),
            Ok(_) => Error::stripes_in_motion(&self.id),
            Err(error) => error,
        }
    }

    /// The sum of all stripes.
    pub fn total(&self, seen: &[(i16, Quantity)]) -> Result<Quantity> {
        let sum = seen.iter().try_fold(Quantity::ZERO, |sum, (_, quantity)| sum.checked_add(*quantity));
        sum.ok_or_else(|| Error::overflow(&self.id, None::<Quantity>, None::<Quantity>))
    }
}

/// The sum of the stripes of an item as the isolation level shows them; None where there are none.
pub fn sum_in_snapshot(spi: &Connection, stock: &Attachment, id: &ItemId) -> Result<Option<Quantity>> {
    let rows = sum(spi, stock, id);
    if rows.is_null(0, c"quantity") { Ok(None) } else { quantity(&rows, 0, id).map(Some) }
}

/// The same as rows: one row, NULL where there are no stripes.
pub fn sum<'c>(spi: &'c Connection, stock: &Attachment, id: &ItemId) -> Rows<'c> {
    let _acting = stock.act_on_companions();
    stock.run(spi, Statement::SumOfItem, &[Arg::item(id)])
}

/// A delta with the decimals that the stock column would keep.
pub fn at_scale(stock: &Attachment, delta: Quantity) -> Quantity {
    if stock.capacity == Capacity::Unbounded { delta } else { delta.canonical() }
}

fn quantity(rows: &Rows<'_>, row: usize, id: &ItemId) -> Result<Quantity> {
    rows.quantity(row, c"quantity", SqlType::Numeric).map_err(|stored| Error::unreadable_stock(id, &stored))
}

/// Writes held stripes, verifies each, and returns their new quantities.
pub fn write(spi: &Connection, stock: &Attachment, steps: &[Step]) -> Result<HashMap<(ItemId, i16), Quantity>> {
    let _acting = stock.act_on_companions();
    let written = match write_natively(spi, stock, steps)? {
        Some(written) => written,
        None => write_by_statement(spi, stock, steps)?,
    };
    for Step { id, stripe, old_quantity, delta } in steps {
        contention::sold(stock.oid, id);
        let new_quantity = written.get(&(id.clone(), *stripe)).copied();
        if new_quantity.is_none() || new_quantity != old_quantity.checked_add(*delta) {
            return Err(Error::verification_failed(id, *old_quantity, new_quantity, delta.negated()));
        }
    }
    Ok(written)
}

/// None, where statements have to do it.
fn write_natively(
    spi: &Connection,
    stock: &Attachment,
    steps: &[Step],
) -> Result<Option<HashMap<(ItemId, i16), Quantity>>> {
    if stock.native().is_none_or(|native| native.stripes.is_none()) {
        return Ok(None);
    }
    let args = [
        stock.bind_items(steps.iter().map(|step| &step.id)),
        Arg::owned(steps.iter().map(|step| step.stripe).collect::<Vec<_>>()),
    ];
    let rows = stock.run(spi, Statement::LockSomeStripes, &args);
    let locked = |row| {
        let id = rows.item(row, c"id")?;
        let quantity = quantity(&rows, row, &id)?;
        Ok(((id, rows.required(row, c"stripe")?), (quantity, rows.required(row, c"row")?)))
    };
    let mut locked: HashMap<(ItemId, i16), (Quantity, heap::TupleId)> =
        (0..rows.count()).map(locked).collect::<Result<_>>()?;
    // In the order of the steps, which is that of their movements.
    let mut changes = Vec::with_capacity(steps.len());
    for Step { id, stripe, delta, .. } in steps {
        let Some((old_quantity, row)) = locked.remove(&(id.clone(), *stripe)) else { return Ok(None) };
        changes.push(heap_writer::RowWrite { id, stripe: Some(*stripe), row, old_quantity, delta: *delta });
    }
    let Some(written) = heap_writer::change_stripes(stock, &changes)? else { return Ok(None) };
    let keys = steps.iter().map(|step| (step.id.clone(), step.stripe));
    Ok(Some(keys.zip(written).collect()))
}

fn write_by_statement(
    spi: &Connection,
    stock: &Attachment,
    steps: &[Step],
) -> Result<HashMap<(ItemId, i16), Quantity>> {
    let args = [
        stock.bind_items(steps.iter().map(|step| &step.id)),
        Arg::owned(steps.iter().map(|step| step.stripe).collect::<Vec<_>>()),
        Arg::owned(steps.iter().map(|step| step.delta.to_string()).collect::<Vec<_>>()),
    ];
    let run = || stock.run(spi, Statement::ChangeStripes, &args);
    let rows = attribution::writing(stock.companions.stripes, run);
    failpoint::reached(Point::Written);
    let written = |row| {
        let id = rows.item(row, c"id")?;
        let new_quantity = quantity(&rows, row, &id)?;
        Ok(((id, rows.required(row, c"stripe")?), new_quantity))
    };
    (0..rows.count()).map(written).collect()
}

//! Stripes of an item, held for a change: taken from, given to, gathered.
//!
//! Lock order, after all rows of the stock table that the call locks: striped items by id ascending; of each the gate where goods
//! come in, then the item, then stripes. A sale shares the item and holds one stripe; it waits for another stripe only while it
//! holds none. Where it needs several, it gives back what it has and takes the item alone. Stripes it does not need are given back.

use crate::core::error::{Fault, Outcome};
use crate::core::quantity::{Quantity, Shape};
use crate::ledger::attribution;
use crate::ledger::recorder::{Kind, as_kind};
use crate::pg::failpoint::{self, Place};
use crate::pg::lock::{GATE, Lock, Mode};
use crate::pg::role::Acting;
use crate::pg::spi::{Arg, Connection, Rows, Sight, one_snapshot};
use crate::stripes::totals;
use crate::table::attachment::{Attachment, Kept};
use pgrx::{Uuid, pg_sys};
use std::cmp::Reverse;
use std::collections::HashMap;

/// Attempts to take a single stripe before falling back to gathering.
const TRIES: usize = 3;
/// What is gathered, or moved to a stripe of one's own, serves that many such sales.
const WORTH: usize = 4;
/// The most locks on stripes that a gathering sale keeps until its transaction ends; beyond that it keeps the item.
const MOST_STRIPES_KEPT: usize = 2;

/// A striped item that a call is about to change.
pub struct Striped<'a> {
    spi: &'a Connection,
    stock: &'a Attachment,
    id: Uuid,
    count: i16,
    own: i16,
}

/// A stripe, held until the transaction ends.
pub struct Held<'a> {
    /// Its number.
    pub stripe: i16,
    /// What it has.
    pub quantity: Quantity,
    row: Rows<'a>,
}

/// What became of the wish for so much in one stripe.
pub enum Taken<'a> {
    /// A stripe that has it.
    Held(Held<'a>),
    /// All stripes together have less: so much.
    Short(Quantity),
}

/// There is no such item, or none that the caller may change.
pub struct Unknown(Uuid);

impl From<Unknown> for Box<Fault> {
    fn from(Unknown(id): Unknown) -> Self {
        Fault::unknown_item(&id.to_string())
    }
}

/// All stripes of an item and what each has.
pub type Seen = Vec<(i16, Quantity)>;

/// A change of one held stripe.
pub struct Step {
    /// The item.
    pub id: Uuid,
    /// The number of the stripe.
    pub stripe: i16,
    /// What it has, read under its lock.
    pub old_quantity: Quantity,
    /// What is added.
    pub delta: Quantity,
}

impl<'a> Striped<'a> {
    /// The item, where it is striped and the caller may change it.
    pub fn of(spi: &'a Connection, stock: &'a Attachment, id: Uuid) -> Result<Option<Self>, Unknown> {
        let Some(count) = stock.stripes_of(&id) else { return Ok(None) };
        // The row is not written, so what a write of it would need is asked for here.
        stock.require_sale_rights();
        if (stock.run_as_caller || stock.forced_rls) && !may_change(spi, stock, id) {
            return Err(Unknown(id));
        }
        // Before the keeper is looked for: it ends only while nobody has this lock.
        stock.lock_stripes();
        totals::keep();
        // Process numbers follow each other, so sessions spread over the stripes.
        let own = i16::try_from(std::process::id() % u32::from(count.unsigned_abs())).unwrap_or(0) + 1;
        Ok(Some(Self { spi, stock, id, count, own }))
    }

    /// The stripe that this session prefers.
    pub fn own(&self) -> i16 {
        self.own
    }

    /// A stripe that has at least so much, after gathering where no single one has.
    ///
    /// Refused on committed truth without a lock where all stripes together have less in one snapshot; a stripe that is held by
    /// another is never counted as missing.
    pub fn take(&self, requested: Quantity) -> Outcome<Taken<'a>> {
        let taken = if self.deepens(requested)? { self.take_alone(requested)? } else { self.find(requested)? };
        if let Taken::Held(held) = &taken {
            self.leaves_few_digits(held, requested)?;
        }
        Ok(taken)
    }

    /// Whether a sale would give the item more decimals than it has: only where the column takes any number of them.
    fn deepens(&self, requested: Quantity) -> Outcome<bool> {
        let can = self.stock.shape == Shape::Unbounded && requested.is_finer_than(Quantity::ZERO);
        Ok(can && requested.is_finer_than(self.total(&self.look()?)?))
    }

    /// Takes with the item held alone until the transaction ends: goods that come in meanwhile would be checked without its decimals.
    fn take_alone(&self, requested: Quantity) -> Outcome<Taken<'a>> {
        self.item().wait(Mode::Exclusive);
        let (taken, _) = self.find_alone(requested)?;
        if matches!(taken, Taken::Short(_)) {
            self.item().release(Mode::Exclusive);
        }
        Ok(taken)
    }

    /// A column without a scale keeps the decimals of every sale: the sum of the stripes must stay a quantity too.
    fn leaves_few_digits(&self, held: &Held<'_>, requested: Quantity) -> Outcome<()> {
        if self.stock.shape == Shape::Unbounded && requested.is_finer_than(held.quantity) {
            let (total, delta) = (self.total(&self.look()?)?, requested.negated());
            let fits = total.plus(delta);
            fits.ok_or_else(|| Fault::overflow(&self.id.to_string(), total, delta))?;
        }
        Ok(())
    }

    fn find(&self, requested: Quantity) -> Outcome<Taken<'a>> {
        if self.item().is_held_alone() {
            return self.find_alone(requested).map(|(taken, _)| taken);
        }
        self.item().wait(Mode::Share);
        let own_is_free = self.lock(self.own).take(Mode::Exclusive);
        if own_is_free {
            if let Some(held) = self.read(self.own, requested)? {
                return Ok(Taken::Held(held));
            }
            self.release(self.own);
        }
        for _ in 0..TRIES {
            let seen = self.look()?;
            let available = self.total(&seen)?;
            if available < requested {
                self.item().release(Mode::Share);
                return Ok(Taken::Short(available));
            }
            let enough = self.with_enough(seen, requested);
            let Some(&nearest) = enough.first() else { break };
            let free = enough.into_iter().find(|&stripe| self.lock(stripe).take(Mode::Exclusive));
            let stripe = free.unwrap_or_else(|| {
                self.lock(nearest).wait(Mode::Exclusive);
                nearest
            });
            if let Some(held) = self.read(stripe, requested)? {
                return self.share(held, requested, own_is_free).map(Taken::Held);
            }
            self.release(stripe);
        }
        self.gather(requested)
    }

    /// A stripe to which goods may be added, and what the item has at most while it is held.
    ///
    /// With the gate held only sales run, and they only take: what is committed is the most there can be.
    pub fn any(&self) -> Outcome<(Held<'a>, Quantity)> {
        self.lock(GATE).wait(Mode::Exclusive);
        self.item().wait(Mode::Share);
        let most = self.total(&self.committed()?)?;
        let free = self.rotation().find(|&stripe| self.lock(stripe).take(Mode::Exclusive));
        let stripe = free.unwrap_or_else(|| {
            self.lock(self.own).wait(Mode::Exclusive);
            self.own
        });
        Ok((self.held(stripe)?, most))
    }

    /// What the stripes have, with the item held alone and all its rows locked: a transaction with an older snapshot is told by
    /// PostgreSQL that it cannot be serialized.
    pub fn lock_all(&self) -> Outcome<Seen> {
        self.item().wait(Mode::Exclusive);
        let seen = self.read_all(Kept::LockStripes)?;
        failpoint::reached(self.spi, Place::Locked);
        Ok(seen)
    }

    /// After `lock_all`: one stripe, with everything moved to it.
    pub fn gather_all(&self, seen: Seen) -> Outcome<Held<'a>> {
        self.collect(self.own, seen, None)?;
        self.held(self.own)
    }

    /// Spreads what a stripe has over all, after `gather_all`.
    pub fn spread(&self, from: i16, quantity: Quantity) -> Outcome<()> {
        let shares = (1..=self.count).zip(quantity.shares(self.count));
        let away: Vec<_> = shares.filter(|&(stripe, share)| stripe != from && share.is_positive()).collect();
        let gone = away.iter().try_fold(Quantity::ZERO, |sum, (_, share)| sum.plus(*share));
        let gone = gone.ok_or_else(|| Fault::overflow(&self.id.to_string(), quantity, quantity))?;
        // The others have nothing: all was moved to this one.
        let given = away.into_iter().map(|(stripe, share)| (stripe, Quantity::ZERO, share));
        let steps = given.chain([(from, quantity, gone.negated())]);
        if gone.is_positive() { self.shift(steps.collect()) } else { Ok(()) }
    }

    /// Adds to a held stripe; verifies and gives what it has then.
    pub fn change(&self, held: &Held<'_>, delta: Quantity) -> Outcome<Quantity> {
        let delta = kept(self.stock, delta);
        let overflow = || Fault::overflow(&self.id.to_string(), held.quantity, delta);
        held.quantity.plus(delta).ok_or_else(overflow)?;
        let _acting = self.acting();
        let plan = self.stock.plan(self.spi, Kept::WriteStripe, || {
            let sql = format!(
                "UPDATE {} AS s SET quantity = s.quantity OPERATOR(pg_catalog.+) $2::pg_catalog.numeric
                  WHERE s.ctid OPERATOR(pg_catalog.=) $1 RETURNING s.quantity",
                self.stock.stripes.name
            );
            (sql, vec![pg_sys::TIDOID, pg_sys::TEXTOID])
        });
        let printed = delta.to_string();
        let args = [held.row.arg(0, 2), Arg::text(printed.as_str())];
        let written = attribution::writing(self.stock.stripes.oid, || self.spi.run(plan, &args, Sight::Isolation));
        failpoint::reached(self.spi, Place::Written);
        let new_quantity = quantity(&written, 0, 1, &self.id).ok();
        new_quantity.filter(|&new_quantity| held.quantity.less(delta.negated(), new_quantity)).ok_or_else(|| {
            let taken = delta.negated();
            Fault::verification_failed(&self.id.to_string(), held.quantity, new_quantity, taken)
        })
    }

    fn lock(&self, stripe: i16) -> Lock {
        Lock::of_stripe(&self.id, stripe)
    }

    fn release(&self, stripe: i16) {
        self.lock(stripe).release(Mode::Exclusive);
    }

    fn item(&self) -> Lock {
        Lock::of_item(&self.id)
    }

    fn acting(&self) -> Acting {
        self.stock.act_on_companions()
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

    /// The stripe where it has so much, its row locked. Its lock is held, so nobody waits for the row, and a row that has less
    /// is not locked.
    fn read(&self, stripe: i16, least: Quantity) -> Outcome<Option<Held<'a>>> {
        let _acting = self.acting();
        let plan = self.stock.plan(self.spi, Kept::LockStripe, || {
            let sql = format!(
                "SELECT s.quantity, s.ctid FROM {} AS s
                  WHERE s.inventory_id OPERATOR(pg_catalog.=) $1 AND s.stripe OPERATOR(pg_catalog.=) $2
                    AND s.quantity OPERATOR(pg_catalog.>=) $3::pg_catalog.numeric FOR UPDATE",
                self.stock.stripes.name
            );
            (sql, vec![pg_sys::UUIDOID, pg_sys::INT2OID, pg_sys::TEXTOID])
        });
        let least = least.to_string();
        let args = [Arg::owned(self.id), Arg::owned(stripe), Arg::text(least.as_str())];
        let row = self.spi.run(plan, &args, Sight::Isolation);
        if row.count() == 0 {
            return Ok(None);
        }
        failpoint::reached(self.spi, Place::Locked);
        let quantity = quantity(&row, 0, 1, &self.id)?;
        Ok(Some(Held { stripe, quantity, row }))
    }

    fn held(&self, stripe: i16) -> Outcome<Held<'a>> {
        self.read(stripe, Quantity::ZERO)?.ok_or_else(|| self.not_seen())
    }

    /// All stripes as the isolation level shows them, without a lock.
    fn look(&self) -> Outcome<Seen> {
        self.read_all(Kept::LookStripes)
    }

    /// All stripes as they are committed now, whatever the isolation level.
    fn committed(&self) -> Outcome<Seen> {
        let sight = if one_snapshot() { Sight::Latest } else { Sight::Isolation };
        self.read_with(Kept::LookStripes, sight)
    }

    fn read_all(&self, kept: Kept) -> Outcome<Seen> {
        self.read_with(kept, Sight::Isolation)
    }

    fn read_with(&self, kept: Kept, sight: Sight) -> Outcome<Seen> {
        let acting = self.acting();
        let plan = self.stock.plan(self.spi, kept, || {
            let lock = if matches!(kept, Kept::LockStripes) { "FOR UPDATE" } else { "" };
            let sql = format!(
                "SELECT s.stripe, s.quantity FROM {} AS s
                  WHERE s.inventory_id OPERATOR(pg_catalog.=) $1 ORDER BY s.stripe {lock}",
                self.stock.stripes.name
            );
            (sql, vec![pg_sys::UUIDOID])
        });
        let rows = self.spi.run(plan, &[Arg::owned(self.id)], sight);
        drop(acting);
        if rows.count() == 0 {
            return Err(self.not_seen());
        }
        (0..rows.count())
            .map(|row| {
                let stripe = rows.get(row, 1).ok_or_else(|| Fault::internal("a stripe has no number"))?;
                Ok((stripe, quantity(&rows, row, 2, &self.id)?))
            })
            .collect()
    }

    /// A transaction whose snapshot is older than the stripes: PostgreSQL itself says that it cannot be serialized, because the
    /// row of the item was written when it was striped. Or a trigger that fires while the item is put together.
    fn not_seen(&self) -> Box<Fault> {
        match crate::stock::order::lock(self.spi, self.stock, vec![self.id]) {
            Ok(rows) if rows.is_empty() => Fault::unknown_item(&self.id.to_string()),
            Ok(_) => Fault::stripes_in_motion(&self.id.to_string()),
            Err(fault) => fault,
        }
    }

    /// What all stripes have together.
    pub fn total(&self, seen: &[(i16, Quantity)]) -> Outcome<Quantity> {
        let sum = seen.iter().try_fold(Quantity::ZERO, |sum, (_, quantity)| sum.plus(*quantity));
        sum.ok_or_else(|| Fault::overflow(&self.id.to_string(), Quantity::ZERO, Quantity::ZERO))
    }

    /// Where the own stripe has too little and the held one has plenty, half of it goes to the own one: so what came in at one
    /// stripe spreads to those that sell.
    fn share(&self, held: Held<'a>, requested: Quantity, own_is_short: bool) -> Outcome<Held<'a>> {
        let spare = held.quantity.plus(requested.negated()).map(|spare| spare.shares(2));
        let half = spare.and_then(|halves| halves.get(1).copied()).unwrap_or(Quantity::ZERO);
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

    /// No stripe has enough, all together have: takes the item alone, and moves to one stripe what it lacks, and some more.
    fn gather(&self, requested: Quantity) -> Outcome<Taken<'a>> {
        // Two sales that kept their share would wait for each other.
        self.item().release(Mode::Share);
        self.item().wait(Mode::Exclusive);
        let (taken, used) = self.find_alone(requested)?;
        match taken {
            Taken::Short(_) => self.item().release(Mode::Exclusive),
            Taken::Held(_) => self.let_others_in(&used),
        }
        Ok(taken)
    }

    /// With the item held alone, which needs no lock of a stripe: the fullest stripe, with what it lacks, and which were changed.
    fn find_alone(&self, requested: Quantity) -> Outcome<(Taken<'a>, Vec<i16>)> {
        let seen = self.look()?;
        let available = self.total(&seen)?;
        if available < requested {
            return Ok((Taken::Short(available), Vec::new()));
        }
        let largest = seen.iter().max_by_key(|&&(_, quantity)| quantity).copied();
        let (into, most) = largest.ok_or_else(|| Fault::internal("a striped item has no stripes"))?;
        let mut used = vec![into];
        if most < requested {
            let wanted = times(requested, WORTH).map_or(available, |wanted| wanted.min(available));
            used = self.collect(into, seen, Some(wanted))?;
        }
        let held = self.read(into, requested)?.ok_or_else(|| Fault::internal("what was gathered is not there"))?;
        Ok((Taken::Held(held), used))
    }

    /// Keeps the stripes that were used instead of the item, where they are few: other sales go on with the rest.
    fn let_others_in(&self, used: &[i16]) {
        if used.len() > MOST_STRIPES_KEPT {
            return;
        }
        // All are free: who holds a stripe shares the item.
        if used.iter().all(|&stripe| self.lock(stripe).take(Mode::Exclusive)) {
            self.item().wait(Mode::Share);
            self.item().release(Mode::Exclusive);
        }
    }

    /// Moves to one stripe until it has so much, or everything; the fullest stripes give first. Gives the stripes that changed.
    fn collect(&self, into: i16, mut seen: Seen, wanted: Option<Quantity>) -> Outcome<Vec<i16>> {
        seen.sort_by_key(|&(stripe, quantity)| (Reverse(quantity), stripe));
        let overflow = || Fault::overflow(&self.id.to_string(), Quantity::ZERO, Quantity::ZERO);
        let here = seen.iter().find(|(stripe, _)| *stripe == into).map(|&(_, quantity)| quantity);
        let here = here.ok_or_else(|| Fault::internal("a stripe is not there"))?;
        let mut has = here;
        let mut gathered = Quantity::ZERO;
        let mut steps = Vec::new();
        for (stripe, quantity) in
            seen.into_iter().filter(|&(stripe, quantity)| stripe != into && quantity.is_positive())
        {
            let lacking = wanted.map(|wanted| wanted.plus(has.negated()).ok_or_else(overflow)).transpose()?;
            let given = lacking.map_or(quantity, |lacking| lacking.min(quantity));
            if !given.is_positive() {
                break;
            }
            has = has.plus(given).ok_or_else(overflow)?;
            gathered = gathered.plus(given).ok_or_else(overflow)?;
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

    /// Moves stock between held stripes, each with what it has; their sum stays.
    fn shift(&self, steps: Vec<(i16, Quantity, Quantity)>) -> Outcome<()> {
        let step = |(stripe, old_quantity, delta)| Step { id: self.id, stripe, old_quantity, delta };
        let steps: Vec<Step> = steps.into_iter().map(step).collect();
        as_kind(Kind::Transfer, || write(self.spi, self.stock, &steps)).map(|_| ())
    }
}

/// Adds up the stripes of an item, as the isolation level shows them: one row, NULL where there are none.
pub fn sum<'c>(spi: &'c Connection, stock: &Attachment, id: Uuid) -> Rows<'c> {
    let _acting = stock.act_on_companions();
    let plan = stock.plan(spi, Kept::SumOfItem, || {
        let sql = format!(
            "SELECT pg_catalog.sum(s.quantity) FROM {} AS s WHERE s.inventory_id OPERATOR(pg_catalog.=) $1",
            stock.stripes.name
        );
        (sql, vec![pg_sys::UUIDOID])
    });
    spi.run(plan, &[Arg::owned(id)], Sight::Isolation)
}

/// What the stripes of an item have together; None where the snapshot has none.
pub fn sum_in_snapshot(spi: &Connection, stock: &Attachment, id: Uuid) -> Outcome<Option<Quantity>> {
    let rows = sum(spi, stock, id);
    if rows.is_null(0, 1) { Ok(None) } else { quantity(&rows, 0, 1, &id).map(Some) }
}

/// A delta as the stock column would keep it.
pub fn kept(stock: &Attachment, delta: Quantity) -> Quantity {
    if stock.shape == Shape::Unbounded { delta } else { delta.canonical() }
}

fn times(quantity: Quantity, factor: usize) -> Option<Quantity> {
    (1..factor).try_fold(quantity, |sum, _| sum.plus(quantity))
}

fn quantity(rows: &Rows<'_>, row: usize, column: i32, id: &Uuid) -> Outcome<Quantity> {
    rows.quantity(row, column, pg_sys::NUMERICOID).map_err(|stored| Fault::unreadable_stock(&id.to_string(), &stored))
}

/// The policies of the role in force decide on the item's row, which is locked against nothing but its deletion.
fn may_change(spi: &Connection, stock: &Attachment, id: Uuid) -> bool {
    let plan = stock.plan(spi, Kept::MayChange, || {
        let item = format!("stock.{} OPERATOR(pg_catalog.=) $1", stock.id);
        (format!("SELECT FROM {} WHERE {item} FOR KEY SHARE", stock.source()), vec![pg_sys::UUIDOID])
    });
    spi.run(plan, &[Arg::owned(id)], Sight::Isolation).count() > 0
}

/// Writes held stripes in one statement, verifies each, and gives what each has then.
pub fn write(spi: &Connection, stock: &Attachment, steps: &[Step]) -> Outcome<HashMap<([u8; 16], i16), Quantity>> {
    let _acting = stock.act_on_companions();
    let plan = stock.plan(spi, Kept::WriteStripes, || {
        let sql = format!(
            "UPDATE {} AS s SET quantity = s.quantity OPERATOR(pg_catalog.+) step.delta
               FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3::pg_catalog.numeric[]))
                    AS step (id, stripe, delta)
              WHERE s.inventory_id OPERATOR(pg_catalog.=) step.id AND s.stripe OPERATOR(pg_catalog.=) step.stripe
             RETURNING s.inventory_id, s.stripe, s.quantity",
            stock.stripes.name
        );
        (sql, vec![pg_sys::UUIDARRAYOID, pg_sys::INT2ARRAYOID, pg_sys::TEXTARRAYOID])
    });
    let args = [
        Arg::owned(steps.iter().map(|step| step.id).collect::<Vec<_>>()),
        Arg::owned(steps.iter().map(|step| step.stripe).collect::<Vec<_>>()),
        Arg::owned(steps.iter().map(|step| step.delta.to_string()).collect::<Vec<_>>()),
    ];
    let rows = attribution::writing(stock.stripes.oid, || spi.run(plan, &args, Sight::Isolation));
    failpoint::reached(spi, Place::Written);
    let mut written = HashMap::with_capacity(rows.count());
    for row in 0..rows.count() {
        let id: Uuid = rows.get(row, 1).ok_or_else(|| Fault::internal("a stripe has no item"))?;
        let stripe = rows.get(row, 2).ok_or_else(|| Fault::internal("a stripe has no number"))?;
        written.insert((*id.as_bytes(), stripe), quantity(&rows, row, 3, &id)?);
    }
    for Step { id, stripe, old_quantity, delta } in steps {
        let new_quantity = written.get(&(*id.as_bytes(), *stripe)).copied();
        let taken = delta.negated();
        if !new_quantity.is_some_and(|new_quantity| old_quantity.less(taken, new_quantity)) {
            return Err(Fault::verification_failed(&id.to_string(), *old_quantity, new_quantity, taken));
        }
    }
    Ok(written)
}

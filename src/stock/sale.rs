//! The sale of one item: lock, check, write, verify.
//!
//! Lock order: one item, one row lock; nothing else is locked but the stock table, in the mode of any writer.
//!
//! The row is locked by a statement and then written natively, or by a second statement: under READ COMMITTED each
//! takes a snapshot of its own, and an UPDATE by ctid must see the version that was locked. The quantity stands in the
//! condition of the locking SELECT: an item that is sold out is refused without a row lock, a transaction id or WAL,
//! and without waiting for the session that holds the row. A result is returned only where the row was written as old -
//! deducted; a later change by an AFTER trigger is an act of its own.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::Deduction;
use crate::core::quantity::{Capacity, Quantity};
use crate::ledger::heap_writer;
use crate::pg::args::{Arg, NumericArg};
use crate::pg::spi::{Connection, Rows};
use crate::statements::Statement;
use crate::stats::waits::{self, LockTarget};
use crate::stock::shortage;
use crate::stripes::automatic;
use crate::stripes::striped::Striped;
use crate::table::attachment::Attachment;
use crate::table::cache::learn_divided;
use crate::table::rows;

/// Sells a quantity of an item, and returns the result as JSON. `argument` is the quantity as it was passed.
pub fn sell(
    spi: &Connection,
    stock: &Attachment,
    id: &ItemId,
    requested: Quantity,
    argument: &NumericArg,
) -> Result<String> {
    stock.require_fit("p_quantity", requested)?;
    let deduction = |old_quantity, new_quantity, stripe| {
        Deduction { inventory_id: id, old_quantity, new_quantity, deducted: requested, stripe }.to_json()
    };
    if let Some(striped) = Striped::of(spi, stock, id)? {
        let held = shortage::require_stripe(&striped, requested)?;
        let new_quantity = striped.change(&held, requested.negated())?;
        return Ok(deduction(held.quantity, new_quantity, Some(held.stripe)));
    }
    let sale = Sale { spi, stock, id, requested, bound: bind(stock, argument, requested) };
    let (locked, old_quantity) = sale.lock()?;
    let new_quantity = sale.write(&locked, old_quantity)?;
    Ok(deduction(old_quantity, new_quantity, None))
}

/// The requested quantity as a parameter: as it was passed for a numeric column, as bigint for the whole-number types.
fn bind<'a>(stock: &Attachment, argument: &'a NumericArg, requested: Quantity) -> Arg<'a> {
    match (stock.capacity, requested.to_i64()) {
        (Capacity::Integer { .. }, Some(units)) => Arg::owned(units),
        _ => argument.arg(),
    }
}

/// A sale from a row of the stock table.
struct Sale<'a> {
    spi: &'a Connection,
    stock: &'a Attachment,
    id: &'a ItemId,
    requested: Quantity,
    bound: Arg<'a>,
}

impl<'a> Sale<'a> {
    /// Locks the item where it has enough, and reads its quantity; else refuses truthfully.
    ///
    /// Where the locking SELECT returns no row but a plain look finds enough, a restock came between the two: it is
    /// tried once more, and then decided under an unconditional lock, so that a row which may be seen but not locked
    /// (row-level security for the caller) cannot keep the call going round. The item that this session saw short last
    /// is looked at first: while it stays sold out, one statement refuses it.
    fn lock(&self) -> Result<(Rows<'a>, Quantity)> {
        if self.stock.seen_short.borrow().as_ref() == Some(self.id) {
            self.look()?;
        }
        for _ in 0..2 {
            let statement = self.stock.by_strength(Statement::LockEnough, Statement::LockEnoughNoKey);
            let lock = || self.stock.run(self.spi, statement, &[Arg::item(self.id), self.bound]);
            let (locked, waited) = waits::taking(self.stock.oid, LockTarget::Item(self.id), lock);
            if locked.count() > 0 {
                return self.decide(locked, waited.is_some());
            }
            self.look()?;
        }
        let statement = self.stock.by_strength(Statement::LockItem, Statement::LockItemNoKey);
        let lock = || self.stock.run(self.spi, statement, &[Arg::item(self.id)]);
        let (locked, waited) = waits::taking(self.stock.oid, LockTarget::Item(self.id), lock);
        if locked.count() == 0 {
            return Err(Error::unknown_item(self.id));
        }
        self.decide(locked, waited.is_some())
    }

    /// Refuses a shortage of a locked row. An item that is divided, or is to be, is sold from its stripes.
    fn decide(&self, locked: Rows<'a>, waited: bool) -> Result<(Rows<'a>, Quantity)> {
        if learn_divided(self.spi, self.stock, std::slice::from_ref(self.id))? {
            return Err(Error::divided());
        }
        let available = self.read(&locked)?;
        shortage::require(self.id, available, self.requested)?;
        if waited && automatic::divide_contended(self.spi, self.stock, self.id, available)? {
            return Err(Error::divided());
        }
        Ok((locked, available))
    }

    /// Refuses a shortage without a lock.
    fn look(&self) -> Result<()> {
        // A look needs fewer rights than a sale: without those no quantity is reported.
        self.stock.require_sale_rights();
        let Some(stored) = rows::look(self.spi, self.stock, self.id) else {
            return Err(Error::unknown_item(self.id));
        };
        let available = rows::readable(self.id, stored)?;
        let decided = shortage::require_unlocked(self.spi, self.stock, self.id, available, self.requested);
        if decided.is_err() && learn_divided(self.spi, self.stock, std::slice::from_ref(self.id))? {
            return Err(Error::divided());
        }
        *self.stock.seen_short.borrow_mut() = decided.is_err().then(|| self.id.clone());
        decided
    }

    /// Writes the deduction into the locked row and reads back the quantity in the table.
    fn write(&self, locked: &Rows<'_>, old_quantity: Quantity) -> Result<Quantity> {
        let Some(expected) = old_quantity.checked_sub(self.requested) else {
            return Err(Error::overflow(self.id, old_quantity, self.requested.negated()));
        };
        let failed = |new_quantity| Error::verification_failed(self.id, old_quantity, new_quantity, self.requested);
        if self.stock.names.by_ctid {
            let (row, delta) = (locked.required(0, c"row")?, self.requested.negated());
            let step = heap_writer::RowWrite { id: self.id, stripe: None, row, old_quantity, delta };
            if let Some(&[new_quantity]) = heap_writer::change(self.stock, &[step])?.as_deref() {
                return if new_quantity == expected { Ok(new_quantity) } else { Err(failed(Some(new_quantity))) };
            }
        }
        let row = if self.stock.names.by_ctid { locked.arg(0, c"row") } else { Arg::item(self.id) };
        let written = self.stock.run(self.spi, Statement::Deduct, &[row, self.bound]);
        if written.count() != 1 {
            return Err(failed(None));
        }
        let new_quantity = self.read(&written)?;
        if new_quantity == expected { Ok(new_quantity) } else { Err(failed(Some(new_quantity))) }
    }

    fn read(&self, rows: &Rows<'_>) -> Result<Quantity> {
        rows::readable(self.id, rows.quantity(0, c"quantity", self.stock.names.quantity_type))
    }
}

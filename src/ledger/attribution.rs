//! Which statements may write what the guards protect: our own, and no other.
//!
//! The ledger, the keys, the stripes and the total in the row of a striped item are written by statements of ours. Each takes a
//! permit first: for one table, for so many statements, at one depth of triggers. The guard on the table uses it up; what a
//! trigger or an expression of a user writes meanwhile finds none. A total is permitted item by item, with the quantity that is
//! written.

use crate::core::error::{Fault, Outcome};
use crate::core::quantity::differ;
use crate::pg::trigger::{Firing, Operation, depth};
use crate::table::attachment::Attachment;
use crate::table::triggers;
use pgrx::Uuid;
use pgrx::pg_sys::Oid;
use std::cell::RefCell;

struct Permit {
    table: Oid,
    /// Of the triggers that the statement fires.
    depth: i32,
    statements: u32,
}

struct Total {
    id: Uuid,
    quantity: String,
    depth: i32,
}

thread_local! {
    /// A guard is called by PostgreSQL and cannot be passed the permit, so it is state of the backend.
    static PERMITS: RefCell<Vec<Permit>> = const { RefCell::new(Vec::new()) };
    static TOTALS: RefCell<Vec<Total>> = const { RefCell::new(Vec::new()) };
}

/// Takes back what was permitted, used or not, also where an error of PostgreSQL unwinds.
struct Until(usize);

impl Drop for Until {
    fn drop(&mut self) {
        PERMITS.with_borrow_mut(|permits| permits.truncate(self.0));
    }
}

/// Runs a statement of ours that writes a protected table once.
pub fn writing<T>(table: Oid, write: impl FnOnce() -> T) -> T {
    writing_as(table, 1, write)
}

/// Runs an INSERT … ON CONFLICT DO UPDATE of ours, which a guard sees as an INSERT and an UPDATE.
pub fn upserting<T>(table: Oid, write: impl FnOnce() -> T) -> T {
    writing_as(table, 2, write)
}

fn writing_as<T>(table: Oid, statements: u32, write: impl FnOnce() -> T) -> T {
    let permit = Permit { table, depth: depth() + 1, statements };
    let _until = PERMITS.with_borrow_mut(|permits| {
        permits.push(permit);
        Until(permits.len() - 1)
    });
    write()
}

/// Runs a statement of ours that writes the totals of striped items into their rows. It is no movement of stock.
pub fn writing_totals<T>(totals: impl IntoIterator<Item = (Uuid, String)>, write: impl FnOnce() -> T) -> T {
    struct Until(usize);
    impl Drop for Until {
        fn drop(&mut self) {
            TOTALS.with_borrow_mut(|totals| totals.truncate(self.0));
        }
    }
    let depth = depth() + 1;
    let _until = TOTALS.with_borrow_mut(|permitted| {
        let before = permitted.len();
        permitted.extend(totals.into_iter().map(|(id, quantity)| Total { id, quantity, depth }));
        Until(before)
    });
    write()
}

/// Whether the statement that fires a guard is one of ours. Uses the permit up.
fn is_permitted(firing: &Firing) -> bool {
    let (table, depth) = (firing.table(), depth());
    PERMITS.with_borrow_mut(|permits| {
        let permit = permits.last_mut().filter(|permit| permit.table == table && permit.depth == depth);
        match permit {
            Some(permit) if permit.statements > 0 => {
                permit.statements -= 1;
                true
            }
            _ => false,
        }
    })
}

/// Decides for a guard on the ledger, the keys, the stripes or the totals; `refusal` words the error.
///
/// Guards stay on the companions of a detached table, so this takes no lock and asks for no attachment: without a permit every
/// write is refused, and only our own code takes one.
pub fn check(function: &str, firing: &Firing, refusal: fn(&str, &str) -> Box<Fault>) -> Outcome<()> {
    if !triggers::guards(function, firing)? {
        return Err(Fault::stray_trigger(&firing.table_name()));
    }
    if firing.operation() != Operation::Truncate && is_permitted(firing) {
        return Ok(());
    }
    Err(refusal(firing.operation().name(), &firing.table_name()))
}

/// What a write to a row of the stock table is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// A change of stock.
    Stock,
    /// A total brought up to date.
    Total,
}

/// Refuses a direct write to what the stripes of an item hold; any other column of its row may be written.
pub fn lets_through(firing: &Firing, stock: &Attachment) -> Outcome<Passage> {
    let totals = TOTALS.with_borrow(|totals| !totals.is_empty());
    if firing.operation() == Operation::Insert {
        let id = firing.first_row().uuid(&stock.id_name)?;
        return if stock.is_away(&id) { Err(Fault::striped_item(&id.to_string())) } else { Ok(Passage::Stock) };
    }
    if stock.striped.is_empty() && !totals {
        return Ok(Passage::Stock);
    }
    let first = firing.first_row();
    let id = first.uuid(&stock.id_name)?;
    if firing.operation() == Operation::Update {
        let updated = firing.updated_row();
        let [old_quantity, new_quantity] =
            [&first, &updated].map(|row| row.printed(&stock.quantity_name, stock.quantity_type));
        let (old_quantity, new_quantity) = (old_quantity?, new_quantity?);
        if updated.uuid(&stock.id_name)? == id {
            if is_total(id, &new_quantity) {
                return Ok(Passage::Total);
            }
            if !differ(&old_quantity, &new_quantity) {
                return Ok(Passage::Stock);
            }
        }
    }
    if stock.stripes_of(&id).is_none() { Ok(Passage::Stock) } else { Err(Fault::striped_item(&id.to_string())) }
}

/// Whether this very total is being written now. Uses it up.
fn is_total(id: Uuid, quantity: &str) -> bool {
    let depth = depth();
    TOTALS.with_borrow_mut(|totals| {
        let found = totals
            .iter_mut()
            .find(|total| total.depth == depth && total.id == id && !differ(&total.quantity, quantity));
        // Later entries keep their places: they are taken back by number.
        found.map(|total| total.depth = 0).is_some()
    })
}

/// Decides for the row trigger of a stock table without a ledger.
pub fn check_row(firing: &Firing) -> Outcome<()> {
    let (stock, _) = triggers::verified("inventory_stripe_guard", firing)?;
    lets_through(firing, &stock).map(|_| ())
}

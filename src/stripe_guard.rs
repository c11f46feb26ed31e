//! Who may write the stripes, and the total of a striped item: our own statements, and nobody else.
//!
//! The stock row of a striped item shows the sum of its stripes, for readers. A direct write to it would be lost at the next
//! bringing up to date, and one to a stripe would be a write past the sale that holds it: both are refused. Our own statements
//! say so while they run, at one depth of triggers, so that what a user's trigger does meanwhile is refused too.

use crate::attachment::{self, Attachment};
use crate::error::{Fault, Outcome};
use crate::ledger::{differ, trigger_depth};
use crate::trigger::{Firing, Operation};
use std::cell::Cell;

thread_local! {
    /// The depth at which triggers of our own statements run.
    static STRIPES_OPEN_AT: Cell<i32> = const { Cell::new(0) };
    static TOTALS_OPEN_AT: Cell<i32> = const { Cell::new(0) };
}

/// Closes again what was opened, also where an error of PostgreSQL unwinds.
struct Open(&'static std::thread::LocalKey<Cell<i32>>, i32);

impl Open {
    fn here(place: &'static std::thread::LocalKey<Cell<i32>>) -> Self {
        Self(place, place.replace(trigger_depth() + 1))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Runs a statement of our own that writes stripes.
pub fn writing_stripes<T>(act: impl FnOnce() -> T) -> T {
    let _open = Open::here(&STRIPES_OPEN_AT);
    act()
}

/// Runs a statement of our own that brings the total in the stock row up to date. It is no movement of stock.
pub fn writing_totals<T>(act: impl FnOnce() -> T) -> T {
    let _open = Open::here(&TOTALS_OPEN_AT);
    act()
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
    if TOTALS_OPEN_AT.get() == trigger_depth() {
        return Ok(Passage::Total);
    }
    if stock.striped.is_empty() || firing.operation() == Operation::Insert {
        return Ok(Passage::Stock);
    }
    let first = firing.first_row();
    let id = first.uuid(&stock.id_name)?;
    if stock.stripes_of(&id).is_none() {
        return Ok(Passage::Stock);
    }
    if firing.operation() == Operation::Update {
        let updated = firing.updated_row();
        let [old_quantity, new_quantity] =
            [&first, &updated].map(|row| row.printed(&stock.quantity_name, stock.quantity_type));
        if updated.uuid(&stock.id_name)? == id && !differ(&old_quantity?, &new_quantity?) {
            return Ok(Passage::Stock);
        }
    }
    Err(Fault::striped_item(&id.to_string()))
}

/// Decides for a trigger that stands on the stripes, or on a stock table without a ledger.
pub fn check(firing: &Firing) -> Outcome<()> {
    if firing.for_row() {
        return lets_through(firing, &*attachment::current()?).map(|_| ());
    }
    if firing.operation() != Operation::Truncate && STRIPES_OPEN_AT.get() == trigger_depth() {
        return Ok(());
    }
    Err(Fault::stripes_protected(firing.operation().name(), &firing.table_name()))
}

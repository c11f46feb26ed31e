//! The guards: who may write the companions, and the row of a striped item.
//!
//! Guards stay on the companions of a detached table, so they take no lock and need no attachment: without a permit
//! every write is refused, and only our own code takes one.

use crate::core::error::{Error, Result};
use crate::core::quantity::differ;
use crate::ledger::attribution;
use crate::pg::spi::connected;
use crate::pg::trigger::{Firing, Operation};
use crate::table::attachment::Attachment;
use crate::table::cache::learn_divided;
use crate::table::fired;

/// Decides for a guard on a companion; `refusal` makes the error.
pub fn require_permit(function: &str, firing: &Firing, refusal: fn(&str, &str) -> Box<Error>) -> Result<()> {
    if !fired::guards(function, firing)? {
        return Err(Error::stray_trigger(&firing.table_name()));
    }
    if firing.operation() != Operation::Truncate && attribution::use_permit(firing.table()) {
        return Ok(());
    }
    Err(refusal(firing.operation().name(), &firing.table_name()))
}

/// The nature of a write to a row of the stock table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// A change of stock, or of another column.
    Stock,
    /// A total brought up to date.
    Total,
}

/// Refuses a direct write to the quantity of a striped item; any other column of its row may be written.
pub fn passage(firing: &Firing, stock: &Attachment) -> Result<Passage> {
    if firing.operation() == Operation::Insert {
        let id = firing.first_row().item(&stock.id_name)?;
        return if stock.is_away(&id) { Err(Error::striped_item(&id)) } else { Ok(Passage::Stock) };
    }
    if stock.may_be_divided() {
        let id = firing.first_row().item(&stock.id_name)?;
        connected(|spi| learn_divided(spi, stock, &[id]))?;
    }
    if !stock.has_striped() && !attribution::is_writing_totals() {
        return Ok(Passage::Stock);
    }
    let first = firing.first_row();
    let id = first.item(&stock.id_name)?;
    if firing.operation() == Operation::Update {
        let updated = firing.updated_row();
        let quantity_type = stock.names.quantity_type;
        let old_quantity = first.value(&stock.quantity_name, quantity_type)?.printed();
        let new_quantity = updated.value(&stock.quantity_name, quantity_type)?.printed();
        if updated.item(&stock.id_name)? == id {
            if attribution::use_total(stock.oid, &id, &new_quantity) {
                return Ok(Passage::Total);
            }
            if !differ(&old_quantity, &new_quantity) {
                return Ok(Passage::Stock);
            }
        }
    }
    if stock.stripes_of(&id).is_none() { Ok(Passage::Stock) } else { Err(Error::striped_item(&id)) }
}

/// Decides for the row trigger of a stock table without a ledger.
pub fn check_row(firing: &Firing) -> Result<()> {
    let (stock, _) = fired::verified("inventory_stripe_guard", firing)?;
    passage(firing, &stock).map(|_| ())
}

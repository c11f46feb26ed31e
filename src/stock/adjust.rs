//! Sets an item to a counted quantity.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::{exact, number, with_stripe};
use crate::core::quantity::Quantity;
use crate::ledger::past;
use crate::pg::args::{Arg, Moment};
use crate::pg::spi::Connection;
use crate::statements::Statement;
use crate::stock::hold::Place;
use crate::stripes::striped::{Seen, Striped};
use crate::table::attachment::Attachment;
use crate::table::rows::{self, Locked};
use serde_json::{Value, json};

/// A count.
pub struct Count {
    /// The counted quantity.
    pub counted: Quantity,
    /// What is expected to be there.
    pub expected: Option<Quantity>,
    /// When it was counted; None for now.
    pub moment: Option<Moment>,
}

impl Count {
    /// The quantity that a locked item of this stock is set to.
    fn target(&self, spi: &Connection, stock: &Attachment, id: &ItemId, old_quantity: Quantity) -> Result<Quantity> {
        let then = match self.moment {
            None => old_quantity,
            Some(moment) => past::counted_stock(spi, stock, id, moment)?,
        };
        if let Some(expected) = self.expected.filter(|&expected| expected != then) {
            return Err(Error::stale(id, expected, &then.to_string()));
        }
        let overflow = || Error::overflow(id, old_quantity, None::<Quantity>);
        let difference = self.counted.checked_sub(then).ok_or_else(overflow)?;
        let target = old_quantity.checked_add(difference).ok_or_else(overflow)?;
        if target.is_negative() { Err(Error::insufficient(id, old_quantity, difference.negated())) } else { Ok(target) }
    }
}

/// Sets an item to what was counted, and returns the result.
pub fn set(spi: &Connection, stock: &Attachment, id: &ItemId, count: &Count) -> Result<Value> {
    stock.require_fit("p_counted_quantity", count.counted)?;
    if let Some(striped) = Striped::of(spi, stock, id)? {
        let seen = striped.lock_all()?;
        let old_quantity = striped.total(&seen)?;
        let counted = count.target(spi, stock, id, old_quantity)?;
        let delta = difference(id, old_quantity, counted)?;
        let unchanged = counted == old_quantity;
        let (new_quantity, stripe) = if unchanged {
            (old_quantity, striped.own())
        } else {
            stock.require_room(id, old_quantity, delta)?;
            set_stripes(&striped, seen, (old_quantity, counted, delta))?
        };
        return Ok(with_stripe(result(id, old_quantity, new_quantity, delta), Some(stripe)));
    }
    let Locked { stored, place, .. } = rows::lock_one(spi, stock, id)?;
    let old_quantity = match stored {
        Ok(quantity) => quantity,
        Err(stored) if count.moment.is_none() => return repair(spi, stock, id, &stored, count.counted, count.expected),
        Err(stored) => return Err(Error::unreadable_stock(id, &stored)),
    };
    let counted = count.target(spi, stock, id, old_quantity)?;
    let delta = difference(id, old_quantity, counted)?;
    let unchanged = counted == old_quantity;
    let new_quantity =
        if unchanged { old_quantity } else { Place::row(id, place, old_quantity).add(spi, stock, delta)? };
    Ok(result(id, old_quantity, new_quantity, delta))
}

fn difference(id: &ItemId, old_quantity: Quantity, counted: Quantity) -> Result<Quantity> {
    counted.checked_sub(old_quantity).ok_or_else(|| Error::overflow(id, old_quantity, None::<Quantity>))
}

fn set_stripes(
    striped: &Striped<'_>,
    seen: Seen,
    (old_quantity, counted, delta): (Quantity, Quantity, Quantity),
) -> Result<(Quantity, i16)> {
    let held = striped.gather_all(seen)?;
    let new_quantity = striped.change(&held, delta)?;
    striped.spread(held.stripe, new_quantity)?;
    // A trigger of the owner may have changed another stripe meanwhile: the sum must be the counted quantity.
    let sum = striped.total(&striped.lock_all()?)?;
    if sum != counted {
        return Err(Error::verification_failed(striped.id(), old_quantity, Some(sum), delta.negated()));
    }
    Ok((new_quantity, held.stripe))
}

fn result(id: &ItemId, old_quantity: Quantity, new_quantity: Quantity, adjusted: Quantity) -> Value {
    json!({
        "success": true, "inventory_id": id.to_json(), "old_quantity": number(old_quantity),
        "new_quantity": number(new_quantity), "adjusted": number(adjusted),
    })
}

/// Sets an item whose row holds more digits than a quantity has; PostgreSQL computes the difference.
fn repair(
    spi: &Connection,
    stock: &Attachment,
    id: &ItemId,
    stored: &str,
    counted: Quantity,
    expected: Option<Quantity>,
) -> Result<Value> {
    if let Some(expected) = expected {
        return Err(Error::stale(id, expected, stored));
    }
    let printed = counted.to_string();
    let args = [Arg::item(id), Arg::text(printed.as_str()), Arg::text(stored)];
    let rows = stock.run(spi, Statement::RepairItem, &args);
    match (rows.quantity(0, c"quantity", stock.names.quantity_type), rows.text(0, c"adjusted")) {
        (Ok(new_quantity), Some(adjusted)) if new_quantity == counted => Ok(json!({
            "success": true, "inventory_id": id.to_json(), "old_quantity": exact(stored),
            "new_quantity": number(new_quantity), "adjusted": exact(&adjusted),
        })),
        (new_quantity, _) => Err(Error::verification_failed(id, None::<Quantity>, new_quantity.ok(), None::<Quantity>)),
    }
}

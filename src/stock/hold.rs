//! Holds an item for a change: locks its row, or a stripe of it.
//!
//! Lock order: rows of the stock table by id ascending, then striped items by id ascending.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::quantity::Quantity;
use crate::pg::heap;
use crate::pg::spi::Connection;
use crate::stock::change::{self, Change};
use crate::stripes::striped::{Held, Striped};
use crate::table::attachment::Attachment;
use crate::table::rows;

/// A held item: its locked row, or one held stripe of it.
pub struct Place {
    /// The item.
    pub id: ItemId,
    /// The stripe, where it is striped.
    pub stripe: Option<i16>,
    /// The place of the row, where the row can be written by it.
    pub row: Option<heap::TupleId>,
    /// The quantity of the row or of the stripe.
    pub quantity: Quantity,
    /// The most that the whole item can have while this is held.
    pub most: Quantity,
}

impl Place {
    /// A locked row.
    pub fn row(id: &ItemId, row: Option<heap::TupleId>, quantity: Quantity) -> Self {
        Self { id: id.clone(), stripe: None, row, quantity, most: quantity }
    }

    /// A held stripe.
    pub fn stripe(id: &ItemId, held: &Held<'_>, most: Quantity) -> Self {
        Self { id: id.clone(), stripe: Some(held.stripe), row: None, quantity: held.quantity, most }
    }

    /// Checks that the column can hold so much more of the item.
    pub fn with_room(self, stock: &Attachment, added: Quantity) -> Result<Self> {
        stock.require_room(&self.id, self.most, added)?;
        Ok(self)
    }

    /// Adds a quantity, and returns the new one.
    pub fn add(&self, spi: &Connection, stock: &Attachment, delta: Quantity) -> Result<Quantity> {
        let Self { id, stripe, row, quantity: old_quantity, .. } = self;
        if stripe.is_none() {
            stock.require_room(id, *old_quantity, delta)?;
        }
        let change = Change { id: id.clone(), stripe: *stripe, row: *row, old_quantity: *old_quantity, delta };
        let written = change::write(spi, stock, &[change])?;
        written.first().copied().ok_or_else(|| Error::internal("a change that was written has no quantity"))
    }
}

/// Holds an item that is added to.
pub fn for_addition(spi: &Connection, stock: &Attachment, id: &ItemId, added: Quantity) -> Result<Place> {
    let place = match Striped::of(spi, stock, id)? {
        None => {
            let locked = rows::lock_one(spi, stock, id)?;
            Place::row(id, locked.place, rows::readable(id, locked.stored)?)
        }
        Some(striped) => any_stripe(&striped)?,
    };
    place.with_room(stock, added)
}

/// Holds any stripe of an item that is added to.
pub fn any_stripe(striped: &Striped<'_>) -> Result<Place> {
    let (held, most) = striped.any()?;
    Ok(Place::stripe(striped.id(), &held, most))
}

//! Changes of locked items: at most one statement for the rows of the stock table and one for stripes, each verified.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::quantity::Quantity;
use crate::ledger::heap_writer;
use crate::pg::heap;
use crate::pg::spi::Connection;
use crate::stripes::striped::{self, Step};
use crate::table::attachment::Attachment;
use crate::table::rows;
use std::collections::HashMap;

/// A change of one locked item.
pub struct Change {
    /// The item.
    pub id: ItemId,
    /// The stripe of it that is held, where it is striped.
    pub stripe: Option<i16>,
    /// The place of its row, where the row can be written by it.
    pub row: Option<heap::TupleId>,
    /// Its quantity, or that of the stripe, read under its lock.
    pub old_quantity: Quantity,
    /// The quantity to add; negative for a deduction.
    pub delta: Quantity,
}

impl Change {
    /// The same as a change of a row, where it is one that can be written by its place.
    fn step(&self) -> Option<heap_writer::RowWrite<'_>> {
        let Self { id, row, old_quantity, delta, .. } = self;
        Some(heap_writer::RowWrite { id, stripe: None, row: (*row)?, old_quantity: *old_quantity, delta: *delta })
    }
}

/// Writes changes of locked items, verifies each, and returns the new quantities in the same order.
pub fn write(spi: &Connection, stock: &Attachment, changes: &[Change]) -> Result<Vec<Quantity>> {
    for Change { id, old_quantity, delta, .. } in changes {
        old_quantity.checked_add(*delta).ok_or_else(|| Error::overflow(id, *old_quantity, *delta))?;
    }
    let step = |change: &Change| {
        let delta = striped::at_scale(stock, change.delta);
        Some(Step { id: change.id.clone(), stripe: change.stripe?, old_quantity: change.old_quantity, delta })
    };
    let steps: Vec<Step> = changes.iter().filter_map(step).collect();
    let in_rows: Vec<(&ItemId, Quantity)> =
        changes.iter().filter(|change| change.stripe.is_none()).map(|change| (&change.id, change.delta)).collect();
    // Stripes first: a trigger of the stock table may sell more of a held stripe, as a kit sells its parts.
    let stripes = if steps.is_empty() { HashMap::new() } else { striped::write(spi, stock, &steps)? };
    let rows = if in_rows.is_empty() { HashMap::new() } else { write_rows(spi, stock, changes, &in_rows)? };
    let written = |change: &Change| match change.stripe {
        None => rows.get(&change.id).copied(),
        Some(stripe) => stripes.get(&(change.id.clone(), stripe)).copied(),
    };
    changes.iter().map(|change| verify(change, written(change))).collect()
}

/// Natively, where that is allowed; else by a statement.
fn write_rows(
    spi: &Connection,
    stock: &Attachment,
    changes: &[Change],
    in_rows: &[(&ItemId, Quantity)],
) -> Result<HashMap<ItemId, Quantity>> {
    // A trigger on the stripes, which were written first, may have written these rows: then they have moved.
    let has_stripes = changes.iter().any(|change| change.stripe.is_some());
    if has_stripes && stock.native().is_none_or(|native| native.stripes.is_none()) {
        return rows::change(spi, stock, in_rows);
    }
    let of_rows = changes.iter().filter(|change| change.stripe.is_none());
    let steps = of_rows.map(Change::step).collect::<Option<Vec<_>>>();
    let written = steps.as_deref().map(|steps| heap_writer::change(stock, steps)).transpose()?.flatten();
    match (steps, written) {
        (Some(steps), Some(written)) => Ok(steps.iter().map(|step| step.id.clone()).zip(written).collect()),
        _ => rows::change(spi, stock, in_rows),
    }
}

fn verify(Change { id, old_quantity, delta, .. }: &Change, written: Option<Quantity>) -> Result<Quantity> {
    match written {
        Some(new_quantity) if old_quantity.checked_add(*delta) == Some(new_quantity) => Ok(new_quantity),
        _ => Err(Error::verification_failed(id, *old_quantity, written, delta.negated())),
    }
}

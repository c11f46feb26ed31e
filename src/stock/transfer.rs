//! Moves a quantity from one item to another.
//!
//! Lock order: rows of the stock table by id ascending, then striped items by id ascending.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::{number, with_stripe};
use crate::core::quantity::Quantity;
use crate::pg::spi::Connection;
use crate::stock::change::{self, Change};
use crate::stock::hold::{self, Place};
use crate::stock::shortage;
use crate::stripes::striped::Striped;
use crate::table::attachment::Attachment;
use crate::table::rows::{self, Locked};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Moves a quantity between two different items, and returns the result.
pub fn shift(spi: &Connection, stock: &Attachment, [from, to]: [&ItemId; 2], moved: Quantity) -> Result<Value> {
    stock.require_fit("p_quantity", moved)?;
    let (source, target) = hold_both(spi, stock, [from, to], moved)?;
    let change = |place: Place, delta| {
        let Place { id, stripe, row, quantity: old_quantity, .. } = place;
        Change { id, stripe, row, old_quantity, delta }
    };
    let changes = [change(source, moved.negated()), change(target, moved)];
    let written = change::write(spi, stock, &changes)?;
    let mut sides = changes.iter().zip(written).map(|(Change { id, stripe, old_quantity, .. }, new_quantity)| {
        let side = json!({
            "inventory_id": id.to_json(), "old_quantity": number(*old_quantity), "new_quantity": number(new_quantity),
        });
        with_stripe(side, *stripe)
    });
    let (Some(from), Some(to)) = (sides.next(), sides.next()) else {
        return Err(Error::internal("a change that was written has no quantity"));
    };
    Ok(json!({"success": true, "from": from, "to": to, "transferred": number(moved)}))
}

/// One item of a transfer: its locked row, or its stripes.
enum Side<'a> {
    Row(Locked),
    Striped(Striped<'a>),
}

/// Locks both items of a transfer: those of the stock table first, then the striped ones, each in the order of their
/// ids.
///
/// An unknown item is reported in the order of the arguments, striped or not, before anything else of either is
/// reported. A shortage of the source is reported before a target that cannot hold more, whichever was locked first.
fn hold_both(
    spi: &Connection,
    stock: &Attachment,
    [from, to]: [&ItemId; 2],
    moved: Quantity,
) -> Result<(Place, Place)> {
    let in_rows: Vec<ItemId> = [from, to].into_iter().filter(|id| stock.stripes_of(id).is_none()).cloned().collect();
    let held = if in_rows.is_empty() { HashMap::new() } else { rows::lock(spi, stock, &in_rows)? };
    let side = |id: &ItemId| match Striped::of(spi, stock, id)? {
        Some(striped) => Ok(Side::Striped(striped)),
        None => held.get(id).cloned().map(Side::Row).ok_or_else(|| Error::unknown_item(id)),
    };
    let (source_side, target_side) = (side(from)?, side(to)?);
    let source = || -> Result<Place> {
        match source_side {
            Side::Row(Locked { stored, place, .. }) => {
                let available = rows::readable(from, stored)?;
                shortage::require(from, available, moved)?;
                Ok(Place::row(from, place, available))
            }
            Side::Striped(striped) => {
                let held = shortage::require_stripe(&striped, moved)?;
                Ok(Place::stripe(from, &held, held.quantity))
            }
        }
    };
    let target = || -> Result<Place> {
        match target_side {
            Side::Row(Locked { stored, place, .. }) => Ok(Place::row(to, place, rows::readable(to, stored)?)),
            Side::Striped(striped) => hold::any_stripe(&striped),
        }
    };
    let (source, target) = if from < to {
        let source = source()?;
        (source, target()?)
    } else {
        let target = target()?;
        (source()?, target)
    };
    Ok((source, target.with_room(stock, moved)?))
}

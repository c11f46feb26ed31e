//! An order of many lines: all of it or nothing, unless short lines may be left out.
//!
//! Lock order: the idempotency key (before this module is called), then rows of the stock table by id ascending, then
//! the striped items among the lines, in the same order. However many lines, the rows are locked by one statement.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::{spaced, stripe_key};
use crate::core::order_lines::Line;
use crate::core::quantity::Quantity;
use crate::pg::heap;
use crate::pg::spi::Connection;
use crate::stock::change::{self, Change};
use crate::stock::shortage::{self, Lines, OnShortage, Supply};
use crate::stripes::automatic;
use crate::stripes::striped::{Held, Striped};
use crate::table::attachment::Attachment;
use crate::table::rows::{self, Locked};
use serde_json::{Value, json};
use std::collections::HashMap;

/// The order as its retries must repeat it: the same items and sums, in any order.
pub fn canonical(lines: &[Line], on_shortage: OnShortage, reference: Option<&str>) -> String {
    let line = |line: &Line| format!("{} {}", line.id, line.quantity.canonical());
    let mut lines: Vec<String> = lines.iter().map(line).collect();
    lines.sort_unstable();
    json!([on_shortage.word(), reference, lines]).to_string()
}

/// Deducts the lines of an order, and returns the result as JSON.
pub fn deduct(spi: &Connection, stock: &Attachment, lines: &[Line], on_shortage: OnShortage) -> Result<String> {
    for line in lines {
        stock.require_fit("p_items", line.quantity).map_err(|error| error.at_element(line.element))?;
    }
    let lots = hold(spi, stock, lines, on_shortage)?;
    let mut short = Lines::new(on_shortage);
    let mut changes = Vec::with_capacity(lines.len());
    for Line { id, quantity: requested, .. } in lines {
        match lots.get(id) {
            None => short.unknown(id, *requested),
            Some(Lot::Unreadable(stored)) => short.unreadable(id, stored, *requested)?,
            Some(&Lot::Held { available, stripe, row }) => {
                let taken = short.take(id, available, *requested);
                if taken.is_positive() {
                    let delta = taken.negated();
                    changes.push(Change { id: id.clone(), stripe, row, old_quantity: available, delta });
                }
            }
        }
    }
    let short = short.finish()?;
    let written = change::write(spi, stock, &changes)?;
    Ok(result(&changes, &written, &short))
}

/// An item of an order, held.
enum Lot {
    /// The quantity in its row, or in the stripe that is held.
    Held { available: Quantity, stripe: Option<i16>, row: Option<heap::TupleId> },
    /// The row holds a value that is no quantity.
    Unreadable(String),
}

/// Locks the items of the lines. Unknown items are missing from the result.
fn hold(spi: &Connection, stock: &Attachment, lines: &[Line], on_shortage: OnShortage) -> Result<HashMap<ItemId, Lot>> {
    let (mut striped, in_rows): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| stock.stripes_of(&line.id).is_some());
    let mut lots = HashMap::with_capacity(lines.len());
    if !in_rows.is_empty() {
        let ids: Vec<ItemId> = in_rows.into_iter().map(|line| line.id.clone()).collect();
        let lot = |Locked { stored, place, .. }| match stored {
            Ok(available) => Lot::Held { available, stripe: None, row: place },
            Err(stored) => Lot::Unreadable(stored),
        };
        let locked = rows::lock(spi, stock, &ids)?;
        for (id, row) in locked.iter().filter(|(_, row)| row.waited) {
            if let Ok(available) = row.stored
                && automatic::divide_contended(spi, stock, id, available)?
            {
                return Err(Error::divided());
            }
        }
        lots.extend(locked.into_iter().map(|(id, locked)| (id, lot(locked))));
    }
    striped.sort_unstable_by_key(|line| &line.id);
    for Line { id, quantity, .. } in striped {
        let Some(count) = stock.stripes_of(id) else { continue };
        if let Some(striped) = Striped::permitted(spi, stock, id, count)? {
            lots.insert(id.clone(), hold_stripe(&striped, *quantity, on_shortage)?);
        }
    }
    Ok(lots)
}

fn hold_stripe(striped: &Striped<'_>, requested: Quantity, on_shortage: OnShortage) -> Result<Lot> {
    let lot = |held: Held<'_>| Lot::Held { available: held.quantity, stripe: Some(held.stripe), row: None };
    match shortage::search(striped, requested)? {
        Supply::Held(held) => Ok(lot(held)),
        Supply::Short(available) if on_shortage == OnShortage::Partial && available.is_positive() => {
            let seen = striped.lock_all()?;
            striped.gather_all(seen).map(lot)
        }
        Supply::Short(available) => Ok(Lot::Held { available, stripe: None, row: None }),
    }
}

fn result(changes: &[Change], written: &[Quantity], short: &[Value]) -> String {
    let lines: Vec<String> = changes
        .iter()
        .zip(written)
        .map(|(Change { id, stripe, old_quantity, delta, .. }, new_quantity)| {
            let mut line = r#"{"inventory_id": "#.to_owned();
            id.push_json(&mut line);
            let (deducted, stripe) = (delta.negated(), stripe_key(*stripe));
            line + &format!(
                r#", "old_quantity": {old_quantity}, "new_quantity": {new_quantity}, "deducted": {deducted}{stripe}}}"#
            )
        })
        .collect();
    let short: Vec<String> = short.iter().map(spaced).collect();
    format!(r#"{{"success": true, "lines": [{}], "short": [{}]}}"#, lines.join(", "), short.join(", "))
}

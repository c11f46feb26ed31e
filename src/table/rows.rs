//! Rows of the stock table, locked and written many at a time.
//!
//! Lock order: items by id ascending, as PostgreSQL sorts them.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::quantity::{Capacity, Quantity};
use crate::pg::args::Arg;
use crate::pg::failpoint::{self, Point};
use crate::pg::heap::{Heap, TupleId};
use crate::pg::lookup;
use crate::pg::spi::Connection;
use crate::statements::Statement;
use crate::stats::waits::{self, LockTarget};
use crate::table::attachment::Attachment;
use crate::table::cache;
use std::collections::HashMap;

/// The quantity in the row of an item; the error is the text of a value that is no quantity.
pub type Stored = Result<Quantity, String>;

/// The quantity of an item that must have one.
pub fn readable(id: &ItemId, stored: Stored) -> Result<Quantity> {
    stored.map_err(|stored| Error::unreadable_stock(id, &stored))
}

/// A locked row.
#[derive(Clone)]
pub struct Locked {
    /// Its quantity.
    pub stored: Stored,
    /// Its place, where a row can be written by it.
    pub place: Option<TupleId>,
    /// The call waited for it.
    pub waited: bool,
}

/// Reads the quantity of an item without a lock; None where there is no such item that may be read.
pub fn look(spi: &Connection, stock: &Attachment, id: &ItemId) -> Option<Stored> {
    if let Some(key) = stock.native().and_then(|native| native.key.as_ref()) {
        return lookup::quantity(stock.oid, key, id, (stock.numbers[1], stock.names.quantity_type));
    }
    let rows = stock.run(spi, Statement::LookAtItem, &[Arg::item(id)]);
    (rows.count() > 0).then(|| rows.quantity(0, c"quantity", stock.names.quantity_type))
}

/// Locks items in the order of their ids and reads their quantities. Unknown items are missing from the result.
pub fn lock(spi: &Connection, stock: &Attachment, ids: &[ItemId]) -> Result<HashMap<ItemId, Locked>> {
    stock.require_sale_rights();
    let statement = stock.by_strength(Statement::LockItems, Statement::LockItemsNoKey);
    let lock = || stock.run(spi, statement, &[stock.bind_items(ids)]);
    let (rows, waited) = waits::taking(stock.oid, LockTarget::of(ids), lock);
    failpoint::reached(Point::Locked);
    let locked = |row| {
        let stored = rows.quantity(row, c"quantity", stock.names.quantity_type);
        let place = if stock.names.by_ctid { Some(rows.required(row, c"row")?) } else { None };
        Ok((rows.item(row, c"id")?, Locked { stored, place, waited: waited.is_some() && ids.len() == 1 }))
    };
    if cache::learn_divided(spi, stock, ids)? {
        return Err(Error::divided());
    }
    let mut locked = (0..rows.count()).map(locked).collect::<Result<HashMap<_, _>>>()?;
    if let Some(time) = waited.filter(|_| ids.len() > 1) {
        note_waits(stock, &mut locked, time)?;
    }
    Ok(locked)
}

/// Notes for which of several items a call waited: their rows have been written meanwhile.
fn note_waits(stock: &Attachment, locked: &mut HashMap<ItemId, Locked>, time: u64) -> Result<()> {
    if stock.native().is_none() {
        return Ok(());
    }
    let heap = Heap::open(stock.oid);
    let mut written = Vec::new();
    for (id, row) in locked.iter_mut() {
        if let Some(place) = row.place
            && heap.is_written_meanwhile(place)?
        {
            row.waited = true;
            written.push(id);
        }
    }
    waits::note(stock.oid, &written, time);
    Ok(())
}

/// Locks one item and reads its quantity.
pub fn lock_one(spi: &Connection, stock: &Attachment, id: &ItemId) -> Result<Locked> {
    let mut held = lock(spi, stock, std::slice::from_ref(id))?;
    held.remove(id).ok_or_else(|| Error::unknown_item(id))
}

/// Adds a quantity to each of some locked items, in one statement, and returns their new quantities.
pub fn change(
    spi: &Connection,
    stock: &Attachment,
    deltas: &[(&ItemId, Quantity)],
) -> Result<HashMap<ItemId, Quantity>> {
    let printed: Vec<String> = deltas.iter().map(|(_, delta)| printed(*delta, stock.capacity)).collect();
    let args = [stock.bind_items(deltas.iter().map(|(id, _)| *id)), Arg::owned(printed)];
    let rows = stock.run(spi, Statement::ChangeItems, &args);
    failpoint::reached(Point::Written);
    let changed = |row| {
        let id = rows.item(row, c"id")?;
        let quantity = readable(&id, rows.quantity(row, c"quantity", stock.names.quantity_type))?;
        Ok((id, quantity))
    };
    (0..rows.count()).map(changed).collect()
}

/// A quantity as the text of a parameter: a whole number for the whole-number types, which read no decimals.
pub fn printed(quantity: Quantity, capacity: Capacity) -> String {
    match (capacity, quantity.to_i64()) {
        (Capacity::Integer { .. }, Some(units)) => units.to_string(),
        _ => quantity.to_string(),
    }
}

//! Stripes by themselves: an item that stays contended is divided by the call that has waited for it, and put together
//! again by the totals worker when it is quiet.
//!
//! Lock order: an item is divided under its row lock alone, which the call has; sessions that wait for the row then
//! learn of the stripes, see `stats::divisions`. It is put together by a transaction that has the stock table alone,
//! which the worker takes only where that needs no waiting.

use crate::core::error::Result;
use crate::core::item_id::ItemId;
use crate::core::movement::MovementKind;
use crate::core::quantity::Quantity;
use crate::ledger::attribution::acting_as;
use crate::pg::invalidation;
use crate::pg::lock::{TableLock, try_lock_table};
use crate::pg::settings;
use crate::pg::shared_memory::attach;
use crate::pg::spi::Connection;
use crate::pg::transaction::has_one_snapshot;
use crate::pg::trigger::depth;
use crate::pg::worker::Look;
use crate::stats::{contention, divisions};
use crate::stripes::layout::{divide, merge_one, note_striped};
use crate::table::attachment::Attachment;
use crate::table::cache::learn_divided;

/// Enough for the sessions that sell at once on a large server; each costs a row of a few bytes.
const STRIPES: i16 = 16;

/// Divides a locked item that calls keep waiting for; returns whether it did. Only items of a table that is written
/// natively, so that no code of a user runs, and of which movements keep account.
pub fn divide_contended(spi: &Connection, stock: &Attachment, id: &ItemId, quantity: Quantity) -> Result<bool> {
    let may =
        settings::auto_stripe() && stock.has_ledger() && stock.native().is_some_and(|native| native.ledger.is_some());
    if !may || stock.names.partitioned || has_one_snapshot() || depth() > 0 {
        return Ok(false);
    }
    let Ok(memory) = attach() else { return Ok(false) };
    if !contention::waited(memory, stock.oid, id) || !divisions::begin(memory, stock.oid) {
        return Ok(false);
    }
    note_striped(spi, stock.oid)?;
    acting_as(MovementKind::Transfer, || divide(spi, stock, id, quantity, STRIPES))?;
    invalidation::announce_change(stock.companions.stripes);
    contention::divided(memory, stock.oid, id);
    learn_divided(spi, stock, std::slice::from_ref(id))
}

/// Puts the stripes of items together that were divided because they were contended, and are quiet.
pub fn merge_quiet(spi: &Connection, stock: &Attachment, look: Look) -> Result<Look> {
    let Ok(memory) = attach() else { return Ok(look) };
    let striped = stock.striped();
    let mut quiet = striped.keys().filter(|id| contention::is_quiet(memory, stock.oid, id));
    let Some(id) = quiet.next() else { return Ok(look) };
    // One at a time: the table is locked until the transaction ends.
    if !try_lock_table(stock.oid, TableLock::ShareRowExclusive) {
        return Ok(look);
    }
    merge_one(spi, stock, id)?;
    contention::merged(memory, stock.oid, id);
    Ok(Look::Changed)
}

/// Whether an item of the table is divided because it was contended: the worker is to look at it until it is quiet.
pub fn has_divided(stock: &Attachment) -> bool {
    attach().is_ok_and(|memory| stock.striped().keys().any(|id| contention::is_divided(memory, stock.oid, id)))
}

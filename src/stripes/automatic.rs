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
use crate::pg::args::Arg;
use crate::pg::invalidation;
use crate::pg::lock::{TableLock, try_lock_table};
use crate::pg::report;
use crate::pg::role::act_as_unfiltered;
use crate::pg::settings;
use crate::pg::shared_memory::attach;
use crate::pg::spi::Connection;
use crate::pg::transaction::{has_one_snapshot, in_subtransaction};
use crate::pg::trigger::depth;
use crate::pg::worker::Look;
use crate::statements::layout;
use crate::stats::{contention, divisions, waits};
use crate::stripes::layout::{MAX_STRIPES, divide, merge_one, try_note_striped};
use crate::table::attachment::Attachment;
use crate::table::cache::learn_divided;
use crate::table::native::Native;

/// The fewest stripes; each costs a row of a few bytes.
const FEWEST: usize = 16;

/// Divides a locked item that calls keep waiting for; returns whether it did. Only items of a table that is written
/// natively, stripes and ledger too, so that no code of a user runs. A division that fails is undone, and the item is
/// sold from its row.
pub fn divide_contended(spi: &Connection, stock: &Attachment, id: &ItemId, quantity: Quantity) -> Result<bool> {
    let is_native = |native: &Native| native.ledger.is_some() && native.stripes.is_some();
    let may = settings::auto_stripe() && stock.native().is_some_and(is_native) && !stock.names.partitioned;
    if !may || has_one_snapshot() || depth() > 0 {
        return Ok(false);
    }
    let Ok(memory) = attach() else { return Ok(false) };
    if !contention::waited(memory, stock.oid, id) || !divisions::begin(memory, stock.oid) {
        return Ok(false);
    }
    let divide = || -> Result<bool> {
        if !try_note_striped(spi, stock)? {
            return Ok(false);
        }
        // As many as there are sessions that want one.
        let wanted = waits::taking_now(memory, stock.oid, id).max(FEWEST).next_power_of_two();
        let stripes = i16::try_from(wanted).map_or(MAX_STRIPES, |wanted| wanted.min(MAX_STRIPES));
        acting_as(MovementKind::Transfer, || divide(spi, stock, id, quantity, stripes))?;
        invalidation::announce_change(stock.companions.stripes);
        Ok(true)
    };
    match in_subtransaction(|| divide().unwrap_or_else(|error| error.raise())) {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(message) => {
            report::debug(&format!("an item of {} was not divided: {message}", stock.names.relation));
            return Ok(false);
        }
    }
    contention::divided(memory, stock.oid, id);
    learn_divided(spi, stock, std::slice::from_ref(id))
}

/// Puts the stripes of items together that were divided because they were contended, and are quiet. The row, and then
/// the table, is locked where that needs no waiting.
pub fn merge_quiet(spi: &Connection, stock: &Attachment, look: Look) -> Result<Look> {
    let Ok(memory) = attach() else { return Ok(look) };
    let striped = stock.striped();
    let mut quiet = striped.keys().filter(|id| contention::is_quiet(memory, stock.oid, id));
    let Some(id) = quiet.next() else { return Ok(look) };
    let is_free = {
        let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
        spi.once(&layout::lock_free_row(&stock.names), &[Arg::item(id)]).count() > 0
    };
    // One at a time: the table is locked until the transaction ends.
    if is_free && try_lock_table(stock.oid, TableLock::ShareRowExclusive) {
        merge_one(spi, stock, id)?;
    }
    // A merge is the end of work: the worker need not look at the table longer because of it.
    Ok(look)
}

/// Whether an item of the table is divided because it was contended: the worker is to look at it until it is quiet.
pub fn has_divided(stock: &Attachment) -> bool {
    attach().is_ok_and(|memory| stock.striped().keys().any(|id| contention::is_divided(memory, stock.oid, id)))
}

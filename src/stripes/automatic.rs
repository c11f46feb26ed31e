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
use crate::pg::lock::{Lock, Mode, TableLock, try_lock_table};
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
use crate::stripes::totals;
use crate::table::attachment::Attachment;
use crate::table::cache::learn_divided;
use crate::table::configuration::CompanionOids;
use crate::table::native::Native;
use std::time::Duration;

/// The fewest stripes; each costs a row of a few bytes.
const FEWEST: usize = 16;
/// Before an item that could not be divided without waiting is tried again.
const AFTER_WAIT: Duration = Duration::from_secs(1);
/// The same where an error kept it from being divided.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

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
        // The item is locked: no session must wait for the holder of one of these tables. Without a worker it would
        // stay divided.
        if !are_free(stock) || !totals::start_worker(stock.owner) || !try_note_striped(spi, stock)? {
            return Ok(false);
        }
        // As many as there are sessions that will want one.
        let wanted = waits::wanting(memory, stock.oid, id).max(FEWEST).next_power_of_two();
        let stripes = i16::try_from(wanted).map_or(MAX_STRIPES, |wanted| wanted.min(MAX_STRIPES));
        acting_as(MovementKind::Transfer, || divide(spi, stock, id, quantity, stripes))?;
        invalidation::announce_change(stock.companions.stripes);
        Ok(true)
    };
    match in_subtransaction(|| divide().unwrap_or_else(|error| error.raise())) {
        Ok(true) => {}
        Ok(false) => {
            contention::pause(memory, stock.oid, id, AFTER_WAIT);
            return Ok(false);
        }
        Err(message) => {
            contention::pause(memory, stock.oid, id, AFTER_FAILURE);
            let message = format!("item {id} of {} cannot be divided into stripes: {message}", stock.names.relation);
            report::log(&message, "It is sold from its row; remove what keeps it from being divided.");
            return Ok(false);
        }
    }
    contention::divided(stock.oid, id);
    learn_divided(spi, stock, std::slice::from_ref(id))
}

/// Whether the tables that are written to divide an item, or to put it together, can be locked without waiting.
fn are_free(stock: &Attachment) -> bool {
    let CompanionOids { movements, stripes, totals, .. } = stock.companions;
    let tables = [Some(stripes), Some(totals), movements];
    tables.into_iter().flatten().all(|table| try_lock_table(table, TableLock::RowExclusive))
}

/// Puts the stripes of items together that were divided because they were contended, and are quiet. All locks are taken
/// where that needs no waiting, that of the stock table, for which sales of other items wait, last of all.
pub fn merge_quiet(spi: &Connection, stock: &Attachment, look: Look) -> Result<Look> {
    let Ok(memory) = attach() else { return Ok(look) };
    let striped = stock.striped();
    let mut quiet = striped.iter().filter(|(id, _)| contention::is_quiet(memory, stock.oid, id));
    let Some((id, stripes)) = quiet.next() else { return Ok(look) };
    let locked = |statement| spi.once(&statement, &[Arg::item(id)]).count();
    let is_free = are_free(stock) && {
        let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
        Lock::of_item(stock.oid, id).take(Mode::Exclusive)
            && locked(layout::lock_free_stripes(&stock.names)) == usize::from(stripes.unsigned_abs())
            && locked(layout::lock_free_total(&stock.names)) > 0
            && locked(layout::lock_free_row(&stock.names)) > 0
    };
    // One at a time: the table is locked until the transaction ends.
    if is_free && try_lock_table(stock.oid, TableLock::ShareRowExclusive) {
        merge_one(spi, stock, id)?;
    }
    // A merge is the end of work: the worker need not look at the table longer because of it.
    Ok(look)
}

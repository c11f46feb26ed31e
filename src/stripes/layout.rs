//! Divides an item into stripes, and merges them.
//!
//! Lock order: the stock table, so strongly that no session sells meanwhile; then the item. So a sale that runs knows
//! for its whole transaction which items are striped.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::movement::MovementKind;
use crate::core::part::{Access, Companion, Part};
use crate::core::quantity::Quantity;
use crate::ledger::attribution::{self, Extent};
use crate::ledger::context::CallContext;
use crate::ledger::recorder::recording;
use crate::ledger::writer::record_item;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::invalidation;
use crate::pg::relation;
use crate::pg::role::{act_as_unfiltered, current_role};
use crate::pg::spi::Connection;
use crate::pg::types::SqlType;
use crate::statements::attach as attach_statements;
use crate::statements::layout;
use crate::stats::contention;
use crate::stripes::striped::sum_in_snapshot;
use crate::table::attachment::Attachment;
use crate::table::configuration::{configuration, striped_tables};
use crate::table::rows;

/// The most stripes of one item.
pub const MAX_STRIPES: i16 = 256;

/// Merges all striped items of a healthy attachment; for detach, which holds the table alone.
pub fn merge_all(spi: &Connection, stock: &Attachment) -> Result<()> {
    if !stock.has_striped() {
        return Ok(());
    }
    let ids: Vec<ItemId> = stock.striped().keys().cloned().collect();
    let context = CallContext::of_session()?;
    let role = current_role();
    let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
    recording(stock, (MovementKind::Transfer, Extent::ManyRows), &context, role, || {
        // An item whose row a superuser deleted, with the triggers off, must not keep the table attached for ever.
        let there = rows::lock(spi, stock, &ids)?;
        there.keys().try_for_each(|id| merge(spi, stock, id).map(|_| ()))
    })
}

/// Merges one striped item; for a transaction that has the table alone.
pub fn merge_one(spi: &Connection, stock: &Attachment, id: &ItemId) -> Result<()> {
    let context = CallContext::of_session()?;
    let role = current_role();
    let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
    let merged = || merge(spi, stock, id).map(|_| ());
    recording(stock, (MovementKind::Transfer, Extent::ManyRows), &context, role, merged)?;
    invalidation::announce_change(stock.companions.stripes);
    Ok(())
}

/// Locks an item that no session sells, merges its stripes into its row where it has some, and returns its quantity.
pub fn merge(spi: &Connection, stock: &Attachment, id: &ItemId) -> Result<Quantity> {
    let shown = rows::lock_one(spi, stock, id)?;
    contention::merged(stock.oid, id);
    if stock.stripes_of(id).is_none() {
        return rows::readable(id, shown.stored);
    }
    let total = remove(spi, stock, id)?;
    // From here on the item has its row alone, also for a trigger of the row.
    invalidation::announce_change(stock.companions.stripes);
    record_item(stock, id, [Quantity::ZERO, total]);
    show(spi, stock, id, total)
}

/// Deletes the stripes of an item, and returns their sum.
fn remove(spi: &Connection, stock: &Attachment, id: &ItemId) -> Result<Quantity> {
    let _acting = stock.act_on_companions();
    let args = [Arg::item(id)];
    ready_for_stripes(stock)?;
    let deleted =
        attribution::writing(stock.companions.stripes, || spi.once(&layout::delete_stripes(&stock.names), &args));
    attribution::writing(stock.companions.totals, || spi.once(&layout::delete_total(&stock.names), &args).count());
    let unreadable = |stored: String| Error::unreadable_stock(id, &stored);
    let total = (0..deleted.count()).try_fold(Quantity::ZERO, |sum, row| {
        let quantity = deleted.quantity(row, c"quantity", SqlType::Numeric).map_err(unreadable)?;
        sum.checked_add(quantity).ok_or_else(|| Error::overflow(id, sum, quantity))
    })?;
    // A trigger or a rule on the stripes may have kept some.
    match sum_in_snapshot(spi, stock, id)? {
        None => Ok(total),
        Some(kept) => Err(Error::verification_failed(id, total, Some(kept), total)),
    }
}

fn ready_for_stripes(stock: &Attachment) -> Result<()> {
    let ready = |companion| stock.ready(Part::Companion(companion), Access::Write);
    [Companion::Stripes, Companion::Totals].into_iter().try_for_each(ready)
}

/// Writes the total into the row, and reads it back. It is written also where it is the same, so that PostgreSQL raises
/// a serialization failure in a transaction with an older snapshot. Returns the quantity of the row then: a trigger of
/// the owner may have changed it again.
fn show(spi: &Connection, stock: &Attachment, id: &ItemId, total: Quantity) -> Result<Quantity> {
    let integer = stock.names.quantity_type.is_integer();
    let printed = if integer { total.canonical().to_string() } else { total.to_string() };
    let args = [Arg::item(id), Arg::text(printed.as_str())];
    stock.ready(Part::Stock, Access::Write)?;
    let written = attribution::writing_totals(stock.oid, vec![(id.clone(), printed.clone())], || {
        spi.once(&layout::show_total(&stock.names), &args)
    });
    let shown = written.quantity(0, c"quantity", stock.names.quantity_type).ok();
    if shown != Some(total) {
        return Err(Error::verification_failed(id, total, shown, None::<Quantity>));
    }
    rows::readable(id, rows::lock_one(spi, stock, id)?.stored)
}

/// Moves the quantity of an item from its row to so many stripes, and returns it.
pub fn divide(spi: &Connection, stock: &Attachment, id: &ItemId, total: Quantity, count: i16) -> Result<Quantity> {
    let total = show(spi, stock, id, total)?;
    record_item(stock, id, [total, Quantity::ZERO]);
    let _acting = stock.act_on_companions();
    let shares = total.shares(count);
    let printed: Vec<String> = shares.iter().map(Quantity::to_string).collect();
    ready_for_stripes(stock)?;
    let args = [Arg::item(id), Arg::owned((1..=count).collect::<Vec<i16>>()), Arg::owned(printed)];
    let insert = || spi.once(&layout::insert_stripes(&stock.names), &args).count();
    let made = attribution::writing(stock.companions.stripes, insert);
    let printed = total.to_string();
    let args = [Arg::item(id), Arg::text(printed.as_str())];
    attribution::writing(stock.companions.totals, || spi.once(&layout::insert_total(&stock.names), &args).count());
    // The sum in the table is verified before the row is said to hold nothing itself.
    let kept = sum_in_snapshot(spi, stock, id)?;
    if made == shares.len() && kept == Some(total) {
        return Ok(total);
    }
    Err(Error::verification_failed(id, total, kept, None::<Quantity>))
}

/// The same where that needs no waiting; false where it does.
pub fn try_note_striped(spi: &Connection, stock: &Attachment) -> Result<bool> {
    let configuration = configuration()?;
    if striped_tables(spi, &configuration, stock.owner)?.contains(&stock.oid) {
        return Ok(true);
    }
    let sql = attach_statements::try_set_striped(&configuration.relation);
    configuration.writing(|| spi.once(&sql, &[Arg::owned(stock.oid)]).count() > 0)
}

/// Notes that a table has stripes: the totals worker looks at such tables alone.
pub fn note_striped(spi: &Connection, table: Oid) -> Result<()> {
    let configuration = configuration()?;
    let noted = configuration.writing(|| {
        spi.once(&attach_statements::set_striped(&configuration.relation), &[Arg::owned(table)]).count() > 0
    })?;
    let owner = relation::owner(table).ok_or_else(|| Error::no_table(table.to_u32()))?;
    // A table that was attached after the snapshot of the transaction is not seen.
    if noted || striped_tables(spi, &configuration, owner)?.contains(&table) {
        return Ok(());
    }
    Err(Error::one_snapshot("stripe_inventory"))
}

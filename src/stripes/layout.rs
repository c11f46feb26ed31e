//! Hot items: their stock cut into stripes, and put together again.
//!
//! Lock order: the stock table, so strongly that nobody sells meanwhile; then the item. So a sale that runs knows for its whole
//! transaction which items are striped. How single stripes are held and changed is the matter of holding.rs.

use crate::attach::companions;
use crate::core::error::{Fault, Outcome};
use crate::core::json::{number, spaced};
use crate::core::quantity::{Quantity, Shape};
use crate::ledger::attribution::{self, writing_totals};
use crate::ledger::context::{CallContext, Given};
use crate::ledger::recorder::{self, Kind, Rows, record_whole};
use crate::pg::invalidation;
use crate::pg::relation;
use crate::pg::report::answered;
use crate::pg::role::{act_as_unfiltered, current_role};
use crate::pg::spi::{self, Arg, Connection, Sight, one_snapshot};
use crate::stock::call::{Call, in_context, on_stock, require_no_other};
use crate::stock::order;
use crate::stripes::striped;
use crate::stripes::totals;
use crate::table::attachment::{self, Attachment, Intent, Kept};
use crate::table::catalog::{self, Columns};
use pgrx::{AnyNumeric, Uuid, pg_extern, pg_sys};
use serde_json::{Value, json};
use std::ffi::CStr;

/// The most stripes of one item.
pub const MAX_STRIPES: i16 = 256;

/// Cuts the stock of a hot item into stripes, so that many sessions can sell it at once.
///
/// A sale of a striped item takes one free stripe and waits for nobody while there is one; the row of the stock table shows the
/// total, which a background worker brings up to date within a second, and available_inventory is exact. Direct writes to the
/// quantity of the row are refused. Waits for all running sales, and new ones wait until the transaction ends. An item that is
/// striped already is cut anew, evenly. p_inventory_id: the item. p_stripes: 2 to 256, about as many as sessions that sell it at
/// once. Answers {"success": true, "inventory_id", "quantity", "stripes"}. Errors: IV002 unknown item, 22004 NULL, 22023 too few
/// or too many stripes, 55000 no stock table attached.
#[pg_extern(sql = false)]
pub fn stripe_inventory(p_inventory_id: Option<Uuid>, p_stripes: Option<i32>) -> Vec<u8> {
    answered(stripe(p_inventory_id, p_stripes))
}

/// Puts the stripes of an item together again: its row of the stock table holds the stock from then on.
///
/// Waits for all running sales, and new ones wait until the transaction ends. An item that is not striped stays as it is.
/// p_inventory_id: the item. Answers {"success": true, "inventory_id", "quantity"}. Errors: IV002 unknown item, 22004 NULL, 55000
/// no stock table attached.
#[pg_extern(sql = false)]
pub fn unstripe_inventory(p_inventory_id: Option<Uuid>) -> Vec<u8> {
    answered(unstripe(p_inventory_id))
}

/// Answers what an item has, exactly, striped or not: what is committed when it is asked for.
///
/// p_inventory_id: the item. Locks no row. Errors: IV002 unknown item, 22004 NULL, 55000 no stock table attached.
#[pg_extern(sql = false)]
pub fn available_inventory(p_inventory_id: Option<Uuid>) -> AnyNumeric {
    available(p_inventory_id).unwrap_or_else(|fault| fault.raise())
}

fn stripe(id: Option<Uuid>, stripes: Option<i32>) -> Outcome<String> {
    in_context(Given::nothing(), Given::nothing(), |context| {
        let id = item(id)?;
        let stripes = stripes.ok_or_else(|| Fault::null_argument("p_stripes"))?;
        let count = i16::try_from(stripes).ok().filter(|count| (2..=MAX_STRIPES).contains(count));
        let count = count.ok_or_else(|| Fault::stripe_count(stripes, MAX_STRIPES))?;
        alone(
            ("stripe_inventory", c"stripe_inventory()"),
            context,
            id,
            |reference| json!([id.to_string(), count, reference]),
            |spi, stock| {
                let quantity = put_together(spi, stock, id)?;
                if stock.movements.is_none() {
                    guard_stock(spi, stock)?;
                }
                let quantity = cut(spi, stock, id, quantity, count)?;
                Ok(json!({
                    "success": true, "inventory_id": id.to_string(), "quantity": number(quantity), "stripes": count,
                }))
            },
        )
    })
}

fn unstripe(id: Option<Uuid>) -> Outcome<String> {
    in_context(Given::nothing(), Given::nothing(), |context| {
        let id = item(id)?;
        alone(
            ("unstripe_inventory", c"unstripe_inventory()"),
            context,
            id,
            |reference| json!([id.to_string(), reference]),
            |spi, stock| {
                let quantity = put_together(spi, stock, id)?;
                Ok(json!({"success": true, "inventory_id": id.to_string(), "quantity": number(quantity)}))
            },
        )
    })
}

/// Runs `act` while nobody else changes stock, and tells the others of it.
fn alone(
    (function, command): (&'static str, &'static CStr),
    context: CallContext,
    id: Uuid,
    arguments: impl FnOnce(Option<&str>) -> Value,
    act: impl FnOnce(&Connection, &Attachment) -> Outcome<Value>,
) -> Outcome<String> {
    spi::require_writable(command);
    require_no_other(function)?;
    // Totals are written as the owner, in the caller's session or in the worker.
    attachment::require_rights_of_caller()?;
    let stock = attachment::current_alone()?;
    stock.require_trusted_code()?;
    // What the calling statement has written is not recorded yet, nor checked against the stripes that there were.
    if relation::has_pending_triggers(stock.oid) {
        return Err(Fault::write_running(function));
    }
    let reference = context.reference.clone();
    let call = Call { function, kind: Kind::Transfer, rows: Rows::Many, needs_all: true, context };
    call.run(
        &[id],
        || arguments(reference.as_deref()).to_string(),
        |spi, stock| {
            let answer = act(spi, stock)?;
            invalidation::announce_change(stock.stripes.oid);
            Ok(spaced(&answer))
        },
    )
}

/// Puts all striped items of a healthy attachment together; for detach, which holds the table alone.
pub fn merge_all(spi: &Connection, stock: &Attachment) -> Outcome<()> {
    if stock.striped.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = stock.striped.keys().map(|bytes| Uuid::from_bytes(*bytes)).collect();
    let context = CallContext::of_session()?;
    let role = current_role();
    let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
    recorder::within(stock, Kind::Transfer, &context, role, Rows::Many, || {
        // An item whose row a superuser took away, with the triggers off, must not keep the table attached for ever.
        let there = order::lock(spi, stock, ids)?;
        there.keys().try_for_each(|bytes| put_together(spi, stock, Uuid::from_bytes(*bytes)).map(|_| ()))
    })
}

/// Locks an item that nobody sells, gives its stripes back to its row where it has some, and says what it has.
fn put_together(spi: &Connection, stock: &Attachment, id: Uuid) -> Outcome<Quantity> {
    let mut shown = order::lock(spi, stock, vec![id])?;
    let shown = shown.remove(id.as_bytes()).ok_or_else(|| Fault::unknown_item(&id.to_string()))?;
    if stock.stripes_of(&id).is_none() {
        return order::readable(&id, shown);
    }
    let total = remove(spi, stock, id)?;
    // From here on the item has its row alone, also for what a trigger of the row does with it.
    invalidation::announce_change(stock.stripes.oid);
    record_whole(stock, id, [Quantity::ZERO, total]);
    show(spi, stock, id, total)
}

/// Deletes the stripes of an item, and gives their sum.
fn remove(spi: &Connection, stock: &Attachment, id: Uuid) -> Outcome<Quantity> {
    let _acting = stock.act_on_companions();
    let delete = |table: &str| format!("DELETE FROM {table} AS s WHERE s.inventory_id OPERATOR(pg_catalog.=) $1");
    let sql = format!("{} RETURNING s.quantity", delete(&stock.stripes.name));
    let rows = attribution::writing(stock.stripes.oid, || spi.once(&sql, &[pg_sys::UUIDOID], &[Arg::owned(id)]));
    let sql = delete(&stock.totals.name);
    attribution::writing(stock.totals.oid, || spi.once(&sql, &[pg_sys::UUIDOID], &[Arg::owned(id)]).count());
    let unreadable = |stored: String| Fault::unreadable_stock(&id.to_string(), &stored);
    let total = (0..rows.count()).try_fold(Quantity::ZERO, |sum, row| {
        let quantity = rows.quantity(row, 1, pg_sys::NUMERICOID).map_err(unreadable)?;
        sum.plus(quantity).ok_or_else(|| Fault::overflow(&id.to_string(), sum, quantity))
    })?;
    // A trigger or a rule on the stripes may have kept some.
    match striped::sum_in_snapshot(spi, stock, id)? {
        None => Ok(total),
        Some(kept) => Err(Fault::verification_failed(&id.to_string(), total, Some(kept), total)),
    }
}

/// Writes the total into the row, and reads it back. It is written also where it is the same, so that PostgreSQL tells a
/// transaction with an older snapshot that it cannot be serialized. Gives what the row has then: a trigger of the owner's may have
/// changed it again.
fn show(spi: &Connection, stock: &Attachment, id: Uuid, total: Quantity) -> Outcome<Quantity> {
    let (source, column, quantity) = (stock.source(), &stock.id, &stock.quantity);
    let number = if matches!(stock.shape, Shape::Whole { .. }) { "int8" } else { "numeric" };
    let sql = format!(
        "UPDATE {source} SET {quantity} = $2::pg_catalog.{number} WHERE stock.{column} OPERATOR(pg_catalog.=) $1
         RETURNING stock.{quantity}"
    );
    let printed = if number == "int8" { total.canonical().to_string() } else { total.to_string() };
    let args = [Arg::owned(id), Arg::text(printed.as_str())];
    let rows = writing_totals([(id, printed.clone())], || spi.once(&sql, &[pg_sys::UUIDOID, pg_sys::TEXTOID], &args));
    let shown = rows.quantity(0, 1, stock.quantity_type).ok();
    if shown != Some(total) {
        return Err(Fault::verification_failed(&id.to_string(), total, shown, Quantity::ZERO));
    }
    let now = order::lock(spi, stock, vec![id])?.remove(id.as_bytes());
    order::readable(&id, now.ok_or_else(|| Fault::unknown_item(&id.to_string()))?)
}

/// Moves what an item has from its row to so many stripes, and says how much that is.
fn cut(spi: &Connection, stock: &Attachment, id: Uuid, total: Quantity, count: i16) -> Outcome<Quantity> {
    let total = show(spi, stock, id, total)?;
    record_whole(stock, id, [total, Quantity::ZERO]);
    let _acting = stock.act_on_companions();
    let sql = format!(
        "INSERT INTO {} (inventory_id, stripe, quantity)
         SELECT $1, share.stripe, share.quantity
           FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3::pg_catalog.numeric[])) AS share (stripe, quantity)",
        stock.stripes.name
    );
    let numbers: Vec<i16> = (1..=count).collect();
    let shares: Vec<String> = total.shares(count).into_iter().map(|share| share.to_string()).collect();
    let types = [pg_sys::UUIDOID, pg_sys::INT2ARRAYOID, pg_sys::TEXTARRAYOID];
    let args = [Arg::owned(id), Arg::owned(numbers), Arg::owned(shares)];
    let made = attribution::writing(stock.stripes.oid, || spi.once(&sql, &types, &args).count());
    let sql = format!("INSERT INTO {} (inventory_id, quantity) VALUES ($1, $2::pg_catalog.numeric)", stock.totals.name);
    let printed = total.to_string();
    let args = [Arg::owned(id), Arg::text(printed.as_str())];
    attribution::writing(stock.totals.oid, || spi.once(&sql, &[pg_sys::UUIDOID, pg_sys::TEXTOID], &args).count());
    // What the table keeps is verified before the row says that it holds nothing itself.
    let kept = striped::sum_in_snapshot(spi, stock, id)?;
    if made == count as usize && kept == Some(total) {
        return Ok(total);
    }
    Err(Fault::verification_failed(&id.to_string(), total, kept, Quantity::ZERO))
}

/// Without a ledger no trigger of ours stands on the stock table until something is striped.
fn guard_stock(spi: &Connection, stock: &Attachment) -> Outcome<()> {
    let table = catalog::describe(spi, stock.oid, Columns::None)
        .ok_or_else(|| Fault::internal("the stock table is not there"))?;
    companions::guard_striped_stock(spi, &table)
}

fn available(id: Option<Uuid>) -> Outcome<AnyNumeric> {
    let id = item(id)?;
    on_stock(Intent::Read, |spi, stock| {
        // The rights in force decide whether the item may be seen.
        let plan = stock.plan(spi, Kept::Shown, || {
            let (source, column, quantity) = (stock.source(), &stock.id, &stock.quantity);
            let item = format!("stock.{column} OPERATOR(pg_catalog.=) $1");
            (format!("SELECT stock.{quantity}::pg_catalog.numeric FROM {source} WHERE {item}"), vec![pg_sys::UUIDOID])
        });
        let shown = spi.run(plan, &[Arg::owned(id)], Sight::Isolation).get::<AnyNumeric>(0, 1);
        let shown = shown.ok_or_else(|| Fault::unknown_item(&id.to_string()))?;
        let striped = stock.stripes_of(&id).is_some();
        // In an older snapshot an item may have stripes that is put together by now, and the reverse.
        if !striped && !one_snapshot() {
            return Ok(shown);
        }
        let sum = striped::sum(spi, stock, id).get::<AnyNumeric>(0, 1);
        if striped && sum.as_ref().is_some_and(|sum| *sum != shown) {
            totals::keep();
        }
        Ok(sum.unwrap_or(shown))
    })
}

fn item(id: Option<Uuid>) -> Outcome<Uuid> {
    id.ok_or_else(|| Fault::null_argument("p_inventory_id"))
}

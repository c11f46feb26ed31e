//! stripe_inventory and unstripe_inventory.

use crate::attach::triggers::guard_striped_stock;
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::{number, spaced};
use crate::core::movement::MovementKind;
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::args::KeyArg;
use crate::pg::invalidation;
use crate::pg::relation::has_pending_triggers;
use crate::pg::report::finish;
use crate::pg::spi::Connection;
use crate::pg::transaction::require_writable;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::stock::call::{Call, in_context, only, require_no_other};
use crate::stripes::layout::{MAX_STRIPES, divide, merge, note_striped};
use crate::table::attachment::Attachment;
use crate::table::cache;
use pgrx::pg_extern;
use serde_json::{Value, json};
use std::ffi::CStr;

/// Splits the stock of a hot item into stripes, so that many sessions can sell it at once.
#[pg_extern(sql = false)]
fn stripe_item(p_inventory_id: Option<KeyArg>, p_stripes: Option<i32>) -> Vec<u8> {
    let (reference, key) = (ContextText::nothing(), ContextText::nothing());
    finish(counted(Function::StripeInventory, || {
        in_context(reference, key, |context| stripe(p_inventory_id, p_stripes, context))
    }))
}

/// Merges the stripes of an item back into its row of the stock table.
#[pg_extern(sql = false)]
fn unstripe_item(p_inventory_id: Option<KeyArg>) -> Vec<u8> {
    let (reference, key) = (ContextText::nothing(), ContextText::nothing());
    finish(counted(Function::UnstripeInventory, || {
        in_context(reference, key, |context| unstripe(p_inventory_id, context))
    }))
}

fn stripe(id: Option<KeyArg>, stripes: Option<i32>, context: CallContext) -> Result<String> {
    let key = id.ok_or_else(|| Error::null_argument("p_inventory_id"))?.text()?;
    let stripes = stripes.ok_or_else(|| Error::null_argument("p_stripes"))?;
    let count = i16::try_from(stripes).ok().filter(|count| (2..=MAX_STRIPES).contains(count));
    let count = count.ok_or_else(|| Error::stripe_count(stripes, MAX_STRIPES))?;
    alone(
        (Function::StripeInventory, c"stripe_inventory()"),
        context,
        &key,
        |id, reference| json!([id.to_json(), count, reference]),
        |spi, stock, id| {
            let quantity = merge(spi, stock, id)?;
            guard_striped_stock(spi, stock)?;
            note_striped(spi, stock.oid)?;
            let quantity = number(divide(spi, stock, id, quantity, count)?);
            Ok(json!({"success": true, "inventory_id": id.to_json(), "quantity": quantity, "stripes": count}))
        },
    )
}

fn unstripe(id: Option<KeyArg>, context: CallContext) -> Result<String> {
    let key = id.ok_or_else(|| Error::null_argument("p_inventory_id"))?.text()?;
    alone(
        (Function::UnstripeInventory, c"unstripe_inventory()"),
        context,
        &key,
        |id, reference| json!([id.to_json(), reference]),
        |spi, stock, id| {
            let quantity = number(merge(spi, stock, id)?);
            Ok(json!({"success": true, "inventory_id": id.to_json(), "quantity": quantity}))
        },
    )
}

/// Runs `act` while no other session changes stock, and announces the change of the layout.
fn alone(
    (function, command): (Function, &'static CStr),
    context: CallContext,
    key: &str,
    arguments: impl FnOnce(&ItemId, Option<&str>) -> Value,
    act: impl Fn(&Connection, &Attachment, &ItemId) -> Result<Value>,
) -> Result<String> {
    require_writable(command);
    require_no_other(function.name())?;
    // Totals are written as the owner, in the caller's session or in the worker.
    cache::require_rights_of_caller()?;
    let stock = cache::current_alone()?;
    stock.require_trusted_code()?;
    // Changes of the calling statement are not recorded yet, nor checked against the stripes that there were.
    if has_pending_triggers(stock.oid) {
        return Err(Error::write_running(function.name()));
    }
    let reference = context.reference.clone();
    let (kind, extent) = (MovementKind::Transfer, Extent::ManyRows);
    let call = Call { function, kind, extent, needs_all: true, context };
    call.run(
        |stock| stock.item("p_inventory_id", key),
        only,
        |id| arguments(id, reference.as_deref()).to_string(),
        |spi, stock, id| {
            let result = act(spi, stock, id)?;
            invalidation::announce_change(stock.companions.stripes);
            Ok(spaced(&result))
        },
    )
}

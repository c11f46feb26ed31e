//! decrement_inventory and decrement_item.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::movement::MovementKind;
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::args::{KeyArg, NumericArg, UuidArg};
use crate::pg::encoding::from_server;
use crate::pg::report::finish;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::stock::amount;
use crate::stock::call::{Call, in_context, only};
use crate::stock::sale;
use crate::table::attachment::Attachment;
use pgrx::pg_extern;
use serde_json::json;

/// Deducts a quantity from the stock of an item, exactly and completely, or changes nothing.
#[pg_extern(sql = false)]
fn decrement_inventory(p_inventory_id: Option<UuidArg>, p_quantity: Option<NumericArg>) -> Vec<u8> {
    finish(selling(Function::DecrementInventory, [ContextText::nothing(), ContextText::nothing()], |context| {
        let id = p_inventory_id.ok_or_else(|| Error::null_argument("p_inventory_id"))?.id();
        let resolve = |stock: &Attachment| stock.require_uuids().map(|()| id);
        sell(Function::DecrementInventory, resolve, p_quantity.as_ref(), context)
    }))
}

/// Deducts a quantity from the stock of an item whose id has any type, exactly and completely, or changes nothing.
#[pg_extern(sql = false)]
fn decrement_item(
    p_item: Option<KeyArg>,
    p_quantity: Option<NumericArg>,
    p_reference: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
) -> Vec<u8> {
    let reference = ContextText::argument("p_reference", p_reference.map(from_server));
    let key = ContextText::argument("p_idempotency_key", p_idempotency_key.map(from_server));
    finish(selling(Function::DecrementItem, [reference, key], |context| {
        let item = p_item.ok_or_else(|| Error::null_argument("p_item"))?.text()?;
        let resolve = |stock: &Attachment| stock.item("p_item", &item);
        sell(Function::DecrementItem, resolve, p_quantity.as_ref(), context)
    }))
}

fn selling(
    function: Function,
    [reference, key]: [ContextText; 2],
    act: impl FnOnce(CallContext) -> Result<String>,
) -> Result<String> {
    counted(function, || in_context(reference, key, act))
}

fn sell(
    function: Function,
    resolve: impl FnOnce(&Attachment) -> Result<ItemId>,
    argument: Option<&NumericArg>,
    context: CallContext,
) -> Result<String> {
    let argument = argument.ok_or_else(|| Error::null_argument("p_quantity"))?;
    let requested = amount::positive("p_quantity", Some(argument))?;
    let reference = context.reference.clone();
    let (kind, extent) = (MovementKind::Sale, Extent::OneRow);
    let call = Call { function, kind, extent, needs_all: true, context };
    call.run(
        resolve,
        only,
        |id| json!([id.to_json(), requested.canonical().to_string(), reference]).to_string(),
        |spi, stock, id| sale::sell(spi, stock, id, requested, argument),
    )
}

//! decrement_inventory.

use crate::core::error::{Error, Result};
use crate::core::movement::MovementKind;
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::args::{ItemArg, NumericArg};
use crate::pg::report::finish;
use crate::stock::amount;
use crate::stock::call::{Call, in_context};
use crate::stock::sale;
use pgrx::pg_extern;
use serde_json::json;

/// Deducts a quantity from the stock of an item, exactly and completely, or changes nothing.
#[pg_extern(sql = false)]
fn decrement_inventory(p_inventory_id: Option<ItemArg>, p_quantity: Option<NumericArg>) -> Vec<u8> {
    let (reference, key) = (ContextText::nothing(), ContextText::nothing());
    finish(in_context(reference, key, |context| sell(p_inventory_id, p_quantity.as_ref(), context)))
}

fn sell(id: Option<ItemArg>, argument: Option<&NumericArg>, context: CallContext) -> Result<String> {
    let id = id.ok_or_else(|| Error::null_argument("p_inventory_id"))?.id();
    let argument = argument.ok_or_else(|| Error::null_argument("p_quantity"))?;
    let requested = amount::positive("p_quantity", Some(argument))?;
    let reference = context.reference.clone();
    let call = Call {
        function: "decrement_inventory",
        kind: MovementKind::Sale,
        extent: Extent::OneRow,
        needs_all: true,
        context,
    };
    call.run(
        std::slice::from_ref(&id),
        || json!([id.to_json(), requested.canonical().to_string(), reference]).to_string(),
        |spi, stock| sale::sell(spi, stock, &id, requested, argument),
    )
}

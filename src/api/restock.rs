//! restock_inventory.

use crate::core::error::{Error, Result};
use crate::core::json::{number, spaced, with_stripe};
use crate::core::movement::MovementKind;
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::args::{KeyArg, NumericArg};
use crate::pg::encoding::from_server;
use crate::pg::report::finish;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::stock::amount;
use crate::stock::call::{Call, in_context, only};
use crate::stock::hold;
use pgrx::pg_extern;
use serde_json::json;

/// Adds a quantity to the stock of an item, for a delivery or a return.
#[pg_extern(sql = false)]
fn restock_item(
    p_inventory_id: Option<KeyArg>,
    p_quantity: Option<NumericArg>,
    p_reference: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
) -> Vec<u8> {
    let reference = ContextText::argument("p_reference", p_reference.map(from_server));
    let key = ContextText::argument("p_idempotency_key", p_idempotency_key.map(from_server));
    finish(counted(Function::RestockInventory, || {
        in_context(reference, key, |context| restock(p_inventory_id, p_quantity.as_ref(), context))
    }))
}

fn restock(id: Option<KeyArg>, quantity: Option<&NumericArg>, context: CallContext) -> Result<String> {
    let key = id.ok_or_else(|| Error::null_argument("p_inventory_id"))?.text()?;
    let added = amount::positive("p_quantity", quantity)?;
    let reference = context.reference.clone();
    let call = Call {
        function: Function::RestockInventory,
        kind: MovementKind::Restock,
        extent: Extent::OneRow,
        needs_all: true,
        context,
    };
    call.run(
        |stock| stock.item("p_inventory_id", &key),
        only,
        |id| json!([id.to_json(), added.canonical().to_string(), reference]).to_string(),
        |spi, stock, id| {
            stock.require_fit("p_quantity", added)?;
            let place = hold::for_addition(spi, stock, id, added)?;
            let new_quantity = place.add(spi, stock, added)?;
            let result = json!({
                "success": true, "inventory_id": id.to_json(), "old_quantity": number(place.quantity),
                "new_quantity": number(new_quantity), "added": number(added),
            });
            Ok(spaced(&with_stripe(result, place.stripe)))
        },
    )
}

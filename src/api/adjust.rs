//! adjust_inventory.

use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::core::movement::MovementKind;
use crate::core::quantity::Quantity;
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::args::{ItemArg, NumericArg};
use crate::pg::encoding::from_server;
use crate::pg::report::finish;
use crate::stock::adjust;
use crate::stock::amount::not_negative;
use crate::stock::call::{Call, in_context};
use pgrx::pg_extern;
use serde_json::json;

/// Sets the stock of an item to a counted quantity.
#[pg_extern(sql = false)]
fn adjust_inventory(
    p_inventory_id: Option<ItemArg>,
    p_counted_quantity: Option<NumericArg>,
    p_expected_quantity: Option<NumericArg>,
    p_reason: Option<&[u8]>,
) -> Vec<u8> {
    let reason = ContextText::argument("p_reason", p_reason.map(from_server));
    let quantities = [p_counted_quantity.as_ref(), p_expected_quantity.as_ref()];
    finish(in_context(reason, ContextText::nothing(), |context| count(p_inventory_id, quantities, context)))
}

fn count(id: Option<ItemArg>, [counted, expected]: [Option<&NumericArg>; 2], context: CallContext) -> Result<String> {
    let id = id.ok_or_else(|| Error::null_argument("p_inventory_id"))?.id();
    let counted = not_negative("p_counted_quantity", counted)?;
    let expected = expected.map(|value| not_negative("p_expected_quantity", Some(value))).transpose()?;
    let reference = context.reference.clone();
    let call = Call {
        function: "adjust_inventory",
        kind: MovementKind::Adjustment,
        extent: Extent::OneRow,
        needs_all: true,
        context,
    };
    let canonical = |quantity: Quantity| quantity.canonical().to_string();
    call.run(
        std::slice::from_ref(&id),
        || json!([id.to_json(), canonical(counted), expected.map(canonical), reference]).to_string(),
        |spi, stock| adjust::set(spi, stock, &id, counted, expected).map(|result| spaced(&result)),
    )
}

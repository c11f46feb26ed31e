//! adjust_inventory.

use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::core::movement::MovementKind;
use crate::core::quantity::Quantity;
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::args::{KeyArg, Moment, NumericArg};
use crate::pg::encoding::from_server;
use crate::pg::report::finish;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::stock::adjust::{self, Count};
use crate::stock::amount::not_negative;
use crate::stock::call::{Call, in_context, only};
use pgrx::pg_extern;
use serde_json::{Value, json};

/// Sets the stock of an item to a counted quantity.
#[pg_extern(sql = false)]
fn adjust_counted_item(
    p_inventory_id: Option<KeyArg>,
    p_counted_quantity: Option<NumericArg>,
    p_expected_quantity: Option<NumericArg>,
    p_reason: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
    p_counted_at: Option<Moment>,
) -> Vec<u8> {
    let reason = ContextText::argument("p_reason", p_reason.map(from_server));
    let quantities = [p_counted_quantity.as_ref(), p_expected_quantity.as_ref()];
    let key = ContextText::argument("p_idempotency_key", p_idempotency_key.map(from_server));
    finish(counted(Function::AdjustInventory, || {
        in_context(reason, key, |context| count(p_inventory_id, quantities, p_counted_at, context))
    }))
}

fn count(
    id: Option<KeyArg>,
    [counted, expected]: [Option<&NumericArg>; 2],
    moment: Option<Moment>,
    context: CallContext,
) -> Result<String> {
    let key = id.ok_or_else(|| Error::null_argument("p_inventory_id"))?.text()?;
    let counted = not_negative("p_counted_quantity", counted)?;
    let expected = expected.map(|value| not_negative("p_expected_quantity", Some(value))).transpose()?;
    let reference = context.reference.clone();
    let call = Call {
        function: Function::AdjustInventory,
        kind: MovementKind::Adjustment,
        extent: Extent::OneRow,
        needs_all: true,
        context,
    };
    let canonical = |quantity: Quantity| quantity.canonical().to_string();
    call.run(
        |stock| stock.item("p_inventory_id", &key),
        only,
        |id| {
            let mut arguments =
                vec![id.to_json(), json!(canonical(counted)), json!(expected.map(canonical)), json!(reference)];
            arguments.extend(moment.map(|Moment(moment)| json!(moment)));
            Value::from(arguments).to_string()
        },
        |spi, stock, id| {
            let count = Count { counted, expected, moment };
            adjust::set(spi, stock, id, &count).map(|result| spaced(&result))
        },
    )
}

//! transfer_inventory.

use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::core::movement::MovementKind;
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::args::{ItemArg, NumericArg};
use crate::pg::encoding::from_server;
use crate::pg::report::finish;
use crate::stock::amount;
use crate::stock::call::{Call, in_context};
use crate::stock::transfer::shift;
use pgrx::pg_extern;
use serde_json::json;

/// Moves a quantity from one item to another, such as the same product at two locations.
#[pg_extern(sql = false)]
fn transfer_inventory(
    p_from: Option<ItemArg>,
    p_to: Option<ItemArg>,
    p_quantity: Option<NumericArg>,
    p_reference: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
) -> Vec<u8> {
    let reference = ContextText::argument("p_reference", p_reference.map(from_server));
    let key = ContextText::argument("p_idempotency_key", p_idempotency_key.map(from_server));
    finish(in_context(reference, key, |context| transfer([p_from, p_to], p_quantity.as_ref(), context)))
}

fn transfer([from, to]: [Option<ItemArg>; 2], quantity: Option<&NumericArg>, context: CallContext) -> Result<String> {
    let from = from.ok_or_else(|| Error::null_argument("p_from"))?.id();
    let to = to.ok_or_else(|| Error::null_argument("p_to"))?.id();
    let moved = amount::positive("p_quantity", quantity)?;
    if from == to {
        return Err(Error::same_item(&from));
    }
    let reference = context.reference.clone();
    let call = Call {
        function: "transfer_inventory",
        kind: MovementKind::Transfer,
        extent: Extent::ManyRows,
        needs_all: true,
        context,
    };
    call.run(
        &[from.clone(), to.clone()],
        || json!([from.to_json(), to.to_json(), moved.canonical().to_string(), reference]).to_string(),
        |spi, stock| shift(spi, stock, [&from, &to], moved).map(|result| spaced(&result)),
    )
}

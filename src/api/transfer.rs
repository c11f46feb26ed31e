//! transfer_inventory.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::spaced;
use crate::core::movement::MovementKind;
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::args::{KeyArg, NumericArg};
use crate::pg::encoding::from_server;
use crate::pg::report::finish;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::stock::amount;
use crate::stock::call::{Call, in_context};
use crate::stock::transfer::shift;
use pgrx::pg_extern;
use serde_json::json;

/// Moves a quantity from one item to another, such as the same product at two locations.
#[pg_extern(sql = false)]
fn transfer_items(
    p_from: Option<KeyArg>,
    p_to: Option<KeyArg>,
    p_quantity: Option<NumericArg>,
    p_reference: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
) -> Vec<u8> {
    let reference = ContextText::argument("p_reference", p_reference.map(from_server));
    let key = ContextText::argument("p_idempotency_key", p_idempotency_key.map(from_server));
    finish(counted(Function::TransferInventory, || {
        in_context(reference, key, |context| transfer([p_from, p_to], p_quantity.as_ref(), context))
    }))
}

fn transfer([from, to]: [Option<KeyArg>; 2], quantity: Option<&NumericArg>, context: CallContext) -> Result<String> {
    let from = from.ok_or_else(|| Error::null_argument("p_from"))?.text()?;
    let to = to.ok_or_else(|| Error::null_argument("p_to"))?.text()?;
    let moved = amount::positive("p_quantity", quantity)?;
    let reference = context.reference.clone();
    let (kind, extent) = (MovementKind::Transfer, Extent::ManyRows);
    let call = Call { function: Function::TransferInventory, kind, extent, needs_all: true, context };
    call.run(
        |stock| {
            let [from, to] = [stock.item("p_from", &from)?, stock.item("p_to", &to)?];
            if from == to { Err(Error::same_item(&from)) } else { Ok([from, to]) }
        },
        |items: &[ItemId; 2]| items.to_vec(),
        |[from, to]| json!([from.to_json(), to.to_json(), moved.canonical().to_string(), reference]).to_string(),
        |spi, stock, [from, to]| shift(spi, stock, [from, to], moved).map(|result| spaced(&result)),
    )
}

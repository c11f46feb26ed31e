//! decrement_inventory_batch.

use crate::core::error::{Error, Result};
use crate::core::movement::MovementKind;
use crate::core::order_lines::{self, Line};
use crate::ledger::attribution::Extent;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::encoding::from_server;
use crate::pg::jsonb::JsonbArg;
use crate::pg::report::finish;
use crate::pg::settings;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::stock::call::{Call, in_context};
use crate::stock::order;
use crate::stock::shortage::OnShortage;
use pgrx::pg_extern;

/// Deducts a whole order, all of it or nothing.
#[pg_extern(sql = false)]
fn decrement_inventory_batch(
    p_items: Option<JsonbArg>,
    p_reference: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
    p_on_shortage: Option<&[u8]>,
) -> Vec<u8> {
    let reference = ContextText::argument("p_reference", p_reference.map(from_server));
    let key = ContextText::argument("p_idempotency_key", p_idempotency_key.map(from_server));
    let on_shortage = p_on_shortage.map(from_server);
    finish(counted(Function::DecrementInventoryBatch, || {
        in_context(reference, key, |context| deduct(p_items, on_shortage, context))
    }))
}

fn deduct(items: Option<JsonbArg>, on_shortage: Option<String>, context: CallContext) -> Result<String> {
    let items = items.ok_or_else(|| Error::null_argument("p_items"))?;
    let on_shortage = OnShortage::read(on_shortage)?;
    let order = order_lines::read(&items, settings::max_batch_lines())?;
    let reference = context.reference.clone();
    let call = Call {
        function: Function::DecrementInventoryBatch,
        kind: MovementKind::Sale,
        extent: if order.is_single() { Extent::OneRow } else { Extent::ManyRows },
        needs_all: on_shortage == OnShortage::Abort,
        context,
    };
    call.run(
        |stock| order.lines(stock.names.id_type),
        |lines: &Vec<Line>| lines.iter().map(|line| line.id.clone()).collect(),
        |lines| order::canonical(lines, on_shortage, reference.as_deref()),
        |spi, stock, lines| order::deduct(spi, stock, lines, on_shortage),
    )
}

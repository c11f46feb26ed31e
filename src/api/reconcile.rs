//! reconcile_inventory and audit_sales.

use crate::audit::reconcile::{self, Trust};
use crate::audit::sales::{self, Difference, SalesTable};
use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::ledger::context::{CallContext, ContextText};
use crate::pg::Oid;
use crate::pg::args::{AnyNumeric, KeyArg, Moment, TableIterator, name, numeric};
use crate::pg::encoding::{from_c, from_server, to_server};
use crate::pg::report::finish;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::stock::call::in_context;
use pgrx::pg_extern;
use std::ffi::CStr;

/// Puts an item right that an audit has found wrong. History is never edited.
#[pg_extern(sql = false)]
fn reconcile_inventory(
    p_item: Option<KeyArg>,
    p_trust: Option<&[u8]>,
    p_apply: Option<bool>,
    p_reason: Option<&[u8]>,
) -> Vec<u8> {
    let reason = ContextText::argument("p_reason", p_reason.map(from_server));
    let reconcile = |context| reconcile(p_item, p_trust, p_apply, &context);
    finish(counted(Function::ReconcileInventory, || in_context(reason, ContextText::nothing(), reconcile)))
}

fn reconcile(item: Option<KeyArg>, trust: Option<&[u8]>, apply: Option<bool>, context: &CallContext) -> Result<String> {
    let key = item.ok_or_else(|| Error::null_argument("p_item"))?.text()?;
    let trust = Trust::read(&from_server(trust.ok_or_else(|| Error::null_argument("p_trust"))?))?;
    let apply = apply.ok_or_else(|| Error::null_argument("p_apply"))?;
    reconcile::reconcile(&key, trust, apply, context).map(|result| spaced(&result))
}

/// Compares the ledger with the shop's own sales.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn audit_sales(
    p_sales: Option<Oid>,
    p_reference_column: Option<&CStr>,
    p_item_column: Option<&CStr>,
    p_quantity_column: Option<&CStr>,
    p_since: Option<Moment>,
) -> TableIterator<
    'static,
    (
        name!(kind, Vec<u8>),
        name!(reference, Vec<u8>),
        name!(inventory_id, Vec<u8>),
        name!(sold, Option<AnyNumeric>),
        name!(deducted, Option<AnyNumeric>),
        name!(movements, Option<Vec<i64>>),
    ),
> {
    let columns = [p_reference_column, p_item_column, p_quantity_column].map(|name| name.map(from_c));
    let found =
        counted(Function::AuditSales, || compare(p_sales, columns, p_since)).unwrap_or_else(|error| error.raise());
    TableIterator::new(found.into_iter().map(|found| {
        let Difference { kind, reference, item, sold, deducted, movements } = found;
        let [kind, reference, item] = [kind, &reference, &item].map(to_server);
        let [sold, deducted] = [sold, deducted].map(|text| text.as_deref().map(numeric));
        (kind, reference, item, sold, deducted, movements)
    }))
}

fn compare(
    table: Option<Oid>,
    [reference, item, quantity]: [Option<String>; 3],
    since: Option<Moment>,
) -> Result<Vec<Difference>> {
    let sales = SalesTable {
        table: table.ok_or_else(|| Error::null_argument("p_sales"))?,
        reference: reference.ok_or_else(|| Error::null_argument("p_reference_column"))?,
        item: item.ok_or_else(|| Error::null_argument("p_item_column"))?,
        quantity: quantity.ok_or_else(|| Error::null_argument("p_quantity_column"))?,
    };
    sales::audit(&sales, since)
}

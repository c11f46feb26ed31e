//! inventory_at and inventory_changes.

use crate::audit::history;
use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::pg::args::{AnyNumeric, KeyArg, Moment};
use crate::pg::encoding::from_server;
use crate::pg::report::finish;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use pgrx::pg_extern;

/// The most bytes of a position: it is a small object.
const MAX_POSITION_BYTES: usize = 65_536;
/// The most movements of one page.
const MAX_CHANGES: i32 = 10_000;

/// Returns the stock of an item at a moment, as the ledger has it.
#[pg_extern(sql = false)]
fn inventory_at(p_item: Option<KeyArg>, p_at: Option<Moment>) -> Option<AnyNumeric> {
    counted(Function::InventoryAt, || at(p_item, p_at)).unwrap_or_else(|error| error.raise())
}

fn at(item: Option<KeyArg>, moment: Option<Moment>) -> Result<Option<AnyNumeric>> {
    let key = item.ok_or_else(|| Error::null_argument("p_item"))?.text()?;
    history::quantity_at(&key, moment.ok_or_else(|| Error::null_argument("p_at"))?)
}

/// Returns the movements after a position, for a reader that follows the ledger.
#[pg_extern(sql = false)]
fn inventory_changes(p_after: Option<&[u8]>, p_limit: Option<i32>) -> Vec<u8> {
    finish(counted(Function::InventoryChanges, || changes(p_after, p_limit)))
}

fn changes(after: Option<&[u8]>, limit: Option<i32>) -> Result<String> {
    let limit = limit.ok_or_else(|| Error::null_argument("p_limit"))?;
    if !(1..=MAX_CHANGES).contains(&limit) {
        return Err(Error::limit_out_of_range(limit, MAX_CHANGES));
    }
    let after = match after {
        Some(after) if after.len() > MAX_POSITION_BYTES => {
            return Err(Error::text_length("p_after", after.len(), MAX_POSITION_BYTES));
        }
        Some(after) => Some(serde_json::from_str(&from_server(after)).map_err(|_| Error::malformed_cursor())?),
        None => None,
    };
    history::changes(after.as_ref(), limit.into()).map(|page| spaced(&page))
}

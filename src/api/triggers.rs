//! The handlers of triggers: the order in which guards, stripes and ledger see a change.

use crate::attach::drop_guard;
use crate::core::error::{Error, Result};
use crate::core::part::Part;
use crate::ledger::buffer;
use crate::ledger::recorder;
use crate::pg::trigger::{Firing, Handlers};
use crate::stripes::guard::{self, Passage};
use crate::table::fired;

/// The handlers of the entry points in `pg::trigger`.
pub fn handlers() -> Handlers {
    Handlers {
        statement_begins,
        row_changed,
        statement_ends,
        guard_ledger,
        guard_truncate,
        guard_requests,
        guard_stripes,
        guard_drops: drop_guard::check,
    }
}

fn statement_begins(firing: &Firing) -> Result<()> {
    let (stock, _) = fired::verified("inventory_movement_begin", firing)?;
    buffer::statement_begins(stock.oid);
    Ok(())
}

fn row_changed(firing: &Firing) -> Result<()> {
    let (stock, part) = fired::verified("inventory_movement_record", firing)?;
    if part == Part::Stock && guard::passage(firing, &stock)? == Passage::Total {
        return Ok(());
    }
    recorder::record(firing, &stock, part)
}

fn statement_ends(firing: &Firing) -> Result<()> {
    let (stock, _) = fired::verified("inventory_movement_flush", firing)?;
    recorder::statement_ends(&stock);
    Ok(())
}

fn guard_ledger(firing: &Firing) -> Result<()> {
    guard::require_permit("inventory_movement_guard", firing, Error::ledger_protected)
}

fn guard_truncate(firing: &Firing) -> Result<()> {
    let ours = fired::part_fired("inventory_truncate_guard", firing)?.is_some();
    let refusal = if ours { Error::truncate_refused } else { Error::stray_trigger };
    Err(refusal(&firing.table_name()))
}

fn guard_requests(firing: &Firing) -> Result<()> {
    guard::require_permit("inventory_request_guard", firing, Error::requests_protected)
}

fn guard_stripes(firing: &Firing) -> Result<()> {
    if firing.for_row() {
        return guard::check_row(firing);
    }
    guard::require_permit("inventory_stripe_guard", firing, Error::stripes_protected)
}

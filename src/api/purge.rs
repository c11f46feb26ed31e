//! purge_requests.

use crate::core::error::{Error, Result};
use crate::ledger::requests;
use crate::pg::args::Interval;
use crate::pg::transaction::require_writable;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::table::cache;
use crate::table::cursors;
use pgrx::pg_extern;

/// Deletes idempotency keys that are older than an interval.
#[pg_extern(sql = false)]
fn purge_requests(p_older_than: Option<Interval>) -> i64 {
    counted(Function::PurgeRequests, || purge(p_older_than)).unwrap_or_else(|error| error.raise())
}

fn purge(older_than: Option<Interval>) -> Result<i64> {
    let older_than = older_than.ok_or_else(|| Error::null_argument("p_older_than"))?;
    require_writable(c"purge_requests()");
    let stock = cache::current()?;
    cursors::leaving_none(stock.owner, || requests::purge(&stock, older_than))
}

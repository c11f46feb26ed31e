//! archive_movements.

use crate::audit::archive;
use crate::core::error::{Error, Result};
use crate::core::json::spaced;
use crate::pg::args::Moment;
use crate::pg::report::finish;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use pgrx::pg_extern;

/// Moves closed history out of the ledger, while sales go on.
#[pg_extern(sql = false)]
fn archive_movements(p_before: Option<Moment>) -> Vec<u8> {
    finish(counted(Function::ArchiveMovements, || move_out(p_before)))
}

fn move_out(before: Option<Moment>) -> Result<String> {
    archive::archive(before.ok_or_else(|| Error::null_argument("p_before"))?).map(|result| spaced(&result))
}

//! Adds the movements that the ledger lacks when a table is attached.
//!
//! An opening movement for every item new to it, an external one where stock changed while nothing recorded it, a
//! closing one for items that are gone; a transfer where stripes that were left were merged into the row.

use crate::attach::companions::Found;
use crate::attach::leftover::Merged;
use crate::core::error::Result;
use crate::ledger::context::{self, CallContext};
use crate::ledger::writer::writing;
use crate::pg::args::Arg;
use crate::pg::role::{act_as_unfiltered, current_role};
use crate::statements::opening;
use crate::table::attachment::pinned_path;
use crate::table::catalog::Description;

/// Adds the movements that are missing, after the stripes that were left have been merged.
pub fn record_stock(table: &Description, movements: &Found, merged: &Merged) -> Result<()> {
    let CallContext { reference, .. } = CallContext::of_session()?;
    let actor = context::actor(current_role())?;
    let path = pinned_path(table);
    let ([id, quantity], table_ids) = (table.columns()?, table.id_type()?);
    let ledger = (movements.name.as_str(), table_ids);
    let statements = [
        opening::of_stripes(&movements.name, table_ids),
        opening::of_items(&table.name, &id.quoted, &quantity.quoted, ledger),
        opening::of_deleted_items(&table.name, &id.quoted, ledger),
    ];
    for sql in statements {
        let args = [
            Arg::text(reference.as_deref()),
            Arg::text(actor.as_str()),
            Arg::items(&merged.items, table_ids),
            Arg::items(&merged.away, table_ids),
        ];
        writing(movements.oid, act_as_unfiltered(table.owner, &path), |spi| {
            spi.once(&sql, &args);
        });
    }
    Ok(())
}

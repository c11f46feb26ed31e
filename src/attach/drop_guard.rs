//! Refuses to drop the companions of an attached stock table: its ledger, keys, stripes and totals, or their columns.
//!
//! Called by an event trigger after every DROP of the database, so it looks at the dropped objects first. Dropping is
//! allowed once the stock table itself is gone. DROP EXTENSION drops the event trigger, too.

use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::relation;
use crate::pg::spi::{Connection, connected};
use crate::statements::catalog;
use crate::table::configuration::{configuration, configured_with};

/// A dropped table, or a dropped column of a table.
struct Dropped {
    table: Oid,
    column: Option<String>,
    identity: String,
}

/// Refuses to drop the tables that belong to an attached stock table.
pub fn check() -> Result<()> {
    connected(check_dropped)
}

fn check_dropped(spi: &Connection) -> Result<()> {
    let rows = spi.once(&catalog::dropped_objects(), &[]);
    if rows.count() == 0 {
        return Ok(());
    }
    let read = |row| {
        let (table, identity) = (rows.required(row, c"table")?, rows.required_text(row, c"identity")?);
        Ok(Dropped { table, column: rows.text(row, c"column"), identity })
    };
    let dropped = (0..rows.count()).map(read).collect::<Result<Vec<_>>>()?;
    // Where the extension itself is being created or dropped there is no configuration.
    let Ok(configuration) = configuration() else { return Ok(()) };
    let attachments = configured_with(spi, &configuration, dropped.iter().map(|dropped| dropped.table).collect())?;
    for configured in attachments {
        let belongs = |dropped: &&Dropped| {
            let companion = configured.companions.companion(dropped.table);
            companion.is_some_and(|of| dropped.column.as_ref().is_none_or(|column| of.has_column(column)))
        };
        // The stock table is looked up last: the lookup waits for a session that has locked it.
        if let Some(found) = dropped.iter().find(belongs)
            && relation::facts(configured.table).is_some()
        {
            return Err(Error::companion_of_attached(&found.identity));
        }
    }
    Ok(())
}

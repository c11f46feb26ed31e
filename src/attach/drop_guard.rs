//! Refuses to drop what belongs to an attached stock table: its ledger, keys, stripes and totals, or their columns.
//!
//! Called by an event trigger after every DROP of the database, so it looks at the dropped objects first. Dropping is allowed once
//! the stock table itself is gone, too. DROP EXTENSION takes the event trigger along.

use crate::attach::companions::Shape;
use crate::core::error::{Fault, Outcome};
use crate::pg::relation;
use crate::pg::spi::{Connection, connected};
use crate::table::attachment::Part;
use crate::table::configuration::{Configured, configuration, configured};
use pgrx::pg_extern;
use pgrx::pg_sys::{self, Oid};

/// Refuses to drop the tables that belong to an attached stock table; an event trigger.
#[pg_extern(sql = false)]
fn inventory_drop_guard(_call: pg_sys::FunctionCallInfo) -> i64 {
    connected(check).unwrap_or_else(|fault| fault.raise());
    0
}

/// Something that was dropped: a table, or a column of it.
struct Dropped {
    table: Oid,
    column: Option<String>,
    identity: String,
}

fn check(spi: &Connection) -> Outcome<()> {
    // PostgreSQL itself refuses the question outside of an event trigger.
    let rows = spi.once(
        "SELECT d.objid, d.address_names[3], d.object_identity
           FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
          WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
            AND (d.object_type OPERATOR(pg_catalog.=) 'table' OR d.object_type OPERATOR(pg_catalog.=) 'table column')
            AND NOT d.is_temporary",
        &[],
        &[],
    );
    if rows.count() == 0 {
        return Ok(());
    }
    let dropped =
        |row| Some(Dropped { table: rows.get(row, 1)?, column: rows.text(row, 2), identity: rows.text(row, 3)? });
    // Where the extension itself is being made or dropped there is no configuration.
    let Ok(configuration) = configuration(spi) else { return Ok(()) };
    let Some(configured) = configured(spi, &configuration)? else { return Ok(()) };
    let belongs = |dropped: &Dropped| {
        part_of(&configured, dropped.table)
            .is_some_and(|part| dropped.column.as_ref().is_none_or(|column| Shape::of(part).has_column(column)))
    };
    // Asked of few: the answer waits for whoever has locked the stock table.
    match (0..rows.count()).filter_map(dropped).find(belongs) {
        Some(found) if relation::facts(configured.table).is_some() => {
            Err(Fault::companion_of_attached(&found.identity))
        }
        _ => Ok(()),
    }
}

fn part_of(configured: &Configured, table: Oid) -> Option<Part> {
    let companions = [
        (configured.movement_table, Part::Movements),
        (Some(configured.request_table), Part::Requests),
        (Some(configured.stripe_table), Part::Stripes),
        (Some(configured.total_table), Part::Totals),
    ];
    companions.into_iter().find(|(oid, _)| *oid == Some(table)).map(|(_, part)| part)
}

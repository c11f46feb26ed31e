//! Stops managing the stock table.
//!
//! Lock order: as in `attach::attach_table`.

use crate::attach::attach_table::{require_new_snapshots, require_ownership};
use crate::attach::companions;
use crate::attach::leftover;
use crate::attach::triggers;
use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::invalidation;
use crate::pg::lock::{TableLock, lock_alone, lock_for_writing};
use crate::pg::relation;
use crate::pg::report;
use crate::pg::spi::{Connection, checked};
use crate::pg::transaction::require_writable;
use crate::statements::attach as statements;
use crate::stock::call::require_no_other;
use crate::stripes::layout;
use crate::table::cache::{self, describe_configured};
use crate::table::called::Called;
use crate::table::catalog::{self, Columns, Description};
use crate::table::choice;
use crate::table::configuration::{CompanionOids, Configured, configuration, configured};
use crate::table::cursors;
use crate::table::health;
use crate::table::trust;

/// Detaches a table; None for the only one that is attached.
pub fn detach(spi: &Connection, table: Option<Oid>) -> Result<()> {
    require_writable(c"detach_inventory()");
    require_new_snapshots("detach_inventory")?;
    require_no_other("detach_inventory")?;
    let configuration = configuration()?;
    let table = table.map_or_else(choice::only, Ok)?;
    let attached = || configured(spi, &configuration, table)?.ok_or_else(Error::not_attached);
    if let Ok(description) = describe_configured(&attached()?) {
        require_ownership(&description)?;
        // Sales hold a weaker lock until they commit: none of them straddles the detach.
        lock_alone(&[table], TableLock::AccessExclusive);
        // Read again: another session may have detached the table, or attached it anew.
        let configured = attached()?;
        let companions = configured.companions.oids();
        if !configured.subscribed {
            // A trigger that is being created, or a partition that is given away, is waited for, and then seen.
            lock_for_writing(&companions);
            lock_for_writing(&relation::with_partitions(table));
        }
        let description = describe_configured(&configured)?;
        require_ownership(&description)?;
        let called = Called::of(companions.into_iter().chain([table, configuration.oid]));
        cursors::leaving_none(description.owner, || {
            checked(called.into_check(), |spi| merge_stripes(spi, &configured, &description))
        })?;
        invalidation::announce_change(table);
    }
    let (relation, sharing) = (&configuration.relation, configuration.sharing());
    configuration.writing(|| {
        // Others may have been attached at the same time as this one, which then saw none.
        spi.once(&statements::begin_sharing(relation, &sharing), &[Arg::owned(table)]);
        spi.once(&statements::delete_configuration(relation), &[Arg::owned(table)]);
        spi.once(&statements::end_sharing(relation, &sharing), &[]);
    })?;
    invalidation::announce_change(configuration.oid);
    Ok(())
}

/// Merges striped items and drops the triggers.
///
/// The rows of a broken attachment are written without the ledger, which the next attach brings up to date. A
/// contradiction is left as it is: the next attach decides it, or refuses. A copy that a subscription writes to is not
/// touched.
fn merge_stripes(spi: &Connection, configured: &Configured, table: &Description) -> Result<()> {
    if configured.subscribed {
        return triggers::drop_from_stock(spi, table);
    }
    let companions = configured.companions.oids();
    let allowed = || {
        let mut facts = trust::stock_facts(table.oid);
        facts.extend(companions.iter().copied().filter_map(relation::facts));
        trust::require_writable_by_caller(trust::objection(&facts, table.owner), table.owner)
    };
    match cache::attached(table.oid) {
        Ok(stock) if stock.require_healthy().is_ok() && (!stock.has_striped() || allowed().is_ok()) => {
            layout::merge_all(spi, &stock)?;
            triggers::drop_from_stock(spi, table)?;
            companions::note_name(spi, table, &configured.companions)
        }
        _ => {
            triggers::drop_from_stock(spi, table)?;
            // The table that has the name now finds the stripes, which hold what was sold since it was copied.
            if health::is_replaced(configured, &table.name) {
                return Ok(());
            }
            let named = Columns::Named(&configured.id_column, &configured.quantity_column);
            let by_name = if table.columns().is_ok() { None } else { catalog::describe(table.oid, named) };
            let table = by_name.as_ref().unwrap_or(table);
            if let Err(error) = allowed().and_then(|()| merge_left(spi, table, &configured.companions))
                && are_left(spi, table, &configured.companions)
            {
                report::warning(
                    &format!("the stripes of hot items were not merged: {}", error.message),
                    "They hold stock: attach the table again before its quantities are changed.",
                );
            }
            Ok(())
        }
    }
}

fn merge_left(spi: &Connection, table: &Description, companions: &CompanionOids) -> Result<()> {
    let Some([stripes, totals]) = companions::stripes_of(table, companions)? else { return Ok(()) };
    triggers::drop_recording(spi, table, (stripes.oid, &stripes.name));
    leftover::merge(spi, (table, true), &stripes, &totals).map(|_| ())
}

/// Whether there are stripes; so also where they cannot be read.
fn are_left(spi: &Connection, table: &Description, companions: &CompanionOids) -> bool {
    match companions::stripes_of(table, companions) {
        Ok(found) => found.is_some_and(|[stripes, _]| companions::has_rows(spi, table, &stripes)),
        Err(_) => true,
    }
}

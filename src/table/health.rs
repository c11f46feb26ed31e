//! Whether the configuration row still describes an attachment that may be sold from.
//!
//! Checked when the attachment is looked up, under the lock on the stock table, and again after every change that
//! PostgreSQL announces: no subscription writes to the tables, no other table took the name, our triggers are in force.
//! Whose code is on the tables is for `table::trust`.

use crate::core::error::{Error, Result};
use crate::core::part::Part;
use crate::pg::Oid;
use crate::pg::invalidation;
use crate::pg::namespace;
use crate::pg::relation::{self, Facts};
use crate::table::choice;
use crate::table::configuration::Configured;
use crate::table::triggers;

/// Refuses a copy that a subscription keeps, and a table whose name another one has taken.
pub fn is_the_attached_table(configured: &Configured, name: &str) -> Result<()> {
    if configured.subscribed {
        return Err(Error::subscriber(name));
    }
    let [schema, table] = &configured.attached_as;
    match relation::table_named(schema, table) {
        Some(found) if found != configured.table => {
            invalidation::add_relations(&[found]);
            // One that is attached itself is sold from under that name; and anybody may call a table of their own so.
            if choice::is_attached(found)? || !is_at_home(found, configured.table) {
                return Ok(());
            }
            Err(Error::stock_table_swapped(name, &format!("{schema}.{table}")))
        }
        _ => Ok(()),
    }
}

/// Whether a table that has the name of an attached one is of the same owner or a member of it, of a superuser, or of
/// the owner of the schema in which both are. Any other role may take the name of a schema that was renamed.
fn is_at_home(found: Oid, stock: Oid) -> bool {
    let [schema, own_schema] = [found, stock].map(relation::schema_of);
    relation::owner(found).is_some_and(|owner| {
        invalidation::add_role(owner);
        relation::owner(stock).is_some_and(|of_stock| choice::is_kin(owner, of_stock))
            || (schema == own_schema && schema.and_then(namespace::owner) == Some(owner))
    })
}

/// Whether another table, which is not attached, has the name that the table had when it was attached.
pub fn is_replaced(configured: &Configured, name: &str) -> bool {
    is_the_attached_table(configured, name).is_err_and(|error| error.reason() == Some("stock_table_swapped"))
}

/// The triggers of ours on the partitions of a stock table, which PostgreSQL made of those of the whole: each can be
/// disabled by itself.
pub fn partitions_in_force(partitions: &[Facts], (ledger, striped): (bool, bool)) -> Result<()> {
    let wanted = || triggers::expected(Part::Stock, ledger, striped).filter(|trigger| trigger.row);
    for (facts, trigger) in partitions.iter().flat_map(|facts| wanted().map(move |trigger| (facts, trigger))) {
        let found = facts.triggers.iter().find(|found| found.name == trigger.name);
        if !found.is_some_and(|found| found.enabled) {
            return Err(Error::trigger_not_in_force(&facts.name, trigger.name, found.is_some()));
        }
    }
    Ok(())
}

/// The triggers of ours on one table: all there, all enabled.
pub fn ours_in_force(facts: &Facts, part: Part, (ledger, striped): (bool, bool)) -> Result<()> {
    for wanted in triggers::expected(part, ledger, striped) {
        let found = facts.triggers.iter().find(|trigger| trigger.name == wanted.name);
        if !found.is_some_and(|trigger| trigger.enabled) {
            return Err(Error::trigger_not_in_force(&facts.name, wanted.name, found.is_some()));
        }
    }
    Ok(())
}

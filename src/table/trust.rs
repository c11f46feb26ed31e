//! Whether code on the tables of an attachment may run with the owner's rights: no table belongs to another role, the
//! companions are as they were created, and no trigger runs code of another role, or at commit.
//!
//! A partition of another role is not even read: PostgreSQL runs functions of its CHECKs and indexes when it plans.

use crate::core::error::{Error, Result};
use crate::core::item_id::IdType;
use crate::core::part::Companion;
use crate::pg::Oid;
use crate::pg::invalidation;
use crate::pg::relation::{self, Facts, TriggerFacts};
use crate::pg::role::{current_role, is_superuser, role_name};
use crate::pg::spi::connected;
use crate::table::catalog;
use serde_json::json;

/// The first of these tables that has another owner; else the first that has a trigger which must not run with the
/// rights of this one. One that would run at commit comes last: its owner may run it so.
pub fn objection(tables: &[Facts], owner: Oid) -> Option<Box<Error>> {
    tables.iter().for_each(|facts| invalidation::add_role(facts.owner));
    let foreign = tables.iter().find(|facts| facts.owner != owner && !is_superuser(facts.owner));
    if let Some(facts) = foreign {
        return Some(Error::foreign_partition(&facts.name, &role_name(facts.owner)));
    }
    let of_users = || {
        let all = tables.iter().flat_map(|facts| facts.triggers.iter().map(move |trigger| (facts, trigger)));
        all.filter(|(_, trigger)| !trigger.internal)
    };
    of_users().for_each(|(_, trigger)| invalidation::add_function(trigger.function));
    let at_commit = || of_users().find(|(_, trigger)| trigger.deferrable);
    of_users()
        .find_map(|(facts, trigger)| object_to(facts, trigger, owner))
        .or_else(|| at_commit().map(|(facts, trigger)| Error::deferrable_trigger(&facts.name, &trigger.name)))
}

fn object_to(table: &Facts, trigger: &TriggerFacts, owner: Oid) -> Option<Box<Error>> {
    // The function has not been dropped: the trigger would have gone with it.
    let owner_of_function = relation::function_owner(trigger.function);
    owner_of_function.into_iter().for_each(invalidation::add_role);
    if let Some(of) = owner_of_function.filter(|of| *of != owner && !is_superuser(*of)) {
        return Some(Error::foreign_trigger(&table.name, &trigger.name, &role_name(of)));
    }
    let mut has_text = trigger.has_arguments;
    if trigger.condition {
        let condition = match catalog::condition(trigger.oid, owner) {
            Ok(condition) => condition,
            Err(error) => return Some(error),
        };
        condition.functions.iter().copied().for_each(invalidation::add_function);
        if !condition.plain {
            return Some(Error::foreign_condition(&table.name, &trigger.name));
        }
        has_text = has_text || !condition.functions.is_empty();
    }
    match has_text.then(|| may_be_created_by_others(table.oid)) {
        Some(Ok(true)) => Some(Error::foreign_arguments(&table.name, &trigger.name)),
        Some(Err(error)) => Some(error),
        _ => None,
    }
}

/// Whether a role that is neither the owner nor a superuser may create triggers. Its text is then in their arguments:
/// such a trigger has no owner, and whose it is cannot be seen.
fn may_be_created_by_others(table: Oid) -> Result<bool> {
    let grants = connected(|spi| catalog::grants_of_trigger(spi, vec![table]))?;
    grants.iter().for_each(|grant| invalidation::add_role(grant.grantee));
    Ok(grants.iter().any(|grant| !grant.to_superuser))
}

/// A companion, with its columns and its owner as they must be, and no trigger that must not run with the owner's
/// rights.
pub fn companion(table: Oid, companion: Companion, owner: Oid, id_type: IdType) -> Result<Facts> {
    let facts = relation::facts(table).ok_or_else(|| dropped(companion.reason_dropped(), table))?;
    if let Some(problem) = companion.problem(&facts, owner, Some(id_type)) {
        return Err(changed(&facts.name, &problem));
    }
    match objection(std::slice::from_ref(&facts), owner) {
        Some(objection) => Err(objection),
        None => Ok(facts),
    }
}

fn dropped(reason: &'static str, table: Oid) -> Box<Error> {
    Error::broken_attachment(
        reason,
        "a table that belongs to the stock table was dropped",
        json!({"oid": table.to_u32()}),
        "Call detach_inventory, then attach_inventory again: it creates the missing table.",
    )
}

fn changed(table: &str, problem: &str) -> Box<Error> {
    Error::broken_attachment(
        "companion_changed",
        "a table that belongs to the stock table has other columns or another owner than it was created with",
        json!({"table": table, "problem": problem}),
        "Change the column or the owner back with ALTER TABLE.",
    )
}

/// Whether a table may not even be read as the owner.
pub fn forbids_reading(objection: Option<&Error>) -> bool {
    objection.is_some_and(|objection| objection.reason() == Some("foreign_partition"))
}

/// Refuses to write rows as the owner under an objection, but for the owner itself, whose deferred trigger runs at the
/// commit of the owner's own transaction.
pub fn require_writable_by_caller(objection: Option<Box<Error>>, owner: Oid) -> Result<()> {
    objection
        .filter(|error| error.reason() != Some("deferrable_trigger") || current_role() != owner)
        .map_or(Ok(()), Err)
}

/// The stock table and its partitions, as they are now.
pub fn stock_facts(table: Oid) -> Vec<Facts> {
    let tables = relation::with_partitions(table);
    invalidation::add_relations(&tables);
    tables.into_iter().filter_map(relation::facts).collect()
}

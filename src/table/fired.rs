//! The check that a trigger function runs in a trigger that attach created.
//!
//! Any role may name these functions in a trigger on a table of its own, so name, table, timing, level and event must
//! be those of the list. Until that is known no lock is taken and no state is touched.

use crate::core::error::{Error, Result};
use crate::core::part::Part;
use crate::pg::Oid;
use crate::pg::relation;
use crate::pg::trigger::Firing;
use crate::table::attachment::Attachment;
use crate::table::cache;
use crate::table::triggers::{STOCK_GUARD, TRIGGERS};
use std::rc::Rc;

/// The attachment and the part of it that a trigger function fires for; an error in any trigger that attach did not
/// make.
pub fn verified(function: &str, firing: &Firing) -> Result<(Rc<Attachment>, Part)> {
    let stray = || Error::stray_trigger(&firing.table_name());
    let (stock, part) = part_fired(function, firing)?.ok_or_else(stray)?;
    let stock = cache::attached(stock)?;
    // Read again under the lock: another table may have been attached meanwhile.
    if stock.part_of(firing) == Some(part) { Ok((stock, part)) } else { Err(stray()) }
}

/// The stock table and the part, without a lock on the stock table, for guards that stay on the companions of a
/// detached table.
pub fn part_fired(function: &str, firing: &Firing) -> Result<Option<(Oid, Part)>> {
    let fired = || TRIGGERS.iter().chain([&STOCK_GUARD]).filter(|trigger| trigger.is_fired(function, firing));
    if fired().next().is_none() {
        return Ok(None);
    }
    let part = cache::part_without_lock(firing)?;
    Ok(part.filter(|(_, part)| fired().any(|trigger| trigger.part == *part)))
}

/// Whether a guard fires in a trigger that attach created: on a companion of the attached table, or on one that a
/// detached table left, which has the columns of that companion.
pub fn guards(function: &str, firing: &Firing) -> Result<bool> {
    if part_fired(function, firing)?.is_some() {
        return Ok(true);
    }
    let Some(facts) = relation::facts(firing.table()) else { return Ok(false) };
    let mut fired = TRIGGERS.iter().filter(|trigger| trigger.is_fired(function, firing));
    Ok(fired.any(|trigger| match trigger.part {
        Part::Companion(companion) => companion.problem(&facts, facts.owner, None).is_none(),
        Part::Stock => false,
    }))
}

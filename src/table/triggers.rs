//! The triggers that attach makes, and the check that a trigger function runs in one of them.
//!
//! One list serves CREATE TRIGGER, the check that an attached table still has them, and the check at the head of every trigger
//! function: anyone may name these functions in a trigger on a table of their own, so name, table, timing, level and event must be
//! those of the list. Until that is known no lock is taken and no state is touched.

use crate::attach::companions::Shape;
use crate::core::error::{Fault, Outcome};
use crate::pg::relation;
use crate::pg::trigger::{Firing, Operation};
use crate::table::attachment::{self, Attachment, Part};
use std::rc::Rc;

/// One trigger.
pub struct TriggerDefinition {
    /// Its name. A digit sorts before a letter: ours fire before the triggers of a user, so the ledger has the order of the changes.
    pub name: &'static str,
    /// Before or after.
    pub before: bool,
    /// For each row, or for the statement.
    pub row: bool,
    /// The operations it fires for.
    pub events: &'static [Operation],
    /// The function it runs.
    pub function: &'static str,
    /// The table it stands on.
    pub part: Part,
    /// Whether it belongs to an attachment without a ledger, too.
    pub always: bool,
}

const WRITES: &[Operation] = &[Operation::Insert, Operation::Update, Operation::Delete];
const TRUNCATE: &[Operation] = &[Operation::Truncate];

const fn statement(
    name: &'static str,
    before: bool,
    events: &'static [Operation],
    function: &'static str,
    part: Part,
    always: bool,
) -> TriggerDefinition {
    TriggerDefinition { name, before, row: false, events, function, part, always }
}

const fn begin(part: Part) -> TriggerDefinition {
    statement("0_inventory_movement_begin", true, WRITES, "inventory_movement_begin", part, false)
}

const fn flush(part: Part) -> TriggerDefinition {
    statement("0_inventory_movement_flush", false, WRITES, "inventory_movement_flush", part, false)
}

/// The row trigger has no condition on the columns, which would keep them from ALTER COLUMN … TYPE.
const fn record(part: Part) -> TriggerDefinition {
    let (name, function) = ("0_inventory_movement_record", "inventory_movement_record");
    TriggerDefinition { name, before: false, row: true, events: WRITES, function, part, always: false }
}

const fn stripe_guard(name: &'static str, events: &'static [Operation], part: Part) -> TriggerDefinition {
    statement(name, true, events, "inventory_stripe_guard", part, true)
}

/// Refuses TRUNCATE of the stock table and of its partitions; without a ledger only once an item is striped.
pub const TRUNCATE_GUARD: TriggerDefinition =
    statement("0_inventory_truncate", true, TRUNCATE, "inventory_truncate_guard", Part::Stock, false);

/// Refuses direct writes to striped items where there is no ledger, whose own row trigger does it otherwise.
pub const STOCK_GUARD: TriggerDefinition = TriggerDefinition {
    name: "0_inventory_stripe_guard",
    before: false,
    row: true,
    events: &[Operation::Update, Operation::Delete],
    function: "inventory_stripe_guard",
    part: Part::Stock,
    always: false,
};

/// Every trigger of an attachment but [`STOCK_GUARD`], which comes with the first stripes.
pub const TRIGGERS: &[TriggerDefinition] = &[
    begin(Part::Stock),
    flush(Part::Stock),
    record(Part::Stock),
    TRUNCATE_GUARD,
    statement("0_inventory_movement_guard", true, WRITES, "inventory_movement_guard", Part::Movements, false),
    statement("0_inventory_movement_truncate", true, TRUNCATE, "inventory_movement_guard", Part::Movements, false),
    stripe_guard("0_inventory_stripe_guard", WRITES, Part::Stripes),
    stripe_guard("0_inventory_stripe_truncate", TRUNCATE, Part::Stripes),
    begin(Part::Stripes),
    flush(Part::Stripes),
    record(Part::Stripes),
    stripe_guard("0_inventory_stripe_guard", WRITES, Part::Totals),
    stripe_guard("0_inventory_stripe_truncate", TRUNCATE, Part::Totals),
    statement("0_inventory_request_guard", true, WRITES, "inventory_request_guard", Part::Requests, true),
    statement("0_inventory_request_truncate", true, TRUNCATE, "inventory_request_guard", Part::Requests, true),
];

impl TriggerDefinition {
    /// `BEFORE INSERT OR UPDATE …`, as CREATE TRIGGER takes it.
    pub fn when(&self) -> String {
        let events: Vec<&str> = self.events.iter().map(|event| event.name()).collect();
        format!("{} {}", if self.before { "BEFORE" } else { "AFTER" }, events.join(" OR "))
    }

    /// `FOR EACH ROW` or `FOR EACH STATEMENT`.
    pub fn each(&self) -> &'static str {
        if self.row { "FOR EACH ROW" } else { "FOR EACH STATEMENT" }
    }

    fn is_fired(&self, function: &str, firing: &Firing) -> bool {
        self.function == function
            && self.before == firing.before()
            && self.row == firing.for_row()
            && self.events.contains(&firing.operation())
            && firing.is_named(self.name)
    }
}

/// The triggers that this attachment must have on a part of it.
pub fn expected(part: Part, ledger: bool, striped: bool) -> impl Iterator<Item = &'static TriggerDefinition> {
    let guard = (striped && !ledger && part == Part::Stock).then_some([&STOCK_GUARD, &TRUNCATE_GUARD]);
    TRIGGERS
        .iter()
        .filter(move |trigger| trigger.part == part && (ledger || trigger.always))
        .chain(guard.into_iter().flatten())
}

/// The attachment and the part of it that a trigger function fires for; an error in any trigger that attach did not make.
pub fn verified(function: &str, firing: &Firing) -> Outcome<(Rc<Attachment>, Part)> {
    let stray = || Fault::stray_trigger(&firing.table_name());
    let part = part_fired(function, firing)?.ok_or_else(stray)?;
    let stock = attachment::current()?;
    // Read again under the lock: another table may have been attached meanwhile.
    if stock.part_of(firing) == Some(part) { Ok((stock, part)) } else { Err(stray()) }
}

/// The same without a lock on the stock table, for guards that stay on the companions of a detached table.
pub fn part_fired(function: &str, firing: &Firing) -> Outcome<Option<Part>> {
    let fired = || TRIGGERS.iter().chain([&STOCK_GUARD]).filter(|trigger| trigger.is_fired(function, firing));
    if fired().next().is_none() {
        return Ok(None);
    }
    let part = attachment::part_without_lock(firing)?;
    Ok(part.filter(|part| fired().any(|trigger| trigger.part == *part)))
}

/// Whether a guard fires in a trigger that attach created: on a companion of the attached table, or on one that a detached table
/// left, which has the columns of that companion.
pub fn guards(function: &str, firing: &Firing) -> Outcome<bool> {
    if part_fired(function, firing)?.is_some() {
        return Ok(true);
    }
    let parts = TRIGGERS.iter().filter(|trigger| trigger.is_fired(function, firing)).map(|trigger| trigger.part);
    let facts = relation::facts(firing.table());
    Ok(facts.is_some_and(|facts| {
        let mut companions = parts.filter(|part| *part != Part::Stock).map(Shape::of);
        companions.any(|shape| shape.problem(&facts, facts.owner).is_none())
    }))
}

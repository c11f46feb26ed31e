//! The triggers that attach creates.
//!
//! One list serves CREATE TRIGGER, the check that an attached table still has them, and the check at the head of every
//! trigger function (`table::fired`).

use crate::core::part::{Companion, Part};
use crate::pg::trigger::{Firing, Operation};

/// One trigger.
pub struct TriggerDefinition {
    /// Its name. A digit sorts before a letter: ours fire before the triggers of a user, so the ledger has the order of
    /// the changes.
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
    statement(
        "0_inventory_movement_guard",
        true,
        WRITES,
        "inventory_movement_guard",
        Part::Companion(Companion::Movements),
        false,
    ),
    statement(
        "0_inventory_movement_truncate",
        true,
        TRUNCATE,
        "inventory_movement_guard",
        Part::Companion(Companion::Movements),
        false,
    ),
    stripe_guard("0_inventory_stripe_guard", WRITES, Part::Companion(Companion::Stripes)),
    stripe_guard("0_inventory_stripe_truncate", TRUNCATE, Part::Companion(Companion::Stripes)),
    begin(Part::Companion(Companion::Stripes)),
    flush(Part::Companion(Companion::Stripes)),
    record(Part::Companion(Companion::Stripes)),
    stripe_guard("0_inventory_stripe_guard", WRITES, Part::Companion(Companion::Totals)),
    stripe_guard("0_inventory_stripe_truncate", TRUNCATE, Part::Companion(Companion::Totals)),
    statement(
        "0_inventory_request_guard",
        true,
        WRITES,
        "inventory_request_guard",
        Part::Companion(Companion::Requests),
        true,
    ),
    statement(
        "0_inventory_request_truncate",
        true,
        TRUNCATE,
        "inventory_request_guard",
        Part::Companion(Companion::Requests),
        true,
    ),
];

impl TriggerDefinition {
    /// Timing and events, as CREATE TRIGGER takes them: `BEFORE INSERT OR UPDATE …`.
    pub fn when(&self) -> String {
        let events: Vec<&str> = self.events.iter().map(|event| event.name()).collect();
        format!("{} {}", if self.before { "BEFORE" } else { "AFTER" }, events.join(" OR "))
    }

    /// `FOR EACH ROW` or `FOR EACH STATEMENT`.
    pub fn each(&self) -> &'static str {
        if self.row { "FOR EACH ROW" } else { "FOR EACH STATEMENT" }
    }

    /// Timing, level and events, as pg_trigger.tgtype holds them.
    pub fn bits(&self) -> i16 {
        let event = |event: &Operation| match event {
            Operation::Insert => 4,
            Operation::Delete => 8,
            Operation::Update => 16,
            Operation::Truncate => 32,
        };
        i16::from(self.row) + if self.before { 2 } else { 0 } + self.events.iter().map(event).sum::<i16>()
    }

    /// Whether this is the trigger that fires a function.
    pub fn is_fired(&self, function: &str, firing: &Firing) -> bool {
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

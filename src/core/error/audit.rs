//! The errors of the audit.

use super::Error;
use crate::core::item_id::ItemId;
use serde_json::json;

impl Error {
    /// `55000`: there is nothing to audit.
    pub fn no_ledger(table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the stock table has no ledger",
            json!({"reason": "no_ledger", "table": table}),
            "Call detach_inventory, and attach_inventory with p_ledger => true; no stock is lost.",
        )
    }

    /// `55000`: no run of the audit has sealed anything.
    pub fn nothing_sealed() -> Box<Self> {
        Self::new(
            "55000",
            "nothing is sealed yet",
            json!({"reason": "nothing_sealed"}),
            "Call audit_inventory, which seals what it has verified.",
        )
    }

    /// `55000`: no run of the audit has sealed the movement.
    pub fn not_sealed(movement: i64) -> Box<Self> {
        Self::new(
            "55000",
            "the movement is not sealed",
            json!({"reason": "not_sealed", "movement_id": movement}),
            "Call audit_inventory, which seals what it has verified; what it reports is not sealed.",
        )
    }

    /// `55000`: the movement was altered.
    pub fn sealed_otherwise(movement: i64) -> Box<Self> {
        Self::new(
            "55000",
            "the movement is not what was sealed",
            json!({"reason": "altered_movement", "movement_id": movement}),
            "Call verify_inventory with a digest that was kept outside of the database.",
        )
    }

    /// `42P07`: a relation has the name of a table of the audit.
    pub fn unsuitable_audit_table(relation: &str, problem: &str) -> Box<Self> {
        Self::new(
            "42P07",
            "a table of the audit is not as it was created",
            json!({"reason": "audit_table", "relation": relation, "problem": problem}),
            "Rename that relation. A ledger that is renamed needs its audit tables renamed alike.",
        )
    }

    /// `55000`: a row of the runs is not as it was written.
    pub fn altered_run(runs: &str, problem: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a kept run of the audit was altered",
            json!({"reason": "altered_run", "relation": runs, "problem": problem}),
            "Restore the row from a backup. Otherwise rename the tables of the audit and the archive: the next audit \
             makes new ones.",
        )
    }

    /// `55000`: a ledger was renamed, and what belongs to it was not.
    pub fn audit_of_another(runs: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the tables of the audit belong to another ledger",
            json!({"reason": "audit_of_another_ledger", "relation": runs}),
            "Rename them, and the archive, as the ledger was renamed. If the ledger was emptied, restore it.",
        )
    }

    /// `55000`: numbers of movements do not follow the order of the changes.
    pub fn sequence_in_no_order(sequence: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the sequence of the ledger gives out numbers in another order than that of the changes",
            json!({"reason": "sequence_options", "sequence": sequence}),
            "ALTER SEQUENCE ... INCREMENT 1 NO CYCLE CACHE 1, and end the sessions that have sold meanwhile.",
        )
    }

    /// `55000`: what was asked for is in an archive that is not there.
    pub fn before_archive(item: &ItemId, boundary: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the movements of that moment were archived, and the archive is not there",
            json!({"reason": "archived", "inventory_id": item.to_json(), "archived_until": boundary}),
            "Bring the archive back under its name, or ask for a later moment.",
        )
    }

    /// `55000`: the archive has only the columns of a ledger.
    pub fn column_not_archived(ledger: &str, column: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the ledger has a column that the archive has not",
            json!({"reason": "column_not_archived", "table": ledger, "column": column}),
            "Keep its values elsewhere, and drop the column, before you archive.",
        )
    }

    /// `53200`: as PostgreSQL says it.
    pub fn out_of_memory(bytes: usize) -> Box<Self> {
        Self::new(
            "53200",
            "out of memory",
            json!({"reason": "out_of_memory", "bytes": bytes}),
            "Audit the items one by one, or with more memory.",
        )
    }

    /// `42501`: policies would hide movements from the caller.
    pub fn rows_hidden(table: &str) -> Box<Self> {
        Self::new(
            "42501",
            "row-level security hides movements from the caller",
            json!({"reason": "rows_hidden", "table": table}),
            "Let a role call this that row-level security does not apply to.",
        )
    }

    /// `22023`: no such movement in the ledger.
    pub fn unknown_movement(movement: i64) -> Box<Self> {
        Self::new(
            "22023",
            "there is no such movement in the ledger",
            json!({"reason": "unknown_movement", "movement_id": movement}),
            "Pass a movement_id of the ledger.",
        )
    }

    /// `22023`: no position of a reader.
    pub fn malformed_cursor() -> Box<Self> {
        Self::new(
            "22023",
            "p_after is no position in the ledger",
            json!({"reason": "malformed_position", "argument": "p_after"}),
            "Pass \"next\" of the result before, or NULL to begin with the first movement.",
        )
    }

    /// `55000`: numbers of movements come again in a ledger that was restored from an older backup.
    pub fn cursor_of_another(movement: i64, last: i64) -> Box<Self> {
        Self::new(
            "55000",
            "the position is one in another ledger",
            json!({"reason": "position_of_another_ledger", "movement_id": movement, "last_movement": last}),
            "The ledger was restored from a backup older than the position: compare what was read with it, then begin \
             with p_after => NULL.",
        )
    }

    /// `42703`: a column of the sales table.
    pub fn no_sales_column(table: &str, column: &str) -> Box<Self> {
        Self::new(
            "42703",
            "the sales table has no such column",
            json!({"reason": "no_column", "table": table, "column": column}),
            "Pass the names of columns of the sales table.",
        )
    }

    /// `55000`: no audit to rest on.
    pub fn not_audited(item: &ItemId) -> Box<Self> {
        Self::new(
            "55000",
            "the item was not audited",
            json!({"reason": "not_audited", "inventory_id": item.to_json()}),
            "Call audit_inventory; reconcile_inventory rests on what it found.",
        )
    }

    /// `55000`: the audit that a reconciliation rests on is out of date.
    pub fn item_moved(item: &ItemId) -> Box<Self> {
        Self::new(
            "55000",
            "the item has moved since it was audited",
            json!({"reason": "item_moved", "inventory_id": item.to_json()}),
            "Call audit_inventory for the item again, and look at what it finds.",
        )
    }

    /// `0A000`: a row cannot be written back.
    pub fn not_reconcilable(item: &ItemId, kind: &str) -> Box<Self> {
        Self::new(
            "0A000",
            "the stock cannot be written back to what the ledger says",
            json!({"reason": "not_reconcilable", "inventory_id": item.to_json(), "kind": kind}),
            "Call reconcile_inventory with p_trust => stock, then adjust_inventory with the counted quantity.",
        )
    }

    /// `22023`: a line of a crontab would end there.
    pub fn control_characters() -> Box<Self> {
        Self::new(
            "22023",
            "a name, or p_schedule, has control characters",
            json!({"reason": "control_characters", "argument": "p_schedule"}),
            "Write the line of the crontab by hand.",
        )
    }

    /// `22023`: p_limit.
    pub fn limit_out_of_range(limit: i32, most: i32) -> Box<Self> {
        Self::new(
            "22023",
            format!("p_limit must be between 1 and {most}"),
            json!({"reason": "limit", "argument": "p_limit", "value": limit, "max": most}),
            "Pass a smaller number, and call again with \"next\" of the result.",
        )
    }

    /// `22023`: p_before.
    pub fn archive_in_the_future() -> Box<Self> {
        Self::new(
            "22023",
            "p_before is in the future",
            json!({"reason": "future", "argument": "p_before"}),
            "Pass a moment of the past.",
        )
    }

    /// `22023`: no run of the audit.
    pub fn no_such_run(run: Option<i64>) -> Box<Self> {
        Self::new(
            "22023",
            "there is no such run of the audit",
            json!({"reason": "no_such_run", "run_id": run}),
            "Call audit_inventory first, or pass a run_id of the table of runs.",
        )
    }

    /// `55000`: what archiving leaves is sealed anew.
    pub fn archive_of_altered(kind: &str, movement: Option<i64>) -> Box<Self> {
        Self::new(
            "55000",
            "what was sealed has been altered since",
            json!({"reason": "altered", "kind": kind, "movement_id": movement}),
            "Call audit_inventory with p_full => true: what is altered must not be archived.",
        )
    }

    /// `IV007`: something on the archive, or on the ledger, changed what was written.
    pub fn not_archived(table: &str, movements: i64) -> Box<Self> {
        Self::new(
            "55000",
            "something on the table kept movements out of it",
            json!({"reason": "not_archived", "table": table, "movements": movements}),
            "Drop the trigger or the rule that does it; nothing was moved.",
        )
    }

    /// `55000`: the archive has other movements under the same numbers.
    pub fn archive_of_another(archive: &str, movements: i64) -> Box<Self> {
        Self::new(
            "55000",
            "the archive has other movements of these numbers: it belongs to another ledger",
            json!({"reason": "archive_of_another_ledger", "archive": archive, "movements": movements}),
            "Rename that archive; a ledger that was renamed needs its archive renamed alike.",
        )
    }

    /// `22023`: no digest.
    pub fn malformed_digest() -> Box<Self> {
        Self::new(
            "22023",
            "p_digest is no digest",
            json!({"reason": "malformed_digest", "argument": "p_digest"}),
            "Pass what inventory_digest() returned.",
        )
    }
}

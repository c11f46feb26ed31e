//! The errors about the attached table itself, its later changes, and its companions.
//!
//! The other half of error.rs, under the same rules.

use super::Error;
use crate::core::item_id::{IdType, ItemId};
use serde_json::{Value, json};

impl Error {
    /// `55000`: a trigger function of ours runs in a trigger that attach did not make.
    pub fn stray_trigger(table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a trigger function of inventory_ext runs in a trigger that attach_inventory did not create",
            json!({"reason": "stray_trigger", "table": table}),
            "Drop the trigger; attach_inventory creates those that are needed.",
        )
    }

    /// `55000`: it would run as the owner of the extension, who is a superuser.
    pub fn configuration_trigger(table: &str, trigger: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a table of the extension has a trigger",
            json!({"reason": "configuration_trigger", "table": table, "trigger": trigger}),
            "Drop the trigger, and revoke all rights on the table but SELECT.",
        )
    }

    /// `25001`: what was committed since would be missing from the ledger, or from the configuration.
    pub fn one_snapshot(function: &str) -> Box<Self> {
        Self::new(
            "25001",
            format!("{function} cannot run in a transaction with one snapshot"),
            json!({"reason": "one_snapshot", "function": function}),
            "BEGIN ISOLATION LEVEL READ COMMITTED, and call the function again.",
        )
    }

    /// `55000`: a dropped table is still in the configuration.
    pub fn stock_table_dropped(oid: u32) -> Box<Self> {
        Self::broken_attachment(
            "stock_table_dropped",
            "the stock table was dropped",
            json!({"oid": oid}),
            "Call detach_inventory, then attach_inventory with the new table.",
        )
    }

    /// `42P01`: a table that was dropped, or never was.
    pub fn no_table(oid: u32) -> Box<Self> {
        Self::unsuitable(
            "42P01",
            "there is no such table",
            "no_table",
            json!({"oid": oid}),
            "Pass the name of an existing table.",
        )
    }

    /// `55000`: decrement_inventory takes a uuid.
    pub fn no_uuids(table: &str, id_type: IdType) -> Box<Self> {
        Self::new(
            "55000",
            "the ids of the stock table are not of type uuid",
            json!({"reason": "no_uuids", "table": table, "type": id_type.name()}),
            "Call decrement_item, which takes an id of any type.",
        )
    }

    /// `55000`: code that would run at commit, with the rights of the caller, after everything that protects it.
    pub fn deferrable_trigger(table: &str, trigger: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the stock table has a deferrable trigger",
            json!({"reason": "deferrable_trigger", "table": table, "trigger": trigger}),
            "Create the trigger NOT DEFERRABLE, or detach and attach with p_run_as => 'caller'.",
        )
    }

    /// The same with a HINT for a superuser, whom the rights of the caller protect like those of the owner.
    pub fn for_superuser(mut self: Box<Self>) -> Box<Self> {
        self.hint =
            "Call as a role that is no superuser; or make the trigger NOT DEFERRABLE, with code of the table's owner.";
        self
    }

    /// The same with a HINT for who reads a partition as the owner, also of a table attached with the caller's rights.
    pub fn to_be_read(mut self: Box<Self>) -> Box<Self> {
        self.hint = "Give the partition to the table's owner with ALTER TABLE ... OWNER TO.";
        self
    }

    /// `55000`: code of another role would run with the rights of the table's owner.
    pub fn foreign_trigger(table: &str, trigger: &str, function_owner: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a trigger of the stock table runs a function of another role",
            json!({
                "reason": "foreign_trigger", "table": table, "trigger": trigger, "function_owner": function_owner,
            }),
            "Drop the trigger, give its function to the owner of the table, or attach with p_run_as => 'caller'.",
        )
    }

    /// `55000`: the attached table lacks a trigger of ours, or it is disabled.
    pub fn trigger_not_in_force(table: &str, trigger: &str, exists: bool) -> Box<Self> {
        if exists {
            return Self::new(
                "55000",
                "a trigger of the attached table is disabled",
                json!({"reason": "trigger_disabled", "table": table, "trigger": trigger}),
                "Enable it with ALTER TABLE ... ENABLE TRIGGER; then compare the stock with the ledger.",
            );
        }
        Self::new(
            "55000",
            "a trigger of the attached table is missing",
            json!({"reason": "trigger_missing", "table": table, "trigger": trigger}),
            "Call detach_inventory, then attach_inventory again: it creates the trigger, and no stock is lost.",
        )
    }

    /// `55000`: the table is a copy that a subscription keeps.
    pub fn subscriber(table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the stock table belongs to a subscription",
            json!({"reason": "subscriber", "table": table}),
            "Call the function on the publisher; after a switch-over, drop the subscription first.",
        )
    }

    /// `55000`: another table has the name of the one that was attached.
    pub fn stock_table_swapped(table: &str, attached_as: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the name of the attached table belongs to another table now",
            json!({"reason": "stock_table_swapped", "table": table, "attached_as": attached_as}),
            "Rename the tables back; or check the new quantities, call detach_inventory, then attach_inventory.",
        )
    }

    /// `55000`: stripes are left, and the row is neither their sum nor the total that was last written.
    pub fn stripes_differ(item: &ItemId, facts: Value) -> Box<Self> {
        let mut detail = json!({"reason": "stripes_differ", "inventory_id": item.to_json()});
        if let (Value::Object(detail), Value::Object(facts)) = (&mut detail, facts) {
            detail.extend(facts);
        }
        Self::new(
            "55000",
            "the row of an item does not match its remaining stripes",
            detail,
            "Set the quantity of the row to the figure under stripes (with the triggers of inventory_ext disabled, if \
             the table has any), attach the table, then call adjust_inventory with the quantity that is really there.",
        )
    }

    /// `55006`: the attachment would change under a call that is running.
    pub fn call_running(function: &str) -> Box<Self> {
        Self::new(
            "55006",
            "an inventory function is still running in this session",
            json!({"reason": "call_running", "function": function}),
            "Call the function outside of triggers and expressions that an inventory function runs.",
        )
    }

    /// `55006`: the statement that calls writes the stock table itself, and its triggers have not fired.
    pub fn write_running(function: &str) -> Box<Self> {
        Self::new(
            "55006",
            "the stock table has been written, and its triggers have not fired yet",
            json!({"reason": "write_running", "function": function}),
            "Call the function in a statement of its own, after the one that writes the stock table.",
        )
    }

    /// `55000`: any role that may create a trigger writes its WHEN clause, which runs with the rights of the table's
    /// owner.
    pub fn foreign_condition(table: &str, trigger: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the WHEN clause of a trigger runs code other than plain functions and functions of the table's owner",
            json!({"reason": "foreign_trigger", "table": table, "trigger": trigger, "condition": true}),
            "Move the condition into the function of the trigger, or drop the trigger.",
        )
    }

    /// `55000`: any role that may create a trigger writes its arguments, which its function may run as code.
    pub fn foreign_arguments(table: &str, trigger: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a trigger has arguments, and another role may create triggers on the table",
            json!({"reason": "foreign_trigger", "table": table, "trigger": trigger, "arguments": true}),
            "Revoke TRIGGER on the table, and drop the triggers that were created with it.",
        )
    }

    /// `55000`: the owner of a partition could have code run with the rights of the table's owner.
    pub fn foreign_partition(table: &str, owner: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a partition of the stock table belongs to another role",
            json!({"reason": "foreign_partition", "table": table, "owner": owner}),
            "Give it to the table's owner with ALTER TABLE ... OWNER TO, or attach with p_run_as => 'caller'.",
        )
    }

    /// `55006`: by its name a statement would find another table.
    pub fn renamed_meanwhile(table: &str) -> Box<Self> {
        Self::new(
            "55006",
            "a table of the attachment, or its schema, was renamed while the call waited",
            json!({"reason": "renamed_meanwhile", "table": table}),
            "Call the function again.",
        )
    }

    /// `55006`: code that runs while the stripes of an item are made or put together calls for that item.
    pub fn stripes_in_motion(item: &ItemId) -> Box<Self> {
        Self::new(
            "55006",
            "the stripes of the item are being created or merged",
            json!({"reason": "stripes_in_motion", "inventory_id": item.to_json()}),
            "Call the function in a statement of its own, after the one that runs.",
        )
    }

    /// `55000`: a key that outlives its transaction would make the calls of others into retries.
    pub fn key_not_local(setting: &str, hint: &'static str) -> Box<Self> {
        Self::new(
            "55000",
            format!("{setting} was not set in this transaction"),
            json!({"reason": "key_not_local", "setting": setting}),
            hint,
        )
    }

    /// `55000`: a companion would be dropped from an attached table.
    pub fn companion_of_attached(object: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a table that belongs to an attached stock table cannot be dropped",
            json!({"reason": "companion_of_attached", "object": object}),
            "Call detach_inventory first.",
        )
    }

    /// `55000`: a direct write to the idempotency keys.
    pub fn requests_protected(operation: &str, table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "idempotency keys can be written only by inventory functions",
            json!({"reason": "requests_protected", "operation": operation, "table": table}),
            "Call purge_requests to delete old keys.",
        )
    }

    /// `55000`: no stock table is attached.
    pub fn not_attached() -> Box<Self> {
        Self::new(
            "55000",
            "no stock table is attached",
            json!({"reason": "not_attached"}),
            "Call attach_inventory with your stock table first.",
        )
    }

    /// `55000`: the attached table has changed so that it cannot be sold from.
    pub fn broken_attachment(reason: &str, message: &str, facts: Value, hint: &'static str) -> Box<Self> {
        Self::with_reason("55000", message, reason, facts, hint)
    }

    /// `55000`: the table is attached with other options.
    pub fn already_attached(table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the table is already attached with other options",
            json!({"reason": "already_attached", "table": table}),
            "Call detach_inventory with the table first.",
        )
    }

    /// `55000`: several tables are attached, and nothing says which one the call means. The facts name those in schemas
    /// that the caller may use.
    pub fn several_tables(tables: &[String]) -> Box<Self> {
        Self::new(
            "55000",
            "several stock tables are in use, and the call does not say which one it means",
            json!({"reason": "several_tables", "tables": tables}),
            "Set inventory_ext.stock_table to the table, or search_path to its schema; pass it to detach_inventory.",
        )
    }

    /// `55000`: the setting names something else than an attached table.
    pub fn no_such_stock_table(setting: &str) -> Box<Self> {
        Self::new(
            "55000",
            "inventory_ext.stock_table does not name an attached table",
            json!({"reason": "no_such_stock_table", "stock_table": setting}),
            "Set it to the name of an attached table, with its schema; or reset it.",
        )
    }

    /// `55000`: the search_path of the caller has another table of the name first, which is not attached.
    pub fn shadowed_table(table: &str, shadow: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a table of the same name and columns comes first in search_path and is not attached",
            json!({"reason": "shadowed_table", "table": table, "not_attached": shadow}),
            "Call attach_inventory with that table; or set inventory_ext.stock_table to the table that is meant.",
        )
    }

    /// `55000`: stock would be left behind.
    pub fn stripes_elsewhere(table: &str, stripes: &str) -> Box<Self> {
        Self::new(
            "55000",
            "stripes of the table are left in another schema",
            json!({"reason": "stripes_elsewhere", "table": table, "stripes": stripes}),
            "Pass that schema as p_companion_schema: the stripes are then merged into the rows of their items.",
        )
    }

    /// `55000`: the same, where it cannot be said whose stripes they are.
    pub fn stripes_of_unknown(facts: Value) -> Box<Self> {
        Self::with_reason(
            "55000",
            "stripes of such items are left, of a table that is not there under its name",
            "stripes_of_unknown",
            facts,
            "If this is that table, give it that name and schema until it is attached. If another table is, do so with \
             that one first; if none is, account for the stock in the stripes, then remove their comment.",
        )
    }

    /// `55000`: they would decide on the quantities of a table that they were not made of.
    pub fn stripes_of_another(table: &str, stripes: &str) -> Box<Self> {
        Self::new(
            "55000",
            "stripes are left under the name of a table that has not been attached",
            json!({"reason": "stripes_of_another", "table": table, "stripes": stripes}),
            "Give the table that they were made for its name back, and attach it. If it is this table, give it its \
             CHECK of both columns again, <quantity column>_non_negative; if it is gone, account for the stock.",
        )
    }

    /// `3F000`: there is no schema of that name.
    pub fn no_such_schema(table: &str, schema: &str) -> Box<Self> {
        Self::new(
            "3F000",
            "p_companion_schema does not name a schema",
            json!({"reason": "no_schema", "table": table, "schema": schema}),
            "Create the schema first, and grant CREATE on it to the owner of the stock table.",
        )
    }

    /// `42809`: other sessions cannot see what is in the schema.
    pub fn temporary_schema(table: &str, schema: &str) -> Box<Self> {
        Self::new(
            "42809",
            "p_companion_schema is a schema of temporary tables",
            json!({"reason": "temporary_schema", "table": table, "schema": schema}),
            "Name a permanent schema.",
        )
    }

    /// `42P07`: a companion of that name is there, and its comment names another table.
    pub fn companion_of_another(table: &str, companion: &str, comment: Option<&str>) -> Box<Self> {
        Self::new(
            "42P07",
            "a table that the attachment needs was made for another table",
            json!({"reason": "companion_of_another", "table": table, "relation": companion, "comment": comment}),
            "If it was made for this table under another name, give the table that name until it is attached: \
             then all can be renamed. Else pass another schema as p_companion_schema.",
        )
    }

    /// `42P07`: a table that a new attachment needs belongs to another one.
    pub fn companion_in_use(table: &str, companion: &str, attached: Option<&str>) -> Box<Self> {
        Self::new(
            "42P07",
            "a table that the attachment needs belongs to another attached table",
            json!({"reason": "companion_in_use", "table": table, "relation": companion, "attached": attached}),
            "If the table takes the place of that one, call detach_inventory with that one first; \
             else pass another schema as p_companion_schema.",
        )
    }

    /// `42809`: the table is a part of another attachment.
    pub fn part_of_attached(table: &str, attached: &str) -> Box<Self> {
        Self::new(
            "42809",
            "the table belongs to a table that is attached",
            json!({"reason": "part_of_attached", "table": table, "attached": attached}),
            "Attach a table that is no partition, parent or companion of an attached one.",
        )
    }

    /// `55000`: the rows of the table belong to another attached table, too.
    pub fn related_attached(table: &str, attached: &str) -> Box<Self> {
        Self::new(
            "55000",
            "a partition or a parent of the stock table is attached, too",
            json!({"reason": "related_attached", "table": table, "attached": attached}),
            "Call detach_inventory with one of both, or ALTER TABLE ... DETACH PARTITION.",
        )
    }

    /// `55000`: the catalog has the objects of another version than the library.
    pub fn outdated(installed: &str, library: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the extension in this database is of another version than its library",
            json!({"reason": "outdated", "installed": installed, "library": library}),
            "Run ALTER EXTENSION inventory_ext UPDATE as the owner of the extension; no stock is lost.",
        )
    }

    /// A table that cannot be attached: the SQLSTATE names the kind of mismatch.
    pub fn unsuitable(
        sqlstate: &'static str,
        message: &str,
        reason: &str,
        facts: Value,
        hint: &'static str,
    ) -> Box<Self> {
        Self::with_reason(sqlstate, message, reason, facts, hint)
    }

    /// `42501`: not the owner of the stock table.
    pub fn not_owner(table: &str) -> Box<Self> {
        Self::new(
            "42501",
            "must be owner of the stock table",
            json!({"reason": "not_owner", "table": table}),
            "Let the owner of the table, or a superuser, call this.",
        )
    }
}

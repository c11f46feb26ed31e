//! The errors of direct writes to protected tables, and of idempotency keys.

use super::Error;
use crate::core::item_id::ItemId;
use serde_json::json;

impl Error {
    /// `55000`: a trigger, rule or policy on the table of keys keeps a key from being written.
    pub fn key_not_kept(key: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the idempotency key could not be stored",
            json!({"reason": "key_not_kept", "idempotency_key": key}),
            "Look for a trigger, rule or policy on the table of idempotency keys.",
        )
    }

    /// `55000`: a call within a call uses the same key.
    pub fn key_in_use(key: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the idempotency key belongs to a call that is still running",
            json!({"reason": "key_in_use", "idempotency_key": key}),
            "A trigger that calls an inventory function must reset inventory_ext.idempotency_key first.",
        )
    }

    /// `55000`: the ledger is written by its trigger alone, and only ever added to.
    pub fn ledger_protected(operation: &str, table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the ledger is append-only",
            json!({"reason": "ledger_protected", "operation": operation, "table": table}),
            "Change the stock instead: adjust_inventory posts a correcting movement.",
        )
    }

    /// `55000`: a direct write to the stripes of hot items.
    pub fn stripes_protected(operation: &str, table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "stripes can be written only by inventory functions",
            json!({"reason": "stripes_protected", "operation": operation, "table": table}),
            "Call an inventory function; unstripe_inventory merges the stripes back into the row.",
        )
    }

    /// `55000`: a direct write to the stock row of a striped item, whose quantity is the sum of its stripes.
    pub fn striped_item(item: &ItemId) -> Box<Self> {
        Self::new(
            "55000",
            "the stock of a striped item is in its stripes",
            json!({"reason": "striped_item", "inventory_id": item.to_json()}),
            "Call restock_inventory or adjust_inventory; or call unstripe_inventory first, then write the row.",
        )
    }

    /// `55000`: TRUNCATE would empty the stock without a movement.
    pub fn truncate_refused(table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the stock table cannot be truncated while it is attached",
            json!({"reason": "truncate_refused", "table": table}),
            "DELETE the rows, which the ledger records, or call detach_inventory first.",
        )
    }

    /// `23502`: a direct write of NULL, which the ledger cannot record, after NOT NULL was dropped.
    pub fn null_in_stock(table: &str, column: &str) -> Box<Self> {
        Self::new(
            "23502",
            "the stock table must not hold a null id or quantity",
            json!({"reason": "null_in_stock", "table": table, "column": column}),
            "Write a value, and make the column NOT NULL again.",
        )
    }

    /// `55000`: the trigger at the end of the statement did not fire, so the notes would be lost.
    pub fn unrecorded() -> Box<Self> {
        Self::new(
            "55000",
            "changes of stock were not recorded in the ledger",
            json!({"reason": "unrecorded"}),
            "Enable all triggers of the stock table whose names begin with 0_inventory.",
        )
    }

    /// `39P01`: a trigger function was called as if it were a function.
    pub fn not_a_trigger() -> Box<Self> {
        Self::new(
            "39P01",
            "the function was not called as a trigger",
            json!({"reason": "not_a_trigger"}),
            "Do not call the function; attach_inventory creates its triggers.",
        )
    }
}

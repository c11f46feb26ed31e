//! Every error of the extension: SQLSTATE, MESSAGE, DETAIL, HINT.
//!
//! DETAIL is one JSON object whose first key is `reason`; HINT says what to do. No text of a caller stands in a MESSAGE:
//! in the `postgrest` style the message becomes an HTTP status line. Errors of PostgreSQL itself never come through
//! here, they pass untouched. report.rs hands them to PostgreSQL.

use crate::core::json::{exact, number};
use crate::core::quantity::{Misfit, Quantity, Shape};
use crate::pg::settings::{self, ErrorStyle};
use serde_json::{Map, Value, json};

/// The result of everything that can be refused.
pub type Outcome<T> = Result<T, Box<Fault>>;

/// One error, or notice, before it is reported.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The five characters.
    pub sqlstate: &'static str,
    /// MESSAGE.
    pub message: String,
    /// DETAIL.
    pub detail: Map<String, Value>,
    /// HINT.
    pub hint: &'static str,
}

/// A fault for each line of the table in the manual.
impl Fault {
    pub(crate) fn new(
        sqlstate: &'static str,
        message: impl Into<String>,
        detail: Value,
        hint: &'static str,
    ) -> Box<Self> {
        let detail = match detail {
            Value::Object(facts) => facts,
            other => Map::from_iter([("reason".to_owned(), other)]),
        };
        Box::new(Self { sqlstate, message: message.into(), detail, hint })
    }

    /// A fault of our own class: the SQLSTATE and message of the error style in force.
    fn styled(
        ours: [&'static str; 2],
        message: String,
        constant: &'static str,
        detail: Value,
        hint: &'static str,
    ) -> Box<Self> {
        match settings::error_style() {
            ErrorStyle::Sqlstate => Self::new(ours[0], message, detail, hint),
            ErrorStyle::Postgrest => Self::new(ours[1], constant, detail, hint),
        }
    }

    /// `IV001`: the item has less than was asked for.
    pub fn insufficient(inventory_id: &str, available: Quantity, requested: Quantity) -> Box<Self> {
        Self::styled(
            ["IV001", "PT409"],
            format!("Insufficient inventory. Available: {available}, Requested: {requested}"),
            "Insufficient inventory",
            json!({
                "reason": "insufficient", "inventory_id": inventory_id,
                "available": number(available), "requested": number(requested),
            }),
            "Ask for no more than is available, or restock the item first.",
        )
    }

    /// `IV002`: no such item, or none the caller may sell. The words are the same, so that nobody learns of an item
    /// of another tenant.
    pub fn unknown_item(inventory_id: &str) -> Box<Self> {
        Self::styled(
            ["IV002", "PT404"],
            "Inventory item not found".to_owned(),
            "Inventory item not found",
            json!({"reason": "unknown_item", "inventory_id": inventory_id}),
            "Check the id of the item.",
        )
    }

    /// `IV007`: the table holds something else than was written. `new_quantity` is None where no row was written.
    pub fn verification_failed(
        inventory_id: &str,
        old_quantity: Quantity,
        new_quantity: Option<Quantity>,
        requested: Quantity,
    ) -> Box<Self> {
        Self::styled(
            ["IV007", "PT500"],
            "Inventory verification failed".to_owned(),
            "Inventory verification failed",
            json!({
                "reason": "verification_failed", "inventory_id": inventory_id, "old_quantity": number(old_quantity),
                "new_quantity": new_quantity.map(number), "requested": number(requested),
            }),
            "Look for a BEFORE trigger, a rule or a policy on the stock table that changes or drops the update.",
        )
    }

    /// `IV007`: the stock itself holds something that is no quantity.
    pub fn unreadable_stock(inventory_id: &str, stored: &str) -> Box<Self> {
        Self::styled(
            ["IV007", "PT500"],
            "Inventory verification failed".to_owned(),
            "Inventory verification failed",
            json!({"reason": "unreadable_stock", "inventory_id": inventory_id, "stored": stored}),
            "Call adjust_inventory with what is there: a quantity is a finite number of at most 28 digits.",
        )
    }

    /// `22004`: an argument that must be given was NULL.
    pub fn null_argument(argument: &str) -> Box<Self> {
        Self::new(
            "22004",
            format!("{argument} must not be null"),
            json!({"reason": "null_argument", "argument": argument}),
            "Pass a value.",
        )
    }

    /// `22023`: NaN, Infinity or -Infinity.
    pub fn not_finite(argument: &str, value: &str) -> Box<Self> {
        Self::new(
            "22023",
            format!("{argument} must be a finite number"),
            json!({"reason": "not_finite", "argument": argument, "value": value}),
            "Pass a finite number.",
        )
    }

    /// `22023`: zero or negative.
    pub fn not_positive(argument: &str, value: Quantity) -> Box<Self> {
        Self::new(
            "22023",
            format!("{argument} must be greater than zero"),
            json!({"reason": "not_positive", "argument": argument, "value": number(value)}),
            "Pass a number greater than zero.",
        )
    }

    /// `22003`: more than 28 digits.
    pub fn too_many_digits(argument: &str, value: &str) -> Box<Self> {
        // A number can have 147,455 digits; the first ones tell enough.
        let told =
            if value.len() <= 100 { crate::core::json::exact(value) } else { json!(format!("{}...", &value[..100])) };
        Self::new(
            "22003",
            format!("{argument} has more digits than can be kept"),
            json!({
                "reason": "too_many_digits", "argument": argument, "value": told,
                "max_digits": crate::core::quantity::MAX_DIGITS,
            }),
            "Pass at most 28 digits: a quantity is never rounded.",
        )
    }

    /// `22003`: the quantity column cannot hold it exactly.
    pub fn misfit(argument: &str, value: Quantity, column: &str, shape: Shape, misfit: Misfit) -> Box<Self> {
        let mut detail =
            json!({"reason": "too_many_digits", "argument": argument, "value": number(value), "column": column});
        match (misfit, shape) {
            (Misfit::Decimals { kept }, _) => {
                detail["reason"] = json!("too_many_decimals");
                detail["max_decimals"] = json!(kept);
            }
            (_, Shape::Whole { max }) => detail["max_value"] = json!(max),
            (_, Shape::Fixed { precision, scale }) => {
                detail["precision"] = json!(precision);
                detail["scale"] = json!(scale);
            }
            (_, Shape::Unbounded) => {}
        }
        Self::new(
            "22003",
            format!("{argument} has more digits than can be kept"),
            detail,
            "Pass a quantity that the column can hold: a quantity is never rounded.",
        )
    }

    /// `22023`: a word that is not one of the words allowed.
    pub fn unknown_word(argument: &str, value: &str, allowed: &[&str], hint: &'static str) -> Box<Self> {
        Self::new(
            "22023",
            format!("{argument} is not one of the allowed words"),
            json!({
                "reason": "unknown_word", "argument": argument,
                "value": value.chars().take(100).collect::<String>(), "allowed": allowed,
            }),
            hint,
        )
    }

    /// `IV003`: the key was used before, for something else.
    pub fn key_reused(key: &str, function: &str) -> Box<Self> {
        Self::styled(
            ["IV003", "PT422"],
            "Idempotency key was used before with other arguments".to_owned(),
            "Idempotency key was used before with other arguments",
            json!({"reason": "key_reused", "idempotency_key": key, "used_by": function}),
            "Use a new key for a new request; repeat a request with the very same arguments.",
        )
    }

    /// `55000`: a trigger, rule or policy on the table of keys keeps a key from being written.
    pub fn key_not_kept(key: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the idempotency key could not be kept",
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

    /// `IV005`: the stock is not what the caller expected. `found` is printed as it is stored.
    pub fn stale(inventory_id: &str, expected: Quantity, found: &str) -> Box<Self> {
        Self::styled(
            ["IV005", "PT409"],
            format!("Inventory has changed. Expected: {expected}, Found: {found}"),
            "Inventory has changed",
            json!({
                "reason": "stale", "inventory_id": inventory_id, "expected": number(expected), "found": exact(found),
            }),
            "Count again, and expect what is found now.",
        )
    }

    /// `IV001` or `IV002` of a whole order: every line that is short, every item that is unknown.
    pub fn short_lines(first: Option<(Quantity, Quantity)>, lines: Vec<Value>) -> Box<Self> {
        let detail = json!({"reason": "short_lines", "lines": lines});
        match first {
            Some((available, requested)) => Self::styled(
                ["IV001", "PT409"],
                format!("Insufficient inventory. Available: {available}, Requested: {requested}"),
                "Insufficient inventory",
                detail,
                "Take the short lines out or ask for less; p_on_shortage skip or partial does so by itself.",
            ),
            None => Self::styled(
                ["IV002", "PT404"],
                "Inventory item not found".to_owned(),
                "Inventory item not found",
                detail,
                "Check the ids of the items.",
            ),
        }
    }

    /// `22023`: p_items is not what it must be. `facts` names the element.
    pub fn malformed_items(message: &str, reason: &str, facts: Value) -> Box<Self> {
        Self::with_reason(
            "22023",
            message,
            reason,
            facts,
            r#"Pass an array of objects such as {"inventory_id": "a uuid", "quantity": 2}."#,
        )
    }

    /// `22003`: a line, or the sum of the lines on one item, has more than 28 digits. `facts` names the element.
    pub fn too_many_item_digits(facts: Value) -> Box<Self> {
        Self::with_reason(
            "22003",
            "p_items has more digits than can be kept",
            "too_many_digits",
            facts,
            "Pass at most 28 digits: a quantity is never rounded.",
        )
    }

    /// `54000`: more lines than allowed.
    pub fn too_many_lines(lines: usize, max_lines: usize) -> Box<Self> {
        Self::new(
            "54000",
            "p_items has too many lines",
            json!({"reason": "too_many_lines", "lines": lines, "max_lines": max_lines}),
            "Send several orders, or let a superuser raise inventory_ext.max_batch_lines.",
        )
    }

    /// `22023`: a text that must be short and not empty.
    pub fn text_length(argument: &str, bytes: usize, max_bytes: usize) -> Box<Self> {
        Self::new(
            "22023",
            format!("{argument} must have between 1 and {max_bytes} bytes"),
            json!({"reason": "text_length", "argument": argument, "bytes": bytes, "max_bytes": max_bytes}),
            "Pass a shorter text, or none.",
        )
    }

    /// `22023`: a count below zero.
    pub fn negative(argument: &str, value: Quantity) -> Box<Self> {
        Self::new(
            "22023",
            format!("{argument} must not be negative"),
            json!({"reason": "negative", "argument": argument, "value": number(value)}),
            "Pass zero or more.",
        )
    }

    /// `22023`: an interval that is not positive.
    pub fn negative_interval(argument: &str) -> Box<Self> {
        Self::new(
            "22023",
            format!("{argument} must not be negative"),
            json!({"reason": "negative", "argument": argument}),
            "Pass an interval such as '30 days'.",
        )
    }

    /// `22023`: a transfer to where it comes from.
    pub fn same_item(inventory_id: &str) -> Box<Self> {
        Self::new(
            "22023",
            "p_from and p_to must be two items",
            json!({"reason": "same_item", "inventory_id": inventory_id}),
            "Name another item in p_to.",
        )
    }

    /// `22003`: the stock would have more digits than can be kept.
    pub fn overflow(inventory_id: &str, old_quantity: Quantity, delta: Quantity) -> Box<Self> {
        Self::new(
            "22003",
            "the stock would have more digits than can be kept",
            json!({
                "reason": "overflow", "inventory_id": inventory_id, "old_quantity": number(old_quantity),
                "delta": number(delta),
            }),
            "Change the stock by less, or let the quantity column keep more digits.",
        )
    }

    /// `55000`: the ledger is written by its trigger alone, and only ever added to.
    pub fn ledger_protected(operation: &str, table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the ledger is only added to, by changes of stock",
            json!({"reason": "ledger_protected", "operation": operation, "table": table}),
            "Change the stock instead: adjust_inventory posts a correcting movement.",
        )
    }

    /// `55000`: a direct write to the stripes of hot items.
    pub fn stripes_protected(operation: &str, table: &str) -> Box<Self> {
        Self::new(
            "55000",
            "stripes are written by the inventory functions alone",
            json!({"reason": "stripes_protected", "operation": operation, "table": table}),
            "Call an inventory function; unstripe_inventory gives the item back to the stock table.",
        )
    }

    /// `55000`: a direct write to the stock row of a striped item, whose quantity is the sum of its stripes.
    pub fn striped_item(inventory_id: &str) -> Box<Self> {
        Self::new(
            "55000",
            "the stock of a striped item is in its stripes",
            json!({"reason": "striped_item", "inventory_id": inventory_id}),
            "Call restock_inventory or adjust_inventory; or call unstripe_inventory first, then write the row.",
        )
    }

    /// `22023`: too few or too many stripes.
    pub fn stripe_count(stripes: i32, max_stripes: i16) -> Box<Self> {
        Self::new(
            "22023",
            format!("p_stripes must be between 2 and {max_stripes}"),
            json!({"reason": "stripe_count", "argument": "p_stripes", "value": stripes, "max_stripes": max_stripes}),
            "Pass about as many as there are sessions that sell the item at once; 16 serve most.",
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

    /// `23502`: a direct write of NULL, which the ledger cannot record; somebody dropped NOT NULL.
    pub fn null_in_stock(table: &str, column: &str) -> Box<Self> {
        Self::new(
            "23502",
            "the stock table must not hold a null id or quantity",
            json!({"reason": "null_in_stock", "table": table, "column": column}),
            "Write a value, and let the column be NOT NULL again.",
        )
    }

    /// `55000`: the trigger at the end of the statement did not fire, so what was noted would be lost.
    pub fn unrecorded() -> Box<Self> {
        Self::new(
            "55000",
            "changes of stock were noted and not recorded",
            json!({"reason": "unrecorded"}),
            "Enable all triggers of the stock table whose names begin with 0_inventory.",
        )
    }

    /// `22023`: a text with a NUL, which PostgreSQL cannot store.
    pub fn nul_in_text(argument: &str) -> Box<Self> {
        Self::new(
            "22023",
            format!("{argument} must not contain a NUL"),
            json!({"reason": "nul_in_text", "argument": argument}),
            "Pass a text without the character U+0000.",
        )
    }

    /// `54000`: p_items is larger than so many lines can be.
    pub fn items_too_large(bytes: usize, max_bytes: usize) -> Box<Self> {
        Self::new(
            "54000",
            "p_items is too large",
            json!({"reason": "items_too_large", "bytes": bytes, "max_bytes": max_bytes}),
            "Send several orders, with nothing in a line but inventory_id and quantity.",
        )
    }

    /// `39P01`: a trigger function was called as if it were a function.
    pub fn not_a_trigger() -> Box<Self> {
        Self::new(
            "39P01",
            "the function was not called as a trigger",
            json!({"reason": "not_a_trigger"}),
            "Only triggers call it; attach_inventory makes them.",
        )
    }

    /// `XX000`: PostgreSQL refused what it never refuses; a defect of the extension.
    pub fn internal(message: &'static str) -> Box<Self> {
        Self::new("XX000", message, json!({"reason": "internal"}), "Report this as a bug.")
    }

    pub(crate) fn with_reason(
        sqlstate: &'static str,
        message: &str,
        reason: &str,
        facts: Value,
        hint: &'static str,
    ) -> Box<Self> {
        let mut detail = Map::from_iter([("reason".to_owned(), json!(reason))]);
        if let Value::Object(facts) = facts {
            detail.extend(facts);
        }
        Self::new(sqlstate, message, Value::Object(detail), hint)
    }
}

impl Fault {
    /// The first key of DETAIL.
    pub fn reason(&self) -> &str {
        self.detail.get("reason").and_then(Value::as_str).unwrap_or_default()
    }

    /// Names the element of p_items that is meant.
    pub fn at_element(mut self: Box<Self>, element: usize) -> Box<Self> {
        self.detail.insert("element".to_owned(), json!(element));
        self
    }

    /// Names the reference of the call, so that a failed change can be traced to its order.
    pub fn traced(mut self: Box<Self>, reference: Option<&str>) -> Box<Self> {
        if let Some(reference) = reference {
            self.detail.insert("reference".to_owned(), json!(reference));
        }
        self
    }
}

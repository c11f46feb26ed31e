//! The errors of arguments: rejected before any work that grows with their size.

use super::Error;
use crate::core::item_id::{IdType, ItemId, MAX_ID_BYTES};
use crate::core::json::{exact, number};
use crate::core::quantity::{Capacity, MAX_DIGITS, Misfit, Quantity};
use serde_json::{Value, json};

impl Error {
    /// `22021`: another id may be written with the characters that stand for those which cannot be read.
    pub fn unreadable_id(value: &str) -> Box<Self> {
        Self::new(
            "22021",
            "an id has characters that are invalid in the encoding of the database",
            json!({"reason": "unreadable_id", "value": value}),
            "Change the id to valid characters with the table detached; or attach another id column.",
        )
    }

    /// `22023`: no stock is known of the moment.
    pub fn moment_out_of_range(item: &ItemId, problem: &str) -> Box<Self> {
        Self::new(
            "22023",
            "there is no stock of that moment to compare the count with",
            json!({
                "reason": "counted_at", "argument": "p_counted_at", "inventory_id": item.to_json(),
                "problem": problem,
            }),
            "Pass the moment of the count, or leave p_counted_at out and count without sales meanwhile.",
        )
    }

    /// `22023`: a key names an item by at most 255 bytes, so that no call could sell it.
    pub fn long_id(bytes: usize) -> Box<Self> {
        Self::new(
            "22023",
            format!("an id of the stock table must have at most {MAX_ID_BYTES} bytes"),
            json!({"reason": "id_length", "bytes": bytes, "max_bytes": MAX_ID_BYTES}),
            "Use a shorter id; or detach the table and attach another id column.",
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

    /// `22P02`: a key that is no id of the type of the table's ids.
    pub fn not_an_id(argument: &str, key: &str, id_type: IdType) -> Box<Self> {
        Self::new(
            "22P02",
            format!("{argument} is not an id of type {}", id_type.name()),
            json!({"reason": "not_an_id", "argument": argument, "value": key, "type": id_type.name()}),
            "Pass an id of the stock table.",
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
        // A number can have 147,455 digits; the first ones suffice.
        let shown = if value.len() <= 100 { exact(value) } else { json!(format!("{}...", &value[..100])) };
        Self::new(
            "22003",
            format!("{argument} has more digits than can be kept"),
            json!({
                "reason": "too_many_digits", "argument": argument, "value": shown,
                "max_digits": MAX_DIGITS,
            }),
            "Pass at most 28 digits: a quantity is never rounded.",
        )
    }

    /// `22003`: the quantity column cannot hold it exactly.
    pub fn misfit(argument: &str, value: Quantity, column: &str, capacity: Capacity, misfit: Misfit) -> Box<Self> {
        let mut detail =
            json!({"reason": "too_many_digits", "argument": argument, "value": number(value), "column": column});
        match (misfit, capacity) {
            (Misfit::Decimals { kept }, _) => {
                detail["reason"] = json!("too_many_decimals");
                detail["max_decimals"] = json!(kept);
            }
            (_, Capacity::Integer { max }) => detail["max_value"] = json!(max),
            (_, Capacity::Fixed { precision, scale }) => {
                detail["precision"] = json!(precision);
                detail["scale"] = json!(scale);
            }
            (_, Capacity::Unbounded) => {}
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

    /// `22023`: p_items is malformed. `facts` names the element.
    pub fn malformed_items(message: &str, reason: &str, facts: Value) -> Box<Self> {
        Self::with_reason(
            "22023",
            message,
            reason,
            facts,
            r#"Pass an array of objects such as {"inventory_id": "the id", "quantity": 2}."#,
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

    /// `22023`: too few or too many stripes.
    pub fn stripe_count(stripes: i32, max_stripes: i16) -> Box<Self> {
        Self::new(
            "22023",
            format!("p_stripes must be between 2 and {max_stripes}"),
            json!({"reason": "stripe_count", "argument": "p_stripes", "value": stripes, "max_stripes": max_stripes}),
            "Pass about as many as there are sessions that sell the item at once; 16 serve most.",
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

    /// `22023`: a transfer to where it comes from.
    pub fn same_item(item: &ItemId) -> Box<Self> {
        Self::new(
            "22023",
            "p_from and p_to must be different items",
            json!({"reason": "same_item", "inventory_id": item.to_json()}),
            "Name another item in p_to.",
        )
    }
}

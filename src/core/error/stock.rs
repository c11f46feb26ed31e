//! The errors of a change of stock: shortages, unknown items, verification, retries.

use super::Error;
use crate::core::item_id::ItemId;
use crate::core::json::{exact, number};
use crate::core::quantity::Quantity;
use serde_json::{Value, json};

const INSUFFICIENT: &str = "Insufficient inventory";
const NOT_FOUND: &str = "Inventory item not found";
const DIVIDED: &str = "an item was divided while a call began";
const NOT_VERIFIED: &str = "Inventory verification failed";

impl Error {
    /// `IV001`: the item has less than was asked for.
    pub fn insufficient(item: &ItemId, available: Quantity, requested: Quantity) -> Box<Self> {
        Self::styled(
            ["IV001", "PT409"],
            Some(figures(available, requested)),
            INSUFFICIENT,
            json!({
                "reason": "insufficient", "inventory_id": item.to_json(),
                "available": number(available), "requested": number(requested),
            }),
            "Ask for no more than is available, or restock the item first.",
        )
    }

    /// `IV001` of an order: every line that is short or unknown. `first` is the available and the
    /// requested quantity of the first short one.
    pub fn short_lines([available, requested]: [Quantity; 2], lines: Vec<Value>) -> Box<Self> {
        Self::styled(
            ["IV001", "PT409"],
            Some(figures(available, requested)),
            INSUFFICIENT,
            json!({"reason": "short_lines", "lines": lines}),
            "Take the short lines out or ask for less; p_on_shortage skip or partial does so by itself.",
        )
    }

    /// `IV002` of an order: every line whose item is unknown, where no other is short.
    pub fn unknown_lines(lines: Vec<Value>) -> Box<Self> {
        let detail = json!({"reason": "short_lines", "lines": lines});
        Self::styled(["IV002", "PT404"], None, NOT_FOUND, detail, "Check the ids of the items.")
    }

    /// Another session has divided an item meanwhile: the call begins again. No caller sees it.
    pub fn divided() -> Box<Self> {
        Self::internal(DIVIDED)
    }

    /// Whether it is that.
    pub fn is_division(&self) -> bool {
        self.message == DIVIDED
    }

    /// `IV002`: no such item, or none that the caller may sell. Both have the same words, so that no caller learns of
    /// an item of another tenant.
    pub fn unknown_item(item: &ItemId) -> Box<Self> {
        let detail = json!({"reason": "unknown_item", "inventory_id": item.to_json()});
        Self::styled(["IV002", "PT404"], None, NOT_FOUND, detail, "Check the id of the item.")
    }

    /// `IV007`: the table holds something else than was written. A quantity that was not read, or not requested, is
    /// None.
    pub fn verification_failed(
        item: &ItemId,
        old_quantity: impl Into<Option<Quantity>>,
        new_quantity: Option<Quantity>,
        requested: impl Into<Option<Quantity>>,
    ) -> Box<Self> {
        Self::styled(
            ["IV007", "PT500"],
            None,
            NOT_VERIFIED,
            json!({
                "reason": "verification_failed", "inventory_id": item.to_json(),
                "old_quantity": old_quantity.into().map(number), "new_quantity": new_quantity.map(number),
                "requested": requested.into().map(number),
            }),
            "Look for a BEFORE trigger, a rule or a policy on the stock table that changes or drops the update.",
        )
    }

    /// `IV007`: the row holds a value that is no quantity.
    pub fn unreadable_stock(item: &ItemId, stored: &str) -> Box<Self> {
        Self::styled(
            ["IV007", "PT500"],
            None,
            NOT_VERIFIED,
            json!({"reason": "unreadable_stock", "inventory_id": item.to_json(), "stored": stored}),
            "Call adjust_inventory with the counted quantity: a finite number of at most 28 digits.",
        )
    }

    /// `IV005`: the stock is not as the caller expected. `found` is the text of the stored quantity.
    pub fn stale(item: &ItemId, expected: Quantity, found: &str) -> Box<Self> {
        Self::styled(
            ["IV005", "PT409"],
            Some(format!("Inventory has changed. Expected: {expected}, Found: {found}")),
            "Inventory has changed",
            json!({
                "reason": "stale", "inventory_id": item.to_json(), "expected": number(expected), "found": exact(found),
            }),
            "Count again, and pass the quantity found now as p_expected_quantity.",
        )
    }

    /// `22003`: the stock would have more digits than can be kept. A sum that is no quantity itself is None.
    pub fn overflow(
        item: &ItemId,
        old_quantity: impl Into<Option<Quantity>>,
        delta: impl Into<Option<Quantity>>,
    ) -> Box<Self> {
        Self::new(
            "22003",
            "the stock would have more digits than can be kept",
            json!({
                "reason": "overflow", "inventory_id": item.to_json(), "old_quantity": old_quantity.into().map(number),
                "delta": delta.into().map(number),
            }),
            "Change the stock by less, or let the quantity column keep more digits.",
        )
    }

    /// `IV003`: the key was used before, for another request.
    pub fn key_reused(key: &str, function: &str) -> Box<Self> {
        Self::styled(
            ["IV003", "PT422"],
            None,
            "Idempotency key was used before with other arguments",
            json!({"reason": "key_reused", "idempotency_key": key, "used_by": function}),
            "Use a new key for a new request; repeat a request with the very same arguments.",
        )
    }
}

fn figures(available: Quantity, requested: Quantity) -> String {
    format!("Insufficient inventory. Available: {available}, Requested: {requested}")
}

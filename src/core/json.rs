//! JSON results, with every digit.
//!
//! Keys have the order of the contract, a space follows each colon and comma, and quantities are JSON numbers with the
//! digits that PostgreSQL prints: no number becomes a floating-point number.

use crate::core::item_id::ItemId;
use crate::core::quantity::Quantity;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};
use std::io;

/// One finished deduction.
pub struct Deduction<'a> {
    /// The item.
    pub inventory_id: &'a ItemId,
    /// Stock before.
    pub old_quantity: Quantity,
    /// Stock after, as the table holds it.
    pub new_quantity: Quantity,
    /// The quantity requested and taken.
    pub deducted: Quantity,
    /// The stripe of a striped item; the quantities are those of the stripe then.
    pub stripe: Option<i16>,
}

impl Deduction<'_> {
    /// The five keys of the contract, and the stripe where there is one.
    pub fn to_json(&self) -> String {
        let Self { inventory_id, old_quantity, new_quantity, deducted, stripe } = self;
        let mut json = String::with_capacity(200);
        json.push_str(r#"{"success": true, "inventory_id": "#);
        inventory_id.push_json(&mut json);
        for (key, quantity) in [
            (r#", "old_quantity": "#, old_quantity),
            (r#", "new_quantity": "#, new_quantity),
            (r#", "deducted": "#, deducted),
        ] {
            json.push_str(key);
            json.push_str(&quantity.to_string());
        }
        json.push_str(&stripe_key(*stripe));
        json.push('}');
        json
    }
}

/// The additional key of a result about a striped item, after a comma.
pub fn stripe_key(stripe: Option<i16>) -> String {
    stripe.map_or_else(String::new, |stripe| format!(r#", "stripe": {stripe}"#))
}

/// Adds the stripe to a result about a striped item.
pub fn with_stripe(mut result: Value, stripe: Option<i16>) -> Value {
    if let Some(stripe) = stripe {
        result["stripe"] = Value::from(stripe);
    }
    result
}

/// A quantity as an exact JSON number.
pub fn number(quantity: Quantity) -> Value {
    exact(&quantity.to_string())
}

/// A finite decimal text as an exact JSON number; any other text as a JSON string.
pub fn exact(text: &str) -> Value {
    text.parse::<serde_json::Number>().map_or_else(|_| Value::from(text), Value::Number)
}

/// JSON text with a space after each colon and comma, as the contract shows it.
pub fn spaced(value: &Value) -> String {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Spaced);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => value.to_string(),
    }
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_deduction_has_the_five_keys_in_order_with_every_digit() {
        let quantity = |text: &str| text.parse::<Quantity>().unwrap_or(Quantity::ZERO);
        let deduction = Deduction {
            inventory_id: &ItemId::Uuid([0x11; 16]),
            old_quantity: quantity("1234567890123456789012345.50"),
            new_quantity: quantity("1234567890123456789012344.50"),
            deducted: quantity("1"),
            stripe: None,
        };
        let text = deduction.to_json();
        assert_eq!(
            text,
            concat!(
                r#"{"success": true, "inventory_id": "11111111-1111-1111-1111-111111111111", "#,
                r#""old_quantity": 1234567890123456789012345.50, "new_quantity": 1234567890123456789012344.50, "#,
                r#""deducted": 1}"#
            )
        );
        assert_eq!(serde_json::from_str::<Value>(&text).map(|v| spaced(&v)).unwrap_or_default(), text);
    }

    #[test]
    fn numbers_keep_digits_and_other_words_become_strings() {
        assert_eq!(exact("11.50").to_string(), "11.50");
        assert_eq!(
            exact("12345678901234567890123456789012345678").to_string(),
            "12345678901234567890123456789012345678"
        );
        assert_eq!(exact("NaN"), json!("NaN"));
    }

    #[test]
    fn spaced_text_is_the_same_json() {
        let value = json!({"reason": "a \"quoted\" word", "lines": [{"n": 1}, {"n": 2}], "none": null});
        let text = spaced(&value);
        assert_eq!(text, r#"{"reason": "a \"quoted\" word", "lines": [{"n": 1}, {"n": 2}], "none": null}"#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap_or_default(), value);
    }
}

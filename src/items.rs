//! p_items: the lines of an order, read and checked element by element.
//!
//! Touches no database. Lines on one item are summed; the order in which items are first named is kept.

use crate::answer;
use crate::error::{Fault, Outcome};
use crate::quantity::{Quantity, Unfit};
use pgrx::Uuid;
use serde_json::{Value, json};
use std::collections::HashMap;

/// One item of an order, with all that the order asks of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// The item.
    pub id: Uuid,
    /// The sum of its lines.
    pub quantity: Quantity,
    /// The first element that names it, counted from 0.
    pub element: usize,
}

/// Reads an order. `max_lines` counts elements, before they are summed.
pub fn read(text: &str, max_lines: usize) -> Outcome<Vec<Line>> {
    let parsed = serde_json::from_str::<Value>(text).map_err(|_| {
        Fault::malformed_items("p_items must be an array of lines", "not_an_array", json!({"argument": "p_items"}))
    })?;
    let Value::Array(elements) = parsed else {
        let facts = json!({"argument": "p_items", "type": type_name(&parsed)});
        return Err(Fault::malformed_items("p_items must be an array of lines", "not_an_array", facts));
    };
    if elements.is_empty() {
        let facts = json!({"argument": "p_items"});
        return Err(Fault::malformed_items("p_items has no lines", "no_lines", facts));
    }
    if elements.len() > max_lines {
        return Err(Fault::too_many_lines(elements.len(), max_lines));
    }
    let mut places = HashMap::with_capacity(elements.len());
    let mut lines: Vec<Line> = Vec::with_capacity(elements.len());
    for (element, value) in elements.iter().enumerate() {
        let line = read_line(element, value)?;
        let place = *places.entry(*line.id.as_bytes()).or_insert(lines.len());
        match lines.get_mut(place) {
            None => lines.push(line),
            Some(first) => {
                first.quantity = first.quantity.plus(line.quantity).ok_or_else(|| too_long(element, value))?;
            }
        }
    }
    Ok(lines)
}

fn read_line(element: usize, value: &Value) -> Outcome<Line> {
    let Value::Object(members) = value else { return Err(wrong(element, "not_an_object", value)) };
    if members.keys().any(|key| key != "inventory_id" && key != "quantity") {
        return Err(wrong(element, "unknown_key", value));
    }
    let id = match members.get("inventory_id") {
        Some(Value::String(text)) => parse_uuid(text).ok_or_else(|| wrong(element, "not_a_uuid", value))?,
        None | Some(Value::Null) => return Err(wrong(element, "no_inventory_id", value)),
        Some(_) => return Err(wrong(element, "not_a_uuid", value)),
    };
    let quantity = match members.get("quantity") {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => return Err(wrong(element, "no_quantity", value)),
        Some(_) => return Err(wrong(element, "not_a_number", value)),
    };
    match quantity.parse::<Quantity>() {
        Ok(quantity) if quantity.is_positive() => Ok(Line { id, quantity, element }),
        Ok(_) => Err(wrong(element, "not_positive", value)),
        Err(Unfit::NotFinite) => Err(wrong(element, "not_finite", value)),
        Err(Unfit::TooManyDigits) => Err(too_long(element, value)),
        Err(Unfit::Malformed) => Err(wrong(element, "not_a_number", value)),
    }
}

fn wrong(element: usize, reason: &str, value: &Value) -> Box<Fault> {
    Fault::malformed_items("p_items has a line that cannot be read", reason, facts(element, value))
}

fn too_long(element: usize, value: &Value) -> Box<Fault> {
    Fault::too_many_item_digits(facts(element, value))
}

/// What an error says of the element. A long one is not repeated in full.
fn facts(element: usize, value: &Value) -> Value {
    let printed = answer::spaced(value);
    let line = if printed.len() <= 200 { value.clone() } else { json!(printed.chars().take(200).collect::<String>()) };
    json!({"argument": "p_items", "element": element, "line": line})
}

/// The canonical spelling: 32 hexadecimal digits, with hyphens after the 8th, 12th, 16th and 20th, or none.
fn parse_uuid(text: &str) -> Option<Uuid> {
    let bytes = text.as_bytes();
    let hyphenated = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|&place| bytes[place] == b'-');
    if !hyphenated && bytes.len() != 32 {
        return None;
    }
    let mut digits = bytes.iter().enumerate().filter(|&(place, _)| !hyphenated || ![8, 13, 18, 23].contains(&place));
    let mut next = || digits.next().and_then(|(_, &digit)| char::from(digit).to_digit(16));
    let mut id = [0_u8; 16];
    for byte in &mut id {
        *byte = u8::try_from(next()? * 16 + next()?).ok()?;
    }
    Some(Uuid::from_bytes(id))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
    const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";

    #[test]
    fn lines_on_one_item_are_summed_in_the_order_first_named() {
        let text = format!(
            r#"[{{"inventory_id": "{B}", "quantity": 1.50}}, {{"inventory_id": "{A}", "quantity": "2"}},
                {{"inventory_id": "{}", "quantity": 0.25}}]"#,
            B.to_uppercase().replace('-', "")
        );
        let lines = read(&text, 10).unwrap_or_default();
        let told: Vec<_> = lines.iter().map(|l| (l.id.to_string(), l.quantity.to_string(), l.element)).collect();
        assert_eq!(told, [(B.to_owned(), "1.75".to_owned(), 0), (A.to_owned(), "2".to_owned(), 1)]);
    }

    #[test]
    fn a_uuid_is_hyphenated_right_or_not_at_all() {
        assert!(parse_uuid(A).is_some());
        for text in [
            "",
            "aaaaaaaa",
            "aaaaaaaa-0000-4000-8000-00000000000g",
            "aaaaaaaa0-000-4000-8000-000000000001",
            "ääaaaaaa-0000-4000-8000-0000000001",
        ] {
            assert!(parse_uuid(text).is_none(), "{text}");
        }
    }
}

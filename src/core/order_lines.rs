//! The lines of an order in p_items, read and checked element by element.
//!
//! Lines on one item are summed; items keep the order in which they are first named.

use crate::core::error::{Error, Result};
use crate::core::item_id::{IdType, ItemId, MAX_ID_BYTES};
use crate::core::quantity::{Quantity, Unfit};
use serde_json::{Value, json};
use std::collections::HashMap;

/// One item of an order, with the sum of its lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The item.
    pub id: ItemId,
    /// The sum of its lines.
    pub quantity: Quantity,
    /// The first element that names it, counted from 0.
    pub element: usize,
}

/// The elements of p_items, read one at a time.
pub trait Items {
    /// The size of the argument in bytes.
    fn bytes(&self) -> usize;
    /// The number of elements; the JSON type of an argument that is no array.
    fn elements(&self) -> Result<usize, &'static str>;
    /// The element with this number, counted from 0.
    fn element(&self, element: usize) -> Element;
    /// The element as JSON text; None where it is too large to be shown.
    fn printed(&self, element: usize) -> Option<String>;
}

/// One element.
pub enum Element {
    /// An object, and whether it has other members than the two.
    Object {
        /// inventory_id.
        id: Member,
        /// quantity.
        quantity: Member,
        /// It has other members, too.
        others: bool,
    },
    /// Anything else.
    NotAnObject,
}

/// A member of an object.
pub enum Member {
    /// There is none.
    Absent,
    /// JSON null.
    Null,
    /// A JSON string.
    Text(String),
    /// A JSON number, as PostgreSQL prints it.
    Number(String),
    /// Neither of these.
    Other,
}

/// A line needs about 100 bytes. A larger argument than this for each line allowed is rejected before it is read.
const LINE_BYTES: usize = 512;

/// An order of a permitted size. Its lines are read when the type of the table's ids is known.
pub struct Order<'a, I> {
    items: &'a I,
    count: usize,
}

/// Checks the size of an order. `max_lines` counts elements, before they are summed.
pub fn read<I: Items>(items: &I, max_lines: usize) -> Result<Order<'_, I>> {
    let count = items.elements().map_err(|found| {
        let facts = json!({"argument": "p_items", "type": found});
        Error::malformed_items("p_items must be an array of lines", "not_an_array", facts)
    })?;
    if count == 0 {
        let facts = json!({"argument": "p_items"});
        return Err(Error::malformed_items("p_items has no lines", "no_lines", facts));
    }
    if count > max_lines {
        return Err(Error::too_many_lines(count, max_lines));
    }
    let max_bytes = LINE_BYTES * max_lines.max(8);
    if items.bytes() > max_bytes {
        return Err(Error::items_too_large(items.bytes(), max_bytes));
    }
    Ok(Order { items, count })
}

impl<I: Items> Order<'_, I> {
    /// Whether it has one element, and so changes one row.
    pub fn is_single(&self) -> bool {
        self.count == 1
    }

    /// The lines, with ids of this type, those on one item summed.
    pub fn lines(&self, id_type: IdType) -> Result<Vec<Line>> {
        let mut places = HashMap::with_capacity(self.count);
        let mut lines: Vec<Line> = Vec::with_capacity(self.count);
        for element in 0..self.count {
            let line = read_line(self.items, element, id_type)?;
            let place = *places.entry(line.id.clone()).or_insert(lines.len());
            match lines.get_mut(place) {
                None => lines.push(line),
                Some(first) => {
                    let sum = first.quantity.checked_add(line.quantity);
                    first.quantity = sum.ok_or_else(|| too_long(self.items, element))?;
                }
            }
        }
        Ok(lines)
    }
}

fn read_line(items: &impl Items, element: usize, id_type: IdType) -> Result<Line> {
    let wrong = |reason: &str| Err(wrong(items, element, reason));
    let Element::Object { id, quantity, others } = items.element(element) else { return wrong("not_an_object") };
    if others {
        return wrong("unknown_key");
    }
    let id = match id {
        Member::Text(key) => parse(&key, id_type),
        // A uuid is no number.
        Member::Number(key) if id_type != IdType::Uuid => parse(&key, id_type),
        Member::Absent | Member::Null => return wrong("no_inventory_id"),
        Member::Number(_) | Member::Other => None,
    };
    let Some(id) = id else {
        return match id_type {
            IdType::Uuid => wrong("not_a_uuid"),
            IdType::Integer | IdType::Bigint | IdType::Text => wrong("not_an_id"),
        };
    };
    let quantity = match quantity {
        Member::Number(number) => number,
        Member::Text(text) => text,
        Member::Absent | Member::Null => return wrong("no_quantity"),
        Member::Other => return wrong("not_a_number"),
    };
    match quantity.parse::<Quantity>() {
        Ok(quantity) if quantity.is_positive() => Ok(Line { id, quantity, element }),
        Ok(_) => wrong("not_positive"),
        Err(Unfit::NotFinite) => wrong("not_finite"),
        Err(Unfit::TooManyDigits) => Err(too_long(items, element)),
        Err(Unfit::Malformed) => wrong("not_a_number"),
    }
}

fn parse(key: &str, id_type: IdType) -> Option<ItemId> {
    if key.len() > MAX_ID_BYTES { None } else { ItemId::parse(key, id_type) }
}

fn wrong(items: &impl Items, element: usize, reason: &str) -> Box<Error> {
    Error::malformed_items("p_items has a line that cannot be read", reason, facts(items, element))
}

fn too_long(items: &impl Items, element: usize) -> Box<Error> {
    Error::too_many_item_digits(facts(items, element))
}

/// The facts about an element. A long one is not repeated in full.
fn facts(items: &impl Items, element: usize) -> Value {
    let text = items.printed(element);
    let line = match &text {
        // serde_json reads an object with its own name for numbers as a number.
        Some(text) if text.len() <= 200 && !text.contains("$serde_json") => {
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        }
        Some(text) => json!(text.chars().take(200).collect::<String>()),
        None => Value::Null,
    };
    json!({"argument": "p_items", "element": element, "line": line})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items as serde reads them; how PostgreSQL's are read is tested over SQL.
    struct Parsed(Vec<Value>);

    impl Items for Parsed {
        fn bytes(&self) -> usize {
            0
        }

        fn elements(&self) -> Result<usize, &'static str> {
            Ok(self.0.len())
        }

        fn element(&self, element: usize) -> Element {
            let member = |name: &str| match self.0[element].get(name) {
                Some(Value::String(text)) => Member::Text(text.clone()),
                Some(Value::Number(number)) => Member::Number(number.to_string()),
                Some(_) => Member::Other,
                None => Member::Absent,
            };
            Element::Object { id: member("inventory_id"), quantity: member("quantity"), others: false }
        }

        fn printed(&self, element: usize) -> Option<String> {
            Some(self.0[element].to_string())
        }
    }

    const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
    const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";

    #[test]
    fn lines_on_one_item_are_summed_in_the_order_first_named() {
        let text = format!(
            r#"[{{"inventory_id": "{B}", "quantity": 1.50}}, {{"inventory_id": "{A}", "quantity": "2"}},
                {{"inventory_id": "{}", "quantity": 0.25}}]"#,
            B.to_uppercase().replace('-', "")
        );
        let parsed = Parsed(serde_json::from_str(&text).unwrap_or_default());
        let order = read(&parsed, 10).map_err(|error| error.message);
        let lines =
            order.and_then(|order| order.lines(IdType::Uuid).map_err(|error| error.message)).unwrap_or_default();
        let read: Vec<_> = lines.iter().map(|l| (l.id.to_string(), l.quantity.to_string(), l.element)).collect();
        assert_eq!(read, [(B.to_owned(), "1.75".to_owned(), 0), (A.to_owned(), "2".to_owned(), 1)]);
    }
}

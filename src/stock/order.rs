//! Many lines, one lock order.
//!
//! Lock order: the idempotency key (before this room is entered), then the items by id ascending, as PostgreSQL sorts a uuid;
//! then the striped ones among them, in the same order (holding.rs).
//! Every function that changes more than one item, or more than a sale, comes through [`lock`] and [`write`]: two statements,
//! however many lines. What was written is verified line by line.

use crate::core::error::{Fault, Outcome};
use crate::core::json::{number, stripe_key};
use crate::core::order_lines::{self, Line};
use crate::core::quantity::{Quantity, Shape};
use crate::ledger::context::Given;
use crate::ledger::recorder::{Kind, Rows};
use crate::pg::encoding::from_server;
use crate::pg::failpoint::{self, Place};
use crate::pg::jsonb::JsonbArg;
use crate::pg::report::answered;
use crate::pg::settings;
use crate::pg::spi::{Arg, Connection, Sight};
use crate::stock::call::{Call, in_context};
use crate::stock::sale::fits;
use crate::stripes::striped::{self, Held, Step, Striped, Taken, kept};
use crate::table::attachment::{Attachment, Kept};
use pgrx::{Uuid, pg_extern, pg_sys};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Deducts a whole order, all of it or nothing.
///
/// p_items: an array of {"inventory_id": uuid, "quantity": number}, one to inventory_ext.max_batch_lines elements; a quantity
/// may be a text with a number in it; lines on one item are summed. p_reference: what the movements belong to, at most 255
/// bytes. p_idempotency_key: names the order for its retries, at most 255 bytes. p_on_shortage: abort, any short or unknown
/// line fails the order; skip, such lines are left out; partial, of a short line what is there is taken. Answers {"success":
/// true, "lines": [{"inventory_id", "old_quantity", "new_quantity", "deducted"}], "short": [{"reason", "inventory_id",
/// "available", "requested", "deducted"}]}, items in the order first named; the line of a striped item has also "stripe". Errors: IV001 short lines and IV002 unknown
/// items, all of them named in DETAIL, IV003 key used before, IV007 something on the table changed the deduction, 22004
/// NULL, 22023 malformed p_items (the element is named) or another word in p_on_shortage, 22003 digits the column cannot
/// keep, 54000 too many lines, 55000 no stock table attached.
#[pg_extern(sql = false)]
pub fn decrement_inventory_batch(
    p_items: Option<JsonbArg>,
    p_reference: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
    p_on_shortage: Option<&[u8]>,
) -> Vec<u8> {
    let [reference, key, on_shortage] =
        [p_reference, p_idempotency_key, p_on_shortage].map(|text| text.map(from_server));
    answered(order(p_items, reference, key, on_shortage))
}

/// What becomes of a line that is short.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnShortage {
    Abort,
    Skip,
    Partial,
}

impl OnShortage {
    fn read(word: Option<String>) -> Outcome<Self> {
        match word.ok_or_else(|| Fault::null_argument("p_on_shortage"))?.as_str() {
            "abort" => Ok(Self::Abort),
            "skip" => Ok(Self::Skip),
            "partial" => Ok(Self::Partial),
            other => {
                let allowed = ["abort", "skip", "partial"];
                Err(Fault::unknown_word("p_on_shortage", other, &allowed, "Pass abort, skip or partial."))
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Skip => "skip",
            Self::Partial => "partial",
        }
    }
}

fn order(
    items: Option<JsonbArg>,
    reference: Option<String>,
    key: Option<String>,
    on_shortage: Option<String>,
) -> Outcome<String> {
    in_context(Given::argument("p_reference", reference), Given::argument("p_idempotency_key", key), |context| {
        let items = items.ok_or_else(|| Fault::null_argument("p_items"))?;
        let on_shortage = OnShortage::read(on_shortage)?;
        let lines = order_lines::read(&items, settings::max_batch_lines())?;
        let reference = context.reference.clone();
        let rows = if lines.len() == 1 { Rows::One } else { Rows::Many };
        let call = Call {
            function: "decrement_inventory_batch",
            kind: Kind::Sale,
            rows,
            needs_all: on_shortage == OnShortage::Abort,
            context,
        };
        let ids: Vec<Uuid> = lines.iter().map(|line| line.id).collect();
        call.run(
            &ids,
            || canonical(&lines, on_shortage, reference.as_deref()),
            |spi, stock| deduct(spi, stock, &lines, on_shortage),
        )
    })
}

/// The order as its retries must repeat it: the same items and sums, in whatever order they are named.
fn canonical(lines: &[Line], on_shortage: OnShortage, reference: Option<&str>) -> String {
    let mut told: Vec<String> = lines.iter().map(|line| format!("{} {}", line.id, line.quantity.canonical())).collect();
    told.sort_unstable();
    json!([on_shortage.word(), reference, told]).to_string()
}

fn deduct(spi: &Connection, stock: &Attachment, lines: &[Line], on_shortage: OnShortage) -> Outcome<String> {
    for line in lines {
        fits("p_items", line.quantity, stock).map_err(|fault| fault.at_element(line.element))?;
    }
    let lots = hold(spi, stock, lines, on_shortage)?;
    let mut changes = Vec::with_capacity(lines.len());
    let mut short = Vec::new();
    let mut first_short = None;
    for line in lines {
        let (id, requested) = (line.id.to_string(), number(line.quantity));
        let (available, stripe) = match lots.get(line.id.as_bytes()) {
            Some(&Lot::Held { available, stripe }) => (available, stripe),
            Some(Lot::Unreadable(stored)) if on_shortage == OnShortage::Abort => {
                return Err(Fault::unreadable_stock(&id, stored));
            }
            Some(Lot::Unreadable(stored)) => {
                short.push(json!({
                    "reason": "unreadable_stock", "inventory_id": id, "stored": stored, "requested": requested,
                }));
                continue;
            }
            None => {
                short.push(json!({"reason": "unknown_item", "inventory_id": id, "requested": requested}));
                continue;
            }
        };
        let taken = match available {
            enough if enough >= line.quantity => line.quantity,
            some if on_shortage == OnShortage::Partial => some,
            _ => Quantity::ZERO,
        };
        if taken < line.quantity {
            first_short = first_short.or(Some((available, line.quantity)));
            short.push(json!({
                "reason": "insufficient", "inventory_id": id, "available": number(available),
                "requested": requested, "deducted": number(taken),
            }));
        }
        if taken.is_positive() {
            changes.push(Change { id: line.id, stripe, old_quantity: available, delta: taken.negated() });
        }
    }
    if on_shortage == OnShortage::Abort && !short.is_empty() {
        return Err(Fault::short_lines(first_short, short.into_iter().map(refused).collect()));
    }
    let written = write(spi, stock, &changes)?;
    Ok(told(&changes, &written, &short))
}

/// What an item of an order has.
enum Lot {
    /// In all, or in the stripe that is held.
    Held { available: Quantity, stripe: Option<i16> },
    /// The row holds something that is no quantity.
    Unreadable(String),
}

/// Locks what the lines ask for. Unknown items are missing from the answer.
fn hold(
    spi: &Connection,
    stock: &Attachment,
    lines: &[Line],
    on_shortage: OnShortage,
) -> Outcome<HashMap<[u8; 16], Lot>> {
    let (mut striped, whole): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| stock.stripes_of(&line.id).is_some());
    let mut lots = HashMap::with_capacity(lines.len());
    if !whole.is_empty() {
        let held = lock(spi, stock, whole.into_iter().map(|line| line.id).collect())?;
        lots.extend(held.into_iter().map(|(id, stored)| {
            (id, stored.map_or_else(Lot::Unreadable, |available| Lot::Held { available, stripe: None }))
        }));
    }
    striped.sort_unstable_by_key(|line| *line.id.as_bytes());
    for Line { id, quantity, .. } in striped {
        // One that may not be changed is missing, as an unknown one.
        if let Ok(Some(striped)) = Striped::of(spi, stock, *id) {
            lots.insert(*id.as_bytes(), hold_stripe(&striped, *quantity, on_shortage)?);
        }
    }
    Ok(lots)
}

fn hold_stripe(striped: &Striped<'_>, wanted: Quantity, on_shortage: OnShortage) -> Outcome<Lot> {
    let lot = |held: Held<'_>| Lot::Held { available: held.quantity, stripe: Some(held.stripe) };
    match striped.take(wanted)? {
        Taken::Held(held) => Ok(lot(held)),
        Taken::Short(available) if on_shortage == OnShortage::Partial && available.is_positive() => {
            let seen = striped.lock_all()?;
            striped.gather_all(seen).map(lot)
        }
        Taken::Short(available) => Ok(Lot::Held { available, stripe: None }),
    }
}

/// Where nothing is taken at all, nothing is said of what was taken.
fn refused(line: Value) -> Value {
    let Value::Object(facts) = line else { return line };
    Value::Object(facts.into_iter().filter(|(key, _)| key != "deducted").collect::<Map<_, _>>())
}

fn told(changes: &[Change], written: &[Quantity], short: &[Value]) -> String {
    let lines: Vec<String> = changes
        .iter()
        .zip(written)
        .map(|(Change { id, stripe, old_quantity, delta }, new_quantity)| {
            let (deducted, stripe) = (delta.negated(), stripe_key(*stripe));
            format!(
                r#"{{"inventory_id": "{id}", "old_quantity": {old_quantity}, "new_quantity": {new_quantity}, "deducted": {deducted}{stripe}}}"#
            )
        })
        .collect();
    let short: Vec<String> = short.iter().map(crate::core::json::spaced).collect();
    format!(r#"{{"success": true, "lines": [{}], "short": [{}]}}"#, lines.join(", "), short.join(", "))
}

/// A change of one locked item.
pub struct Change {
    /// The item.
    pub id: Uuid,
    /// The stripe of it that is held, where it is striped.
    pub stripe: Option<i16>,
    /// What it, or the stripe, has, read under its lock.
    pub old_quantity: Quantity,
    /// What is added; negative for what is taken.
    pub delta: Quantity,
}

/// What the row of an item holds; of what is no quantity, its text.
pub type Stored = Result<Quantity, String>;

/// The quantity of an item that must have one.
pub fn readable(id: &Uuid, stored: Stored) -> Outcome<Quantity> {
    stored.map_err(|stored| Fault::unreadable_stock(&id.to_string(), &stored))
}

/// Locks items in the order of their ids and reads what they have. Unknown items are missing from the result.
pub fn lock(spi: &Connection, stock: &Attachment, ids: Vec<Uuid>) -> Outcome<HashMap<[u8; 16], Stored>> {
    stock.require_sale_rights();
    let kept = stock.by_strength(Kept::LockMany, Kept::LockManyNoKey);
    let plan = stock.plan(spi, kept, || {
        let (source, id, quantity) = (stock.source(), &stock.id, &stock.quantity);
        let strength = if matches!(kept, Kept::LockMany) { "FOR UPDATE" } else { "FOR NO KEY UPDATE" };
        // The rows are locked as the sort gives them out, and an id does not change under a lock.
        let sql = format!(
            "SELECT stock.{id}, stock.{quantity} FROM {source} WHERE stock.{id} OPERATOR(pg_catalog.=) ANY ($1) ORDER BY stock.{id} {strength}"
        );
        (sql, vec![pg_sys::UUIDARRAYOID])
    });
    let rows = spi.run(plan, &[Arg::owned(ids)], Sight::Isolation);
    failpoint::reached(spi, Place::Locked);
    let mut held = HashMap::with_capacity(rows.count());
    for row in 0..rows.count() {
        let id: Uuid = rows.get(row, 1).ok_or_else(|| Fault::internal("an item has no id"))?;
        held.insert(*id.as_bytes(), rows.quantity(row, 2, stock.quantity_type));
    }
    Ok(held)
}

/// Writes changes of locked items, in one statement those of the stock table and in one those of stripes; verifies each, and
/// gives the new quantities in the same order.
pub fn write(spi: &Connection, stock: &Attachment, changes: &[Change]) -> Outcome<Vec<Quantity>> {
    for Change { id, old_quantity, delta, .. } in changes {
        old_quantity.plus(*delta).ok_or_else(|| Fault::overflow(&id.to_string(), *old_quantity, *delta))?;
    }
    let (striped, whole): (Vec<&Change>, Vec<&Change>) = changes.iter().partition(|change| change.stripe.is_some());
    let step = |change: &Change| {
        let Change { id, stripe, old_quantity, delta } = *change;
        Some(Step { id, stripe: stripe?, old_quantity, delta: kept(stock, delta) })
    };
    let steps: Vec<Step> = striped.into_iter().filter_map(step).collect();
    // Stripes first: a trigger of the stock table may sell more of a held stripe, as a kit sells its parts.
    let stripes = if steps.is_empty() { HashMap::new() } else { striped::write(spi, stock, &steps)? };
    let whole = if whole.is_empty() { HashMap::new() } else { write_whole(spi, stock, &whole)? };
    let written = |change: &Change| match change.stripe {
        None => whole.get(change.id.as_bytes()).copied(),
        Some(stripe) => stripes.get(&(*change.id.as_bytes(), stripe)).copied(),
    };
    changes.iter().map(|change| verify(change, written(change))).collect()
}

fn write_whole(spi: &Connection, stock: &Attachment, changes: &[&Change]) -> Outcome<HashMap<[u8; 16], Quantity>> {
    let plan = stock.plan(spi, Kept::WriteMany, || {
        let (source, id, quantity) = (stock.source(), &stock.id, &stock.quantity);
        let number = if matches!(stock.shape, Shape::Whole { .. }) { "int8" } else { "numeric" };
        let sql = format!(
            "UPDATE {source} SET {quantity} = stock.{quantity} OPERATOR(pg_catalog.+) change.delta
               FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.{number}[])) AS change (id, delta)
              WHERE stock.{id} OPERATOR(pg_catalog.=) change.id
             RETURNING stock.{id}, stock.{quantity}"
        );
        (sql, vec![pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID])
    });
    let ids: Vec<Uuid> = changes.iter().map(|change| change.id).collect();
    let deltas: Vec<String> = changes.iter().map(|change| printed_delta(change.delta, stock.shape)).collect();
    let rows = spi.run(plan, &[Arg::owned(ids), Arg::owned(deltas)], Sight::Isolation);
    failpoint::reached(spi, Place::Written);
    let mut written = HashMap::with_capacity(rows.count());
    for row in 0..rows.count() {
        let id: Uuid = rows.get(row, 1).ok_or_else(|| Fault::internal("an item has no id"))?;
        let quantity = rows
            .quantity(row, 2, stock.quantity_type)
            .map_err(|stored| Fault::unreadable_stock(&id.to_string(), &stored))?;
        written.insert(*id.as_bytes(), quantity);
    }
    Ok(written)
}

fn verify(change: &Change, written: Option<Quantity>) -> Outcome<Quantity> {
    let taken = change.delta.negated();
    match written {
        Some(new_quantity) if change.old_quantity.less(taken, new_quantity) => Ok(new_quantity),
        _ => Err(Fault::verification_failed(&change.id.to_string(), change.old_quantity, written, taken)),
    }
}

/// A whole number for the whole-number types, which read no decimals.
fn printed_delta(delta: Quantity, shape: Shape) -> String {
    match (shape, delta.to_i64()) {
        (Shape::Whole { .. }, Some(units)) => units.to_string(),
        _ => delta.to_string(),
    }
}

//! Goods in, counts, and transfers between two items.
//!
//! Lock order: as in batch.rs, through which every change here is locked and written.

use crate::core::error::{Fault, Outcome};
use crate::core::json::{exact, number, spaced};
use crate::core::quantity::{Quantity, Unfit};
use crate::ledger::context::Given;
use crate::ledger::recorder::{Kind, Rows};
use crate::pg::encoding::from_server;
use crate::pg::report::answered;
use crate::pg::spi::{Arg, Connection, NumericArg};
use crate::stock::call::{Call, in_context};
use crate::stock::order::{self, Change, Stored};
use crate::stock::sale::{fits, positive};
use crate::stripes::striped::{Held, Striped, Taken};
use crate::table::attachment::Attachment;
use pgrx::{Uuid, pg_extern, pg_sys};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Adds a quantity to an item's stock: goods in, or a return.
///
/// p_inventory_id: the item. p_quantity: units to add, greater than zero, at most 28 digits and no more decimals than the
/// quantity column keeps. p_reference: what the movement belongs to, at most 255 bytes. p_idempotency_key: names the call
/// for its retries, at most 255 bytes. Answers {"success": true, "inventory_id", "old_quantity", "new_quantity", "added"}, of a striped item also "stripe".
/// Errors: IV002 unknown item, IV003 key used before, IV007 something on the table changed the addition, 22004 NULL,
/// 22023 not finite or not positive, 22003 digits the column cannot keep, 55000 no stock table attached.
#[pg_extern(sql = false)]
pub fn restock_inventory(
    p_inventory_id: Option<Uuid>,
    p_quantity: Option<NumericArg>,
    p_reference: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
) -> Vec<u8> {
    let [reference, key] = [p_reference, p_idempotency_key].map(|text| text.map(from_server));
    answered(restock(p_inventory_id, p_quantity.as_ref(), reference, key))
}

/// Sets an item's stock to what was counted.
///
/// p_inventory_id: the item. p_counted_quantity: what is there, zero or more, at most 28 digits and no more decimals than
/// the quantity column keeps. p_expected_quantity: what the stock is believed to be; where given and not so, nothing changes
/// and IV005 says what it is. p_reason: kept as the movement's reference, at most 255 bytes. A count that finds what the
/// stock says changes nothing and leaves no movement. Answers {"success": true, "inventory_id", "old_quantity",
/// "new_quantity", "adjusted"}, adjusted being new - old; of a striped item the quantities are those of all stripes. Errors: IV002 unknown item, IV005 stale expected quantity, IV007
/// something on the table changed the adjustment, 22004 NULL, 22023 not finite or negative, 22003 digits the column
/// cannot keep, 55000 no stock table attached.
#[pg_extern(sql = false)]
pub fn adjust_inventory(
    p_inventory_id: Option<Uuid>,
    p_counted_quantity: Option<NumericArg>,
    p_expected_quantity: Option<NumericArg>,
    p_reason: Option<&[u8]>,
) -> Vec<u8> {
    let reason = p_reason.map(from_server);
    let adjusted = adjust(p_inventory_id, p_counted_quantity.as_ref(), p_expected_quantity.as_ref(), reason);
    answered(adjusted)
}

/// Moves a quantity from one item to another, such as the same product at two locations.
///
/// p_from, p_to: two items. p_quantity: units to move, greater than zero, at most 28 digits and no more decimals than the
/// quantity column keeps. p_reference: what the movements belong to, at most 255 bytes. p_idempotency_key: names the call
/// for its retries, at most 255 bytes. Answers {"success": true, "from": {"inventory_id", "old_quantity", "new_quantity"},
/// "to": {the same}, "transferred"}; a striped side has also "stripe". Errors: IV001 p_from has less, IV002 unknown item, IV003 key used before, IV007
/// something on the table changed the transfer, 22004 NULL, 22023 not finite, not positive or one item twice, 22003 digits
/// the column cannot keep, 55000 no stock table attached.
#[pg_extern(sql = false)]
pub fn transfer_inventory(
    p_from: Option<Uuid>,
    p_to: Option<Uuid>,
    p_quantity: Option<NumericArg>,
    p_reference: Option<&[u8]>,
    p_idempotency_key: Option<&[u8]>,
) -> Vec<u8> {
    let [reference, key] = [p_reference, p_idempotency_key].map(|text| text.map(from_server));
    answered(transfer(p_from, p_to, p_quantity.as_ref(), reference, key))
}

fn restock(
    id: Option<Uuid>,
    quantity: Option<&NumericArg>,
    reference: Option<String>,
    key: Option<String>,
) -> Outcome<String> {
    in_context(Given::argument("p_reference", reference), Given::argument("p_idempotency_key", key), |context| {
        let id = item("p_inventory_id", id)?;
        let added = amount(quantity)?;
        let reference = context.reference.clone();
        let call =
            Call { function: "restock_inventory", kind: Kind::Restock, rows: Rows::One, needs_all: true, context };
        call.run(
            &[id],
            || json!([id.to_string(), added.canonical().to_string(), reference]).to_string(),
            |spi, stock| {
                fits("p_quantity", added, stock)?;
                let place = place_for_more(spi, stock, id, added)?;
                let new_quantity = change_one(spi, stock, &place, added)?;
                Ok(spaced(&with_stripe(
                    json!({
                        "success": true, "inventory_id": id.to_string(), "old_quantity": number(place.quantity),
                        "new_quantity": number(new_quantity), "added": number(added),
                    }),
                    place.stripe,
                )))
            },
        )
    })
}

fn adjust(
    id: Option<Uuid>,
    counted: Option<&NumericArg>,
    expected: Option<&NumericArg>,
    reason: Option<String>,
) -> Outcome<String> {
    in_context(Given::argument("p_reason", reason), Given::nothing(), |context| {
        let id = item("p_inventory_id", id)?;
        let counted = counted.ok_or_else(|| Fault::null_argument("p_counted_quantity"))?;
        let counted = not_negative("p_counted_quantity", counted)?;
        let expected = expected.map(|value| not_negative("p_expected_quantity", value)).transpose()?;
        let reference = context.reference.clone();
        let call =
            Call { function: "adjust_inventory", kind: Kind::Adjustment, rows: Rows::One, needs_all: true, context };
        let canonical = |quantity: Quantity| quantity.canonical().to_string();
        call.run(
            &[id],
            || json!([id.to_string(), canonical(counted), expected.map(canonical), reference]).to_string(),
            |spi, stock| set_to(spi, stock, id, counted, expected),
        )
    })
}

fn set_to(
    spi: &Connection,
    stock: &Attachment,
    id: Uuid,
    counted: Quantity,
    expected: Option<Quantity>,
) -> Outcome<String> {
    fits("p_counted_quantity", counted, stock)?;
    let striped = Striped::of(spi, stock, id)?;
    let seen = striped.as_ref().map(Striped::lock_all).transpose()?;
    let old_quantity = match (&striped, &seen) {
        (Some(striped), Some(seen)) => striped.total(seen)?,
        _ => match lock_stored(spi, stock, id)? {
            Ok(quantity) => quantity,
            Err(stored) => return repair(spi, stock, id, &stored, counted, expected),
        },
    };
    if let Some(expected) = expected.filter(|&expected| expected != old_quantity) {
        return Err(Fault::stale(&id.to_string(), expected, &old_quantity.to_string()));
    }
    let delta =
        counted.plus(old_quantity.negated()).ok_or_else(|| Fault::overflow(&id.to_string(), old_quantity, counted))?;
    let (new_quantity, stripe) = match (&striped, seen) {
        _ if counted == old_quantity => (old_quantity, striped.as_ref().map(Striped::own)),
        (Some(striped), Some(seen)) => {
            room_for(stock, id, old_quantity, delta)?;
            let held = striped.gather_all(seen)?;
            let new_quantity = striped.change(&held, delta)?;
            striped.spread(held.stripe, new_quantity)?;
            // A trigger of the owner's may have changed another stripe meanwhile: what is there must be what was counted.
            let there = striped.total(&striped.lock_all()?)?;
            if there != counted {
                return Err(Fault::verification_failed(&id.to_string(), old_quantity, Some(there), delta.negated()));
            }
            (new_quantity, Some(held.stripe))
        }
        _ => (change_one(spi, stock, &Place::whole(id, old_quantity), delta)?, None),
    };
    Ok(spaced(&with_stripe(
        json!({
            "success": true, "inventory_id": id.to_string(), "old_quantity": number(old_quantity),
            "new_quantity": number(new_quantity), "adjusted": number(delta),
        }),
        stripe,
    )))
}

/// Sets an item whose row holds more digits than a quantity has; PostgreSQL computes the difference.
fn repair(
    spi: &Connection,
    stock: &Attachment,
    id: Uuid,
    stored: &str,
    counted: Quantity,
    expected: Option<Quantity>,
) -> Outcome<String> {
    if let Some(expected) = expected {
        return Err(Fault::stale(&id.to_string(), expected, stored));
    }
    let (source, column, quantity) = (stock.source(), &stock.id, &stock.quantity);
    let sql = format!(
        "UPDATE {source} SET {quantity} = $2::pg_catalog.numeric WHERE stock.{column} OPERATOR(pg_catalog.=) $1
         RETURNING stock.{quantity},
                   (stock.{quantity} OPERATOR(pg_catalog.-) $3::pg_catalog.numeric)::pg_catalog.text"
    );
    let printed = counted.to_string();
    let args = [Arg::owned(id), Arg::text(printed.as_str()), Arg::text(stored)];
    let rows = spi.once(&sql, &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID], &args);
    match (rows.quantity(0, 1, stock.quantity_type), rows.text(0, 2)) {
        (Ok(new_quantity), Some(adjusted)) if new_quantity == counted => Ok(spaced(&json!({
            "success": true, "inventory_id": id.to_string(), "old_quantity": exact(stored),
            "new_quantity": number(new_quantity), "adjusted": exact(&adjusted),
        }))),
        (new_quantity, _) => {
            Err(Fault::verification_failed(&id.to_string(), counted, new_quantity.ok(), Quantity::ZERO))
        }
    }
}

fn transfer(
    from: Option<Uuid>,
    to: Option<Uuid>,
    quantity: Option<&NumericArg>,
    reference: Option<String>,
    key: Option<String>,
) -> Outcome<String> {
    in_context(Given::argument("p_reference", reference), Given::argument("p_idempotency_key", key), |context| {
        let (from, to) = (item("p_from", from)?, item("p_to", to)?);
        let moved = amount(quantity)?;
        if from == to {
            return Err(Fault::same_item(&from.to_string()));
        }
        let reference = context.reference.clone();
        let call =
            Call { function: "transfer_inventory", kind: Kind::Transfer, rows: Rows::Many, needs_all: true, context };
        call.run(
            &[from, to],
            || json!([from.to_string(), to.to_string(), moved.canonical().to_string(), reference]).to_string(),
            |spi, stock| shift(spi, stock, [from, to], moved),
        )
    })
}

fn shift(spi: &Connection, stock: &Attachment, [from, to]: [Uuid; 2], moved: Quantity) -> Outcome<String> {
    fits("p_quantity", moved, stock)?;
    let [source, target] = both(spi, stock, [from, to], moved)?;
    let changes = [
        Change { id: from, stripe: source.stripe, old_quantity: source.quantity, delta: moved.negated() },
        Change { id: to, stripe: target.stripe, old_quantity: target.quantity, delta: moved },
    ];
    let written = order::write(spi, stock, &changes)?;
    let side = |change: &Change, new_quantity: Option<&Quantity>| {
        let told = json!({
            "inventory_id": change.id.to_string(), "old_quantity": number(change.old_quantity),
            "new_quantity": new_quantity.copied().map(number),
        });
        with_stripe(told, change.stripe)
    };
    Ok(spaced(&json!({
        "success": true, "from": side(&changes[0], written.first()), "to": side(&changes[1], written.get(1)),
        "transferred": number(moved),
    })))
}

fn item(argument: &str, id: Option<Uuid>) -> Outcome<Uuid> {
    id.ok_or_else(|| Fault::null_argument(argument))
}

fn amount(quantity: Option<&NumericArg>) -> Outcome<Quantity> {
    positive("p_quantity", quantity.ok_or_else(|| Fault::null_argument("p_quantity"))?)
}

fn lock_one(spi: &Connection, stock: &Attachment, id: Uuid) -> Outcome<Quantity> {
    order::readable(&id, lock_stored(spi, stock, id)?)
}

fn lock_stored(spi: &Connection, stock: &Attachment, id: Uuid) -> Outcome<Stored> {
    let mut held = order::lock(spi, stock, vec![id])?;
    held.remove(id.as_bytes()).ok_or_else(|| Fault::unknown_item(&id.to_string()))
}

/// Where a change happens: an item, or one held stripe of it, and what that has.
struct Place {
    id: Uuid,
    stripe: Option<i16>,
    quantity: Quantity,
    /// What the whole item has at most while this is held.
    most: Quantity,
}

impl Place {
    fn whole(id: Uuid, quantity: Quantity) -> Self {
        Self { id, stripe: None, quantity, most: quantity }
    }

    fn held(id: Uuid, held: &Held<'_>, most: Quantity) -> Self {
        Self { id, stripe: Some(held.stripe), quantity: held.quantity, most }
    }

    /// Checks that the column can hold so much more of the item.
    fn has_room(self, stock: &Attachment, added: Quantity) -> Outcome<Self> {
        room_for(stock, self.id, self.most, added)?;
        Ok(self)
    }
}

fn place_for_more(spi: &Connection, stock: &Attachment, id: Uuid, added: Quantity) -> Outcome<Place> {
    let place = match Striped::of(spi, stock, id)? {
        None => Place::whole(id, lock_one(spi, stock, id)?),
        Some(striped) => any_stripe(&striped, id)?,
    };
    place.has_room(stock, added)
}

fn any_stripe(striped: &Striped<'_>, id: Uuid) -> Outcome<Place> {
    let (held, most) = striped.any()?;
    Ok(Place::held(id, &held, most))
}

/// Locks both items of a transfer: those of the stock table first, then the striped ones, each in the order of their ids.
///
/// Which of them is unknown is said in the order of the arguments, striped or not, before anything else of either is said. What
/// the source lacks is told before what the target cannot hold, whichever was locked first.
fn both(spi: &Connection, stock: &Attachment, [from, to]: [Uuid; 2], moved: Quantity) -> Outcome<[Place; 2]> {
    let whole: Vec<Uuid> = [from, to].into_iter().filter(|id| stock.stripes_of(id).is_none()).collect();
    let held = if whole.is_empty() { HashMap::new() } else { order::lock(spi, stock, whole)? };
    let side = |id: Uuid| match Striped::of(spi, stock, id)? {
        Some(striped) => Ok(Side::Striped(striped)),
        None => held.get(id.as_bytes()).cloned().map(Side::Whole).ok_or_else(|| Fault::unknown_item(&id.to_string())),
    };
    let (source_side, target_side) = (side(from)?, side(to)?);
    let source = || {
        let short = |available| Fault::insufficient(&from.to_string(), available, moved);
        match source_side {
            Side::Whole(stored) => match order::readable(&from, stored)? {
                enough if enough >= moved => Ok(Place::whole(from, enough)),
                available => Err(short(available)),
            },
            Side::Striped(striped) => match striped.take(moved)? {
                Taken::Short(available) => Err(short(available)),
                Taken::Held(held) => Ok(Place::held(from, &held, held.quantity)),
            },
        }
    };
    let target = || match target_side {
        Side::Whole(stored) => Ok(Place::whole(to, order::readable(&to, stored)?)),
        Side::Striped(striped) => any_stripe(&striped, to),
    };
    let (source, target) = if from.as_bytes() < to.as_bytes() {
        let source = source()?;
        (source, target()?)
    } else {
        let target = target()?;
        (source()?, target)
    };
    Ok([source, target.has_room(stock, moved)?])
}

/// One item of a transfer: its locked row, or its stripes.
enum Side<'a> {
    Whole(Stored),
    Striped(Striped<'a>),
}

/// An answer about a striped item names the stripe.
fn with_stripe(mut told: Value, stripe: Option<i16>) -> Value {
    if let Some(stripe) = stripe {
        told["stripe"] = json!(stripe);
    }
    told
}

fn change_one(spi: &Connection, stock: &Attachment, place: &Place, delta: Quantity) -> Outcome<Quantity> {
    let Place { id, stripe, quantity: old_quantity, .. } = *place;
    if stripe.is_none() {
        room_for(stock, id, old_quantity, delta)?;
    }
    let written = order::write(spi, stock, &[Change { id, stripe, old_quantity, delta }])?;
    written.first().copied().ok_or_else(|| Fault::internal("a written change has no answer"))
}

/// Checks that the column can hold the new quantity, where PostgreSQL would only say that something overflowed.
fn room_for(stock: &Attachment, id: Uuid, old_quantity: Quantity, delta: Quantity) -> Outcome<()> {
    let fits = old_quantity.plus(delta).is_some_and(|new_quantity| new_quantity.fits(stock.shape).is_ok());
    if fits { Ok(()) } else { Err(Fault::overflow(&id.to_string(), old_quantity, delta)) }
}

/// Reads a quantity that may be nothing.
fn not_negative(argument: &str, value: &NumericArg) -> Outcome<Quantity> {
    match value.read() {
        Ok(quantity) if quantity.is_negative() => Err(Fault::negative(argument, quantity)),
        Ok(quantity) => Ok(quantity),
        Err((Unfit::TooManyDigits, text)) => Err(Fault::too_many_digits(argument, &text)),
        Err((_, text)) => Err(Fault::not_finite(argument, &text)),
    }
}

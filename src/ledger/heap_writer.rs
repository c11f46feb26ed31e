//! Changes of locked rows, and their movements, written without the executor: see `table::native`.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::quantity::{Capacity, Quantity};
use crate::ledger::attribution::{self, Act};
use crate::ledger::buffer;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::failpoint::{self, Point};
use crate::pg::heap::{Heap, NewRow, TupleId};
use crate::pg::role::may_insert;
use crate::pg::transaction;
use crate::pg::types::SqlType;
use crate::stats::meter;
use crate::table::attachment::Attachment;
use crate::table::native::{LedgerColumns, Native};

/// The most movements that are written at once, to bound their memory.
const MOST: usize = 1_000;

/// A change of a locked row: of the stock table, or of the table of stripes.
pub struct RowWrite<'a> {
    /// The item.
    pub id: &'a ItemId,
    /// The stripe, where the row is one.
    pub stripe: Option<i16>,
    /// The place of the row.
    pub row: TupleId,
    /// Its quantity, read under its lock.
    pub old_quantity: Quantity,
    /// The quantity to add.
    pub delta: Quantity,
}

/// The table whose rows are changed.
struct Target {
    table: Oid,
    column: i16,
    sql_type: SqlType,
    capacity: Capacity,
    /// PostgreSQL checks the foreign keys of a row again that the transaction has written.
    references: bool,
}

impl Target {
    fn stock(stock: &Attachment, native: &Native) -> Self {
        Self {
            table: stock.oid,
            column: stock.numbers[1],
            sql_type: stock.names.quantity_type,
            capacity: stock.capacity,
            references: native.row.references,
        }
    }
}

/// Writes changes of rows of the stock table, in their order, and returns their new quantities. None, with nothing
/// written, where statements have to do it: the tables are not such as can be written so, a statement on the stock
/// table runs already, or PostgreSQL is to raise an error.
pub fn change(stock: &Attachment, steps: &[RowWrite<'_>]) -> Result<Option<Vec<Quantity>>> {
    let Some(native) = stock.native() else { return Ok(None) };
    write(stock, native, &Target::stock(stock, native), steps)
}

/// The same for rows of the table of stripes.
pub fn change_stripes(stock: &Attachment, steps: &[RowWrite<'_>]) -> Result<Option<Vec<Quantity>>> {
    let Some((native, column)) = stock.native().and_then(|native| Some((native, native.stripes?))) else {
        return Ok(None);
    };
    let table = stock.companions.stripes;
    let target = Target { table, column, sql_type: SqlType::Numeric, capacity: Capacity::Unbounded, references: false };
    write(stock, native, &target, steps)
}

/// Shows totals in rows of the stock table: no movements, because stripes keep the stock. False, with nothing written,
/// where a statement has to do it.
pub fn show_totals(stock: &Attachment, totals: &[(TupleId, Quantity)]) -> Result<bool> {
    let Some(native) = stock.native() else { return Ok(false) };
    let target = Target::stock(stock, native);
    let fits = |(_, total): &(TupleId, Quantity)| fitted(target.capacity, *total);
    let Some(quantities) = totals.iter().map(fits).collect::<Option<Vec<_>>>() else { return Ok(false) };
    let Some(heap) = writable(stock, &target, totals.iter().map(|(row, _)| *row))? else { return Ok(false) };
    for ((row, _), total) in totals.iter().zip(quantities) {
        heap.update(*row, target.column, value(total, target.sql_type)?, target.sql_type)?;
    }
    drop(heap);
    transaction::next_command();
    Ok(true)
}

fn write(
    stock: &Attachment,
    native: &Native,
    target: &Target,
    steps: &[RowWrite<'_>],
) -> Result<Option<Vec<Quantity>>> {
    let Some(new_quantities) = steps.iter().map(|step| sum(target.capacity, step)).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let ledger = stock.companions.movements.zip(native.ledger.as_ref());
    if ledger.is_some_and(|(ledger, _)| !may_insert(ledger, stock.owner)) {
        return Ok(None);
    }
    let Some(heap) = writable(stock, target, steps.iter().map(|step| step.row))? else { return Ok(None) };
    let update = |(step, new_quantity): (&RowWrite<'_>, Quantity)| {
        heap.update(step.row, target.column, value(new_quantity, target.sql_type)?, target.sql_type)
    };
    let written = steps.iter().zip(new_quantities).map(update).collect::<Result<Vec<_>>>()?;
    drop(heap);
    failpoint::reached(Point::Written);
    if let Some((ledger, columns)) = ledger {
        let act = attribution::act(stock.oid).ok_or_else(|| Error::internal("a change belongs to no act"))?;
        record(ledger, (columns, SqlType::of_id(stock.names.id_type)), (steps, &written), &act)?;
        meter::moved(steps.len());
    }
    transaction::next_command();
    Ok(Some(written))
}

/// The table, open, where these rows of it can be written now.
fn writable(stock: &Attachment, target: &Target, rows: impl Iterator<Item = TupleId>) -> Result<Option<Heap>> {
    if !buffer::is_quiet(stock.oid) {
        return Ok(None);
    }
    let heap = Heap::open(target.table);
    if target.references {
        for row in rows {
            if heap.is_new(row)? {
                return Ok(None);
            }
        }
    }
    if !heap.may_update(target.column, stock.owner) {
        return Ok(None);
    }
    heap.require_replica_identity();
    Ok(Some(heap))
}

/// The new quantity as the column keeps it; None where PostgreSQL would keep it otherwise, or refuse it.
fn sum(capacity: Capacity, RowWrite { old_quantity, delta, .. }: &RowWrite<'_>) -> Option<Quantity> {
    let sum = old_quantity.checked_add(*delta)?;
    // PostgreSQL keeps zeros at the end that a quantity has no room for.
    let has_all_zeros = || {
        let whole = |quantity: &Quantity| quantity.has_room() && sum.scale() >= quantity.scale();
        whole(old_quantity) && whole(delta) && sum.has_room()
    };
    fitted(capacity, sum).filter(|_| capacity != Capacity::Unbounded || has_all_zeros())
}

/// A quantity with the decimals of the column; None where the column or its CHECK refuses it.
fn fitted(capacity: Capacity, quantity: Quantity) -> Option<Quantity> {
    if quantity.is_negative() || quantity.fits(capacity).is_err() {
        return None;
    }
    match capacity {
        Capacity::Integer { .. } => Some(quantity.with_decimals(0)),
        // More digits than a quantity has are zeros, which the column keeps.
        Capacity::Fixed { scale, .. } => u32::try_from(scale)
            .ok()
            .map(|scale| (scale, quantity.with_decimals(scale)))
            .filter(|(scale, fitted)| fitted.scale() == *scale)
            .map(|(_, fitted)| fitted),
        Capacity::Unbounded => Some(quantity),
    }
}

/// A quantity as a value of the column.
fn value(quantity: Quantity, sql_type: SqlType) -> Result<Arg<'static>> {
    let units = || quantity.to_i64().ok_or_else(|| Error::internal("a whole number of units has decimals"));
    let narrow = |_| Error::internal("a quantity does not fit its column");
    Ok(match sql_type {
        SqlType::Int2 => Arg::owned(i16::try_from(units()?).map_err(narrow)?),
        SqlType::Int4 => Arg::owned(i32::try_from(units()?).map_err(narrow)?),
        SqlType::Int8 => Arg::owned(units()?),
        _ => Arg::quantity(quantity),
    })
}

/// Records changes of rows, in their order.
fn record(
    ledger: Oid,
    columns: (&LedgerColumns, SqlType),
    (steps, new_quantities): (&[RowWrite<'_>], &[Quantity]),
    act: &Act,
) -> Result<()> {
    let heap = Heap::open(ledger);
    let common = common(&heap, columns.0, act)?;
    let row = |(step, new_quantity): (&RowWrite<'_>, &Quantity)| {
        let mut row = common.clone();
        complete(&heap, columns, &mut row, (step, *new_quantity)).map(|()| row)
    };
    let all: Vec<_> = steps.iter().zip(new_quantities).collect();
    if let &[only] = all.as_slice() {
        heap.insert(&mut row(only)?);
        return Ok(());
    }
    for some in all.chunks(MOST) {
        heap.insert_many(&some.iter().copied().map(row).collect::<Result<Vec<_>>>()?);
    }
    Ok(())
}

/// What all movements of an act have in common.
fn common<'a>(heap: &Heap, columns: &LedgerColumns, act: &'a Act) -> Result<NewRow<'a>> {
    let text = |text: Option<&'a str>| (Arg::text(text), SqlType::Text);
    let mut row = heap.empty_row();
    for (column, (value, sql_type)) in [
        (columns.kind, text(Some(act.kind.name()))),
        (columns.reference, text(act.reference.as_deref())),
        (columns.key, text(act.key.as_deref())),
        (columns.actor, text(Some(act.actor.as_str()))),
        (columns.transaction, (Arg::transaction(), SqlType::Xid8)),
    ] {
        heap.set(&mut row, column, value, sql_type)?;
    }
    Ok(row)
}

/// What each movement has of its own.
fn complete(
    heap: &Heap,
    (columns, id_type): (&LedgerColumns, SqlType),
    row: &mut NewRow<'_>,
    (RowWrite { id, stripe, old_quantity, .. }, new_quantity): (&RowWrite<'_>, Quantity),
) -> Result<()> {
    let delta = new_quantity.checked_sub(*old_quantity).ok_or_else(|| Error::internal("a change has no difference"))?;
    let amount = |quantity| (Arg::quantity(quantity), SqlType::Numeric);
    for (column, (value, sql_type)) in [
        (columns.number, (Arg::next_of(columns.sequence), SqlType::Int8)),
        (columns.item, (Arg::item(id), id_type)),
        (columns.stripe, (Arg::owned(*stripe), SqlType::Int2)),
        (columns.old_quantity, amount(*old_quantity)),
        (columns.new_quantity, amount(new_quantity)),
        (columns.delta, amount(delta)),
        (columns.time, (Arg::moment(), SqlType::Timestamptz)),
    ] {
        heap.set(row, column, value, sql_type)?;
    }
    Ok(())
}

//! The hot path: lock, check, write, verify.
//!
//! Lock order: one item, one row lock; nothing else is locked but the stock table, in the mode of any writer.
//!
//! Two statements, because under READ COMMITTED each takes a snapshot of its own and an UPDATE by ctid must see the version
//! that was locked. The quantity stands in the condition of the locking SELECT: an item that is sold out is refused
//! without a row lock, a transaction id or WAL, and without waiting for whoever holds the row. The answer is given only
//! where the row was written as old - deducted; what an AFTER trigger does to it then is an act of its own.

use crate::core::error::{Fault, Outcome};
use crate::core::json::{Deduction, uuid_text};
use crate::core::quantity::{Quantity, Shape, Unfit};
use crate::ledger::context::{CallContext, Given};
use crate::ledger::recorder::{Kind, Rows};
use crate::pg::report::answered;
use crate::pg::spi::{self, Arg, Connection, NumericArg, Sight, one_snapshot};
use crate::stock::call::{Call, in_context};
use crate::stripes::striped::{self, Striped, Taken};
use crate::table::attachment::{Attachment, Kept};
use pgrx::pg_sys::{self, Oid};
use pgrx::{Uuid, pg_extern};

/// Deducts a quantity from an item's stock, exactly and at once, or changes nothing.
///
/// The row of the item is locked until the transaction ends; sales of the same item wait for each other, other items do
/// not. p_inventory_id: the item. p_quantity: units to deduct, greater than zero, at most 28 digits and no more decimals
/// than the quantity column keeps; nothing is rounded. Answers {"success": true, "inventory_id", "old_quantity",
/// "new_quantity", "deducted"}, of a striped item also "stripe", where old - new = deducted was verified on the row as written. Errors: IV001 insufficient
/// stock, IV002 unknown item, IV007 something on the table changed the deduction, 22004 NULL, 22023 not finite or not
/// positive, 22003 digits the column cannot keep, 55000 no stock table attached; in the postgrest style PT409, PT404 and
/// PT500 stand for IV001, IV002 and IV007.
#[pg_extern(sql = false)]
pub fn decrement_inventory(p_inventory_id: Option<Uuid>, p_quantity: Option<NumericArg>) -> Vec<u8> {
    let sold =
        in_context(Given::nothing(), Given::nothing(), |context| sell(p_inventory_id, p_quantity.as_ref(), context));
    answered(sold)
}

fn sell(id: Option<Uuid>, quantity: Option<&NumericArg>, context: CallContext) -> Outcome<String> {
    let id = id.ok_or_else(|| Fault::null_argument("p_inventory_id"))?;
    let argument = quantity.ok_or_else(|| Fault::null_argument("p_quantity"))?;
    let requested = positive("p_quantity", argument)?;
    let printed_id = uuid_text(id.as_bytes());
    let reference = context.reference.clone();
    let call = Call { function: "decrement_inventory", kind: Kind::Sale, rows: Rows::One, needs_all: true, context };
    call.run(
        &[id],
        || serde_json::json!([printed_id, requested.canonical().to_string(), reference]).to_string(),
        |spi, stock| {
            fits("p_quantity", requested, stock)?;
            let bound = bind(stock, argument, requested);
            let sale = Sale { stock, id, printed_id: &printed_id, requested, bound };
            match Striped::of(spi, stock, id)? {
                None => sale.make(spi),
                Some(striped) => sale.make_from(&striped),
            }
        },
    )
}

/// Checks that the quantity column keeps every digit of a quantity.
pub fn fits(argument: &str, quantity: Quantity, stock: &Attachment) -> Outcome<()> {
    quantity
        .fits(stock.shape)
        .map_err(|misfit| Fault::misfit(argument, quantity, &stock.quantity_name, stock.shape, misfit))
}

/// Reads a quantity that must be more than nothing.
pub fn positive(argument: &str, value: &NumericArg) -> Outcome<Quantity> {
    match value.read() {
        Ok(quantity) if quantity.is_positive() => Ok(quantity),
        Ok(quantity) => Err(Fault::not_positive(argument, quantity)),
        Err((Unfit::TooManyDigits, text)) => Err(Fault::too_many_digits(argument, &text)),
        Err((_, text)) => Err(Fault::not_finite(argument, &text)),
    }
}

/// The requested quantity as a parameter: as it came for a numeric column, as bigint for the whole-number types.
fn bind<'a>(stock: &Attachment, argument: &'a NumericArg, requested: Quantity) -> Arg<'a> {
    match (stock.shape, requested.to_i64()) {
        (Shape::Whole { .. }, Some(units)) => Arg::owned(units),
        _ => argument.arg(),
    }
}

/// One call, with everything its statements need.
struct Sale<'a> {
    stock: &'a Attachment,
    id: Uuid,
    printed_id: &'a str,
    requested: Quantity,
    bound: Arg<'a>,
}

impl Sale<'_> {
    fn make(&self, spi: &Connection) -> Outcome<String> {
        let locked = self.lock(spi)?;
        let old_quantity = self.read(&locked, 1)?;
        if old_quantity.plus(self.requested.negated()).is_none() {
            return Err(Fault::overflow(self.printed_id, old_quantity, self.requested.negated()));
        }
        let new_quantity = self.write(spi, &locked, old_quantity)?;
        Ok(self.answer(old_quantity, new_quantity, None))
    }

    /// The same from one stripe of a striped item.
    fn make_from(&self, striped: &Striped<'_>) -> Outcome<String> {
        match striped.take(self.requested)? {
            Taken::Short(available) => Err(Fault::insufficient(self.printed_id, available, self.requested)),
            Taken::Held(held) => {
                let new_quantity = striped.change(&held, self.requested.negated())?;
                Ok(self.answer(held.quantity, new_quantity, Some(held.stripe)))
            }
        }
    }

    fn answer(&self, old_quantity: Quantity, new_quantity: Quantity, stripe: Option<i16>) -> String {
        let inventory_id = self.printed_id;
        Deduction { inventory_id, old_quantity, new_quantity, deducted: self.requested, stripe }.to_json()
    }

    /// Locks the item where it has enough; else says truthfully why not.
    ///
    /// Where the locking SELECT finds nothing but a plain look finds enough, a restock came between the two: it is tried
    /// once more, and then decided under an unconditional lock, so that a row which may be seen but not locked
    /// (row-level security for the caller) cannot keep the call going round. The item that this session saw short last is
    /// looked at first: while it stays sold out, one statement refuses it.
    fn lock<'c>(&self, spi: &'c Connection) -> Outcome<spi::Rows<'c>> {
        if self.stock.seen_short.get() == Some(*self.id.as_bytes()) {
            self.look(spi)?;
        }
        for _ in 0..2 {
            let locked = self.run(spi, self.stock.by_strength(Kept::Lock, Kept::LockNoKey));
            if locked.count() > 0 {
                return Ok(locked);
            }
            self.look(spi)?;
        }
        let locked = self.run(spi, self.stock.by_strength(Kept::LockAny, Kept::LockAnyNoKey));
        if locked.count() == 0 {
            return Err(Fault::unknown_item(self.printed_id));
        }
        self.refuse_shortage(&locked)?;
        Ok(locked)
    }

    /// Refuses what is not there, without a lock.
    fn look(&self, spi: &Connection) -> Outcome<()> {
        // A look needs fewer rights than a sale: without those nothing is said about the stock.
        self.stock.require_sale_rights();
        let seen = self.run(spi, Kept::Look);
        if seen.count() == 0 {
            return Err(Fault::unknown_item(self.printed_id));
        }
        let refused = self.refuse_shortage(&seen).or_else(|fault| self.were_stripes(spi, fault));
        self.stock.seen_short.set(refused.is_err().then_some(*self.id.as_bytes()));
        refused
    }

    /// In a transaction whose snapshot is older than the end of the item's stripes the row shows a total of that time, which may lag:
    /// the stripes of the snapshot decide. Where they have enough, the lock on the row is left to say that it was written since.
    fn were_stripes(&self, spi: &Connection, refusal: Box<Fault>) -> Outcome<()> {
        if !one_snapshot() {
            return Err(refusal);
        }
        match striped::sum_in_snapshot(spi, self.stock, self.id)? {
            Some(available) if available >= self.requested => Ok(()),
            Some(available) => Err(Fault::insufficient(self.printed_id, available, self.requested)),
            None => Err(refusal),
        }
    }

    fn refuse_shortage(&self, seen: &spi::Rows<'_>) -> Outcome<()> {
        let available = self.read(seen, 1)?;
        if available < self.requested {
            return Err(Fault::insufficient(self.printed_id, available, self.requested));
        }
        Ok(())
    }

    /// Writes the deduction into the locked row and reads back what the table holds.
    fn write(&self, spi: &Connection, locked: &spi::Rows<'_>, old_quantity: Quantity) -> Outcome<Quantity> {
        let row = if self.stock.by_ctid { locked.arg(0, 2) } else { Arg::owned(self.id) };
        let plan = self.stock.plan(spi, Kept::Write, || self.statement(Kept::Write));
        let written = spi.run(plan, &[row, self.bound], Sight::Isolation);
        let failed =
            |new_quantity| Fault::verification_failed(self.printed_id, old_quantity, new_quantity, self.requested);
        if written.count() != 1 {
            return Err(failed(None));
        }
        let new_quantity = self.read(&written, 1)?;
        if !old_quantity.less(self.requested, new_quantity) {
            return Err(failed(Some(new_quantity)));
        }
        Ok(new_quantity)
    }

    fn run<'c>(&self, spi: &'c Connection, kept: Kept) -> spi::Rows<'c> {
        let plan = self.stock.plan(spi, kept, || self.statement(kept));
        let args = [Arg::owned(self.id), self.bound];
        let used = if matches!(kept, Kept::Lock | Kept::LockNoKey) { 2 } else { 1 };
        spi.run(plan, &args[..used], Sight::Isolation)
    }

    fn read(&self, rows: &spi::Rows<'_>, column: i32) -> Outcome<Quantity> {
        rows.quantity(0, column, self.stock.quantity_type)
            .map_err(|stored| Fault::unreadable_stock(self.printed_id, &stored))
    }

    fn statement(&self, kept: Kept) -> (String, Vec<Oid>) {
        let Attachment { id, quantity, .. } = self.stock;
        let source = self.stock.source();
        let whole = matches!(self.stock.shape, Shape::Whole { .. });
        let amount = if whole { pg_sys::INT8OID } else { pg_sys::NUMERICOID };
        let item = format!("stock.{id} OPERATOR(pg_catalog.=) $1");
        let columns = format!("stock.{quantity}{}", if self.stock.by_ctid { ", stock.ctid" } else { "" });
        match kept {
            Kept::Lock | Kept::LockNoKey => (
                format!(
                    "SELECT {columns} FROM {source} WHERE {item} AND stock.{quantity} OPERATOR(pg_catalog.>=) $2 {}",
                    lock_clause(kept)
                ),
                vec![pg_sys::UUIDOID, amount],
            ),
            Kept::LockAny | Kept::LockAnyNoKey => {
                (format!("SELECT {columns} FROM {source} WHERE {item} {}", lock_clause(kept)), vec![pg_sys::UUIDOID])
            }
            Kept::Look => (format!("SELECT stock.{quantity} FROM {source} WHERE {item}"), vec![pg_sys::UUIDOID]),
            // Kept::Write; the other statements are of other rooms.
            _ => {
                // The row was locked by this transaction, so its ctid stays.
                let (row, row_type) = if self.stock.by_ctid {
                    ("stock.ctid OPERATOR(pg_catalog.=) $1".to_owned(), pg_sys::TIDOID)
                } else {
                    (item, pg_sys::UUIDOID)
                };
                (
                    format!(
                        "UPDATE {source} SET {quantity} = stock.{quantity} OPERATOR(pg_catalog.-) $2 WHERE {row} RETURNING stock.{quantity}"
                    ),
                    vec![row_type, amount],
                )
            }
        }
    }
}

fn lock_clause(kept: Kept) -> &'static str {
    match kept {
        Kept::LockNoKey | Kept::LockAnyNoKey => "FOR NO KEY UPDATE",
        _ => "FOR UPDATE",
    }
}

//! The row trigger of the ledger: which movement a change of a row is, and when it is written.
//!
//! A change of one row by one of our own calls is written at once, and so is a direct write to a partition, which is no
//! statement on the stock table. Every other change is noted until the statement ends.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::movement::MovementKind;
use crate::core::part::{Companion, Part};
use crate::core::quantity::differ;
use crate::ledger::attribution::{self, Act, Extent};
use crate::ledger::buffer::{self, Note};
use crate::ledger::context::{self, CallContext};
use crate::ledger::writer::{flush, flush_until, write_one};
use crate::pg::Oid;
use crate::pg::role::current_role;
use crate::pg::trigger::{Firing, Operation, Value};
use crate::pg::types::SqlType;
use crate::table::attachment::Attachment;
use std::rc::Rc;

/// Runs statements whose changes are recorded as a kind, with the call's context.
pub fn recording<T>(
    stock: &Attachment,
    (kind, extent): (MovementKind, Extent),
    context: &CallContext,
    role: Oid,
    run: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if !stock.has_ledger() {
        return run();
    }
    let CallContext { reference, key } = context.clone();
    let act = Act { stock: stock.oid, kind, role, reference, key, actor: context::actor(role)? };
    attribution::acting(act, extent, run)
}

/// Records a change of a row of the stock table, or of a stripe.
pub fn record(firing: &Firing, stock: &Attachment, part: Part) -> Result<()> {
    let columns = RowColumns::of(part, stock);
    let changed = RowChange::read(firing, &columns)?;
    let (act, extent) = act_in_force(stock.oid)?;
    let command = changed.command;
    match changed.effect {
        Effect::Item { id, kind, quantities } => {
            // A stripe comes and goes within its item: the act decides on the kind.
            let kind = if columns.of_stripes { act.kind } else { kind };
            if !columns.of_stripes || differ(&quantities[0], &quantities[1]) {
                buffer::note(stock.oid, Note { command, id, stripe: changed.stripe, kind, quantities, act });
            }
        }
        Effect::Moved { from: (from, old_quantity), to: (to, new_quantity) } => {
            let (closing, opening) = ([old_quantity, zero()], [zero(), new_quantity]);
            for (id, kind, quantities) in [(from, MovementKind::Closing, closing), (to, MovementKind::Opening, opening)]
            {
                buffer::note(stock.oid, Note { command, id, stripe: None, kind, quantities, act: Rc::clone(&act) });
            }
        }
        Effect::Quantity { id, quantities } => {
            if extent == Some(Extent::OneRow) && buffer::is_idle(stock.oid) {
                write_one(stock, (&id, changed.stripe), quantities.map(|value| value.arg()), &act);
                return Ok(());
            }
            let quantities = quantities.map(|value| value.printed());
            if extent.is_some() || differ(&quantities[0], &quantities[1]) {
                buffer::note(stock.oid, Note { command, id, stripe: changed.stripe, kind: act.kind, quantities, act });
            }
        }
    }
    // A partition that is written to directly has no statement on the stock table, whose end could be waited for.
    let open = buffer::open_statements(stock.oid);
    if open == 0 {
        flush(stock);
    } else if open == 1 && buffer::is_full(stock.oid) {
        // Of the statement that runs, and older ones. Changes that were called from it come after its last row.
        flush_until(stock, command);
    }
    Ok(())
}

/// The statement ends: the outermost one writes the notes.
pub fn statement_ends(stock: &Attachment) {
    buffer::statement_ends(stock.oid);
    if buffer::open_statements(stock.oid) == 0 && !buffer::is_empty(stock.oid) {
        flush(stock);
    }
}

/// The columns of the table whose row has changed: the stock table, or its stripes.
struct RowColumns<'a> {
    of_stripes: bool,
    id: &'a str,
    quantity: &'a str,
    quantity_type: SqlType,
}

impl<'a> RowColumns<'a> {
    fn of(part: Part, stock: &'a Attachment) -> Self {
        if part == Part::Companion(Companion::Stripes) {
            Self { of_stripes: true, id: "inventory_id", quantity: "quantity", quantity_type: SqlType::Numeric }
        } else {
            let Attachment { id_name, quantity_name, names, .. } = stock;
            Self { of_stripes: false, id: id_name, quantity: quantity_name, quantity_type: names.quantity_type }
        }
    }
}

/// A change of a row.
struct RowChange<'f> {
    /// The command that made it.
    command: u32,
    /// The number of the stripe, where it is one.
    stripe: Option<i16>,
    effect: Effect<'f>,
}

/// The effect of a change on an item, or on a stripe of it.
enum Effect<'f> {
    /// An item, or a stripe, was inserted or deleted.
    Item { id: ItemId, kind: MovementKind, quantities: [String; 2] },
    /// An item got another id.
    Moved { from: (ItemId, String), to: (ItemId, String) },
    /// Its quantity was written, and may be the same.
    Quantity { id: ItemId, quantities: [Value<'f>; 2] },
}

impl<'f> RowChange<'f> {
    fn read(firing: &'f Firing, columns: &RowColumns<'_>) -> Result<Self> {
        let first = firing.first_row();
        let id = first.item(columns.id)?;
        let quantity = first.value(columns.quantity, columns.quantity_type)?;
        let stripe = if columns.of_stripes { Some(first.stripe()?) } else { None };
        let item = |kind, quantities| Effect::Item { id: id.clone(), kind, quantities };
        let (command, effect) = match firing.operation() {
            Operation::Insert => {
                require_short(&id)?;
                (first.made_by(), item(MovementKind::Opening, [zero(), quantity.printed()]))
            }
            Operation::Delete => (first.deleted_by(), item(MovementKind::Closing, [quantity.printed(), zero()])),
            Operation::Update | Operation::Truncate => {
                let updated = firing.updated_row();
                let (new_id, new_quantity) =
                    (updated.item(columns.id)?, updated.value(columns.quantity, columns.quantity_type)?);
                let effect = if new_id == id {
                    Effect::Quantity { id, quantities: [quantity, new_quantity] }
                } else {
                    require_short(&new_id)?;
                    Effect::Moved { from: (id, quantity.printed()), to: (new_id, new_quantity.printed()) }
                };
                (updated.made_by(), effect)
            }
        };
        Ok(Self { command, stripe, effect })
    }
}

/// Refuses a new id that no key can name. An old one can be changed, and its item be deleted.
fn require_short(id: &ItemId) -> Result<()> {
    id.excess().map_or(Ok(()), |bytes| Err(Error::long_id(bytes)))
}

/// An item that is not there has nothing.
fn zero() -> String {
    "0".to_owned()
}

/// The act that the change belongs to, and its extent; or a direct write, which has none.
fn act_in_force(stock: Oid) -> Result<(Rc<Act>, Option<Extent>)> {
    if let Some((act, extent)) = attribution::act_of_change(stock) {
        return Ok((act, Some(extent)));
    }
    // Rows of one statement share an act.
    let role = current_role();
    let last = buffer::last_act(stock).filter(|act| act.kind == MovementKind::External && act.role == role);
    if let Some(act) = last {
        return Ok((act, None));
    }
    let CallContext { reference, key } = CallContext::of_session()?;
    let act = Act { stock, kind: MovementKind::External, role, reference, key, actor: context::actor(role)? };
    Ok((Rc::new(act), None))
}

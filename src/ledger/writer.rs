//! The ledger's only writer: one movement at once, or the notes of a statement with one INSERT for each act.

use crate::core::item_id::ItemId;
use crate::core::quantity::Quantity;
use crate::ledger::attribution::{self, Act};
use crate::ledger::buffer::{self, Note};
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::role::Acting;
use crate::pg::spi::{Connection, connected};
use crate::pg::transaction;
use crate::statements::Statement;
use crate::stats::meter;
use crate::table::attachment::Attachment;
use std::rc::Rc;

/// Runs one statement that adds to the ledger, as its owner.
pub fn writing<T>(ledger: Oid, acting: Acting, write: impl FnOnce(&Connection) -> T) -> T {
    let _acting = acting;
    attribution::writing(ledger, || connected(write))
}

/// Records one change at once.
pub fn write_one(
    stock: &Attachment,
    (id, stripe): (&ItemId, Option<i16>),
    [old_quantity, new_quantity]: [Arg<'_>; 2],
    act: &Act,
) {
    let statement = if stripe.is_none() { Statement::RecordItem } else { Statement::RecordStripe };
    insert(stock, statement, (id, stripe), [old_quantity, new_quantity], act);
}

/// Records a change that nothing has recorded when it was made.
pub fn write_missing(stock: &Attachment, of: (&ItemId, Option<i16>), quantities: [Quantity; 2], act: &Act) {
    // The statement of stripes takes any numeric.
    insert(stock, Statement::RecordStripe, of, quantities.map(Arg::quantity), act);
}

fn insert(
    stock: &Attachment,
    statement: Statement,
    (id, stripe): (&ItemId, Option<i16>),
    [old_quantity, new_quantity]: [Arg<'_>; 2],
    act: &Act,
) {
    let Some(ledger) = stock.companions.movements else { return };
    writing(ledger, stock.act_on_companions(), |spi| {
        let args = [
            Arg::item(id),
            Arg::owned(stripe),
            Arg::text(act.kind.name()),
            old_quantity,
            new_quantity,
            Arg::text(act.reference.as_deref()),
            Arg::text(act.key.as_deref()),
            Arg::text(act.actor.as_str()),
        ];
        stock.run(spi, statement, &args);
        meter::moved(1);
    });
}

/// Writes all notes, and those that come meanwhile.
pub fn flush(stock: &Attachment) {
    buffer::drain(stock.oid, |notes| write(stock, notes));
}

/// Writes the notes of changes that this command or an older one has made.
pub fn flush_until(stock: &Attachment, command: u32) {
    buffer::drain_until(stock.oid, command, |notes| write(stock, notes));
}

/// Records a change of an item itself, apart from its stripes, as part of the act that runs: no row of the stock table
/// shows it.
pub fn record_item(stock: &Attachment, id: &ItemId, [old_quantity, new_quantity]: [Quantity; 2]) {
    let Some(act) = attribution::act(stock.oid) else { return };
    if !stock.has_ledger() || old_quantity == new_quantity {
        return;
    }
    let quantities = [old_quantity.to_string(), new_quantity.to_string()];
    let command = transaction::command();
    buffer::note(stock.oid, Note { command, id: id.clone(), stripe: None, kind: act.kind, quantities, act });
    if buffer::open_statements(stock.oid) == 0 {
        flush(stock);
    }
}

/// Writes notes in the order of the commands that made the changes: one INSERT for each act.
fn write(stock: &Attachment, mut notes: Vec<Note>) {
    let Some(ledger) = stock.companions.movements else { return };
    notes.sort_by_key(|note| note.command);
    for notes in notes.chunk_by(|one, next| Rc::ptr_eq(&one.act, &next.act)) {
        let act = &notes[0].act;
        writing(ledger, stock.act_on_companions(), |spi| {
            let column = |read: fn(&Note) -> &str| Arg::owned(notes.iter().map(read).collect::<Vec<_>>());
            let args = [
                stock.bind_items(notes.iter().map(|note| &note.id)),
                Arg::owned(notes.iter().map(|note| note.stripe).collect::<Vec<_>>()),
                column(|note| note.kind.name()),
                column(|note| &note.quantities[0]),
                column(|note| &note.quantities[1]),
                Arg::text(act.reference.as_deref()),
                Arg::text(act.key.as_deref()),
                Arg::text(act.actor.as_str()),
            ];
            stock.run(spi, Statement::RecordMany, &args);
            meter::moved(notes.len());
        });
    }
}

//! Changes that are noted and not yet written to the ledger, and the statements that run, each apart for every stock
//! table.
//!
//! A row trigger notes each change of a quantity; the trigger at the end of the statement writes the notes with one
//! INSERT. A statement that a user's trigger runs inside another one on the stock table leaves its notes to the outer
//! one, and notes are written in the order of the commands that made the changes: all rows of a statement are changed
//! before its first trigger fires. Notes of an aborted subtransaction are dropped with it; a commit with notes left is
//! refused.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::movement::MovementKind;
use crate::ledger::attribution::Act;
use crate::pg::Oid;
use crate::pg::transaction::{AtEnd, Subtransaction, subtransaction};
use crate::stats::{contention, divisions};
use std::cell::RefCell;
use std::rc::Rc;

/// A change of one item, or of one stripe of it.
pub struct Note {
    /// The command that made the change.
    pub command: u32,
    /// The item.
    pub id: ItemId,
    /// The stripe, where it is one.
    pub stripe: Option<i16>,
    /// The kind of the movement.
    pub kind: MovementKind,
    /// The quantities before and after, as PostgreSQL prints them.
    pub quantities: [String; 2],
    /// The act that it belongs to.
    pub act: Rc<Act>,
}

/// The number of notes that are written without waiting for the end of the statement, to bound the memory of a long
/// COPY.
const MAX_NOTES: usize = 10_000;

struct Buffer {
    stock: Oid,
    notes: Vec<(Subtransaction, Note)>,
    /// The statements that run on the stock table, each by the subtransaction it began in.
    statements: Vec<Subtransaction>,
    /// Notes are being written: changes that a trigger of the ledger makes meanwhile are noted after them.
    writing: bool,
    /// The number of notes at which some are written before the statement ends.
    write_at: usize,
}

thread_local! {
    /// PostgreSQL calls the triggers of a statement one after the other: their common state is state of the backend.
    /// One for each stock table that the transaction has written; hardly ever more than one.
    static BUFFERS: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

fn with_buffer<T>(stock: Oid, act: impl FnOnce(&mut Buffer) -> T) -> T {
    BUFFERS.with_borrow_mut(|buffers| {
        if let Some(buffer) = buffers.iter_mut().find(|buffer| buffer.stock == stock) {
            return act(buffer);
        }
        let mut buffer =
            Buffer { stock, notes: Vec::new(), statements: Vec::new(), writing: false, write_at: MAX_NOTES };
        let result = act(&mut buffer);
        buffers.push(buffer);
        result
    })
}

/// A statement on the stock table begins.
pub fn statement_begins(stock: Oid) {
    with_buffer(stock, |buffer| buffer.statements.push(subtransaction()));
}

/// The innermost statement on the stock table ends.
pub fn statement_ends(stock: Oid) {
    with_buffer(stock, |buffer| {
        buffer.statements.pop();
    });
}

/// The number of statements on the stock table that run, one within the other.
pub fn open_statements(stock: Oid) -> usize {
    with_buffer(stock, |buffer| buffer.statements.len())
}

/// Notes a change.
pub fn note(stock: Oid, note: Note) {
    with_buffer(stock, |buffer| buffer.notes.push((subtransaction(), note)));
}

/// Whether no change is noted.
pub fn is_empty(stock: Oid) -> bool {
    with_buffer(stock, |buffer| buffer.notes.is_empty())
}

/// Whether one change of one statement can be written at once: no other is noted or being written.
pub fn is_idle(stock: Oid) -> bool {
    with_buffer(stock, |buffer| buffer.statements.len() == 1 && buffer.notes.is_empty() && !buffer.writing)
}

/// Whether no statement on the stock table runs, and no change is noted or being written.
pub fn is_quiet(stock: Oid) -> bool {
    BUFFERS.with_borrow(|buffers| {
        let of_stock = buffers.iter().find(|buffer| buffer.stock == stock);
        of_stock.is_none_or(|buffer| buffer.statements.is_empty() && buffer.notes.is_empty() && !buffer.writing)
    })
}

/// Whether so many changes are noted that some are to be written before the statement ends.
pub fn is_full(stock: Oid) -> bool {
    with_buffer(stock, |buffer| buffer.notes.len() >= buffer.write_at)
}

/// The act of the last note.
pub fn last_act(stock: Oid) -> Option<Rc<Act>> {
    with_buffer(stock, |buffer| buffer.notes.last().map(|(_, note)| Rc::clone(&note.act)))
}

/// Ends the writing of notes, also where an error of PostgreSQL unwinds.
struct Writing(Oid);

impl Drop for Writing {
    fn drop(&mut self) {
        with_buffer(self.0, |buffer| buffer.writing = false);
    }
}

fn begin_writing(stock: Oid) -> Option<Writing> {
    let was_writing = with_buffer(stock, |buffer| std::mem::replace(&mut buffer.writing, true));
    if was_writing { None } else { Some(Writing(stock)) }
}

/// Passes all notes to `write`, and those that come meanwhile, unless notes are being written already.
pub fn drain(stock: Oid, mut write: impl FnMut(Vec<Note>)) {
    let Some(_writing) = begin_writing(stock) else { return };
    loop {
        let notes = with_buffer(stock, |buffer| {
            buffer.write_at = MAX_NOTES;
            std::mem::take(&mut buffer.notes)
        });
        if notes.is_empty() {
            break;
        }
        write(notes.into_iter().map(|(_, note)| note).collect());
    }
}

/// The same with the notes of changes that this command or an older one has made.
pub fn drain_until(stock: Oid, command: u32, write: impl FnOnce(Vec<Note>)) {
    let Some(_writing) = begin_writing(stock) else { return };
    let notes = with_buffer(stock, |buffer| {
        let (notes, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut buffer.notes).into_iter().partition(|(_, note)| note.command <= command);
        buffer.write_at = later.len() + MAX_NOTES;
        buffer.notes = later;
        notes
    });
    write(notes.into_iter().map(|(_, note)| note).collect());
}

/// The work of the buffers at the ends of transactions.
pub fn at_end() -> AtEnd {
    AtEnd { before_commit, ended: transaction_ended, over, subtransaction_aborted }
}

/// Refuses a commit with notes left: the trigger at the end of the statement did not fire.
fn before_commit() -> Result<()> {
    let recorded = BUFFERS.with_borrow(|buffers| buffers.iter().all(|buffer| buffer.notes.is_empty()));
    if recorded { Ok(()) } else { Err(Error::unrecorded()) }
}

/// The transaction has ended.
fn transaction_ended() {
    BUFFERS.with_borrow_mut(Vec::clear);
}

/// The transaction has committed, or aborted.
fn over(is_committed: bool) {
    contention::over(is_committed);
    divisions::over();
}

/// A subtransaction has aborted. Numbers rise: all that began after it, and has not ended, is within it.
fn subtransaction_aborted(aborted: Subtransaction) {
    contention::subtransaction_aborted(aborted);
    BUFFERS.with_borrow_mut(|buffers| {
        for buffer in buffers {
            buffer.notes.retain(|(noted_in, _)| *noted_in < aborted);
            buffer.statements.retain(|began_in| *began_in < aborted);
        }
    });
}

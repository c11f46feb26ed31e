//! The ledger's only writer: triggers on the stock table and on its stripes, so that no change of stock escapes it, ours or anyone's.
//!
//! A row trigger notes each change of a quantity; the trigger at the end of the statement writes what was noted with one
//! INSERT. A statement that a user's trigger runs inside another one on the stock table leaves its notes to the outer one,
//! and notes are written in the order of the commands that made the changes: all rows of a statement are changed before its
//! first trigger fires. A single sale is written at once, and so is a direct write to a partition, which is no statement on
//! the stock table. Notes of an aborted subtransaction are dropped with it; a commit with notes left is refused.

#![allow(unsafe_code)]

use crate::core::error::{Fault, Outcome};
use crate::core::quantity::{Quantity, differ};
use crate::ledger::attribution::{self, Passage};
use crate::ledger::context::{self, CallContext};
use crate::pg::role::{Acting, current_role};
use crate::pg::spi::{self, Arg, Connection, Sight, connected};
use crate::pg::trigger::{Firing, Operation, depth};
use crate::table::attachment::{Attachment, Companion, Kept, Part};
use crate::table::triggers;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{Uuid, pg_extern, pg_guard};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What kind of act a movement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The item came to be, or came under management.
    Opening,
    /// decrement_inventory and its batch.
    Sale,
    /// restock_inventory.
    Restock,
    /// adjust_inventory.
    Adjustment,
    /// transfer_inventory.
    Transfer,
    /// A direct write to the stock table.
    External,
    /// The item was deleted.
    Closing,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Sale => "sale",
            Self::Restock => "restock",
            Self::Adjustment => "adjustment",
            Self::Transfer => "transfer",
            Self::External => "external",
            Self::Closing => "closing",
        }
    }
}

/// What the movements of one act have in common.
struct Stamp {
    kind: Kind,
    role: Oid,
    reference: Option<String>,
    key: Option<String>,
    actor: String,
}

/// One of our own calls while its statement runs.
struct Frame {
    stamp: Rc<Stamp>,
    /// The trigger depth at which its changes are noted; deeper ones are a user's trigger's.
    depth: i32,
    rows: Rows,
}

struct Note {
    subtransaction: pg_sys::SubTransactionId,
    /// The command that made the change.
    command: u32,
    id: Uuid,
    stripe: Option<i16>,
    kind: Kind,
    old_quantity: String,
    new_quantity: String,
    stamp: Rc<Stamp>,
}

thread_local! {
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
    /// The statements that run on the stock table, each by the subtransaction it began in.
    static STATEMENTS: RefCell<Vec<pg_sys::SubTransactionId>> = const { RefCell::new(Vec::new()) };
    static NOTES: RefCell<Vec<Note>> = const { RefCell::new(Vec::new()) };
    /// Notes are being written: what a trigger of the ledger sells meanwhile comes after them. PostgreSQL calls that trigger.
    static FLUSHING: Cell<bool> = const { Cell::new(false) };
    /// How many notes there are when some are written before the statement ends.
    static FLUSH_AT: Cell<usize> = const { Cell::new(MAX_NOTES) };
}

/// So many notes are written without waiting for the end of the statement, to bound the memory of a long COPY.
const MAX_NOTES: usize = 10_000;

/// Runs `act`; changes of stock by its statements are recorded as `kind`, with the call's context.
pub fn within<T>(
    stock: &Attachment,
    kind: Kind,
    context: &CallContext,
    role: Oid,
    rows: Rows,
    act: impl FnOnce() -> Outcome<T>,
) -> Outcome<T> {
    if stock.movements.is_none() {
        return act();
    }
    let stamp = Stamp {
        kind,
        role,
        reference: context.reference.clone(),
        key: context.key.clone(),
        actor: context::actor(role)?,
    };
    let frame = Frame { stamp: Rc::new(stamp), depth: depth() + 1, rows };
    FRAMES.with_borrow_mut(|frames| frames.push(frame));
    let _open = OpenFrame;
    act()
}

/// Runs `act`; changes of stock by its statements belong to the call that runs, and are recorded as another kind.
pub fn as_kind<T>(kind: Kind, act: impl FnOnce() -> T) -> T {
    let frame = FRAMES.with_borrow(|frames| {
        let frame = frames.last()?;
        let Stamp { role, reference, key, actor, .. } = frame.stamp.as_ref();
        let stamp = Stamp { kind, role: *role, reference: reference.clone(), key: key.clone(), actor: actor.clone() };
        Some(Frame { stamp: Rc::new(stamp), depth: frame.depth, rows: Rows::Many })
    });
    let Some(frame) = frame else { return act() };
    FRAMES.with_borrow_mut(|frames| frames.push(frame));
    let _open = OpenFrame;
    act()
}

/// Records what the call that runs does to the item itself, apart from its stripes: no row of the stock table tells it.
pub fn record_whole(stock: &Attachment, id: Uuid, [old_quantity, new_quantity]: [Quantity; 2]) {
    let Some(stamp) = FRAMES.with_borrow(|frames| frames.last().map(|frame| Rc::clone(&frame.stamp))) else { return };
    if stock.movements.is_none() || old_quantity == new_quantity {
        return;
    }
    // SAFETY: reads a counter of the backend; nothing is marked as used.
    let command = unsafe { pg_sys::GetCurrentCommandId(false) };
    let kind = stamp.kind;
    note(command, id, None, kind, [old_quantity.to_string(), new_quantity.to_string()], stamp);
    if open_statements() == 0 {
        flush(stock);
    }
}

struct OpenFrame;

impl Drop for OpenFrame {
    fn drop(&mut self) {
        FRAMES.with_borrow_mut(Vec::pop);
    }
}

/// Runs a trigger function on what PostgreSQL passed.
fn fired(call: pg_sys::FunctionCallInfo, act: impl FnOnce(&Firing) -> Outcome<()>) -> i64 {
    // SAFETY: what PostgreSQL passed.
    let firing = unsafe { Firing::of(call) };
    act(&firing).unwrap_or_else(|fault| fault.raise());
    0
}

/// Notes a change of one item's quantity; an AFTER ROW trigger of the stock table and of its stripes.
#[pg_extern(sql = false)]
fn inventory_movement_record(call: pg_sys::FunctionCallInfo) -> i64 {
    fired(call, record)
}

/// Notes that a statement on the stock table begins; a BEFORE STATEMENT trigger of the stock table and of its stripes.
#[pg_extern(sql = false)]
fn inventory_movement_begin(call: pg_sys::FunctionCallInfo) -> i64 {
    fired(call, |firing| {
        triggers::verified("inventory_movement_begin", firing)?;
        STATEMENTS.with_borrow_mut(|statements| statements.push(subtransaction()));
        Ok(())
    })
}

/// Writes the noted changes at the end of the outermost statement; an AFTER STATEMENT trigger of the stock table and of its stripes.
#[pg_extern(sql = false)]
fn inventory_movement_flush(call: pg_sys::FunctionCallInfo) -> i64 {
    fired(call, |firing| {
        let (stock, _) = triggers::verified("inventory_movement_flush", firing)?;
        STATEMENTS.with_borrow_mut(Vec::pop);
        if open_statements() == 0 && !NOTES.with_borrow(Vec::is_empty) {
            flush(&stock);
        }
        Ok(())
    })
}

/// Refuses to change a ledger but by the triggers of its stock table; a BEFORE STATEMENT trigger of the ledger.
#[pg_extern(sql = false)]
fn inventory_movement_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    fired(call, |firing| attribution::check("inventory_movement_guard", firing, Fault::ledger_protected))
}

/// Refuses TRUNCATE; a BEFORE STATEMENT trigger of the stock table.
#[pg_extern(sql = false)]
fn inventory_truncate_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    fired(call, |firing| {
        let ours = triggers::part_fired("inventory_truncate_guard", firing)?.is_some();
        let refusal = if ours { Fault::truncate_refused } else { Fault::stray_trigger };
        Err(refusal(&firing.table_name()))
    })
}

/// Refuses direct writes to the idempotency keys; a BEFORE STATEMENT trigger of their table.
#[pg_extern(sql = false)]
fn inventory_request_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    fired(call, |firing| attribution::check("inventory_request_guard", firing, Fault::requests_protected))
}

/// Refuses direct writes to stripes, and to what the stripes of an item hold; a trigger of the stripes, and of a stock table without a ledger.
#[pg_extern(sql = false)]
fn inventory_stripe_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    fired(call, |firing| {
        if firing.for_row() {
            return attribution::check_row(firing);
        }
        attribution::check("inventory_stripe_guard", firing, Fault::stripes_protected)
    })
}

fn record(firing: &Firing) -> Outcome<()> {
    let (stock, part) = triggers::verified("inventory_movement_record", firing)?;
    let table = Table::of(part, &stock);
    if !table.stripes && attribution::lets_through(firing, &stock)? == Passage::Total {
        return Ok(());
    }
    let change = Change::read(firing, &table)?;
    let (stamp, ours) = stamp_in_force()?;
    let change_made_by = change.made_by();
    match change {
        Change::Item { id, stripe, kind, quantities, command } => {
            // A stripe comes and goes within its item: what kind of act that is, the call says.
            let kind = if table.stripes { stamp.kind } else { kind };
            if !table.stripes || differ(&quantities[0], &quantities[1]) {
                note(command, id, stripe, kind, quantities, stamp);
            }
        }
        Change::Moved { from, to, command } => {
            note(command, from.0, None, Kind::Closing, [from.1, zero()], Rc::clone(&stamp));
            note(command, to.0, None, Kind::Opening, [zero(), to.1], stamp);
        }
        Change::Quantity { id, stripe, quantities, command } => {
            let alone = open_statements() == 1 && NOTES.with_borrow(Vec::is_empty) && !FLUSHING.get();
            if ours == Some(Rows::One) && alone {
                // SAFETY: both are quantities of rows that live as long as the firing.
                let quantities = quantities.map(|datum| unsafe { Arg::raw(datum) });
                write_one(&stock, id, stripe, quantities, &stamp);
                return Ok(());
            }
            let quantities = quantities.map(|datum| table.printed(datum));
            if ours.is_some() || differ(&quantities[0], &quantities[1]) {
                note(command, id, stripe, stamp.kind, quantities, stamp);
            }
        }
    }
    // A partition that is written to directly has no statement on the stock table, whose end could be waited for.
    let open = open_statements();
    if open == 0 {
        flush(&stock);
    } else if open == 1 && NOTES.with_borrow(Vec::len) >= FLUSH_AT.get() {
        // Of the statement that runs, and older ones. What was called from it comes after its last row.
        flush_until(&stock, change_made_by);
    }
    Ok(())
}

fn open_statements() -> usize {
    STATEMENTS.with_borrow(Vec::len)
}

fn subtransaction() -> pg_sys::SubTransactionId {
    // SAFETY: reads a counter of the backend.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// Where a row stands: in the stock table, or among the stripes.
struct Table<'a> {
    stripes: bool,
    id: &'a str,
    quantity: &'a str,
    quantity_type: Oid,
}

impl<'a> Table<'a> {
    fn of(part: Part, stock: &'a Attachment) -> Self {
        if part == Part::Stripes {
            Self { stripes: true, id: "inventory_id", quantity: "quantity", quantity_type: pg_sys::NUMERICOID }
        } else {
            let Attachment { id_name, quantity_name, quantity_type, .. } = stock;
            Self { stripes: false, id: id_name, quantity: quantity_name, quantity_type: *quantity_type }
        }
    }

    fn printed(&self, datum: Datum) -> String {
        // SAFETY: the value is a non-null quantity of a row that lives as long as the firing.
        unsafe { spi::printed(datum, self.quantity_type) }
    }
}

/// What happened to a row.
enum Change {
    /// An item came or went.
    Item { id: Uuid, stripe: Option<i16>, kind: Kind, quantities: [String; 2], command: u32 },
    /// An item got another id.
    Moved { from: (Uuid, String), to: (Uuid, String), command: u32 },
    /// Its quantity was written, and may be the same.
    Quantity { id: Uuid, stripe: Option<i16>, quantities: [Datum; 2], command: u32 },
}

impl Change {
    fn made_by(&self) -> u32 {
        match self {
            Self::Item { command, .. } | Self::Moved { command, .. } | Self::Quantity { command, .. } => *command,
        }
    }

    fn read(firing: &Firing, table: &Table<'_>) -> Outcome<Self> {
        let first = firing.first_row();
        let id = first.uuid(table.id)?;
        let quantity = first.datum(table.quantity, table.quantity_type)?;
        let stripe = table.stripes.then(|| first.stripe()).transpose()?;
        let item = |kind, quantities, command| Self::Item { id, stripe, kind, quantities, command };
        Ok(match firing.operation() {
            Operation::Insert => item(Kind::Opening, [zero(), table.printed(quantity)], first.made_by()),
            Operation::Delete => item(Kind::Closing, [table.printed(quantity), zero()], first.deleted_by()),
            _ => {
                let updated = firing.updated_row();
                let (new_id, new_quantity) =
                    (updated.uuid(table.id)?, updated.datum(table.quantity, table.quantity_type)?);
                let command = updated.made_by();
                if new_id == id {
                    Self::Quantity { id, stripe, quantities: [quantity, new_quantity], command }
                } else {
                    let (from, to) = ((id, table.printed(quantity)), (new_id, table.printed(new_quantity)));
                    Self::Moved { from, to, command }
                }
            }
        })
    }
}

fn zero() -> String {
    "0".to_owned()
}

/// How many rows one of our own calls changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// One, written to the ledger at once.
    One,
    /// Any number.
    Many,
}

/// The stamp of our own call whose statement fired the trigger, and how many rows it changes; or one for a direct write.
fn stamp_in_force() -> Outcome<(Rc<Stamp>, Option<Rows>)> {
    let depth = depth();
    let ours = FRAMES.with_borrow(|frames| {
        let frame = frames.last().filter(|frame| frame.depth == depth)?;
        Some((Rc::clone(&frame.stamp), Some(frame.rows)))
    });
    if let Some(ours) = ours {
        return Ok(ours);
    }
    // Rows of one statement share a stamp.
    let role = current_role();
    let last = NOTES.with_borrow(|notes| notes.last().map(|note| Rc::clone(&note.stamp)));
    if let Some(stamp) = last.filter(|stamp| stamp.kind == Kind::External && stamp.role == role) {
        return Ok((stamp, None));
    }
    let CallContext { reference, key } = CallContext::of_session()?;
    let stamp = Stamp { kind: Kind::External, role, reference, key, actor: context::actor(role)? };
    Ok((Rc::new(stamp), None))
}

fn note(
    command: u32,
    id: Uuid,
    stripe: Option<i16>,
    kind: Kind,
    [old_quantity, new_quantity]: [String; 2],
    stamp: Rc<Stamp>,
) {
    let note = Note { subtransaction: subtransaction(), command, id, stripe, kind, old_quantity, new_quantity, stamp };
    NOTES.with_borrow_mut(|notes| notes.push(note));
}

/// Runs one statement that adds to the ledger, as its owner.
pub fn writing<T>(ledger: Oid, acting: Acting, write: impl FnOnce(&Connection) -> T) -> T {
    let _acting = acting;
    attribution::writing(ledger, || connected(write))
}

const COLUMNS: &str = "inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor";

fn write_one(
    stock: &Attachment,
    id: Uuid,
    stripe: Option<i16>,
    [old_quantity, new_quantity]: [Arg<'_>; 2],
    stamp: &Stamp,
) {
    let Some(Companion { name: movements, oid }) = &stock.movements else { return };
    writing(*oid, stock.act_on_companions(), |spi| {
        let (kept, quantity) = match stripe {
            None => (Kept::Record, stock.quantity_type),
            Some(_) => (Kept::RecordStripe, pg_sys::NUMERICOID),
        };
        let plan = stock.plan(spi, kept, || {
            let text = pg_sys::TEXTOID;
            let sql = format!("INSERT INTO {movements} ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)");
            (sql, vec![pg_sys::UUIDOID, pg_sys::INT2OID, text, quantity, quantity, text, text, text])
        });
        let args = [
            Arg::owned(id),
            Arg::owned(stripe),
            Arg::text(stamp.kind.name()),
            old_quantity,
            new_quantity,
            Arg::text(stamp.reference.as_deref()),
            Arg::text(stamp.key.as_deref()),
            Arg::text(stamp.actor.as_str()),
        ];
        spi.run(plan, &args, Sight::Isolation);
    });
}

/// Ends the writing of notes, also where an error of PostgreSQL unwinds.
struct Flushing;

impl Drop for Flushing {
    fn drop(&mut self) {
        FLUSHING.set(false);
    }
}

/// Writes all notes, and those that come meanwhile.
fn flush(stock: &Attachment) {
    if FLUSHING.replace(true) {
        return;
    }
    let _flushing = Flushing;
    FLUSH_AT.set(MAX_NOTES);
    while !NOTES.with_borrow(Vec::is_empty) {
        write_notes(stock, NOTES.take());
    }
}

/// Writes the notes of changes that this command or an older one has made.
fn flush_until(stock: &Attachment, command: u32) {
    if FLUSHING.replace(true) {
        return;
    }
    let _flushing = Flushing;
    let (notes, later): (Vec<Note>, Vec<Note>) = NOTES.take().into_iter().partition(|note| note.command <= command);
    FLUSH_AT.set(later.len() + MAX_NOTES);
    NOTES.set(later);
    write_notes(stock, notes);
}

/// Writes notes in the order of the commands that made the changes: one INSERT for each act.
fn write_notes(stock: &Attachment, mut notes: Vec<Note>) {
    let Some(Companion { name: movements, oid }) = &stock.movements else { return };
    notes.sort_by_key(|note| note.command);
    for act in notes.chunk_by(|one, next| Rc::ptr_eq(&one.stamp, &next.stamp)) {
        let stamp = &act[0].stamp;
        writing(*oid, stock.act_on_companions(), |spi| {
            let plan = stock.plan(spi, Kept::RecordMany, || {
                let sql = format!(
                    "INSERT INTO {movements} ({COLUMNS})
                     SELECT change.id, change.stripe, change.kind, change.old_quantity, change.new_quantity, $6, $7, $8
                       FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3),
                                       pg_catalog.unnest($4::pg_catalog.numeric[]), pg_catalog.unnest($5::pg_catalog.numeric[]))
                            AS change (id, stripe, kind, old_quantity, new_quantity)"
                );
                let (texts, text) = (pg_sys::TEXTARRAYOID, pg_sys::TEXTOID);
                (sql, vec![pg_sys::UUIDARRAYOID, pg_sys::INT2ARRAYOID, texts, texts, texts, text, text, text])
            });
            let column = |read: fn(&Note) -> &str| Arg::owned(act.iter().map(read).collect::<Vec<_>>());
            let args = [
                Arg::owned(act.iter().map(|note| note.id).collect::<Vec<_>>()),
                Arg::owned(act.iter().map(|note| note.stripe).collect::<Vec<_>>()),
                column(|note| note.kind.name()),
                column(|note| &note.old_quantity),
                column(|note| &note.new_quantity),
                Arg::text(stamp.reference.as_deref()),
                Arg::text(stamp.key.as_deref()),
                Arg::text(stamp.actor.as_str()),
            ];
            spi.run(plan, &args, Sight::Isolation);
        });
    }
}

/// Registers for the ends of transactions; called once a backend.
pub fn watch_transactions() {
    // SAFETY: the callbacks are of the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ends), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _nothing: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE};
    STATEMENTS.take();
    FLUSHING.set(false);
    FLUSH_AT.set(MAX_NOTES);
    if NOTES.with_borrow(Vec::is_empty) {
        return;
    }
    if event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE {
        Fault::unrecorded().raise();
    }
    NOTES.take();
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ends(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _nothing: *mut std::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        // Numbers rise: whatever began after it, and has not ended, lies within it.
        NOTES.with_borrow_mut(|notes| notes.retain(|note| note.subtransaction < subtransaction));
        STATEMENTS.with_borrow_mut(|statements| statements.retain(|&began| began < subtransaction));
    }
}

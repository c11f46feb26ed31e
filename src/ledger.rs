//! The ledger's only writer: triggers on the stock table, so that no change of stock escapes it, ours or anyone's.
//!
//! A row trigger notes each change of a quantity; the trigger at the end of the statement writes what was noted, in order,
//! with one INSERT. A single sale, and a change in a partition (which may be written to directly, without a statement on the
//! partitioned table), is written at once. Notes of an aborted subtransaction are dropped with it; a commit with notes
//! left is refused. The triggers' names sort before a user's, so that a change made by a user's own trigger on the same row
//! stands behind the change that caused it.

#![allow(unsafe_code)]

use crate::attachment::{self, Attachment, Kept};
use crate::context::{self, CallContext};
use crate::error::{Fault, Outcome};
use crate::identity::{act_as, current_role};
use crate::spi::{self, Arg, Connection, Sight, connected};
use crate::trigger::{Firing, Operation};
use pgrx::pg_sys::{self, Oid};
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
    reference: Option<String>,
    key: Option<String>,
    actor: String,
}

/// One of our own calls while its statement runs.
struct Frame {
    stamp: Rc<Stamp>,
    /// The trigger depth at which its changes are noted; deeper ones are a user's trigger's.
    depth: i32,
    /// One row: written at once.
    single: bool,
}

struct Note {
    subtransaction: pg_sys::SubTransactionId,
    id: Uuid,
    kind: Kind,
    old_quantity: String,
    new_quantity: String,
    stamp: Rc<Stamp>,
}

thread_local! {
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
    static NOTES: RefCell<Vec<Note>> = const { RefCell::new(Vec::new()) };
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// So many notes are written without waiting for the end of the statement, to bound the memory of a long COPY.
const MAX_NOTES: usize = 10_000;

/// Runs `act`; changes of stock by its statements are recorded as `kind`, with the call's context.
pub fn within<T>(
    stock: &Attachment,
    kind: Kind,
    context: &CallContext,
    role: Oid,
    single: bool,
    act: impl FnOnce() -> T,
) -> T {
    if stock.movements.is_none() {
        return act();
    }
    let stamp =
        Stamp { kind, reference: context.reference.clone(), key: context.key.clone(), actor: context::actor(role) };
    let frame = Frame { stamp: Rc::new(stamp), depth: trigger_depth() + 1, single };
    FRAMES.with_borrow_mut(|frames| frames.push(frame));
    let _open = OpenFrame;
    act()
}

struct OpenFrame;

impl Drop for OpenFrame {
    fn drop(&mut self) {
        FRAMES.with_borrow_mut(Vec::pop);
    }
}

fn trigger_depth() -> i32 {
    // SAFETY: takes no argument and reads a counter of the backend.
    unsafe { pgrx::direct_function_call(pg_sys::pg_trigger_depth, &[]) }.unwrap_or(0)
}

/// Notes a change of one item's quantity; an AFTER ROW trigger of the stock table.
#[pg_extern(sql = false)]
pub fn inventory_movement_record(call: pg_sys::FunctionCallInfo) -> i64 {
    let firing = Firing::of(call);
    record(&firing).unwrap_or_else(|fault| fault.raise());
    0
}

/// Writes the noted changes; an AFTER STATEMENT trigger of the stock table.
#[pg_extern(sql = false)]
pub fn inventory_movement_flush(call: pg_sys::FunctionCallInfo) -> i64 {
    let _firing = Firing::of(call);
    if !NOTES.with_borrow(Vec::is_empty) {
        attachment::current().map(|stock| flush(&stock)).unwrap_or_else(|fault| fault.raise());
    }
    0
}

/// Refuses to change a ledger but by the triggers of its stock table; a BEFORE STATEMENT trigger of the ledger.
#[pg_extern(sql = false)]
pub fn inventory_movement_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    let firing = Firing::of(call);
    let operation = firing.operation();
    if operation != Operation::Insert || !WRITING.get() {
        Fault::ledger_protected(operation.name(), &firing.table_name()).raise();
    }
    0
}

/// Refuses TRUNCATE; a BEFORE STATEMENT trigger of the stock table.
#[pg_extern(sql = false)]
pub fn inventory_truncate_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    Fault::truncate_refused(&Firing::of(call).table_name()).raise()
}

fn record(firing: &Firing) -> Outcome<()> {
    let stock = attachment::current()?;
    if firing.table() != stock.oid && !(stock.partitioned && firing.on_partition()) {
        return Err(Fault::stray_trigger(&firing.table_name()));
    }
    let (frame, single) = stamp_in_force();
    let first = firing.first_row();
    let first_id = first.uuid(&stock.id_name)?;
    let first_quantity = first.datum(&stock.quantity_name)?;
    // SAFETY: the value is a non-null quantity of the row.
    let printed = |datum| unsafe { spi::printed(datum, stock.quantity_type) };
    let zero = || "0".to_owned();
    match firing.operation() {
        Operation::Insert => note(first_id, Kind::Opening, zero(), printed(first_quantity), frame),
        Operation::Delete => note(first_id, Kind::Closing, printed(first_quantity), zero(), frame),
        _ => {
            let updated = firing.updated_row();
            let (id, quantity) = (updated.uuid(&stock.id_name)?, updated.datum(&stock.quantity_name)?);
            if id != first_id {
                note(first_id, Kind::Closing, printed(first_quantity), zero(), Rc::clone(&frame));
                note(id, Kind::Opening, zero(), printed(quantity), frame);
            } else if single {
                // SAFETY: both are quantities of rows that live as long as the firing.
                let quantities = unsafe { [Arg::raw(first_quantity), Arg::raw(quantity)] };
                write_one(&stock, id, quantities, &frame);
            } else {
                note(id, frame.kind, printed(first_quantity), printed(quantity), frame);
            }
        }
    }
    if stock.partitioned || NOTES.with_borrow(Vec::len) >= MAX_NOTES {
        flush(&stock);
    }
    Ok(())
}

/// The stamp of our own call whose statement fired the trigger, or one for a direct write; and whether it is one row.
fn stamp_in_force() -> (Rc<Stamp>, bool) {
    let depth = trigger_depth();
    let ours = FRAMES.with_borrow(|frames| {
        frames.last().filter(|frame| frame.depth == depth).map(|frame| (Rc::clone(&frame.stamp), frame.single))
    });
    ours.unwrap_or_else(|| {
        // Rows of one statement share a stamp.
        let last = NOTES.with_borrow(|notes| notes.last().map(|note| Rc::clone(&note.stamp)));
        let stamp = last.filter(|stamp| stamp.kind == Kind::External).unwrap_or_else(|| {
            Rc::new(Stamp {
                kind: Kind::External,
                reference: crate::settings::reference(),
                key: None,
                actor: context::actor(current_role()),
            })
        });
        (stamp, false)
    })
}

fn note(id: Uuid, kind: Kind, old_quantity: String, new_quantity: String, stamp: Rc<Stamp>) {
    // SAFETY: reads a counter of the backend.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    let note = Note { subtransaction, id, kind, old_quantity, new_quantity, stamp };
    NOTES.with_borrow_mut(|notes| notes.push(note));
}

/// Marks the INSERT that the guard lets through.
struct Writing;

impl Writing {
    fn begin() -> Self {
        WRITING.set(true);
        Self
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.set(false);
    }
}

/// Runs a statement that adds to the ledger, as its owner.
pub fn writing<T>(owner: Oid, search_path: Option<&std::ffi::CStr>, write: impl FnOnce(&Connection) -> T) -> T {
    let _acting = act_as(owner, search_path);
    let _writing = Writing::begin();
    connected(write)
}

const COLUMNS: &str = "inventory_id, kind, old_quantity, new_quantity, reference, idempotency_key, actor";

fn write_one(stock: &Attachment, id: Uuid, [old_quantity, new_quantity]: [Arg<'_>; 2], stamp: &Stamp) {
    let Some(movements) = &stock.movements else { return };
    writing(stock.owner, stock.search_path.as_deref(), |spi| {
        let plan = stock.plan(spi, Kept::Record, || {
            let (quantity, text) = (stock.quantity_type, pg_sys::TEXTOID);
            let sql = format!("INSERT INTO {movements} ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)");
            (sql, vec![pg_sys::UUIDOID, text, quantity, quantity, text, text, text])
        });
        let args = [
            Arg::owned(id),
            Arg::owned(stamp.kind.name()),
            old_quantity,
            new_quantity,
            Arg::owned(stamp.reference.as_deref()),
            Arg::owned(stamp.key.as_deref()),
            Arg::owned(stamp.actor.as_str()),
        ];
        spi.run(plan, &args, Sight::Isolation);
    });
}

/// Writes all notes, in the order they were made: one INSERT for each act.
fn flush(stock: &Attachment) {
    let notes = NOTES.take();
    let Some(movements) = &stock.movements else { return };
    for act in notes.chunk_by(|one, next| Rc::ptr_eq(&one.stamp, &next.stamp)) {
        let stamp = &act[0].stamp;
        writing(stock.owner, stock.search_path.as_deref(), |spi| {
            let plan = stock.plan(spi, Kept::RecordMany, || {
                let sql = format!(
                    "INSERT INTO {movements} ({COLUMNS})
                     SELECT change.id, change.kind, change.old_quantity, change.new_quantity, $5, $6, $7
                       FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),
                                       pg_catalog.unnest($3::pg_catalog.numeric[]), pg_catalog.unnest($4::pg_catalog.numeric[]))
                            AS change (id, kind, old_quantity, new_quantity)"
                );
                let (texts, text) = (pg_sys::TEXTARRAYOID, pg_sys::TEXTOID);
                (sql, vec![pg_sys::UUIDARRAYOID, texts, texts, texts, text, text, text])
            });
            let column = |read: fn(&Note) -> &str| Arg::owned(act.iter().map(read).collect::<Vec<_>>());
            let args = [
                Arg::owned(act.iter().map(|note| note.id).collect::<Vec<_>>()),
                column(|note| note.kind.name()),
                column(|note| &note.old_quantity),
                column(|note| &note.new_quantity),
                Arg::owned(stamp.reference.as_deref()),
                Arg::owned(stamp.key.as_deref()),
                Arg::owned(stamp.actor.as_str()),
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
    if NOTES.with_borrow(Vec::is_empty) {
        return;
    }
    if event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE {
        // Only where somebody disabled the trigger at the end of the statement and not the one for the row.
        Fault::internal("changes of stock were noted and not recorded").raise();
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
    }
}

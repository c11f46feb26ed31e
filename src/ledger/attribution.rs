//! Attribution: one stack of the calls that run and of our own writes within them.
//!
//! A trigger of ours asks it two questions. Which act does a change belong to: a change of the table of the innermost
//! act, at its trigger depth, is one of ours, any other is a direct write. May a statement write a protected table:
//! only under a permit, which is for one table, for so many statements, at one trigger depth, and which the guard of
//! the table uses up. Statements that a user's trigger or expression runs meanwhile are at another depth and find no
//! permit. A total is permitted item by item, with the quantity that is written. Items of two stock tables may have the
//! same id, so acts and totals name their table.

use crate::core::item_id::ItemId;
use crate::core::movement::MovementKind;
use crate::core::quantity::differ;
use crate::pg::Oid;
use crate::pg::trigger::depth;
use std::cell::RefCell;
use std::rc::Rc;

/// The common facts of the movements of one act.
pub struct Act {
    /// The stock table.
    pub stock: Oid,
    /// The kind of the movements.
    pub kind: MovementKind,
    /// The role that acts.
    pub role: Oid,
    /// The reference of the call.
    pub reference: Option<String>,
    /// Its idempotency key.
    pub key: Option<String>,
    /// The actor in the ledger.
    pub actor: String,
}

/// How many rows an act changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One, whose movement is written at once.
    OneRow,
    /// Any number.
    ManyRows,
}

struct Frame {
    /// The trigger depth of the statements in it.
    depth: i32,
    scope: Scope,
}

enum Scope {
    /// A call of a public function.
    Call,
    /// Changes are recorded as this act.
    Act(Rc<Act>, Extent),
    /// Statements of ours write a protected table.
    Statements { table: Oid, remaining: u32 },
    /// A statement of ours writes these totals into the rows of their items in the stock table.
    Totals { stock: Oid, totals: Vec<(ItemId, String)> },
}

thread_local! {
    /// PostgreSQL calls triggers without an argument of ours: the stack is state of the backend.
    static STACK: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// Removes a frame, also where an error of PostgreSQL unwinds.
struct Until(usize);

impl Drop for Until {
    fn drop(&mut self) {
        STACK.with_borrow_mut(|stack| stack.truncate(self.0));
    }
}

fn within<T>(scope: Scope, act: impl FnOnce() -> T) -> T {
    let frame = Frame { depth: depth() + 1, scope };
    let _until = STACK.with_borrow_mut(|stack| {
        stack.push(frame);
        Until(stack.len() - 1)
    });
    act()
}

/// Runs a call of a public function.
pub fn calling<T>(act: impl FnOnce() -> T) -> T {
    within(Scope::Call, act)
}

/// Whether a call runs: a trigger or an expression of a user may call again.
pub fn is_calling() -> bool {
    STACK.with_borrow(|stack| stack.iter().any(|frame| matches!(frame.scope, Scope::Call)))
}

/// Runs statements whose changes are recorded as an act.
pub fn acting<T>(act: Act, extent: Extent, run: impl FnOnce() -> T) -> T {
    within(Scope::Act(Rc::new(act), extent), run)
}

/// Runs statements whose changes belong to the act that runs, and are recorded as another kind.
pub fn acting_as<T>(kind: MovementKind, run: impl FnOnce() -> T) -> T {
    let innermost = STACK.with_borrow(|stack| {
        stack.iter().rev().find_map(|frame| match &frame.scope {
            Scope::Act(act, _) => Some((Rc::clone(act), frame.depth)),
            _ => None,
        })
    });
    let Some((outer, depth)) = innermost else { return run() };
    let Act { stock, role, reference, key, actor, .. } = outer.as_ref();
    let (reference, key, actor) = (reference.clone(), key.clone(), actor.clone());
    let act = Act { stock: *stock, kind, role: *role, reference, key, actor };
    let frame = Frame { depth, scope: Scope::Act(Rc::new(act), Extent::ManyRows) };
    let _until = STACK.with_borrow_mut(|stack| {
        stack.push(frame);
        Until(stack.len() - 1)
    });
    run()
}

/// The innermost act on a stock table.
pub fn act(stock: Oid) -> Option<Rc<Act>> {
    innermost_act(stock, |_| true).map(|(act, _)| act)
}

/// The innermost act, where the change of this stock table that fires a trigger is one of its own.
pub fn act_of_change(stock: Oid) -> Option<(Rc<Act>, Extent)> {
    let depth = depth();
    innermost_act(stock, |frame| frame.depth == depth)
}

fn innermost_act(stock: Oid, is_ours: impl FnOnce(&Frame) -> bool) -> Option<(Rc<Act>, Extent)> {
    STACK.with_borrow(|stack| {
        let frame = stack.iter().rfind(|frame| matches!(frame.scope, Scope::Act(..)))?;
        match &frame.scope {
            Scope::Act(act, extent) if act.stock == stock && is_ours(frame) => Some((Rc::clone(act), *extent)),
            _ => None,
        }
    })
}

/// Runs a statement of ours that writes a protected table once.
pub fn writing<T>(table: Oid, write: impl FnOnce() -> T) -> T {
    within(Scope::Statements { table, remaining: 1 }, write)
}

/// Runs an INSERT … ON CONFLICT DO UPDATE of ours, which a guard sees as an INSERT and an UPDATE.
pub fn upserting<T>(table: Oid, write: impl FnOnce() -> T) -> T {
    within(Scope::Statements { table, remaining: 2 }, write)
}

/// Runs a statement of ours that writes the totals of striped items into their rows. It is no movement of stock.
pub fn writing_totals<T>(stock: Oid, totals: Vec<(ItemId, String)>, write: impl FnOnce() -> T) -> T {
    within(Scope::Totals { stock, totals }, write)
}

/// Whether the statement that fires a guard on a table is one of ours. Uses the permit up.
pub fn use_permit(of_table: Oid) -> bool {
    let at_depth = depth();
    STACK.with_borrow_mut(|stack| {
        let permit = stack.iter_mut().rfind(|frame| matches!(frame.scope, Scope::Statements { .. }));
        match permit {
            Some(Frame { depth, scope: Scope::Statements { table, remaining } })
                if *table == of_table && *depth == at_depth && *remaining > 0 =>
            {
                *remaining -= 1;
                true
            }
            _ => false,
        }
    })
}

/// Whether a statement of ours that writes totals runs.
pub fn is_writing_totals() -> bool {
    STACK.with_borrow(|stack| stack.iter().any(|frame| matches!(frame.scope, Scope::Totals { .. })))
}

/// Whether this very total is being written into a stock table by a statement of ours. Uses it up.
pub fn use_total(of_stock: Oid, id: &ItemId, quantity: &str) -> bool {
    let at_depth = depth();
    STACK.with_borrow_mut(|stack| {
        stack.iter_mut().any(|frame| match &mut frame.scope {
            Scope::Totals { stock, totals } if frame.depth == at_depth && *stock == of_stock => {
                let found = totals.iter().position(|(item, total)| item == id && !differ(total, quantity));
                found.map(|place| totals.swap_remove(place)).is_some()
            }
            _ => false,
        })
    })
}

//! One call, from its context to its result: the attached table, whose rights, the key, the ledger's stamp.

use crate::core::error::{Fault, Outcome};
use crate::ledger::context::{CallContext, Given};
use crate::ledger::recorder::{self, Kind, Rows};
use crate::ledger::requests::{self, Request};
use crate::pg::role::current_role;
use crate::pg::spi::{Connection, connected};
use crate::stripes::totals;
use crate::table::attachment::{self, Attachment, Intent};
use crate::table::cursors;
use pgrx::Uuid;
use std::cell::Cell;

/// What is called, and as what the ledger records it.
pub struct Call {
    /// The public name of the function.
    pub function: &'static str,
    /// The kind of its movements.
    pub kind: Kind,
    /// How many rows it changes.
    pub rows: Rows,
    /// It fails where one of its items is unknown.
    pub needs_all: bool,
    /// Reference and key.
    pub context: CallContext,
}

thread_local! {
    /// How many calls run, one within the other: a trigger or an expression of a user may call again. PostgreSQL calls both, so
    /// the inner one cannot be passed anything.
    static RUNNING: Cell<u32> = const { Cell::new(0) };
}

/// A call that runs.
struct Running;

impl Running {
    fn begin() -> Self {
        RUNNING.set(RUNNING.get() + 1);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(RUNNING.get() - 1);
    }
}

/// Refuses what changes the attachment itself while a call relies on it.
pub fn require_no_other(function: &'static str) -> Outcome<()> {
    if RUNNING.get() == 0 { Ok(()) } else { Err(Fault::call_running(function)) }
}

/// Reads the context of a call, then runs it; every error names the reference, so that it can be traced to its order.
pub fn in_context(reference: Given, key: Given, act: impl FnOnce(CallContext) -> Outcome<String>) -> Outcome<String> {
    let context = CallContext::read(reference, key)?;
    let reference = context.reference.clone();
    act(context).map_err(|fault| fault.traced(reference.as_deref()))
}

/// Runs `act` on the attached table, with the rights of its owner or of the caller. What code of the owner left open is closed.
pub fn on_stock<T>(intent: Intent, act: impl FnOnce(&Connection, &Attachment) -> Outcome<T>) -> Outcome<T> {
    let stock = attachment::current()?;
    let caller = current_role();
    let _running = Running::begin();
    totals::revive(&stock);
    let acting = stock.act(intent)?;
    cursors::guarded(acting.is_some() && caller != stock.owner, || {
        let _acting = acting;
        connected(|spi| act(spi, &stock))
    })
}

impl Call {
    /// Runs `act` on the attached table.
    ///
    /// `items` are those that the call names. `arguments` gives all arguments that decide what is done, in one canonical text; it
    /// is asked for where there is a key.
    pub fn run(
        &self,
        items: &[Uuid],
        arguments: impl FnOnce() -> String,
        act: impl FnOnce(&Connection, &Attachment) -> Outcome<String>,
    ) -> Outcome<String> {
        let role = current_role();
        on_stock(Intent::Change, |spi, stock| {
            let recorded = || recorder::within(stock, self.kind, &self.context, role, self.rows, || act(spi, stock));
            match &self.context.key {
                None => recorded(),
                Some(key) => {
                    let (function, needs_all) = (self.function, self.needs_all);
                    let request = Request { key, function, arguments: arguments(), items, needs_all };
                    requests::once(spi, stock, &request, recorded)
                }
            }
        })
    }
}

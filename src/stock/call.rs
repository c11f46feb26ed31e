//! One call, from its context to its result: the attached table, the rights, the key, the act that the ledger records.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::movement::MovementKind;
use crate::ledger::attribution::{self, Extent};
use crate::ledger::context::{CallContext, ContextText};
use crate::ledger::recorder::recording;
use crate::ledger::requests::{self, Request};
use crate::pg::role::current_role;
use crate::pg::spi::{Connection, checked};
use crate::pg::transaction::check_interrupts;
use crate::stats::function::Function;
use crate::stats::meter;
use crate::stripes::totals;
use crate::table::attachment::{Attachment, Intent, Judged};
use crate::table::cache;
use crate::table::cursors;

/// The function that is called, and how the ledger records it.
pub struct Call {
    /// The public name of the function.
    pub function: Function,
    /// The kind of its movements.
    pub kind: MovementKind,
    /// How many rows it changes.
    pub extent: Extent,
    /// It fails where one of its items is unknown.
    pub needs_all: bool,
    /// Reference and key.
    pub context: CallContext,
}

/// Refuses to change the attachment itself while a call relies on it.
pub fn require_no_other(function: &'static str) -> Result<()> {
    if attribution::is_calling() { Err(Error::call_running(function)) } else { Ok(()) }
}

/// Reads the context of a call, then runs it; every error names the reference, so that it can be traced to its order.
pub fn in_context(
    reference: ContextText,
    key: ContextText,
    act: impl FnOnce(CallContext) -> Result<String>,
) -> Result<String> {
    let context = CallContext::read(reference, key)?;
    meter::has_reference(context.reference.as_deref());
    let reference = context.reference.clone();
    act(context).map_err(|error| error.traced(reference.as_deref()))
}

/// Runs `act` on the attached table, with the rights of its owner or of the caller. Cursors that code of the owner left
/// open are closed.
pub fn on_stock<T>(intent: Intent, act: impl FnOnce(&Connection, &Attachment) -> Result<T>) -> Result<T> {
    let stock = cache::current()?;
    let caller = current_role();
    attribution::calling(|| {
        totals::revive_worker(&stock)?;
        let acting = stock.act(intent)?;
        cursors::guarded(acting.is_some() && caller != stock.owner, || {
            let _acting = acting;
            let judged = if stock.run_as_caller { Judged::Companions } else { Judged::Writing };
            checked(stock.check(judged), |spi| act(spi, &stock))
        })
    })
}

impl Call {
    /// Runs a call on the attached table.
    ///
    /// `resolve` reads the items that the call names, whose type is that of the table's ids. `items` and `arguments`
    /// are called where there is a key: the items, and all arguments that decide on the change in one canonical text.
    pub fn run<T>(
        &self,
        resolve: impl FnOnce(&Attachment) -> Result<T>,
        items: impl FnOnce(&T) -> Vec<ItemId>,
        arguments: impl FnOnce(&T) -> String,
        act: impl Fn(&Connection, &Attachment, &T) -> Result<String>,
    ) -> Result<String> {
        let role = current_role();
        on_stock(Intent::Change, |spi, stock| {
            let named = resolve(stock)?;
            let recorded = || {
                let extent = (self.kind, self.extent);
                recording(stock, extent, &self.context, role, || until_settled(|| act(spi, stock, &named)))
            };
            match &self.context.key {
                None => recorded(),
                Some(key) => {
                    let (function, needs_all, items) = (self.function.name(), self.needs_all, items(&named));
                    let request = Request { key, function, arguments: arguments(&named), items: &items, needs_all };
                    requests::once(spi, stock, &request, recorded)
                }
            }
        })
    }
}

/// Acts again where another session, or this one, has divided an item after it was looked for in its row. Nothing was
/// written by then, and what was locked stays locked.
fn until_settled(act: impl Fn() -> Result<String>) -> Result<String> {
    loop {
        match act() {
            Err(error) if error.is_division() => check_interrupts(),
            result => return result,
        }
    }
}

/// The items of a call that names one.
pub fn only(id: &ItemId) -> Vec<ItemId> {
    vec![id.clone()]
}

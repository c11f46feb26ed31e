//! One writing call, from its context to its answer: the attached table, whose rights, the key, the ledger's stamp.

use crate::attachment::{self, Attachment};
use crate::context::{CallContext, Given};
use crate::error::Outcome;
use crate::idempotency::{self, Request};
use crate::identity::{act_as, current_role};
use crate::ledger::{self, Kind, Rows};
use crate::spi::{Connection, connected};

/// What is called, and as what the ledger records it.
pub struct Call {
    /// The public name of the function.
    pub function: &'static str,
    /// The kind of its movements.
    pub kind: Kind,
    /// How many rows it changes.
    pub rows: Rows,
    /// Reference and key.
    pub context: CallContext,
}

/// Reads the context of a call, then runs it; every error names the reference, so that it can be traced to its order.
pub fn in_context(reference: Given, key: Given, act: impl FnOnce(CallContext) -> Outcome<String>) -> Outcome<String> {
    let context = CallContext::read(reference, key)?;
    let reference = context.reference.clone();
    act(context).map_err(|fault| fault.traced(reference.as_deref()))
}

impl Call {
    /// Runs `act` on the attached table.
    ///
    /// `arguments` gives all arguments that decide what is done, in one canonical text; it is asked for where there is a key.
    pub fn run(
        &self,
        arguments: impl FnOnce() -> String,
        act: impl FnOnce(&Connection, &Attachment) -> Outcome<String>,
    ) -> Outcome<String> {
        let stock = attachment::current()?;
        let role = current_role();
        let _acting = (!stock.run_as_caller).then(|| act_as(stock.owner, stock.search_path.as_deref()));
        connected(|spi| {
            let recorded = || ledger::within(&stock, self.kind, &self.context, role, self.rows, || act(spi, &stock));
            match &self.context.key {
                None => recorded(),
                Some(key) => {
                    let request = Request { key, function: self.function, arguments: arguments() };
                    idempotency::once(spi, &stock, &request, recorded)
                }
            }
        })
    }
}

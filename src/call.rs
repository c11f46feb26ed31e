//! One writing call, from its context to its answer: the attached table, whose rights, the key, the ledger's stamp.

use crate::attachment::{self, Attachment};
use crate::context::CallContext;
use crate::error::Outcome;
use crate::idempotency::{self, Request};
use crate::identity::{act_as, current_role};
use crate::ledger::{self, Kind};
use crate::spi::{Connection, connected};

/// What is called, and as what the ledger records it.
pub struct Call {
    /// The public name of the function.
    pub function: &'static str,
    /// The kind of its movements.
    pub kind: Kind,
    /// It changes one row.
    pub single: bool,
    /// Reference and key.
    pub context: CallContext,
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
        let done = self.run_untraced(arguments, act);
        done.map_err(|fault| fault.traced(self.context.reference.as_deref()))
    }

    fn run_untraced(
        &self,
        arguments: impl FnOnce() -> String,
        act: impl FnOnce(&Connection, &Attachment) -> Outcome<String>,
    ) -> Outcome<String> {
        let stock = attachment::current()?;
        let role = current_role();
        let _acting = (!stock.run_as_caller).then(|| act_as(stock.owner, stock.search_path.as_deref()));
        connected(|spi| {
            let recorded = || ledger::within(&stock, self.kind, &self.context, role, self.single, || act(spi, &stock));
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

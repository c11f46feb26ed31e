//! Shortages: whether a requested quantity may be taken, and the words of the refusal.
//!
//! Every path asks here before it refuses: a sale, a line of an order, the source of a transfer, a striped item. A
//! refusal is truthful: it is decided on a committed quantity, without a lock where that is possible, and only after
//! everything that may still have stock was asked.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::number;
use crate::core::quantity::Quantity;
use crate::pg::spi::Connection;
use crate::pg::transaction::has_one_snapshot;
use crate::stripes::striped::{Held, Search, Striped, sum_in_snapshot};
use crate::table::attachment::Attachment;
use serde_json::{Map, Value, json};

/// The rule: a quantity may be taken from an available one that is not less.
fn is_enough(available: Quantity, requested: Quantity) -> bool {
    available >= requested
}

/// Refuses a quantity that a locked item does not have.
pub fn require(id: &ItemId, available: Quantity, requested: Quantity) -> Result<()> {
    if is_enough(available, requested) { Ok(()) } else { Err(Error::insufficient(id, available, requested)) }
}

/// Refuses a quantity that an item does not have, as far as it was read without a lock.
///
/// In a transaction whose snapshot is older than the end of the item's stripes the row shows a total of that time,
/// which may lag: the stripes of the snapshot decide. Where they have enough, PostgreSQL raises a serialization failure
/// when the row is locked.
pub fn require_unlocked(
    spi: &Connection,
    stock: &Attachment,
    id: &ItemId,
    available: Quantity,
    requested: Quantity,
) -> Result<()> {
    if !is_enough(available, requested)
        && has_one_snapshot()
        && let Some(available) = sum_in_snapshot(spi, stock, id)?
    {
        return require(id, available, requested);
    }
    require(id, available, requested)
}

/// The supply of a requested quantity.
pub enum Supply<T> {
    /// Enough, and it is held.
    Held(T),
    /// This much, which is too little.
    Short(Quantity),
}

/// Takes a stripe that has enough. A stripe that another session holds is never counted as missing; stock that lies in
/// several stripes is gathered before a sale is refused.
pub fn search<'a>(striped: &Striped<'a>, requested: Quantity) -> Result<Supply<Held<'a>>> {
    let mut found = striped.search(requested)?;
    loop {
        match found {
            Search::Held(held) => {
                striped.require_few_digits(&held, requested)?;
                return Ok(Supply::Held(held));
            }
            Search::Sum(available) if is_enough(available, requested) => found = striped.gather(requested)?,
            Search::Sum(available) => {
                striped.let_go();
                return Ok(Supply::Short(available));
            }
        }
    }
}

/// The same for a call that fails where the item is short.
pub fn require_stripe<'a>(striped: &Striped<'a>, requested: Quantity) -> Result<Held<'a>> {
    match search(striped, requested)? {
        Supply::Held(held) => Ok(held),
        Supply::Short(available) => Err(Error::insufficient(striped.id(), available, requested)),
    }
}

/// The treatment of a short line by an order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OnShortage {
    /// The order fails.
    Abort,
    /// The line is left out.
    Skip,
    /// The available quantity is taken.
    Partial,
}

impl OnShortage {
    /// Reads p_on_shortage.
    pub fn read(word: Option<String>) -> Result<Self> {
        match word.ok_or_else(|| Error::null_argument("p_on_shortage"))?.as_str() {
            "abort" => Ok(Self::Abort),
            "skip" => Ok(Self::Skip),
            "partial" => Ok(Self::Partial),
            other => {
                let allowed = ["abort", "skip", "partial"];
                Err(Error::unknown_word("p_on_shortage", other, &allowed, "Pass abort, skip or partial."))
            }
        }
    }

    /// The word that reads as this.
    pub fn word(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Skip => "skip",
            Self::Partial => "partial",
        }
    }
}

/// The lines of an order that are short, and the quantity that each line takes.
pub struct Lines {
    on_shortage: OnShortage,
    short: Vec<Value>,
    first_short: Option<[Quantity; 2]>,
}

impl Lines {
    /// No line yet.
    pub fn new(on_shortage: OnShortage) -> Self {
        Self { on_shortage, short: Vec::new(), first_short: None }
    }

    /// A line on an item that has so much. Returns the quantity to take, which may be zero.
    pub fn take(&mut self, id: &ItemId, available: Quantity, requested: Quantity) -> Quantity {
        if is_enough(available, requested) {
            return requested;
        }
        let taken = if self.on_shortage == OnShortage::Partial { available } else { Quantity::ZERO };
        self.first_short = self.first_short.or(Some([available, requested]));
        self.short.push(json!({
            "reason": "insufficient", "inventory_id": id.to_json(), "available": number(available),
            "requested": number(requested), "deducted": number(taken),
        }));
        taken
    }

    /// A line on an item that does not exist, or that the caller may not sell.
    pub fn unknown(&mut self, id: &ItemId, requested: Quantity) {
        let requested = number(requested);
        self.short.push(json!({"reason": "unknown_item", "inventory_id": id.to_json(), "requested": requested}));
    }

    /// A line on an item whose row holds a value that is no quantity.
    pub fn unreadable(&mut self, id: &ItemId, stored: &str, requested: Quantity) -> Result<()> {
        if self.on_shortage == OnShortage::Abort {
            return Err(Error::unreadable_stock(id, stored));
        }
        self.short.push(json!({
            "reason": "unreadable_stock", "inventory_id": id.to_json(), "stored": stored,
            "requested": number(requested),
        }));
        Ok(())
    }

    /// The short lines, where the order goes on without them; else the error.
    pub fn finish(self) -> Result<Vec<Value>> {
        if self.on_shortage != OnShortage::Abort || self.short.is_empty() {
            return Ok(self.short);
        }
        let lines = self.short.into_iter().map(without_deducted).collect();
        Err(match self.first_short {
            Some(first) => Error::short_lines(first, lines),
            None => Error::unknown_lines(lines),
        })
    }
}

/// Where nothing is taken at all, a line has no quantity that was taken.
fn without_deducted(line: Value) -> Value {
    let Value::Object(facts) = line else { return line };
    Value::Object(facts.into_iter().filter(|(key, _)| key != "deducted").collect::<Map<_, _>>())
}

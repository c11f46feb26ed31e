//! Idempotency keys: a retried request returns the first result and is not run again.
//!
//! Lock order: the key comes first, before any item. It is inserted before anything else is done; another session with
//! the same key waits there until this transaction ends. If it commits, the other reads the result in a new statement;
//! if it rolls back, the key is gone and the other runs.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::part::{Access, Companion, Part};
use crate::ledger::attribution;
use crate::pg::args::{Arg, Interval};
use crate::pg::failpoint::{self, Point};
use crate::pg::lock::lock_for_writing;
use crate::pg::spi::{Connection, connected};
use crate::statements::{Statement, requests};
use crate::stats::meter;
use crate::table::attachment::Attachment;
use std::collections::HashSet;

/// A call as its retries must repeat it.
pub struct Request<'a> {
    /// The key.
    pub key: &'a str,
    /// The function called.
    pub function: &'static str,
    /// All arguments that decide on the change, in one canonical text.
    pub arguments: String,
    /// The items that the call names.
    pub items: &'a [ItemId],
    /// The call fails where one of them is unknown.
    pub needs_all: bool,
}

/// A key that is deleted between the two statements of a claim is free; the claim is tried so often.
const CLAIMS: usize = 100;

/// Runs `act` unless the key was used before; then returns the first result again, marked as replayed.
///
/// The caller's rights, and row-level security, are checked before anything about the key is reported.
pub fn once(
    spi: &Connection,
    stock: &Attachment,
    request: &Request<'_>,
    act: impl FnOnce() -> Result<String>,
) -> Result<String> {
    stock.require_sale_rights();
    meter::was_busy();
    let hidden = hidden_items(spi, stock, request.items, Statement::VisibleItems)?;
    if let Some(id) = hidden.first().filter(|_| request.needs_all) {
        // The call fails in its own words, independent of the key, and waits for no other user of the key.
        act()?;
        return Err(Error::unknown_item(id));
    }
    match claim(spi, stock, request)? {
        Claim::Ours => {}
        Claim::Taken(result) => {
            meter::replayed();
            // No other session holds the key any more, so rows may be locked: policies for UPDATE count, too.
            let hidden = hidden_items(spi, stock, request.items, Statement::ChangeableItems)?;
            let shown = hidden.iter().find(|id| shows_quantity(&result, id));
            return shown.map_or(Ok(result.clone()), |id| Err(Error::unknown_item(id)));
        }
    }
    failpoint::reached(Point::KeyClaimed);
    let result = act()?;
    let _acting = stock.act_on_companions();
    let args = [Arg::text(request.key), Arg::text(result.as_str())];
    let keep = || stock.run(spi, Statement::KeepResult, &args).count();
    if attribution::writing(stock.companions.requests, keep) != 1 {
        return Err(Error::key_not_kept(request.key));
    }
    failpoint::reached(Point::AnswerKept);
    Ok(result)
}

/// The result of claiming a key.
enum Claim {
    /// The key is ours now.
    Ours,
    /// It was used before, for this request: the first result.
    Taken(String),
}

fn claim(spi: &Connection, stock: &Attachment, request: &Request<'_>) -> Result<Claim> {
    // Until the transaction ends, also where a cursor that runs the call fails.
    lock_for_writing(&[stock.companions.requests]);
    let _acting = stock.act_on_companions();
    let args = [Arg::text(request.key), Arg::text(request.function), Arg::text(request.arguments.as_str())];
    for _ in 0..CLAIMS {
        let insert = || stock.run(spi, Statement::ClaimKey, &args).count();
        if attribution::writing(stock.companions.requests, insert) == 1 {
            return Ok(Claim::Ours);
        }
        let found = stock.run(spi, Statement::ReadKey, &args);
        // Gone between the two statements: purged, so it is free.
        let Some(function) = found.text(0, c"function_name") else { continue };
        return match (found.get(0, c"same"), found.text(0, c"answer")) {
            (Some(true), Some(result)) => Ok(Claim::Taken(replayed(&result))),
            (Some(true), None) => Err(Error::key_in_use(request.key)),
            _ => Err(Error::key_reused(request.key, &function)),
        };
    }
    Err(Error::key_not_kept(request.key))
}

/// Those of these items that row-level security hides from the role in force, or that do not exist; none where it hides
/// no row.
fn hidden_items(spi: &Connection, stock: &Attachment, items: &[ItemId], permitted: Statement) -> Result<Vec<ItemId>> {
    if !stock.run_as_caller && !stock.forced_rls {
        return Ok(Vec::new());
    }
    let rows = stock.run(spi, permitted, &[stock.bind_items(items)]);
    let visible = (0..rows.count()).map(|row| rows.item(row, c"id")).collect::<Result<HashSet<_>>>()?;
    Ok(items.iter().filter(|id| !visible.contains(id)).cloned().collect())
}

/// Whether a result shows quantities of an item. One that was unknown then is named without.
fn shows_quantity(result: &str, id: &ItemId) -> bool {
    ["old_quantity", "available", "stored"]
        .iter()
        .any(|fact| result.contains(&format!(r#""inventory_id": {}, "{fact}""#, id.to_json())))
}

/// The first result with one key more.
fn replayed(result: &str) -> String {
    match result.trim_end().strip_suffix('}') {
        Some(open) => format!(r#"{open}, "replayed": true}}"#),
        None => result.to_owned(),
    }
}

/// Deletes the keys that are older than an interval, and returns their number.
pub fn purge(stock: &Attachment, older_than: Interval) -> Result<i64> {
    connected(|spi| {
        let _acting = stock.act_on_companions();
        let args = [Arg::owned(older_than)];
        if !spi.once(&requests::is_not_negative(), &args).required::<bool>(0, c"valid")? {
            return Err(Error::negative_interval("p_older_than"));
        }
        stock.ready(Part::Companion(Companion::Requests), Access::Write)?;
        let delete = || spi.once(&requests::purge(&stock.names), &args).count() as i64;
        Ok(attribution::writing(stock.companions.requests, delete))
    })
}

#[cfg(test)]
mod tests {
    use super::replayed;

    #[test]
    fn a_replay_is_the_first_result_and_one_key() {
        assert_eq!(replayed(r#"{"success": true}"#), r#"{"success": true, "replayed": true}"#);
    }
}

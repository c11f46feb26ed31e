//! The rules of the advice. Each threshold says why it is where it is.

use crate::advice::{Advice, TableFacts};
use crate::pg::shared_memory::{SharedMemory, attach};
use crate::stats::counters;
use crate::stats::hot::{self, Hot, HotList};
use crate::stats::text::kept;
use crate::table::attachment::Attachment;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Fewer waits may be one long transaction that stood in the way of a few sales.
const MANY_WAITS: u64 = 100;
/// A stripe makes a restock and a look at the row cost more: it must save at least a second.
const MUCH_TIME: u64 = 1_000_000_000;
/// Before so many calls of the table, nothing is known of what is quiet.
const MANY_CALLS: u64 = 10_000;
/// Fewer updates say nothing of their kind.
const MANY_UPDATES: i64 = 10_000;
/// With fewer HOT updates the indexes of the table grow with each sale.
const FEW_HOT: f64 = 0.9;
/// A B-tree of more movements does not stay in the memory of a small server.
const MANY_MOVEMENTS: i64 = 20_000_000;
/// A key is needed while its client may retry.
const MANY_KEYS: i64 = 1_000_000;

/// All advice for one stock table.
pub(super) fn apply(stock: &Attachment, facts: &TableFacts) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut add = |kind, item: Option<String>, text: String, detail: Value| {
        advice.push(Advice { kind, table: Some(stock.oid), item, advice: text, detail });
    };
    if let Ok(memory) = attach() {
        for (kind, item, text, detail) in of_items(stock, memory) {
            add(kind, Some(item), text, detail);
        }
    }
    let share = facts.hot_updated as f64 / (facts.updated.max(1)) as f64;
    let updates = json!({"updates": facts.updated, "hot_updates": facts.hot_updated, "fillfactor": facts.fillfactor});
    if !facts.indexes.is_empty() {
        let detail = json!({"indexes": facts.indexes, "updates": facts.updated, "hot_updates": facts.hot_updated});
        add("index", None, "Drop the indexes on the quantity: each sale writes into every index.".to_owned(), detail);
    } else if facts.updated >= MANY_UPDATES && share < FEW_HOT {
        let text = "Set a fillfactor, such as 90, and rewrite the table with VACUUM FULL, so that a sale finds room in \
                    the page of its row.";
        add("fillfactor", None, text.to_owned(), updates);
    }
    if !facts.deferrable.is_empty() {
        let text = "Make the triggers not deferrable: with p_run_as => 'owner' a table with one is refused.";
        add("deferrable_trigger", None, text.to_owned(), json!({"triggers": facts.deferrable}));
    }
    if let Some(movements) = facts.movements.filter(|movements| *movements >= MANY_MOVEMENTS) {
        let detail = json!({"movements": movements, "bytes": facts.ledger_bytes});
        add("archive", None, "Move closed history out of the ledger with archive_movements.".to_owned(), detail);
    }
    if !facts.without_brin.is_empty() {
        let text = "Create a BRIN index on each of these columns of the ledger, CONCURRENTLY.";
        let detail = json!({"ledger": stock.names.movements, "columns": facts.without_brin});
        add("missing_brin", None, text.to_owned(), detail);
    }
    if let Some(keys) = facts.keys.filter(|keys| *keys >= MANY_KEYS) {
        let text = "Delete old idempotency keys with purge_requests, daily.";
        add("purge", None, text.to_owned(), json!({"keys": keys}));
    }
    if let Err(obstacle) = &stock.native {
        let text = format!("Sales are written by statements, which takes twice as long, because {}.", obstacle.words());
        add("write_path", None, text, json!({"obstacle": obstacle.words()}));
    }
    advice
}

type OfItem = (&'static str, String, String, Value);

/// Items that want stripes, and striped ones that want none.
fn of_items(stock: &Attachment, memory: SharedMemory) -> Vec<OfItem> {
    let table = stock.oid.to_u32();
    let waited: Vec<Hot> = hot::read(memory, HotList::Waits).into_iter().filter(|hot| hot.table == table).collect();
    // The list has the beginning of a long id.
    let striped: HashSet<String> = stock.striped().keys().map(|id| kept(&id.to_string()).to_owned()).collect();
    let is_hot = |hot: &&Hot| hot.count >= MANY_WAITS && hot.weight - hot.error >= MUCH_TIME;
    let hot = waited.iter().filter(is_hot).filter(|hot| !striped.contains(&hot.item)).map(|hot| {
        let seconds = (hot.weight - hot.error) as f64 / 1e9;
        let detail = json!({"lock_waits": hot.count, "seconds": (seconds * 1e3).round() / 1e3});
        ("stripe", hot.item.clone(), "Divide the item into stripes with stripe_inventory.".to_owned(), detail)
    });
    let of_table = |counted: &counters::Counted| counted.table == table;
    let calls: u64 =
        counters::read(memory).iter().filter(|counted| of_table(counted)).map(|counted| counted.calls).sum();
    let names: HashSet<&str> = waited.iter().map(|hot| hot.item.as_str()).collect();
    let quiet = striped.iter().filter(|item| calls >= MANY_CALLS && !names.contains(item.as_str())).map(|item| {
        let text = "Put the stripes of the item together with unstripe_inventory: no call waited for it.";
        ("unstripe", item.clone(), text.to_owned(), json!({"calls": calls}))
    });
    hot.chain(quiet).collect()
}

//! reset_inventory_stats, inventory_advice, and the functions behind the views inventory_stats, inventory_latency,
//! inventory_hot_items, inventory_lock_queue, inventory_stats_info and inventory_audits.

use crate::advice::{self, Advice};
use crate::audit::overview::{self, Newest};
use crate::core::json::spaced;
use crate::pg::Oid;
use crate::pg::args::{Moment, TableIterator, name};
use crate::pg::encoding::to_server;
use crate::pg::relation::{qualified_name, schema_of};
use crate::pg::report::unpacked;
use crate::pg::shared_memory::attach;
use crate::stats::counters::{self, Counted, Times};
use crate::stats::histogram::quantile;
use crate::stats::hot::{self, HotList};
use crate::stats::layout::ENTRIES;
use crate::stats::meter;
use crate::table::queue;
use pgrx::pg_extern;
use serde_json::{Map, Value};
use std::collections::HashMap;

fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// The name of a stock table; None where it is gone. A call that failed before its table was known has none.
fn table_of(table: u32) -> Option<Option<Vec<u8>>> {
    let table = Oid::from(table);
    if table == Oid::INVALID {
        return Some(None);
    }
    schema_of(table).map(|_| Some(to_server(&qualified_name(table))))
}

/// Counters do not reach half of 2^64.
fn number(count: u64) -> i64 {
    count.cast_signed()
}

fn counted() -> Vec<Counted> {
    attach().map(counters::read).unwrap_or_default()
}

/// Errors by SQLSTATE, as a JSON object.
fn by_sqlstate(errors: &[(Option<u32>, u64)]) -> Vec<u8> {
    let name = |code: Option<u32>| code.map_or_else(|| "other".to_owned(), unpacked);
    let object: Map<String, Value> = errors.iter().map(|(code, count)| (name(*code), Value::from(*count))).collect();
    to_server(&Value::Object(object).to_string())
}

/// Returns the counters of inventory_stats.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn inventory_stats_calls() -> TableIterator<
    'static,
    (
        name!(stock_table, Option<Vec<u8>>),
        name!(function, Vec<u8>),
        name!(calls, i64),
        name!(successes, i64),
        name!(failures, i64),
        name!(refusals, Vec<u8>),
        name!(replays, i64),
        name!(movements, i64),
        name!(total_time, f64),
        name!(max_time, f64),
        name!(lock_waits, i64),
        name!(lock_time, f64),
    ),
> {
    TableIterator::new(counted().into_iter().filter(|counted| counted.calls > 0).filter_map(|counted| {
        Some((
            table_of(counted.table)?,
            to_server(counted.function.name()),
            number(counted.calls),
            number(counted.successes),
            number(counted.errors.iter().map(|(_, count)| count).sum()),
            by_sqlstate(&counted.errors),
            number(counted.replays),
            number(counted.movements),
            milliseconds(counted.time.total),
            milliseconds(counted.time.longest),
            number(counted.waits),
            milliseconds(counted.lock_time.total),
        ))
    }))
}

/// Returns the durations of inventory_latency.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn inventory_stats_latency() -> TableIterator<
    'static,
    (
        name!(stock_table, Option<Vec<u8>>),
        name!(function, Vec<u8>),
        name!(measure, Vec<u8>),
        name!(calls, i64),
        name!(mean_time, Option<f64>),
        name!(p50, Option<f64>),
        name!(p95, Option<f64>),
        name!(p99, Option<f64>),
        name!(max_time, f64),
        name!(histogram, Vec<i64>),
    ),
> {
    let measures = |counted: Counted| {
        let Counted { table, function, calls, time, locking, lock_time, .. } = counted;
        [("call", calls, time), ("lock", locking, lock_time)].map(|measure| (table, function, measure))
    };
    let measured = counted().into_iter().flat_map(measures).filter(|(_, _, (_, calls, _))| *calls > 0);
    TableIterator::new(measured.filter_map(|(table, function, (measure, calls, times))| {
        let Times { total, longest, histogram } = times;
        let share = |share| quantile(&histogram, longest, share).map(milliseconds);
        Some((
            table_of(table)?,
            to_server(function.name()),
            to_server(measure),
            number(calls),
            Some(milliseconds(total) / calls as f64),
            share(0.5),
            share(0.95),
            share(0.99),
            milliseconds(longest),
            histogram.iter().map(|count| number(*count)).collect(),
        ))
    }))
}

/// What both lists know of an item.
#[derive(Default)]
struct HotItem {
    waits: u64,
    time: u64,
    refusals: u64,
}

/// Returns the items of inventory_hot_items.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn inventory_stats_hot() -> TableIterator<
    'static,
    (
        name!(stock_table, Option<Vec<u8>>),
        name!(inventory_id, Vec<u8>),
        name!(lock_waits, i64),
        name!(lock_time, f64),
        name!(refusals, i64),
    ),
> {
    let mut items: HashMap<(u32, String), HotItem> = HashMap::new();
    if let Ok(memory) = attach() {
        for hot in hot::read(memory, HotList::Waits) {
            let item = items.entry((hot.table, hot.item)).or_default();
            // The error is taken off: the figures are what was surely seen.
            (item.waits, item.time) = (hot.count, hot.weight - hot.error);
        }
        for hot in hot::read(memory, HotList::Refusals) {
            items.entry((hot.table, hot.item)).or_default().refusals = hot.weight - hot.error;
        }
    }
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort_by_key(|(_, item)| std::cmp::Reverse((item.time, item.refusals)));
    TableIterator::new(items.into_iter().filter_map(|((table, item), HotItem { waits, time, refusals })| {
        Some((table_of(table)?, to_server(&item), number(waits), milliseconds(time), number(refusals)))
    }))
}

/// Returns the backends that take the lock of an item now.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn inventory_stats_locking() -> TableIterator<
    'static,
    (
        name!(stock_table, Option<Vec<u8>>),
        name!(inventory_id, Option<Vec<u8>>),
        name!(stripe, Option<i16>),
        name!(pid, i32),
        name!(reference, Option<Vec<u8>>),
        name!(lock_time, f64),
    ),
> {
    let locking = attach().map(queue::read).unwrap_or_default();
    TableIterator::new(locking.into_iter().filter_map(|waiting| {
        let text = |text: Option<String>| text.as_deref().map(to_server);
        let (item, reference) = (text(waiting.item), text(waiting.reference));
        let table = table_of(waiting.table)?;
        Some((table, item, waiting.stripe, waiting.process.cast_signed(), reference, milliseconds(waiting.time)))
    }))
}

/// Returns whether calls are counted, and if not, why.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn inventory_stats_state() -> TableIterator<
    'static,
    (
        name!(available, bool),
        name!(reason, Option<Vec<u8>>),
        name!(stats_reset, Option<Moment>),
        name!(entries, Option<i32>),
        name!(entries_max, Option<i32>),
        name!(not_counted, Option<i64>),
    ),
> {
    let memory = attach();
    let reason = match &memory {
        Err(failure) => Some(failure.to_string()),
        Ok(_) if !meter::is_on() => Some("inventory_ext.track is off".to_owned()),
        Ok(_) => None,
    };
    let memory = memory.ok();
    let size = |size: usize| i32::try_from(size).unwrap_or(i32::MAX);
    let row = (
        reason.is_none(),
        reason.as_deref().map(to_server),
        memory.and_then(counters::since).map(Moment),
        memory.map(|memory| size(counters::used(memory))),
        memory.map(|_| size(ENTRIES)),
        memory.map(|memory| number(counters::not_counted(memory))),
    );
    TableIterator::new(std::iter::once(row))
}

/// Sets the statistics of this database to zero.
#[pg_extern(sql = false)]
fn reset_inventory_stats() {
    if let Ok(memory) = attach() {
        counters::reset(memory, Moment::now().0);
        hot::reset(memory);
    }
}

/// Returns the newest audit of every attached table that has a ledger.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn inventory_stats_audits() -> TableIterator<
    'static,
    (name!(stock_table, Option<Vec<u8>>), name!(last_audit, Option<Moment>), name!(discrepancies, Option<i64>)),
> {
    let audits = overview::newest().unwrap_or_else(|error| error.raise());
    let named = |newest: Newest| {
        let table = table_of(newest.table.to_u32())?;
        Some((table, newest.ended, newest.discrepancies))
    };
    TableIterator::new(audits.into_iter().filter_map(named))
}

/// Returns advice for the stock tables of this database.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn inventory_advice() -> TableIterator<
    'static,
    (
        name!(kind, Vec<u8>),
        name!(stock_table, Option<Vec<u8>>),
        name!(inventory_id, Option<Vec<u8>>),
        name!(advice, Vec<u8>),
        name!(detail, Vec<u8>),
    ),
> {
    let advice = advice::advice().unwrap_or_else(|error| error.raise());
    TableIterator::new(advice.into_iter().map(|Advice { kind, table, item, advice, detail }| {
        let table = table.map(|table| to_server(&qualified_name(table)));
        let item = item.as_deref().map(to_server);
        (to_server(kind), table, item, to_server(&advice), to_server(&spaced(&detail)))
    }))
}

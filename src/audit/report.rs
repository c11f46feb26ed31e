//! The page of a run: what was checked, what is wrong, and where.
//!
//! One HTML document without anything from elsewhere. maud escapes every text; texts of a chart are escaped by its
//! backend.

use crate::audit::access::as_owner;
use crate::audit::charts;
use crate::audit::kept;
use crate::audit::tables;
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::pg::args::Arg;
use crate::pg::spi::Connection;
use crate::statements::report as statements;
use crate::table::attachment::Attachment;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

/// The most items of which a chart is drawn.
const MOST_CHARTS: usize = 20;
/// Quantities from here on are not drawn.
const MOST_DRAWN: f64 = 1e15;
/// The most discrepancies in the table.
const MOST_ROWS: usize = 200;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem}\
body{margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;width:100%}th,td{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left}\
.n{text-align:right;font-variant-numeric:tabular-nums}\
th,td{overflow-wrap:anywhere}figure{margin:0}.ok{color:#176f2c}.bad{color:#b3261e}svg{max-width:100%}";

/// The page of a run; of the newest one, where none is named.
pub fn page(run: Option<i64>) -> Result<String> {
    as_owner(|spi, stock| {
        let audited = tables::open(spi, stock, false)?;
        let tables = audited.tables.as_ref().ok_or_else(|| Error::no_such_run(run))?;
        let rows = spi.once(&statements::run(tables), &[Arg::owned(run)]);
        if rows.count() == 0 {
            return Err(Error::no_such_run(run));
        }
        let text = |column| rows.required_text(0, column);
        let number = |column| rows.required::<i64>(0, column);
        let found = kept::list(tables, &text(c"found")?)?;
        let facts = [
            ("Run", number(c"run_id")?.to_string()),
            ("Began", text(c"started_at")?),
            ("Ended", text(c"finished_at")?),
            ("Movements read", number(c"checked_movements")?.to_string()),
            ("Items checked", number(c"checked_items")?.to_string()),
            ("Whole ledger", if rows.required(0, c"is_full")? { "yes" } else { "what was new" }.to_owned()),
            ("Sealed", text(c"seal")?),
        ];
        let discrepancies = number(c"discrepancies")?;
        let until = rows.arg(0, c"ended");
        let charts = of_items(spi, stock, &audited.ledger, &found, until)?;
        let days = by_day(spi, &audited.ledger, until)?;
        let summary = Summary { table: &stock.names.relation, facts: &facts, discrepancies };
        Ok(document(&summary, &found, &charts, &days).into_string())
    })
}

struct Summary<'a> {
    table: &'a str,
    facts: &'a [(&'static str, String)],
    discrepancies: i64,
}

struct Chart {
    item: String,
    /// SVG, whose backend has escaped its texts.
    svg: String,
}

/// The items of what was found, each once.
fn items(stock: &Attachment, found: &[Value]) -> Result<Vec<ItemId>> {
    let mut items = Vec::new();
    for value in found.iter().filter_map(|found| found.get("inventory_id")).filter(|id| !id.is_null()) {
        let key = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let item = stock.item("inventory_id", &key)?;
        if !items.contains(&item) {
            items.push(item);
        }
        if items.len() == MOST_CHARTS {
            break;
        }
    }
    Ok(items)
}

/// A chart of each item that is wrong: its stock at its movements around the break.
fn of_items(spi: &Connection, stock: &Attachment, ledger: &str, found: &[Value], until: Arg<'_>) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for item in items(stock, found)? {
        let id = item.to_json();
        let of_item: Vec<_> = found.iter().filter(|found| found.get("inventory_id") == Some(&id)).collect();
        let number = |key: &str| of_item.iter().find_map(|found| found.get(key).and_then(Value::as_i64));
        let around = number("before_movement").or_else(|| number("after_movement")).unwrap_or(i64::MAX);
        let args = [Arg::item(&item), Arg::owned(around), until];
        let rows = spi.once(&statements::history(ledger, stock.names.id_type), &args);
        let mut points = Vec::new();
        for row in 0..rows.count() {
            let id: i64 = rows.required(row, c"movement_id")?;
            let is_about = |found: &&&Value| {
                let movement = found.get("detail").and_then(|detail| detail.get("movement"));
                [found.get("before_movement"), movement].into_iter().flatten().any(|about| about.as_i64() == Some(id))
            };
            let is_break: bool = rows.required(row, c"is_break")?;
            let quantities = (rows.get::<f64>(row, c"old_quantity"), rows.get::<f64>(row, c"new_quantity"));
            let (Some(old_quantity), Some(new_quantity)) = quantities else { continue };
            points.push(charts::Sample {
                label: rows.required_text(row, c"occurred_at")?,
                old_quantity,
                new_quantity,
                is_break: is_break || of_item.iter().any(|found| is_about(&found)),
            });
        }
        // What there is after the last movement is something else where a difference is not before another one.
        let after_all = of_item.iter().filter(|found| found.get("before_movement").is_none_or(Value::is_null));
        let differences: Vec<f64> = after_all.filter_map(|found| found.get("difference")?.as_f64()).collect();
        let last = points.last().map_or(0.0, |point| point.new_quantity);
        let actual = (!differences.is_empty()).then(|| last + differences.iter().sum::<f64>());
        let actual = actual.filter(|actual| actual.abs() < MOST_DRAWN);
        charts.push(Chart { item: item.to_string(), svg: charts::stock(&points, actual)? });
    }
    Ok(charts)
}

/// How many movements of each kind there were on each day.
struct Days {
    kinds: Vec<String>,
    days: Vec<(String, Vec<i64>)>,
}

fn by_day(spi: &Connection, ledger: &str, until: Arg<'_>) -> Result<Days> {
    let rows = spi.once(&statements::by_day(ledger), &[until]);
    let mut found = Days { kinds: Vec::new(), days: Vec::new() };
    for row in 0..rows.count() {
        let (day, kind) = (rows.required_text(row, c"day")?, rows.required_text(row, c"kind")?);
        let count: i64 = rows.required(row, c"movements")?;
        let place = found.kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
            found.kinds.push(kind);
            found.kinds.len() - 1
        });
        if found.days.last().is_none_or(|(last, _)| *last != day) {
            found.days.push((day, Vec::new()));
        }
        if let Some((_, counts)) = found.days.last_mut() {
            counts.resize(counts.len().max(place + 1), 0);
            counts[place] = count;
        }
    }
    Ok(found)
}

fn document(summary: &Summary<'_>, found: &[Value], charts: &[Chart], days: &Days) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Audit of " (summary.table) }
                // The browser would ask for one.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Audit of " (summary.table) }
                @if summary.discrepancies == 0 {
                    p.ok { strong { "The stock is what the ledger says." } }
                } @else {
                    p.bad {
                        strong {
                            @if summary.discrepancies == 1 { "1 discrepancy was found." }
                            @else { (summary.discrepancies) " discrepancies were found." }
                        }
                    }
                }
                table { @for (name, value) in summary.facts { tr { th { (name) } td { (value) } } } }
                @if !found.is_empty() { (discrepancies(found)) }
                @for chart in charts {
                    h2 { "Stock of " (chart.item) }
                    figure role="img" aria-label={ "Stock of " (chart.item) " at its movements" } {
                        (PreEscaped(&chart.svg))
                    }
                }
                h2 { "Movements" }
                (movements(days))
            }
        }
    }
}

fn discrepancies(found: &[Value]) -> Markup {
    let text = |value: &Value, key: &str| match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let detail = |value: &Value, key: &str| value.get("detail").map(|detail| text(detail, key)).unwrap_or_default();
    html! {
        h2 { "What is wrong" }
        table {
            tr {
                th { "kind" } th { "item" } th.n { "ledger says" } th.n { "there is" } th.n { "difference" }
                th.n { "after movement" } th.n { "before movement" } th { "reference" } th { "actor" } th { "notes" }
            }
            @for one in found.iter().take(MOST_ROWS) {
                tr {
                    td { (text(one, "kind")) }
                    td {
                        (text(one, "inventory_id"))
                        @if !text(one, "stripe").is_empty() { ", stripe " (text(one, "stripe")) }
                    }
                    td.n { (text(one, "expected")) } td.n { (text(one, "actual")) } td.n { (text(one, "difference")) }
                    td.n { (text(one, "after_movement")) } td.n { (text(one, "before_movement")) }
                    td { (detail(one, "reference")) } td { (detail(one, "actor")) }
                    td { (notes(one)) }
                }
            }
        }
        @if found.len() > MOST_ROWS { p { "The first " (MOST_ROWS) " are shown." } }
    }
}

/// What a discrepancy of a seal, or of a sealed movement, says besides.
fn notes(found: &Value) -> String {
    let Some(detail) = found.get("detail") else { return String::new() };
    let seal = detail.get("seal").map(|seal| format!("seal {seal}: "));
    let problem = detail.get("problem").and_then(Value::as_str).unwrap_or_default();
    let movement = detail.get("movement").map(|movement| format!("movement {movement}"));
    format!("{}{problem}{}", seal.unwrap_or_default(), movement.unwrap_or_default())
}

fn movements(Days { kinds, days }: &Days) -> Markup {
    html! {
        table {
            tr { th { "day" } @for kind in kinds { th.n { (kind) } } }
            @for (day, counts) in days {
                tr {
                    td { (day) }
                    @for place in 0..kinds.len() { td.n { (counts.get(place).copied().unwrap_or(0)) } }
                }
            }
        }
    }
}

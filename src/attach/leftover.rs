//! Stripes that no attachment manages: found at attach, or at the detach of a broken attachment.
//!
//! The row of a striped item shows a total that may lag behind its stripes. Beside them stands the total that was last written to the
//! row: where the row still shows it, nothing else has written the row, and the stripes say what there is. Where the row shows their
//! sum, both agree. Anything else is a contradiction that only a person can decide; nothing is changed then.

use crate::attach::companions::Companion;
use crate::core::error::{Fault, Outcome};
use crate::ledger::attribution;
use crate::pg::role::act_as_unfiltered;
use crate::pg::spi::{Arg, Connection, Rows};
use crate::table::attachment::pinned_path;
use crate::table::catalog::{ColumnDescription, Description, Kind};
use pgrx::{Uuid, pg_sys};
use serde_json::json;

/// What became of the stripes that were left.
#[derive(Default)]
pub struct Merged {
    /// Items whose stripes went back into their rows.
    pub items: Vec<Uuid>,
    /// Items that keep their stripes, because their row went with a partition, which may come back.
    pub away: Vec<Uuid>,
}

/// Writes the sum of the stripes into the row of each item, and deletes the stripes. No trigger of ours may stand on the stock table.
pub fn merge(spi: &Connection, table: &Description, stripes: &Companion, totals: &Companion) -> Outcome<Merged> {
    let path = pinned_path(table);
    let _acting = act_as_unfiltered(table.owner, &path);
    if spi.once(&format!("SELECT FROM {} LIMIT 1", stripes.name), &[], &[]).count() == 0 {
        return Ok(Merged::default());
    }
    let (Some(id), Some(quantity)) = (&table.id, &table.quantity) else {
        return Err(Fault::internal("the columns of the stock table are unknown"));
    };
    let found = spi.once(&select(table, [id, quantity], stripes, totals), &[], &[]);
    let (mut ids, mut sums, mut away) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..found.count() {
        let item: Uuid = found.get(row, 1).ok_or_else(|| Fault::internal("a stripe has no item"))?;
        if found.text(row, 3).is_none() {
            // The row was deleted while nothing was attached: the item is gone, and its stripes with it. A partition may come back.
            if table.kind == Kind::Partitioned {
                away.push(item);
            }
            continue;
        }
        if found.get(row, 5) != Some(true) {
            return Err(differs(table, &found, row, &item));
        }
        sums.push(found.text(row, 2).ok_or_else(|| Fault::internal("the stripes of an item have no sum"))?);
        ids.push(item);
    }
    write(spi, table, [id, quantity], (&ids, &sums))?;
    for companion in [stripes, totals] {
        let sql = format!("DELETE FROM {} AS s WHERE s.inventory_id OPERATOR(pg_catalog.<>) ALL ($1)", companion.name);
        let args = [Arg::owned(away.clone())];
        attribution::writing(companion.oid, || spi.once(&sql, &[pg_sys::UUIDARRAYOID], &args).count());
    }
    Ok(Merged { items: ids, away })
}

/// Items, the sum of their stripes, what the row shows, what was last written there, whether the sum may be written to the row.
fn select(
    table: &Description,
    [id, quantity]: [&ColumnDescription; 2],
    stripes: &Companion,
    totals: &Companion,
) -> String {
    let (stock, id, quantity) = (&table.name, &id.quoted, &quantity.quoted);
    let (stripes, totals) = (&stripes.name, &totals.name);
    format!(
        "SELECT left_over.id, left_over.sum::pg_catalog.text, item.quantity::pg_catalog.text, last.quantity::pg_catalog.text,
                COALESCE(item.quantity OPERATOR(pg_catalog.=) left_over.sum, false)
                OR COALESCE(item.quantity OPERATOR(pg_catalog.=) last.quantity, false)
           FROM (SELECT s.inventory_id AS id, pg_catalog.sum(s.quantity) AS sum FROM {stripes} AS s
                  GROUP BY s.inventory_id) AS left_over
           LEFT JOIN {totals} AS last ON last.inventory_id OPERATOR(pg_catalog.=) left_over.id
           LEFT JOIN (SELECT stock.{id} AS id, stock.{quantity}::pg_catalog.numeric AS quantity FROM {stock} AS stock)
                  AS item ON item.id OPERATOR(pg_catalog.=) left_over.id
          ORDER BY left_over.id"
    )
}

fn differs(table: &Description, found: &Rows<'_>, row: usize, item: &Uuid) -> Box<Fault> {
    let figure = |column| found.text(row, column).map(|text| crate::core::json::exact(&text));
    Fault::stripes_differ(
        &item.to_string(),
        json!({"table": table.name, "row": figure(3), "last_total": figure(4), "stripes": figure(2)}),
    )
}

fn write(
    spi: &Connection,
    table: &Description,
    [id, quantity]: [&ColumnDescription; 2],
    (ids, sums): (&[Uuid], &[String]),
) -> Outcome<()> {
    let (stock, id, column) = (&table.name, &id.quoted, &quantity.quoted);
    let sql = format!(
        "UPDATE {stock} AS stock SET {column} = given.sum
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, sum)
          WHERE stock.{id} OPERATOR(pg_catalog.=) given.id
         RETURNING stock.{id}, stock.{column}::pg_catalog.text, given.sum::pg_catalog.text,
                   stock.{column} OPERATOR(pg_catalog.=) given.sum"
    );
    let args = [Arg::owned(ids.to_vec()), Arg::owned(sums.to_vec())];
    let written = spi.once(&sql, &[pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID], &args);
    for row in 0..written.count() {
        if written.get(row, 4) != Some(true) {
            let item: Uuid = written.get(row, 1).ok_or_else(|| Fault::internal("an item has no id"))?;
            let figure = |column| written.text(row, column).map(|text| crate::core::json::exact(&text));
            let facts = json!({"table": table.name, "row": figure(2), "last_total": null, "stripes": figure(3)});
            return Err(Fault::stripes_differ(&item.to_string(), facts));
        }
    }
    if written.count() == ids.len() { Ok(()) } else { Err(Fault::internal("a row was not written")) }
}

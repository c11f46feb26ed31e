//! Brings the ledger to what the stock table says, when a table is attached.
//!
//! An opening movement for every item new to it, an external one where stock changed while nothing recorded it, a closing one for
//! items that are gone; a transfer where stripes that were left went back into the row.

use crate::attach::companions::Companion;
use crate::attach::leftover::Merged;
use crate::core::error::Outcome;
use crate::ledger::context::{self, CallContext};
use crate::ledger::recorder::writing;
use crate::pg::role::{act_as_unfiltered, current_role};
use crate::pg::spi::Arg;
use crate::table::attachment::pinned_path;
use crate::table::catalog::Description;
use pgrx::pg_sys;

/// Adds the movements that are missing, after the stripes that were left have been merged.
pub fn record_stock(table: &Description, movements: &Companion, Merged { items, away }: Merged) -> Outcome<()> {
    let CallContext { reference, .. } = CallContext::of_session()?;
    let actor = context::actor(current_role())?;
    let path = pinned_path(table);
    for sql in statements(table, &movements.name) {
        let args = [
            Arg::text(reference.as_deref()),
            Arg::text(actor.as_str()),
            Arg::owned(items.clone()),
            Arg::owned(away.clone()),
        ];
        writing(movements.oid, act_as_unfiltered(table.owner, &path), |spi| {
            let ids = pg_sys::UUIDARRAYOID;
            spi.once(&sql, &[pg_sys::TEXTOID, pg_sys::TEXTOID, ids, ids], &args);
        });
    }
    Ok(())
}

fn statements(table: &Description, ledger: &str) -> Vec<String> {
    let (Some(id), Some(quantity)) = (&table.id, &table.quantity) else { return Vec::new() };
    let (stock, id, quantity) = (&table.name, &id.quoted, &quantity.quoted);
    let last = format!(
        "SELECT last.new_quantity, last.kind FROM {ledger} AS last
          WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id AND last.stripe IS NULL
          ORDER BY last.movement_id DESC LIMIT 1"
    );
    // Movements that were recorded in another order than they were made end elsewhere, and yet add up: nothing is missing then.
    let insert = format!("INSERT INTO {ledger} (inventory_id, kind, old_quantity, new_quantity, reference, actor)");
    let kind = "CASE WHEN item.id OPERATOR(pg_catalog.=) ANY ($3) THEN 'transfer' ELSE 'external' END";
    let present = format!(
        "{insert}
         SELECT item.id,
                CASE WHEN COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing' THEN 'opening' ELSE {kind} END,
                COALESCE(last.new_quantity, 0), item.quantity, $1, $2
           FROM (SELECT stock.{id} AS id, stock.{quantity}::pg_catalog.numeric AS quantity FROM {stock} AS stock) AS item
           LEFT JOIN LATERAL ({last}) AS last ON true
           LEFT JOIN LATERAL (SELECT pg_catalog.sum(known.delta) AS quantity FROM {ledger} AS known
                               WHERE known.inventory_id OPERATOR(pg_catalog.=) item.id AND known.stripe IS NULL
                                 AND last.new_quantity OPERATOR(pg_catalog.<>) item.quantity) AS moved ON true
          WHERE $4 IS NOT NULL AND (COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing'
             OR last.new_quantity OPERATOR(pg_catalog.<>) item.quantity
                AND moved.quantity IS DISTINCT FROM item.quantity)
          ORDER BY item.id"
    );
    let gone = format!(
        "{insert}
         SELECT item.id, 'closing', last.new_quantity, 0, $1, $2
           FROM (SELECT DISTINCT known.inventory_id AS id FROM {ledger} AS known) AS item
          CROSS JOIN LATERAL ({last}) AS last
          WHERE last.kind OPERATOR(pg_catalog.<>) 'closing' AND $3 IS NOT NULL
            AND item.id OPERATOR(pg_catalog.<>) ALL ($4)
            AND NOT EXISTS (SELECT FROM {stock} AS stock WHERE stock.{id} OPERATOR(pg_catalog.=) item.id)
          ORDER BY item.id"
    );
    // Stripes that were left hold nothing any more; the item's own movement, below, says what there is.
    let stripes = format!(
        "INSERT INTO {ledger} (inventory_id, stripe, kind, old_quantity, new_quantity, reference, actor)
         SELECT item.id, item.stripe, {kind}, last.new_quantity, 0, $1, $2
           FROM (SELECT DISTINCT known.inventory_id AS id, known.stripe FROM {ledger} AS known
                  WHERE known.stripe IS NOT NULL) AS item
          CROSS JOIN LATERAL (SELECT last.new_quantity FROM {ledger} AS last
                               WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id
                                 AND last.stripe OPERATOR(pg_catalog.=) item.stripe
                               ORDER BY last.movement_id DESC LIMIT 1) AS last
          WHERE last.new_quantity OPERATOR(pg_catalog.<>) 0 AND item.id OPERATOR(pg_catalog.<>) ALL ($4)
          ORDER BY item.id, item.stripe"
    );
    vec![stripes, present, gone]
}

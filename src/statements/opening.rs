//! The statements that add missing movements when a table is attached.
//!
//! Each has four parameters: reference, actor, the items whose stripes were merged into their rows, and the items whose
//! row is in a detached partition.

use crate::core::item_id::IdType;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

fn parameters(id_type: IdType) -> [SqlType; 4] {
    [SqlType::Text, SqlType::Text, SqlType::of_ids(id_type), SqlType::of_ids(id_type)]
}

const KIND: &str = "\n        CASE WHEN item.id OPERATOR(pg_catalog.=) ANY ($3) THEN 'transfer' ELSE 'external' END";

fn last_movement(ledger: &str) -> String {
    format!(
        "SELECT last.new_quantity, last.kind FROM {ledger} AS last
          WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id AND last.stripe IS NULL
          ORDER BY last.movement_id DESC LIMIT 1"
    )
}

/// Stripes that were left hold nothing any more; the movement of the item itself, which follows, has the quantity.
pub fn of_stripes(ledger: &str, id_type: IdType) -> Sql {
    let text = format!(
        "INSERT INTO {ledger} (inventory_id, stripe, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id, item.stripe,{KIND},
        last.new_quantity, 0, $1, $2
   FROM (SELECT DISTINCT known.inventory_id AS id, known.stripe FROM {ledger} AS known
          WHERE known.stripe IS NOT NULL) AS item
  CROSS JOIN LATERAL (SELECT last.new_quantity FROM {ledger} AS last
                       WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id
                         AND last.stripe OPERATOR(pg_catalog.=) item.stripe
                       ORDER BY last.movement_id DESC LIMIT 1) AS last
  WHERE last.new_quantity OPERATOR(pg_catalog.<>) 0 AND item.id OPERATOR(pg_catalog.<>) ALL ($4)
  ORDER BY item.id, item.stripe"
    );
    Sql::new(text, &parameters(id_type))
}

/// An opening movement for every new item, and an external one where the stock has changed.
///
/// Movements that were recorded in another order than they were made end elsewhere, and yet add up: none is missing
/// then.
pub fn of_items(table: &str, id: &str, quantity: &str, (ledger, id_type): (&str, IdType)) -> Sql {
    let last = last_movement(ledger);
    let text = format!(
        "INSERT INTO {ledger} (inventory_id, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id,
        CASE WHEN COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing' THEN 'opening' ELSE{KIND} END,
        COALESCE(last.new_quantity, 0), item.quantity, $1, $2
   FROM (SELECT stock.{id} AS id, stock.{quantity}::pg_catalog.numeric AS quantity FROM {table} AS stock) AS item
   LEFT JOIN LATERAL ({last}) AS last ON true
   LEFT JOIN LATERAL (SELECT pg_catalog.sum(known.delta) AS quantity FROM {ledger} AS known
                       WHERE known.inventory_id OPERATOR(pg_catalog.=) item.id AND known.stripe IS NULL
                         AND last.new_quantity OPERATOR(pg_catalog.<>) item.quantity) AS moved ON true
  WHERE $4 IS NOT NULL AND (COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing'
     OR last.new_quantity OPERATOR(pg_catalog.<>) item.quantity
        AND moved.quantity IS DISTINCT FROM item.quantity)
  ORDER BY item.id"
    );
    Sql::new(text, &parameters(id_type))
}

/// A closing movement for every item whose row is gone.
pub fn of_deleted_items(table: &str, id: &str, (ledger, id_type): (&str, IdType)) -> Sql {
    let last = last_movement(ledger);
    let text = format!(
        "INSERT INTO {ledger} (inventory_id, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id, 'closing', last.new_quantity, 0, $1, $2
   FROM (SELECT DISTINCT known.inventory_id AS id FROM {ledger} AS known) AS item
  CROSS JOIN LATERAL ({last}) AS last
  WHERE last.kind OPERATOR(pg_catalog.<>) 'closing' AND $3 IS NOT NULL
    AND item.id OPERATOR(pg_catalog.<>) ALL ($4)
    AND NOT EXISTS (SELECT FROM {table} AS stock WHERE stock.{id} OPERATOR(pg_catalog.=) item.id)
  ORDER BY item.id"
    );
    Sql::new(text, &parameters(id_type))
}

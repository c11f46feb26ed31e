//! The statements on stripes that no attachment manages.

use crate::core::item_id::IdType;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// The table and its columns, and the stripes and totals that were left. Names are quoted.
#[derive(Clone, Copy)]
pub struct Leftover<'a> {
    /// The stock table.
    pub table: &'a str,
    /// Its id column.
    pub id: &'a str,
    /// The type of ids.
    pub id_type: IdType,
    /// Its quantity column.
    pub quantity: &'a str,
    /// The stripes.
    pub stripes: &'a str,
    /// The totals.
    pub totals: &'a str,
}

/// The items that have stripes: the sum of the stripes, the quantity in the row, the total that was written there last,
/// and whether the sum may be written to the row.
pub fn items(Leftover { table, id, quantity, stripes, totals, .. }: Leftover<'_>) -> Sql {
    let text = format!(
        "SELECT left_over.id, left_over.sum::pg_catalog.text AS sum, item.quantity::pg_catalog.text AS in_row,
       last.quantity::pg_catalog.text AS last_total,
       COALESCE(item.quantity OPERATOR(pg_catalog.=) left_over.sum, false)
       OR COALESCE(item.quantity OPERATOR(pg_catalog.=) last.quantity, false) AS agrees
  FROM (SELECT s.inventory_id AS id, pg_catalog.sum(s.quantity) AS sum FROM {stripes} AS s
         GROUP BY s.inventory_id) AS left_over
  LEFT JOIN {totals} AS last ON last.inventory_id OPERATOR(pg_catalog.=) left_over.id
  LEFT JOIN (SELECT stock.{id} AS id, stock.{quantity}::pg_catalog.numeric AS quantity FROM {table} AS stock)
         AS item ON item.id OPERATOR(pg_catalog.=) left_over.id
 ORDER BY left_over.id"
    );
    Sql::new(text, &[])
}

/// Writes sums into the rows.
pub fn write(Leftover { table, id, id_type, quantity, .. }: Leftover<'_>) -> Sql {
    let text = format!(
        "UPDATE {table} AS stock SET {quantity} = given.sum
   FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, sum)
  WHERE stock.{id} OPERATOR(pg_catalog.=) given.id
 RETURNING stock.{id} AS id, stock.{quantity}::pg_catalog.text AS in_row, given.sum::pg_catalog.text AS sum,
           stock.{quantity} OPERATOR(pg_catalog.=) given.sum AS agrees"
    );
    Sql::new(text, &[SqlType::of_ids(id_type), SqlType::TextArray])
}

/// Deletes the stripes or totals of all items but some.
pub fn delete_except(companion: &str, id_type: IdType) -> Sql {
    let text = format!("DELETE FROM {companion} AS s WHERE s.inventory_id OPERATOR(pg_catalog.<>) ALL ($1)");
    Sql::new(text, &[SqlType::of_ids(id_type)])
}

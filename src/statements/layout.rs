//! The statements that divide an item into stripes, and merge them.

use super::Names;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// Deletes the stripes of an item and returns the quantity of each.
pub fn delete_stripes(names: &Names) -> Sql {
    let text = format!(
        "DELETE FROM {} AS s WHERE s.inventory_id OPERATOR(pg_catalog.=) $1 RETURNING s.quantity",
        names.stripes
    );
    Sql::new(text, &[names.id_parameter()])
}

/// Deletes the total of an item.
pub fn delete_total(names: &Names) -> Sql {
    let text = format!("DELETE FROM {} AS s WHERE s.inventory_id OPERATOR(pg_catalog.=) $1", names.totals);
    Sql::new(text, &[names.id_parameter()])
}

/// Locks the row of an item where no other transaction has it.
pub fn lock_free_row(names: &Names) -> Sql {
    let (source, item) = (names.source(), names.is_item());
    Sql::new(format!("SELECT\n  FROM {source}\n WHERE {item}\n   FOR UPDATE SKIP LOCKED"), &[names.id_parameter()])
}

/// Locks the stripes of an item that no other transaction has.
pub fn lock_free_stripes(names: &Names) -> Sql {
    lock_free(&names.stripes, names)
}

/// Locks the total of an item where no other transaction has it.
pub fn lock_free_total(names: &Names) -> Sql {
    lock_free(&names.totals, names)
}

fn lock_free(table: &str, names: &Names) -> Sql {
    let text = format!(
        "SELECT\n  FROM {table} AS s\n WHERE s.inventory_id OPERATOR(pg_catalog.=) $1\n   FOR UPDATE SKIP LOCKED"
    );
    Sql::new(text, &[names.id_parameter()])
}

/// Writes the total of an item into its row.
pub fn show_total(names: &Names) -> Sql {
    let (source, quantity, amount, item) = (names.source(), &names.quantity, names.amount(), names.is_item());
    let text =
        format!("UPDATE {source} SET {quantity} = $2::{amount}\n WHERE {item}\nRETURNING stock.{quantity} AS quantity");
    Sql::new(text, &[names.id_parameter(), SqlType::Text])
}

/// Inserts the stripes of an item.
pub fn insert_stripes(names: &Names) -> Sql {
    let text = format!(
        "INSERT INTO {} (inventory_id, stripe, quantity)
 SELECT $1, share.stripe, share.quantity
   FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3::pg_catalog.numeric[])) AS share (stripe, quantity)",
        names.stripes
    );
    Sql::new(text, &[names.id_parameter(), SqlType::Int2Array, SqlType::TextArray])
}

/// Inserts the total of an item.
pub fn insert_total(names: &Names) -> Sql {
    let text = format!("INSERT INTO {} (inventory_id, quantity) VALUES ($1, $2::pg_catalog.numeric)", names.totals);
    Sql::new(text, &[names.id_parameter(), SqlType::Text])
}

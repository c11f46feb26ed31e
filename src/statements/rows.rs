//! The statements on many rows of the stock table.

use super::{LockClause, Names};
use crate::core::error::Result;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// The rows are locked as the sort returns them, and an id does not change under a lock.
pub fn lock_items(names: &Names, lock: LockClause) -> Result<Sql> {
    let (source, id, quantity) = (names.source(), &names.id, &names.quantity);
    let row = if names.by_ctid { ", stock.ctid AS row" } else { "" };
    let text = format!(
        "SELECT stock.{id} AS id, stock.{quantity} AS quantity{row}
  FROM {source}
 WHERE stock.{id} OPERATOR(pg_catalog.=) ANY ($1)
 ORDER BY {}{}",
        names.id_order(),
        lock.clause()
    );
    Ok(Sql::new(text, &[names.ids_parameter()]))
}

pub fn change_items(names: &Names) -> Result<Sql> {
    let (source, id, quantity, amount) = (names.source(), &names.id, &names.quantity, names.amount());
    let text = format!(
        "UPDATE {source} SET {quantity} = stock.{quantity} OPERATOR(pg_catalog.+) change.delta
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::{amount}[])) AS change (id, delta)
 WHERE stock.{id} OPERATOR(pg_catalog.=) change.id
RETURNING stock.{id} AS id, stock.{quantity} AS quantity"
    );
    Ok(Sql::new(text, &[names.ids_parameter(), SqlType::TextArray]))
}

pub fn permitted_items(names: &Names, lock: LockClause) -> Result<Sql> {
    let (source, id) = (names.source(), &names.id);
    let text = format!(
        "SELECT stock.{id} AS id
  FROM {source}
 WHERE stock.{id} OPERATOR(pg_catalog.=) ANY ($1){}",
        lock.clause()
    );
    Ok(Sql::new(text, &[names.ids_parameter()]))
}

/// PostgreSQL computes the difference, which may be no quantity.
pub fn repair_item(names: &Names) -> Result<Sql> {
    let (source, quantity, item) = (names.source(), &names.quantity, names.is_item());
    let text = format!(
        "UPDATE {source} SET {quantity} = $2::pg_catalog.numeric
 WHERE {item}
RETURNING stock.{quantity} AS quantity,
          (stock.{quantity} OPERATOR(pg_catalog.-) $3::pg_catalog.numeric)::pg_catalog.text AS adjusted"
    );
    Ok(Sql::new(text, &[names.id_parameter(), SqlType::Text, SqlType::Text]))
}

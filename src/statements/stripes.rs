//! The statements on the stripes of an item.

use super::{LockClause, Names};
use crate::core::error::Result;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

pub fn lock_stripe(names: &Names) -> Result<Sql> {
    let text = format!(
        "SELECT s.quantity, s.ctid AS row
  FROM {} AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1 AND s.stripe OPERATOR(pg_catalog.=) $2
   AND s.quantity OPERATOR(pg_catalog.>=) $3::pg_catalog.numeric{}",
        names.stripes,
        LockClause::Update.clause()
    );
    Ok(Sql::new(text, &[names.id_parameter(), SqlType::Int2, SqlType::Text]))
}

pub fn read_all(names: &Names, lock: LockClause) -> Result<Sql> {
    let text = format!(
        "SELECT s.stripe, s.quantity
  FROM {} AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
 ORDER BY s.stripe{}",
        names.stripes,
        lock.clause()
    );
    Ok(Sql::new(text, &[names.id_parameter()]))
}

/// Locks rows of some stripes, which other sessions do not write: their advisory locks are held.
pub fn lock_some(names: &Names) -> Result<Sql> {
    let text = format!(
        "SELECT s.inventory_id AS id, s.stripe, s.quantity, s.ctid AS row
  FROM {} AS s
  JOIN ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS held (id, stripe)
    ON s.inventory_id OPERATOR(pg_catalog.=) held.id AND s.stripe OPERATOR(pg_catalog.=) held.stripe{} OF s",
        names.stripes,
        LockClause::Update.clause()
    );
    Ok(Sql::new(text, &[names.ids_parameter(), SqlType::Int2Array]))
}

/// One row, NULL where the item has no stripes.
pub fn sum_of_item(names: &Names) -> Result<Sql> {
    let text = format!(
        "SELECT pg_catalog.sum(s.quantity) AS quantity
  FROM {} AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1",
        names.stripes
    );
    Ok(Sql::new(text, &[names.id_parameter()]))
}

pub fn change_stripe(names: &Names) -> Result<Sql> {
    let text = format!(
        "UPDATE {} AS s SET quantity = s.quantity OPERATOR(pg_catalog.+) $2::pg_catalog.numeric
 WHERE s.ctid OPERATOR(pg_catalog.=) $1
RETURNING s.quantity",
        names.stripes
    );
    Ok(Sql::new(text, &[SqlType::Tid, SqlType::Text]))
}

pub fn change_stripes(names: &Names) -> Result<Sql> {
    let text = format!(
        "UPDATE {} AS s SET quantity = s.quantity OPERATOR(pg_catalog.+) step.delta
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3::pg_catalog.numeric[]))
       AS step (id, stripe, delta)
 WHERE s.inventory_id OPERATOR(pg_catalog.=) step.id AND s.stripe OPERATOR(pg_catalog.=) step.stripe
RETURNING s.inventory_id AS id, s.stripe, s.quantity",
        names.stripes
    );
    Ok(Sql::new(text, &[names.ids_parameter(), SqlType::Int2Array, SqlType::TextArray]))
}

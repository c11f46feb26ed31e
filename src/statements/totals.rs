//! The statements of the totals worker.

use super::{LockClause, Names};
use crate::core::error::Result;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

const GIVEN: &str =
    "ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)";

fn parameters(names: &Names) -> [SqlType; 2] {
    [names.ids_parameter(), SqlType::TextArray]
}

pub fn sums(names: &Names) -> Result<Sql> {
    let text = format!(
        "SELECT s.inventory_id AS id, pg_catalog.sum(s.quantity)::pg_catalog.text AS total
  FROM {} AS s
 GROUP BY s.inventory_id",
        names.stripes
    );
    Ok(Sql::new(text, &[]))
}

/// A row that another session holds is skipped until the next look.
pub fn lagging(names: &Names, lock: LockClause) -> Result<Sql> {
    let (source, id, quantity) = (names.source(), &names.id, &names.quantity);
    let row = if names.by_ctid && lock != LockClause::Unlocked { ", stock.ctid AS row" } else { "" };
    let lock = match lock {
        LockClause::Unlocked => String::new(),
        lock => format!("\n ORDER BY {}{} OF stock SKIP LOCKED", names.id_order(), lock.clause()),
    };
    let text = format!(
        "SELECT stock.{id} AS id, given.total::pg_catalog.text AS total{row}
  FROM {GIVEN}
  JOIN {source} ON stock.{id} OPERATOR(pg_catalog.=) given.id
 WHERE stock.{quantity} OPERATOR(pg_catalog.<>) given.total{lock}"
    );
    Ok(Sql::new(text, &parameters(names)))
}

pub fn write(names: &Names) -> Result<Sql> {
    let (source, id, quantity) = (names.source(), &names.id, &names.quantity);
    let text = format!(
        "UPDATE {source} SET {quantity} = given.total
  FROM {GIVEN}
 WHERE stock.{id} OPERATOR(pg_catalog.=) given.id
RETURNING stock.{id} AS id, stock.{quantity}::pg_catalog.text AS total"
    );
    Ok(Sql::new(text, &parameters(names)))
}

/// The total that the row shows now: by it a later attach recognizes a row that no other statement has written.
pub fn keep(names: &Names) -> Result<Sql> {
    let text = format!(
        "INSERT INTO {} AS t (inventory_id, quantity)
SELECT given.id, given.total
  FROM {GIVEN}
    ON CONFLICT (inventory_id) DO UPDATE SET quantity = EXCLUDED.quantity",
        names.totals
    );
    Ok(Sql::new(text, &parameters(names)))
}

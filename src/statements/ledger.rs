//! The statements that add movements to the ledger.

use super::Names;
use crate::core::error::Result;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

const COLUMNS: &str = "inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor";

pub fn record(names: &Names, quantity: SqlType) -> Result<Sql> {
    let text = format!("INSERT INTO {}\n       ({COLUMNS})\nVALUES ($1, $2, $3, $4, $5, $6, $7, $8)", names.ledger()?);
    let word = SqlType::Text;
    Ok(Sql::new(text, &[names.id_parameter(), SqlType::Int2, word, quantity, quantity, word, word, word]))
}

pub fn record_many(names: &Names) -> Result<Sql> {
    let text = format!(
        "INSERT INTO {}
       ({COLUMNS})
SELECT change.id, change.stripe, change.kind, change.old_quantity, change.new_quantity, $6, $7, $8
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3),
                  pg_catalog.unnest($4::pg_catalog.numeric[]), pg_catalog.unnest($5::pg_catalog.numeric[]))
       AS change (id, stripe, kind, old_quantity, new_quantity)",
        names.ledger()?
    );
    let (words, word) = (SqlType::TextArray, SqlType::Text);
    Ok(Sql::new(text, &[names.ids_parameter(), SqlType::Int2Array, words, words, words, word, word, word]))
}

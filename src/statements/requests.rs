//! The statements on idempotency keys.

use super::Names;
use crate::core::error::Result;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

pub(super) fn claim(names: &Names) -> Result<Sql> {
    let text = format!(
        "INSERT INTO {} (idempotency_key, function_name, arguments_hash)
 VALUES ($1, $2, pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')))
 ON CONFLICT (idempotency_key) DO NOTHING",
        names.requests
    );
    Ok(Sql::new(text, &[SqlType::Text; 3]))
}

pub(super) fn read(names: &Names) -> Result<Sql> {
    let text = format!(
        "SELECT function_name, answer::pg_catalog.text AS answer,
       function_name OPERATOR(pg_catalog.=) $2
       AND arguments_hash OPERATOR(pg_catalog.=) pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')) AS same
  FROM {} WHERE idempotency_key OPERATOR(pg_catalog.=) $1",
        names.requests
    );
    Ok(Sql::new(text, &[SqlType::Text; 3]))
}

pub(super) fn keep_result(names: &Names) -> Result<Sql> {
    let text = format!(
        "UPDATE {} SET answer = $2::pg_catalog.json WHERE idempotency_key OPERATOR(pg_catalog.=) $1",
        names.requests
    );
    Ok(Sql::new(text, &[SqlType::Text; 2]))
}

/// Whether an interval is zero or more.
pub fn is_not_negative() -> Sql {
    let text = "SELECT $1 OPERATOR(pg_catalog.>=) '0'::pg_catalog.interval AS valid";
    Sql::new(text, &[SqlType::Interval])
}

/// Deletes keys that are older than an interval.
pub fn purge(names: &Names) -> Sql {
    let text = format!(
        "DELETE FROM {}
  WHERE created_at OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) $1)",
        names.requests
    );
    Sql::new(text, &[SqlType::Interval])
}

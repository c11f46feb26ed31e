//! The statements that find the row for which a call waits.

use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// The rows that the processes $1 wait for, or are the next to get: PostgreSQL has them lock the row's place first.
pub fn awaited_rows() -> Sql {
    let text = "SELECT l.pid, l.relation, l.page, l.tuple
  FROM pg_catalog.pg_locks AS l
 WHERE l.locktype OPERATOR(pg_catalog.=) 'tuple' AND l.pid OPERATOR(pg_catalog.=) ANY ($1)";
    Sql::new(text, &[SqlType::Int4Array])
}

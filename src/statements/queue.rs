//! The statements that find the row for which a call waits.

use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// The rows that the processes $1 wait for, or are the next to get: PostgreSQL has them lock the row's place first.
pub fn awaited_rows() -> Sql {
    let text = "SELECT l.pid, l.relation, pg_catalog.format('(%s,%s)', l.page, l.tuple) AS place
  FROM pg_catalog.pg_locks AS l
 WHERE l.locktype OPERATOR(pg_catalog.=) 'tuple' AND l.pid OPERATOR(pg_catalog.=) ANY ($1)";
    Sql::new(text, &[SqlType::Int4Array])
}

/// The item at the place $2 of the table, or of its partition, $1.
pub fn item_at(relation: &str, id: &str) -> Sql {
    let text = format!(
        "SELECT s.{id}::pg_catalog.text AS item\n  FROM {relation} AS s
 WHERE s.tableoid OPERATOR(pg_catalog.=) $1 AND s.ctid OPERATOR(pg_catalog.=) $2::pg_catalog.tid"
    );
    Sql::new(text, &[SqlType::Oid, SqlType::Text])
}

-- Written and compared by golden.rs.

-- queue::awaited_rows: $1 Int4Array
SELECT l.pid, l.relation, pg_catalog.format('(%s,%s)', l.page, l.tuple) AS place
  FROM pg_catalog.pg_locks AS l
 WHERE l.locktype OPERATOR(pg_catalog.=) 'tuple' AND l.pid OPERATOR(pg_catalog.=) ANY ($1);

-- queue::item_at: $1 Oid, $2 Text
SELECT s.id::pg_catalog.text AS item
  FROM shop.stock AS s
 WHERE s.tableoid OPERATOR(pg_catalog.=) $1 AND s.ctid OPERATOR(pg_catalog.=) $2::pg_catalog.tid;

-- Written and compared by golden.rs.

-- queue::awaited_rows: $1 Int4Array
SELECT l.pid, l.relation, l.page, l.tuple
  FROM pg_catalog.pg_locks AS l
 WHERE l.locktype OPERATOR(pg_catalog.=) 'tuple' AND l.pid OPERATOR(pg_catalog.=) ANY ($1);

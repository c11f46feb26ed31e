-- Written and compared by golden.rs.

-- requests::is_not_negative: $1 Interval
SELECT $1 OPERATOR(pg_catalog.>=) '0'::pg_catalog.interval AS valid;

-- requests::purge: $1 Interval
DELETE FROM shop.stock_request
  WHERE created_at OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) $1);

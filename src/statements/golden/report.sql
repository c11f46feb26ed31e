-- Written and compared by golden.rs.

-- report::run: $1 Int8
SELECT r.run_id, pg_catalog.to_char(r.started_at, 'YYYY-MM-DD HH24:MI:SS TZ') AS started_at,
       pg_catalog.to_char(r.finished_at, 'YYYY-MM-DD HH24:MI:SS TZ') AS finished_at,
       r.finished_at AS ended, r.checked_movements, r.checked_items, r.is_full,
       r.discrepancies, r.found::pg_catalog.text AS found,
       CASE WHEN r.seal_number IS NULL THEN 'nothing was new'
            ELSE pg_catalog.format('%s movements, seal %s, %s', r.sealed, r.seal_number,
                                   pg_catalog.encode(r.seal, 'hex')) END AS seal
  FROM ONLY shop.stock_audit AS r
 WHERE r.kind OPERATOR(pg_catalog.=) 'audit' AND ($1 IS NULL OR r.run_id OPERATOR(pg_catalog.=) $1)
 ORDER BY r.run_id DESC
 LIMIT 1;

-- report::history (ordinary, uuids, numeric): $1 Uuid, $2 Int8, $3 Timestamptz
WITH movement AS (
    SELECT m.movement_id, m.stripe, m.old_quantity, m.new_quantity, m.occurred_at,
           pg_catalog.lag(m.new_quantity, 1, '0'::pg_catalog.numeric) OVER chain AS ended
      FROM ONLY shop.stock_movement AS m
     WHERE m.inventory_id OPERATOR(pg_catalog.=) $1
       AND m.occurred_at OPERATOR(pg_catalog.<=) $3
    WINDOW chain AS (PARTITION BY m.stripe ORDER BY m.movement_id)
), total AS (
    SELECT t.movement_id, t.occurred_at, t.ended OPERATOR(pg_catalog.<>) t.old_quantity AS is_break,
           t.new_quantity OPERATOR(pg_catalog.-) t.old_quantity AS delta,
           pg_catalog.sum(t.new_quantity OPERATOR(pg_catalog.-) t.ended) OVER (ORDER BY t.movement_id) AS quantity,
           -1e15 OPERATOR(pg_catalog.<) t.new_quantity AND t.new_quantity OPERATOR(pg_catalog.<) 1e15
           AND -1e15 OPERATOR(pg_catalog.<) t.ended AND t.ended OPERATOR(pg_catalog.<) 1e15
           AND -1e15 OPERATOR(pg_catalog.<) t.old_quantity AND t.old_quantity OPERATOR(pg_catalog.<) 1e15 AS is_drawn,
           pg_catalog.row_number() OVER (ORDER BY t.movement_id) AS place
      FROM movement AS t
)
SELECT t.movement_id, t.is_break,
       CASE WHEN t.is_drawn THEN (t.quantity OPERATOR(pg_catalog.-) t.delta)::pg_catalog.float8 END AS old_quantity,
       CASE WHEN t.is_drawn THEN t.quantity::pg_catalog.float8 END AS new_quantity,
       pg_catalog.to_char(t.occurred_at, 'YYYY-MM-DD HH24:MI') AS occurred_at
  FROM total AS t
 WHERE t.place OPERATOR(pg_catalog.>) (COALESCE((
           SELECT pg_catalog.max(b.place) FROM total AS b WHERE b.movement_id OPERATOR(pg_catalog.<=) $2), 0)
       OPERATOR(pg_catalog.-) 40)
 ORDER BY t.movement_id
 LIMIT 120;

-- report::history (partitioned, text ids, integer): $1 Text, $2 Int8, $3 Timestamptz
WITH movement AS (
    SELECT m.movement_id, m.stripe, m.old_quantity, m.new_quantity, m.occurred_at,
           pg_catalog.lag(m.new_quantity, 1, '0'::pg_catalog.numeric) OVER chain AS ended
      FROM ONLY shop.stock_movement AS m
     WHERE m.inventory_id OPERATOR(pg_catalog.=) $1
       AND m.occurred_at OPERATOR(pg_catalog.<=) $3
    WINDOW chain AS (PARTITION BY m.stripe ORDER BY m.movement_id)
), total AS (
    SELECT t.movement_id, t.occurred_at, t.ended OPERATOR(pg_catalog.<>) t.old_quantity AS is_break,
           t.new_quantity OPERATOR(pg_catalog.-) t.old_quantity AS delta,
           pg_catalog.sum(t.new_quantity OPERATOR(pg_catalog.-) t.ended) OVER (ORDER BY t.movement_id) AS quantity,
           -1e15 OPERATOR(pg_catalog.<) t.new_quantity AND t.new_quantity OPERATOR(pg_catalog.<) 1e15
           AND -1e15 OPERATOR(pg_catalog.<) t.ended AND t.ended OPERATOR(pg_catalog.<) 1e15
           AND -1e15 OPERATOR(pg_catalog.<) t.old_quantity AND t.old_quantity OPERATOR(pg_catalog.<) 1e15 AS is_drawn,
           pg_catalog.row_number() OVER (ORDER BY t.movement_id) AS place
      FROM movement AS t
)
SELECT t.movement_id, t.is_break,
       CASE WHEN t.is_drawn THEN (t.quantity OPERATOR(pg_catalog.-) t.delta)::pg_catalog.float8 END AS old_quantity,
       CASE WHEN t.is_drawn THEN t.quantity::pg_catalog.float8 END AS new_quantity,
       pg_catalog.to_char(t.occurred_at, 'YYYY-MM-DD HH24:MI') AS occurred_at
  FROM total AS t
 WHERE t.place OPERATOR(pg_catalog.>) (COALESCE((
           SELECT pg_catalog.max(b.place) FROM total AS b WHERE b.movement_id OPERATOR(pg_catalog.<=) $2), 0)
       OPERATOR(pg_catalog.-) 40)
 ORDER BY t.movement_id
 LIMIT 120;

-- report::by_day: $1 Timestamptz
SELECT pg_catalog.to_char(m.occurred_at, 'YYYY-MM-DD') AS day, m.kind, pg_catalog.count(*) AS movements
  FROM ONLY shop.stock_movement AS m
 WHERE m.occurred_at OPERATOR(pg_catalog.>)
       ($1 OPERATOR(pg_catalog.-) '31 days'::pg_catalog.interval)
   AND m.occurred_at OPERATOR(pg_catalog.<=) $1
 GROUP BY 1, 2
 ORDER BY 1, 2;

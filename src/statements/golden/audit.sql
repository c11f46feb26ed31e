-- Written and compared by golden.rs.

-- audit::comment
COMMENT ON TABLE shop.stock_audit IS 'The audits.';

-- audit::oid_of: $1 Text
SELECT pg_catalog.to_regclass($1)::pg_catalog.oid AS oid;

-- audit::movements
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id,
       m.occurred_at
  FROM ONLY shop.stock_movement AS m;

-- audit::movements, without hashes
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, NULL::pg_catalog.text,
       NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.xid8,
       m.occurred_at
  FROM ONLY shop.stock_movement AS m;

-- audit::movements, of an item (ordinary, uuids, numeric): $1 Uuid
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id,
       m.occurred_at
  FROM ONLY shop.stock_movement AS m
 WHERE m.inventory_id OPERATOR(pg_catalog.=) $1;

-- audit::movements, of an item (partitioned, text ids, integer): $1 Text
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id,
       m.occurred_at
  FROM ONLY shop.stock_movement AS m
 WHERE m.inventory_id OPERATOR(pg_catalog.=) $1;

-- audit::movements, of some items (ordinary, uuids, numeric): $1 UuidArray
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id,
       m.occurred_at
  FROM ONLY shop.stock_movement AS m
 WHERE m.inventory_id OPERATOR(pg_catalog.=) ANY ($1);

-- audit::movements, of some items (partitioned, text ids, integer): $1 TextArray
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id,
       m.occurred_at
  FROM ONLY shop.stock_movement AS m
 WHERE m.inventory_id OPERATOR(pg_catalog.=) ANY ($1);

-- audit::movements, after one: $1 Int8
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id,
       m.occurred_at
  FROM ONLY shop.stock_movement AS m
 WHERE m.movement_id OPERATOR(pg_catalog.>) $1;

-- audit::movements, one: $1 Int8
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id,
       m.occurred_at
  FROM ONLY shop.stock_movement AS m
 WHERE m.movement_id OPERATOR(pg_catalog.=) $1;

-- audit::stock (ordinary, uuids, numeric)
SELECT stock.id, stock.quantity::pg_catalog.numeric
  FROM ONLY shop.stock AS stock;

-- audit::stock (partitioned, text ids, integer)
SELECT stock.id, stock."On hand"::pg_catalog.numeric
  FROM shop.stock AS stock;

-- audit::stock, of an item (ordinary, uuids, numeric): $1 Uuid
SELECT stock.id, stock.quantity::pg_catalog.numeric
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1;

-- audit::stock, of an item (partitioned, text ids, integer): $1 Text
SELECT stock.id, stock."On hand"::pg_catalog.numeric
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1;

-- audit::stripes (ordinary, uuids, numeric): $1 Uuid
SELECT s.inventory_id, s.stripe, s.quantity
  FROM ONLY shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1;

-- audit::stripes (partitioned, text ids, integer): $1 Text
SELECT s.inventory_id, s.stripe, s.quantity
  FROM ONLY shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1;

-- audit::chains (ordinary, uuids, numeric): $1 Uuid
SELECT c.inventory_id, c.stripe, c.movement_id, c.kind, c.quantity, c.occurred_at, c.head, c.broken
  FROM ONLY shop.stock_audit_chain AS c
 WHERE c.inventory_id OPERATOR(pg_catalog.=) $1;

-- audit::chains (partitioned, text ids, integer): $1 Text
SELECT c.inventory_id, c.stripe, c.movement_id, c.kind, c.quantity, c.occurred_at, c.head, c.broken
  FROM ONLY shop.stock_audit_chain AS c
 WHERE c.inventory_id OPERATOR(pg_catalog.=) $1;

-- audit::broken_items
SELECT DISTINCT c.inventory_id AS id
  FROM ONLY shop.stock_audit_chain AS c
 WHERE c.broken;

-- audit::sealed (ordinary, uuids, numeric): $1 Int8, $2 Uuid
SELECT g.inventory_id, g.stripe, g.movements
  FROM ONLY shop.stock_audit_segment AS g
 WHERE g.seal_number OPERATOR(pg_catalog.>=) 1 AND g.seal_number OPERATOR(pg_catalog.<=) $1
   AND g.inventory_id OPERATOR(pg_catalog.=) $2;

-- audit::sealed (partitioned, text ids, integer): $1 Int8, $2 Text
SELECT g.inventory_id, g.stripe, g.movements
  FROM ONLY shop.stock_audit_segment AS g
 WHERE g.seal_number OPERATOR(pg_catalog.>=) 1 AND g.seal_number OPERATOR(pg_catalog.<=) $1
   AND g.inventory_id OPERATOR(pg_catalog.=) $2;

-- audit::segments_by_chain: $1 Int8
SELECT g.seal_number, g.place, g.inventory_id, g.stripe, g.first_movement, g.last_movement, g.quantity,
       g.previous, g.root, g.head, g.movements
  FROM ONLY shop.stock_audit_segment AS g
 WHERE g.seal_number OPERATOR(pg_catalog.<=) $1
 ORDER BY g.inventory_id, g.stripe, g.seal_number, g.place;

-- audit::segment_of (ordinary, uuids, numeric): $1 Uuid, $2 Int2, $3 Int8
SELECT g.seal_number, g.place, g.inventory_id, g.stripe, g.first_movement, g.last_movement, g.quantity,
       g.previous, g.root, g.head, g.movements
  FROM ONLY shop.stock_audit_segment AS g
 WHERE g.inventory_id OPERATOR(pg_catalog.=) $1 AND g.stripe OPERATOR(pg_catalog.=) $2
   AND g.first_movement OPERATOR(pg_catalog.<=) $3 AND g.last_movement OPERATOR(pg_catalog.>=) $3
 ORDER BY g.seal_number;

-- audit::segment_of (partitioned, text ids, integer): $1 Text, $2 Int2, $3 Int8
SELECT g.seal_number, g.place, g.inventory_id, g.stripe, g.first_movement, g.last_movement, g.quantity,
       g.previous, g.root, g.head, g.movements
  FROM ONLY shop.stock_audit_segment AS g
 WHERE g.inventory_id OPERATOR(pg_catalog.=) $1 AND g.stripe OPERATOR(pg_catalog.=) $2
   AND g.first_movement OPERATOR(pg_catalog.<=) $3 AND g.last_movement OPERATOR(pg_catalog.>=) $3
 ORDER BY g.seal_number;

-- audit::heads: $1 Int8
SELECT g.head
  FROM ONLY shop.stock_audit_segment AS g
 WHERE g.seal_number OPERATOR(pg_catalog.=) $1
 ORDER BY g.place;

-- audit::seals: $1 Int8
SELECT r.seal_number, r.sealed, r.sealed_at, r.previous_seal, r.root, r.seal
  FROM ONLY shop.stock_audit AS r
 WHERE r.seal_number OPERATOR(pg_catalog.>=) $1
 ORDER BY r.seal_number;

-- audit::last_seal
SELECT r.seal_number, r.seal
  FROM ONLY shop.stock_audit AS r
 WHERE r.seal_number IS NOT NULL
 ORDER BY r.seal_number DESC
 LIMIT 1;

-- audit::newest_seal
SELECT r.seal_number AS number, r.seal, pg_catalog.sum(r.sealed) OVER ()::pg_catalog.int8 AS movements,
       pg_catalog.to_char(r.sealed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS sealed_at
  FROM ONLY shop.stock_audit AS r
 WHERE r.seal_number IS NOT NULL
 ORDER BY r.seal_number DESC;

-- audit::position
SELECT pg_catalog.max(r.position) AS position
  FROM ONLY shop.stock_audit AS r,
       (SELECT n.oldest_transaction FROM ONLY shop.stock_audit AS n
         WHERE n.kind OPERATOR(pg_catalog.=) 'audit' AND n.inventory_id IS NULL
         ORDER BY n.run_id DESC LIMIT 1) AS newest
 WHERE r.kind OPERATOR(pg_catalog.=) 'audit' AND r.inventory_id IS NULL
   AND r.next_transaction OPERATOR(pg_catalog.<=) newest.oldest_transaction;

-- audit::is_of_ledger
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) 0 OR pg_catalog.count(m.movement_id) OPERATOR(pg_catalog.>) 0
           AS is_known
  FROM (SELECT c.inventory_id, c.movement_id, c.occurred_at
          FROM ONLY shop.stock_audit_chain AS c
         WHERE c.movement_id OPERATOR(pg_catalog.>) 0
         ORDER BY c.movement_id DESC LIMIT 50) AS verified
  LEFT JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) verified.inventory_id
   AND m.movement_id OPERATOR(pg_catalog.=) verified.movement_id
   AND m.occurred_at OPERATOR(pg_catalog.=) verified.occurred_at;

-- audit::rises: $1 Oid
SELECT q.seqcache OPERATOR(pg_catalog.=) 1 AND q.seqincrement OPERATOR(pg_catalog.>) 0
       AND NOT q.seqcycle AS rises
  FROM pg_catalog.pg_sequence AS q
 WHERE q.seqrelid OPERATOR(pg_catalog.=) $1;

-- audit::items: $1 OidArray
SELECT pg_catalog.sum(GREATEST(c.reltuples, 0))::pg_catalog.int8 AS items
  FROM pg_catalog.pg_class AS c
 WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1);

-- audit::last_number
SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END AS number FROM shop.stock_movement_movement_id_seq AS s;

-- audit::snapshot
SELECT pg_catalog.pg_snapshot_xmin(s.snapshot)::pg_catalog.text::pg_catalog.int8 AS oldest,
       (SELECT pg_catalog.min(x.xid::pg_catalog.text::pg_catalog.int8)
          FROM pg_catalog.pg_snapshot_xip(s.snapshot) AS x (xid)
         WHERE x.xid IS DISTINCT FROM s.own) AS other,
       pg_catalog.pg_snapshot_xmax(s.snapshot)::pg_catalog.text::pg_catalog.int8 AS end,
       s.own::pg_catalog.text::pg_catalog.int8 AS own, pg_catalog.clock_timestamp() AS moment
  FROM (SELECT pg_catalog.pg_current_snapshot() AS snapshot,
               pg_catalog.pg_current_xact_id_if_assigned() AS own) AS s;

-- audit::acknowledged
SELECT r.acknowledged::pg_catalog.text AS acknowledged
  FROM ONLY shop.stock_audit AS r
 WHERE r.acknowledged IS NOT NULL;

-- audit::add_segments (ordinary, uuids, numeric): $1 Int8, $2 Int8Array, $3 UuidArray, $4 Int2Array,
--   $5 Int8Array, $6 Int8Array, $7 TextArray, $8 ByteaArray,
--   $9 ByteaArray, $10 ByteaArray, $11 ByteaArray
INSERT INTO shop.stock_audit_segment (seal_number, place, inventory_id, stripe, first_movement, last_movement, quantity,
       previous, root, head, movements)
SELECT $1, new.place, new.id, new.stripe, new.first, new.last, new.quantity, new.previous, new.root, new.head,
       new.movements
  FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                  pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9),
                  pg_catalog.unnest($10), pg_catalog.unnest($11))
       AS new (place, id, stripe, first, last, quantity, previous, root, head, movements);

-- audit::add_segments (partitioned, text ids, integer): $1 Int8, $2 Int8Array, $3 TextArray, $4 Int2Array,
--   $5 Int8Array, $6 Int8Array, $7 TextArray, $8 ByteaArray,
--   $9 ByteaArray, $10 ByteaArray, $11 ByteaArray
INSERT INTO shop.stock_audit_segment (seal_number, place, inventory_id, stripe, first_movement, last_movement, quantity,
       previous, root, head, movements)
SELECT $1, new.place, new.id, new.stripe, new.first, new.last, new.quantity, new.previous, new.root, new.head,
       new.movements
  FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                  pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9),
                  pg_catalog.unnest($10), pg_catalog.unnest($11))
       AS new (place, id, stripe, first, last, quantity, previous, root, head, movements);

-- audit::keep_chains (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 Int8Array, $4 TextArray,
--   $5 TextArray, $6 Int8Array, $7 ByteaArray, $8 BoolArray
INSERT INTO shop.stock_audit_chain AS c (inventory_id, stripe, movement_id, kind, quantity, occurred_at, head, broken)
SELECT new.id, new.stripe, new.movement, new.kind, new.quantity,
       CASE WHEN new.movement OPERATOR(pg_catalog.>) 0
            THEN '2000-01-01 00:00:00+00'::pg_catalog.timestamptz OPERATOR(pg_catalog.+)
                 (new.moment OPERATOR(pg_catalog.*) '1 microsecond'::pg_catalog.interval) END,
       new.head, new.broken
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
                  pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8))
       AS new (id, stripe, movement, kind, quantity, moment, head, broken)
    ON CONFLICT (inventory_id, stripe) DO UPDATE
   SET movement_id = EXCLUDED.movement_id, kind = EXCLUDED.kind, quantity = EXCLUDED.quantity,
       occurred_at = EXCLUDED.occurred_at, head = EXCLUDED.head, broken = EXCLUDED.broken;

-- audit::keep_chains (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 Int8Array, $4 TextArray,
--   $5 TextArray, $6 Int8Array, $7 ByteaArray, $8 BoolArray
INSERT INTO shop.stock_audit_chain AS c (inventory_id, stripe, movement_id, kind, quantity, occurred_at, head, broken)
SELECT new.id, new.stripe, new.movement, new.kind, new.quantity,
       CASE WHEN new.movement OPERATOR(pg_catalog.>) 0
            THEN '2000-01-01 00:00:00+00'::pg_catalog.timestamptz OPERATOR(pg_catalog.+)
                 (new.moment OPERATOR(pg_catalog.*) '1 microsecond'::pg_catalog.interval) END,
       new.head, new.broken
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
                  pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8))
       AS new (id, stripe, movement, kind, quantity, moment, head, broken)
    ON CONFLICT (inventory_id, stripe) DO UPDATE
   SET movement_id = EXCLUDED.movement_id, kind = EXCLUDED.kind, quantity = EXCLUDED.quantity,
       occurred_at = EXCLUDED.occurred_at, head = EXCLUDED.head, broken = EXCLUDED.broken;

-- audit::keep_run: $1 Text, $2 Timestamptz, $3 Bool, $4 Int8,
--   $5 Int8, $6 Int8, $7 Text, $8 Text,
--   $9 Int8, $10 Int8, $11 Int8, $12 Text,
--   $13 Text, $14 Int8, $15 Int8, $16 Int8,
--   $17 Bytea, $18 Bytea, $19 Bytea
INSERT INTO shop.stock_audit (kind, started_at, finished_at, is_full, checked_movements, checked_items,
       discrepancies, found, inventory_id, position, oldest_transaction, next_transaction, actor, acknowledged,
       seal_number, sealed, sealed_at, previous_seal, root, seal)
VALUES ($1, $2, pg_catalog.clock_timestamp(), $3, $4, $5, $6, $7::pg_catalog.json, $8, $9, $10, $11, $12,
        $13::pg_catalog.json, $14, $15,
        '2000-01-01 00:00:00+00'::pg_catalog.timestamptz OPERATOR(pg_catalog.+)
        ($16 OPERATOR(pg_catalog.*) '1 microsecond'::pg_catalog.interval), $17, $18, $19)
RETURNING run_id;

-- audit::describe_movements (ordinary, uuids, numeric): $1 UuidArray, $2 Int8Array
SELECT wanted.place, m.kind, m.reference, m.actor, m.xact_id::pg_catalog.text
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) WITH ORDINALITY AS wanted (id, number, place)
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) wanted.id AND m.movement_id OPERATOR(pg_catalog.=) wanted.number;

-- audit::describe_movements (partitioned, text ids, integer): $1 TextArray, $2 Int8Array
SELECT wanted.place, m.kind, m.reference, m.actor, m.xact_id::pg_catalog.text
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) WITH ORDINALITY AS wanted (id, number, place)
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) wanted.id AND m.movement_id OPERATOR(pg_catalog.=) wanted.number;

-- audit::sold (ordinary, uuids, numeric)
SELECT sale.receipt::pg_catalog.text AS reference,
       sale.item::pg_catalog.text::pg_catalog.uuid::pg_catalog.text AS item,
       pg_catalog.sum(sale.units::pg_catalog.numeric) AS quantity
  FROM shop.sale AS sale
 WHERE sale.receipt IS NOT NULL AND sale.item IS NOT NULL AND sale.units IS NOT NULL
 GROUP BY 1, 2;

-- audit::sold (partitioned, text ids, integer)
SELECT sale.receipt::pg_catalog.text AS reference,
       sale.item::pg_catalog.text::pg_catalog.text::pg_catalog.text AS item,
       pg_catalog.sum(sale.units::pg_catalog.numeric) AS quantity
  FROM shop.sale AS sale
 WHERE sale.receipt IS NOT NULL AND sale.item IS NOT NULL AND sale.units IS NOT NULL
 GROUP BY 1, 2;

-- audit::deducted: $1 Timestamptz
SELECT moved.reference, moved.item, pg_catalog.sum(moved.quantity) AS quantity, pg_catalog.count(*) AS times,
       pg_catalog.min(moved.quantity) AS least, pg_catalog.max(moved.quantity) AS most,
       $1 IS NULL OR pg_catalog.max(moved.ended) OPERATOR(pg_catalog.>=) $1 AS is_recent,
       pg_catalog.string_agg(moved.movements, ',') AS movements
  FROM (SELECT m.reference, m.inventory_id::pg_catalog.text AS item,
               pg_catalog.sum(m.old_quantity OPERATOR(pg_catalog.-) m.new_quantity) AS quantity,
               pg_catalog.max(m.occurred_at) AS ended,
               pg_catalog.string_agg(m.movement_id::pg_catalog.text, ',' ORDER BY m.movement_id) AS movements
          FROM (SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity,
       m.reference, m.idempotency_key, m.actor, m.xact_id, m.occurred_at
          FROM ONLY shop.stock_movement AS m
         WHERE NOT EXISTS (SELECT FROM ONLY shop.archive AS a
                            WHERE a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id
                              AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
                              AND a.stripe IS NOT DISTINCT FROM m.stripe)
        UNION ALL
        SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity,
       m.reference, m.idempotency_key, m.actor, m.xact_id, m.occurred_at FROM ONLY shop.archive AS m) AS m
         WHERE m.kind OPERATOR(pg_catalog.=) 'sale' AND m.reference IS NOT NULL
         GROUP BY m.reference, m.inventory_id, m.xact_id) AS moved
 GROUP BY moved.reference, moved.item;

-- audit::newest_audit: $1 Text
SELECT r.run_id, r.position, r.is_full, r.discrepancies, r.found::pg_catalog.text AS found
  FROM ONLY shop.stock_audit AS r
 WHERE r.kind OPERATOR(pg_catalog.=) 'audit'
   AND (r.inventory_id IS NULL OR r.inventory_id OPERATOR(pg_catalog.=) $1)
 ORDER BY r.run_id DESC
 LIMIT 1;

-- audit::last_movement (ordinary, uuids, numeric): $1 Uuid
SELECT pg_catalog.max(m.movement_id) AS number
  FROM ONLY shop.stock_movement AS m
 WHERE m.inventory_id OPERATOR(pg_catalog.=) $1;

-- audit::last_movement (partitioned, text ids, integer): $1 Text
SELECT pg_catalog.max(m.movement_id) AS number
  FROM ONLY shop.stock_movement AS m
 WHERE m.inventory_id OPERATOR(pg_catalog.=) $1;

-- audit::archived_until
SELECT pg_catalog.max(r.position) AS position
  FROM ONLY shop.stock_audit AS r
 WHERE r.kind OPERATOR(pg_catalog.=) 'archive';

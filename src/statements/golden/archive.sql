-- Written and compared by golden.rs.

-- archive::create (ordinary, uuids, numeric)
CREATE TABLE shop.stock_movement_archive (
    movement_id bigint NOT NULL,
    inventory_id uuid NOT NULL,
    stripe smallint,
    kind text NOT NULL,
    old_quantity numeric NOT NULL,
    new_quantity numeric NOT NULL,
    delta numeric NOT NULL GENERATED ALWAYS AS (new_quantity - old_quantity) STORED,
    reference text,
    idempotency_key text,
    actor text NOT NULL,
    xact_id xid8 NOT NULL,
    occurred_at timestamptz NOT NULL,
    PRIMARY KEY (inventory_id, movement_id));

-- archive::create (partitioned, text ids, integer)
CREATE TABLE shop.stock_movement_archive (
    movement_id bigint NOT NULL,
    inventory_id text NOT NULL,
    stripe smallint,
    kind text NOT NULL,
    old_quantity numeric NOT NULL,
    new_quantity numeric NOT NULL,
    delta numeric NOT NULL GENERATED ALWAYS AS (new_quantity - old_quantity) STORED,
    reference text,
    idempotency_key text,
    actor text NOT NULL,
    xact_id xid8 NOT NULL,
    occurred_at timestamptz NOT NULL,
    PRIMARY KEY (inventory_id, movement_id));

-- archive::index
CREATE INDEX ON shop.stock_movement_archive USING brin (movement_id);

-- archive::cut: $1 Timestamptz
SELECT c.inventory_id, c.stripe, pg_catalog.max(m.movement_id)
  FROM ONLY shop.stock_audit_chain AS c
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) c.inventory_id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) c.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) c.movement_id
 WHERE m.occurred_at OPERATOR(pg_catalog.<) $1
 GROUP BY c.inventory_id, c.stripe
HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1;

-- archive::others (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 Int8Array
SELECT pg_catalog.count(*) AS movements
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last
  JOIN ONLY shop.stock_movement_archive AS a
    ON a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
 WHERE NOT (m.kind OPERATOR(pg_catalog.=) ANY (ARRAY['opening', 'closing'])
            AND m.old_quantity OPERATOR(pg_catalog.=) 0
            AND m.new_quantity OPERATOR(pg_catalog.=) a.new_quantity
            AND m.occurred_at OPERATOR(pg_catalog.=) a.occurred_at);

-- archive::others (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 Int8Array
SELECT pg_catalog.count(*) AS movements
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last
  JOIN ONLY shop.stock_movement_archive AS a
    ON a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
 WHERE NOT (m.kind OPERATOR(pg_catalog.=) ANY (ARRAY['opening', 'closing'])
            AND m.old_quantity OPERATOR(pg_catalog.=) 0
            AND m.new_quantity OPERATOR(pg_catalog.=) a.new_quantity
            AND m.occurred_at OPERATOR(pg_catalog.=) a.occurred_at);

-- archive::copy (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 Int8Array
INSERT INTO shop.stock_movement_archive (movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, reference,
       idempotency_key, actor, xact_id, occurred_at)
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id, m.occurred_at
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last
 ORDER BY m.movement_id
    ON CONFLICT (inventory_id, movement_id) DO NOTHING;

-- archive::copy (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 Int8Array
INSERT INTO shop.stock_movement_archive (movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, reference,
       idempotency_key, actor, xact_id, occurred_at)
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id, m.occurred_at
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last
 ORDER BY m.movement_id
    ON CONFLICT (inventory_id, movement_id) DO NOTHING;

-- archive::left_out (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 Int8Array
SELECT pg_catalog.count(*) AS movements
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last
 WHERE NOT EXISTS (
           SELECT FROM ONLY shop.stock_movement_archive AS a
            WHERE a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id
              AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
              AND a.stripe IS NOT DISTINCT FROM m.stripe
              AND a.new_quantity OPERATOR(pg_catalog.=) m.new_quantity);

-- archive::left_out (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 Int8Array
SELECT pg_catalog.count(*) AS movements
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
  JOIN ONLY shop.stock_movement AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last
 WHERE NOT EXISTS (
           SELECT FROM ONLY shop.stock_movement_archive AS a
            WHERE a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id
              AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
              AND a.stripe IS NOT DISTINCT FROM m.stripe
              AND a.new_quantity OPERATOR(pg_catalog.=) m.new_quantity);

-- archive::delete (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 Int8Array
DELETE FROM ONLY shop.stock_movement AS m
 USING ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
 WHERE m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last;

-- archive::delete (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 Int8Array
DELETE FROM ONLY shop.stock_movement AS m
 USING ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
 WHERE m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last;

-- archive::leave (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 Int8Array, $4 Text,
--   $5 Text
INSERT INTO shop.stock_movement (movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, reference,
       idempotency_key, actor, xact_id, occurred_at)
OVERRIDING SYSTEM VALUE
SELECT m.movement_id, m.inventory_id, m.stripe,
       CASE WHEN m.kind OPERATOR(pg_catalog.=) 'closing' THEN 'closing' ELSE 'opening' END,
       0, m.new_quantity, $4, NULL, $5, pg_catalog.pg_current_xact_id(), m.occurred_at
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
  JOIN ONLY shop.stock_movement_archive AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id AND m.movement_id OPERATOR(pg_catalog.=) cut.last
 ORDER BY m.movement_id
RETURNING movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, reference,
       idempotency_key, actor, xact_id, occurred_at;

-- archive::leave (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 Int8Array, $4 Text,
--   $5 Text
INSERT INTO shop.stock_movement (movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, reference,
       idempotency_key, actor, xact_id, occurred_at)
OVERRIDING SYSTEM VALUE
SELECT m.movement_id, m.inventory_id, m.stripe,
       CASE WHEN m.kind OPERATOR(pg_catalog.=) 'closing' THEN 'closing' ELSE 'opening' END,
       0, m.new_quantity, $4, NULL, $5, pg_catalog.pg_current_xact_id(), m.occurred_at
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)
  JOIN ONLY shop.stock_movement_archive AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id AND m.movement_id OPERATOR(pg_catalog.=) cut.last
 ORDER BY m.movement_id
RETURNING movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, reference,
       idempotency_key, actor, xact_id, occurred_at;

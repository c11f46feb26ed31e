-- Every statement of the extension; written and compared by golden.rs.

-- LockEnough (ordinary, uuids, numeric): $1 Uuid, $2 Numeric
SELECT stock.quantity AS quantity, stock.ctid AS row
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1 AND stock.quantity OPERATOR(pg_catalog.>=) $2
   FOR UPDATE;

-- LockEnough (partitioned, text ids, integer): $1 Text, $2 Int8
SELECT stock."On hand" AS quantity
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1 AND stock."On hand" OPERATOR(pg_catalog.>=) $2
   FOR UPDATE;

-- LockEnoughNoKey (ordinary, uuids, numeric): $1 Uuid, $2 Numeric
SELECT stock.quantity AS quantity, stock.ctid AS row
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1 AND stock.quantity OPERATOR(pg_catalog.>=) $2
   FOR NO KEY UPDATE;

-- LockEnoughNoKey (partitioned, text ids, integer): $1 Text, $2 Int8
SELECT stock."On hand" AS quantity
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1 AND stock."On hand" OPERATOR(pg_catalog.>=) $2
   FOR NO KEY UPDATE;

-- LockItem (ordinary, uuids, numeric): $1 Uuid
SELECT stock.quantity AS quantity, stock.ctid AS row
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1
   FOR UPDATE;

-- LockItem (partitioned, text ids, integer): $1 Text
SELECT stock."On hand" AS quantity
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1
   FOR UPDATE;

-- LockItemNoKey (ordinary, uuids, numeric): $1 Uuid
SELECT stock.quantity AS quantity, stock.ctid AS row
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1
   FOR NO KEY UPDATE;

-- LockItemNoKey (partitioned, text ids, integer): $1 Text
SELECT stock."On hand" AS quantity
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1
   FOR NO KEY UPDATE;

-- LookAtItem (ordinary, uuids, numeric): $1 Uuid
SELECT stock.quantity AS quantity
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1;

-- LookAtItem (partitioned, text ids, integer): $1 Text
SELECT stock."On hand" AS quantity
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1;

-- Deduct (ordinary, uuids, numeric): $1 Tid, $2 Numeric
UPDATE ONLY shop.stock AS stock SET quantity = stock.quantity OPERATOR(pg_catalog.-) $2
 WHERE stock.ctid OPERATOR(pg_catalog.=) $1
RETURNING stock.quantity AS quantity;

-- Deduct (partitioned, text ids, integer): $1 Text, $2 Int8
UPDATE shop.stock AS stock SET "On hand" = stock."On hand" OPERATOR(pg_catalog.-) $2
 WHERE stock.id OPERATOR(pg_catalog.=) $1
RETURNING stock."On hand" AS quantity;

-- ReadAvailable (ordinary, uuids, numeric): $1 Uuid
SELECT stock.quantity::pg_catalog.numeric AS quantity
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1;

-- ReadAvailable (partitioned, text ids, integer): $1 Text
SELECT stock."On hand"::pg_catalog.numeric AS quantity
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1;

-- MayChangeItem (ordinary, uuids, numeric): $1 Uuid
SELECT FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1
   FOR KEY SHARE;

-- MayChangeItem (partitioned, text ids, integer): $1 Text
SELECT FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1
   FOR KEY SHARE;

-- LockItems (ordinary, uuids, numeric): $1 UuidArray
SELECT stock.id AS id, stock.quantity AS quantity
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) ANY ($1)
 ORDER BY stock.id
   FOR UPDATE;

-- LockItems (partitioned, text ids, integer): $1 TextArray
SELECT stock.id AS id, stock."On hand" AS quantity
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) ANY ($1)
 ORDER BY stock.id COLLATE pg_catalog."C"
   FOR UPDATE;

-- LockItemsNoKey (ordinary, uuids, numeric): $1 UuidArray
SELECT stock.id AS id, stock.quantity AS quantity
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) ANY ($1)
 ORDER BY stock.id
   FOR NO KEY UPDATE;

-- LockItemsNoKey (partitioned, text ids, integer): $1 TextArray
SELECT stock.id AS id, stock."On hand" AS quantity
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) ANY ($1)
 ORDER BY stock.id COLLATE pg_catalog."C"
   FOR NO KEY UPDATE;

-- ChangeItems (ordinary, uuids, numeric): $1 UuidArray, $2 TextArray
UPDATE ONLY shop.stock AS stock SET quantity = stock.quantity OPERATOR(pg_catalog.+) change.delta
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS change (id, delta)
 WHERE stock.id OPERATOR(pg_catalog.=) change.id
RETURNING stock.id AS id, stock.quantity AS quantity;

-- ChangeItems (partitioned, text ids, integer): $1 TextArray, $2 TextArray
UPDATE shop.stock AS stock SET "On hand" = stock."On hand" OPERATOR(pg_catalog.+) change.delta
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.int8[])) AS change (id, delta)
 WHERE stock.id OPERATOR(pg_catalog.=) change.id
RETURNING stock.id AS id, stock."On hand" AS quantity;

-- VisibleItems (ordinary, uuids, numeric): $1 UuidArray
SELECT stock.id AS id
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) ANY ($1);

-- VisibleItems (partitioned, text ids, integer): $1 TextArray
SELECT stock.id AS id
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) ANY ($1);

-- ChangeableItems (ordinary, uuids, numeric): $1 UuidArray
SELECT stock.id AS id
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) ANY ($1)
   FOR KEY SHARE;

-- ChangeableItems (partitioned, text ids, integer): $1 TextArray
SELECT stock.id AS id
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) ANY ($1)
   FOR KEY SHARE;

-- RepairItem (ordinary, uuids, numeric): $1 Uuid, $2 Text, $3 Text
UPDATE ONLY shop.stock AS stock SET quantity = $2::pg_catalog.numeric
 WHERE stock.id OPERATOR(pg_catalog.=) $1
RETURNING stock.quantity AS quantity,
          (stock.quantity OPERATOR(pg_catalog.-) $3::pg_catalog.numeric)::pg_catalog.text AS adjusted;

-- RepairItem (partitioned, text ids, integer): $1 Text, $2 Text, $3 Text
UPDATE shop.stock AS stock SET "On hand" = $2::pg_catalog.numeric
 WHERE stock.id OPERATOR(pg_catalog.=) $1
RETURNING stock."On hand" AS quantity,
          (stock."On hand" OPERATOR(pg_catalog.-) $3::pg_catalog.numeric)::pg_catalog.text AS adjusted;

-- RecordItem (ordinary, uuids, numeric): $1 Uuid, $2 Int2, $3 Text, $4 Numeric, $5 Numeric, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- RecordItem (partitioned, text ids, integer): $1 Text, $2 Int2, $3 Text, $4 Int4, $5 Int4, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- RecordStripe (ordinary, uuids, numeric): $1 Uuid, $2 Int2, $3 Text, $4 Numeric, $5 Numeric, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- RecordStripe (partitioned, text ids, integer): $1 Text, $2 Int2, $3 Text, $4 Numeric, $5 Numeric, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- RecordMany (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 TextArray, $4 TextArray, $5 TextArray, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
SELECT change.id, change.stripe, change.kind, change.old_quantity, change.new_quantity, $6, $7, $8
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3),
                  pg_catalog.unnest($4::pg_catalog.numeric[]), pg_catalog.unnest($5::pg_catalog.numeric[]))
       AS change (id, stripe, kind, old_quantity, new_quantity);

-- RecordMany (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 TextArray, $4 TextArray, $5 TextArray, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
SELECT change.id, change.stripe, change.kind, change.old_quantity, change.new_quantity, $6, $7, $8
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3),
                  pg_catalog.unnest($4::pg_catalog.numeric[]), pg_catalog.unnest($5::pg_catalog.numeric[]))
       AS change (id, stripe, kind, old_quantity, new_quantity);

-- ClaimKey: $1 Text, $2 Text, $3 Text
INSERT INTO shop.stock_request (idempotency_key, function_name, arguments_hash)
 VALUES ($1, $2, pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')))
 ON CONFLICT (idempotency_key) DO NOTHING;

-- ReadKey: $1 Text, $2 Text, $3 Text
SELECT function_name, answer::pg_catalog.text AS answer,
       function_name OPERATOR(pg_catalog.=) $2
       AND arguments_hash OPERATOR(pg_catalog.=) pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')) AS same
  FROM shop.stock_request WHERE idempotency_key OPERATOR(pg_catalog.=) $1;

-- KeepResult: $1 Text, $2 Text
UPDATE shop.stock_request SET answer = $2::pg_catalog.json WHERE idempotency_key OPERATOR(pg_catalog.=) $1;

-- LockStripe (ordinary, uuids, numeric): $1 Uuid, $2 Int2, $3 Text
SELECT s.quantity, s.ctid AS row
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1 AND s.stripe OPERATOR(pg_catalog.=) $2
   AND s.quantity OPERATOR(pg_catalog.>=) $3::pg_catalog.numeric
   FOR UPDATE;

-- LockStripe (partitioned, text ids, integer): $1 Text, $2 Int2, $3 Text
SELECT s.quantity, s.ctid AS row
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1 AND s.stripe OPERATOR(pg_catalog.=) $2
   AND s.quantity OPERATOR(pg_catalog.>=) $3::pg_catalog.numeric
   FOR UPDATE;

-- LookAtStripes (ordinary, uuids, numeric): $1 Uuid
SELECT s.stripe, s.quantity
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
 ORDER BY s.stripe;

-- LookAtStripes (partitioned, text ids, integer): $1 Text
SELECT s.stripe, s.quantity
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
 ORDER BY s.stripe;

-- LockStripes (ordinary, uuids, numeric): $1 Uuid
SELECT s.stripe, s.quantity
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
 ORDER BY s.stripe
   FOR UPDATE;

-- LockStripes (partitioned, text ids, integer): $1 Text
SELECT s.stripe, s.quantity
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
 ORDER BY s.stripe
   FOR UPDATE;

-- SumOfItem (ordinary, uuids, numeric): $1 Uuid
SELECT pg_catalog.sum(s.quantity) AS quantity
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1;

-- SumOfItem (partitioned, text ids, integer): $1 Text
SELECT pg_catalog.sum(s.quantity) AS quantity
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1;

-- ChangeStripe: $1 Tid, $2 Text
UPDATE shop.stock_stripe AS s SET quantity = s.quantity OPERATOR(pg_catalog.+) $2::pg_catalog.numeric
 WHERE s.ctid OPERATOR(pg_catalog.=) $1
RETURNING s.quantity;

-- ChangeStripes (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 TextArray
UPDATE shop.stock_stripe AS s SET quantity = s.quantity OPERATOR(pg_catalog.+) step.delta
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3::pg_catalog.numeric[]))
       AS step (id, stripe, delta)
 WHERE s.inventory_id OPERATOR(pg_catalog.=) step.id AND s.stripe OPERATOR(pg_catalog.=) step.stripe
RETURNING s.inventory_id AS id, s.stripe, s.quantity;

-- ChangeStripes (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 TextArray
UPDATE shop.stock_stripe AS s SET quantity = s.quantity OPERATOR(pg_catalog.+) step.delta
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3::pg_catalog.numeric[]))
       AS step (id, stripe, delta)
 WHERE s.inventory_id OPERATOR(pg_catalog.=) step.id AND s.stripe OPERATOR(pg_catalog.=) step.stripe
RETURNING s.inventory_id AS id, s.stripe, s.quantity;

-- SumsOfItems
SELECT s.inventory_id AS id, pg_catalog.sum(s.quantity)::pg_catalog.text AS total
  FROM shop.stock_stripe AS s
 GROUP BY s.inventory_id;

-- FindLagging (ordinary, uuids, numeric): $1 UuidArray, $2 TextArray
SELECT stock.id AS id, given.total::pg_catalog.text AS total
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)
  JOIN ONLY shop.stock AS stock ON stock.id OPERATOR(pg_catalog.=) given.id
 WHERE stock.quantity OPERATOR(pg_catalog.<>) given.total;

-- FindLagging (partitioned, text ids, integer): $1 TextArray, $2 TextArray
SELECT stock.id AS id, given.total::pg_catalog.text AS total
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)
  JOIN shop.stock AS stock ON stock.id OPERATOR(pg_catalog.=) given.id
 WHERE stock."On hand" OPERATOR(pg_catalog.<>) given.total;

-- LockLagging (ordinary, uuids, numeric): $1 UuidArray, $2 TextArray
SELECT stock.id AS id, given.total::pg_catalog.text AS total
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)
  JOIN ONLY shop.stock AS stock ON stock.id OPERATOR(pg_catalog.=) given.id
 WHERE stock.quantity OPERATOR(pg_catalog.<>) given.total
 ORDER BY stock.id
   FOR NO KEY UPDATE OF stock SKIP LOCKED;

-- LockLagging (partitioned, text ids, integer): $1 TextArray, $2 TextArray
SELECT stock.id AS id, given.total::pg_catalog.text AS total
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)
  JOIN shop.stock AS stock ON stock.id OPERATOR(pg_catalog.=) given.id
 WHERE stock."On hand" OPERATOR(pg_catalog.<>) given.total
 ORDER BY stock.id COLLATE pg_catalog."C"
   FOR NO KEY UPDATE OF stock SKIP LOCKED;

-- WriteTotals (ordinary, uuids, numeric): $1 UuidArray, $2 TextArray
UPDATE ONLY shop.stock AS stock SET quantity = given.total
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)
 WHERE stock.id OPERATOR(pg_catalog.=) given.id
RETURNING stock.id AS id, stock.quantity::pg_catalog.text AS total;

-- WriteTotals (partitioned, text ids, integer): $1 TextArray, $2 TextArray
UPDATE shop.stock AS stock SET "On hand" = given.total
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)
 WHERE stock.id OPERATOR(pg_catalog.=) given.id
RETURNING stock.id AS id, stock."On hand"::pg_catalog.text AS total;

-- KeepTotals (ordinary, uuids, numeric): $1 UuidArray, $2 TextArray
INSERT INTO shop.stock_stripe_total AS t (inventory_id, quantity)
SELECT given.id, given.total
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)
    ON CONFLICT (inventory_id) DO UPDATE SET quantity = EXCLUDED.quantity;

-- KeepTotals (partitioned, text ids, integer): $1 TextArray, $2 TextArray
INSERT INTO shop.stock_stripe_total AS t (inventory_id, quantity)
SELECT given.id, given.total
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, total)
    ON CONFLICT (inventory_id) DO UPDATE SET quantity = EXCLUDED.quantity;

-- requests::is_not_negative: $1 Interval
SELECT $1 OPERATOR(pg_catalog.>=) '0'::pg_catalog.interval AS valid;

-- requests::purge: $1 Interval
DELETE FROM shop.stock_request
  WHERE created_at OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) $1);

-- layout::delete_stripes (ordinary, uuids, numeric): $1 Uuid
DELETE FROM shop.stock_stripe AS s WHERE s.inventory_id OPERATOR(pg_catalog.=) $1 RETURNING s.quantity;

-- layout::delete_stripes (partitioned, text ids, integer): $1 Text
DELETE FROM shop.stock_stripe AS s WHERE s.inventory_id OPERATOR(pg_catalog.=) $1 RETURNING s.quantity;

-- layout::delete_total (ordinary, uuids, numeric): $1 Uuid
DELETE FROM shop.stock_stripe_total AS s WHERE s.inventory_id OPERATOR(pg_catalog.=) $1;

-- layout::delete_total (partitioned, text ids, integer): $1 Text
DELETE FROM shop.stock_stripe_total AS s WHERE s.inventory_id OPERATOR(pg_catalog.=) $1;

-- layout::show_total (ordinary, uuids, numeric): $1 Uuid, $2 Text
UPDATE ONLY shop.stock AS stock SET quantity = $2::pg_catalog.numeric
 WHERE stock.id OPERATOR(pg_catalog.=) $1
RETURNING stock.quantity AS quantity;

-- layout::show_total (partitioned, text ids, integer): $1 Text, $2 Text
UPDATE shop.stock AS stock SET "On hand" = $2::pg_catalog.int8
 WHERE stock.id OPERATOR(pg_catalog.=) $1
RETURNING stock."On hand" AS quantity;

-- layout::insert_stripes (ordinary, uuids, numeric): $1 Uuid, $2 Int2Array, $3 TextArray
INSERT INTO shop.stock_stripe (inventory_id, stripe, quantity)
 SELECT $1, share.stripe, share.quantity
   FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3::pg_catalog.numeric[])) AS share (stripe, quantity);

-- layout::insert_stripes (partitioned, text ids, integer): $1 Text, $2 Int2Array, $3 TextArray
INSERT INTO shop.stock_stripe (inventory_id, stripe, quantity)
 SELECT $1, share.stripe, share.quantity
   FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3::pg_catalog.numeric[])) AS share (stripe, quantity);

-- layout::insert_total (ordinary, uuids, numeric): $1 Uuid, $2 Text
INSERT INTO shop.stock_stripe_total (inventory_id, quantity) VALUES ($1, $2::pg_catalog.numeric);

-- layout::insert_total (partitioned, text ids, integer): $1 Text, $2 Text
INSERT INTO shop.stock_stripe_total (inventory_id, quantity) VALUES ($1, $2::pg_catalog.numeric);

-- leftover::items (ordinary, uuids, numeric)
SELECT left_over.id, left_over.sum::pg_catalog.text AS sum, item.quantity::pg_catalog.text AS in_row,
       last.quantity::pg_catalog.text AS last_total,
       COALESCE(item.quantity OPERATOR(pg_catalog.=) left_over.sum, false)
       OR COALESCE(item.quantity OPERATOR(pg_catalog.=) last.quantity, false) AS agrees
  FROM (SELECT s.inventory_id AS id, pg_catalog.sum(s.quantity) AS sum FROM shop.stock_stripe AS s
         GROUP BY s.inventory_id) AS left_over
  LEFT JOIN shop.stock_stripe_total AS last ON last.inventory_id OPERATOR(pg_catalog.=) left_over.id
  LEFT JOIN (SELECT stock.id AS id, stock.quantity::pg_catalog.numeric AS quantity FROM shop.stock AS stock)
         AS item ON item.id OPERATOR(pg_catalog.=) left_over.id
 ORDER BY left_over.id;

-- leftover::items (partitioned, text ids, integer)
SELECT left_over.id, left_over.sum::pg_catalog.text AS sum, item.quantity::pg_catalog.text AS in_row,
       last.quantity::pg_catalog.text AS last_total,
       COALESCE(item.quantity OPERATOR(pg_catalog.=) left_over.sum, false)
       OR COALESCE(item.quantity OPERATOR(pg_catalog.=) last.quantity, false) AS agrees
  FROM (SELECT s.inventory_id AS id, pg_catalog.sum(s.quantity) AS sum FROM shop.stock_stripe AS s
         GROUP BY s.inventory_id) AS left_over
  LEFT JOIN shop.stock_stripe_total AS last ON last.inventory_id OPERATOR(pg_catalog.=) left_over.id
  LEFT JOIN (SELECT stock.id AS id, stock."On hand"::pg_catalog.numeric AS quantity FROM shop.stock AS stock)
         AS item ON item.id OPERATOR(pg_catalog.=) left_over.id
 ORDER BY left_over.id;

-- leftover::write (ordinary, uuids, numeric): $1 UuidArray, $2 TextArray
UPDATE shop.stock AS stock SET quantity = given.sum
   FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, sum)
  WHERE stock.id OPERATOR(pg_catalog.=) given.id
 RETURNING stock.id AS id, stock.quantity::pg_catalog.text AS in_row, given.sum::pg_catalog.text AS sum,
           stock.quantity OPERATOR(pg_catalog.=) given.sum AS agrees;

-- leftover::write (partitioned, text ids, integer): $1 TextArray, $2 TextArray
UPDATE shop.stock AS stock SET "On hand" = given.sum
   FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2::pg_catalog.numeric[])) AS given (id, sum)
  WHERE stock.id OPERATOR(pg_catalog.=) given.id
 RETURNING stock.id AS id, stock."On hand"::pg_catalog.text AS in_row, given.sum::pg_catalog.text AS sum,
           stock."On hand" OPERATOR(pg_catalog.=) given.sum AS agrees;

-- leftover::delete_except (ordinary, uuids, numeric): $1 UuidArray
DELETE FROM shop.stock_stripe AS s WHERE s.inventory_id OPERATOR(pg_catalog.<>) ALL ($1);

-- leftover::delete_except (partitioned, text ids, integer): $1 TextArray
DELETE FROM shop.stock_stripe AS s WHERE s.inventory_id OPERATOR(pg_catalog.<>) ALL ($1);

-- opening::of_stripes (ordinary, uuids, numeric): $1 Text, $2 Text, $3 UuidArray, $4 UuidArray
INSERT INTO shop.stock_movement (inventory_id, stripe, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id, item.stripe,
        CASE WHEN item.id OPERATOR(pg_catalog.=) ANY ($3) THEN 'transfer' ELSE 'external' END,
        last.new_quantity, 0, $1, $2
   FROM (SELECT DISTINCT known.inventory_id AS id, known.stripe FROM shop.stock_movement AS known
          WHERE known.stripe IS NOT NULL) AS item
  CROSS JOIN LATERAL (SELECT last.new_quantity FROM shop.stock_movement AS last
                       WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id
                         AND last.stripe OPERATOR(pg_catalog.=) item.stripe
                       ORDER BY last.movement_id DESC LIMIT 1) AS last
  WHERE last.new_quantity OPERATOR(pg_catalog.<>) 0 AND item.id OPERATOR(pg_catalog.<>) ALL ($4)
  ORDER BY item.id, item.stripe;

-- opening::of_stripes (partitioned, text ids, integer): $1 Text, $2 Text, $3 TextArray, $4 TextArray
INSERT INTO shop.stock_movement (inventory_id, stripe, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id, item.stripe,
        CASE WHEN item.id OPERATOR(pg_catalog.=) ANY ($3) THEN 'transfer' ELSE 'external' END,
        last.new_quantity, 0, $1, $2
   FROM (SELECT DISTINCT known.inventory_id AS id, known.stripe FROM shop.stock_movement AS known
          WHERE known.stripe IS NOT NULL) AS item
  CROSS JOIN LATERAL (SELECT last.new_quantity FROM shop.stock_movement AS last
                       WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id
                         AND last.stripe OPERATOR(pg_catalog.=) item.stripe
                       ORDER BY last.movement_id DESC LIMIT 1) AS last
  WHERE last.new_quantity OPERATOR(pg_catalog.<>) 0 AND item.id OPERATOR(pg_catalog.<>) ALL ($4)
  ORDER BY item.id, item.stripe;

-- opening::of_items (ordinary, uuids, numeric): $1 Text, $2 Text, $3 UuidArray, $4 UuidArray
INSERT INTO shop.stock_movement (inventory_id, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id,
        CASE WHEN COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing' THEN 'opening' ELSE
        CASE WHEN item.id OPERATOR(pg_catalog.=) ANY ($3) THEN 'transfer' ELSE 'external' END END,
        COALESCE(last.new_quantity, 0), item.quantity, $1, $2
   FROM (SELECT stock.id AS id, stock.quantity::pg_catalog.numeric AS quantity FROM shop.stock AS stock) AS item
   LEFT JOIN LATERAL (SELECT last.new_quantity, last.kind FROM shop.stock_movement AS last
          WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id AND last.stripe IS NULL
          ORDER BY last.movement_id DESC LIMIT 1) AS last ON true
   LEFT JOIN LATERAL (SELECT pg_catalog.sum(known.delta) AS quantity FROM shop.stock_movement AS known
                       WHERE known.inventory_id OPERATOR(pg_catalog.=) item.id AND known.stripe IS NULL
                         AND last.new_quantity OPERATOR(pg_catalog.<>) item.quantity) AS moved ON true
  WHERE $4 IS NOT NULL AND (COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing'
     OR last.new_quantity OPERATOR(pg_catalog.<>) item.quantity
        AND moved.quantity IS DISTINCT FROM item.quantity)
  ORDER BY item.id;

-- opening::of_items (partitioned, text ids, integer): $1 Text, $2 Text, $3 TextArray, $4 TextArray
INSERT INTO shop.stock_movement (inventory_id, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id,
        CASE WHEN COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing' THEN 'opening' ELSE
        CASE WHEN item.id OPERATOR(pg_catalog.=) ANY ($3) THEN 'transfer' ELSE 'external' END END,
        COALESCE(last.new_quantity, 0), item.quantity, $1, $2
   FROM (SELECT stock.id AS id, stock."On hand"::pg_catalog.numeric AS quantity FROM shop.stock AS stock) AS item
   LEFT JOIN LATERAL (SELECT last.new_quantity, last.kind FROM shop.stock_movement AS last
          WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id AND last.stripe IS NULL
          ORDER BY last.movement_id DESC LIMIT 1) AS last ON true
   LEFT JOIN LATERAL (SELECT pg_catalog.sum(known.delta) AS quantity FROM shop.stock_movement AS known
                       WHERE known.inventory_id OPERATOR(pg_catalog.=) item.id AND known.stripe IS NULL
                         AND last.new_quantity OPERATOR(pg_catalog.<>) item.quantity) AS moved ON true
  WHERE $4 IS NOT NULL AND (COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing'
     OR last.new_quantity OPERATOR(pg_catalog.<>) item.quantity
        AND moved.quantity IS DISTINCT FROM item.quantity)
  ORDER BY item.id;

-- opening::of_deleted_items (ordinary, uuids, numeric): $1 Text, $2 Text, $3 UuidArray, $4 UuidArray
INSERT INTO shop.stock_movement (inventory_id, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id, 'closing', last.new_quantity, 0, $1, $2
   FROM (SELECT DISTINCT known.inventory_id AS id FROM shop.stock_movement AS known) AS item
  CROSS JOIN LATERAL (SELECT last.new_quantity, last.kind FROM shop.stock_movement AS last
          WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id AND last.stripe IS NULL
          ORDER BY last.movement_id DESC LIMIT 1) AS last
  WHERE last.kind OPERATOR(pg_catalog.<>) 'closing' AND $3 IS NOT NULL
    AND item.id OPERATOR(pg_catalog.<>) ALL ($4)
    AND NOT EXISTS (SELECT FROM shop.stock AS stock WHERE stock.id OPERATOR(pg_catalog.=) item.id)
  ORDER BY item.id;

-- opening::of_deleted_items (partitioned, text ids, integer): $1 Text, $2 Text, $3 TextArray, $4 TextArray
INSERT INTO shop.stock_movement (inventory_id, kind, old_quantity, new_quantity, reference, actor)
 SELECT item.id, 'closing', last.new_quantity, 0, $1, $2
   FROM (SELECT DISTINCT known.inventory_id AS id FROM shop.stock_movement AS known) AS item
  CROSS JOIN LATERAL (SELECT last.new_quantity, last.kind FROM shop.stock_movement AS last
          WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id AND last.stripe IS NULL
          ORDER BY last.movement_id DESC LIMIT 1) AS last
  WHERE last.kind OPERATOR(pg_catalog.<>) 'closing' AND $3 IS NOT NULL
    AND item.id OPERATOR(pg_catalog.<>) ALL ($4)
    AND NOT EXISTS (SELECT FROM shop.stock AS stock WHERE stock.id OPERATOR(pg_catalog.=) item.id)
  ORDER BY item.id;

-- attach::bad_rows (ordinary, uuids, numeric)
SELECT stock.id::pg_catalog.text AS id, stock.quantity::pg_catalog.text AS quantity,
       pg_catalog.count(*) OVER () AS rows
  FROM shop.stock AS stock
 WHERE NOT (stock.quantity IS NOT NULL AND stock.quantity OPERATOR(pg_catalog.>=) 0
         AND stock.quantity OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.numeric
         AND (pg_catalog.min_scale(stock.quantity) OPERATOR(pg_catalog.+)
              CASE WHEN stock.quantity OPERATOR(pg_catalog.<) 1 THEN 0
                   ELSE pg_catalog.length(pg_catalog.trunc(stock.quantity)::pg_catalog.text) END)
             OPERATOR(pg_catalog.<=) 28)
 ORDER BY stock.id LIMIT 5;

-- attach::bad_rows (partitioned, text ids, integer)
SELECT stock.id::pg_catalog.text AS id, stock."On hand"::pg_catalog.text AS quantity,
       pg_catalog.count(*) OVER () AS rows
  FROM shop.stock AS stock
 WHERE NOT (stock."On hand" IS NOT NULL AND stock."On hand" OPERATOR(pg_catalog.>=) 0)
 ORDER BY stock.id LIMIT 5;

-- attach::count_items
SELECT pg_catalog.count(*) AS items FROM shop.stock;

-- attach::check_name: $1 Oid, $2 Text, $3 Int2, $4 Int2
SELECT named.name::pg_catalog.text AS name, pg_catalog.quote_ident(named.name::pg_catalog.text) AS quoted,
       k.oid IS NOT NULL AS exists,
       k.oid IS NOT NULL AND NOT COALESCE(
           k.contype OPERATOR(pg_catalog.=) 'c' AND k.conkey OPERATOR(pg_catalog.=) ARRAY[$3, $4], false) AS foreign
  FROM (SELECT ($2 OPERATOR(pg_catalog.||) '_non_negative')::pg_catalog.name) AS named (name)
  LEFT JOIN pg_catalog.pg_constraint AS k
    ON k.conrelid OPERATOR(pg_catalog.=) $1 AND k.conname OPERATOR(pg_catalog.=) named.name;

-- attach::set_not_null (ordinary, uuids, numeric)
ALTER TABLE shop.stock ALTER COLUMN quantity SET NOT NULL;

-- attach::set_not_null (partitioned, text ids, integer)
ALTER TABLE shop.stock ALTER COLUMN "On hand" SET NOT NULL;

-- attach::drop_constraint
ALTER TABLE shop.stock DROP CONSTRAINT quantity_non_negative;

-- attach::add_check, 1 (ordinary, uuids, numeric)
ALTER TABLE shop.stock ADD CONSTRAINT quantity_non_negative
     CHECK (id IS NOT NULL AND quantity OPERATOR(pg_catalog.>=) '0'::pg_catalog.numeric
     AND quantity OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.numeric) NOT VALID;

-- attach::add_check, 1 (partitioned, text ids, integer)
ALTER TABLE shop.stock ADD CONSTRAINT quantity_non_negative
     CHECK (id IS NOT NULL AND "On hand" OPERATOR(pg_catalog.>=) 0) NOT VALID;

-- attach::add_check, 2
ALTER TABLE shop.stock VALIDATE CONSTRAINT quantity_non_negative;

-- attach::lock_configuration
LOCK TABLE public.inventory_attachment IN SHARE ROW EXCLUSIVE MODE;

-- attach::insert_configuration: $1 Oid, $2 Text, $3 Text, $4 Text, $5 Text, $6 Oid, $7 Oid, $8 Oid, $9 Oid
INSERT INTO public.inventory_attachment
        (stock_table, stock_schema, stock_name, check_name, id_column, quantity_column, run_as,
         movement_table, request_table, stripe_table, total_table)
 SELECT c.oid::pg_catalog.regclass, n.nspname, c.relname, $2::pg_catalog.name, $3::pg_catalog.name,
        $4::pg_catalog.name, $5, $6::pg_catalog.regclass, $7::pg_catalog.regclass, $8::pg_catalog.regclass,
        $9::pg_catalog.regclass
   FROM pg_catalog.pg_class AS c
   JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  WHERE c.oid OPERATOR(pg_catalog.=) $1;

-- attach::delete_configuration
DELETE FROM public.inventory_attachment;

-- catalog::striped_items (ordinary, uuids, numeric)
SELECT s.inventory_id AS id, pg_catalog.max(s.stripe) AS stripes,
       true AS present
  FROM ONLY shop.stock_stripe AS s
 GROUP BY s.inventory_id;

-- catalog::striped_items (partitioned, text ids, integer)
SELECT s.inventory_id AS id, pg_catalog.max(s.stripe) AS stripes,
       EXISTS (SELECT FROM shop.stock AS stock
                WHERE stock.id OPERATOR(pg_catalog.=) s.inventory_id) AS present
  FROM ONLY shop.stock_stripe AS s
 GROUP BY s.inventory_id;

-- catalog::condition: $1 Oid, $2 Oid
WITH tree AS (
    SELECT t.tgqual::pg_catalog.text AS nodes FROM pg_catalog.pg_trigger AS t WHERE t.oid OPERATOR(pg_catalog.=) $1
), called AS (
    SELECT found.part[1] AS field, found.part[2]::pg_catalog.oid AS oid
      FROM tree CROSS JOIN LATERAL
           pg_catalog.regexp_matches(tree.nodes, ':(funcid|opno|resulttype) ([0-9]+)', 'g') AS found (part)
), functions AS (
    SELECT p.oid, p.proowner, p.pronamespace, p.provolatile, p.proname, c.field
      FROM called AS c
      LEFT JOIN pg_catalog.pg_operator AS o
        ON c.field OPERATOR(pg_catalog.=) 'opno' AND o.oid OPERATOR(pg_catalog.=) c.oid
      JOIN pg_catalog.pg_proc AS p
        ON p.oid OPERATOR(pg_catalog.=) CASE c.field WHEN 'funcid' THEN c.oid ELSE o.oprcode::pg_catalog.oid END
     WHERE c.field OPERATOR(pg_catalog.<>) 'resulttype'
)
SELECT ARRAY(SELECT f.oid FROM functions AS f WHERE f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid) AS functions,
       NOT EXISTS (
           SELECT FROM tree CROSS JOIN LATERAL
                  pg_catalog.regexp_matches(tree.nodes, '(?<!\\)\{([A-Z_]+)', 'g') AS node (name)
            WHERE node.name[1] OPERATOR(pg_catalog.<>) ALL (ARRAY[
       'VAR', 'CONST', 'OPEXPR', 'DISTINCTEXPR', 'NULLIFEXPR', 'SCALARARRAYOPEXPR',
       'BOOLEXPR', 'NULLTEST', 'BOOLEANTEST', 'RELABELTYPE', 'COERCEVIAIO', 'COERCETODOMAIN',
       'FUNCEXPR', 'SQLVALUEFUNCTION', 'CASE', 'CASEEXPR', 'WHEN', 'CASEWHEN',
       'CASETESTEXPR', 'COALESCE', 'COALESCEEXPR', 'MINMAX', 'MINMAXEXPR', 'ARRAY',
       'ARRAYEXPR']))
       AND NOT EXISTS (
           SELECT FROM functions AS f
            WHERE NOT (f.proowner OPERATOR(pg_catalog.=) $2
                       AND f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid)
              AND NOT (f.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
                       AND (f.field OPERATOR(pg_catalog.=) 'opno'
                            OR f.provolatile OPERATOR(pg_catalog.=) 'i'
                            OR f.proname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY[
       'now', 'transaction_timestamp', 'statement_timestamp', 'clock_timestamp', 'current_setting', 'pg_trigger_depth',
       'concat', 'concat_ws', 'date_trunc', 'date_part', 'extract', 'to_char',
       'timezone']))))
       AND NOT EXISTS (
           SELECT FROM called AS c JOIN pg_catalog.pg_type AS y ON y.oid OPERATOR(pg_catalog.=) c.oid
            WHERE c.field OPERATOR(pg_catalog.=) 'resulttype'
              AND NOT (y.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
                       AND y.typtype OPERATOR(pg_catalog.=) 'b')
              AND NOT (y.typowner OPERATOR(pg_catalog.=) $2 AND y.typtype OPERATOR(pg_catalog.=) 'd'
                       AND y.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid)) AS plain;

-- catalog::open_to_triggers: $1 OidArray
SELECT DISTINCT c.oid
  FROM pg_catalog.pg_class AS c
 CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee
 WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1) AND a.privilege_type OPERATOR(pg_catalog.=) 'TRIGGER'
   AND a.grantee OPERATOR(pg_catalog.<>) c.relowner AND NOT COALESCE(r.rolsuper, false)
 ORDER BY c.oid;

-- catalog::subscribed: $1 OidArray
SELECT FROM pg_catalog.pg_subscription_rel AS r
  JOIN pg_catalog.pg_subscription AS s ON s.oid OPERATOR(pg_catalog.=) r.srsubid
  JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.subdbid
 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
   AND r.srrelid OPERATOR(pg_catalog.=) ANY ($1) LIMIT 1;

-- catalog::configuration
SELECT c.oid, c.relowner AS owner, pg_catalog.format('%I.%I', n.nspname, c.relname) AS relation,
       pg_catalog.quote_ident(n.nspname) AS schema
  FROM pg_catalog.pg_extension AS e
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
  JOIN pg_catalog.pg_class AS c
    ON c.relnamespace OPERATOR(pg_catalog.=) n.oid AND c.relname OPERATOR(pg_catalog.=) 'inventory_attachment'
 WHERE e.extname OPERATOR(pg_catalog.=) 'inventory_ext';

-- catalog::configured
SELECT a.stock_table::pg_catalog.oid AS stock_table, a.stock_schema::pg_catalog.text AS stock_schema,
       a.stock_name::pg_catalog.text AS stock_name, a.run_as, a.check_name::pg_catalog.text AS check_name,
       a.id_column::pg_catalog.text AS id_column, a.quantity_column::pg_catalog.text AS quantity_column,
       a.movement_table::pg_catalog.oid AS movement_table, a.request_table::pg_catalog.oid AS request_table,
       a.stripe_table::pg_catalog.oid AS stripe_table, a.total_table::pg_catalog.oid AS total_table,
       EXISTS (SELECT FROM pg_catalog.pg_subscription_rel AS r
  JOIN pg_catalog.pg_subscription AS s ON s.oid OPERATOR(pg_catalog.=) r.srsubid
  JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.subdbid
 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND (
           r.srrelid OPERATOR(pg_catalog.=) ANY (ARRAY[a.stock_table, a.movement_table, a.request_table,
                                                       a.stripe_table, a.total_table]::pg_catalog.oid[])
           OR r.srrelid OPERATOR(pg_catalog.=) ANY (
               SELECT tree.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(a.stock_table) AS tree)))
           AS subscribed
  FROM public.inventory_attachment AS a;

-- catalog::open_cursors
SELECT name FROM pg_catalog.pg_cursors;

-- catalog::dropped_objects
SELECT d.objid AS table, d.address_names[3] AS column, d.object_identity AS identity
  FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
 WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
   AND (d.object_type OPERATOR(pg_catalog.=) 'table' OR d.object_type OPERATOR(pg_catalog.=) 'table column')
   AND NOT d.is_temporary;

-- companions::index_movements
CREATE INDEX ON shop.stock_movement (inventory_id, movement_id);

-- companions::find: $1 Oid, $2 Text
SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  JOIN pg_catalog.pg_class AS stock ON stock.relnamespace OPERATOR(pg_catalog.=) c.relnamespace
 WHERE stock.oid OPERATOR(pg_catalog.=) $1 AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name;

-- companions::partitions: $1 Regclass
SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_partition_tree($1) AS tree
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) tree.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE tree.level OPERATOR(pg_catalog.>) 0 ORDER BY c.oid;

-- companions::default_grants: $1 Oid
SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s %I.%I FROM %s CASCADE',
           CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname,
           CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END) AS revocation
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
 WHERE a.grantee OPERATOR(pg_catalog.<>) c.relowner
   AND (c.oid OPERATOR(pg_catalog.=) $1
        OR c.oid OPERATOR(pg_catalog.=) ANY (
            SELECT d.objid FROM pg_catalog.pg_depend AS d
             WHERE d.refobjid OPERATOR(pg_catalog.=) $1
               AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
               AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
               AND d.deptype OPERATOR(pg_catalog.=) 'i'));

-- companions::quote: $1 Text
SELECT pg_catalog.quote_ident($1) AS quoted;

-- companions::create_trigger, 1
CREATE TRIGGER "0_inventory" BEFORE INSERT OR UPDATE OR DELETE ON shop.stock
   FOR EACH STATEMENT EXECUTE FUNCTION public.inventory_guard();

-- companions::create_trigger, 2
ALTER TRIGGER "0_inventory" ON shop.stock DEPENDS ON EXTENSION inventory_ext;

-- companions::drop_trigger
DROP TRIGGER "0_inventory" ON shop.stock;

-- companions::has_rows
SELECT FROM shop.stock_stripe LIMIT 1;

-- companions::create_table
CREATE TABLE shop.companion (
    idempotency_key text PRIMARY KEY,
    function_name text NOT NULL,
    arguments_hash bytea NOT NULL,
    answer json,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (fillfactor = 100);

-- companions::create_table (ordinary, uuids, numeric)
CREATE TABLE shop.companion (
    inventory_id uuid NOT NULL,
    stripe smallint NOT NULL CHECK (stripe > 0),
    quantity numeric NOT NULL CHECK (quantity >= '0'::numeric AND quantity < 'Infinity'::numeric),
    PRIMARY KEY (inventory_id, stripe)) WITH (fillfactor = 10);

-- companions::create_table (partitioned, text ids, integer)
CREATE TABLE shop.companion (
    inventory_id text NOT NULL,
    stripe smallint NOT NULL CHECK (stripe > 0),
    quantity numeric NOT NULL CHECK (quantity >= '0'::numeric AND quantity < 'Infinity'::numeric),
    PRIMARY KEY (inventory_id, stripe)) WITH (fillfactor = 10);

-- companions::create_table (ordinary, uuids, numeric)
CREATE TABLE shop.companion (
    inventory_id uuid PRIMARY KEY,
    quantity numeric NOT NULL) WITH (fillfactor = 100);

-- companions::create_table (partitioned, text ids, integer)
CREATE TABLE shop.companion (
    inventory_id text PRIMARY KEY,
    quantity numeric NOT NULL) WITH (fillfactor = 100);

-- companions::create_table (ordinary, uuids, numeric)
CREATE TABLE shop.companion (
    movement_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    inventory_id uuid NOT NULL,
    stripe smallint,
    kind text NOT NULL,
    old_quantity numeric NOT NULL,
    new_quantity numeric NOT NULL,
    delta numeric NOT NULL GENERATED ALWAYS AS (new_quantity - old_quantity) STORED,
    reference text,
    idempotency_key text,
    actor text NOT NULL,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (fillfactor = 100);

-- companions::create_table (partitioned, text ids, integer)
CREATE TABLE shop.companion (
    movement_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    inventory_id text NOT NULL,
    stripe smallint,
    kind text NOT NULL,
    old_quantity numeric NOT NULL,
    new_quantity numeric NOT NULL,
    delta numeric NOT NULL GENERATED ALWAYS AS (new_quantity - old_quantity) STORED,
    reference text,
    idempotency_key text,
    actor text NOT NULL,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (fillfactor = 100);

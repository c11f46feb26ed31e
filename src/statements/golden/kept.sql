-- Written and compared by golden.rs.

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
SELECT stock.id AS id, stock.quantity AS quantity, stock.ctid AS row
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
SELECT stock.id AS id, stock.quantity AS quantity, stock.ctid AS row
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

-- RecordItem (ordinary, uuids, numeric): $1 Uuid, $2 Int2, $3 Text, $4 Numeric,
--   $5 Numeric, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- RecordItem (partitioned, text ids, integer): $1 Text, $2 Int2, $3 Text, $4 Int4,
--   $5 Int4, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- RecordStripe (ordinary, uuids, numeric): $1 Uuid, $2 Int2, $3 Text, $4 Numeric,
--   $5 Numeric, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- RecordStripe (partitioned, text ids, integer): $1 Text, $2 Int2, $3 Text, $4 Numeric,
--   $5 Numeric, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- RecordMany (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array, $3 TextArray, $4 TextArray,
--   $5 TextArray, $6 Text, $7 Text, $8 Text
INSERT INTO shop.stock_movement
       (inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor)
SELECT change.id, change.stripe, change.kind, change.old_quantity, change.new_quantity, $6, $7, $8
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3),
                  pg_catalog.unnest($4::pg_catalog.numeric[]), pg_catalog.unnest($5::pg_catalog.numeric[]))
       AS change (id, stripe, kind, old_quantity, new_quantity);

-- RecordMany (partitioned, text ids, integer): $1 TextArray, $2 Int2Array, $3 TextArray, $4 TextArray,
--   $5 TextArray, $6 Text, $7 Text, $8 Text
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

-- LockSomeStripes (ordinary, uuids, numeric): $1 UuidArray, $2 Int2Array
SELECT s.inventory_id AS id, s.stripe, s.quantity, s.ctid AS row
  FROM shop.stock_stripe AS s
  JOIN ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS held (id, stripe)
    ON s.inventory_id OPERATOR(pg_catalog.=) held.id AND s.stripe OPERATOR(pg_catalog.=) held.stripe
   FOR UPDATE OF s;

-- LockSomeStripes (partitioned, text ids, integer): $1 TextArray, $2 Int2Array
SELECT s.inventory_id AS id, s.stripe, s.quantity, s.ctid AS row
  FROM shop.stock_stripe AS s
  JOIN ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS held (id, stripe)
    ON s.inventory_id OPERATOR(pg_catalog.=) held.id AND s.stripe OPERATOR(pg_catalog.=) held.stripe
   FOR UPDATE OF s;

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
SELECT stock.id AS id, given.total::pg_catalog.text AS total, stock.ctid AS row
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

-- Written and compared by golden.rs.

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

-- layout::lock_free_row (ordinary, uuids, numeric): $1 Uuid
SELECT
  FROM ONLY shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1
   FOR UPDATE SKIP LOCKED;

-- layout::lock_free_row (partitioned, text ids, integer): $1 Text
SELECT
  FROM shop.stock AS stock
 WHERE stock.id OPERATOR(pg_catalog.=) $1
   FOR UPDATE SKIP LOCKED;

-- layout::lock_free_stripes (ordinary, uuids, numeric): $1 Uuid
SELECT
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
   FOR UPDATE SKIP LOCKED;

-- layout::lock_free_stripes (partitioned, text ids, integer): $1 Text
SELECT
  FROM shop.stock_stripe AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
   FOR UPDATE SKIP LOCKED;

-- layout::lock_free_total (ordinary, uuids, numeric): $1 Uuid
SELECT
  FROM shop.stock_stripe_total AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
   FOR UPDATE SKIP LOCKED;

-- layout::lock_free_total (partitioned, text ids, integer): $1 Text
SELECT
  FROM shop.stock_stripe_total AS s
 WHERE s.inventory_id OPERATOR(pg_catalog.=) $1
   FOR UPDATE SKIP LOCKED;

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

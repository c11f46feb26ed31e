-- Written and compared by golden.rs.

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

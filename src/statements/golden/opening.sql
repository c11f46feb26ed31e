-- Written and compared by golden.rs.

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

-- Written and compared by golden.rs.

-- past::quantity_at (ordinary, uuids, numeric): $1 Uuid, $2 Timestamptz
SELECT CASE WHEN NOT pg_catalog.bool_or(last.stripe IS NULL AND last.kind OPERATOR(pg_catalog.=) 'closing')
            THEN pg_catalog.sum(last.new_quantity) END AS quantity,
       EXISTS (SELECT FROM ONLY shop.stock_movement AS m WHERE m.inventory_id OPERATOR(pg_catalog.=) $1) AS is_known,
       (SELECT pg_catalog.max(m.occurred_at)::pg_catalog.text FROM ONLY shop.stock_movement AS m
         WHERE m.inventory_id OPERATOR(pg_catalog.=) $1 AND m.occurred_at OPERATOR(pg_catalog.>) $2
           AND pg_catalog.starts_with(m.reference, 'archive, seal ')
           AND m.kind OPERATOR(pg_catalog.=) ANY (ARRAY['opening', 'closing'])) AS archived_until
  FROM (SELECT DISTINCT ON (m.stripe) m.stripe, m.kind, m.new_quantity
          FROM (SELECT n.stripe, n.kind, n.new_quantity, n.movement_id,
                       CASE WHEN n.kind OPERATOR(pg_catalog.=) 'transfer'
                            THEN pg_catalog.min(n.occurred_at) OVER (PARTITION BY n.xact_id, n.kind)
                            ELSE n.occurred_at END AS moment
                  FROM ONLY shop.stock_movement AS n
                 WHERE n.inventory_id OPERATOR(pg_catalog.=) $1) AS m
         WHERE m.moment OPERATOR(pg_catalog.<=) $2
         ORDER BY m.stripe, m.movement_id DESC) AS last;

-- past::quantity_at (partitioned, text ids, integer): $1 Text, $2 Timestamptz
SELECT CASE WHEN NOT pg_catalog.bool_or(last.stripe IS NULL AND last.kind OPERATOR(pg_catalog.=) 'closing')
            THEN pg_catalog.sum(last.new_quantity) END AS quantity,
       EXISTS (SELECT FROM ONLY shop.stock_movement AS m WHERE m.inventory_id OPERATOR(pg_catalog.=) $1) AS is_known,
       (SELECT pg_catalog.max(m.occurred_at)::pg_catalog.text FROM ONLY shop.stock_movement AS m
         WHERE m.inventory_id OPERATOR(pg_catalog.=) $1 AND m.occurred_at OPERATOR(pg_catalog.>) $2
           AND pg_catalog.starts_with(m.reference, 'archive, seal ')
           AND m.kind OPERATOR(pg_catalog.=) ANY (ARRAY['opening', 'closing'])) AS archived_until
  FROM (SELECT DISTINCT ON (m.stripe) m.stripe, m.kind, m.new_quantity
          FROM (SELECT n.stripe, n.kind, n.new_quantity, n.movement_id,
                       CASE WHEN n.kind OPERATOR(pg_catalog.=) 'transfer'
                            THEN pg_catalog.min(n.occurred_at) OVER (PARTITION BY n.xact_id, n.kind)
                            ELSE n.occurred_at END AS moment
                  FROM ONLY shop.stock_movement AS n
                 WHERE n.inventory_id OPERATOR(pg_catalog.=) $1) AS m
         WHERE m.moment OPERATOR(pg_catalog.<=) $2
         ORDER BY m.stripe, m.movement_id DESC) AS last;

-- past::quantity_at, with an archive (ordinary, uuids, numeric): $1 Uuid, $2 Timestamptz
SELECT CASE WHEN NOT pg_catalog.bool_or(last.stripe IS NULL AND last.kind OPERATOR(pg_catalog.=) 'closing')
            THEN pg_catalog.sum(last.new_quantity) END AS quantity,
       EXISTS (SELECT FROM ONLY shop.stock_movement AS m WHERE m.inventory_id OPERATOR(pg_catalog.=) $1) AS is_known,
       (SELECT pg_catalog.max(m.occurred_at)::pg_catalog.text FROM ONLY shop.stock_movement AS m
         WHERE m.inventory_id OPERATOR(pg_catalog.=) $1 AND m.occurred_at OPERATOR(pg_catalog.>) $2
           AND pg_catalog.starts_with(m.reference, 'archive, seal ')
           AND m.kind OPERATOR(pg_catalog.=) ANY (ARRAY['opening', 'closing'])) AS archived_until
  FROM (SELECT DISTINCT ON (m.stripe) m.stripe, m.kind, m.new_quantity
          FROM (SELECT n.stripe, n.kind, n.new_quantity, n.movement_id,
                       CASE WHEN n.kind OPERATOR(pg_catalog.=) 'transfer'
                            THEN pg_catalog.min(n.occurred_at) OVER (PARTITION BY n.xact_id, n.kind)
                            ELSE n.occurred_at END AS moment
                  FROM (SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity,
       m.reference, m.idempotency_key, m.actor, m.xact_id, m.occurred_at
          FROM ONLY shop.stock_movement AS m
         WHERE NOT EXISTS (SELECT FROM ONLY shop.archive AS a
                            WHERE a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id
                              AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
                              AND a.stripe IS NOT DISTINCT FROM m.stripe)
        UNION ALL
        SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity,
       m.reference, m.idempotency_key, m.actor, m.xact_id, m.occurred_at FROM ONLY shop.archive AS m) AS n
                 WHERE n.inventory_id OPERATOR(pg_catalog.=) $1) AS m
         WHERE m.moment OPERATOR(pg_catalog.<=) $2
         ORDER BY m.stripe, m.movement_id DESC) AS last;

-- past::quantity_at, with an archive (partitioned, text ids, integer): $1 Text, $2 Timestamptz
SELECT CASE WHEN NOT pg_catalog.bool_or(last.stripe IS NULL AND last.kind OPERATOR(pg_catalog.=) 'closing')
            THEN pg_catalog.sum(last.new_quantity) END AS quantity,
       EXISTS (SELECT FROM ONLY shop.stock_movement AS m WHERE m.inventory_id OPERATOR(pg_catalog.=) $1) AS is_known,
       (SELECT pg_catalog.max(m.occurred_at)::pg_catalog.text FROM ONLY shop.stock_movement AS m
         WHERE m.inventory_id OPERATOR(pg_catalog.=) $1 AND m.occurred_at OPERATOR(pg_catalog.>) $2
           AND pg_catalog.starts_with(m.reference, 'archive, seal ')
           AND m.kind OPERATOR(pg_catalog.=) ANY (ARRAY['opening', 'closing'])) AS archived_until
  FROM (SELECT DISTINCT ON (m.stripe) m.stripe, m.kind, m.new_quantity
          FROM (SELECT n.stripe, n.kind, n.new_quantity, n.movement_id,
                       CASE WHEN n.kind OPERATOR(pg_catalog.=) 'transfer'
                            THEN pg_catalog.min(n.occurred_at) OVER (PARTITION BY n.xact_id, n.kind)
                            ELSE n.occurred_at END AS moment
                  FROM (SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity,
       m.reference, m.idempotency_key, m.actor, m.xact_id, m.occurred_at
          FROM ONLY shop.stock_movement AS m
         WHERE NOT EXISTS (SELECT FROM ONLY shop.archive AS a
                            WHERE a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id
                              AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
                              AND a.stripe IS NOT DISTINCT FROM m.stripe)
        UNION ALL
        SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity,
       m.reference, m.idempotency_key, m.actor, m.xact_id, m.occurred_at FROM ONLY shop.archive AS m) AS n
                 WHERE n.inventory_id OPERATOR(pg_catalog.=) $1) AS m
         WHERE m.moment OPERATOR(pg_catalog.<=) $2
         ORDER BY m.stripe, m.movement_id DESC) AS last;

-- past::changes: $1 Int8, $2 Int8
SELECT pg_catalog.json_build_object(
           'movement_id', m.movement_id, 'inventory_id', m.inventory_id, 'stripe', m.stripe, 'kind', m.kind,
           'old_quantity', m.old_quantity, 'new_quantity', m.new_quantity,
           'delta', m.new_quantity OPERATOR(pg_catalog.-) m.old_quantity,
           'reference', m.reference, 'idempotency_key', m.idempotency_key, 'actor', m.actor,
           'xact_id', m.xact_id::pg_catalog.text, 'occurred_at', m.occurred_at)::pg_catalog.text AS change
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
 WHERE m.movement_id OPERATOR(pg_catalog.>) $1 AND m.movement_id OPERATOR(pg_catalog.<=) $2
 ORDER BY m.movement_id;

-- past::next_number: $1 Int8, $2 Int8
SELECT pg_catalog.min(m.movement_id) AS number
  FROM ONLY shop.stock_movement AS m
 WHERE m.movement_id OPERATOR(pg_catalog.>) $1 AND m.movement_id OPERATOR(pg_catalog.<=) $2;

-- past::last_there: $1 Int8
SELECT pg_catalog.max(m.movement_id) AS number
  FROM ONLY shop.stock_movement AS m
 WHERE m.movement_id OPERATOR(pg_catalog.>) $1;

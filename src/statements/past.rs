//! The statements that read the ledger along time.

use crate::core::item_id::IdType;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

const COLUMNS: &str = "m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity,
       m.reference, m.idempotency_key, m.actor, m.xact_id, m.occurred_at";

/// The movements of the ledger and of its archive. What archiving has left stands for one of the archive.
pub(super) fn movements(ledger: &str, archive: Option<&str>) -> String {
    match archive {
        None => format!("ONLY {ledger}"),
        Some(archive) => format!(
            "(SELECT {COLUMNS}
          FROM ONLY {ledger} AS m
         WHERE NOT EXISTS (SELECT FROM ONLY {archive} AS a
                            WHERE a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id
                              AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
                              AND a.stripe IS NOT DISTINCT FROM m.stripe)
        UNION ALL
        SELECT {COLUMNS} FROM ONLY {archive} AS m)"
        ),
    }
}

/// The stock of an item at a moment, whether the ledger has the item at all, and the moment until which its movements
/// were archived. What moves within an item in one transaction moves at one moment.
pub fn quantity_at(ledger: &str, archive: Option<&str>, id_type: IdType) -> Sql {
    let movements = movements(ledger, archive);
    let text = format!(
        "SELECT CASE WHEN NOT pg_catalog.bool_or(last.stripe IS NULL AND last.kind OPERATOR(pg_catalog.=) 'closing')
            THEN pg_catalog.sum(last.new_quantity) END AS quantity,
       EXISTS (SELECT FROM ONLY {ledger} AS m WHERE m.inventory_id OPERATOR(pg_catalog.=) $1) AS is_known,
       (SELECT pg_catalog.max(m.occurred_at)::pg_catalog.text FROM ONLY {ledger} AS m
         WHERE m.inventory_id OPERATOR(pg_catalog.=) $1 AND m.occurred_at OPERATOR(pg_catalog.>) $2
           AND pg_catalog.starts_with(m.reference, 'archive, seal ')
           AND m.kind OPERATOR(pg_catalog.=) ANY (ARRAY['opening', 'closing'])) AS archived_until
  FROM (SELECT DISTINCT ON (m.stripe) m.stripe, m.kind, m.new_quantity
          FROM (SELECT n.stripe, n.kind, n.new_quantity, n.movement_id,
                       CASE WHEN n.kind OPERATOR(pg_catalog.=) 'transfer'
                            THEN pg_catalog.min(n.occurred_at) OVER (PARTITION BY n.xact_id, n.kind)
                            ELSE n.occurred_at END AS moment
                  FROM {movements} AS n
                 WHERE n.inventory_id OPERATOR(pg_catalog.=) $1) AS m
         WHERE m.moment OPERATOR(pg_catalog.<=) $2
         ORDER BY m.stripe, m.movement_id DESC) AS last"
    );
    Sql::new(text, &[SqlType::of_id(id_type), SqlType::Timestamptz])
}

/// The movements after one and up to another, as JSON.
pub fn changes(ledger: &str, archive: Option<&str>) -> Sql {
    let movements = movements(ledger, archive);
    let text = format!(
        "SELECT pg_catalog.json_build_object(
           'movement_id', m.movement_id, 'inventory_id', m.inventory_id, 'stripe', m.stripe, 'kind', m.kind,
           'old_quantity', m.old_quantity, 'new_quantity', m.new_quantity,
           'delta', m.new_quantity OPERATOR(pg_catalog.-) m.old_quantity,
           'reference', m.reference, 'idempotency_key', m.idempotency_key, 'actor', m.actor,
           'xact_id', m.xact_id::pg_catalog.text, 'occurred_at', m.occurred_at)::pg_catalog.text AS change
  FROM {movements} AS m
 WHERE m.movement_id OPERATOR(pg_catalog.>) $1 AND m.movement_id OPERATOR(pg_catalog.<=) $2
 ORDER BY m.movement_id"
    );
    Sql::new(text, &[SqlType::Int8, SqlType::Int8])
}

/// The first movement after one, up to another.
pub fn next_number(ledger: &str, archive: Option<&str>) -> Sql {
    let text = format!(
        "SELECT pg_catalog.min(m.movement_id) AS number\n  FROM {} AS m
 WHERE m.movement_id OPERATOR(pg_catalog.>) $1 AND m.movement_id OPERATOR(pg_catalog.<=) $2",
        movements(ledger, archive)
    );
    Sql::new(text, &[SqlType::Int8, SqlType::Int8])
}

/// The last movement after one that is there.
pub fn last_there(ledger: &str) -> Sql {
    let text = format!(
        "SELECT pg_catalog.max(m.movement_id) AS number\n  FROM ONLY {ledger} AS m
 WHERE m.movement_id OPERATOR(pg_catalog.>) $1"
    );
    Sql::new(text, &[SqlType::Int8])
}

//! The statements that move closed history out of the ledger. $1, $2 and $3 are the chains and, of each, the last
//! movement that goes.

use super::audit::AuditNames;
use crate::core::item_id::IdType;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

const COLUMNS: &str = "movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, reference,
       idempotency_key, actor, xact_id, occurred_at";

const CUT: &str = "ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
       AS cut (id, stripe, last)";

const OF_CUT: &str = "m.inventory_id OPERATOR(pg_catalog.=) cut.id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) cut.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) cut.last";

fn parameters(id_type: IdType) -> Vec<SqlType> {
    vec![SqlType::of_ids(id_type), SqlType::Int2Array, SqlType::Int8Array]
}

/// Creates the archive.
pub fn create(archive: &str, id_type: IdType) -> Sql {
    let id = id_type.name();
    let text = format!(
        "CREATE TABLE {archive} (
    movement_id bigint NOT NULL,
    inventory_id {id} NOT NULL,
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
    PRIMARY KEY (inventory_id, movement_id))"
    );
    Sql::new(text, &[])
}

/// The last movement of each chain that was written before $1 and is sealed, where more than what an earlier archiving
/// left goes.
pub fn cut(ledger: &str, audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT c.inventory_id, c.stripe, pg_catalog.max(m.movement_id)
  FROM ONLY {} AS c
  JOIN ONLY {ledger} AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) c.inventory_id
   AND COALESCE(m.stripe, '0'::pg_catalog.int2) OPERATOR(pg_catalog.=) c.stripe
   AND m.movement_id OPERATOR(pg_catalog.<=) c.movement_id
 WHERE m.occurred_at OPERATOR(pg_catalog.<) $1
 GROUP BY c.inventory_id, c.stripe
HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1",
        audit.chains
    );
    Sql::new(text, &[SqlType::Timestamptz])
}

/// Makes movements of the archive to be found by their numbers, in whose order they are copied.
pub fn index(archive: &str) -> Sql {
    Sql::new(format!("CREATE INDEX ON {archive} USING brin (movement_id)"), &[])
}

/// How many movements of those that go have the number of another movement in the archive: it belongs to another ledger
/// then.
pub fn others(ledger: &str, archive: &str, id_type: IdType) -> Sql {
    let text = format!(
        "SELECT pg_catalog.count(*) AS movements
  FROM {CUT}
  JOIN ONLY {ledger} AS m
    ON {OF_CUT}
  JOIN ONLY {archive} AS a
    ON a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
 WHERE NOT (m.kind OPERATOR(pg_catalog.=) ANY (ARRAY['opening', 'closing'])
            AND m.old_quantity OPERATOR(pg_catalog.=) 0
            AND m.new_quantity OPERATOR(pg_catalog.=) a.new_quantity
            AND m.occurred_at OPERATOR(pg_catalog.=) a.occurred_at)"
    );
    Sql::new(text, &parameters(id_type))
}

/// Copies what goes; what an earlier archiving left has its original there.
pub fn copy(ledger: &str, archive: &str, id_type: IdType) -> Sql {
    let text = format!(
        "INSERT INTO {archive} ({COLUMNS})
SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, m.reference,
       m.idempotency_key, m.actor, m.xact_id, m.occurred_at
  FROM {CUT}
  JOIN ONLY {ledger} AS m
    ON {OF_CUT}
 ORDER BY m.movement_id
    ON CONFLICT (inventory_id, movement_id) DO NOTHING"
    );
    Sql::new(text, &parameters(id_type))
}

/// How many movements of those that go are not in the archive: something on it has kept them out.
pub fn left_out(ledger: &str, archive: &str, id_type: IdType) -> Sql {
    let text = format!(
        "SELECT pg_catalog.count(*) AS movements
  FROM {CUT}
  JOIN ONLY {ledger} AS m
    ON {OF_CUT}
 WHERE NOT EXISTS (
           SELECT FROM ONLY {archive} AS a
            WHERE a.inventory_id OPERATOR(pg_catalog.=) m.inventory_id
              AND a.movement_id OPERATOR(pg_catalog.=) m.movement_id
              AND a.stripe IS NOT DISTINCT FROM m.stripe
              AND a.new_quantity OPERATOR(pg_catalog.=) m.new_quantity)"
    );
    Sql::new(text, &parameters(id_type))
}

/// Deletes what was copied.
pub fn delete(ledger: &str, id_type: IdType) -> Sql {
    let text = format!("DELETE FROM ONLY {ledger} AS m\n USING {CUT}\n WHERE {OF_CUT}");
    Sql::new(text, &parameters(id_type))
}

/// Leaves a movement for each chain, which has the number and the time of the last that went, and the balance.
pub fn leave(ledger: &str, archive: &str, id_type: IdType) -> Sql {
    let text = format!(
        "INSERT INTO {ledger} ({COLUMNS})
OVERRIDING SYSTEM VALUE
SELECT m.movement_id, m.inventory_id, m.stripe,
       CASE WHEN m.kind OPERATOR(pg_catalog.=) 'closing' THEN 'closing' ELSE 'opening' END,
       0, m.new_quantity, $4, NULL, $5, pg_catalog.pg_current_xact_id(), m.occurred_at
  FROM {CUT}
  JOIN ONLY {archive} AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) cut.id AND m.movement_id OPERATOR(pg_catalog.=) cut.last
 ORDER BY m.movement_id
RETURNING {COLUMNS}"
    );
    let mut parameters = parameters(id_type);
    parameters.extend([SqlType::Text, SqlType::Text]);
    Sql::new(text, &parameters)
}

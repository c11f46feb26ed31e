//! The statements of the audit: what it reads, and its own tables.

use super::{Names, past};
use crate::core::item_id::IdType;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// The tables of the audit, quoted, with their schema.
#[derive(Clone)]
pub struct AuditNames {
    /// The runs, and their seals.
    pub runs: String,
    /// How far each chain is verified.
    pub chains: String,
    /// What was sealed.
    pub segments: String,
}

impl AuditNames {
    /// All of them, in the order in which they are created.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        [&self.runs, &self.chains, &self.segments].into_iter().map(String::as_str)
    }
}

/// The comment of a table.
pub fn comment(table: &str, text: &str) -> Sql {
    Sql::new(format!("COMMENT ON TABLE {table} IS '{text}'"), &[])
}

/// The oid of a table that was created, by its name, $1.
pub fn oid_of() -> Sql {
    Sql::new("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid AS oid", &[SqlType::Text])
}

/// What part of a ledger is read.
#[derive(Clone, Copy)]
pub enum Range {
    /// All movements.
    All,
    /// Those of one item, $1.
    Item,
    /// Those of some items, $1.
    Items,
    /// Those after a movement, $1.
    After,
    /// The movement $1.
    One,
}

/// The types of the columns of [`movements`].
pub fn movement_types(id_type: IdType) -> [SqlType; 11] {
    [
        SqlType::Int8,
        SqlType::of_id(id_type),
        SqlType::Int2,
        SqlType::Text,
        SqlType::Numeric,
        SqlType::Numeric,
        SqlType::Text,
        SqlType::Text,
        SqlType::Text,
        SqlType::Xid8,
        SqlType::Timestamptz,
    ]
}

/// Movements, with every column that is hashed.
///
/// Without hashes the columns that only they need are NULL.
pub fn movements(ledger: &str, id_type: IdType, range: Range, hashes: bool) -> Sql {
    let (condition, parameters) = range.condition(id_type, "m.movement_id");
    let of_hashes = if hashes {
        "m.reference,\n       m.idempotency_key, m.actor, m.xact_id"
    } else {
        "NULL::pg_catalog.text,\n       NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.xid8"
    };
    let text = format!(
        "SELECT m.movement_id, m.inventory_id, m.stripe, m.kind, m.old_quantity, m.new_quantity, {of_hashes},
       m.occurred_at
  FROM ONLY {ledger} AS m{}",
        condition.replace("{item}", "m.inventory_id")
    );
    Sql::new(text, &parameters)
}

impl Range {
    fn condition(self, id_type: IdType, number: &str) -> (String, Vec<SqlType>) {
        match self {
            Self::All => (String::new(), Vec::new()),
            Self::Item => ("\n WHERE {item} OPERATOR(pg_catalog.=) $1".to_owned(), vec![SqlType::of_id(id_type)]),
            Self::Items => {
                ("\n WHERE {item} OPERATOR(pg_catalog.=) ANY ($1)".to_owned(), vec![SqlType::of_ids(id_type)])
            }
            Self::One => (format!("\n WHERE {number} OPERATOR(pg_catalog.=) $1"), vec![SqlType::Int8]),
            Self::After => (format!("\n WHERE {number} OPERATOR(pg_catalog.>) $1"), vec![SqlType::Int8]),
        }
    }
}

fn of_item(names: &Names, column: &str, one: bool) -> (String, Vec<SqlType>) {
    if one {
        (format!("\n WHERE {column} OPERATOR(pg_catalog.=) $1"), vec![names.id_parameter()])
    } else {
        (String::new(), Vec::new())
    }
}

/// The stock of all items, or of one.
pub fn stock(names: &Names, one: bool) -> Sql {
    let (source, id, quantity) = (names.source(), &names.id, &names.quantity);
    let (condition, parameters) = of_item(names, &format!("stock.{id}"), one);
    Sql::new(
        format!("SELECT stock.{id}, stock.{quantity}::pg_catalog.numeric\n  FROM {source}{condition}"),
        &parameters,
    )
}

/// The stripes of all items, or of one.
pub fn stripes(names: &Names, one: bool) -> Sql {
    let (condition, parameters) = of_item(names, "s.inventory_id", one);
    let text = format!("SELECT s.inventory_id, s.stripe, s.quantity\n  FROM ONLY {} AS s{condition}", names.stripes);
    Sql::new(text, &parameters)
}

/// How far the chains of all items, or of one, are verified.
pub fn chains(names: &Names, audit: &AuditNames, one: bool) -> Sql {
    let (condition, parameters) = of_item(names, "c.inventory_id", one);
    let text = format!(
        "SELECT c.inventory_id, c.stripe, c.movement_id, c.kind, c.quantity, c.occurred_at, c.head, c.broken
  FROM ONLY {} AS c{condition}",
        audit.chains
    );
    Sql::new(text, &parameters)
}

/// The items with a chain that is broken.
pub fn broken_items(audit: &AuditNames) -> Sql {
    let text = format!("SELECT DISTINCT c.inventory_id AS id\n  FROM ONLY {} AS c\n WHERE c.broken", audit.chains);
    Sql::new(text, &[])
}

/// The sealed movements of all items, or of one, up to a seal.
pub fn sealed(names: &Names, audit: &AuditNames, one: bool) -> Sql {
    let condition = if one { "\n   AND g.inventory_id OPERATOR(pg_catalog.=) $2" } else { "" };
    let mut parameters = vec![SqlType::Int8];
    parameters.extend(one.then_some(names.id_parameter()));
    let text = format!(
        "SELECT g.inventory_id, g.stripe, g.movements
  FROM ONLY {} AS g
 WHERE g.seal_number OPERATOR(pg_catalog.>=) 1 AND g.seal_number OPERATOR(pg_catalog.<=) $1{condition}",
        audit.segments
    );
    Sql::new(text, &parameters)
}

/// The types of the columns of [`heads_in_order`].
pub const HEAD_TYPES: [SqlType; 3] = [SqlType::Int8, SqlType::Bytea, SqlType::Int8];

/// The hashes of the segments of all seals up to one, and their lengths, in the order in which they were sealed.
pub fn heads_in_order(audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT g.seal_number, g.head, pg_catalog.octet_length(g.movements)::pg_catalog.int8
  FROM ONLY {} AS g
 WHERE g.seal_number OPERATOR(pg_catalog.<=) $1
 ORDER BY g.seal_number, g.place",
        audit.segments
    );
    Sql::new(text, &[SqlType::Int8])
}

/// The segments of all seals up to one, chain by chain, in the order in which they were sealed.
pub fn segments_by_chain(audit: &AuditNames, id_type: IdType) -> (Sql, [SqlType; 11]) {
    let text = format!(
        "SELECT g.seal_number, g.place, g.inventory_id, g.stripe, g.first_movement, g.last_movement, g.quantity,
       g.previous, g.root, g.head, g.movements
  FROM ONLY {} AS g
 WHERE g.seal_number OPERATOR(pg_catalog.<=) $1
 ORDER BY g.inventory_id, g.stripe, g.seal_number, g.place",
        audit.segments
    );
    let types = [
        SqlType::Int8,
        SqlType::Int8,
        SqlType::of_id(id_type),
        SqlType::Int2,
        SqlType::Int8,
        SqlType::Int8,
        SqlType::Text,
        SqlType::Bytea,
        SqlType::Bytea,
        SqlType::Bytea,
        SqlType::Bytea,
    ];
    (Sql::new(text, &[SqlType::Int8]), types)
}

/// The segment that has a movement of an item.
pub fn segment_of(audit: &AuditNames, id_type: IdType) -> Sql {
    let text = format!(
        "SELECT g.seal_number, g.place, g.inventory_id, g.stripe, g.first_movement, g.last_movement, g.quantity,
       g.previous, g.root, g.head, g.movements
  FROM ONLY {} AS g
 WHERE g.inventory_id OPERATOR(pg_catalog.=) $1 AND g.stripe OPERATOR(pg_catalog.=) $2
   AND g.first_movement OPERATOR(pg_catalog.<=) $3 AND g.last_movement OPERATOR(pg_catalog.>=) $3
 ORDER BY g.seal_number",
        audit.segments
    );
    Sql::new(text, &[SqlType::of_id(id_type), SqlType::Int2, SqlType::Int8])
}

/// The heads of the segments of one seal, in their order.
pub fn heads(audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT g.head\n  FROM ONLY {} AS g\n WHERE g.seal_number OPERATOR(pg_catalog.=) $1\n ORDER BY g.place",
        audit.segments
    );
    Sql::new(text, &[SqlType::Int8])
}

/// The types of the columns of [`seals`].
pub const SEAL_TYPES: [SqlType; 6] =
    [SqlType::Int8, SqlType::Int8, SqlType::Timestamptz, SqlType::Bytea, SqlType::Bytea, SqlType::Bytea];

/// The seals, from one on.
pub fn seals(audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT r.seal_number, r.sealed, r.sealed_at, r.previous_seal, r.root, r.seal
  FROM ONLY {} AS r
 WHERE r.seal_number OPERATOR(pg_catalog.>=) $1
 ORDER BY r.seal_number",
        audit.runs
    );
    Sql::new(text, &[SqlType::Int8])
}

/// The newest seal, and how many movements are sealed.
pub fn newest_seal(audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT r.seal_number AS number, r.seal, pg_catalog.sum(r.sealed) OVER ()::pg_catalog.int8 AS movements,
       pg_catalog.to_char(r.sealed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS sealed_at
  FROM ONLY {} AS r
 WHERE r.seal_number IS NOT NULL
 ORDER BY r.seal_number DESC",
        audit.runs
    );
    Sql::new(text, &[])
}

/// The movement that every earlier one is known to be seen before: the position of a run after which all transactions
/// that ran then had ended when the newest run began.
pub fn position(audit: &AuditNames) -> Sql {
    let whole = |alias| format!("{alias}.kind OPERATOR(pg_catalog.=) 'audit' AND {alias}.inventory_id IS NULL");
    let text = format!(
        "SELECT pg_catalog.max(r.position) AS position
  FROM ONLY {runs} AS r,
       (SELECT n.oldest_transaction FROM ONLY {runs} AS n
         WHERE {}
         ORDER BY n.run_id DESC LIMIT 1) AS newest
 WHERE {}
   AND r.next_transaction OPERATOR(pg_catalog.<=) newest.oldest_transaction",
        whole("n"),
        whole("r"),
        runs = audit.runs
    );
    Sql::new(text, &[])
}

/// Whether the tables are those of this ledger: of the movements that were verified last, one at least is there.
pub fn is_of_ledger(audit: &AuditNames, ledger: &str) -> Sql {
    let text = format!(
        "SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) 0 OR pg_catalog.count(m.movement_id) OPERATOR(pg_catalog.>) 0
           AS is_known
  FROM (SELECT c.inventory_id, c.movement_id, c.occurred_at
          FROM ONLY {} AS c
         WHERE c.movement_id OPERATOR(pg_catalog.>) 0
         ORDER BY c.movement_id DESC LIMIT 50) AS verified
  LEFT JOIN ONLY {ledger} AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) verified.inventory_id
   AND m.movement_id OPERATOR(pg_catalog.=) verified.movement_id
   AND m.occurred_at OPERATOR(pg_catalog.=) verified.occurred_at",
        audit.chains
    );
    Sql::new(text, &[])
}

/// Whether a sequence, $1, gives out numbers in the order of the calls.
pub fn rises() -> Sql {
    let text = "SELECT q.seqcache OPERATOR(pg_catalog.=) 1 AND q.seqincrement OPERATOR(pg_catalog.>) 0
       AND NOT q.seqcycle AS rises
  FROM pg_catalog.pg_sequence AS q
 WHERE q.seqrelid OPERATOR(pg_catalog.=) $1";
    Sql::new(text, &[SqlType::Oid])
}

/// About how many items there are.
pub fn items() -> Sql {
    let text = "SELECT pg_catalog.sum(GREATEST(c.reltuples, 0))::pg_catalog.int8 AS items
  FROM pg_catalog.pg_class AS c
 WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1)";
    Sql::new(text, &[SqlType::OidArray])
}

/// The last number of the sequence of movements.
pub fn last_number(sequence: &str) -> Sql {
    Sql::new(format!("SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END AS number FROM {sequence} AS s"), &[])
}

/// The transactions that run in a snapshot: the oldest, the oldest that is not this one, the first that is too new to
/// be told, and this one; and the moment.
pub fn snapshot() -> Sql {
    let text = "SELECT pg_catalog.pg_snapshot_xmin(s.snapshot)::pg_catalog.text::pg_catalog.int8 AS oldest,
       (SELECT pg_catalog.min(x.xid::pg_catalog.text::pg_catalog.int8)
          FROM pg_catalog.pg_snapshot_xip(s.snapshot) AS x (xid)
         WHERE x.xid IS DISTINCT FROM s.own) AS other,
       pg_catalog.pg_snapshot_xmax(s.snapshot)::pg_catalog.text::pg_catalog.int8 AS end,
       s.own::pg_catalog.text::pg_catalog.int8 AS own, pg_catalog.clock_timestamp() AS moment
  FROM (SELECT pg_catalog.pg_current_snapshot() AS snapshot,
               pg_catalog.pg_current_xact_id_if_assigned() AS own) AS s";
    Sql::new(text, &[])
}

/// The discrepancies that a reconciliation has acknowledged.
pub fn acknowledged(audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT r.acknowledged::pg_catalog.text AS acknowledged
  FROM ONLY {} AS r
 WHERE r.acknowledged IS NOT NULL",
        audit.runs
    );
    Sql::new(text, &[])
}

/// Adds segments.
pub fn add_segments(audit: &AuditNames, id_type: IdType) -> Sql {
    let text = format!(
        "INSERT INTO {} (seal_number, place, inventory_id, stripe, first_movement, last_movement, quantity,
       previous, root, head, movements)
SELECT $1, new.place, new.id, new.stripe, new.first, new.last, new.quantity, new.previous, new.root, new.head,
       new.movements
  FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                  pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9),
                  pg_catalog.unnest($10), pg_catalog.unnest($11))
       AS new (place, id, stripe, first, last, quantity, previous, root, head, movements)",
        audit.segments
    );
    let (numbers, bytes) = (SqlType::Int8Array, SqlType::ByteaArray);
    Sql::new(
        text,
        &[
            SqlType::Int8,
            numbers,
            SqlType::of_ids(id_type),
            SqlType::Int2Array,
            numbers,
            numbers,
            SqlType::TextArray,
            bytes,
            bytes,
            bytes,
            bytes,
        ],
    )
}

/// Keeps how far chains are verified.
pub fn keep_chains(audit: &AuditNames, id_type: IdType) -> Sql {
    let text = format!(
        "INSERT INTO {} AS c (inventory_id, stripe, movement_id, kind, quantity, occurred_at, head, broken)
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
       occurred_at = EXCLUDED.occurred_at, head = EXCLUDED.head, broken = EXCLUDED.broken",
        audit.chains
    );
    Sql::new(
        text,
        &[
            SqlType::of_ids(id_type),
            SqlType::Int2Array,
            SqlType::Int8Array,
            SqlType::TextArray,
            SqlType::TextArray,
            SqlType::Int8Array,
            SqlType::ByteaArray,
            SqlType::BoolArray,
        ],
    )
}

/// Keeps a run. All about its seal is NULL where it sealed nothing.
pub fn keep_run(audit: &AuditNames) -> Sql {
    let text = format!(
        "INSERT INTO {} (kind, started_at, finished_at, is_full, checked_movements, checked_items,
       discrepancies, found, inventory_id, position, oldest_transaction, next_transaction, actor, acknowledged,
       seal_number, sealed, sealed_at, previous_seal, root, seal)
VALUES ($1, $2, pg_catalog.clock_timestamp(), $3, $4, $5, $6, $7::pg_catalog.json, $8, $9, $10, $11, $12,
        $13::pg_catalog.json, $14, $15,
        '2000-01-01 00:00:00+00'::pg_catalog.timestamptz OPERATOR(pg_catalog.+)
        ($16 OPERATOR(pg_catalog.*) '1 microsecond'::pg_catalog.interval), $17, $18, $19)
RETURNING run_id",
        audit.runs
    );
    let (number, bytes) = (SqlType::Int8, SqlType::Bytea);
    Sql::new(
        text,
        &[
            SqlType::Text,
            SqlType::Timestamptz,
            SqlType::Bool,
            number,
            number,
            number,
            SqlType::Text,
            SqlType::Text,
            number,
            number,
            number,
            SqlType::Text,
            SqlType::Text,
            number,
            number,
            number,
            bytes,
            bytes,
            bytes,
        ],
    )
}

/// The types of the columns of [`describe_movements`].
pub const DESCRIBED_TYPES: [SqlType; 5] = [SqlType::Int8, SqlType::Text, SqlType::Text, SqlType::Text, SqlType::Text];

/// Movements of items, as details of what was found, each with its place among those that are asked for. The ledger is
/// read once, however many they are.
pub fn describe_movements(ledger: &str, id_type: IdType) -> Sql {
    let text = format!(
        "SELECT wanted.place, m.kind, m.reference, m.actor, m.xact_id::pg_catalog.text
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) WITH ORDINALITY AS wanted (id, number, place)
  JOIN ONLY {ledger} AS m
    ON m.inventory_id OPERATOR(pg_catalog.=) wanted.id AND m.movement_id OPERATOR(pg_catalog.=) wanted.number"
    );
    Sql::new(text, &[SqlType::of_ids(id_type), SqlType::Int8Array])
}

/// The types of the columns of [`last_seal`].
pub const LAST_SEAL_TYPES: [SqlType; 2] = [SqlType::Int8, SqlType::Bytea];

/// The newest seal.
pub fn last_seal(audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT r.seal_number, r.seal\n  FROM ONLY {} AS r
 WHERE r.seal_number IS NOT NULL\n ORDER BY r.seal_number DESC\n LIMIT 1",
        audit.runs
    );
    Sql::new(text, &[])
}

/// The shop's own table of sales.
#[derive(Clone, Copy)]
pub struct Sales<'a> {
    /// Its name, quoted, with its schema.
    pub table: &'a str,
    /// The column of the reference, quoted.
    pub reference: &'a str,
    /// That of the item.
    pub item: &'a str,
    /// That of the quantity.
    pub quantity: &'a str,
}

/// The quantity that was sold under each reference, of each item.
pub fn sold(id_type: IdType, Sales { table, reference, item, quantity }: Sales<'_>) -> Sql {
    let id = SqlType::of_id(id_type).name();
    let text = format!(
        "SELECT sale.{reference}::pg_catalog.text AS reference,
       sale.{item}::pg_catalog.text::{id}::pg_catalog.text AS item,
       pg_catalog.sum(sale.{quantity}::pg_catalog.numeric) AS quantity
  FROM {table} AS sale
 WHERE sale.{reference} IS NOT NULL AND sale.{item} IS NOT NULL AND sale.{quantity} IS NOT NULL
 GROUP BY 1, 2"
    );
    Sql::new(text, &[])
}

/// The types of the columns of [`deducted`].
pub const DEDUCTED_TYPES: [SqlType; 8] = [
    SqlType::Text,
    SqlType::Text,
    SqlType::Numeric,
    SqlType::Int8,
    SqlType::Numeric,
    SqlType::Numeric,
    SqlType::Bool,
    SqlType::Text,
];

/// What was deducted under each reference, of each item: the quantity, by how many transactions, the least and the most
/// that one of them deducted, whether the last ended since $1, and the movements.
pub fn deducted(ledger: &str, archive: Option<&str>) -> Sql {
    let movements = past::movements(ledger, archive);
    let text = format!(
        "SELECT moved.reference, moved.item, pg_catalog.sum(moved.quantity) AS quantity, pg_catalog.count(*) AS times,
       pg_catalog.min(moved.quantity) AS least, pg_catalog.max(moved.quantity) AS most,
       $1 IS NULL OR pg_catalog.max(moved.ended) OPERATOR(pg_catalog.>=) $1 AS is_recent,
       pg_catalog.string_agg(moved.movements, ',') AS movements
  FROM (SELECT m.reference, m.inventory_id::pg_catalog.text AS item,
               pg_catalog.sum(m.old_quantity OPERATOR(pg_catalog.-) m.new_quantity) AS quantity,
               pg_catalog.max(m.occurred_at) AS ended,
               pg_catalog.string_agg(m.movement_id::pg_catalog.text, ',' ORDER BY m.movement_id) AS movements
          FROM {movements} AS m
         WHERE m.kind OPERATOR(pg_catalog.=) 'sale' AND m.reference IS NOT NULL
         GROUP BY m.reference, m.inventory_id, m.xact_id) AS moved
 GROUP BY moved.reference, moved.item"
    );
    Sql::new(text, &[SqlType::Timestamptz])
}

/// The newest audit of an item, $1, or of all items: the movements that it has seen, and what it found.
pub fn newest_audit(audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT r.run_id, r.position, r.is_full, r.discrepancies, r.found::pg_catalog.text AS found
  FROM ONLY {} AS r
 WHERE r.kind OPERATOR(pg_catalog.=) 'audit'
   AND (r.inventory_id IS NULL OR r.inventory_id OPERATOR(pg_catalog.=) $1)
 ORDER BY r.run_id DESC
 LIMIT 1",
        audit.runs
    );
    Sql::new(text, &[SqlType::Text])
}

/// The last movement of an item.
pub fn last_movement(ledger: &str, id_type: IdType) -> Sql {
    let text = format!(
        "SELECT pg_catalog.max(m.movement_id) AS number\n  FROM ONLY {ledger} AS m
 WHERE m.inventory_id OPERATOR(pg_catalog.=) $1"
    );
    Sql::new(text, &[SqlType::of_id(id_type)])
}

/// The last movement that an archiving may have moved; NULL, there was none.
pub fn archived_until(audit: &AuditNames) -> Sql {
    let text = format!(
        "SELECT pg_catalog.max(r.position) AS position\n  FROM ONLY {} AS r
 WHERE r.kind OPERATOR(pg_catalog.=) 'archive'",
        audit.runs
    );
    Sql::new(text, &[])
}

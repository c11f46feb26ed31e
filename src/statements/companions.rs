//! The statements that create companions and triggers, and find them.

use crate::core::error::{Error, Result};
use crate::core::item_id::IdType;
use crate::core::part::Companion;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// PostgreSQL's own fillfactor.
const FULL: u8 = 100;
/// Pages are kept mostly empty: stripes are written all the time, and sessions that write one page wait for each other.
const STRIPE_FILL: u8 = 10;

/// Creates a companion. The quantity of a stripe is a numeric of any precision: a stripe may hold a fraction of a unit
/// of the stock column; the sum of the stripes never does.
pub fn create_table(name: &str, companion: Companion, id_type: IdType) -> Sql {
    let id = id_type.name();
    let (columns, fill) = match companion {
        Companion::Movements => (
            format!(
                "
    movement_id bigint GENERATED ALWAYS AS IDENTITY,
    inventory_id {id} NOT NULL,
    stripe smallint,
    kind text NOT NULL,
    old_quantity numeric NOT NULL,
    new_quantity numeric NOT NULL,
    delta numeric NOT NULL GENERATED ALWAYS AS (new_quantity - old_quantity) STORED,
    reference text,
    idempotency_key text,
    actor text NOT NULL,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (inventory_id, movement_id)"
            ),
            FULL,
        ),
        Companion::Requests => (
            "
    idempotency_key text PRIMARY KEY,
    function_name text NOT NULL,
    arguments_hash bytea NOT NULL,
    answer json,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()"
                .to_owned(),
            FULL,
        ),
        Companion::Stripes => (
            format!(
                "
    inventory_id {id} NOT NULL,
    stripe smallint NOT NULL CHECK (stripe > 0),
    quantity numeric NOT NULL CHECK (quantity >= '0'::numeric AND quantity < 'Infinity'::numeric),
    PRIMARY KEY (inventory_id, stripe)"
            ),
            STRIPE_FILL,
        ),
        Companion::Totals => (
            format!(
                "
    inventory_id {id} PRIMARY KEY,
    quantity numeric NOT NULL"
            ),
            FULL,
        ),
    };
    Sql::new(format!("CREATE TABLE {name} ({columns}) WITH (fillfactor = {fill})"), &[])
}

/// Creates the indexes by which movements are found that were written together. Native writes add rows at the end, so
/// that neighbours in the table are neighbours in time: a BRIN index knows a range of pages by two values, and a new
/// movement costs it next to nothing.
pub fn index_movements(ledger: &str) -> [Sql; 2] {
    ["movement_id", "occurred_at"].map(|column| {
        Sql::new(format!("CREATE INDEX ON {ledger} USING brin ({column}) WITH (autosummarize = on)"), &[])
    })
}

/// Finds a relation of a name in a schema.
pub fn find() -> Sql {
    let text = "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       pg_catalog.obj_description(c.oid, 'pg_class') AS description
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE n.oid OPERATOR(pg_catalog.=) $1 AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name";
    Sql::new(text, &[SqlType::Oid, SqlType::Text])
}

/// Finds a schema.
pub fn schema() -> Sql {
    let text = "SELECT n.oid, pg_catalog.quote_ident(n.nspname) AS quoted FROM pg_catalog.pg_namespace AS n
 WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name";
    Sql::new(text, &[SqlType::Text])
}

/// Finds the tables of stripes of an owner by their comments, with the stock table that the comment names, and whether
/// it is known that they are another one's: a table of the name, or one beside them that their own name is made of,
/// belongs to the owner and has been attached. It then has a CHECK of ours.
pub fn find_stripes() -> Result<Sql> {
    let (before, after) = around_name(Companion::Stripes)?;
    let suffix = Companion::Stripes.suffix();
    let text = format!(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, made_for.name AS made_for, EXISTS (
           SELECT FROM pg_catalog.pg_class AS s
             JOIN pg_catalog.pg_namespace AS m ON m.oid OPERATOR(pg_catalog.=) s.relnamespace
            WHERE s.relkind::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p'])
              AND s.relowner OPERATOR(pg_catalog.=) $1 AND s.oid OPERATOR(pg_catalog.<>) $2
              AND (pg_catalog.format('%I.%I', m.nspname, s.relname) OPERATOR(pg_catalog.=) made_for.name
                   OR s.relnamespace OPERATOR(pg_catalog.=) c.relnamespace
                      AND c.relname::pg_catalog.text OPERATOR(pg_catalog.=)
                          (s.relname::pg_catalog.text OPERATOR(pg_catalog.||) '{suffix}'))
              AND {marked}) AS is_known
  FROM pg_catalog.pg_description AS d
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) d.objoid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 CROSS JOIN LATERAL (VALUES (pg_catalog.substr(d.description, {begin},
           pg_catalog.length(d.description) OPERATOR(pg_catalog.-) {around}))) AS made_for (name)
 WHERE d.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
   AND d.objsubid OPERATOR(pg_catalog.=) 0 AND c.relowner OPERATOR(pg_catalog.=) $1
   AND pg_catalog.starts_with(d.description, '{before}')
   AND pg_catalog.right(d.description, {tail}) OPERATOR(pg_catalog.=) '{after}'
 ORDER BY c.oid",
        marked = marked("s.oid"),
        begin = before.len() + 1,
        around = before.len() + after.len(),
        tail = after.len(),
    );
    Ok(Sql::new(text, &[SqlType::Oid, SqlType::Oid]))
}

/// Whether a table has been attached: the CHECK stays when it is detached, and with a dump.
pub fn is_marked() -> Sql {
    Sql::new(format!("SELECT {} AS is_marked", marked("$1")), &[SqlType::Oid])
}

/// The CHECK has the name of its second column, cut to the length of a name as PostgreSQL cuts it.
fn marked(table: &str) -> String {
    format!(
        "EXISTS (
           SELECT FROM pg_catalog.pg_constraint AS k
             JOIN pg_catalog.pg_attribute AS q
               ON q.attrelid OPERATOR(pg_catalog.=) k.conrelid AND q.attnum OPERATOR(pg_catalog.=) k.conkey[2]
            WHERE k.conrelid OPERATOR(pg_catalog.=) {table} AND k.contype OPERATOR(pg_catalog.=) 'c'
              AND pg_catalog.array_length(k.conkey, 1) OPERATOR(pg_catalog.=) 2
              AND (k.conname OPERATOR(pg_catalog.~) '_non_negative$' OR k.conname OPERATOR(pg_catalog.=)
                   (q.attname OPERATOR(pg_catalog.||) '_non_negative')::pg_catalog.name))"
    )
}

/// The items whose stripes are left and which a stock table has, and the stock in them.
pub fn count_shared(stripes: &str, stock: &str, id: &str) -> Sql {
    let text = format!(
        "SELECT pg_catalog.count(DISTINCT s.inventory_id::pg_catalog.text) AS items,
       pg_catalog.sum(s.quantity)::pg_catalog.text AS quantity
  FROM {stripes} AS s JOIN {stock} AS stock ON stock.{id} OPERATOR(pg_catalog.=) s.inventory_id"
    );
    Sql::new(text, &[])
}

/// The comment of a companion before and after the name of its stock table.
fn around_name(companion: Companion) -> Result<(&'static str, &'static str)> {
    let around = descriptions(companion).0.split_once("{stock}");
    around.ok_or_else(|| Error::internal("the comment of a companion does not name its table"))
}

/// The comment of a companion, which names its stock table: where companions lie elsewhere, their names do not tell.
pub fn description(companion: Companion, stock: &str) -> String {
    descriptions(companion).0.replace("{stock}", stock)
}

fn literal(text: &str) -> String {
    let text = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", text.replace('\\', "\\\\")) } else { format!("'{text}'") }
}

/// Sets the comment of a companion.
pub fn comment_on_table(name: &str, companion: Companion, stock: &str) -> Sql {
    Sql::new(format!("COMMENT ON TABLE {name} IS\n    {}", literal(&description(companion, stock))), &[])
}

/// The comments of a companion: of the table, and of each column.
pub fn comments(name: &str, companion: Companion, stock: &str) -> Vec<Sql> {
    let on_column = |(column, text): &(&str, &str)| {
        Sql::new(format!("COMMENT ON COLUMN {name}.{column} IS {}", literal(text)), &[])
    };
    let (_, columns) = descriptions(companion);
    [comment_on_table(name, companion, stock)].into_iter().chain(columns.iter().map(on_column)).collect()
}

type Described = (&'static str, &'static str);

/// The text about a companion, and about each of its columns.
fn descriptions(companion: Companion) -> (&'static str, &'static [Described]) {
    match companion {
        Companion::Movements => (
            "The ledger of {stock}: a row for each change of stock, which is never changed.",
            &[
                ("movement_id", "The order of the movements of an item."),
                ("inventory_id", "The item."),
                ("stripe", "The stripe of a striped item; NULL for the row of the item."),
                ("kind", "sale, restock, adjustment, transfer, opening, closing, correction or external."),
                ("old_quantity", "The quantity before."),
                ("new_quantity", "The quantity after."),
                ("delta", "new_quantity - old_quantity."),
                ("reference", "What the movement belongs to, such as an order number."),
                ("idempotency_key", "The key of the call."),
                ("actor", "Who acted: inventory_ext.actor, the sub of the claims, or the role."),
                ("xact_id", "The transaction."),
                ("occurred_at", "When the movement was written."),
            ],
        ),
        Companion::Requests => (
            "The idempotency keys of {stock}: a row for each call with one.",
            &[
                ("idempotency_key", "The key."),
                ("function_name", "The function that was called."),
                ("arguments_hash", "SHA-256 of the arguments that decide on the change."),
                ("answer", "The result, which a retry returns."),
                ("created_at", "When the call was made."),
            ],
        ),
        Companion::Stripes => (
            "The stripes of the striped items of {stock}.",
            &[
                ("inventory_id", "The item."),
                ("stripe", "The number of the stripe, from 1 on."),
                ("quantity", "The stock in the stripe."),
            ],
        ),
        Companion::Totals => (
            "The totals that were last written into the rows of striped items of {stock}.",
            &[("inventory_id", "The item."), ("quantity", "The total.")],
        ),
    }
}

/// The partitions of a table, of all levels. PostgreSQL gives statement triggers to none of them.
pub fn partitions() -> Sql {
    let text = "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       pg_catalog.obj_description(c.oid, 'pg_class') AS description
  FROM pg_catalog.pg_partition_tree($1) AS tree
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) tree.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE tree.level OPERATOR(pg_catalog.>) 0 ORDER BY c.oid";
    Sql::new(text, &[SqlType::Regclass])
}

/// The statements that take back the grants of default privileges on a new table and on the sequence of its identity
/// column.
pub fn default_grants() -> Sql {
    let text = "SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s %I.%I FROM %s CASCADE',
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
               AND d.deptype OPERATOR(pg_catalog.=) 'i'))";
    Sql::new(text, &[SqlType::Oid])
}

/// A REVOKE that [`default_grants`] returned.
pub fn revoke(revocation: String) -> Sql {
    Sql::new(revocation, &[])
}

/// Quotes a name.
pub fn quote() -> Sql {
    Sql::new("SELECT pg_catalog.quote_ident($1) AS quoted", &[SqlType::Text])
}

/// Creates a trigger.
pub fn create_trigger(name: &str, [when, each]: [&str; 2], relation: &str, function: &str) -> Sql {
    Sql::new(format!("CREATE TRIGGER \"{name}\" {when} ON {relation}\n   {each} EXECUTE FUNCTION {function}()"), &[])
}

/// Drops a trigger.
pub fn drop_trigger(name: &str, relation: &str) -> Sql {
    Sql::new(format!("DROP TRIGGER \"{name}\" ON {relation}"), &[])
}

/// Returns a row where a table has rows.
pub fn has_rows(table: &str) -> Sql {
    Sql::new(format!("SELECT FROM {table} LIMIT 1"), &[])
}

//! The tables that grow with the stock table, and the triggers between them.
//!
//! `<stock>_request` keeps idempotency keys, `<stock>_stripe` the stripes of hot items, `<stock>_stripe_total` the totals last written
//! to their rows, `<stock>_movement` is the ledger. They belong to the owner of the stock table and stay when the extension goes; the
//! triggers depend on the extension and go with it. Everything here runs as the owner, with the search_path pinned, while the stock
//! table is locked. Tables left by an earlier attach are reused, if their columns and their owner are right.

use crate::attach::leftover;
use crate::attach::opening;
use crate::core::error::{Fault, Outcome};
use crate::pg::relation::{self, Facts, Source};
use crate::pg::role::{act_as, act_as_unfiltered};
use crate::pg::spi::{Arg, Connection};
use crate::table::attachment::Part;
use crate::table::catalog::Description;
use crate::table::configuration::{CATALOG_PATH, Configuration, configuration};
use crate::table::triggers::{STOCK_GUARD, TRIGGERS, TRUNCATE_GUARD, TriggerDefinition, expected};
use pgrx::pg_sys::{self, Oid};
use serde_json::json;

/// The companions of an attached table.
pub struct Companions {
    /// The ledger, where one was asked for.
    pub movement_table: Option<Oid>,
    /// The idempotency keys.
    pub request_table: Oid,
    /// The stripes.
    pub stripe_table: Oid,
    /// The totals of striped items.
    pub total_table: Oid,
}

/// What a companion table must be.
pub struct Shape {
    /// Follows the name of the stock table.
    pub suffix: &'static str,
    /// Its columns as CREATE TABLE takes them.
    definition: &'static str,
    /// The same columns as the catalog has them. Others may be added.
    columns: &'static [Column],
    fill: u8,
    /// Names the error where it is gone.
    pub reason_dropped: &'static str,
}

/// A column of a companion, as it was created.
struct Column {
    name: &'static str,
    type_oid: Oid,
    not_null: bool,
    source: Source,
}

const fn column(name: &'static str, type_oid: Oid) -> Column {
    Column { name, type_oid, not_null: true, source: Source::Writer }
}

/// PostgreSQL's own fillfactor.
const FULL: u8 = 100;
/// Pages are kept mostly empty: stripes are written all the time, and sessions that write one page wait for each other.
const STRIPE_FILL: u8 = 10;

const MOVEMENT: Shape = Shape {
    suffix: "_movement",
    definition: "
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
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp()",
    columns: &[
        Column { source: Source::Identity, ..column("movement_id", pg_sys::INT8OID) },
        column("inventory_id", pg_sys::UUIDOID),
        Column { not_null: false, ..column("stripe", pg_sys::INT2OID) },
        column("kind", pg_sys::TEXTOID),
        column("old_quantity", pg_sys::NUMERICOID),
        column("new_quantity", pg_sys::NUMERICOID),
        Column { source: Source::Expression, ..column("delta", pg_sys::NUMERICOID) },
        Column { not_null: false, ..column("reference", pg_sys::TEXTOID) },
        Column { not_null: false, ..column("idempotency_key", pg_sys::TEXTOID) },
        column("actor", pg_sys::TEXTOID),
        column("xact_id", pg_sys::XID8OID),
        column("occurred_at", pg_sys::TIMESTAMPTZOID),
    ],
    fill: FULL,
    reason_dropped: "movement_table_dropped",
};

const REQUEST: Shape = Shape {
    suffix: "_request",
    definition: "
    idempotency_key text PRIMARY KEY,
    function_name text NOT NULL,
    arguments_hash bytea NOT NULL,
    answer json,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()",
    columns: &[
        column("idempotency_key", pg_sys::TEXTOID),
        column("function_name", pg_sys::TEXTOID),
        column("arguments_hash", pg_sys::BYTEAOID),
        Column { not_null: false, ..column("answer", pg_sys::JSONOID) },
        column("created_at", pg_sys::TIMESTAMPTZOID),
    ],
    fill: FULL,
    reason_dropped: "request_table_dropped",
};

/// The quantity is a numeric of any shape: a stripe may hold what is no full unit of the stock column, their sum never is.
const STRIPE: Shape = Shape {
    suffix: "_stripe",
    definition: "
    inventory_id uuid NOT NULL,
    stripe smallint NOT NULL CHECK (stripe > 0),
    quantity numeric NOT NULL CHECK (quantity >= '0'::numeric AND quantity < 'Infinity'::numeric),
    PRIMARY KEY (inventory_id, stripe)",
    columns: &[
        column("inventory_id", pg_sys::UUIDOID),
        column("stripe", pg_sys::INT2OID),
        column("quantity", pg_sys::NUMERICOID),
    ],
    fill: STRIPE_FILL,
    reason_dropped: "stripe_table_dropped",
};

const TOTAL: Shape = Shape {
    suffix: "_stripe_total",
    definition: "
    inventory_id uuid PRIMARY KEY,
    quantity numeric NOT NULL",
    columns: &[column("inventory_id", pg_sys::UUIDOID), column("quantity", pg_sys::NUMERICOID)],
    fill: FULL,
    reason_dropped: "total_table_dropped",
};

impl Shape {
    /// Of a part that is a companion; the stock table itself has none, and gets that of the ledger.
    pub fn of(part: Part) -> &'static Self {
        match part {
            Part::Stock | Part::Movements => &MOVEMENT,
            Part::Requests => &REQUEST,
            Part::Stripes => &STRIPE,
            Part::Totals => &TOTAL,
        }
    }

    /// What is wrong with a table, where something is: it must have our columns, and the owner of the stock table.
    pub fn problem(&self, facts: &Facts, owner: Oid) -> Option<String> {
        if !facts.ordinary {
            return Some("it is no ordinary table".to_owned());
        }
        if facts.inherits {
            return Some("it inherits from another table, or another one from it".to_owned());
        }
        if facts.owner != owner {
            return Some("its owner is not the owner of the stock table".to_owned());
        }
        let wrong = self.columns.iter().find(|ours| {
            let found = facts.columns.iter().find(|column| column.name == ours.name);
            !found.is_some_and(|column| {
                column.type_oid == ours.type_oid
                    && column.modifier == -1
                    && (column.not_null || !ours.not_null)
                    && column.source == ours.source
            })
        });
        wrong.map(|ours| format!("column {} is not as it was created", ours.name))
    }

    /// Whether a column is one of ours.
    pub fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|ours| ours.name == name)
    }
}

/// Makes, or finds again, the companions of a table that is being attached.
pub fn make(spi: &Connection, configuration: &Configuration, table: &Description, ledger: bool) -> Outcome<Companions> {
    let requests = make_table(spi, table, &REQUEST)?;
    let stripes = make_table(spi, table, &STRIPE)?;
    let totals = make_table(spi, table, &TOTAL)?;
    let movements = if ledger { Some(make_table(spi, table, &MOVEMENT)?) } else { None };
    // Triggers that a dump or a broken attachment left look for an attachment that is not there yet.
    drop_triggers(spi, table);
    drop_recording(spi, table, &stripes);
    let merged = leftover::merge(spi, table, &stripes, &totals)?;
    for (companion, part) in [(&requests, Part::Requests), (&stripes, Part::Stripes), (&totals, Part::Totals)] {
        set_triggers(spi, configuration, table, (part, companion.oid, &companion.name), ledger);
    }
    if let Some(movements) = &movements {
        if movements.new {
            run_as_owner(spi, table, &format!("CREATE INDEX ON {} (inventory_id, movement_id)", movements.name));
        }
        set_triggers(spi, configuration, table, (Part::Movements, movements.oid, &movements.name), true);
        opening::record_stock(table, movements, merged)?;
        set_triggers(spi, configuration, table, (Part::Stock, table.oid, &table.name), true);
        for (_, name) in partitions(spi, table) {
            make_trigger(spi, configuration, table, &TRUNCATE_GUARD, &name);
        }
    }
    Ok(Companions {
        movement_table: movements.map(|movements| movements.oid),
        request_table: requests.oid,
        stripe_table: stripes.oid,
        total_table: totals.oid,
    })
}

fn set_triggers(
    spi: &Connection,
    configuration: &Configuration,
    table: &Description,
    (part, oid, relation): (Part, Oid, &str),
    ledger: bool,
) {
    for trigger in TRIGGERS.iter().filter(|trigger| trigger.part == part) {
        drop_trigger(spi, table, relation, oid, trigger.name);
    }
    for trigger in expected(part, ledger, false) {
        make_trigger(spi, configuration, table, trigger, relation);
    }
}

/// Lets a stock table without a ledger refuse direct writes to what its stripes hold; a ledger's own trigger does it.
pub fn guard_striped_stock(spi: &Connection, table: &Description) -> Outcome<()> {
    let configuration = configuration(spi)?;
    let on_stock = [&STOCK_GUARD, &TRUNCATE_GUARD].map(|trigger| (trigger, table.oid, table.name.clone()));
    let on_partitions = partitions(spi, table).into_iter().map(|(oid, name)| (&TRUNCATE_GUARD, oid, name));
    for (trigger, oid, relation) in on_stock.into_iter().chain(on_partitions) {
        // One that is there stays: to drop it would lock readers out.
        if !has_trigger(oid, trigger.name) {
            make_trigger(spi, &configuration, table, trigger, &relation);
        }
    }
    Ok(())
}

/// Drops the triggers of the stock table; those of the companions stay, and keep them closed.
pub fn drop_triggers(spi: &Connection, table: &Description) {
    let on_stock = TRIGGERS.iter().filter(|trigger| trigger.part == Part::Stock);
    for trigger in on_stock.chain([&STOCK_GUARD]) {
        drop_trigger(spi, table, &table.name, table.oid, trigger.name);
    }
    for (oid, name) in partitions(spi, table) {
        drop_trigger(spi, table, &name, oid, TRUNCATE_GUARD.name);
    }
}

/// Drops the triggers that record changes of stripes; the guards stay.
pub fn drop_recording(spi: &Connection, table: &Description, stripes: &Companion) {
    for trigger in TRIGGERS.iter().filter(|trigger| trigger.part == Part::Stripes && !trigger.always) {
        drop_trigger(spi, table, &stripes.name, stripes.oid, trigger.name);
    }
}

/// The partitions there are, of all levels. PostgreSQL gives statement triggers to none of them.
fn partitions(spi: &Connection, table: &Description) -> Vec<(Oid, String)> {
    let rows = spi.once(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname)
           FROM pg_catalog.pg_partition_tree($1) AS tree
           JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) tree.relid
           JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE tree.level OPERATOR(pg_catalog.>) 0 ORDER BY c.oid",
        &[pg_sys::REGCLASSOID],
        &[Arg::owned(table.oid)],
    );
    (0..rows.count()).filter_map(|row| Some((rows.get(row, 1)?, rows.text(row, 2)?))).collect()
}

/// A companion table by its names.
pub struct Companion {
    /// The table.
    pub oid: Oid,
    /// Schema and name, quoted.
    pub name: String,
    /// Made by this attach.
    pub new: bool,
}

fn run_as_owner(spi: &Connection, table: &Description, sql: &str) {
    let _acting = act_as(table.owner, CATALOG_PATH);
    spi.once(sql, &[], &[]);
}

fn make_table(spi: &Connection, table: &Description, shape: &Shape) -> Outcome<Companion> {
    if let Some(found) = find(spi, table, shape)? {
        return Ok(found);
    }
    let bare = companion_name(&table.bare_name, shape.suffix);
    let name = format!("{}.{}", table.schema, quoted(spi, &bare)?);
    let Shape { definition, fill, .. } = shape;
    run_as_owner(spi, table, &format!("CREATE TABLE {name} ({definition}) WITH (fillfactor = {fill})"));
    let made = find(spi, table, shape)?.ok_or_else(|| Fault::internal("a table that was made is not there"))?;
    revoke_defaults(spi, table, made.oid)?;
    Ok(Companion { new: true, ..made })
}

/// Takes back what default privileges gave others on a new table, and on the sequence of its identity column.
fn revoke_defaults(spi: &Connection, table: &Description, made: Oid) -> Outcome<()> {
    let rows = spi.once(
        "SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s %I.%I FROM %s CASCADE',
                    CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname,
                    CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                         ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
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
                        AND d.deptype OPERATOR(pg_catalog.=) 'i'))",
        &[pg_sys::OIDOID],
        &[Arg::owned(made)],
    );
    let revoke = |row| rows.text(row, 1).ok_or_else(|| Fault::internal("a grant has no text"));
    (0..rows.count()).try_for_each(|row| {
        run_as_owner(spi, table, &revoke(row)?);
        Ok(())
    })
}

/// A table left by an earlier attach. One of another owner or with other columns is refused.
fn find(spi: &Connection, table: &Description, shape: &Shape) -> Outcome<Option<Companion>> {
    let bare = companion_name(&table.bare_name, shape.suffix);
    let rows = spi.once(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname)
           FROM pg_catalog.pg_class AS c
           JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
           JOIN pg_catalog.pg_class AS stock ON stock.relnamespace OPERATOR(pg_catalog.=) c.relnamespace
          WHERE stock.oid OPERATOR(pg_catalog.=) $1 AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[pg_sys::OIDOID, pg_sys::TEXTOID],
        &[Arg::owned(table.oid), Arg::text(bare.as_str())],
    );
    let (Some(oid), Some(name)) = (rows.get(0, 1), rows.text(0, 2)) else { return Ok(None) };
    let facts = relation::facts(oid);
    let problem = match &facts {
        Some(facts) => shape.problem(facts, table.owner),
        None => Some("it is gone".to_owned()),
    };
    if let Some(problem) = problem {
        return Err(Fault::unsuitable(
            "42P07",
            "a relation with the name of a table that belongs to the stock table has other columns or another owner",
            "name_taken",
            json!({"table": table.name, "relation": name, "problem": problem}),
            "Rename that relation, or give a table of an earlier attach to the owner of the stock table.",
        ));
    }
    Ok(Some(Companion { oid, name, new: false }))
}

/// The companions that an earlier attachment left, as far as they can be used again.
pub fn left(spi: &Connection, table: &Description) -> Vec<Oid> {
    let shapes = [&REQUEST, &STRIPE, &TOTAL, &MOVEMENT];
    shapes.iter().filter_map(|shape| find(spi, table, shape).ok().flatten()).map(|found| found.oid).collect()
}

/// The stripes and the totals that an earlier attachment left, where both are there.
pub fn find_stripes(spi: &Connection, table: &Description) -> Outcome<Option<[Companion; 2]>> {
    Ok(match (find(spi, table, &STRIPE)?, find(spi, table, &TOTAL)?) {
        (Some(stripes), Some(totals)) => Some([stripes, totals]),
        _ => None,
    })
}

/// Whether an earlier attachment left stripes.
pub fn have_stripes(spi: &Connection, table: &Description) -> Outcome<bool> {
    let Some(stripes) = find(spi, table, &STRIPE)? else { return Ok(false) };
    let _acting = act_as_unfiltered(table.owner, CATALOG_PATH);
    Ok(spi.once(&format!("SELECT FROM {} LIMIT 1", stripes.name), &[], &[]).count() > 0)
}

/// The stock table's name and a suffix, cut where a name ends, between two characters.
fn companion_name(table: &str, suffix: &str) -> String {
    let mut end = table.len().min(pg_sys::NAMEDATALEN as usize - 1 - suffix.len());
    while !table.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &table[..end])
}

fn quoted(spi: &Connection, name: &str) -> Outcome<String> {
    let rows = spi.once("SELECT pg_catalog.quote_ident($1)", &[pg_sys::TEXTOID], &[Arg::text(name)]);
    rows.text(0, 1).ok_or_else(|| Fault::internal("a name could not be quoted"))
}

fn make_trigger(
    spi: &Connection,
    configuration: &Configuration,
    table: &Description,
    trigger: &TriggerDefinition,
    relation: &str,
) {
    let (name, when, each, function) = (trigger.name, trigger.when(), trigger.each(), trigger.function);
    let schema = &configuration.schema;
    run_as_owner(
        spi,
        table,
        &format!("CREATE TRIGGER \"{name}\" {when} ON {relation} {each} EXECUTE FUNCTION {schema}.{function}()"),
    );
    // So that DROP EXTENSION takes the trigger along, and needs no CASCADE, which might take more.
    run_as_owner(spi, table, &format!("ALTER TRIGGER \"{name}\" ON {relation} DEPENDS ON EXTENSION inventory_ext"));
}

fn has_trigger(oid: Oid, name: &str) -> bool {
    relation::facts(oid).is_some_and(|facts| facts.triggers.iter().any(|trigger| trigger.name == name))
}

fn drop_trigger(spi: &Connection, table: &Description, relation: &str, oid: Oid, name: &str) {
    if has_trigger(oid, name) {
        run_as_owner(spi, table, &format!("DROP TRIGGER \"{name}\" ON {relation}"));
    }
}

#[cfg(test)]
mod tests {
    use super::companion_name;

    #[test]
    fn a_long_name_is_cut_between_two_characters() {
        assert_eq!(companion_name("inventory", "_movement"), "inventory_movement");
        assert_eq!(companion_name(&"x".repeat(63), "_movement"), format!("{}_movement", "x".repeat(54)));
        let umlauts = companion_name(&"ä".repeat(31), "_request");
        assert_eq!(umlauts, format!("{}_request", "ä".repeat(27)));
    }
}

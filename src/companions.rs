//! The tables that grow with the stock table, and the triggers between them.
//!
//! `<stock>_request` keeps idempotency keys, `<stock>_movement` is the ledger, `<stock>_stripe` holds the stripes of hot items. They belong to the owner of the stock table
//! and stay when the extension goes; the triggers depend on the extension and go with it. Everything here runs as the owner,
//! with the search_path pinned, while the stock table is locked. What an earlier attach left is gone on with.

use crate::attachment::{self, CATALOG_PATH, Configuration};
use crate::catalog::Description;
use crate::context;
use crate::error::{Fault, Outcome};
use crate::identity::{act_as, current_role};
use crate::ledger::writing;
use crate::spi::{Arg, Connection};
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
}

/// Columns of the ledger, as [`MOVEMENT`] makes them.
const MOVEMENT_COLUMNS: &str = "movement_id,inventory_id,stripe,kind,old_quantity,new_quantity,delta,reference,idempotency_key,actor,xact_id,occurred_at";

const MOVEMENT: &str = "
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
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp()";

const REQUEST_COLUMNS: &str = "idempotency_key,function_name,arguments_hash,answer,created_at";

const REQUEST: &str = "
    idempotency_key text PRIMARY KEY,
    function_name text NOT NULL,
    arguments_hash bytea NOT NULL,
    answer json,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()";

const STRIPE_COLUMNS: &str = "inventory_id,stripe,quantity";

/// PostgreSQL's own fillfactor.
const FULL: u8 = 100;
/// Pages are kept mostly empty: stripes are written all the time, and sessions that write one page wait for each other.
const STRIPE_FILL: u8 = 10;

/// The quantity is a numeric of any shape: a stripe may hold what is no full unit of the stock column, their sum never is.
const STRIPE: &str = "
    inventory_id uuid NOT NULL,
    stripe smallint NOT NULL CHECK (stripe > 0),
    quantity numeric NOT NULL CHECK (quantity >= '0'::numeric AND quantity < 'Infinity'::numeric),
    PRIMARY KEY (inventory_id, stripe)";

/// Makes, or finds again, the companions of a table that is being attached.
pub fn make(spi: &Connection, configuration: &Configuration, table: &Description, ledger: bool) -> Outcome<Companions> {
    let request_table = make_table(spi, table, "_request", [REQUEST, REQUEST_COLUMNS], FULL)?.oid;
    let stripes = make_table(spi, table, "_stripe", [STRIPE, STRIPE_COLUMNS], STRIPE_FILL)?;
    empty(spi, table, &stripes);
    guard_stripes(spi, configuration, table, &stripes, ledger);
    if !ledger {
        return Ok(Companions { movement_table: None, request_table, stripe_table: stripes.oid });
    }
    let movements = make_table(spi, table, "_movement", [MOVEMENT, MOVEMENT_COLUMNS], FULL)?;
    let ledger = movements.name.as_str();
    if movements.new {
        run_as_owner(spi, table, &format!("CREATE INDEX ON {ledger} (inventory_id, movement_id)"));
    }
    record_stock(table, ledger);
    set_triggers(spi, configuration, table, ledger);
    Ok(Companions { movement_table: Some(movements.oid), request_table, stripe_table: stripes.oid })
}

/// While nothing was attached the stock table alone said what there is: stripes left from before say nothing.
fn empty(spi: &Connection, table: &Description, stripes: &Companion) {
    if !stripes.new {
        for trigger in STRIPE_TRIGGERS {
            drop_trigger(spi, table, &stripes.name, stripes.oid, trigger.name);
        }
        run_as_owner(spi, table, &format!("DELETE FROM {}", stripes.name));
    }
}

fn guard_stripes(
    spi: &Connection,
    configuration: &Configuration,
    table: &Description,
    stripes: &Companion,
    ledger: bool,
) {
    let wanted = if ledger { &STRIPE_TRIGGERS[..] } else { &STRIPE_TRIGGERS[..2] };
    for trigger in wanted {
        make_trigger(spi, configuration, table, trigger, &stripes.name);
    }
}

/// Lets a stock table without a ledger refuse direct writes to what its stripes hold; a ledger's own trigger does it.
pub fn guard_striped_stock(spi: &Connection, table: &Description) -> Outcome<()> {
    let configuration = attachment::configuration(spi)?;
    let on_stock = [&STOCK_GUARD, &TRUNCATE_GUARD].map(|trigger| (trigger, table.oid, table.name.clone()));
    let on_partitions = partitions(spi, table).into_iter().map(|(oid, name)| (&TRUNCATE_GUARD, oid, name));
    for (trigger, oid, relation) in on_stock.into_iter().chain(on_partitions) {
        // One that is there stays: to drop it would lock readers out.
        if !has_trigger(spi, oid, trigger.name) {
            make_trigger(spi, &configuration, table, trigger, &relation);
        }
    }
    Ok(())
}

/// Drops the triggers of the stock table; the ledger stays, and stays guarded.
pub fn unhook(spi: &Connection, table: &Description) {
    for trigger in STOCK_TRIGGERS.iter().chain([&STOCK_GUARD]) {
        drop_trigger(spi, table, &table.name, table.oid, trigger.name);
    }
    for (oid, name) in partitions(spi, table) {
        drop_trigger(spi, table, &name, oid, TRUNCATE_GUARD.name);
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

struct Companion {
    oid: Oid,
    name: String,
    new: bool,
}

fn run_as_owner(spi: &Connection, table: &Description, sql: &str) {
    let _acting = act_as(table.owner, Some(CATALOG_PATH));
    spi.once(sql, &[], &[]);
}

fn make_table(
    spi: &Connection,
    table: &Description,
    suffix: &str,
    [definition, columns]: [&str; 2],
    fill: u8,
) -> Outcome<Companion> {
    let bare = companion_name(&table.bare_name, suffix);
    if let Some(found) = find(spi, table, &bare, columns)? {
        return Ok(found);
    }
    let name = format!("{}.{}", table.schema, quoted(spi, &bare));
    run_as_owner(spi, table, &format!("CREATE TABLE {name} ({definition}) WITH (fillfactor = {fill})"));
    find(spi, table, &bare, columns)?
        .map(|made| Companion { new: true, ..made })
        .ok_or_else(|| Fault::internal("a table that was made is not there"))
}

/// A table left by an earlier attach. One of another owner or of another make is nobody's ledger: it is refused.
fn find(spi: &Connection, table: &Description, bare: &str, columns: &str) -> Outcome<Option<Companion>> {
    let rows = spi.once(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner, c.relkind::pg_catalog.text,
                (SELECT pg_catalog.string_agg(a.attname, ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped)
           FROM pg_catalog.pg_class AS c
           JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
           JOIN pg_catalog.pg_class AS stock ON stock.relnamespace OPERATOR(pg_catalog.=) c.relnamespace
          WHERE stock.oid OPERATOR(pg_catalog.=) $1 AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[pg_sys::OIDOID, pg_sys::TEXTOID],
        &[Arg::owned(table.oid), Arg::text(bare)],
    );
    let (Some(oid), Some(name)) = (rows.get(0, 1), rows.text(0, 2)) else { return Ok(None) };
    let ours = rows.get(0, 3) == Some(table.owner)
        && rows.text(0, 4).as_deref() == Some("r")
        && rows.text(0, 5).is_some_and(|found| found.starts_with(columns));
    if !ours {
        return Err(Fault::unsuitable(
            "42P07",
            "a relation of another make has the name of a table that belongs to the stock table",
            "name_taken",
            json!({"table": table.name, "relation": name}),
            "Rename that relation, or give a table of an earlier attach to the owner of the stock table.",
        ));
    }
    Ok(Some(Companion { oid, name, new: false }))
}

/// The stock table's name and a suffix, cut where a name ends, between two characters.
fn companion_name(table: &str, suffix: &str) -> String {
    let mut end = table.len().min(pg_sys::NAMEDATALEN as usize - 1 - suffix.len());
    while !table.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &table[..end])
}

fn quoted(spi: &Connection, name: &str) -> String {
    spi.once("SELECT pg_catalog.quote_ident($1)", &[pg_sys::TEXTOID], &[Arg::text(name)]).text(0, 1).unwrap_or_default()
}

/// Brings the ledger to what the stock table says: an opening movement for every item new to it, an external one where stock
/// changed while nobody recorded it, a closing one for items that are gone.
fn record_stock(table: &Description, ledger: &str) {
    let (Some(id), Some(quantity)) = (&table.id, &table.quantity) else { return };
    let (stock, id, quantity) = (&table.name, &id.quoted, &quantity.quoted);
    let last = format!(
        "SELECT last.new_quantity, last.kind FROM {ledger} AS last
          WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id AND last.stripe IS NULL
          ORDER BY last.movement_id DESC LIMIT 1"
    );
    let insert = format!("INSERT INTO {ledger} (inventory_id, kind, old_quantity, new_quantity, reference, actor)");
    let present = format!(
        "{insert}
         SELECT item.id, CASE WHEN COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing' THEN 'opening' ELSE 'external' END,
                COALESCE(last.new_quantity, 0), item.quantity, $1, $2
           FROM (SELECT stock.{id} AS id, stock.{quantity}::pg_catalog.numeric AS quantity FROM {stock} AS stock) AS item
           LEFT JOIN LATERAL ({last}) AS last ON true
          WHERE COALESCE(last.kind, 'closing') OPERATOR(pg_catalog.=) 'closing'
             OR last.new_quantity OPERATOR(pg_catalog.<>) item.quantity
          ORDER BY item.id"
    );
    let gone = format!(
        "{insert}
         SELECT item.id, 'closing', last.new_quantity, 0, $1, $2
           FROM (SELECT DISTINCT known.inventory_id AS id FROM {ledger} AS known) AS item
          CROSS JOIN LATERAL ({last}) AS last
          WHERE last.kind OPERATOR(pg_catalog.<>) 'closing'
            AND NOT EXISTS (SELECT FROM {stock} AS stock WHERE stock.{id} OPERATOR(pg_catalog.=) item.id)
          ORDER BY item.id"
    );
    // Stripes that were left behind hold nothing any more; the item's own movement, below, says what there is.
    let left = format!(
        "INSERT INTO {ledger} (inventory_id, stripe, kind, old_quantity, new_quantity, reference, actor)
         SELECT item.id, item.stripe, 'external', last.new_quantity, 0, $1, $2
           FROM (SELECT DISTINCT known.inventory_id AS id, known.stripe FROM {ledger} AS known WHERE known.stripe IS NOT NULL) AS item
          CROSS JOIN LATERAL (SELECT last.new_quantity FROM {ledger} AS last
                               WHERE last.inventory_id OPERATOR(pg_catalog.=) item.id
                                 AND last.stripe OPERATOR(pg_catalog.=) item.stripe
                               ORDER BY last.movement_id DESC LIMIT 1) AS last
          WHERE last.new_quantity OPERATOR(pg_catalog.<>) 0
          ORDER BY item.id, item.stripe"
    );
    let actor = context::actor(current_role());
    let reference = crate::settings::reference();
    for sql in [left, present, gone] {
        let args = [Arg::text(reference.as_deref()), Arg::text(actor.as_str())];
        writing(table.owner, Some(CATALOG_PATH), |spi| {
            spi.once(&sql, &[pg_sys::TEXTOID, pg_sys::TEXTOID], &args);
        });
    }
}

#[derive(Clone, Copy)]
struct TriggerDefinition {
    name: &'static str,
    when: &'static str,
    each: &'static str,
    function: &'static str,
}

/// A digit sorts before a letter: these fire before the triggers of a user, so the ledger has the order of the changes.
/// The row trigger has no condition on the columns, which would keep them from ALTER COLUMN … TYPE.
const STOCK_TRIGGERS: [TriggerDefinition; 4] = [
    TriggerDefinition {
        name: "0_inventory_movement_begin",
        when: "BEFORE INSERT OR UPDATE OR DELETE",
        each: "FOR EACH STATEMENT",
        function: "inventory_movement_begin",
    },
    TriggerDefinition {
        name: "0_inventory_movement_flush",
        when: "AFTER INSERT OR UPDATE OR DELETE",
        each: "FOR EACH STATEMENT",
        function: "inventory_movement_flush",
    },
    TriggerDefinition {
        name: "0_inventory_movement_record",
        when: "AFTER INSERT OR UPDATE OR DELETE",
        each: "FOR EACH ROW",
        function: "inventory_movement_record",
    },
    TRUNCATE_GUARD,
];

const TRUNCATE_GUARD: TriggerDefinition = TriggerDefinition {
    name: "0_inventory_truncate",
    when: "BEFORE TRUNCATE",
    each: "FOR EACH STATEMENT",
    function: "inventory_truncate_guard",
};

const STOCK_GUARD: TriggerDefinition = TriggerDefinition {
    name: "0_inventory_stripe_guard",
    when: "AFTER UPDATE OR DELETE",
    each: "FOR EACH ROW",
    function: "inventory_stripe_guard",
};

/// The first two without a ledger, all of them with one.
const STRIPE_TRIGGERS: [TriggerDefinition; 5] = [
    TriggerDefinition {
        name: "0_inventory_stripe_guard",
        when: "BEFORE INSERT OR UPDATE OR DELETE",
        each: "FOR EACH STATEMENT",
        function: "inventory_stripe_guard",
    },
    TriggerDefinition {
        name: "0_inventory_stripe_truncate",
        when: "BEFORE TRUNCATE",
        each: "FOR EACH STATEMENT",
        function: "inventory_stripe_guard",
    },
    STOCK_TRIGGERS[0],
    STOCK_TRIGGERS[1],
    STOCK_TRIGGERS[2],
];

const LEDGER_TRIGGERS: [TriggerDefinition; 2] = [
    TriggerDefinition {
        name: "0_inventory_movement_guard",
        when: "BEFORE INSERT OR UPDATE OR DELETE",
        each: "FOR EACH STATEMENT",
        function: "inventory_movement_guard",
    },
    TriggerDefinition {
        name: "0_inventory_movement_truncate",
        when: "BEFORE TRUNCATE",
        each: "FOR EACH STATEMENT",
        function: "inventory_movement_guard",
    },
];

fn set_triggers(spi: &Connection, configuration: &Configuration, table: &Description, ledger: &str) {
    let ledger_oid = oid_of(spi, ledger);
    let on_stock = STOCK_TRIGGERS.iter().map(|trigger| (trigger, table.oid, table.name.clone()));
    let on_ledger = LEDGER_TRIGGERS.iter().map(|trigger| (trigger, ledger_oid, ledger.to_owned()));
    let on_partitions = partitions(spi, table).into_iter().map(|(oid, name)| (&TRUNCATE_GUARD, oid, name));
    drop_trigger(spi, table, &table.name, table.oid, STOCK_GUARD.name);
    for (trigger, oid, relation) in on_stock.chain(on_ledger).chain(on_partitions) {
        drop_trigger(spi, table, &relation, oid, trigger.name);
        make_trigger(spi, configuration, table, trigger, &relation);
    }
}

fn make_trigger(
    spi: &Connection,
    configuration: &Configuration,
    table: &Description,
    trigger: &TriggerDefinition,
    relation: &str,
) {
    let TriggerDefinition { name, when, each, function } = trigger;
    let schema = &configuration.schema;
    run_as_owner(
        spi,
        table,
        &format!("CREATE TRIGGER \"{name}\" {when} ON {relation} {each} EXECUTE FUNCTION {schema}.{function}()"),
    );
    // So that DROP EXTENSION takes the trigger along, and needs no CASCADE, which might take more.
    run_as_owner(spi, table, &format!("ALTER TRIGGER \"{name}\" ON {relation} DEPENDS ON EXTENSION inventory_ext"));
}

fn oid_of(spi: &Connection, relation: &str) -> Oid {
    let rows = spi.once("SELECT $1::pg_catalog.regclass::pg_catalog.oid", &[pg_sys::TEXTOID], &[Arg::text(relation)]);
    rows.get(0, 1).unwrap_or(pg_sys::InvalidOid)
}

fn has_trigger(spi: &Connection, oid: Oid, name: &str) -> bool {
    let found = spi.once(
        "SELECT FROM pg_catalog.pg_trigger AS t
          WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 AND t.tgname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[pg_sys::OIDOID, pg_sys::TEXTOID],
        &[Arg::owned(oid), Arg::text(name)],
    );
    found.count() > 0
}

fn drop_trigger(spi: &Connection, table: &Description, relation: &str, oid: Oid, name: &str) {
    if has_trigger(spi, oid, name) {
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

//! Makes a table the stock table, and stops doing so.
//!
//! Lock order: the configuration table, then the stock table, both until the transaction ends; so attaches run one after
//! the other and wait for running sales. What is done to the stock table is done as its owner, what is written to the
//! configuration as the owner of the extension.

use crate::attach::companions::{self, Companions};
use crate::attach::leftover;
use crate::core::error::{Fault, Outcome};
use crate::core::json::spaced;
use crate::core::quantity::MAX_DIGITS;
use crate::pg::encoding;
use crate::pg::invalidation;
use crate::pg::relation;
use crate::pg::report;
use crate::pg::role::{act_as, act_as_unfiltered};
use crate::pg::spi::{Arg, Connection, connected, require_writable};
use crate::stock::call::require_no_other;
use crate::stripes::layout;
use crate::table::attachment::{self, USER_SCHEMA, lock_alone, lock_rows};
use crate::table::catalog::{self, ColumnDescription, Columns, Description, Kind};
use crate::table::configuration::{CATALOG_PATH, Configuration, Configured, configuration, configured, is_subscribed};
use crate::table::cursors;
use crate::table::health;
use pgrx::pg_extern;
use pgrx::pg_sys::{self, Oid};
use serde_json::{Value, json};
use std::ffi::CStr;

/// Makes an existing table the stock table.
///
/// Checks the table, makes the quantity column NOT NULL and adds a CHECK that it is neither negative nor NaN nor infinite;
/// nothing at all changes where a check fails. Creates the tables <table>_request for idempotency keys, <table>_stripe and
/// <table>_stripe_total for the stripes of hot items and, with p_ledger, <table>_movement with an opening movement for every
/// item, and the triggers that record every change of stock. Tables left by an earlier attach are reused; stripes left in
/// them go back into the rows of their items. Needs ownership of the table. p_table: an ordinary or partitioned table.
/// p_id_column: a uuid column, NOT NULL, with a plain unique index of its own. p_quantity_column: numeric, smallint, integer
/// or bigint. p_ledger: keep a ledger. p_run_as: owner, sales run with the rights of the table's owner; or caller, grants and
/// row-level security of the caller decide. Answers {"success": true, "table", "id_column", "quantity_column", "ledger",
/// "run_as", "items"}. The same table with the same options again: a NOTICE and no change. Errors: 22004 NULL, 22023 another
/// word in p_run_as, 42501 not the owner, 42P01 no such table, 42809 not a table that can hold stock, 42703 no such column, 42804 a column of
/// another type, 42P07 and 42710 another relation or constraint has the name of one to be made, 55000 another table is attached, the id is not
/// unique, a trigger must not run as the owner, or a row differs from the stripes left of it, 55006 called by code that
/// another function runs, 23514 rows that are no stock.
#[pg_extern(sql = false)]
pub fn attach_inventory(
    p_table: Option<Oid>,
    p_id_column: Option<&CStr>,
    p_quantity_column: Option<&CStr>,
    p_ledger: Option<bool>,
    p_run_as: Option<&[u8]>,
) -> Vec<u8> {
    let run_as = p_run_as.map(encoding::from_server);
    let options = Options::read(p_table, p_id_column, p_quantity_column, p_ledger, run_as);
    let answer = options.and_then(|options| connected(|spi| attach(spi, &options)));
    report::answered(answer)
}

/// Stops managing the stock table.
///
/// The table stays as it is, with its NOT NULL and its CHECK, and so do the ledger and the idempotency keys; changes of
/// stock are no longer recorded. Needs ownership of the table; where the table was dropped, EXECUTE alone. Errors: 55000 no stock table attached, 42501 not the owner.
#[pg_extern(sql = false)]
pub fn detach_inventory() {
    connected(detach).unwrap_or_else(|fault| fault.raise());
}

struct Options {
    table: Oid,
    id_column: String,
    quantity_column: String,
    ledger: bool,
    run_as: String,
}

impl Options {
    fn read(
        table: Option<Oid>,
        id_column: Option<&CStr>,
        quantity_column: Option<&CStr>,
        ledger: Option<bool>,
        run_as: Option<String>,
    ) -> Outcome<Self> {
        let name =
            |argument, value: Option<&CStr>| value.map(encoding::from_c).ok_or_else(|| Fault::null_argument(argument));
        let options = Self {
            table: table.ok_or_else(|| Fault::null_argument("p_table"))?,
            id_column: name("p_id_column", id_column)?,
            quantity_column: name("p_quantity_column", quantity_column)?,
            ledger: ledger.ok_or_else(|| Fault::null_argument("p_ledger"))?,
            run_as: run_as.ok_or_else(|| Fault::null_argument("p_run_as"))?,
        };
        if !matches!(options.run_as.as_str(), "owner" | "caller") {
            return Err(Fault::unknown_word(
                "p_run_as",
                &options.run_as,
                &["owner", "caller"],
                "Pass owner or caller.",
            ));
        }
        Ok(options)
    }

    fn describe(&self, spi: &Connection) -> Outcome<Description> {
        catalog::describe(spi, self.table, Columns::Named(&self.id_column, &self.quantity_column)).ok_or_else(|| {
            Fault::unsuitable(
                "42P01",
                "there is no such table",
                "no_table",
                json!({"oid": self.table.to_u32()}),
                "Pass the name of an existing table.",
            )
        })
    }
}

fn attach(spi: &Connection, options: &Options) -> Outcome<String> {
    require_writable(c"attach_inventory()");
    require_no_other("attach_inventory")?;
    require_ownership(&options.describe(spi)?)?;
    let configuration = configuration(spi)?;
    lock_configuration(spi, &configuration);
    if let Some(configured) = configured(spi, &configuration)? {
        return already(spi, options, &configured);
    }
    let (table, companions) = lock_table(spi, options)?;
    cursors::leaving_none(table.owner, || attach_locked(spi, options, &configuration, (&table, &companions)))
}

fn attach_locked(
    spi: &Connection,
    options: &Options,
    configuration: &Configuration,
    (table, companions): (&Description, &[Oid]),
) -> Outcome<String> {
    suits(table, options)?;
    // Rows are written to them as the owner, whatever the rights of later sales will be.
    if let Some(objection) =
        health::objection(&companions.iter().copied().filter_map(relation::facts).collect::<Vec<_>>(), table.owner)
    {
        return Err(objection);
    }
    if is_subscribed(spi, configuration, relation::with_partitions(table.oid)) {
        return Err(Fault::subscriber(&table.name));
    }
    let objection = health::objection(&health::stock_facts(table.oid), table.owner);
    if let Some(objection) = objection.clone().filter(|_| options.run_as == "owner") {
        return Err(objection);
    }
    if companions::have_stripes(spi, table)? {
        health::require_writable_by_caller(objection, table.owner)?;
    }
    let (items, check_name) = {
        let _acting = act_as_unfiltered(table.owner, CATALOG_PATH);
        (check_rows(spi, table)?, constrain(spi, table)?)
    };
    let companions = companions::make(spi, configuration, table, options.ledger)?;
    record(spi, configuration, (options, table), &check_name, &companions);
    invalidation::announce_change(configuration.oid);
    warn(table);
    Ok(answer(table, options, items))
}

fn answer(table: &Description, options: &Options, items: i64) -> String {
    spaced(&json!({
        "success": true, "table": table.name, "id_column": options.id_column, "quantity_column": options.quantity_column,
        "ledger": options.ledger, "run_as": options.run_as, "items": items,
    }))
}

fn detach(spi: &Connection) -> Outcome<()> {
    require_writable(c"detach_inventory()");
    require_no_other("detach_inventory")?;
    let configuration = configuration(spi)?;
    lock_configuration(spi, &configuration);
    let configured = configured(spi, &configuration)?.ok_or_else(Fault::not_attached)?;
    if let Ok(table) = attachment::describe_configured(spi, &configured) {
        require_ownership(&table)?;
        // Sales hold a weaker lock until they commit: none of them straddles the detach.
        lock_alone(&[table.oid], pg_sys::AccessExclusiveLock);
        cursors::leaving_none(table.owner, || put_stripes_back(spi, &configured, &table))?;
    }
    let _acting = act_as(configuration.owner, CATALOG_PATH);
    spi.once(&format!("DELETE FROM {}", configuration.relation), &[], &[]);
    invalidation::announce_change(configuration.oid);
    Ok(())
}

/// Puts striped items together and drops the triggers.
///
/// Of an attachment that is broken the rows are written without the ledger, which the next attach brings up to date. What cannot be
/// decided then is left as it is: the next attach decides it, or refuses. A copy that a subscription keeps is not touched.
fn put_stripes_back(spi: &Connection, configured: &Configured, table: &Description) -> Outcome<()> {
    if configured.subscribed {
        companions::drop_triggers(spi, table);
        return Ok(());
    }
    let companions = configured.companions();
    // A trigger that is being created is waited for, and then seen.
    lock_rows(&companions);
    let allowed = || {
        let mut facts = health::stock_facts(table.oid);
        facts.extend(companions.iter().copied().filter_map(relation::facts));
        health::require_writable_by_caller(health::objection(&facts, table.owner), table.owner)
    };
    match attachment::current() {
        Ok(stock) if stock.require_healthy().is_ok() && (stock.striped.is_empty() || allowed().is_ok()) => {
            layout::merge_all(spi, &stock)?;
            companions::drop_triggers(spi, table);
        }
        _ => {
            companions::drop_triggers(spi, table);
            let named = Columns::Named(&configured.id_column, &configured.quantity_column);
            let columns_known = table.id.is_some() && table.quantity.is_some();
            let by_name = if columns_known { None } else { catalog::describe(spi, table.oid, named) };
            let table = by_name.as_ref().unwrap_or(table);
            if let Err(fault) = allowed().and_then(|()| merge_left(spi, table))
                && companions::have_stripes(spi, table).unwrap_or(true)
            {
                report::warning(
                    &format!("the stripes of hot items are left as they are: {}", fault.message),
                    "They hold stock: attach the table again before its quantities are changed.",
                );
            }
        }
    }
    Ok(())
}

fn merge_left(spi: &Connection, table: &Description) -> Outcome<()> {
    let Some([stripes, totals]) = companions::find_stripes(spi, table)? else { return Ok(()) };
    companions::drop_recording(spi, table, &stripes);
    leftover::merge(spi, table, &stripes, &totals).map(|_| ())
}

fn require_ownership(table: &Description) -> Outcome<()> {
    if table.owned { Ok(()) } else { Err(Fault::not_owner(&table.name)) }
}

fn lock_configuration(spi: &Connection, configuration: &Configuration) {
    let _acting = act_as(configuration.owner, CATALOG_PATH);
    spi.once(&format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", configuration.relation), &[], &[]);
}

/// Locks the table, and what an earlier attach left of its companions, as ALTER TABLE will, and describes what then can no
/// longer change.
///
/// The stock table comes last: who has read the ledger and then sells must not wait for an attach that waits for the ledger.
fn lock_table(spi: &Connection, options: &Options) -> Outcome<(Description, Vec<Oid>)> {
    let seen = options.describe(spi)?;
    require_ownership(&seen)?;
    if seen.kind == Kind::Other {
        return Err(unsuitable_kind(&seen));
    }
    let companions = companions::left(spi, &seen);
    let tables: Vec<Oid> = companions.iter().copied().chain([seen.oid]).collect();
    lock_alone(&tables, pg_sys::AccessExclusiveLock);
    let locked = options.describe(spi)?;
    require_ownership(&locked)?;
    Ok((locked, companions))
}

/// A second attach: the same is a notice, anything else an error.
fn already(spi: &Connection, options: &Options, configured: &Configured) -> Outcome<String> {
    let attached = attachment::describe_configured(spi, configured)?;
    let wanted = options.describe(spi)?;
    let number = |column: &Option<ColumnDescription>| column.as_ref().map(|c| c.number);
    let same = attached.oid == wanted.oid
        && number(&attached.id) == number(&wanted.id)
        && number(&attached.quantity) == number(&wanted.quantity)
        && configured.movement_table.is_some() == options.ledger
        && configured.run_as == options.run_as;
    if !same {
        return Err(Fault::already_attached(&attached.name));
    }
    report::notice(&format!("{} is attached already", attached.name));
    let _acting = act_as_unfiltered(attached.owner, CATALOG_PATH);
    Ok(answer(&attached, options, count_items(spi, &attached)))
}

fn unsuitable_kind(table: &Description) -> Box<Fault> {
    Fault::unsuitable(
        "42809",
        "the stock table must be an ordinary or a partitioned table",
        "not_a_table",
        json!({"table": table.name}),
        "Attach the table that holds the quantities.",
    )
}

/// Everything about the table itself; its rows are checked after.
fn suits(table: &Description, options: &Options) -> Outcome<()> {
    let unsuitable = |sqlstate, message, reason, facts: Value, hint| {
        let mut all = json!({"table": table.name});
        if let (Value::Object(all), Value::Object(facts)) = (&mut all, facts) {
            all.extend(facts);
        }
        Err(Fault::unsuitable(sqlstate, message, reason, all, hint))
    };
    if table.kind == Kind::Other {
        return Err(unsuitable_kind(table));
    }
    if table.schema == USER_SCHEMA {
        let hint = "Rename the schema: PostgreSQL reads $user in a search_path as the name of the role.";
        return unsuitable("42602", "the stock table is in a schema named $user", "schema_name", json!({}), hint);
    }
    if table.temporary {
        let hint = "Other sessions cannot see a temporary table; attach a permanent one.";
        return unsuitable("42809", "the stock table must not be temporary", "temporary", json!({}), hint);
    }
    if table.has_children {
        let hint = "Use a partitioned table, or one without children.";
        return unsuitable("42809", "other tables inherit from the stock table", "has_children", json!({}), hint);
    }
    let missing = |column: &str| {
        unsuitable(
            "42703",
            "the stock table has no such column",
            "no_column",
            json!({"column": column}),
            "Name an existing column.",
        )
    };
    let Some(id) = &table.id else {
        return missing(&options.id_column);
    };
    let Some(quantity) = &table.quantity else {
        return missing(&options.quantity_column);
    };
    let id_facts = json!({"column": id.name});
    if id.type_oid != pg_sys::UUIDOID {
        return unsuitable(
            "42804",
            "the id column must be of type uuid",
            "id_type",
            id_facts,
            "Add a uuid column and name it.",
        );
    }
    if quantity.shape().is_none() {
        let hint = "Use numeric, smallint, integer or bigint.";
        let facts = json!({"column": quantity.name});
        return unsuitable("42804", "the quantity column must be a number of units", "quantity_type", facts, hint);
    }
    if quantity.generated {
        let facts = json!({"column": quantity.name});
        return unsuitable(
            "42809",
            "the quantity column is generated",
            "quantity_generated",
            facts,
            "Name a column that can be written.",
        );
    }
    if !id.not_null {
        return unsuitable(
            "55000",
            "the id column must be NOT NULL",
            "id_nullable",
            id_facts,
            "Make it so with ALTER TABLE and SET NOT NULL.",
        );
    }
    if !table.unique_index {
        let hint = "Create a unique index on the id column alone: valid, not partial, not deferrable.";
        return unsuitable(
            "55000",
            "the id column has no plain unique index of its own",
            "id_not_unique",
            id_facts,
            hint,
        );
    }
    Ok(())
}

/// How many bad rows an error names.
const NAMED_ROWS: usize = 5;

/// Counts the rows, and refuses a table with rows that are no stock.
fn check_rows(spi: &Connection, table: &Description) -> Outcome<i64> {
    let (Some(id), Some(quantity)) = (&table.id, &table.quantity) else {
        return Ok(0);
    };
    let (name, id, column) = (&table.name, &id.quoted, &quantity.quoted);
    let finite = if quantity.type_oid == pg_sys::NUMERICOID {
        format!("AND stock.{column} OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.numeric")
    } else {
        String::new()
    };
    // As quantity.rs counts digits: zeros at either end are none.
    let short = if quantity.type_oid == pg_sys::NUMERICOID {
        let digits = format!(
            "pg_catalog.min_scale(stock.{column}) OPERATOR(pg_catalog.+)
             CASE WHEN stock.{column} OPERATOR(pg_catalog.<) 1 THEN 0
                  ELSE pg_catalog.length(pg_catalog.trunc(stock.{column})::pg_catalog.text) END"
        );
        format!("AND ({digits}) OPERATOR(pg_catalog.<=) {MAX_DIGITS}")
    } else {
        String::new()
    };
    let good = format!("stock.{column} IS NOT NULL AND stock.{column} OPERATOR(pg_catalog.>=) 0 {finite} {short}");
    let bad = spi.once(
        &format!(
            "SELECT stock.{id}::pg_catalog.text, stock.{column}::pg_catalog.text, pg_catalog.count(*) OVER ()
               FROM {name} AS stock WHERE NOT ({good}) ORDER BY stock.{id} LIMIT {NAMED_ROWS}"
        ),
        &[],
        &[],
    );
    let Some(count) = bad.get::<i64>(0, 3) else {
        return Ok(count_items(spi, table));
    };
    let first: Vec<Value> = (0..bad.count())
        .map(|row| {
            let stored = bad.text(row, 2).map_or(Value::Null, |text| crate::core::json::exact(&text));
            json!({"inventory_id": bad.text(row, 1), "quantity": stored})
        })
        .collect();
    Err(Fault::unsuitable(
        "23514",
        "the stock table has rows whose quantity is NULL, negative, NaN, infinite or of more than 28 digits",
        "bad_rows",
        json!({"table": name, "column": quantity.name, "rows": count, "first": first}),
        "Correct these rows and attach again; nothing has been changed.",
    ))
}

fn count_items(spi: &Connection, table: &Description) -> i64 {
    spi.once(&format!("SELECT pg_catalog.count(*) FROM {}", table.name), &[], &[]).get(0, 1).unwrap_or(0)
}

/// Adds NOT NULL and the CHECK, and gives the name of the CHECK.
///
/// `< 'Infinity'` also refuses NaN, which numeric sorts above every number. The id stands in the CHECK, which holds for every
/// uuid, so that the CHECK names both columns of the attachment, first the id.
fn constrain(spi: &Connection, table: &Description) -> Outcome<String> {
    let (Some(id), Some(quantity)) = (&table.id, &table.quantity) else { return Ok(String::new()) };
    let check = Check::of(spi, table.oid, id, quantity);
    let (name, id, column) = (&table.name, &id.quoted, &quantity.quoted);
    if check.foreign {
        return Err(Fault::unsuitable(
            "42710",
            "the stock table has a constraint with the name of the CHECK to be added",
            "constraint_name_taken",
            json!({"table": name, "constraint": check.name}),
            "Rename that constraint.",
        ));
    }
    // PostgreSQL reads the stored expression again for every statement that writes: constants of the column's own type spare
    // it a cast, which it would evaluate each time.
    let bounds = if quantity.type_oid == pg_sys::NUMERICOID {
        format!(
            "{column} OPERATOR(pg_catalog.>=) '0'::pg_catalog.numeric
             AND {column} OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.numeric"
        )
    } else {
        format!("{column} OPERATOR(pg_catalog.>=) 0")
    };
    if !quantity.not_null {
        spi.once(&format!("ALTER TABLE {name} ALTER COLUMN {column} SET NOT NULL"), &[], &[]);
    }
    let quoted = &check.quoted;
    // A constraint of that name is of an earlier attach: it is made anew, whatever was done to it since.
    if check.exists {
        spi.once(&format!("ALTER TABLE {name} DROP CONSTRAINT {quoted}"), &[], &[]);
    }
    let condition = format!("{id} IS NOT NULL AND {bounds}");
    spi.once(&format!("ALTER TABLE {name} ADD CONSTRAINT {quoted} CHECK ({condition}) NOT VALID"), &[], &[]);
    spi.once(&format!("ALTER TABLE {name} VALIDATE CONSTRAINT {quoted}"), &[], &[]);
    Ok(check.name)
}

/// `<column>_non_negative`, cut to the length of a name as PostgreSQL cuts it.
struct Check {
    name: String,
    quoted: String,
    exists: bool,
    /// The one there is names other columns than ours does, or is no CHECK.
    foreign: bool,
}

impl Check {
    fn of(spi: &Connection, table: Oid, id: &ColumnDescription, quantity: &ColumnDescription) -> Self {
        let rows = spi.once(
            "SELECT named.name::pg_catalog.text, pg_catalog.quote_ident(named.name::pg_catalog.text),
                    k.oid IS NOT NULL,
                    k.oid IS NOT NULL AND NOT COALESCE(
                        k.contype OPERATOR(pg_catalog.=) 'c' AND k.conkey OPERATOR(pg_catalog.=) ARRAY[$3, $4], false)
               FROM (SELECT ($2 OPERATOR(pg_catalog.||) '_non_negative')::pg_catalog.name) AS named (name)
               LEFT JOIN pg_catalog.pg_constraint AS k
                 ON k.conrelid OPERATOR(pg_catalog.=) $1 AND k.conname OPERATOR(pg_catalog.=) named.name",
            &[pg_sys::OIDOID, pg_sys::TEXTOID, pg_sys::INT2OID, pg_sys::INT2OID],
            &[Arg::owned(table), Arg::text(quantity.name.as_str()), Arg::owned(id.number), Arg::owned(quantity.number)],
        );
        Self {
            name: rows.text(0, 1).unwrap_or_default(),
            quoted: rows.text(0, 2).unwrap_or_default(),
            exists: rows.get(0, 3).unwrap_or(false),
            foreign: rows.get(0, 4).unwrap_or(false),
        }
    }
}

fn record(
    spi: &Connection,
    configuration: &Configuration,
    (options, table): (&Options, &Description),
    check_name: &str,
    companions: &Companions,
) {
    let (oid, text) = (pg_sys::OIDOID, pg_sys::TEXTOID);
    let _acting = act_as(configuration.owner, CATALOG_PATH);
    spi.once(
        &format!(
            "INSERT INTO {} (stock_table, stock_schema, stock_name, check_name, id_column, quantity_column, run_as,
                             movement_table, request_table, stripe_table, total_table)
             SELECT c.oid::pg_catalog.regclass, n.nspname, c.relname, $2::pg_catalog.name, $3::pg_catalog.name,
                    $4::pg_catalog.name, $5, $6::pg_catalog.regclass, $7::pg_catalog.regclass, $8::pg_catalog.regclass,
                    $9::pg_catalog.regclass
               FROM pg_catalog.pg_class AS c
               JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
              WHERE c.oid OPERATOR(pg_catalog.=) $1",
            configuration.relation
        ),
        &[oid, text, text, text, text, oid, oid, oid, oid],
        &[
            Arg::owned(table.oid),
            Arg::text(check_name),
            Arg::text(options.id_column.as_str()),
            Arg::text(options.quantity_column.as_str()),
            Arg::text(options.run_as.as_str()),
            Arg::owned(companions.movement_table),
            Arg::owned(companions.request_table),
            Arg::owned(companions.stripe_table),
            Arg::owned(companions.total_table),
        ],
    );
}

fn warn(table: &Description) {
    if table.quantity_indexed {
        report::warning(
            "an index on the stock table holds the quantity column",
            "Every sale must write to that index; without it updates can be HOT and are faster.",
        );
    }
    if table.unlogged {
        report::warning(
            "the stock table is unlogged",
            "A crash of the server empties it; ALTER TABLE with SET LOGGED keeps the stock.",
        );
    }
}

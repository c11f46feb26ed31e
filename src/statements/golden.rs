//! Compares every statement with the files in golden, which show the texts for two tables: an ordinary one with a
//! numeric quantity, and a partitioned one with text ids and a whole-number quantity. The statements that are kept are
//! in kept.sql, the others in a file for each module.
//!
//! `UPDATE_GOLDEN=1 cargo test --lib golden` writes the files anew; read the difference before it is committed.

use super::leftover::Leftover;
use super::*;
use crate::core::part::Companion;
use std::collections::BTreeMap;
use std::fmt::Write;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/statements/golden");

fn ordinary() -> Names {
    Names {
        relation: "shop.stock".to_owned(),
        partitioned: false,
        id: "id".to_owned(),
        id_type: IdType::Uuid,
        quantity: "quantity".to_owned(),
        quantity_type: SqlType::Numeric,
        by_ctid: true,
        movements: Some("shop.stock_movement".to_owned()),
        requests: "shop.stock_request".to_owned(),
        stripes: "shop.stock_stripe".to_owned(),
        totals: "shop.stock_stripe_total".to_owned(),
    }
}

fn partitioned() -> Names {
    let (quantity, quantity_type) = ("\"On hand\"".to_owned(), SqlType::Int4);
    let id_type = IdType::Text;
    Names { partitioned: true, id_type, quantity, quantity_type, by_ctid: false, ..ordinary() }
}

fn audit_names() -> audit::AuditNames {
    let [runs, chains, segments] = ["", "_chain", "_segment"].map(|suffix| format!("shop.stock_audit{suffix}"));
    audit::AuditNames { runs, chains, segments }
}

/// The statements of the audit.
fn of_the_audit(names: &Names) -> Vec<(&'static str, Sql)> {
    let (ledger, tables, id_type) = ("shop.stock_movement", audit_names(), names.id_type);
    let sales = audit::Sales { table: "shop.sale", reference: "receipt", item: "item", quantity: "units" };
    let [runs, chains, segments] = audit_tables::create_tables(&tables, id_type);
    vec![
        ("audit_tables::create_tables, 1", runs),
        ("audit_tables::create_tables, 2", chains),
        ("audit_tables::create_tables, 3", segments),
        ("audit_tables::keep_uncompressed", audit_tables::keep_uncompressed(&tables)),
        ("audit::comment", audit::comment(&tables.runs, "The audits.")),
        ("audit::oid_of", audit::oid_of()),
        ("audit::movements", audit::movements(ledger, id_type, audit::Range::All, true)),
        ("audit::movements, without hashes", audit::movements(ledger, id_type, audit::Range::All, false)),
        ("audit::movements, of an item", audit::movements(ledger, id_type, audit::Range::Item, true)),
        ("audit::movements, of some items", audit::movements(ledger, id_type, audit::Range::Items, true)),
        ("audit::movements, after one", audit::movements(ledger, id_type, audit::Range::After, true)),
        ("audit::movements, one", audit::movements(ledger, id_type, audit::Range::One, true)),
        ("audit::stock", audit::stock(names, false)),
        ("audit::stock, of an item", audit::stock(names, true)),
        ("audit::stripes", audit::stripes(names, true)),
        ("audit::chains", audit::chains(names, &tables, true)),
        ("audit::broken_items", audit::broken_items(&tables)),
        ("audit::sealed", audit::sealed(names, &tables, true)),
        ("audit::segments_by_chain", audit::segments_by_chain(&tables, id_type).0),
        ("audit::segment_of", audit::segment_of(&tables, id_type)),
        ("audit::heads", audit::heads(&tables)),
        ("audit::seals", audit::seals(&tables)),
        ("audit::last_seal", audit::last_seal(&tables)),
        ("audit::newest_seal", audit::newest_seal(&tables)),
        ("audit::position", audit::position(&tables)),
        ("audit::is_of_ledger", audit::is_of_ledger(&tables, ledger)),
        ("audit::rises", audit::rises()),
        ("audit::items", audit::items()),
        ("audit::last_number", audit::last_number("shop.stock_movement_movement_id_seq")),
        ("audit::snapshot", audit::snapshot()),
        ("audit::acknowledged", audit::acknowledged(&tables)),
        ("audit::add_segments", audit::add_segments(&tables, id_type)),
        ("audit::keep_chains", audit::keep_chains(&tables, id_type)),
        ("audit::keep_run", audit::keep_run(&tables)),
        ("audit::describe_movements", audit::describe_movements(ledger, id_type)),
        ("audit::sold", audit::sold(id_type, sales)),
        ("audit::deducted", audit::deducted(ledger, Some("shop.archive"))),
        ("audit::newest_audit", audit::newest_audit(&tables)),
        ("audit::last_movement", audit::last_movement(ledger, id_type)),
        ("audit::archived_until", audit::archived_until(&tables)),
    ]
}

/// The statements of the archive, of history, and of what reports it.
fn of_history(Names { id_type, .. }: &Names) -> Vec<(&'static str, Sql)> {
    let ledger = "shop.stock_movement";
    vec![
        ("archive::create", archive::create("shop.stock_movement_archive", *id_type)),
        ("archive::index", archive::index("shop.stock_movement_archive")),
        ("archive::cut", archive::cut(ledger, &audit_names())),
        ("archive::others", archive::others(ledger, "shop.stock_movement_archive", *id_type)),
        ("archive::copy", archive::copy(ledger, "shop.stock_movement_archive", *id_type)),
        ("archive::left_out", archive::left_out(ledger, "shop.stock_movement_archive", *id_type)),
        ("archive::delete", archive::delete(ledger, *id_type)),
        ("archive::leave", archive::leave(ledger, "shop.stock_movement_archive", *id_type)),
        ("past::quantity_at", past::quantity_at(ledger, None, *id_type)),
        ("past::quantity_at, with an archive", past::quantity_at(ledger, Some("shop.archive"), *id_type)),
        ("past::changes", past::changes(ledger, Some("shop.archive"))),
        ("past::next_number", past::next_number(ledger, None)),
        ("past::last_there", past::last_there(ledger)),
        ("report::run", report::run(&audit_names())),
        ("report::history", report::history(ledger, *id_type)),
        ("report::by_day", report::by_day(ledger)),
        ("schedule::database", schedule::database()),
        ("schedule::has_cron", schedule::has_cron()),
        ("schedule::register", schedule::register()),
    ]
}

/// The statements that are not kept, each under the name of its function.
fn others(names: &Names) -> Vec<(String, Sql)> {
    let Names { relation: table, id, id_type, quantity, quantity_type, stripes, totals, .. } = names;
    let left = Leftover { table, id, id_type: *id_type, quantity, stripes, totals };
    let (ledger, configuration) = ("shop.stock_movement", "public.inventory_attachment");
    let sharing = "public.inventory_sharing";
    let [add, validate] = attach::add_check(table, "quantity_non_negative", id, quantity, *quantity_type);
    let clauses = ["BEFORE INSERT OR UPDATE OR DELETE", "FOR EACH STATEMENT"];
    let create = companions::create_trigger("0_inventory", clauses, table, "public.inventory_guard");
    let away = names.partitioned.then_some((table.as_str(), id.as_str()));
    let mut statements = vec![
        ("requests::is_not_negative", requests::is_not_negative()),
        ("requests::purge", requests::purge(names)),
        ("layout::delete_stripes", layout::delete_stripes(names)),
        ("layout::delete_total", layout::delete_total(names)),
        ("layout::show_total", layout::show_total(names)),
        ("layout::lock_free_row", layout::lock_free_row(names)),
        ("layout::lock_free_stripes", layout::lock_free_stripes(names)),
        ("layout::lock_free_total", layout::lock_free_total(names)),
        ("layout::insert_stripes", layout::insert_stripes(names)),
        ("layout::insert_total", layout::insert_total(names)),
        ("queue::awaited_rows", queue::awaited_rows()),
        ("leftover::items", leftover::items(left)),
        ("leftover::write", leftover::write(left)),
        ("leftover::delete_except", leftover::delete_except(stripes, *id_type)),
        ("opening::of_stripes", opening::of_stripes(ledger, *id_type)),
        ("opening::of_items", opening::of_items(table, id, quantity, (ledger, *id_type))),
        ("opening::of_deleted_items", opening::of_deleted_items(table, id, (ledger, *id_type))),
        ("attach::bad_rows", attach::bad_rows(table, id, quantity, *quantity_type, 28)),
        ("attach::longest_id", attach::longest_id(table, id)),
        ("attach::count_items", attach::count_items(table)),
        ("attach::check_name", attach::check_name()),
        ("attach::set_not_null", attach::set_not_null(table, quantity)),
        ("attach::drop_constraint", attach::drop_constraint(table, "quantity_non_negative")),
        ("attach::add_check, 1", add),
        ("attach::add_check, 2", validate),
        ("attach::insert_configuration", attach::insert_configuration(configuration)),
        ("attach::delete_configuration", attach::delete_configuration(configuration)),
        ("attach::delete_dropped", attach::delete_dropped(configuration)),
        ("attach::begin_sharing", attach::begin_sharing(configuration, sharing)),
        ("attach::end_sharing", attach::end_sharing(configuration, sharing)),
        ("attach::set_striped", attach::set_striped(configuration)),
        ("attach::try_set_striped", attach::try_set_striped(configuration)),
        ("catalog::striped_items", catalog::striped_items(stripes, away)),
        ("catalog::condition", catalog::condition()),
        ("catalog::grants_of_trigger", catalog::grants_of_trigger()),
        ("catalog::subscribed", catalog::subscribed()),
        ("catalog::configured, of a stock table", catalog::configured(configuration, catalog::ConfiguredBy::Stock)),
        ("catalog::configured, of tables", catalog::configured(configuration, catalog::ConfiguredBy::Tables)),
        ("advice::facts", advice::facts()),
        ("catalog::attached", catalog::attached(configuration, sharing)),
        ("catalog::relations_in", catalog::relations_in()),
        ("catalog::striped_tables", catalog::striped_tables(configuration)),
        ("catalog::stripe_tables", catalog::stripe_tables(configuration)),
        ("catalog::open_cursors", catalog::open_cursors()),
        ("catalog::dropped_objects", catalog::dropped_objects()),
        ("companions::find", companions::find()),
        ("companions::schema", companions::schema()),
        ("companions::find_stripes", companions::find_stripes().unwrap_or_else(|_| Sql::new("none", &[]))),
        ("companions::is_marked", companions::is_marked()),
        ("companions::count_shared", companions::count_shared(stripes, table, id)),
        ("companions::partitions", companions::partitions()),
        ("companions::default_grants", companions::default_grants()),
        ("companions::quote", companions::quote()),
        ("companions::create_trigger", create),
        ("companions::drop_trigger", companions::drop_trigger("0_inventory", table)),
        ("companions::has_rows", companions::has_rows(stripes)),
    ];
    statements.extend(of_the_audit(names));
    statements.extend(of_history(names));
    statements.extend(companions::index_movements(ledger).map(|sql| ("companions::index_movements", sql)));
    for companion in Companion::ALL {
        let comments = companions::comments("shop.companion", companion, "shop.stock").into_iter().take(2);
        statements.extend(comments.map(|sql| ("companions::comments, of a table and of a column", sql)));
        statements.push(("companions::create_table", companions::create_table("shop.companion", companion, *id_type)));
    }
    statements.into_iter().map(|(name, sql)| (name.to_owned(), sql)).collect()
}

fn all(names: &Names) -> Vec<(String, Sql)> {
    let kept = |statement: &Statement| match statement.sql(names) {
        Ok(sql) => (format!("{statement:?}"), sql),
        Err(error) => unreachable!("{statement:?}: {}", error.message),
    };
    Statement::ALL.iter().map(kept).chain(others(names)).collect()
}

/// The contents of each file.
fn shown() -> BTreeMap<String, String> {
    let mut files = BTreeMap::<String, String>::new();
    let mut show = |heading: &str, name: &str, sql: &Sql| {
        let types = sql.parameters.iter().enumerate().map(|(place, sql_type)| format!("${} {sql_type:?}", place + 1));
        let types =
            types.collect::<Vec<_>>().chunks(4).map(|some| some.join(", ")).collect::<Vec<_>>().join(",\n--   ");
        let file = name.split_once("::").map_or("kept", |(module, _)| module);
        let text =
            files.entry(format!("{file}.sql")).or_insert_with(|| "-- Written and compared by golden.rs.\n".into());
        let _ =
            write!(text, "\n-- {name}{heading}{}{types}\n{};\n", if types.is_empty() { "" } else { ": " }, sql.text);
    };
    let (of_ordinary, of_partitioned) = (all(&ordinary()), all(&partitioned()));
    for ((name, sql), (_, other)) in of_ordinary.iter().zip(&of_partitioned) {
        if sql == other {
            show("", name, sql);
        } else {
            show(" (ordinary, uuids, numeric)", name, sql);
            show(" (partitioned, text ids, integer)", name, other);
        }
    }
    files
}

#[test]
fn every_statement_is_as_in_the_golden_files() {
    for (file, shown) in shown() {
        let path = format!("{GOLDEN}/{file}");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            assert!(std::fs::write(&path, &shown).is_ok());
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        for (number, (shown, golden)) in shown.lines().zip(golden.lines()).enumerate() {
            assert_eq!(shown, golden, "{path}, line {}", number + 1);
        }
        assert_eq!(shown.lines().count(), golden.lines().count(), "{path}");
    }
}

#[test]
fn a_movement_without_a_ledger_is_an_error() {
    let names = Names { movements: None, ..ordinary() };
    assert!(Statement::RecordItem.sql(&names).is_err());
}

//! The attached tables, each looked up once a session and cached until something about it changes.
//!
//! `pg::invalidation` counts the changes, from messages that are read when a lock is taken; so the order is: lock the
//! stock table, then compare the counter. Attach and detach hold a stronger lock until they commit, so no sale runs on
//! a table that is no longer attached. A lookup also reads the changes of its own transaction. It starts no worker.

use crate::core::error::{Error, Result};
use crate::core::item_id::{IdType, ItemId};
use crate::core::part::{Access, Companion, Part};
use crate::core::quantity::Capacity;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::encoding;
use crate::pg::invalidation::{self, Watch};
use crate::pg::lock::{TableLock, lock_alone, lock_and_look, lock_for_writing, releasing_locks, unlock_table};
use crate::pg::relation::{self, Facts};
use crate::pg::report;
use crate::pg::role::act_as_unfiltered;
use crate::pg::spi::{Connection, Snapshot, connected};
use crate::pg::trigger::Firing;
use crate::pg::types::SqlType;
use crate::pg::writability::StockColumns;
use crate::statements::{Names, Statement, catalog as statements};
use crate::stats::divisions::{self, Known};
use crate::stats::meter;
use crate::table::attachment::{Attachment, Division, Plans, StripeCounts, USER_SCHEMA, part_of, pinned_path};
use crate::table::called::Called;
use crate::table::catalog::{self, ColumnDescription, Columns, Description, RelationKind};
use crate::table::choice;
use crate::table::configuration::{Configured, configuration, configured, configured_with};
use crate::table::health;
use crate::table::native;
use crate::table::trust;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::rc::Rc;

#[derive(Default)]
struct Cache {
    attachments: HashMap<Oid, Rc<Attachment>>,
    /// The stock table of each table whose triggers may fire: of companions, partitions and of itself.
    stock_of: HashMap<Oid, Oid>,
}

thread_local! {
    /// Outlives a call: the cost of a lookup must not be that of each call.
    static CACHE: RefCell<Cache> = RefCell::new(Cache::default());
}

fn cached(table: Oid) -> Option<Rc<Attachment>> {
    CACHE.with_borrow(|cache| cache.attachments.get(&table).cloned())
}

/// The attached table that the caller means, locked against attach and detach until the transaction ends.
pub fn current() -> Result<Rc<Attachment>> {
    loop {
        let choice = choice::choose()?;
        let stock = match attached(choice.table) {
            Ok(stock) => stock,
            Err(_) if !choice.is_current() => continue,
            Err(error) => return Err(error),
        };
        if choice.is_current() {
            choice.require_unshadowed(&stock)?;
            meter::is_about(stock.oid);
            return Ok(stock);
        }
        release(&stock);
    }
}

/// An attached table, locked likewise.
pub fn attached(table: Oid) -> Result<Rc<Attachment>> {
    if let Some(cached) = cached(table) {
        lock_for_writing(&[table]);
        if cached.is_fresh() {
            lock_for_writing(&cached.locked);
            if cached.is_fresh() {
                return Ok(cached);
            }
            unlock_all(&cached.locked);
        }
        unlock_table(table, TableLock::RowExclusive);
    }
    forget_others()?;
    let loaded = connected(|spi| load(spi, table));
    meter::was_busy();
    match loaded {
        Ok(loaded) => Ok(keep(loaded)),
        Err(error) => {
            CACHE.with_borrow_mut(|cache| cache.attachments.remove(&table));
            Err(error)
        }
    }
}

/// Frees what is kept of tables that are no longer attached: a session may outlive many of them.
fn forget_others() -> Result<()> {
    let kept: Vec<Oid> = CACHE.with_borrow(|cache| cache.attachments.keys().copied().collect());
    for table in kept {
        if !choice::is_attached(table)? || relation::schema_of(table).is_none() {
            let forgotten = CACHE.with_borrow_mut(|cache| {
                cache.stock_of.retain(|_, stock| *stock != table);
                cache.attachments.remove(&table)
            });
            invalidation::end(Watch::Table(table));
            drop(forgotten);
        }
    }
    Ok(())
}

fn keep(loaded: Attachment) -> Rc<Attachment> {
    let loaded = Rc::new(loaded);
    let partitions = relation::with_partitions(loaded.oid);
    CACHE.with_borrow_mut(|cache| {
        cache.stock_of.retain(|_, stock| *stock != loaded.oid);
        let tables = loaded.companions.oids().into_iter().chain(partitions);
        for table in tables.filter(|table| !cache.attachments.contains_key(table)) {
            cache.stock_of.insert(table, loaded.oid);
        }
        cache.stock_of.insert(loaded.oid, loaded.oid);
        cache.attachments.insert(loaded.oid, Rc::clone(&loaded));
    });
    loaded
}

/// Raises 42501 where the rights of the caller decide and do not suffice: before a lock is requested that others would
/// wait for.
pub fn require_rights_of_caller() -> Result<()> {
    let stock = current()?;
    if stock.run_as_caller {
        stock.require_sale_rights();
    }
    // A request for a stronger lock with this one held could deadlock with another session that does the same.
    release(&stock);
    Ok(())
}

/// Releases the locks that [`attached`] took.
pub fn release(stock: &Attachment) {
    unlock_all(&stock.locked);
    unlock_all(&[stock.oid]);
}

/// The attached table that the caller means while no session sells: waits for every sale that runs, and the next ones
/// wait until the transaction ends.
pub fn current_alone() -> Result<Rc<Attachment>> {
    loop {
        let table = choice::choose()?.table;
        lock_alone(&[table], TableLock::ShareRowExclusive);
        let stock = current()?;
        if stock.oid == table {
            return Ok(stock);
        }
        release(&stock);
        unlock_table(table, TableLock::ShareRowExclusive);
        unlock_table(table, TableLock::ShareUpdateExclusive);
    }
}

/// The stock table of the table that a trigger fires on, and the part of its attachment that the table is, as far as
/// they are known without a lock on the stock table.
pub fn part_without_lock(firing: &Firing) -> Result<Option<(Oid, Part)>> {
    let table = firing.table();
    let known = CACHE.with_borrow(|cache| {
        let stock = cache.stock_of.get(&table)?;
        cache.attachments.get(stock).cloned()
    });
    if let Some(stock) = known.filter(|stock| stock.is_fresh())
        && let Some(part) = stock.part_of(firing)
    {
        return Ok(Some((stock.oid, part)));
    }
    let tables = relation::with_ancestors(table);
    let found = connected(|spi| configured_with(spi, &configuration()?, tables))?;
    let part = |found: &Configured| part_of(firing, found.table, &found.companions).map(|part| (found.table, part));
    // A partition that is attached itself, and not yet refused, is a stock table of its own.
    let (own, others): (Vec<_>, Vec<_>) = found.iter().partition(|found| found.table == table);
    Ok(own.into_iter().chain(others).find_map(part))
}

/// Releases locks before the stock table is locked again: a session that keeps one, and waits for the stock table,
/// could deadlock with one that has locked the stock table first.
fn unlock_all(tables: &[Oid]) {
    tables.iter().for_each(|table| unlock_table(*table, TableLock::RowExclusive));
}

fn load(spi: &Connection, table: Oid) -> Result<Attachment> {
    let watch = Watch::Table(table);
    loop {
        let configuration = configuration()?;
        let configured = self::configured(spi, &configuration, table)?.ok_or_else(Error::not_attached)?;
        let companions = configured.companions.oids();
        let [schema, name] = &configured.attached_as;
        let watched: Vec<Oid> = companions.iter().copied().chain([table]).collect();
        let _lookup = invalidation::start(watch, &watched);
        invalidation::add_name(schema, name);
        watched.iter().copied().for_each(invalidation::add_schema_of);
        let generation = invalidation::generation(watch);
        lock_for_writing(&[table]);
        if self::configured(spi, &configuration, table)?.as_ref() == Some(&configured)
            && generation == invalidation::generation(watch)
        {
            let heirs = relation::with_partitions(table).into_iter().filter(|heir| *heir != table);
            let grants = catalog::grants_of_trigger(spi, companions.into_iter().chain(heirs).collect())?;
            let partitions = catalog::partitions(table);
            grants.iter().for_each(|grant| invalidation::add_role(grant.grantee));
            let mut locked: Vec<Oid> =
                grants.iter().filter(|grant| !grant.to_superuser).map(|grant| grant.table).collect();
            locked.dedup();
            locked.extend(configured.companions.movements);
            lock_for_writing(&locked);
            // What is read below is locked before: else it could be renamed, or given away, while that waits.
            let read: Vec<Oid> = partitions.iter().copied().chain(configured.companions.oids()).collect();
            lock_and_look(&read, TableLock::AccessShare);
            let is_current = || generation == invalidation::generation(watch);
            let schema = relation::schema_of(configuration.oid);
            let locks = Locks { generation, locked: locked.clone(), partitions };
            let built = is_current().then(|| build(spi, (configured, schema), locks));
            read.iter().for_each(|table| unlock_table(*table, TableLock::AccessShare));
            if let Some(built) = built.filter(|_| is_current()) {
                return built;
            }
            unlock_all(&locked);
        }
        unlock_table(table, TableLock::RowExclusive);
    }
}

fn require_plain_schema(table: &Description) -> Result<()> {
    if table.schema != USER_SCHEMA {
        return Ok(());
    }
    Err(Error::broken_attachment(
        "schema_name",
        "the schema of the stock table is named $user, which a search_path reads as the name of the role",
        json!({"table": table.name}),
        "Rename the schema.",
    ))
}

/// What was locked, and the number of the invalidation message after which it is looked up.
struct Locks {
    generation: u64,
    locked: Vec<Oid>,
    partitions: Vec<Oid>,
}

fn build(
    spi: &Connection,
    (configured, extension_schema): (Configured, Option<Oid>),
    Locks { generation, locked, partitions }: Locks,
) -> Result<Attachment> {
    let table = describe_configured(&configured)?;
    let columns = resolve(&configured, &table)?;
    let companions = Companions::read(&configured, &table, columns.id_type)?;
    require_plain_schema(&table)?;
    let search_path = pinned_path(&table);
    let known = divisions::state(table.oid);
    let facts = trust::stock_facts(table.oid);
    let objection = trust::objection(&facts, table.owner);
    let partitioned = table.kind == RelationKind::Partitioned && !trust::forbids_reading(objection.as_deref());
    let id = partitioned.then_some(columns.id.quoted.as_str());
    let (striped, away) = striped_items(spi, &companions.stripes, &table, (id, &search_path))?;
    let refusal = require_unrelated(spi, &table)
        .and_then(|()| refusal(&configured, &table, &facts, !striped.is_empty()))
        .and(companions.in_force)
        .err();
    let stock = facts.first().ok_or_else(|| Error::stock_table_dropped(table.oid.to_u32()))?;
    let run_as_caller = configured.run_as == "caller";
    let Resolved { id, quantity, id_type, quantity_type, capacity } = columns;
    let called = Called::of(configured.companions.oids().into_iter().chain([table.oid]));
    let names = Names {
        relation: table.name.clone(),
        partitioned: table.kind == RelationKind::Partitioned,
        id: id.quoted.clone(),
        id_type,
        quantity: quantity.quoted.clone(),
        quantity_type,
        by_ctid: table.kind == RelationKind::Ordinary && !run_as_caller,
        movements: companions.movements,
        requests: companions.requests,
        stripes: companions.stripes,
        totals: companions.totals,
    };
    let stock_columns = StockColumns { id: id.number, quantity: quantity.number, check: &configured.check_name };
    let companions_written = (configured.companions.movements, configured.companions.stripes);
    let native =
        native::of(&table, (&stock_columns, run_as_caller, stock.forced_rls), companions_written, extension_schema);
    if let Err(obstacle) = native {
        report::debug(&format!("{} is written by statements: {}", table.name, obstacle.words()));
    }
    Ok(Attachment {
        native,
        oid: table.oid,
        owner: table.owner,
        names,
        table_name: encoding::c_text(&table.bare_name),
        id_name: id.name.clone(),
        quantity_name: quantity.name.clone(),
        numbers: [id.number, quantity.number],
        capacity,
        referenced: table.referenced,
        run_as_caller,
        forced_rls: stock.forced_rls,
        search_path,
        companions: configured.companions,
        division: RefCell::new(Division { striped: Rc::new(striped), known }),
        away,
        seen_short: RefCell::new(None),
        looked: Cell::new(None),
        refusal,
        objection,
        called,
        locked,
        partitions,
        generation,
        plans: Plans::default(),
    })
}

/// The companions by their names, and whether all of our triggers on them are in force.
struct Companions {
    movements: Option<String>,
    requests: String,
    stripes: String,
    totals: String,
    in_force: Result<()>,
}

impl Companions {
    fn read(configured: &Configured, table: &Description, id_type: IdType) -> Result<Self> {
        let oids = &configured.companions;
        let mut in_force = Ok(());
        let mut name = |oid: Oid, companion: Companion| -> Result<String> {
            let facts = trust::companion(oid, companion, table.owner, id_type)?;
            let ours = health::ours_in_force(&facts, Part::Companion(companion), (oids.movements.is_some(), false));
            in_force = std::mem::replace(&mut in_force, Ok(())).and(ours);
            Ok(relation::qualified_name(oid))
        };
        let movements = oids.movements.map(|oid| name(oid, Companion::Movements)).transpose()?;
        let requests = name(oids.requests, Companion::Requests)?;
        let stripes = name(oids.stripes, Companion::Stripes)?;
        let totals = name(oids.totals, Companion::Totals)?;
        Ok(Self { movements, requests, stripes, totals, in_force })
    }
}

/// Refuses a table of which a partition or a parent is attached, too: the same rows would be sold twice.
fn require_unrelated(spi: &Connection, table: &Description) -> Result<()> {
    let relatives: Vec<Oid> = relation::with_ancestors(table.oid)
        .into_iter()
        .chain(relation::with_partitions(table.oid))
        .filter(|relative| *relative != table.oid)
        .collect();
    if relatives.is_empty() {
        return Ok(());
    }
    invalidation::add_relations(&relatives);
    let others = configured_with(spi, &configuration()?, relatives.clone())?;
    match others.iter().find(|other| relatives.contains(&other.table)) {
        Some(other) => Err(Error::related_attached(&table.name, &relation::qualified_name(other.table))),
        None => Ok(()),
    }
}

/// Refuses a copy, a table that another one has replaced, and one whose triggers are not in force.
fn refusal(configured: &Configured, table: &Description, facts: &[Facts], striped: bool) -> Result<()> {
    let (stock, heirs) = facts.split_first().ok_or_else(|| Error::stock_table_dropped(configured.table.to_u32()))?;
    // Tables that inherit from an ordinary one hold nothing of the stock.
    let partitions = if table.kind == RelationKind::Partitioned { heirs } else { &[] };
    let kinds = (configured.companions.movements.is_some(), striped);
    health::is_the_attached_table(configured, &table.name)
        .and_then(|()| health::ours_in_force(stock, Part::Stock, kinds))
        .and_then(|()| health::partitions_in_force(partitions, kinds))
}

/// Reads the striped items of a stock table anew, where another session may have divided one; returns whether one of
/// these is striped that was not.
pub fn learn_divided(spi: &Connection, stock: &Attachment, ids: &[ItemId]) -> Result<bool> {
    if !stock.may_be_divided() {
        return Ok(false);
    }
    let known = divisions::state(stock.oid);
    let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
    stock.ready(Part::Companion(Companion::Stripes), Access::Read)?;
    if known == Known::Unsettled && ids.len() <= MOST_LOOKED_AT {
        return learn_some(spi, stock, ids);
    }
    let rows = spi.once_latest(&statements::striped_items(&stock.names.stripes, None), &[]);
    let mut striped = HashMap::new();
    for row in 0..rows.count() {
        striped.insert(rows.item(row, c"id")?, rows.required(row, c"stripes")?);
    }
    let is_new = |id: &ItemId| striped.contains_key(id) && stock.stripes_of(id).is_none();
    let changed = ids.iter().any(is_new);
    stock.division.replace(Division { striped: Rc::new(striped), known });
    Ok(changed)
}

/// While a transaction that divides items is open, each call asks about its own items.
const MOST_LOOKED_AT: usize = 8;

fn learn_some(spi: &Connection, stock: &Attachment, ids: &[ItemId]) -> Result<bool> {
    let mut changed = false;
    for id in ids.iter().filter(|id| stock.stripes_of(id).is_none()) {
        let rows = stock.run_with(spi, Statement::LookAtStripes, &[Arg::item(id)], Snapshot::Latest);
        if rows.count() > 0 {
            let count = i16::try_from(rows.count()).map_err(|_| Error::internal("an item has too many stripes"))?;
            let mut division = stock.division.borrow_mut();
            Rc::make_mut(&mut division.striped).insert(id.clone(), count);
            division.known = Known::Unsettled;
            changed = true;
        }
    }
    Ok(changed)
}

/// The striped items; and those whose row is in a detached partition, where the id column of a partitioned table is
/// given.
fn striped_items(
    spi: &Connection,
    stripes: &str,
    table: &Description,
    (id, search_path): (Option<&str>, &CStr),
) -> Result<(StripeCounts, HashSet<ItemId>)> {
    let _acting = act_as_unfiltered(table.owner, search_path);
    let partitioned = id.map(|id| (table.name.as_str(), id));
    let rows = releasing_locks(|| spi.once_latest(&statements::striped_items(stripes, partitioned), &[]));
    let (mut striped, mut away) = (HashMap::new(), HashSet::new());
    for row in 0..rows.count() {
        let id = rows.item(row, c"id")?;
        if rows.required(row, c"present")? {
            striped.insert(id, rows.required(row, c"stripes")?);
        } else {
            away.insert(id);
        }
    }
    Ok((striped, away))
}

/// The two columns and their types.
struct Resolved<'a> {
    id: &'a ColumnDescription,
    quantity: &'a ColumnDescription,
    id_type: IdType,
    quantity_type: SqlType,
    capacity: Capacity,
}

fn resolve<'a>(configured: &Configured, table: &'a Description) -> Result<Resolved<'a>> {
    let broken = |reason, message| {
        let facts = json!({
            "table": table.name, "id_column": configured.id_column, "quantity_column": configured.quantity_column,
            "check": configured.check_name,
        });
        let hint = "Put the table right, or call detach_inventory and then attach_inventory again; no stock is lost.";
        Error::broken_attachment(reason, message, facts, hint)
    };
    let (Some(id), Some(quantity)) = (&table.id, &table.quantity) else {
        let message =
            "the CHECK of the stock table is gone: it was dropped or renamed, or a column that it names was dropped";
        return Err(broken("check_dropped", message));
    };
    let (Some(id_type), Some((quantity_type, capacity))) = (SqlType::id_type(id.type_oid), quantity.quantity()) else {
        return Err(broken("column_type_changed", "a column of the stock table has changed its type"));
    };
    if !id.deterministic {
        return Err(broken("id_collation_changed", "the collation of the id column is no longer deterministic"));
    }
    if !table.unique_index {
        return Err(broken("unique_index_missing", "the stock table has no unique index on its id column any more"));
    }
    Ok(Resolved { id, quantity, id_type, quantity_type, capacity })
}

/// Describes the attached table; its columns are those that the CHECK contains, under their present names.
pub fn describe_configured(configured: &Configured) -> Result<Description> {
    catalog::describe(configured.table, Columns::Marked(&configured.check_name))
        .ok_or_else(|| Error::stock_table_dropped(configured.table.to_u32()))
}

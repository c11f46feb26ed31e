//! Which table is the stock table, looked up once and cached until something about it changes.
//!
//! The cache is told of changes by PostgreSQL's own invalidation messages: of the stock table, of the extension's
//! configuration table (touched by attach and detach), of its companions (the stripes are touched when an item becomes
//! striped or ceases to be), and of schemas (their names stand in our statements). Those
//! messages are read when a lock is taken, so the order is: lock the stock table, then ask whether the cache is still
//! good. Attach and detach hold a stronger lock until they commit; no sale can run on a table it was not told of.

#![allow(unsafe_code)]

use crate::catalog::{Catalog, Columns, Description, Kind};
use crate::encoding;
use crate::error::{Fault, Outcome};
use crate::identity::{act_as, act_as_unfiltered};
use crate::quantity::Shape;
use crate::settings::{self, RowLock};
use crate::spi::{Connection, Plan, Sight, connected};
use crate::totals;
use pgrx::Uuid;
use pgrx::pg_sys::{self, Datum, Oid};
use serde_json::json;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The attached stock table, as statements need it.
pub struct Attachment {
    /// The table's owner, as whom statements run.
    pub owner: Oid,
    /// Schema and name, quoted.
    pub relation: String,
    /// The id column, quoted.
    pub id: String,
    /// The quantity column, quoted.
    pub quantity: String,
    /// The id column's name, for tuples.
    pub id_name: String,
    /// The quantity column's name, for tuples and messages.
    pub quantity_name: String,
    /// numeric, int2, int4 or int8.
    pub quantity_type: Oid,
    /// What the quantity column can hold.
    pub shape: Shape,
    /// A partitioned table.
    pub partitioned: bool,
    /// A row that is locked can be named by its ctid: not in a partitioned table, where partitions share ctids, and not with
    /// the caller's rights, who would need SELECT on the whole table and not on two columns.
    pub by_ctid: bool,
    /// A foreign key points at the table.
    pub referenced: bool,
    /// Statements run with the caller's rights, not the owner's.
    pub run_as_caller: bool,
    /// The search_path pinned while user code can run as the owner.
    pub search_path: Option<CString>,
    /// The ledger, where there is one.
    pub movements: Option<Owned>,
    /// The idempotency keys.
    pub requests: Owned,
    /// The stripes of hot items.
    pub stripes: Owned,
    /// The striped items, and how many stripes each has.
    pub striped: HashMap<[u8; 16], i16>,
    /// The item that a sale of this session found short last.
    pub seen_short: Cell<Option<[u8; 16]>>,
    /// The table itself; a partition of it has another oid.
    pub oid: Oid,
    generation: u32,
    plans: [OnceCell<Plan>; KEPT_PLANS],
}

/// A table that belongs to the stock table, and as whom it is written: its own owner, who may be another by now.
#[derive(Clone)]
pub struct Owned {
    /// The table.
    pub oid: Oid,
    /// Schema and name, quoted.
    pub name: String,
    /// Its owner.
    pub owner: Oid,
}

/// The statements kept for the stock table.
#[derive(Clone, Copy)]
pub enum Kept {
    /// Locks an item that has enough.
    Lock,
    /// The same, with the weaker lock.
    LockNoKey,
    /// Locks an item whatever it has.
    LockAny,
    /// The same, with the weaker lock.
    LockAnyNoKey,
    /// Reads an item without a lock.
    Look,
    /// Writes the deduction.
    Write,
    /// Locks many items in the order of their ids.
    LockMany,
    /// The same, with the weaker lock.
    LockManyNoKey,
    /// Writes many changes.
    WriteMany,
    /// Records one movement.
    Record,
    /// Records one movement of a stripe.
    RecordStripe,
    /// Records many movements.
    RecordMany,
    /// Claims an idempotency key.
    ClaimKey,
    /// Reads what a claimed key stands for.
    ReadKey,
    /// Keeps the answer of a call under its key.
    KeepAnswer,
    /// Asks, as the caller, whether he may change an item.
    MayChange,
    /// Locks a stripe that has enough.
    LockStripe,
    /// Reads all stripes of an item without a lock.
    LookStripes,
    /// Writes one stripe.
    WriteStripe,
    /// Writes many stripes.
    WriteStripes,
    /// Adds up the stripes of every item.
    SumStripes,
    /// Finds the items whose total is behind.
    BehindTotals,
    /// Locks the items whose total is behind.
    LockTotals,
    /// Writes the totals.
    WriteTotals,
}

const KEPT_PLANS: usize = Kept::WriteTotals as usize + 1;

impl Attachment {
    /// The table as statements name it, under the alias `stock`. ONLY: rows of tables that inherit from an ordinary
    /// stock table are no items.
    pub fn source(&self) -> String {
        let only = if self.partitioned { "" } else { "ONLY " };
        format!("{only}{} AS stock", self.relation)
    }

    /// Which of two statements has the row lock in force: FOR UPDATE or FOR NO KEY UPDATE.
    pub fn by_strength(&self, full: Kept, no_key: Kept) -> Kept {
        match settings::row_lock() {
            RowLock::Update => full,
            RowLock::NoKeyUpdate => no_key,
            RowLock::Auto if self.referenced => no_key,
            RowLock::Auto => full,
        }
    }

    /// How many stripes an item has; None where it is not striped.
    pub fn stripes_of(&self, id: &Uuid) -> Option<i16> {
        if self.striped.is_empty() { None } else { self.striped.get(id.as_bytes()).copied() }
    }

    /// Takes the lock of a statement that writes stripes, until the transaction ends.
    pub fn lock_stripes(&self) {
        // SAFETY: locks a relation that is watched under the lock on the stock table.
        unsafe { pg_sys::LockRelationOid(self.stripes.oid, pg_sys::RowExclusiveLock as i32) };
    }

    /// The kept plan of a statement, prepared when it is first needed.
    pub fn plan(&self, spi: &Connection, kept: Kept, statement: impl FnOnce() -> (String, Vec<Oid>)) -> &Plan {
        self.plans[kept as usize].get_or_init(|| {
            let (sql, types) = statement();
            spi.prepare(&sql, &types)
        })
    }
}

/// The configuration row, and the table that holds it.
#[derive(Clone, PartialEq)]
pub struct Configured {
    /// The oid the row names; the table may be gone.
    pub table: Oid,
    /// As attached, for comparison with a second attach.
    pub run_as: String,
    /// The ledger, where there is one.
    pub movement_table: Option<Oid>,
    request_table: Oid,
    /// The stripes.
    pub stripe_table: Oid,
    check_name: String,
    id_column: String,
    quantity_column: String,
}

/// The extension's configuration table.
#[derive(Clone, PartialEq)]
pub struct Configuration {
    /// Its oid.
    pub oid: Oid,
    /// Its owner, as whom it is read and written.
    pub owner: Oid,
    /// Schema and name, quoted.
    pub relation: String,
    /// The schema of the extension, quoted.
    pub schema: String,
}

thread_local! {
    static CACHE: RefCell<Option<Rc<Attachment>>> = const { RefCell::new(None) };
}

static GENERATION: AtomicU32 = AtomicU32::new(0);
/// The stock table, its companions and the configuration table; 0 also stands for "every relation".
static WATCHED: [AtomicU32; 5] = [const { AtomicU32::new(0) }; 5];

/// The search_path of statements on the extension's own tables.
pub const CATALOG_PATH: &CStr = c"pg_catalog, pg_temp";

/// The attached stock table, locked against attach and detach until the transaction ends.
pub fn current() -> Outcome<Rc<Attachment>> {
    if let Some(cached) = CACHE.with_borrow(Clone::clone) {
        lock_for_sale(cached.oid);
        if cached.generation == GENERATION.load(Relaxed) {
            return Ok(cached);
        }
        unlock(cached.oid);
    }
    let loaded = Rc::new(connected(load)?);
    CACHE.set(Some(Rc::clone(&loaded)));
    if !loaded.striped.is_empty() {
        // A server that was stopped may have left totals behind.
        totals::keep();
    }
    Ok(loaded)
}

/// The attached stock table while nobody sells: every sale that runs is waited for, and the next ones wait until the
/// transaction ends.
pub fn current_alone() -> Outcome<Rc<Attachment>> {
    loop {
        let found = connected(|spi| {
            let configuration = configuration(spi)?;
            configured(spi, &configuration)
        })?;
        let table = found.ok_or_else(Fault::not_attached)?.table;
        // SAFETY: locks an oid; it need not exist.
        unsafe { pg_sys::LockRelationOid(table, pg_sys::ShareRowExclusiveLock as i32) };
        let stock = current()?;
        if stock.oid == table {
            return Ok(stock);
        }
        // SAFETY: releases the lock taken above.
        unsafe { pg_sys::UnlockRelationOid(table, pg_sys::ShareRowExclusiveLock as i32) };
    }
}

fn load(spi: &Connection) -> Outcome<Attachment> {
    loop {
        let configuration = configuration(spi)?;
        let configured = configured(spi, &configuration)?.ok_or_else(Fault::not_attached)?;
        watch(&configuration, &configured);
        let generation = GENERATION.load(Relaxed);
        lock_for_sale(configured.table);
        let unchanged = self::configured(spi, &configuration)?.as_ref() == Some(&configured);
        if unchanged && generation == GENERATION.load(Relaxed) {
            let catalog = Catalog::of(spi);
            let description = describe_attached(&catalog, &configured)?;
            let companions = describe_companions(&catalog, &configured)?;
            let striped = striped_items(spi, &companions.stripes)?;
            return build(&configured, description, companions, striped, generation);
        }
        unlock(configured.table);
    }
}

fn watch(configuration: &Configuration, configured: &Configured) {
    let movements = configured.movement_table.unwrap_or(pg_sys::InvalidOid);
    let relations = [configuration.oid, configured.table, movements, configured.request_table, configured.stripe_table];
    for (watched, relation) in WATCHED.iter().zip(relations) {
        watched.store(relation.to_u32(), Relaxed);
    }
}

/// The tables that grow with the stock table.
struct Companions {
    movements: Option<Owned>,
    requests: Owned,
    stripes: Owned,
    run_user_code: bool,
}

fn describe_companions(catalog: &Catalog<'_>, configured: &Configured) -> Outcome<Companions> {
    let companion = |oid, what: &'static str| {
        catalog.describe(oid, Columns::None).ok_or_else(|| {
            Fault::broken_attachment(
                what,
                "a table that belongs to the stock table was dropped",
                json!({"oid": oid.to_u32()}),
                "Call detach_inventory, then attach_inventory again: what is missing is made anew.",
            )
        })
    };
    let movements = configured.movement_table.map(|oid| companion(oid, "movement_table_dropped")).transpose()?;
    let requests = companion(configured.request_table, "request_table_dropped")?;
    let stripes = companion(configured.stripe_table, "stripe_table_dropped")?;
    let owned = |table: Description| Owned { oid: table.oid, name: table.name, owner: table.owner };
    Ok(Companions {
        run_user_code: requests.runs_user_code
            || stripes.runs_user_code
            || movements.as_ref().is_some_and(|m| m.runs_user_code),
        movements: movements.map(owned),
        requests: owned(requests),
        stripes: owned(stripes),
    })
}

fn striped_items(spi: &Connection, stripes: &Owned) -> Outcome<HashMap<[u8; 16], i16>> {
    let _acting = act_as_unfiltered(stripes.owner, Some(CATALOG_PATH));
    let sql = format!("SELECT inventory_id, pg_catalog.max(stripe) FROM {} GROUP BY inventory_id", stripes.name);
    let rows = spi.run(&spi.prepare(&sql, &[]), &[], Sight::Latest);
    let item = |row| Some((*rows.get::<Uuid>(row, 1)?.as_bytes(), rows.get(row, 2)?));
    let items = (0..rows.count()).map(|row| item(row).ok_or_else(|| Fault::internal("a stripe has a null")));
    items.collect()
}

fn build(
    configured: &Configured,
    table: Description,
    companions: Companions,
    striped: HashMap<[u8; 16], i16>,
    generation: u32,
) -> Outcome<Attachment> {
    let broken = |reason, message| {
        let facts = json!({
            "table": table.name, "id_column": configured.id_column, "quantity_column": configured.quantity_column,
            "check": configured.check_name,
        });
        let hint = "Put the table right, or call detach_inventory and then attach_inventory again.";
        Fault::broken_attachment(reason, message, facts, hint)
    };
    let (Some(id), Some(quantity)) = (&table.id, &table.quantity) else {
        let message =
            "the CHECK of the stock table is gone: it was dropped or renamed, or a column that it names was dropped";
        return Err(broken("check_dropped", message));
    };
    let Some(shape) = quantity.shape().filter(|_| id.type_oid == pg_sys::UUIDOID) else {
        return Err(broken("column_type_changed", "a column of the stock table has changed its type"));
    };
    if !table.unique_index {
        return Err(broken("unique_index_missing", "the stock table has no unique index on its id column any more"));
    }
    let pinned = format!("{}, pg_temp", table.schema);
    Ok(Attachment {
        owner: table.owner,
        id: id.quoted.clone(),
        id_name: id.name.clone(),
        quantity: quantity.quoted.clone(),
        quantity_name: quantity.name.clone(),
        quantity_type: quantity.type_oid,
        shape,
        partitioned: table.kind == Kind::Partitioned,
        by_ctid: table.kind == Kind::Ordinary && configured.run_as == "owner",
        referenced: table.referenced,
        run_as_caller: configured.run_as == "caller",
        search_path: (table.runs_user_code || companions.run_user_code).then(|| encoding::c_text(&pinned)),
        movements: companions.movements,
        requests: companions.requests,
        stripes: companions.stripes,
        striped,
        seen_short: Cell::new(None),
        relation: table.name,
        oid: table.oid,
        generation,
        plans: Default::default(),
    })
}

/// Takes the lock of a sale, and then reads the invalidation messages that came before it.
///
/// Taking a lock reads them too, but not where the transaction has the lock already; a schema can be renamed even then.
fn lock_for_sale(table: Oid) {
    // SAFETY: locks an oid; it need not exist.
    unsafe {
        pg_sys::LockRelationOid(table, pg_sys::RowExclusiveLock as i32);
        pg_sys::AcceptInvalidationMessages();
    }
}

/// Gives back a lock on what turned out not to be the stock table any more; waiting for another one with it could deadlock
/// with a session that switches from one to the other.
fn unlock(table: Oid) {
    // SAFETY: releases a lock taken by lock_for_sale; one that the transaction took before stays.
    unsafe { pg_sys::UnlockRelationOid(table, pg_sys::RowExclusiveLock as i32) };
}

/// Finds the configuration table of the installed extension.
pub fn configuration(spi: &Connection) -> Outcome<Configuration> {
    let plan = spi.prepare(CONFIGURATION, &[]);
    let rows = spi.run(&plan, &[], Sight::Latest);
    match (rows.get(0, 1), rows.get(0, 2), rows.text(0, 3), rows.text(0, 4)) {
        (Some(oid), Some(owner), Some(relation), Some(schema)) => Ok(Configuration { oid, owner, relation, schema }),
        _ => Err(Fault::not_attached()),
    }
}

const CONFIGURATION: &str = "\
SELECT c.oid, c.relowner, pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(n.nspname)
  FROM pg_catalog.pg_extension AS e
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
  JOIN pg_catalog.pg_class AS c
    ON c.relnamespace OPERATOR(pg_catalog.=) n.oid AND c.relname OPERATOR(pg_catalog.=) 'inventory_attachment'
 WHERE e.extname OPERATOR(pg_catalog.=) 'inventory_ext'";

/// Reads the configuration row as the owner of its table.
pub fn configured(spi: &Connection, configuration: &Configuration) -> Outcome<Option<Configured>> {
    let _acting = act_as(configuration.owner, Some(CATALOG_PATH));
    let sql = format!(
        "SELECT stock_table::pg_catalog.oid, run_as, check_name::pg_catalog.text, id_column::pg_catalog.text,
                quantity_column::pg_catalog.text, movement_table::pg_catalog.oid, request_table::pg_catalog.oid,
                stripe_table::pg_catalog.oid FROM {}",
        configuration.relation
    );
    let plan = spi.prepare(&sql, &[]);
    let rows = spi.run(&plan, &[], Sight::Latest);
    let Some(table) = rows.get(0, 1) else {
        return Ok(None);
    };
    let row = || {
        Some(Configured {
            table,
            run_as: rows.text(0, 2)?,
            check_name: rows.text(0, 3)?,
            id_column: rows.text(0, 4)?,
            quantity_column: rows.text(0, 5)?,
            movement_table: rows.get(0, 6),
            request_table: rows.get(0, 7)?,
            stripe_table: rows.get(0, 8)?,
        })
    };
    row().map(Some).ok_or_else(|| Fault::internal("the configuration row has a null"))
}

/// Describes the attached table; its columns are those that the CHECK names, whatever they are called now.
pub fn describe_configured(spi: &Connection, configured: &Configured) -> Outcome<Description> {
    describe_attached(&Catalog::of(spi), configured)
}

fn describe_attached(catalog: &Catalog<'_>, configured: &Configured) -> Outcome<Description> {
    catalog.describe(configured.table, Columns::Marked(&configured.check_name)).ok_or_else(|| {
        Fault::broken_attachment(
            "stock_table_dropped",
            "the stock table was dropped",
            json!({"oid": configured.table.to_u32()}),
            "Call detach_inventory, then attach_inventory with the new table.",
        )
    })
}

/// Tells every backend, when this transaction commits, to look the attachment up again; through one of the watched relations.
pub fn announce_change(watched: Oid) {
    // SAFETY: queues an invalidation message for an existing relation.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(watched) };
}

/// Registers for PostgreSQL's invalidation messages; called once a backend.
pub fn watch_catalog() {
    // SAFETY: the callbacks are of the library, which is never unloaded; they only touch atomics.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), Datum::null());
        pg_sys::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::NAMESPACEOID as i32,
            Some(schema_changed),
            Datum::null(),
        );
    }
}

unsafe extern "C-unwind" fn relation_changed(_: Datum, relation: Oid) {
    let relation = relation.to_u32();
    if relation == 0 || WATCHED.iter().any(|watched| watched.load(Relaxed) == relation) {
        GENERATION.fetch_add(1, Relaxed);
    }
}

unsafe extern "C-unwind" fn schema_changed(_: Datum, _: i32, _: u32) {
    GENERATION.fetch_add(1, Relaxed);
}

//! Which table is the stock table, looked up once and cached until something about it changes.
//!
//! watch.rs says when it changes, from messages that are read when a lock is taken; so the order is: lock the stock table, then
//! ask whether the cache is still good. Attach and detach hold a stronger lock until they commit, so no sale runs on a table that
//! is no longer attached. A lookup reads what this transaction has changed itself, too.

#![allow(unsafe_code)]

use crate::core::error::{Fault, Outcome};
use crate::core::quantity::Shape;
use crate::pg::encoding;
use crate::pg::invalidation;
use crate::pg::relation;
use crate::pg::role::{
    Acting, OfTransaction, act_as, act_as_unfiltered, current_role, is_superuser, is_unfiltered, require_sale_rights,
};
use crate::pg::settings::{self, RowLock};
use crate::pg::spi::{Connection, Plan, Sight, connected};
use crate::pg::trigger::{Firing, Operation};
use crate::table::catalog::{self, Catalog, Columns, Description, Kind};
use crate::table::configuration::{Configured, configuration, configured};
use crate::table::health;
use pgrx::Uuid;
use pgrx::pg_sys::{self, Oid};
use serde_json::json;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::rc::Rc;

/// The attached stock table, as statements need it.
pub struct Attachment {
    /// The table's owner, as whom statements run.
    pub owner: Oid,
    /// Schema and name, quoted.
    pub relation: String,
    /// The name alone, for errors of PostgreSQL itself.
    table_name: CString,
    /// The id column, quoted.
    pub id: String,
    /// The quantity column, quoted.
    pub quantity: String,
    /// The id column's name, for tuples.
    pub id_name: String,
    /// The quantity column's name, for tuples and messages.
    pub quantity_name: String,
    /// The numbers of the id column and of the quantity column.
    pub numbers: [i16; 2],
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
    /// Forced row-level security hides rows from the owner.
    pub forced_rls: bool,
    /// The search_path that is pinned while statements run as the owner.
    pub search_path: CString,
    /// The ledger, where there is one.
    pub movements: Option<Companion>,
    /// The idempotency keys.
    pub requests: Companion,
    /// The stripes of hot items.
    pub stripes: Companion,
    /// The totals last written to the rows of striped items.
    pub totals: Companion,
    /// The striped items, and how many stripes each has.
    pub striped: HashMap<[u8; 16], i16>,
    /// The item that a sale of this session found short last.
    pub seen_short: Cell<Option<[u8; 16]>>,
    /// The table itself; a partition of it has another oid.
    pub oid: Oid,
    /// Why no function may change or read its stock, where one may not.
    refusal: Option<Box<Fault>>,
    /// The objection to a trigger that would run with the owner's rights.
    objection: Option<Box<Fault>>,
    /// Locked with the stock table by each call, until the transaction ends: the ledger, and the companions and partitions on which others
    /// may create triggers, so that none comes in while the call runs.
    locked: Vec<Oid>,
    /// Items with stripes and without a row: their partition is detached.
    away: HashSet<[u8; 16]>,
    generation: u32,
    /// Kept plans, apart for statements with and without forced row-level security: PostgreSQL does not plan again for that.
    plans: [[OnceCell<Plan>; 2]; KEPT_PLANS],
}

/// A table that belongs to the stock table; its owner is the stock table's.
#[derive(Clone)]
pub struct Companion {
    /// The table.
    pub oid: Oid,
    /// Schema and name, quoted.
    pub name: String,
}

/// A table of the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The stock table, or a partition of it.
    Stock,
    /// The ledger.
    Movements,
    /// The idempotency keys.
    Requests,
    /// The stripes.
    Stripes,
    /// The totals of striped items.
    Totals,
}

/// What a call is about to do with the stock table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// No row is written, so no trigger fires.
    Read,
    /// Rows are written.
    Change,
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
    /// Asks, with the rights in force, whether an item may be changed.
    MayChange,
    /// Locks a stripe that has enough.
    LockStripe,
    /// Reads all stripes of an item without a lock.
    LookStripes,
    /// Locks all stripes of an item.
    LockStripes,
    /// Adds up the stripes of one item.
    SumOfItem,
    /// Reads an item as a numeric.
    Shown,
    /// Which of some items may be read.
    Visible,
    /// Which of some items may be changed.
    Changeable,
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
    /// Keeps the totals that were written.
    KeepTotals,
}

const KEPT_PLANS: usize = Kept::KeepTotals as usize + 1;

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

    /// Whether an item has stripes that its row, in a partition which is detached, will come back to.
    pub fn is_away(&self, id: &Uuid) -> bool {
        !self.away.is_empty() && self.away.contains(id.as_bytes())
    }

    /// Takes the lock of a statement that writes stripes, until the transaction ends.
    pub fn lock_stripes(&self) {
        let _owner = OfTransaction::begin();
        // SAFETY: locks a relation that is watched under the lock on the stock table.
        unsafe { pg_sys::LockRelationOid(self.stripes.oid, pg_sys::RowExclusiveLock as i32) };
    }

    /// Assumes the rights with which the stock table is read and written; None for those of the caller.
    ///
    /// A superuser who is not the owner never runs code of the owner: such a caller acts as the owner, too, but sees all rows.
    pub fn act(&self, intent: Intent) -> Outcome<Option<Acting>> {
        self.require_healthy()?;
        if !self.run_as_caller {
            self.require_trusted_code()?;
            return Ok(Some(act_as(self.owner, &self.search_path)));
        }
        let caller = current_role();
        if caller == self.owner || !is_superuser(caller) {
            return Ok(None);
        }
        if intent == Intent::Change {
            self.require_trusted_code().map_err(Fault::for_superuser)?;
        }
        Ok(Some(act_as_unfiltered(self.owner, &self.search_path)))
    }

    /// Refuses to run statements as the owner where a trigger of the stock table must not run so.
    pub fn require_trusted_code(&self) -> Outcome<()> {
        self.objection.clone().map_or(Ok(()), Err)
    }

    /// Refuses a copy, a table that another one has replaced, and one without our triggers in force.
    pub fn require_healthy(&self) -> Outcome<()> {
        self.refusal.clone().map_or(Ok(()), Err)
    }

    /// Assumes the rights with which companions are read and written.
    pub fn act_on_companions(&self) -> Acting {
        act_as_unfiltered(self.owner, &self.search_path)
    }

    /// Raises 42501 where the role in force may not sell: for what is decided without a write to the stock table.
    pub fn require_sale_rights(&self) {
        require_sale_rights(self.oid, &self.table_name, self.numbers);
    }

    /// The part of the attachment that a trigger fires on. A statement trigger on a partition is none of ours, but for TRUNCATE.
    pub fn part_of(&self, firing: &Firing) -> Option<Part> {
        let table = firing.table();
        let movements = self.movements.as_ref().map(|movements| (movements.oid, Part::Movements));
        let companions =
            [(self.stripes.oid, Part::Stripes), (self.totals.oid, Part::Totals), (self.requests.oid, Part::Requests)];
        let named = companions.into_iter().chain(movements).find(|(oid, _)| *oid == table).map(|(_, part)| part);
        named.or_else(|| is_stock(firing, self.oid).then_some(Part::Stock))
    }

    /// The kept plan of a statement, prepared when it is first needed.
    pub fn plan(&self, spi: &Connection, kept: Kept, statement: impl FnOnce() -> (String, Vec<Oid>)) -> &Plan {
        self.plans[kept as usize][usize::from(is_unfiltered())].get_or_init(|| {
            let (sql, types) = statement();
            spi.prepare(&sql, &types)
        })
    }
}

thread_local! {
    /// Outlives a call: what a lookup costs, a call may not pay each time.
    static CACHE: RefCell<Option<Rc<Attachment>>> = const { RefCell::new(None) };
}

/// The attached stock table, locked against attach and detach until the transaction ends.
pub fn current() -> Outcome<Rc<Attachment>> {
    if let Some(cached) = CACHE.with_borrow(Clone::clone) {
        lock_rows(&[cached.oid]);
        if cached.generation == invalidation::generation() {
            lock_rows(&cached.locked);
            if cached.generation == invalidation::generation() {
                return Ok(cached);
            }
        }
        unlock(cached.oid, pg_sys::RowExclusiveLock);
    }
    let loaded = Rc::new(connected(load)?);
    CACHE.set(Some(Rc::clone(&loaded)));
    Ok(loaded)
}

/// Raises 42501 where the rights of the caller decide and do not suffice: before a lock is asked for that others would wait for.
pub fn require_rights_of_caller() -> Outcome<()> {
    let stock = current()?;
    if stock.run_as_caller {
        stock.require_sale_rights();
    }
    // To ask for a stronger lock with this one held could deadlock with another that does the same.
    stock.locked.iter().chain([&stock.oid]).for_each(|table| unlock(*table, pg_sys::RowExclusiveLock));
    Ok(())
}

/// The attached stock table while nobody sells: every sale that runs is waited for, and the next ones wait until the
/// transaction ends.
pub fn current_alone() -> Outcome<Rc<Attachment>> {
    loop {
        let found = connected(|spi| configured(spi, &configuration(spi)?))?;
        let table = found.ok_or_else(Fault::not_attached)?.table;
        lock_alone(&[table], pg_sys::ShareRowExclusiveLock);
        let stock = current()?;
        if stock.oid == table {
            return Ok(stock);
        }
        unlock(table, pg_sys::ShareRowExclusiveLock);
        unlock(table, pg_sys::ShareUpdateExclusiveLock);
    }
}

/// Locks tables against their writers, in this order.
///
/// CREATE INDEX CONCURRENTLY holds the weaker of the two locks while it waits for old transactions; they must not find a request
/// for the stronger one before them in the queue, or each would wait for the other. So the weaker lock comes first, on all of the
/// tables: it holds up no sale, and once it is granted no such command runs.
pub fn lock_alone(tables: &[Oid], mode: u32) {
    let _owner = OfTransaction::begin();
    for mode in [pg_sys::ShareUpdateExclusiveLock, mode] {
        for table in tables {
            // SAFETY: locks an oid; it need not exist.
            unsafe { pg_sys::LockRelationOid(*table, mode as i32) };
        }
    }
}

/// The part of the attachment that a trigger fires on, as far as can be said without a lock on the stock table.
pub fn part_without_lock(firing: &Firing) -> Outcome<Option<Part>> {
    if let Some(cached) =
        CACHE.with_borrow(Clone::clone).filter(|cached| cached.generation == invalidation::generation())
    {
        return Ok(cached.part_of(firing));
    }
    let Some(found) = connected(|spi| configured(spi, &configuration(spi)?))? else { return Ok(None) };
    let table = firing.table();
    let companions = [
        (Some(found.stripe_table), Part::Stripes),
        (Some(found.total_table), Part::Totals),
        (Some(found.request_table), Part::Requests),
        (found.movement_table, Part::Movements),
    ];
    let named = companions.into_iter().find(|(oid, _)| *oid == Some(table)).map(|(_, part)| part);
    Ok(named.or_else(|| is_stock(firing, found.table).then_some(Part::Stock)))
}

fn is_stock(firing: &Firing, stock: Oid) -> bool {
    firing.table() == stock || ((firing.for_row() || firing.operation() == Operation::Truncate) && firing.is_on(stock))
}

fn load(spi: &Connection) -> Outcome<Attachment> {
    loop {
        let configuration = configuration(spi)?;
        let configured = self::configured(spi, &configuration)?.ok_or_else(Fault::not_attached)?;
        let movements = configured.movement_table.unwrap_or(pg_sys::InvalidOid);
        let Configured { table, request_table, stripe_table, total_table, .. } = configured;
        let [schema, name] = &configured.attached_as;
        invalidation::start(
            &[configuration.oid, table, movements, request_table, stripe_table, total_table],
            relation::hash_of_name(schema, name),
        );
        let generation = invalidation::generation();
        lock_rows(&[table]);
        if self::configured(spi, &configuration)?.as_ref() == Some(&configured)
            && generation == invalidation::generation()
        {
            let partitions = relation::with_partitions(table).into_iter().filter(|part| *part != table);
            let mut locked =
                catalog::open_to_triggers(spi, configured.companions().into_iter().chain(partitions).collect());
            locked.extend(configured.movement_table);
            lock_rows(&locked);
            if generation == invalidation::generation() {
                return build(spi, &configured, (generation, locked));
            }
        }
        unlock(table, pg_sys::RowExclusiveLock);
    }
}

fn build(spi: &Connection, configured: &Configured, (generation, locked): (u32, Vec<Oid>)) -> Outcome<Attachment> {
    let catalog = Catalog::of(spi);
    let table = describe_attached(&catalog, configured)?;
    let columns = columns(configured, &table)?;
    let mut companions_in_force = Ok(());
    let mut companion = |oid: Oid, part: Part| -> Outcome<Companion> {
        let facts = health::companion(oid, part, table.owner)?;
        let in_force = health::ours_in_force(&facts, part, (configured.movement_table.is_some(), false));
        companions_in_force = std::mem::replace(&mut companions_in_force, Ok(())).and(in_force);
        let found = catalog.describe(oid, Columns::None);
        let found = found.ok_or_else(|| Fault::internal("a table that was read is not there"))?;
        Ok(Companion { oid, name: found.name })
    };
    let movements = configured.movement_table.map(|oid| companion(oid, Part::Movements)).transpose()?;
    let requests = companion(configured.request_table, Part::Requests)?;
    let stripes = companion(configured.stripe_table, Part::Stripes)?;
    let totals = companion(configured.total_table, Part::Totals)?;
    if table.schema == USER_SCHEMA {
        return Err(Fault::broken_attachment(
            "schema_name",
            "the schema of the stock table is named $user, which a search_path reads as the name of the role",
            json!({"table": table.name}),
            "Rename the schema.",
        ));
    }
    let search_path = pinned_path(&table);
    let (striped, away) = striped_items(spi, &stripes, &table, (&columns.id.quoted, &search_path))?;
    let facts = health::stock_facts(table.oid);
    let (stock, heirs) = facts.split_first().ok_or_else(|| Fault::internal("the stock table is not there"))?;
    // Tables that inherit from an ordinary one hold nothing of the stock.
    let partitions = if table.kind == Kind::Partitioned { heirs } else { &[] };
    let healthy = health::is_the_attached_table(configured, &table.name)
        .and_then(|()| health::ours_in_force(stock, Part::Stock, (movements.is_some(), !striped.is_empty())))
        .and_then(|()| health::partitions_in_force(partitions, (movements.is_some(), !striped.is_empty())))
        .and(companions_in_force);
    let run_as_caller = configured.run_as == "caller";
    let Resolved { id, quantity, shape } = columns;
    Ok(Attachment {
        owner: table.owner,
        id: id.quoted.clone(),
        id_name: id.name.clone(),
        quantity: quantity.quoted.clone(),
        quantity_name: quantity.name.clone(),
        numbers: [id.number, quantity.number],
        quantity_type: quantity.type_oid,
        shape,
        partitioned: table.kind == Kind::Partitioned,
        by_ctid: table.kind == Kind::Ordinary && !run_as_caller,
        referenced: table.referenced,
        run_as_caller,
        forced_rls: stock.forced_rls,
        search_path,
        movements,
        requests,
        stripes,
        totals,
        striped,
        seen_short: Cell::new(None),
        table_name: encoding::c_text(&table.bare_name),
        relation: table.name.clone(),
        oid: table.oid,
        refusal: healthy.err(),
        objection: health::objection(&facts, table.owner),
        locked,
        away,
        generation,
        plans: Default::default(),
    })
}

/// A schema whose name PostgreSQL reads in a search_path, quoted or not, as that of the role.
pub const USER_SCHEMA: &str = "\"$user\"";

/// The path that is pinned while statements run as the owner of a table: names in its code mean its objects.
pub fn pinned_path(table: &Description) -> CString {
    encoding::c_text(&format!("{}, pg_temp", table.schema))
}

/// The striped items, each with the number of its stripes.
type StripeCounts = HashMap<[u8; 16], i16>;

/// The striped items; and those whose row went with a partition.
fn striped_items(
    spi: &Connection,
    stripes: &Companion,
    table: &Description,
    (id, search_path): (&str, &std::ffi::CStr),
) -> Outcome<(StripeCounts, HashSet<[u8; 16]>)> {
    let _acting = act_as_unfiltered(table.owner, search_path);
    let there = if table.kind == Kind::Partitioned {
        let (stock, same) = (&table.name, format!("stock.{id} OPERATOR(pg_catalog.=) s.inventory_id"));
        format!("EXISTS (SELECT FROM {stock} AS stock WHERE {same})")
    } else {
        "true".to_owned()
    };
    let sql = format!(
        "SELECT s.inventory_id, pg_catalog.max(s.stripe), {there} FROM ONLY {} AS s GROUP BY s.inventory_id",
        stripes.name
    );
    let rows = spi.run(&spi.prepare(&sql, &[]), &[], Sight::Latest);
    let (mut striped, mut away) = (HashMap::new(), HashSet::new());
    for row in 0..rows.count() {
        let (Some(id), Some(count), Some(there)) = (rows.get::<Uuid>(row, 1), rows.get(row, 2), rows.get(row, 3))
        else {
            return Err(Fault::internal("a stripe has a null"));
        };
        if there {
            striped.insert(*id.as_bytes(), count);
        } else {
            away.insert(*id.as_bytes());
        }
    }
    Ok((striped, away))
}

/// The two columns, and what the quantity can be.
struct Resolved<'a> {
    id: &'a crate::table::catalog::ColumnDescription,
    quantity: &'a crate::table::catalog::ColumnDescription,
    shape: Shape,
}

fn columns<'a>(configured: &Configured, table: &'a Description) -> Outcome<Resolved<'a>> {
    let broken = |reason, message| {
        let facts = json!({
            "table": table.name, "id_column": configured.id_column, "quantity_column": configured.quantity_column,
            "check": configured.check_name,
        });
        let hint = "Put the table right, or call detach_inventory and then attach_inventory again; no stock is lost.";
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
    Ok(Resolved { id, quantity, shape })
}

/// Takes the locks of a sale, in this order, and then reads the invalidation messages that came before it.
///
/// Taking a lock reads them too, but not where the transaction has the lock already; a schema can be renamed even then.
pub fn lock_rows(tables: &[Oid]) {
    let _owner = OfTransaction::begin();
    for table in tables {
        // SAFETY: locks an oid; it need not exist.
        unsafe { pg_sys::LockRelationOid(*table, pg_sys::RowExclusiveLock as i32) };
    }
    if !tables.is_empty() {
        // SAFETY: calls back into watch.rs, and into PostgreSQL's own caches.
        unsafe { pg_sys::AcceptInvalidationMessages() };
    }
}

/// Gives back a lock on what turned out not to be the stock table any more; waiting for another one with it could deadlock
/// with a session that switches from one to the other.
fn unlock(table: Oid, mode: u32) {
    let _owner = OfTransaction::begin();
    // SAFETY: releases a lock taken before; one that the transaction had already stays.
    unsafe { pg_sys::UnlockRelationOid(table, mode as i32) };
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

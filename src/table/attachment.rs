//! The attached table as calls use it: names, rights, striped items, kept plans.
//!
//! A value is immutable but for its plans and what this session saw last; `table::cache` makes a new one after each
//! change.

use crate::core::error::{Error, Result};
use crate::core::item_id::{IdType, ItemId, MAX_ID_BYTES};
use crate::core::obstacle::Obstacle;
use crate::core::part::{Access, Part};
use crate::core::quantity::{Capacity, Quantity};
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::encoding;
use crate::pg::invalidation::{self, Watch};
use crate::pg::lock::{TableLock, lock_and_look, lock_table, unlock_table};
use crate::pg::role::{
    Acting, act_as, act_as_unfiltered, current_role, is_superuser, is_unfiltered, require_sale_rights,
};
use crate::pg::settings::{self, RowLock};
use crate::pg::spi::{Connection, Plan, Rows, Snapshot, StatementCheck};
use crate::pg::trigger::{Firing, Operation};
use crate::statements::{Names, Statement};
use crate::stats::divisions::{self, Known};
use crate::table::called::Called;
use crate::table::catalog::{Description, partitions};
use crate::table::configuration::CompanionOids;
use crate::table::native::Native;
use crate::table::trust;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::rc::Rc;
use std::time::Instant;

const PLANS: usize = Statement::ALL.len();

/// The attached stock table.
pub struct Attachment {
    /// The table itself; a partition of it has another oid.
    pub oid: Oid,
    /// The table's owner, as whom statements run.
    pub owner: Oid,
    /// The names and types that statements use.
    pub names: Names,
    /// The name of the table alone, for errors of PostgreSQL itself.
    pub table_name: CString,
    /// The id column's name, for rows of triggers.
    pub id_name: String,
    /// The quantity column's name, for rows of triggers and for messages.
    pub quantity_name: String,
    /// The numbers of the id column and of the quantity column.
    pub numbers: [i16; 2],
    /// The capacity of the quantity column.
    pub capacity: Capacity,
    /// A foreign key points at the table.
    pub referenced: bool,
    /// Statements run with the caller's rights, not the owner's.
    pub run_as_caller: bool,
    /// Forced row-level security hides rows from the owner.
    pub forced_rls: bool,
    /// The search_path that is pinned while statements run as the owner.
    pub search_path: CString,
    /// The tables that belong to it.
    pub companions: CompanionOids,
    /// The striped items, as far as this session knows.
    pub division: RefCell<Division>,
    /// Items with stripes and without a row: their partition is detached.
    pub away: HashSet<ItemId>,
    /// The item that a sale of this session found short last.
    pub seen_short: RefCell<Option<ItemId>>,
    /// When this session looked last whether its totals lag.
    pub looked: Cell<Option<Instant>>,
    /// Why no function may change or read its stock, where one may not.
    pub refusal: Option<Box<Error>>,
    /// The objection to a trigger that would run with the owner's rights.
    pub objection: Option<Box<Error>>,
    /// Locked with the stock table by each call, until the transaction ends: the ledger, and the companions and
    /// partitions on which others may create triggers, so that no trigger is created while the call runs.
    pub locked: Vec<Oid>,
    /// The names of the table and of its companions.
    pub called: Called,
    /// A partitioned table and its partitions, of all levels; each statement locks them.
    pub partitions: Vec<Oid>,
    /// The number of the invalidation message that it was read after.
    pub generation: u64,
    /// How rows are written natively; or why they are not.
    pub native: std::result::Result<Native, Obstacle>,
    /// Kept plans.
    pub plans: Plans,
}

/// The striped items, each with the number of its stripes.
pub type StripeCounts = HashMap<ItemId, i16>;

/// What a session knows of the stripes of a table.
#[derive(Clone)]
pub struct Division {
    /// The striped items.
    pub striped: Rc<StripeCounts>,
    /// As of when.
    pub known: Known,
}

/// Kept plans, apart for statements with and without forced row-level security: PostgreSQL does not plan again for
/// that.
pub struct Plans([[OnceCell<Plan>; 2]; PLANS]);

impl Default for Plans {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Default::default()))
    }
}

/// The purpose for which a call uses the stock table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// No row is written, so no trigger fires.
    Read,
    /// Rows are written.
    Change,
}

/// Of which tables the owners and triggers are looked at again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// Of the companions: the stock table is used with the rights of the caller, or not at all.
    Companions,
    /// Of the stock table too, which is only read.
    Reading,
    /// Of the stock table too, which is written.
    Writing,
}

impl Attachment {
    /// Runs a kept statement, as [`Attachment::ready`] allows it.
    pub fn run<'c>(&self, spi: &'c Connection, statement: Statement, args: &[Arg<'_>]) -> Rows<'c> {
        self.run_with(spi, statement, args, Snapshot::Isolation)
    }

    /// The same with a snapshot of the caller's choice.
    pub fn run_with<'c>(
        &self,
        spi: &'c Connection,
        statement: Statement,
        args: &[Arg<'_>],
        snapshot: Snapshot,
    ) -> Rows<'c> {
        let (part, access) = statement.uses();
        self.ready(part, access).unwrap_or_else(|error| error.raise());
        let plan = self.plans.0[statement as usize][usize::from(is_unfiltered())].get_or_init(|| {
            let sql = statement.sql(&self.names).unwrap_or_else(|error| error.raise());
            spi.prepare(&sql)
        });
        spi.run(plan, args, snapshot)
    }

    /// Takes the table locks of a statement, and then refuses it where code that must not run as the owner has come to
    /// a table since the attachment was looked up, or another table has got a name: a call may have waited meanwhile,
    /// for a row, a key or a table. PostgreSQL runs such code when it plans, too; with the locks held none comes.
    pub fn ready(&self, part: Part, access: Access) -> Result<()> {
        let lock = match access {
            Access::Read => TableLock::AccessShare,
            Access::Write => TableLock::RowExclusive,
        };
        let Part::Companion(companion) = part else {
            lock_and_look(&self.partitions, lock);
            let judged = if self.run_as_caller && !is_unfiltered() { Judged::Companions } else { Judged::Writing };
            return self.require_as_looked_up(judged, lock);
        };
        lock_and_look(self.companions.table(companion).as_slice(), lock);
        self.require_as_looked_up(Judged::Companions, lock)
    }

    /// The same as the check of a connection, for statements on tables that are locked.
    pub fn check(self: &Rc<Self>, judged: Judged) -> StatementCheck {
        let stock = Rc::clone(self);
        Rc::new(move || {
            lock_and_look(&[], TableLock::AccessShare);
            stock.require_as_looked_up(judged, TableLock::AccessShare)
        })
    }

    /// Whether nothing about its tables has changed since it was looked up.
    pub fn is_fresh(&self) -> bool {
        self.generation == invalidation::generation(Watch::Table(self.oid))
    }

    fn require_as_looked_up(&self, judged: Judged, lock: TableLock) -> Result<()> {
        if self.is_fresh() {
            return Ok(());
        }
        let companions = self.companions.oids();
        loop {
            // Everything is locked before it is looked at. Where something has changed while that waited, there may be
            // more to lock.
            let generation = invalidation::generation(Watch::Table(self.oid));
            let is_stable = || generation == invalidation::generation(Watch::Table(self.oid));
            lock_and_look(&companions, TableLock::AccessShare);
            if judged != Judged::Companions {
                lock_and_look(&partitions(self.oid), lock);
            }
            let found = is_stable().then(|| self.require_unchanged(judged));
            lock_and_look(&[], lock);
            companions.iter().for_each(|table| unlock_table(*table, TableLock::AccessShare));
            if let Some(found) = found.filter(|_| is_stable()) {
                return found;
            }
        }
    }

    fn require_unchanged(&self, judged: Judged) -> Result<()> {
        self.called.require()?;
        for (companion, table) in self.companions.all() {
            trust::companion(table, companion, self.owner, self.names.id_type)?;
        }
        if judged == Judged::Companions {
            return Ok(());
        }
        match trust::objection(&trust::stock_facts(self.oid), self.owner) {
            Some(found) if judged == Judged::Reading && !trust::forbids_reading(Some(&found)) => Ok(()),
            // One that was there before has been decided on.
            Some(found) if self.objection.as_ref().is_none_or(|known| known.reason() != found.reason()) => Err(found),
            _ => Ok(()),
        }
    }

    /// Which of two statements has the row lock in force: FOR UPDATE or FOR NO KEY UPDATE.
    pub fn by_strength(&self, full: Statement, no_key: Statement) -> Statement {
        match settings::row_lock() {
            RowLock::Update => full,
            RowLock::NoKeyUpdate => no_key,
            RowLock::Auto if self.referenced => no_key,
            RowLock::Auto => full,
        }
    }

    /// Binds an array of ids.
    pub fn bind_items<'i>(&self, ids: impl IntoIterator<Item = &'i ItemId>) -> Arg<'static> {
        Arg::items(ids, self.names.id_type)
    }

    /// Reads a key as the id of an item.
    pub fn item(&self, argument: &str, key: &str) -> Result<ItemId> {
        if key.len() > MAX_ID_BYTES {
            return Err(Error::text_length(argument, key.len(), MAX_ID_BYTES));
        }
        let id_type = self.names.id_type;
        ItemId::parse_argument(key, id_type).ok_or_else(|| Error::not_an_id(argument, key, id_type))
    }

    /// Refuses an id that is a uuid where the ids of the table are of another type.
    pub fn require_uuids(&self) -> Result<()> {
        match self.names.id_type {
            IdType::Uuid => Ok(()),
            other => Err(Error::no_uuids(&self.names.relation, other)),
        }
    }

    /// How rows are written natively, where they are, and nothing about the tables has changed since that was found.
    pub fn native(&self) -> Option<&Native> {
        let native = self.native.as_ref().ok()?;
        (self.is_fresh() && settings::may_write_natively()).then_some(native)
    }

    /// Whether changes are recorded.
    pub fn has_ledger(&self) -> bool {
        self.companions.movements.is_some()
    }

    /// How many stripes an item has; None where it is not striped.
    pub fn stripes_of(&self, id: &ItemId) -> Option<i16> {
        let division = self.division.borrow();
        if division.striped.is_empty() { None } else { division.striped.get(id).copied() }
    }

    /// All striped items.
    pub fn striped(&self) -> Rc<StripeCounts> {
        Rc::clone(&self.division.borrow().striped)
    }

    /// Whether any item is striped.
    pub fn has_striped(&self) -> bool {
        !self.division.borrow().striped.is_empty()
    }

    /// Whether another session may have divided an item that this one does not know of; see `stats::divisions`.
    pub fn may_be_divided(&self) -> bool {
        let known = self.division.borrow().known;
        !self.names.partitioned
            && known != Known::Never
            && (known == Known::Unsettled || known != divisions::state(self.oid))
    }

    /// Whether an item has stripes and its row is in a partition that is detached.
    pub fn is_away(&self, id: &ItemId) -> bool {
        !self.away.is_empty() && self.away.contains(id)
    }

    /// Takes the lock of a statement that writes stripes, until the transaction ends.
    pub fn lock_stripes(&self) {
        lock_table(self.companions.stripes, TableLock::RowExclusive);
    }

    /// Assumes the rights with which the stock table is read and written; None for those of the caller.
    ///
    /// A superuser who is not the owner never runs code of the owner: such a caller acts as the owner, too, but sees
    /// all rows.
    pub fn act(&self, intent: Intent) -> Result<Option<Acting>> {
        self.require_healthy()?;
        if !self.run_as_caller {
            self.require_trusted_code()?;
            return Ok(Some(act_as(self.owner, &self.search_path)));
        }
        let caller = current_role();
        if caller == self.owner || !is_superuser(caller) {
            return Ok(None);
        }
        match intent {
            Intent::Change => self.require_trusted_code().map_err(Error::for_superuser)?,
            Intent::Read => self.require_own_partitions()?,
        }
        Ok(Some(self.act_on_companions()))
    }

    /// Refuses to run statements as the owner where a trigger of the stock table must not run so.
    pub fn require_trusted_code(&self) -> Result<()> {
        self.objection.clone().map_or(Ok(()), Err)
    }

    /// Refuses to read a partition of another role as the owner.
    pub fn require_own_partitions(&self) -> Result<()> {
        lock_and_look(&self.partitions, TableLock::AccessShare);
        self.require_as_looked_up(Judged::Reading, TableLock::AccessShare)?;
        let forbids = self.names.partitioned && trust::forbids_reading(self.objection.as_deref());
        if forbids { self.require_trusted_code().map_err(Error::to_be_read) } else { Ok(()) }
    }

    /// Refuses a copy, a table that another one has replaced, and one without our triggers in force.
    pub fn require_healthy(&self) -> Result<()> {
        self.refusal.clone().map_or(Ok(()), Err)
    }

    /// Assumes the rights with which companions are read and written.
    pub fn act_on_companions(&self) -> Acting {
        act_as_unfiltered(self.owner, &self.search_path)
    }

    /// Raises 42501 where the role in force may not sell: for a decision without a write to the stock table.
    pub fn require_sale_rights(&self) {
        require_sale_rights(self.oid, &self.table_name, self.numbers);
    }

    /// Checks that the quantity column keeps every digit of a quantity.
    pub fn require_fit(&self, argument: &str, quantity: Quantity) -> Result<()> {
        quantity
            .fits(self.capacity)
            .map_err(|misfit| Error::misfit(argument, quantity, &self.quantity_name, self.capacity, misfit))
    }

    /// Checks that the column can hold the changed quantity, where PostgreSQL would only report an overflow.
    pub fn require_room(&self, id: &ItemId, old_quantity: Quantity, delta: Quantity) -> Result<()> {
        let new_quantity = old_quantity.checked_add(delta);
        let fits = new_quantity.is_some_and(|new_quantity| new_quantity.fits(self.capacity).is_ok());
        if fits { Ok(()) } else { Err(Error::overflow(id, old_quantity, delta)) }
    }

    /// The part of the attachment that a trigger fires on. A statement trigger on a partition is none of ours, but for
    /// TRUNCATE.
    pub fn part_of(&self, firing: &Firing) -> Option<Part> {
        part_of(firing, self.oid, &self.companions)
    }
}

/// The part of an attachment that a trigger fires on.
pub fn part_of(firing: &Firing, stock: Oid, companions: &CompanionOids) -> Option<Part> {
    let table = firing.table();
    let is_stock =
        || table == stock || ((firing.for_row() || firing.operation() == Operation::Truncate) && firing.is_on(stock));
    companions.companion(table).map(Part::Companion).or_else(|| is_stock().then_some(Part::Stock))
}

/// A schema whose name PostgreSQL reads in a search_path, quoted or not, as that of the role.
pub const USER_SCHEMA: &str = "\"$user\"";

/// The path that is pinned while statements run as the owner of a table: names in its code mean its objects.
pub fn pinned_path(table: &Description) -> CString {
    encoding::c_text(&format!("{}, pg_temp", table.schema))
}

//! Triggers: safe access to the data that PostgreSQL passes to a trigger function, and the entry points of ours.
//!
//! An entry point only reads the firing; lib.rs registers its handler when the library is loaded.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::pg::args::{Arg, printed, read_id};
use crate::pg::encoding;
use crate::pg::types::SqlType;
use pgrx::pg_extern;
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// The handlers of the entry points.
pub struct Handlers {
    /// A statement on the stock table or its stripes begins.
    pub statement_begins: fn(&Firing) -> Result<()>,
    /// A row of the stock table or a stripe has changed.
    pub row_changed: fn(&Firing) -> Result<()>,
    /// A statement on the stock table or its stripes ends.
    pub statement_ends: fn(&Firing) -> Result<()>,
    /// A statement writes the ledger.
    pub guard_ledger: fn(&Firing) -> Result<()>,
    /// TRUNCATE of the stock table.
    pub guard_truncate: fn(&Firing) -> Result<()>,
    /// A statement writes the idempotency keys.
    pub guard_requests: fn(&Firing) -> Result<()>,
    /// A statement writes stripes or totals, or a row of a stock table without a ledger changes.
    pub guard_stripes: fn(&Firing) -> Result<()>,
    /// Objects were dropped.
    pub guard_drops: fn() -> Result<()>,
}

/// Set once, when the library is loaded: PostgreSQL calls the entry points by their names.
static HANDLERS: OnceLock<Handlers> = OnceLock::new();

/// Registers the handlers; called once a backend. A second registration has no effect.
pub fn register(handlers: Handlers) {
    let _ = HANDLERS.set(handlers);
}

fn handle(act: impl FnOnce(&Handlers) -> Result<()>) -> i64 {
    let handled = HANDLERS.get().ok_or_else(|| Error::internal("a trigger has no handler")).and_then(act);
    handled.unwrap_or_else(|error| error.raise());
    0
}

fn fire(call: pg_sys::FunctionCallInfo, act: impl FnOnce(&Handlers) -> fn(&Firing) -> Result<()>) -> i64 {
    // SAFETY: the argument that PostgreSQL passed.
    let firing = unsafe { Firing::of(call) };
    handle(|handlers| act(handlers)(&firing))
}

/// Opens a statement on the stock table.
#[pg_extern(sql = false)]
fn inventory_movement_begin(call: pg_sys::FunctionCallInfo) -> i64 {
    fire(call, |handlers| handlers.statement_begins)
}

/// Buffers the change of one item's quantity.
#[pg_extern(sql = false)]
fn inventory_movement_record(call: pg_sys::FunctionCallInfo) -> i64 {
    fire(call, |handlers| handlers.row_changed)
}

/// Writes the buffered changes when the outermost statement ends.
#[pg_extern(sql = false)]
fn inventory_movement_flush(call: pg_sys::FunctionCallInfo) -> i64 {
    fire(call, |handlers| handlers.statement_ends)
}

/// Rejects changes of a ledger other than by the triggers of its stock table.
#[pg_extern(sql = false)]
fn inventory_movement_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    fire(call, |handlers| handlers.guard_ledger)
}

/// Rejects a TRUNCATE of the stock table.
#[pg_extern(sql = false)]
fn inventory_truncate_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    fire(call, |handlers| handlers.guard_truncate)
}

/// Rejects direct writes to the idempotency keys.
#[pg_extern(sql = false)]
fn inventory_request_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    fire(call, |handlers| handlers.guard_requests)
}

/// Rejects direct writes to stripes and to the quantity of a striped item.
#[pg_extern(sql = false)]
fn inventory_stripe_guard(call: pg_sys::FunctionCallInfo) -> i64 {
    fire(call, |handlers| handlers.guard_stripes)
}

/// Rejects a DROP of the companion tables of an attached stock table.
#[pg_extern(sql = false)]
fn inventory_drop_guard(_call: pg_sys::FunctionCallInfo) -> i64 {
    handle(|handlers| (handlers.guard_drops)())
}
/// One firing of a trigger.
pub struct Firing {
    data: *mut pg_sys::TriggerData,
}

/// The operation on the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// INSERT, COPY and the like.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// TRUNCATE.
    Truncate,
}

impl Operation {
    /// The SQL command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
        }
    }
}

/// A row of a row trigger.
pub struct Row<'f> {
    tuple: *mut pg_sys::HeapTupleData,
    firing: &'f Firing,
}

/// How many triggers are running, one within the other.
pub fn depth() -> i32 {
    // SAFETY: takes no argument and reads a counter of the backend.
    let depth = unsafe { pgrx::direct_function_call(pg_sys::pg_trigger_depth, &[]) };
    depth.unwrap_or_else(|| Error::internal("the depth of triggers is unknown").raise())
}

impl Firing {
    /// The firing a trigger function was called for.
    ///
    /// # Safety
    /// `call` must be the argument that PostgreSQL passed to the function that is running.
    pub unsafe fn of(call: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: PostgreSQL calls functions that return trigger only as triggers, with TriggerData as context; it is
        // checked all the same.
        unsafe {
            if !pgrx::trigger_support::called_as_trigger(call) {
                Error::not_a_trigger().raise();
            }
            Self { data: (*call).context.cast() }
        }
    }

    /// The operation.
    pub fn operation(&self) -> Operation {
        // SAFETY: the data is alive until the trigger returns.
        match unsafe { (*self.data).tg_event } & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Operation::Insert,
            pg_sys::TRIGGER_EVENT_DELETE => Operation::Delete,
            pg_sys::TRIGGER_EVENT_UPDATE => Operation::Update,
            _ => Operation::Truncate,
        }
    }

    /// Whether it is fired for a row, not for a statement.
    pub fn for_row(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.data).tg_event & pg_sys::TRIGGER_EVENT_ROW != 0 }
    }

    /// Whether it fires before the operation.
    pub fn before(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.data).tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE }
    }

    /// Whether the trigger has this name.
    pub fn is_named(&self, name: &str) -> bool {
        // SAFETY: as above; a name is NUL-terminated.
        unsafe { CStr::from_ptr((*(*self.data).tg_trigger).tgname).to_bytes() == name.as_bytes() }
    }

    /// The table's oid; of a partition its own.
    pub fn table(&self) -> Oid {
        // SAFETY: as above; the relation is open while the trigger runs.
        unsafe { (*(*self.data).tg_relation).rd_id }
    }

    /// Whether the table is that one, or a partition of it on any level.
    pub fn is_on(&self, table: Oid) -> bool {
        // SAFETY: as above; the list of ancestors is read before anything can free it.
        self.table() == table
            || unsafe {
                (*(*(*self.data).tg_relation).rd_rel).relispartition
                    && pg_sys::list_member_oid(pg_sys::get_partition_ancestors(self.table()), table)
            }
    }

    /// The table's name, without its schema.
    pub fn table_name(&self) -> String {
        // SAFETY: as above; a name is NUL-terminated.
        unsafe { encoding::from_c(CStr::from_ptr((*(*(*self.data).tg_relation).rd_rel).relname.data.as_ptr())) }
    }

    /// The row as it was; for an INSERT the new row.
    pub fn first_row(&self) -> Row<'_> {
        // SAFETY: as above; set for every row trigger.
        Row { tuple: unsafe { (*self.data).tg_trigtuple }, firing: self }
    }

    /// The row as it is after an UPDATE.
    pub fn updated_row(&self) -> Row<'_> {
        // SAFETY: as above; set for an UPDATE row trigger.
        Row { tuple: unsafe { (*self.data).tg_newtuple }, firing: self }
    }
}

impl<'f> Row<'f> {
    /// The number of the command that made this version of the row, within the transaction.
    pub fn made_by(&self) -> u32 {
        // SAFETY: the version was made by this transaction, as an AFTER trigger's new row always is.
        unsafe { pg_sys::HeapTupleHeaderGetCmin((*self.tuple).t_data) }
    }

    /// The number of the command that deleted this version of the row, within the transaction.
    pub fn deleted_by(&self) -> u32 {
        // SAFETY: the version was deleted by this transaction, as an AFTER DELETE trigger's row always is.
        unsafe { pg_sys::HeapTupleHeaderGetCmax((*self.tuple).t_data) }
    }

    /// The item's id, of the type of the column.
    pub fn item(&self, column: &str) -> Result<ItemId> {
        let mut id_type = None;
        let datum = self.datum(column, |type_oid| {
            id_type = SqlType::id_type(type_oid);
            id_type.is_some()
        })?;
        let id_type = id_type.ok_or_else(|| Error::internal("an id has no type"))?;
        // SAFETY: the value is not null, of this type, and lives as long as the firing; it is copied.
        unsafe { read_id(datum, id_type) }
    }

    /// The number of a stripe.
    pub fn stripe(&self) -> Result<i16> {
        self.value("stripe", SqlType::Int2).map(|value| value.datum.value() as i16)
    }

    /// A value of the row. A column of another type is an error, never read as if it were of this one.
    pub fn value(&self, column: &str, sql_type: SqlType) -> Result<Value<'f>> {
        let datum = self.datum(column, |type_oid| type_oid == sql_type.oid())?;
        Ok(Value { datum, sql_type, life: PhantomData })
    }

    fn datum(&self, column: &str, fits: impl FnOnce(Oid) -> bool) -> Result<Datum> {
        let name = encoding::c_text(column);
        // SAFETY: the tuple is of the relation whose descriptor is used; row triggers have one. A column that is not
        // there has a number below one.
        unsafe {
            let descriptor = (*(*self.firing.data).tg_relation).rd_att;
            let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
            if self.tuple.is_null() || number < 1 || !fits(pg_sys::SPI_gettypeid(descriptor, number)) {
                return Err(Error::internal("a trigger was given a row of another type"));
            }
            let mut is_null = true;
            let datum = pg_sys::SPI_getbinval(self.tuple, descriptor, number, &raw mut is_null);
            if is_null { Err(Error::null_in_stock(&self.firing.table_name(), column)) } else { Ok(datum) }
        }
    }
}

/// A non-null value of a row, which lives as long as the firing.
pub struct Value<'f> {
    datum: Datum,
    sql_type: SqlType,
    life: PhantomData<&'f Firing>,
}

impl<'f> Value<'f> {
    /// A quantity as PostgreSQL prints it.
    pub fn printed(&self) -> String {
        // SAFETY: the value is not null, of this type, and alive.
        unsafe { printed(self.datum, self.sql_type) }
    }

    /// The value as a parameter of its own type.
    pub fn arg(&self) -> Arg<'f> {
        // SAFETY: the value lives as long as the firing.
        unsafe { Arg::raw(self.datum) }
    }
}

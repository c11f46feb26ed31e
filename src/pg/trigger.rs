//! What PostgreSQL hands to a trigger, read safely: the operation, the table, the rows.

#![allow(unsafe_code)]

use crate::core::error::{Fault, Outcome};
use crate::pg::encoding;
use crate::pg::spi;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, Uuid};
use std::ffi::CStr;

/// One firing of a trigger.
pub struct Firing {
    data: *mut pg_sys::TriggerData,
}

/// What was done to the table.
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
    unsafe { pgrx::direct_function_call(pg_sys::pg_trigger_depth, &[]) }.unwrap_or(0)
}

impl Firing {
    /// The firing a trigger function was called for.
    ///
    /// # Safety
    /// `call` must be what PostgreSQL passed to the function that is running.
    pub unsafe fn of(call: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: PostgreSQL calls functions that return trigger only as triggers, with TriggerData as context; it is
        // checked all the same.
        unsafe {
            if !pgrx::trigger_support::called_as_trigger(call) {
                Fault::not_a_trigger().raise();
            }
            Self { data: (*call).context.cast() }
        }
    }

    /// What was done.
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

    /// Whether the table is that one, or a partition of it on whatever level.
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

impl Row<'_> {
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

    /// The item's id.
    pub fn uuid(&self, column: &str) -> Outcome<Uuid> {
        let datum = self.datum(column, pg_sys::UUIDOID)?;
        // SAFETY: the value is a uuid, as was checked; it is copied.
        unsafe { Uuid::from_datum(datum, false) }.ok_or_else(|| Fault::internal("an item has no id"))
    }

    /// A quantity of that type as PostgreSQL prints it.
    pub fn printed(&self, column: &str, type_oid: Oid) -> Outcome<String> {
        // SAFETY: the value is of the row, of that type, and not null.
        self.datum(column, type_oid).map(|datum| unsafe { spi::printed(datum, type_oid) })
    }

    /// The number of a stripe.
    pub fn stripe(&self) -> Outcome<i16> {
        self.datum("stripe", pg_sys::INT2OID).map(|datum| datum.value() as i16)
    }

    /// A value of the row, which lives as long as the firing. A column of another type is an error, never read as if it were of
    /// this one.
    pub fn datum(&self, column: &str, type_oid: Oid) -> Outcome<Datum> {
        // SAFETY: the tuple is of the relation whose descriptor is used; row triggers have one.
        unsafe {
            let descriptor = (*(*self.firing.data).tg_relation).rd_att;
            if self.tuple.is_null() || spi::type_of(descriptor, column) != Some(type_oid) {
                return Err(Fault::internal("a trigger was given a row of another type"));
            }
            spi::row_value(self.tuple, descriptor, column)
                .ok_or_else(|| Fault::null_in_stock(&self.firing.table_name(), column))
        }
    }
}

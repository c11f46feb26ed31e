//! The only module that calls SPI: kept plans, bound parameters, rows read by column name and type.
//!
//! Values are bound, never part of a SQL text. No row limit is passed: a limit would end an UPDATE … RETURNING early
//! and skip AFTER STATEMENT triggers. Only Rust values outlive a connection, so that many calls in one transaction need
//! no more memory than one. pgrx's own SPI client is not used: it assigns a transaction id before anything is written.

use crate::core::error::{Error, Result};
use crate::core::item_id::{IdType, ItemId};
use crate::core::quantity::Quantity;
use crate::pg::args::{Arg, printed, read_id, read_quantity};
use crate::pg::encoding;
use crate::pg::types::SqlType;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum, PgMemoryContexts, check_for_interrupts};
use std::borrow::Cow;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::rc::Rc;

/// A statement and the types of its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    /// The text.
    pub text: String,
    /// The types of $1, $2 and so on.
    pub parameters: Vec<SqlType>,
}

impl Sql {
    /// A statement.
    pub fn new(text: impl Into<String>, parameters: &[SqlType]) -> Self {
        Self { text: text.into(), parameters: parameters.to_vec() }
    }
}

/// A prepared statement that lives as long as its value, not as long as a connection.
pub struct Plan(NonNull<pg_sys::_SPI_plan>);

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the pointer came from SPI_keepplan and is freed once; plans in use are held by an Rc of their user.
        unsafe { pg_sys::SPI_freeplan(self.0.as_ptr()) };
    }
}

/// What is asked before a statement is prepared, which finds its tables by their names.
pub type StatementCheck = Rc<dyn Fn() -> Result<()>>;

/// An open SPI connection, closed by [`connected`].
pub struct Connection {
    check: Option<StatementCheck>,
}

/// Runs `act` inside an SPI connection of its own.
///
/// Where PostgreSQL raises an error inside, its abort closes the connection.
pub fn connected<T>(act: impl FnOnce(&Connection) -> T) -> T {
    open(None, act)
}

/// The same with a check before each statement, whose error is raised.
pub fn checked<T>(check: StatementCheck, act: impl FnOnce(&Connection) -> T) -> T {
    open(Some(check), act)
}

fn open<T>(check: Option<StatementCheck>, act: impl FnOnce(&Connection) -> T) -> T {
    // SAFETY: paired with SPI_finish below; an error in between is cleaned up by the abort of the (sub)transaction.
    unsafe { pg_sys::SPI_connect() };
    let result = act(&Connection { check });
    // SAFETY: closes the connection opened above; `result` holds no SPI memory, its type cannot borrow the connection.
    unsafe { pg_sys::SPI_finish() };
    result
}

/// The snapshot of a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// As the isolation level decides: a new one for each statement under READ COMMITTED.
    Isolation,
    /// The committed state now, at any isolation level: for our own configuration.
    Latest,
    /// The active one, of the statement that runs or that was pushed.
    Active,
}

impl Connection {
    /// Runs `act` inside a connection in this one, with the same check.
    pub fn nested<T>(&self, act: impl FnOnce(&Connection) -> T) -> T {
        open(self.check.clone(), act)
    }

    /// Prepares and keeps a statement, planned once for all parameters: every statement here finds its rows by key, so
    /// a plan for one value is no better, and must not be made again for each call.
    pub fn prepare(&self, sql: &Sql) -> Plan {
        if let Some(check) = &self.check {
            check().unwrap_or_else(|error| error.raise());
        }
        let text = encoding::c_text(&sql.text);
        let mut types: Vec<Oid> = sql.parameters.iter().map(|parameter| parameter.oid()).collect();
        // SAFETY: the text and the types are copied by SPI_prepare, which raises an error for a bad statement; a kept
        // plan belongs to us alone.
        let plan = unsafe {
            let plan = pg_sys::SPI_prepare_cursor(
                text.as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
            );
            match NonNull::new(plan) {
                Some(plan) => {
                    pg_sys::SPI_keepplan(plan.as_ptr());
                    Some(plan)
                }
                None => None,
            }
        };
        match plan {
            Some(plan) => Plan(plan),
            None => Error::internal("SPI refused to prepare a statement").raise(),
        }
    }

    /// Runs a kept plan to its end and returns all of its rows.
    pub fn run<'c>(&'c self, plan: &Plan, args: &[Arg<'_>], snapshot: Snapshot) -> Rows<'c> {
        let mut values: Vec<Datum> = args.iter().map(|arg| arg.datum).collect();
        let nulls: Vec<core::ffi::c_char> =
            args.iter().map(|arg| if arg.is_null { b'n' } else { b' ' } as core::ffi::c_char).collect();
        // SAFETY: as many values as the plan has parameters, of the types it was prepared with; borrowed values outlive
        // the call. The last argument is the row limit: none.
        let status = unsafe {
            match snapshot {
                Snapshot::Isolation => {
                    pg_sys::SPI_execute_plan(plan.0.as_ptr(), values.as_mut_ptr(), nulls.as_ptr(), false, 0)
                }
                Snapshot::Active => {
                    pg_sys::SPI_execute_plan(plan.0.as_ptr(), values.as_mut_ptr(), nulls.as_ptr(), true, 0)
                }
                Snapshot::Latest => pg_sys::SPI_execute_snapshot(
                    plan.0.as_ptr(),
                    values.as_mut_ptr(),
                    nulls.as_ptr(),
                    pg_sys::GetLatestSnapshot(),
                    std::ptr::null_mut(),
                    true,
                    true,
                    0,
                ),
            }
        };
        if status < 0 {
            Error::internal("SPI refused to run a plan").raise();
        }
        // SAFETY: both variables were set by the execution above.
        unsafe { Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize, life: PhantomData } }
    }

    /// Prepares and runs a statement that is not kept.
    pub fn once<'c>(&'c self, sql: &Sql, args: &[Arg<'_>]) -> Rows<'c> {
        self.run(&self.prepare(sql), args, Snapshot::Isolation)
    }

    /// The same with the active snapshot.
    pub fn run_active<'c>(&'c self, sql: &Sql, args: &[Arg<'_>]) -> Rows<'c> {
        self.run(&self.prepare(sql), args, Snapshot::Active)
    }

    /// The same with the latest snapshot, at any isolation level.
    pub fn once_latest<'c>(&'c self, sql: &Sql, args: &[Arg<'_>]) -> Rows<'c> {
        self.run(&self.prepare(sql), args, Snapshot::Latest)
    }
}

/// The rows of a query, read some at a time, in the snapshot that was active when it was opened.
pub struct Cursor<'c> {
    portal: pg_sys::Portal,
    _plan: Plan,
    batch: i64,
    life: PhantomData<&'c Connection>,
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `cursor`, closed once; an abort closes it otherwise.
            unsafe { pg_sys::SPI_cursor_close(self.portal) };
        }
    }
}

/// The rows that are fetched at once.
const BATCH: i64 = 5_000;

impl Connection {
    /// Opens a query in the active snapshot.
    pub fn cursor(&self, sql: &Sql, args: &[Arg<'_>]) -> Cursor<'_> {
        let plan = self.prepare(sql);
        let mut values: Vec<Datum> = args.iter().map(|arg| arg.datum).collect();
        let nulls: Vec<core::ffi::c_char> =
            args.iter().map(|arg| if arg.is_null { b'n' } else { b' ' } as core::ffi::c_char).collect();
        // SAFETY: as in `run`; the plan lives as long as the cursor.
        let portal = unsafe {
            pg_sys::SPI_cursor_open(std::ptr::null(), plan.0.as_ptr(), values.as_mut_ptr(), nulls.as_ptr(), true)
        };
        Cursor { portal, _plan: plan, batch: BATCH, life: PhantomData }
    }
}

impl Cursor<'_> {
    /// Fetches so many rows at once.
    pub fn in_batches_of(mut self, batch: i64) -> Self {
        self.batch = batch;
        self
    }

    /// Calls `act` with each row, whose columns have these types, in this order.
    pub fn each(&mut self, types: &[SqlType], mut act: impl FnMut(&RowValues) -> Result<()>) -> Result<()> {
        let mut memory = PgMemoryContexts::new("inventory_ext row");
        loop {
            // SAFETY: the cursor is open; both variables are set by the fetch.
            let rows = unsafe {
                pg_sys::SPI_cursor_fetch(self.portal, true, self.batch);
                Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize, life: PhantomData }
            };
            if rows.count == 0 {
                return Ok(());
            }
            // What values take that are not stored as they are read is freed with their row.
            rows.each(types, |row| {
                // SAFETY: nothing that is allocated there outlives the call of `act`, whose result is Rust's.
                unsafe {
                    let result = memory.switch_to(|_| act(row));
                    memory.reset();
                    result
                }
            })?;
            check_for_interrupts!();
        }
    }
}

/// One row, its values by the places of their columns.
pub struct RowValues {
    values: Vec<Datum>,
    nulls: Vec<bool>,
    id_types: Vec<Option<IdType>>,
}

impl RowValues {
    fn datum(&self, place: usize) -> Option<Datum> {
        (!self.nulls[place]).then_some(self.values[place])
    }

    fn required(&self, place: usize) -> Result<Datum> {
        self.datum(place).ok_or_else(missing_value)
    }

    /// The id of an item.
    pub fn item(&self, place: usize) -> Result<ItemId> {
        let id_type = self.id_types[place].ok_or_else(missing_value)?;
        // SAFETY: the value is not null, of this type, and alive; it is copied.
        unsafe { read_id(self.required(place)?, id_type) }
    }

    /// A bigint, a moment in microseconds, or a transaction.
    pub fn number(&self, place: usize) -> Result<i64> {
        Ok(self.required(place)?.value() as i64)
    }

    /// A smallint; None for NULL.
    pub fn small(&self, place: usize) -> Option<i16> {
        self.datum(place).map(|datum| datum.value() as i16)
    }

    /// A boolean.
    pub fn flag(&self, place: usize) -> Result<bool> {
        Ok(self.required(place)?.value() != 0)
    }

    /// A text; None for NULL.
    pub fn text(&self, place: usize) -> Option<String> {
        // SAFETY: the column is a text, as `each` has checked; its bytes are copied.
        self.datum(place).and_then(|datum| unsafe { <&[u8]>::from_datum(datum, false) }).map(encoding::from_server)
    }

    /// The bytes of a text in UTF-8; None for NULL.
    pub fn utf8(&self, place: usize) -> Option<Cow<'_, [u8]>> {
        // SAFETY: the column is a text, as `each` has checked; its bytes live as long as the row.
        self.datum(place).and_then(|datum| unsafe { <&[u8]>::from_datum(datum, false) }).map(encoding::utf8)
    }

    /// A text that is never NULL.
    pub fn required_text(&self, place: usize) -> Result<String> {
        self.text(place).ok_or_else(missing_value)
    }

    /// Bytes; None for NULL.
    pub fn bytes(&self, place: usize) -> Option<Vec<u8>> {
        // SAFETY: the column is a bytea, as `each` has checked; its bytes are copied.
        self.datum(place).and_then(|datum| unsafe { Vec::<u8>::from_datum(datum, false) })
    }

    /// A numeric, as PostgreSQL prints it.
    pub fn decimal(&self, place: usize) -> Result<String> {
        let datum = self.required(place)?;
        // SAFETY: the column is a numeric, as `each` has checked.
        match unsafe { read_quantity(datum, SqlType::Numeric) } {
            Ok(quantity) if quantity.has_room() => Ok(quantity.printed()),
            // SAFETY: the same.
            _ => Ok(unsafe { printed(datum, SqlType::Numeric) }),
        }
    }
}

/// The rows of a result; their memory is freed when they are dropped.
pub struct Rows<'c> {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
    life: PhantomData<&'c Connection>,
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        // While an error of PostgreSQL unwinds, its abort frees the table.
        if !self.table.is_null() && !std::thread::panicking() {
            // SAFETY: the table is freed once, before its connection is closed.
            unsafe { pg_sys::SPI_freetuptable(self.table) };
        }
    }
}

impl Rows<'_> {
    /// Calls `act` with each row, whose columns have these types, in this order; an id of an item may have any type of
    /// ids.
    pub fn each(&self, types: &[SqlType], mut act: impl FnMut(&RowValues) -> Result<()>) -> Result<()> {
        if self.table.is_null() || self.count == 0 {
            return Ok(());
        }
        // SAFETY: the table is alive and has `count` rows, each with the columns of its descriptor.
        unsafe {
            let table = &*self.table;
            let columns = pgrx::PgTupleDesc::from_pg_unchecked(table.tupdesc);
            let id_types: Vec<_> = columns.iter().map(|column| SqlType::id_type(column.atttypid)).collect();
            let is_one = |(column, sql_type): (&pg_sys::FormData_pg_attribute, &SqlType)| {
                let id_type = SqlType::id_type(column.atttypid);
                column.atttypid == sql_type.oid() || (id_type.is_some() && id_type == SqlType::id_type(sql_type.oid()))
            };
            if columns.len() != types.len() || !columns.iter().zip(types).all(is_one) {
                return Err(Error::internal("a column has another type than the statement was written for"));
            }
            let mut row =
                RowValues { values: vec![Datum::null(); types.len()], nulls: vec![true; types.len()], id_types };
            for place in 0..self.count {
                let tuple = *table.vals.add(place);
                pg_sys::heap_deform_tuple(tuple, table.tupdesc, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
                act(&row)?;
            }
        }
        Ok(())
    }

    /// The number of rows that the statement returned or changed.
    pub fn count(&self) -> usize {
        self.count
    }

    /// A value of any simple type; None for NULL, and where there is no such row.
    pub fn get<T: FromDatum + IntoDatum>(&self, row: usize, column: &CStr) -> Option<T> {
        let (datum, is_null) = self.datum(row, column, T::is_compatible_with)?;
        // SAFETY: the column is of the type, as was checked; the value is copied out of the row.
        unsafe { T::from_datum(datum, is_null) }
    }

    /// A value of a column that is never NULL.
    pub fn required<T: FromDatum + IntoDatum>(&self, row: usize, column: &CStr) -> Result<T> {
        self.get(row, column).ok_or_else(missing_value)
    }

    /// A text; None for NULL.
    pub fn text(&self, row: usize, column: &CStr) -> Option<String> {
        let (datum, is_null) = self.datum(row, column, |type_oid| type_oid == pg_sys::TEXTOID)?;
        // SAFETY: the column is a text, as was checked; its bytes are copied out of the row.
        unsafe { Vec::<u8>::from_datum(datum, is_null) }.map(|bytes| encoding::from_server(&bytes))
    }

    /// A text of a column that is never NULL.
    pub fn required_text(&self, row: usize, column: &CStr) -> Result<String> {
        self.text(row, column).ok_or_else(missing_value)
    }

    /// The id of an item, of the type of the column.
    pub fn item(&self, row: usize, column: &CStr) -> Result<ItemId> {
        let mut id_type = None;
        let found = self.datum(row, column, |type_oid| {
            id_type = SqlType::id_type(type_oid);
            id_type.is_some()
        });
        match (found, id_type) {
            // SAFETY: the value is not null, of this type, and alive; it is copied.
            (Some((datum, false)), Some(id_type)) => unsafe { read_id(datum, id_type) },
            _ => Err(missing_value()),
        }
    }

    /// A moment, in microseconds since 2000-01-01 00:00 UTC.
    pub fn moment(&self, row: usize, column: &CStr) -> Result<i64> {
        match self.datum(row, column, |type_oid| type_oid == pg_sys::TIMESTAMPTZOID) {
            Some((datum, false)) => Ok(datum.value() as i64),
            _ => Err(missing_value()),
        }
    }

    /// Whether a value is NULL, or there is no such row.
    pub fn is_null(&self, row: usize, column: &CStr) -> bool {
        self.datum(row, column, |_| true).is_none_or(|(_, is_null)| is_null)
    }

    /// A value as a parameter of a later statement, as long as the rows are held.
    pub fn arg(&self, row: usize, column: &CStr) -> Arg<'_> {
        match self.datum(row, column, |_| true) {
            // SAFETY: the value lives as long as the rows, which the result borrows.
            Some((datum, false)) => unsafe { Arg::raw(datum) },
            _ => Arg::null(),
        }
    }

    /// A quantity. The error is the text of a value that is no quantity.
    pub fn quantity(&self, row: usize, column: &CStr, sql_type: SqlType) -> Result<Quantity, String> {
        let of_quantity = |type_oid| SqlType::of_quantity(type_oid) == SqlType::of_quantity(sql_type.oid());
        match self.datum(row, column, of_quantity) {
            // SAFETY: the column is of the type, and the row that holds the value is alive.
            Some((datum, false)) => unsafe { read_quantity(datum, sql_type) },
            _ => Err("null".to_owned()),
        }
    }

    /// A value of a column whose type is one that `fits`; None where there is no such row. A table whose column has
    /// become of another type since the statement was written is an error, never memory that is read as something
    /// else.
    fn datum(&self, row: usize, column: &CStr, fits: impl FnOnce(Oid) -> bool) -> Option<(Datum, bool)> {
        if self.table.is_null() || row >= self.count {
            return None;
        }
        let mut is_null = true;
        // SAFETY: the table is alive (see Drop) and has `count` rows; a column that is not there has a number below
        // one.
        let datum = unsafe {
            let table = &*self.table;
            let number = pg_sys::SPI_fnumber(table.tupdesc, column.as_ptr());
            if number < 1 || !fits(pg_sys::SPI_gettypeid(table.tupdesc, number)) {
                Error::internal("a column has another type than the statement was written for").raise();
            }
            pg_sys::SPI_getbinval(*table.vals.add(row), table.tupdesc, number, &raw mut is_null)
        };
        Some((datum, is_null))
    }
}

/// A value is NULL that never is.
pub fn missing_value() -> Box<Error> {
    Error::internal("a value that is never NULL is missing")
}

//! The only room that names SPI: kept plans, bound parameters, rows read out by type.
//!
//! Promises: identifiers and values never meet in a SQL text (values are bound); no row limit is ever passed, because a
//! limit would end an UPDATE … RETURNING early and skip AFTER STATEMENT triggers; nothing outlives the connection but
//! Rust values, so that many calls in one transaction need no more memory than one. pgrx's own SPI client is not used for
//! writing because it assigns a transaction id before it is known whether anything will be written.

#![allow(unsafe_code)]

use crate::core::error::Fault;
use crate::core::quantity::{Quantity, Unfit};
use crate::pg::encoding;
use crate::pg::jsonb::JsonbArg;
use pgrx::callconv::{self, ArgAbi};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, IntoDatum};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A prepared statement that lives as long as its value, not as long as a connection.
pub struct Plan(NonNull<pg_sys::_SPI_plan>);

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the pointer came from SPI_keepplan and is freed once; plans in use are held by an Rc of their user.
        unsafe { pg_sys::SPI_freeplan(self.0.as_ptr()) };
    }
}

/// A bound parameter. A pointer in it lives as long as the borrow it was made from.
#[derive(Clone, Copy)]
pub struct Arg<'a> {
    datum: Datum,
    is_null: bool,
    life: PhantomData<&'a ()>,
}

impl Arg<'_> {
    /// Binds a value of a type that needs no borrow: a number, an oid, or a value PostgreSQL has copied.
    pub fn owned(value: impl IntoDatum) -> Self {
        let datum = value.into_datum();
        Self { datum: datum.unwrap_or(Datum::null()), is_null: datum.is_none(), life: PhantomData }
    }
}

impl<'a> Arg<'a> {
    /// Binds a text; None is NULL.
    pub fn text<'t>(text: impl Into<Option<&'t str>>) -> Self {
        Self::owned(text.into().map(encoding::to_server))
    }

    /// Binds a value as PostgreSQL holds it.
    ///
    /// # Safety
    /// The datum must be of the parameter's type and alive as long as `'a`.
    pub unsafe fn raw(datum: Datum) -> Self {
        Self { datum, is_null: false, life: PhantomData }
    }
}

/// An open SPI connection, closed with [`connected`].
pub struct Connection(());

/// Runs `act` inside an SPI connection of its own.
///
/// Where PostgreSQL raises an error inside, its abort closes the connection.
pub fn connected<T>(act: impl FnOnce(&Connection) -> T) -> T {
    // SAFETY: paired with SPI_finish below; an error in between is cleaned up by the abort of the (sub)transaction.
    unsafe { pg_sys::SPI_connect() };
    let answer = act(&Connection(()));
    // SAFETY: closes the connection opened above; `answer` holds no SPI memory, its type cannot borrow the connection.
    unsafe { pg_sys::SPI_finish() };
    answer
}

/// Whether all statements of this transaction see one snapshot: REPEATABLE READ and SERIALIZABLE.
pub fn one_snapshot() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Ends a command of the transaction: what it did is seen by the next, also in our own caches.
pub fn next_command() {
    // SAFETY: the counter is advanced between two statements of ours, as SPI does after each.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// How many portals the session has: the one that runs, loops of PL/pgSQL around it, and cursors.
pub fn portals() -> usize {
    // SAFETY: while a portal runs, its memory context is a child of the one that all portals share; the list of children is read.
    unsafe {
        if pg_sys::PortalContext.is_null() || (*pg_sys::PortalContext).parent.is_null() {
            return 0;
        }
        let mut child = (*(*pg_sys::PortalContext).parent).firstchild;
        let mut count = 0;
        while !child.is_null() {
            count += 1;
            child = (*child).nextchild;
        }
        count
    }
}

/// Closes a cursor, where it is open.
pub fn close_cursor(name: &str) {
    let name = encoding::c_text(name);
    // SAFETY: a portal that is found is open; none of ours is.
    unsafe {
        let portal = pg_sys::SPI_cursor_find(name.as_ptr());
        if !portal.is_null() {
            pg_sys::SPI_cursor_close(portal);
        }
    }
}

/// Whether this server is a standby.
pub fn is_standby() -> bool {
    // SAFETY: reads the state of the server.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Raises PostgreSQL's own error 25006 where nothing can be written: on a standby, or in a read-only transaction.
pub fn require_writable(command: &CStr) {
    // SAFETY: raises an error or does nothing; the name is a C string.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(command.as_ptr());
        pg_sys::PreventCommandIfReadOnly(command.as_ptr());
    }
}

/// What a statement sees of the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// A snapshot as the isolation level gives it: a new one for each statement under READ COMMITTED.
    Isolation,
    /// What is committed now, whatever the isolation level: for our own configuration.
    Latest,
}

impl Connection {
    /// Prepares and keeps a statement, planned once for all parameters: every statement here finds its rows by key, so a plan
    /// for one value is no better, and must not be made again for each call.
    pub fn prepare(&self, sql: &str, types: &[Oid]) -> Plan {
        let text = encoding::c_text(sql);
        let mut types = types.to_vec();
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
            None => Fault::internal("SPI refused to prepare a statement").raise(),
        }
    }

    /// Runs a kept plan to its end and gives all of its rows.
    pub fn run<'c>(&'c self, plan: &Plan, args: &[Arg<'_>], sight: Sight) -> Rows<'c> {
        let mut values: Vec<Datum> = args.iter().map(|arg| arg.datum).collect();
        let nulls: Vec<core::ffi::c_char> =
            args.iter().map(|arg| if arg.is_null { b'n' } else { b' ' } as core::ffi::c_char).collect();
        // SAFETY: as many values as the plan has parameters, of the types it was prepared with; borrowed values outlive
        // the call. The last argument is the row limit: none.
        let status = unsafe {
            match sight {
                Sight::Isolation => {
                    pg_sys::SPI_execute_plan(plan.0.as_ptr(), values.as_mut_ptr(), nulls.as_ptr(), false, 0)
                }
                Sight::Latest => pg_sys::SPI_execute_snapshot(
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
            Fault::internal("SPI refused to run a plan").raise();
        }
        // SAFETY: both variables were set by the execution above.
        unsafe { Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize, life: PhantomData } }
    }

    /// Prepares, runs and forgets a statement; for what runs once.
    pub fn once<'c>(&'c self, sql: &str, types: &[Oid], args: &[Arg<'_>]) -> Rows<'c> {
        let plan = self.prepare(sql, types);
        self.run(&plan, args, Sight::Isolation)
    }
}

/// The rows a statement gave; their memory is returned when they are dropped.
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
    /// How many rows the statement gave or touched.
    pub fn count(&self) -> usize {
        self.count
    }

    /// A value of any simple type; None for NULL. Columns count from 1.
    pub fn get<T: FromDatum + IntoDatum>(&self, row: usize, column: i32) -> Option<T> {
        let (datum, is_null) = self.datum(row, column, T::is_compatible_with)?;
        // SAFETY: the column is of the type, as was checked; the value is copied out of the row.
        unsafe { T::from_datum(datum, is_null) }
    }

    /// A text; None for NULL.
    pub fn text(&self, row: usize, column: i32) -> Option<String> {
        let (datum, is_null) = self.datum(row, column, |type_oid| type_oid == pg_sys::TEXTOID)?;
        // SAFETY: the column is a text, as was checked; its bytes are copied out of the row.
        unsafe { Vec::<u8>::from_datum(datum, is_null) }.map(|bytes| encoding::from_server(&bytes))
    }

    /// Whether a value is NULL.
    pub fn is_null(&self, row: usize, column: i32) -> bool {
        self.datum(row, column, |_| true).is_none_or(|(_, is_null)| is_null)
    }

    /// A value as a parameter of a later statement, as long as the rows are held.
    pub fn arg(&self, row: usize, column: i32) -> Arg<'_> {
        let (datum, is_null) = self.datum(row, column, |_| true).unwrap_or((Datum::null(), true));
        Arg { datum, is_null, life: PhantomData }
    }

    /// A quantity of the type of the quantity column. The text of what is no quantity comes back as the error.
    pub fn quantity(&self, row: usize, column: i32, type_oid: Oid) -> Result<Quantity, String> {
        match type_oid {
            pg_sys::INT2OID => self.get::<i16>(row, column).map(i64::from).map(Quantity::from),
            pg_sys::INT4OID => self.get::<i32>(row, column).map(i64::from).map(Quantity::from),
            pg_sys::INT8OID => self.get::<i64>(row, column).map(Quantity::from),
            _ => {
                let is_numeric = |type_oid| type_oid == pg_sys::NUMERICOID;
                let Some((datum, false)) = self.datum(row, column, is_numeric) else {
                    return Err("null".to_owned());
                };
                // SAFETY: the column is numeric, and the row that holds the value is alive.
                return unsafe { read_numeric(datum) }.map_err(|(_, text)| text);
            }
        }
        .ok_or_else(|| "null".to_owned())
    }

    /// A value of a column whose type is one that `fits`. A table whose column has become of another type since the statement was
    /// written gives an error, never memory that is read as something else.
    fn datum(&self, row: usize, column: i32, fits: impl FnOnce(Oid) -> bool) -> Option<(Datum, bool)> {
        if self.table.is_null() || row >= self.count {
            return None;
        }
        let mut is_null = true;
        // SAFETY: the table is alive (see Drop) and has `count` rows; SPI_getbinval checks the column number.
        let datum = unsafe {
            let table = &*self.table;
            if !fits(pg_sys::SPI_gettypeid(table.tupdesc, column)) {
                Fault::internal("a column has another type than the statement was written for").raise();
            }
            pg_sys::SPI_getbinval(*table.vals.add(row), table.tupdesc, column, &raw mut is_null)
        };
        Some((datum, is_null))
    }
}

/// A value of a row, by column name; None where it is NULL or there is no such column.
///
/// # Safety
/// The tuple must be of a relation with that descriptor, and both alive.
pub unsafe fn row_value(
    tuple: *mut pg_sys::HeapTupleData,
    descriptor: pg_sys::TupleDesc,
    column: &str,
) -> Option<Datum> {
    let name = encoding::c_text(column);
    // SAFETY: as the caller promises; a column that is not there has a number below one.
    unsafe {
        let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
        let mut is_null = true;
        let datum = (number > 0).then(|| pg_sys::SPI_getbinval(tuple, descriptor, number, &raw mut is_null));
        datum.filter(|_| !is_null)
    }
}

/// The type of a column, by name; None where there is no such column.
///
/// # Safety
/// The descriptor must be alive.
pub unsafe fn type_of(descriptor: pg_sys::TupleDesc, column: &str) -> Option<Oid> {
    let name = encoding::c_text(column);
    // SAFETY: as the caller promises; a column that is not there has a number below one.
    unsafe {
        let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
        (number > 0).then(|| pg_sys::SPI_gettypeid(descriptor, number))
    }
}

/// A quantity as PostgreSQL prints it, whatever it is.
///
/// # Safety
/// `datum` must be a non-null value of the type, which is one of the quantity types, and alive.
pub unsafe fn printed(datum: Datum, type_oid: Oid) -> String {
    // SAFETY: as the caller promises.
    unsafe {
        let text = match type_oid {
            pg_sys::INT2OID => return (datum.value() as i16).to_string(),
            pg_sys::INT4OID => return (datum.value() as i32).to_string(),
            pg_sys::INT8OID => return (datum.value() as i64).to_string(),
            _ => pg_sys::OidOutputFunctionCall(Oid::from(pg_sys::F_NUMERIC_OUT), datum),
        };
        let printed = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        printed
    }
}

/// A numeric argument of a SQL function, held as PostgreSQL passed it so that it can be bound again as it is.
pub struct NumericArg {
    datum: Datum,
}

impl NumericArg {
    /// The parameter for a numeric column.
    pub fn arg(&self) -> Arg<'_> {
        Arg { datum: self.datum, is_null: false, life: PhantomData }
    }

    /// The exact value, or why it is none, with the text PostgreSQL prints.
    pub fn read(&self) -> Result<Quantity, (Unfit, String)> {
        // SAFETY: the datum is the non-null numeric argument of the running call, alive until it returns.
        unsafe { read_numeric(self.datum) }
    }
}

impl FromDatum for NumericArg {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, _type_oid: Oid) -> Option<Self> {
        (!is_null).then_some(Self { datum })
    }
}

/// Reads a numeric through its text, which keeps the digits PostgreSQL prints.
///
/// # Safety
/// `datum` must be a non-null numeric that is alive.
unsafe fn read_numeric(datum: Datum) -> Result<Quantity, (Unfit, String)> {
    // SAFETY: numeric_out takes one non-null numeric and gives a C string in the current memory context.
    unsafe {
        let text = pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_NUMERIC_OUT), datum);
        let read = {
            let text = CStr::from_ptr(text).to_string_lossy();
            text.parse::<Quantity>().map_err(|unfit| (unfit, text.into_owned()))
        };
        pg_sys::pfree(text.cast());
        read
    }
}

macro_rules! argument {
    ($type:ty, $like:ty) => {
        // SAFETY: the datum is taken as it is passed; it lives until the call returns, and so does the value, which the
        // macro hands to the function.
        unsafe impl<'fcx> ArgAbi<'fcx> for $type {
            unsafe fn unbox_arg_unchecked(arg: callconv::Arg<'_, 'fcx>) -> Self {
                // SAFETY: the caller promises an argument that is not null.
                match unsafe { arg.unbox_arg_using_from_datum() } {
                    Some(value) => value,
                    None => Fault::internal("a null argument was read as a value").raise(),
                }
            }
        }

        // SAFETY: the SQL type whose datum the value is read from.
        unsafe impl SqlTranslatable for $type {
            const TYPE_IDENT: &'static str = <$like as SqlTranslatable>::TYPE_IDENT;
            const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
            const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = <$like as SqlTranslatable>::ARGUMENT_SQL;
            const RETURN_SQL: Result<ReturnsRef, ReturnsError> = <$like as SqlTranslatable>::RETURN_SQL;
        }
    };
}

argument!(NumericArg, pgrx::AnyNumeric);
argument!(JsonbArg, pgrx::JsonB);

//! Arguments: of the SQL functions, as PostgreSQL passes them, and of statements, as SPI binds them.

use crate::core::error::{Error, Result};
use crate::core::item_id::{IdType, ItemId};
use crate::core::numeric_digits;
use crate::core::quantity::{Quantity, Unfit};
use crate::pg::encoding;
use crate::pg::jsonb::JsonbArg;
use crate::pg::types::SqlType;
use pgrx::callconv::{self, ArgAbi};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, IntoDatum, Uuid};
use std::ffi::CStr;
use std::marker::PhantomData;

pub use pgrx::AnyNumeric;
pub use pgrx::datum::Interval;
pub use pgrx::iter::TableIterator;
pub use pgrx::name;

/// A bound parameter. A pointer in it lives as long as the borrow it was made from.
#[derive(Clone, Copy)]
pub struct Arg<'a> {
    pub(in crate::pg) datum: Datum,
    pub(in crate::pg) is_null: bool,
    life: PhantomData<&'a ()>,
}

impl Arg<'_> {
    /// Binds a value of a type that needs no borrow: a number, an oid, or a value that PostgreSQL has copied.
    pub fn owned(value: impl IntoDatum) -> Self {
        let datum = value.into_datum();
        Self { datum: datum.unwrap_or(Datum::null()), is_null: datum.is_none(), life: PhantomData }
    }

    /// Binds the id of an item.
    pub fn item(id: &ItemId) -> Self {
        match id {
            ItemId::Uuid(bytes) => Self::owned(Uuid::from_bytes(*bytes)),
            ItemId::Integer(number) => Self::owned(*number),
            ItemId::Bigint(number) => Self::owned(*number),
            ItemId::Text(text) => Self::owned(encoding::to_server(text)),
        }
    }

    /// Binds an array of ids, which are all of this type.
    pub fn items<'i>(ids: impl IntoIterator<Item = &'i ItemId>, id_type: IdType) -> Self {
        let ids = ids.into_iter();
        match id_type {
            IdType::Uuid => Self::array(ids.map(|id| match id {
                ItemId::Uuid(bytes) => Some(Uuid::from_bytes(*bytes)),
                _ => None,
            })),
            IdType::Integer => Self::array(ids.map(|id| match id {
                ItemId::Integer(number) => Some(*number),
                _ => None,
            })),
            IdType::Bigint => Self::array(ids.map(|id| match id {
                ItemId::Bigint(number) => Some(*number),
                _ => None,
            })),
            IdType::Text => Self::array(ids.map(|id| match id {
                ItemId::Text(text) => Some(ServerText(encoding::to_server(text))),
                _ => None,
            })),
        }
    }

    fn array<T: IntoDatum>(values: impl Iterator<Item = Option<T>>) -> Self {
        match values.collect::<Option<Vec<T>>>() {
            Some(values) => Self::owned(values),
            None => Error::internal("an id is not of the type of the table's ids").raise(),
        }
    }

    /// Binds a quantity as a numeric with the decimals it is written with.
    pub fn quantity(quantity: Quantity) -> Self {
        // PostgreSQL has a short way for what fits.
        let datum = match i64::try_from(quantity.mantissa()) {
            // SAFETY: allocates a numeric in the current memory context.
            Ok(mantissa) => unsafe {
                Datum::from(pg_sys::int64_div_fast_to_numeric(mantissa, quantity.scale() as i32))
            },
            Err(_) => {
                let printed = encoding::c_text(&quantity.to_string());
                // SAFETY: reads a C string into a numeric in the current memory context.
                unsafe {
                    let text = printed.as_ptr().cast_mut();
                    pg_sys::OidInputFunctionCall(Oid::from(pg_sys::F_NUMERIC_IN), text, pg_sys::InvalidOid, -1)
                }
            }
        };
        Self { datum, is_null: false, life: PhantomData }
    }

    /// Binds an array of byte strings.
    pub fn byte_strings<'b>(values: impl Iterator<Item = &'b [u8]>) -> Self {
        Self::owned(values.map(<[u8]>::to_vec).collect::<Vec<Vec<u8>>>())
    }

    /// The moment now.
    pub fn moment() -> Self {
        // SAFETY: reads a clock.
        Self::owned(unsafe { pg_sys::GetCurrentTimestamp() })
    }

    /// The transaction that runs.
    pub fn transaction() -> Self {
        // SAFETY: the transaction has a number, or is given one.
        let datum = Datum::from(unsafe { pg_sys::GetTopFullTransactionId() }.value);
        Self { datum, is_null: false, life: PhantomData }
    }

    /// The next number of a sequence, whose table may be written.
    pub fn next_of(sequence: Oid) -> Self {
        // SAFETY: the sequence belongs to a column of a table that is locked.
        Self::owned(unsafe { pg_sys::nextval_internal(sequence, false) })
    }

    /// Binds NULL.
    pub fn null() -> Self {
        Self { datum: Datum::null(), is_null: true, life: PhantomData }
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

/// Prints a quantity as PostgreSQL does.
///
/// # Safety
/// `datum` must be a non-null value of the type, which is one of the quantity types, and alive.
pub unsafe fn printed(datum: Datum, sql_type: SqlType) -> String {
    // SAFETY: as the caller promises.
    unsafe {
        let text = match sql_type {
            SqlType::Int2 => return (datum.value() as i16).to_string(),
            SqlType::Int4 => return (datum.value() as i32).to_string(),
            SqlType::Int8 => return (datum.value() as i64).to_string(),
            _ => pg_sys::OidOutputFunctionCall(Oid::from(pg_sys::F_NUMERIC_OUT), datum),
        };
        let printed = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        printed
    }
}

/// Reads the id of an item.
///
/// # Safety
/// `datum` must be a non-null value of a column with ids of this type, and alive.
pub unsafe fn read_id(datum: Datum, id_type: IdType) -> Result<ItemId> {
    // SAFETY: as the caller promises; the value is copied.
    let id = unsafe {
        match id_type {
            IdType::Uuid => Uuid::from_datum(datum, false).map(|uuid| ItemId::Uuid(*uuid.as_bytes())),
            IdType::Integer => i32::from_datum(datum, false).map(ItemId::Integer),
            IdType::Bigint => i64::from_datum(datum, false).map(ItemId::Bigint),
            IdType::Text => match Vec::<u8>::from_datum(datum, false).map(|text| encoding::exact_from_server(&text)) {
                Some(Ok(text)) => Some(ItemId::Text(text)),
                Some(Err(text)) => return Err(Error::unreadable_id(&text)),
                None => None,
            },
        }
    };
    id.ok_or_else(|| Error::internal("an item has no id"))
}

/// A text in the encoding of the database, as the element of an array.
struct ServerText(Vec<u8>);

impl IntoDatum for ServerText {
    fn into_datum(self) -> Option<Datum> {
        self.0.into_datum()
    }

    fn type_oid() -> Oid {
        pg_sys::TEXTOID
    }
}

/// The id of an item as decrement_inventory receives it.
pub struct UuidArg(ItemId);

impl UuidArg {
    /// The id.
    pub fn id(self) -> ItemId {
        self.0
    }
}

impl FromDatum for UuidArg {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, type_oid: Oid) -> Option<Self> {
        // SAFETY: as the caller promises; the value is copied.
        unsafe { Uuid::from_polymorphic_datum(datum, is_null, type_oid) }
            .map(|uuid| Self(ItemId::Uuid(*uuid.as_bytes())))
    }
}

/// An inventory_key as the other functions receive it: the text of an id, whatever the id's type is.
pub struct KeyArg(Vec<u8>);

impl KeyArg {
    /// The text; an error where it is no text in the encoding of the database.
    pub fn text(self) -> Result<String> {
        encoding::exact_from_server(&self.0).map_err(|text| Error::unreadable_id(&text))
    }
}

impl FromDatum for KeyArg {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, type_oid: Oid) -> Option<Self> {
        // SAFETY: as the caller promises; the type is stored as text is; the value is copied.
        unsafe { Vec::<u8>::from_polymorphic_datum(datum, is_null, type_oid) }.map(Self)
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

    /// The exact value; or the reason why it is no quantity, and its text.
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

/// A moment as a result: microseconds since 2000-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    /// The moment now.
    pub fn now() -> Self {
        // SAFETY: reads a clock.
        Self(unsafe { pg_sys::GetCurrentTimestamp() })
    }
}

impl IntoDatum for Moment {
    fn into_datum(self) -> Option<Datum> {
        self.0.into_datum()
    }

    fn type_oid() -> Oid {
        pg_sys::TIMESTAMPTZOID
    }
}

impl FromDatum for Moment {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, type_oid: Oid) -> Option<Self> {
        // SAFETY: as the caller promises; the value is passed as it is.
        unsafe { i64::from_polymorphic_datum(datum, is_null, type_oid) }.map(Self)
    }
}

// SAFETY: the value is one of the type timestamptz, which is passed as it is.
unsafe impl callconv::BoxRet for Moment {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut callconv::FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: the datum is of the type that the function returns.
        unsafe { fcinfo.return_raw_datum(Datum::from(self.0)) }
    }
}

/// A number that PostgreSQL has printed, as a numeric.
pub fn numeric(text: &str) -> AnyNumeric {
    match AnyNumeric::try_from(text) {
        Ok(numeric) => numeric,
        Err(_) => Error::internal("a quantity is no number").raise(),
    }
}

/// Reads a numeric with the digits that PostgreSQL prints: from its stored form, or through its text where that has
/// more than a quantity.
///
/// # Safety
/// `datum` must be a non-null numeric that is alive.
pub unsafe fn read_numeric(datum: Datum) -> Result<Quantity, (Unfit, String)> {
    // SAFETY: a numeric is stored as bytes after their length; numeric_out takes one non-null numeric and returns a C
    // string in the current memory context.
    unsafe {
        let passed: *mut pg_sys::varlena = datum.cast_mut_ptr();
        // Most are stored as they are: no copy is to be made, and no error of PostgreSQL can come of it.
        let is_plain = pgrx::varatt_is_4b_u(passed) || (pgrx::varatt_is_1b(passed) && !pgrx::varatt_is_1b_e(passed));
        let stored = if is_plain { passed } else { pg_sys::pg_detoast_datum_packed(passed) };
        let read = numeric_digits::read(pgrx::varlena_to_byte_slice(stored));
        if stored != datum.cast_mut_ptr() {
            pg_sys::pfree(stored.cast());
        }
        if let Some(quantity) = read {
            return Ok(quantity);
        }
        let text = pg_sys::OidOutputFunctionCall(Oid::from(pg_sys::F_NUMERIC_OUT), datum);
        let read = {
            let text = CStr::from_ptr(text).to_string_lossy();
            text.parse::<Quantity>().map_err(|unfit| (unfit, text.into_owned()))
        };
        pg_sys::pfree(text.cast());
        read
    }
}

/// Reads a quantity. The error is the text of a value that is no quantity.
///
/// # Safety
/// `datum` must be a non-null value of the type, which is one of the quantity types, and alive.
pub unsafe fn read_quantity(datum: Datum, sql_type: SqlType) -> Result<Quantity, String> {
    match sql_type {
        SqlType::Int2 => Ok(Quantity::from(i64::from(datum.value() as i16))),
        SqlType::Int4 => Ok(Quantity::from(i64::from(datum.value() as i32))),
        SqlType::Int8 => Ok(Quantity::from(datum.value() as i64)),
        // SAFETY: as the caller promises.
        _ => unsafe { read_numeric(datum) }.map_err(|(_, text)| text),
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
                    None => Error::internal("a null argument was read as a value").raise(),
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

argument!(UuidArg, Uuid);
argument!(KeyArg, String);
argument!(NumericArg, pgrx::AnyNumeric);
argument!(Moment, pgrx::datum::TimestampWithTimeZone);
argument!(JsonbArg, pgrx::JsonB);

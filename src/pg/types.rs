//! The SQL types of the columns and parameters that the extension uses.

use pgrx::pg_sys::{self, Oid};

/// A type of PostgreSQL's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlType {
    /// `uuid`
    Uuid,
    /// `uuid[]`
    UuidArray,
    /// `text`
    Text,
    /// `text[]`
    TextArray,
    /// `smallint`
    Int2,
    /// `smallint[]`
    Int2Array,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `numeric`
    Numeric,
    /// `bytea`
    Bytea,
    /// `json`
    Json,
    /// `interval`
    Interval,
    /// `timestamptz`
    Timestamptz,
    /// `xid8`
    Xid8,
    /// `tid`
    Tid,
    /// `oid`
    Oid,
    /// `oid[]`
    OidArray,
    /// `regclass`
    Regclass,
}

impl SqlType {
    /// The type's oid.
    pub fn oid(self) -> Oid {
        match self {
            Self::Uuid => pg_sys::UUIDOID,
            Self::UuidArray => pg_sys::UUIDARRAYOID,
            Self::Text => pg_sys::TEXTOID,
            Self::TextArray => pg_sys::TEXTARRAYOID,
            Self::Int2 => pg_sys::INT2OID,
            Self::Int2Array => pg_sys::INT2ARRAYOID,
            Self::Int4 => pg_sys::INT4OID,
            Self::Int8 => pg_sys::INT8OID,
            Self::Numeric => pg_sys::NUMERICOID,
            Self::Bytea => pg_sys::BYTEAOID,
            Self::Json => pg_sys::JSONOID,
            Self::Interval => pg_sys::INTERVALOID,
            Self::Timestamptz => pg_sys::TIMESTAMPTZOID,
            Self::Xid8 => pg_sys::XID8OID,
            Self::Tid => pg_sys::TIDOID,
            Self::Oid => pg_sys::OIDOID,
            Self::OidArray => pg_sys::OIDARRAYOID,
            Self::Regclass => pg_sys::REGCLASSOID,
        }
    }

    /// The types that a quantity column can have.
    pub fn of_quantity(oid: Oid) -> Option<Self> {
        [Self::Numeric, Self::Int2, Self::Int4, Self::Int8].into_iter().find(|sql_type| sql_type.oid() == oid)
    }

    /// The types that an id column can have.
    pub fn of_id(oid: Oid) -> Option<Self> {
        (oid == Self::Uuid.oid()).then_some(Self::Uuid)
    }

    /// smallint, integer or bigint.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }
}

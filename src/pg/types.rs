//! The SQL types of the columns and parameters that the extension uses.

use crate::core::item_id::IdType;
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
    /// `varchar`
    Varchar,
    /// `smallint`
    Int2,
    /// `smallint[]`
    Int2Array,
    /// `integer`
    Int4,
    /// `integer[]`
    Int4Array,
    /// `bigint`
    Int8,
    /// `bigint[]`
    Int8Array,
    /// `numeric`
    Numeric,
    /// `bytea`
    Bytea,
    /// `bytea[]`
    ByteaArray,
    /// `boolean[]`
    BoolArray,
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
    /// `boolean`
    Bool,
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
            Self::Int4Array => pg_sys::INT4ARRAYOID,
            Self::Int8 => pg_sys::INT8OID,
            Self::Int8Array => pg_sys::INT8ARRAYOID,
            Self::Varchar => pg_sys::VARCHAROID,
            Self::Numeric => pg_sys::NUMERICOID,
            Self::Bytea => pg_sys::BYTEAOID,
            Self::ByteaArray => pg_sys::BYTEAARRAYOID,
            Self::BoolArray => pg_sys::BOOLARRAYOID,
            Self::Json => pg_sys::JSONOID,
            Self::Interval => pg_sys::INTERVALOID,
            Self::Timestamptz => pg_sys::TIMESTAMPTZOID,
            Self::Xid8 => pg_sys::XID8OID,
            Self::Tid => pg_sys::TIDOID,
            Self::Oid => pg_sys::OIDOID,
            Self::OidArray => pg_sys::OIDARRAYOID,
            Self::Regclass => pg_sys::REGCLASSOID,
            Self::Bool => pg_sys::BOOLOID,
        }
    }

    /// Its name, where it is a type of ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uuid => "pg_catalog.uuid",
            Self::Int4 => "pg_catalog.int4",
            Self::Int8 => "pg_catalog.int8",
            _ => "pg_catalog.text",
        }
    }

    /// The types that a quantity column can have.
    pub fn of_quantity(oid: Oid) -> Option<Self> {
        [Self::Numeric, Self::Int2, Self::Int4, Self::Int8].into_iter().find(|sql_type| sql_type.oid() == oid)
    }

    /// The type of ids in a column of this type.
    pub fn id_type(column: Oid) -> Option<IdType> {
        let columns = [
            (Self::Uuid, IdType::Uuid),
            (Self::Int4, IdType::Integer),
            (Self::Int8, IdType::Bigint),
            (Self::Text, IdType::Text),
            (Self::Varchar, IdType::Text),
        ];
        columns.into_iter().find(|(sql_type, _)| sql_type.oid() == column).map(|(_, id_type)| id_type)
    }

    /// The type of parameters, and of columns of companions, that hold ids.
    pub fn of_id(id_type: IdType) -> Self {
        match id_type {
            IdType::Uuid => Self::Uuid,
            IdType::Integer => Self::Int4,
            IdType::Bigint => Self::Int8,
            IdType::Text => Self::Text,
        }
    }

    /// The type of parameters that hold many ids.
    pub fn of_ids(id_type: IdType) -> Self {
        match id_type {
            IdType::Uuid => Self::UuidArray,
            IdType::Integer => Self::Int4Array,
            IdType::Bigint => Self::Int8Array,
            IdType::Text => Self::TextArray,
        }
    }

    /// smallint, integer or bigint.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }
}

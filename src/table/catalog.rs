//! The catalog's description of a table that is attached, or is to be.
//!
//! Everything is read with the latest snapshot, at any isolation level of the caller.

use crate::core::error::{Error, Result};
use crate::core::item_id::IdType;
use crate::core::quantity::Capacity;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::spi::{Connection, Plan, Rows, Snapshot, connected};
use crate::pg::types::SqlType;
use crate::statements::catalog as statements;
use std::ffi::CStr;

/// The length of the header of a value, which a type modifier of numeric includes.
const VARHDRSZ: i32 = 4;

/// How the columns of a table are found.
#[derive(Clone, Copy)]
pub enum Columns<'a> {
    /// The id column and the quantity column, by name.
    Named(&'a str, &'a str),
    /// Those that the CHECK of this name contains, in this order.
    Marked(&'a str),
    /// Not at all.
    None,
}

/// The description of a table.
pub struct Description {
    /// The table.
    pub oid: Oid,
    /// Ordinary, partitioned or neither.
    pub kind: RelationKind,
    /// A temporary table, which other sessions cannot see.
    pub temporary: bool,
    /// Not written to WAL: emptied by a crash.
    pub unlogged: bool,
    /// Other tables inherit from it.
    pub has_children: bool,
    /// Its owner.
    pub owner: Oid,
    /// Whether the role in force has the rights of the owner.
    pub owned: bool,
    /// Schema, quoted.
    pub schema: String,
    /// Schema and name, quoted.
    pub name: String,
    /// The name alone, as it is.
    pub bare_name: String,
    /// The id column, where it exists.
    pub id: Option<ColumnDescription>,
    /// The quantity column, where it exists.
    pub quantity: Option<ColumnDescription>,
    /// A plain, valid, immediate unique index on the id column alone.
    pub unique_index: bool,
    /// An index holds the quantity, so updates are not HOT.
    pub quantity_indexed: bool,
    /// A foreign key points at it.
    pub referenced: bool,
}

/// The kind of a relation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    /// An ordinary table.
    Ordinary,
    /// A partitioned table.
    Partitioned,
    /// A view, a foreign table and so on.
    Other,
}

/// The description of a column.
pub struct ColumnDescription {
    /// Its number.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// Its name, quoted.
    pub quoted: String,
    /// Its type.
    pub type_oid: Oid,
    /// Equal values have equal bytes: not so in some collations.
    pub deterministic: bool,
    /// Declared NOT NULL.
    pub not_null: bool,
    /// GENERATED, so that no statement can write it.
    pub generated: bool,
    modifier: i32,
}

impl ColumnDescription {
    /// The type and the capacity of a quantity column; None where the type is no quantity.
    pub fn quantity(&self) -> Option<(SqlType, Capacity)> {
        let sql_type = SqlType::of_quantity(self.type_oid)?;
        let capacity = match sql_type {
            SqlType::Int2 => Capacity::Integer { max: i16::MAX.into() },
            SqlType::Int4 => Capacity::Integer { max: i32::MAX.into() },
            SqlType::Int8 => Capacity::Integer { max: i64::MAX },
            _ if self.modifier < 0 => Capacity::Unbounded,
            _ => {
                // As numeric.c packs them: precision in the high half, the scale in the low 11 bits, signed.
                let packed = self.modifier - VARHDRSZ;
                let scale = ((packed & 0x7ff) ^ 1024) - 1024;
                Capacity::Fixed { precision: (packed >> 16) & 0xffff, scale }
            }
        };
        Some((sql_type, capacity))
    }
}

/// Describes a table; None where there is no such table.
pub fn describe(spi: &Connection, table: Oid, columns: Columns<'_>) -> Result<Option<Description>> {
    Catalog::of(spi).describe(table, columns)
}

/// The code that the WHEN clause of a trigger runs.
pub struct Condition {
    /// Functions that are not PostgreSQL's own.
    pub functions: Vec<Oid>,
    /// It runs plain functions and operators of PostgreSQL's own, and functions of the table's owner; none that takes
    /// SQL, names or types as arguments. Any role that may create a trigger writes its condition.
    pub plain: bool,
}

/// Reads the WHEN clause of a trigger on a table of this owner.
pub fn condition(trigger: Oid, owner: Oid) -> Result<Condition> {
    connected(|spi| {
        let rows = spi.once_latest(&statements::condition(), &[Arg::owned(trigger), Arg::owned(owner)]);
        Ok(Condition { functions: rows.required(0, c"functions")?, plain: rows.required(0, c"plain")? })
    })
}

/// A grant of TRIGGER on a table to a role that is not its owner.
pub struct GrantOfTrigger {
    /// The table.
    pub table: Oid,
    /// The role; invalid for PUBLIC.
    pub grantee: Oid,
    /// The role is a superuser, who needs no grant.
    pub to_superuser: bool,
}

/// The grants of TRIGGER on these tables, by table.
pub fn grants_of_trigger(spi: &Connection, tables: Vec<Oid>) -> Result<Vec<GrantOfTrigger>> {
    let rows = spi.once_latest(&statements::grants_of_trigger(), &[Arg::owned(tables)]);
    let read = |row| {
        let (table, grantee) = (rows.required(row, c"oid")?, rows.required(row, c"grantee")?);
        Ok(GrantOfTrigger { table, grantee, to_superuser: rows.required(row, c"to_superuser")? })
    };
    (0..rows.count()).map(read).collect()
}

/// The statement that describes tables, planned once for several: planning it costs some milliseconds, which the first
/// call of every session waits for.
pub struct Catalog<'c> {
    spi: &'c Connection,
    plan: Plan,
}

impl<'c> Catalog<'c> {
    /// Prepares the statement.
    pub fn of(spi: &'c Connection) -> Self {
        Self { spi, plan: spi.prepare(&statements::describe()) }
    }

    /// Describes a table; None where there is no such table.
    pub fn describe(&self, table: Oid, columns: Columns<'_>) -> Result<Option<Description>> {
        let (id, quantity, mark) = match columns {
            Columns::Named(id, quantity) => (Some(id), Some(quantity), None),
            Columns::Marked(check) => (None, None, Some(check)),
            Columns::None => (None, None, None),
        };
        let args = [Arg::owned(table), Arg::text(id), Arg::text(quantity), Arg::text(mark)];
        let rows = self.spi.run(&self.plan, &args, Snapshot::Latest);
        if rows.count() == 0 { Ok(None) } else { description(&rows).map(Some) }
    }
}

fn description(rows: &Rows<'_>) -> Result<Description> {
    let kind = match rows.required_text(0, c"kind")?.as_str() {
        "r" => RelationKind::Ordinary,
        "p" => RelationKind::Partitioned,
        _ => RelationKind::Other,
    };
    let persistence = rows.required_text(0, c"persistence")?;
    Ok(Description {
        oid: rows.required(0, c"oid")?,
        kind,
        temporary: persistence == "t",
        unlogged: persistence == "u",
        has_children: rows.required(0, c"has_children")?,
        owner: rows.required(0, c"owner")?,
        owned: rows.required(0, c"owned")?,
        schema: rows.required_text(0, c"schema")?,
        name: rows.required_text(0, c"name")?,
        bare_name: rows.required_text(0, c"bare_name")?,
        unique_index: rows.required(0, c"unique_index")?,
        quantity_indexed: rows.required(0, c"quantity_indexed")?,
        referenced: rows.required(0, c"referenced")?,
        id: column(rows, &ID_COLUMN)?,
        quantity: column(rows, &QUANTITY_COLUMN)?,
    })
}

/// The names under which describe.sql returns the facts about a column.
struct ColumnNames {
    number: &'static CStr,
    name: &'static CStr,
    quoted: &'static CStr,
    type_oid: &'static CStr,
    deterministic: &'static CStr,
    not_null: &'static CStr,
    generated: &'static CStr,
    modifier: &'static CStr,
}

const ID_COLUMN: ColumnNames = ColumnNames {
    number: c"id_number",
    name: c"id_name",
    quoted: c"id_quoted",
    type_oid: c"id_type",
    deterministic: c"id_deterministic",
    not_null: c"id_not_null",
    generated: c"id_generated",
    modifier: c"id_modifier",
};

const QUANTITY_COLUMN: ColumnNames = ColumnNames {
    number: c"quantity_number",
    name: c"quantity_name",
    quoted: c"quantity_quoted",
    type_oid: c"quantity_type",
    deterministic: c"quantity_deterministic",
    not_null: c"quantity_not_null",
    generated: c"quantity_generated",
    modifier: c"quantity_modifier",
};

fn column(rows: &Rows<'_>, names: &ColumnNames) -> Result<Option<ColumnDescription>> {
    let Some(number) = rows.get(0, names.number) else { return Ok(None) };
    Ok(Some(ColumnDescription {
        number,
        name: rows.required_text(0, names.name)?,
        quoted: rows.required_text(0, names.quoted)?,
        type_oid: rows.required(0, names.type_oid)?,
        deterministic: rows.required(0, names.deterministic)?,
        not_null: rows.required(0, names.not_null)?,
        generated: rows.required(0, names.generated)?,
        modifier: rows.required(0, names.modifier)?,
    }))
}

impl Description {
    /// The type of ids.
    pub fn id_type(&self) -> Result<IdType> {
        let [id, _] = self.columns()?;
        SqlType::id_type(id.type_oid).ok_or_else(|| Error::internal("the id column has no type of ids"))
    }

    /// Both columns, which an attached table has.
    pub fn columns(&self) -> Result<[&ColumnDescription; 2]> {
        match (&self.id, &self.quantity) {
            (Some(id), Some(quantity)) => Ok([id, quantity]),
            _ => Err(Error::internal("the columns of the stock table are unknown")),
        }
    }
}

//! The catalog's description of a table that is attached, or is to be.
//!
//! Everything is the latest committed state, at any isolation level of the caller.

use crate::core::error::{Error, Result};
use crate::core::item_id::IdType;
use crate::core::quantity::Capacity;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::relation;
use crate::pg::spi::{Connection, connected};
use crate::pg::system_catalog;
use crate::pg::types::SqlType;
use crate::statements::catalog as statements;

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

/// A partitioned table and its partitions, of all levels; nothing of an ordinary table: tables that inherit from it
/// hold nothing of the stock.
pub fn partitions(table: Oid) -> Vec<Oid> {
    let is_partitioned = system_catalog::table(table).is_some_and(|table| table.kind == b'p');
    if is_partitioned { relation::with_partitions(table) } else { Vec::new() }
}

/// Describes a table; None where there is no such table.
pub fn describe(table: Oid, columns: Columns<'_>) -> Option<Description> {
    let row = system_catalog::table(table)?;
    let kind = match row.kind {
        b'r' => RelationKind::Ordinary,
        b'p' => RelationKind::Partitioned,
        _ => RelationKind::Other,
    };
    let (id, quantity) = match columns {
        Columns::Named(id, quantity) => {
            (system_catalog::column_named(table, id), system_catalog::column_named(table, quantity))
        }
        Columns::Marked(check) => match *system_catalog::columns_of_check(table, check) {
            [id, quantity, ..] => (system_catalog::column(table, id), system_catalog::column(table, quantity)),
            _ => (None, None),
        },
        Columns::None => (None, None),
    };
    let indexes = system_catalog::indexes(table);
    let mut parts = vec![table];
    if kind == RelationKind::Partitioned {
        parts = relation::with_partitions(table);
    }
    Some(Description {
        oid: table,
        kind,
        temporary: row.persistence == b't',
        unlogged: row.persistence == b'u',
        has_children: kind == RelationKind::Ordinary && relation::has_children(table),
        owner: row.owner,
        owned: row.is_owned,
        schema: system_catalog::quoted_schema(row.schema)?,
        name: relation::qualified_name(table),
        bare_name: row.name,
        unique_index: id.as_ref().is_some_and(|id| indexes.iter().any(|index| index.unique_on == Some(id.number))),
        quantity_indexed: quantity
            .as_ref()
            .is_some_and(|quantity| indexes.iter().any(|index| index.columns.contains(&quantity.number))),
        referenced: parts.into_iter().any(system_catalog::is_referenced),
        id: id.map(described),
        quantity: quantity.map(described),
    })
}

fn described(column: system_catalog::ColumnRow) -> ColumnDescription {
    ColumnDescription {
        number: column.number,
        quoted: system_catalog::quoted(&column.name),
        name: column.name,
        type_oid: column.type_oid,
        deterministic: column.is_deterministic,
        not_null: column.not_null,
        generated: column.is_generated,
        modifier: column.modifier,
    }
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
pub fn grants_of_trigger(spi: &Connection, mut tables: Vec<Oid>) -> Result<Vec<GrantOfTrigger>> {
    // Most tables have none, and planning the statement is what takes time.
    tables.retain(|table| system_catalog::table(*table).is_some_and(|table| table.has_grants));
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let rows = spi.once_latest(&statements::grants_of_trigger(), &[Arg::owned(tables)]);
    let read = |row| {
        let (table, grantee) = (rows.required(row, c"oid")?, rows.required(row, c"grantee")?);
        Ok(GrantOfTrigger { table, grantee, to_superuser: rows.required(row, c"to_superuser")? })
    };
    (0..rows.count()).map(read).collect()
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

//! What the catalog says about a table that is, or is to become, the stock table, or belongs to it.
//!
//! Everything is read with the latest snapshot, whatever the isolation level of the caller.

use crate::core::quantity::Shape;
use crate::pg::spi::{Arg, Connection, Plan, Rows, Sight, connected};
use pgrx::pg_sys::{self, Oid};

/// How the columns of a table are found.
#[derive(Clone, Copy)]
pub enum Columns<'a> {
    /// The id column and the quantity column, by name.
    Named(&'a str, &'a str),
    /// Those that the CHECK of this name names, in this order.
    Marked(&'a str),
    /// They are not asked for.
    None,
}

/// What the catalog says about a table.
pub struct Description {
    /// The table.
    pub oid: Oid,
    /// Ordinary, partitioned or neither.
    pub kind: Kind,
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

/// What kind of relation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary table.
    Ordinary,
    /// A partitioned table.
    Partitioned,
    /// A view, a foreign table and so on.
    Other,
}

/// What the catalog says about a column.
pub struct ColumnDescription {
    /// Its number.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// Its name, quoted.
    pub quoted: String,
    /// Its type.
    pub type_oid: Oid,
    /// Declared NOT NULL.
    pub not_null: bool,
    /// GENERATED, so that nobody can write it.
    pub generated: bool,
    modifier: i32,
}

impl ColumnDescription {
    /// What a quantity column can hold; None where the type is no quantity.
    pub fn shape(&self) -> Option<Shape> {
        match self.type_oid {
            pg_sys::INT2OID => Some(Shape::Whole { max: i16::MAX.into() }),
            pg_sys::INT4OID => Some(Shape::Whole { max: i32::MAX.into() }),
            pg_sys::INT8OID => Some(Shape::Whole { max: i64::MAX }),
            pg_sys::NUMERICOID if self.modifier < 0 => Some(Shape::Unbounded),
            pg_sys::NUMERICOID => {
                // As numeric.c packs them: precision in the high half, the scale in the low 11 bits, signed.
                let packed = self.modifier - pg_sys::VARHDRSZ as i32;
                let scale = ((packed & 0x7ff) ^ 1024) - 1024;
                Some(Shape::Fixed { precision: (packed >> 16) & 0xffff, scale })
            }
            _ => None,
        }
    }
}

/// Reads what the catalog says about a table now; None where there is no such table.
pub fn describe(spi: &Connection, table: Oid, columns: Columns<'_>) -> Option<Description> {
    Catalog::of(spi).describe(table, columns)
}

/// Nodes of an expression that run no code but that of the functions and operators which they name.
const PLAIN_NODES: &str = "VAR,CONST,OPEXPR,DISTINCTEXPR,NULLIFEXPR,SCALARARRAYOPEXPR,BOOLEXPR,NULLTEST,BOOLEANTEST,RELABELTYPE,\
    COERCEVIAIO,COERCETODOMAIN,FUNCEXPR,SQLVALUEFUNCTION,CASE,CASEEXPR,WHEN,CASEWHEN,CASETESTEXPR,COALESCE,COALESCEEXPR,MINMAX,MINMAXEXPR,\
    ARRAY,ARRAYEXPR";
/// Functions of PostgreSQL that are not IMMUTABLE, and run no code that their arguments name.
const PLAIN_FUNCTIONS: &str = "now,transaction_timestamp,statement_timestamp,clock_timestamp,current_setting,pg_trigger_depth,\
    concat,concat_ws,date_trunc,date_part,extract,to_char,timezone";

/// What the WHEN clause of a trigger runs.
pub struct Condition {
    /// Functions that are not PostgreSQL's own.
    pub functions: Vec<Oid>,
    /// Whoever may create a trigger writes its condition: it may run plain functions and operators of PostgreSQL's own, and what the
    /// owner of the table has made; nothing that takes SQL, names or types as arguments.
    pub plain: bool,
}

/// Reads the WHEN clause of a trigger on a table of this owner. Dependencies do not tell: PostgreSQL records none on its own
/// functions, and none on what a constant names.
pub fn condition(trigger: Oid, owner: Oid) -> Option<Condition> {
    let sql = r"
        WITH tree AS (
            SELECT t.tgqual::pg_catalog.text AS nodes FROM pg_catalog.pg_trigger AS t WHERE t.oid OPERATOR(pg_catalog.=) $1
        ), called AS (
            SELECT found.part[1] AS field, found.part[2]::pg_catalog.oid AS oid
              FROM tree CROSS JOIN LATERAL
                   pg_catalog.regexp_matches(tree.nodes, ':(funcid|opno|resulttype) ([0-9]+)', 'g') AS found (part)
        ), functions AS (
            SELECT p.oid, p.proowner, p.pronamespace, p.provolatile, p.proname, c.field
              FROM called AS c
              LEFT JOIN pg_catalog.pg_operator AS o
                ON c.field OPERATOR(pg_catalog.=) 'opno' AND o.oid OPERATOR(pg_catalog.=) c.oid
              JOIN pg_catalog.pg_proc AS p
                ON p.oid OPERATOR(pg_catalog.=) CASE c.field WHEN 'funcid' THEN c.oid ELSE o.oprcode::pg_catalog.oid END
             WHERE c.field OPERATOR(pg_catalog.<>) 'resulttype'
        )
        SELECT ARRAY(SELECT f.oid FROM functions AS f WHERE f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid),
               NOT EXISTS (
                   SELECT FROM tree CROSS JOIN LATERAL
                          pg_catalog.regexp_matches(tree.nodes, '(?<!\\)\{([A-Z_]+)', 'g') AS node (name)
                    WHERE node.name[1] OPERATOR(pg_catalog.<>) ALL (pg_catalog.string_to_array($3, ',')))
               AND NOT EXISTS (
                   SELECT FROM functions AS f
                    WHERE NOT (f.proowner OPERATOR(pg_catalog.=) $2
                               AND f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid)
                      AND NOT (f.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
                               AND (f.field OPERATOR(pg_catalog.=) 'opno'
                                    OR f.provolatile OPERATOR(pg_catalog.=) 'i'
                                    OR f.proname::pg_catalog.text
                                       OPERATOR(pg_catalog.=) ANY (pg_catalog.string_to_array($4, ',')))))
               AND NOT EXISTS (
                   SELECT FROM called AS c JOIN pg_catalog.pg_type AS y ON y.oid OPERATOR(pg_catalog.=) c.oid
                    WHERE c.field OPERATOR(pg_catalog.=) 'resulttype'
                      AND NOT (y.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
                               AND y.typtype OPERATOR(pg_catalog.=) 'b')
                      AND NOT (y.typowner OPERATOR(pg_catalog.=) $2 AND y.typtype OPERATOR(pg_catalog.=) 'd'
                               AND y.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid))";
    connected(|spi| {
        let plan = spi.prepare(sql, &[pg_sys::OIDOID, pg_sys::OIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID]);
        let args = [Arg::owned(trigger), Arg::owned(owner), Arg::text(PLAIN_NODES), Arg::text(PLAIN_FUNCTIONS)];
        let rows = spi.run(&plan, &args, Sight::Latest);
        Some(Condition { functions: rows.get(0, 1)?, plain: rows.get(0, 2)? })
    })
}

/// Those of these tables on which a role may create triggers that is neither their owner nor a superuser.
pub fn open_to_triggers(spi: &Connection, tables: Vec<Oid>) -> Vec<Oid> {
    let sql = "
        SELECT DISTINCT c.oid
          FROM pg_catalog.pg_class AS c
         CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
          LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee
         WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1) AND a.privilege_type OPERATOR(pg_catalog.=) 'TRIGGER'
           AND a.grantee OPERATOR(pg_catalog.<>) c.relowner AND NOT COALESCE(r.rolsuper, false)
         ORDER BY c.oid";
    let plan = spi.prepare(sql, &[pg_sys::OIDARRAYOID]);
    let rows = spi.run(&plan, &[Arg::owned(tables)], Sight::Latest);
    (0..rows.count()).filter_map(|row| rows.get(row, 1)).collect()
}

/// The question to the catalog, planned once for several tables: planning it costs some milliseconds, which the first call of
/// every session waits for.
pub struct Catalog<'c> {
    spi: &'c Connection,
    plan: Plan,
}

impl<'c> Catalog<'c> {
    /// Prepares the question.
    pub fn of(spi: &'c Connection) -> Self {
        let types = [pg_sys::OIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID];
        Self { spi, plan: spi.prepare(include_str!("../../sql/describe.sql"), &types) }
    }

    /// What the catalog says now; None where there is no such table.
    pub fn describe(&self, table: Oid, columns: Columns<'_>) -> Option<Description> {
        let (id, quantity, mark) = match columns {
            Columns::Named(id, quantity) => (Some(id), Some(quantity), None),
            Columns::Marked(check) => (None, None, Some(check)),
            Columns::None => (None, None, None),
        };
        let args = [Arg::owned(table), Arg::text(id), Arg::text(quantity), Arg::text(mark)];
        description(&self.spi.run(&self.plan, &args, Sight::Latest))
    }
}

fn description(rows: &Rows<'_>) -> Option<Description> {
    let column = |first: i32| {
        Some(ColumnDescription {
            number: rows.get(0, first)?,
            name: rows.text(0, first + 1)?,
            quoted: rows.text(0, first + 2)?,
            type_oid: rows.get(0, first + 3)?,
            not_null: rows.get(0, first + 4)?,
            generated: rows.get(0, first + 5)?,
            modifier: rows.get(0, first + 6)?,
        })
    };
    let kind = match rows.text(0, 2)?.as_str() {
        "r" => Kind::Ordinary,
        "p" => Kind::Partitioned,
        _ => Kind::Other,
    };
    let persistence = rows.text(0, 3)?;
    Some(Description {
        oid: rows.get(0, 1)?,
        kind,
        temporary: persistence == "t",
        unlogged: persistence == "u",
        has_children: rows.get(0, 4)?,
        owner: rows.get(0, 5)?,
        owned: rows.get(0, 6)?,
        schema: rows.text(0, 7)?,
        name: rows.text(0, 8)?,
        unique_index: rows.get(0, 9)?,
        quantity_indexed: rows.get(0, 10)?,
        referenced: rows.get(0, 11)?,
        bare_name: rows.text(0, 12)?,
        id: column(13),
        quantity: column(20),
    })
}

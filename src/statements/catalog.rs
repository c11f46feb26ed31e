//! The statements that read the catalog, the configuration, and the session.

use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// Nodes of an expression that run no code but that of the functions and operators which they name.
const PLAIN_NODES: &[&str] = &[
    "VAR",
    "CONST",
    "OPEXPR",
    "DISTINCTEXPR",
    "NULLIFEXPR",
    "SCALARARRAYOPEXPR",
    "BOOLEXPR",
    "NULLTEST",
    "BOOLEANTEST",
    "RELABELTYPE",
    "COERCEVIAIO",
    "COERCETODOMAIN",
    "FUNCEXPR",
    "SQLVALUEFUNCTION",
    "CASE",
    "CASEEXPR",
    "WHEN",
    "CASEWHEN",
    "CASETESTEXPR",
    "COALESCE",
    "COALESCEEXPR",
    "MINMAX",
    "MINMAXEXPR",
    "ARRAY",
    "ARRAYEXPR",
];
/// Functions of PostgreSQL that are not IMMUTABLE, and run no code that their arguments name.
const PLAIN_FUNCTIONS: &[&str] = &[
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "clock_timestamp",
    "current_setting",
    "pg_trigger_depth",
    "concat",
    "concat_ws",
    "date_trunc",
    "date_part",
    "extract",
    "to_char",
    "timezone",
];

/// The functions that the WHEN clause of a trigger runs, and whether it runs nothing but plain ones and those of an
/// owner.
///
/// Dependencies do not tell: PostgreSQL records none on its own functions, and none on objects that a constant names.
pub fn condition() -> Sql {
    let list = |words: &[&str]| words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>();
    let list =
        |words: &[&str]| list(words).chunks(6).map(|words| words.join(", ")).collect::<Vec<_>>().join(",\n       ");
    let (nodes, functions) = (list(PLAIN_NODES), list(PLAIN_FUNCTIONS));
    let text = format!(
        r"WITH tree AS (
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
SELECT ARRAY(SELECT f.oid FROM functions AS f WHERE f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid) AS functions,
       NOT EXISTS (
           SELECT FROM tree CROSS JOIN LATERAL
                  pg_catalog.regexp_matches(tree.nodes, '(?<!\\)\{{([A-Z_]+)', 'g') AS node (name)
            WHERE node.name[1] OPERATOR(pg_catalog.<>) ALL (ARRAY[
       {nodes}]))
       AND NOT EXISTS (
           SELECT FROM functions AS f
            WHERE NOT (f.proowner OPERATOR(pg_catalog.=) $2
                       AND f.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid)
              AND NOT (f.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
                       AND (f.field OPERATOR(pg_catalog.=) 'opno'
                            OR f.provolatile OPERATOR(pg_catalog.=) 'i'
                            OR f.proname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY[
       {functions}]))))
       AND NOT EXISTS (
           SELECT FROM called AS c JOIN pg_catalog.pg_type AS y ON y.oid OPERATOR(pg_catalog.=) c.oid
            WHERE c.field OPERATOR(pg_catalog.=) 'resulttype'
              AND NOT (y.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid
                       AND y.typtype OPERATOR(pg_catalog.=) 'b')
              AND NOT (y.typowner OPERATOR(pg_catalog.=) $2 AND y.typtype OPERATOR(pg_catalog.=) 'd'
                       AND y.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid)) AS plain"
    );
    Sql::new(text, &[SqlType::Oid, SqlType::Oid])
}

/// The grants of TRIGGER on some tables to roles that are not their owners.
pub fn grants_of_trigger() -> Sql {
    let text = "SELECT c.oid, a.grantee, COALESCE(r.rolsuper, false) AS to_superuser
  FROM pg_catalog.pg_class AS c
 CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) a.grantee
 WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1) AND a.privilege_type OPERATOR(pg_catalog.=) 'TRIGGER'
   AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
 ORDER BY c.oid";
    Sql::new(text, &[SqlType::OidArray])
}

/// The relations that subscriptions of this database write to. A database made from a template may have entries of
/// another.
const SUBSCRIBED: &str = "SELECT FROM pg_catalog.pg_subscription_rel AS r
  JOIN pg_catalog.pg_subscription AS s ON s.oid OPERATOR(pg_catalog.=) r.srsubid
  JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.subdbid
 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";

/// Returns a row where a subscription writes to one of some tables.
pub fn subscribed() -> Sql {
    Sql::new(format!("{SUBSCRIBED}\n   AND r.srrelid OPERATOR(pg_catalog.=) ANY ($1) LIMIT 1"), &[SqlType::OidArray])
}

/// The attached tables, in one row; and whether several have been attached at once.
pub fn attached(configuration: &str, sharing: &str) -> Sql {
    let text = format!(
        "SELECT ARRAY(SELECT a.stock_table::pg_catalog.oid FROM {configuration} AS a) AS stock_tables,
       EXISTS (SELECT FROM {sharing}) AS several"
    );
    Sql::new(text, &[])
}

/// The relations in a schema. PostgreSQL has an index on dependencies by schema, and none on relations.
pub fn relations_in() -> Sql {
    let text = "SELECT ARRAY(
    SELECT d.objid FROM pg_catalog.pg_depend AS d
     WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid
       AND d.refobjid OPERATOR(pg_catalog.=) $1
       AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid) AS relations";
    Sql::new(text, &[SqlType::Oid])
}

/// The attached tables of an owner that have had stripes.
pub fn striped_tables(configuration: &str) -> Sql {
    let text = format!(
        "SELECT a.stock_table::pg_catalog.oid AS stock_table
  FROM {configuration} AS a
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.stock_table
 WHERE a.striped AND c.relowner OPERATOR(pg_catalog.=) $1"
    );
    Sql::new(text, &[SqlType::Oid])
}

/// The tables of stripes of all attached tables of an owner.
pub fn stripe_tables(configuration: &str) -> Sql {
    let text = format!(
        "SELECT a.stripe_table::pg_catalog.oid AS stripe_table
  FROM {configuration} AS a
  JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.stripe_table
 WHERE c.relowner OPERATOR(pg_catalog.=) $1"
    );
    Sql::new(text, &[SqlType::Oid])
}

/// The configuration rows that are read.
#[derive(Clone, Copy)]
pub enum ConfiguredBy {
    /// That of a stock table.
    Stock,
    /// Those in which one of some tables is the stock table or a companion.
    Tables,
}

/// Reads configuration rows.
pub fn configured(configuration: &str, by: ConfiguredBy) -> Sql {
    let (condition, parameter) = match by {
        ConfiguredBy::Stock => ("a.stock_table OPERATOR(pg_catalog.=) $1", SqlType::Oid),
        ConfiguredBy::Tables => (
            "ARRAY[a.stock_table, a.movement_table, a.request_table, a.stripe_table, a.total_table]::pg_catalog.oid[]
       OPERATOR(pg_catalog.&&) $1",
            SqlType::OidArray,
        ),
    };
    let text = format!(
        "SELECT a.stock_table::pg_catalog.oid AS stock_table, a.stock_schema::pg_catalog.text AS stock_schema,
       a.stock_name::pg_catalog.text AS stock_name, a.run_as, a.check_name::pg_catalog.text AS check_name,
       a.id_column::pg_catalog.text AS id_column, a.quantity_column::pg_catalog.text AS quantity_column,
       a.movement_table::pg_catalog.oid AS movement_table, a.request_table::pg_catalog.oid AS request_table,
       a.stripe_table::pg_catalog.oid AS stripe_table, a.total_table::pg_catalog.oid AS total_table
  FROM {configuration} AS a
 WHERE {condition}"
    );
    Sql::new(text, &[parameter])
}

/// The striped items, each with the number of its stripes, and whether its row is in the table. Only the row of a
/// partitioned table can be elsewhere: in a partition that is detached.
pub fn striped_items(stripes: &str, partitioned: Option<(&str, &str)>) -> Sql {
    let present = match partitioned {
        Some((stock, id)) => {
            format!(
                "EXISTS (SELECT FROM {stock} AS stock
                WHERE stock.{id} OPERATOR(pg_catalog.=) s.inventory_id)"
            )
        }
        None => "true".to_owned(),
    };
    let text = format!(
        "SELECT s.inventory_id AS id, pg_catalog.max(s.stripe) AS stripes,
       {present} AS present
  FROM ONLY {stripes} AS s
 GROUP BY s.inventory_id"
    );
    Sql::new(text, &[])
}

/// The cursors of the session.
pub fn open_cursors() -> Sql {
    Sql::new("SELECT name FROM pg_catalog.pg_cursors", &[])
}

/// The tables and the columns of tables that a command has dropped. PostgreSQL rejects the statement outside of an
/// event trigger.
pub fn dropped_objects() -> Sql {
    let text = "SELECT d.objid AS table, d.address_names[3] AS column, d.object_identity AS identity
  FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
 WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
   AND (d.object_type OPERATOR(pg_catalog.=) 'table' OR d.object_type OPERATOR(pg_catalog.=) 'table column')
   AND NOT d.is_temporary";
    Sql::new(text, &[])
}

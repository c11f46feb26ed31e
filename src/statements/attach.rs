//! The statements that attach and detach a table: its rows, its constraint, the configuration row.

use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// The number of bad rows that an error names.
const NAMED_ROWS: usize = 5;

/// Finds the first rows whose quantity is no stock, and counts all of them. Digits count as in `core::quantity`: zeros
/// at either end are none.
pub fn bad_rows(table: &str, id: &str, quantity: &str, quantity_type: SqlType, max_digits: usize) -> Sql {
    let of_numeric = if quantity_type.is_integer() {
        String::new()
    } else {
        format!(
            "
         AND stock.{quantity} OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.numeric
         AND (pg_catalog.min_scale(stock.{quantity}) OPERATOR(pg_catalog.+)
              CASE WHEN stock.{quantity} OPERATOR(pg_catalog.<) 1 THEN 0
                   ELSE pg_catalog.length(pg_catalog.trunc(stock.{quantity})::pg_catalog.text) END)
             OPERATOR(pg_catalog.<=) {max_digits}"
        )
    };
    let text = format!(
        "SELECT stock.{id}::pg_catalog.text AS id, stock.{quantity}::pg_catalog.text AS quantity,
       pg_catalog.count(*) OVER () AS rows
  FROM {table} AS stock
 WHERE NOT (stock.{quantity} IS NOT NULL AND stock.{quantity} OPERATOR(pg_catalog.>=) 0{of_numeric})
 ORDER BY stock.{id} LIMIT {NAMED_ROWS}"
    );
    Sql::new(text, &[])
}

/// Finds the longest text id, in bytes of UTF-8 as a key has them.
pub fn longest_id(table: &str, id: &str) -> Sql {
    let text = format!(
        "SELECT pg_catalog.max(
           CASE WHEN pg_catalog.getdatabaseencoding()::pg_catalog.text
                     OPERATOR(pg_catalog.=) ANY (ARRAY['UTF8', 'SQL_ASCII'])
                  OR pg_catalog.octet_length({id}::pg_catalog.text) OPERATOR(pg_catalog.<=) 85
                THEN pg_catalog.octet_length({id}::pg_catalog.text)
                ELSE pg_catalog.octet_length(pg_catalog.convert_to({id}::pg_catalog.text, 'UTF8')) END) AS bytes
  FROM {table}"
    );
    Sql::new(text, &[])
}

/// Counts the items.
pub fn count_items(table: &str) -> Sql {
    Sql::new(format!("SELECT pg_catalog.count(*) AS items FROM {table}"), &[])
}

/// Finds the name of the CHECK, cut to the length of a name as PostgreSQL cuts it, and a constraint that has it.
pub fn check_name() -> Sql {
    let text =
        "SELECT named.name::pg_catalog.text AS name, pg_catalog.quote_ident(named.name::pg_catalog.text) AS quoted,
       k.oid IS NOT NULL AS exists,
       k.oid IS NOT NULL AND NOT COALESCE(
           k.contype OPERATOR(pg_catalog.=) 'c' AND k.conkey OPERATOR(pg_catalog.=) ARRAY[$3, $4], false) AS foreign
  FROM (SELECT ($2 OPERATOR(pg_catalog.||) '_non_negative')::pg_catalog.name) AS named (name)
  LEFT JOIN pg_catalog.pg_constraint AS k
    ON k.conrelid OPERATOR(pg_catalog.=) $1 AND k.conname OPERATOR(pg_catalog.=) named.name";
    Sql::new(text, &[SqlType::Oid, SqlType::Text, SqlType::Int2, SqlType::Int2])
}

/// Makes the quantity column NOT NULL.
pub fn set_not_null(table: &str, quantity: &str) -> Sql {
    Sql::new(format!("ALTER TABLE {table} ALTER COLUMN {quantity} SET NOT NULL"), &[])
}

/// Drops a constraint.
pub fn drop_constraint(table: &str, constraint: &str) -> Sql {
    Sql::new(format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}"), &[])
}

/// Adds the CHECK, and validates it in a second statement.
///
/// `< 'Infinity'` also refuses NaN, which numeric sorts above every number. The id stands in the CHECK, which holds for
/// every id, so that the CHECK names both columns of the attachment, first the id. PostgreSQL reads the stored
/// expression again for every statement that writes: constants of the column's own type spare it a cast, which it would
/// evaluate each time.
pub fn add_check(table: &str, constraint: &str, id: &str, quantity: &str, quantity_type: SqlType) -> [Sql; 2] {
    let bounds = if quantity_type.is_integer() {
        format!("{quantity} OPERATOR(pg_catalog.>=) 0")
    } else {
        format!(
            "{quantity} OPERATOR(pg_catalog.>=) '0'::pg_catalog.numeric
     AND {quantity} OPERATOR(pg_catalog.<) 'Infinity'::pg_catalog.numeric"
        )
    };
    let add = format!(
        "ALTER TABLE {table} ADD CONSTRAINT {constraint}
     CHECK ({id} IS NOT NULL AND {bounds}) NOT VALID"
    );
    let validate = format!("ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}");
    [add, validate].map(|text| Sql::new(text, &[]))
}

/// Writes the configuration row.
pub fn insert_configuration(configuration: &str) -> Sql {
    let text = format!(
        "INSERT INTO {configuration}
        (stock_table, stock_schema, stock_name, check_name, id_column, quantity_column, run_as,
         movement_table, request_table, stripe_table, total_table, striped)
 SELECT c.oid::pg_catalog.regclass, n.nspname, c.relname, $2::pg_catalog.name, $3::pg_catalog.name,
        $4::pg_catalog.name, $5, $6::pg_catalog.regclass, $7::pg_catalog.regclass, $8::pg_catalog.regclass,
        $9::pg_catalog.regclass, $10
   FROM pg_catalog.pg_class AS c
   JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
  WHERE c.oid OPERATOR(pg_catalog.=) $1"
    );
    let (oid, text_type) = (SqlType::Oid, SqlType::Text);
    Sql::new(text, &[oid, text_type, text_type, text_type, text_type, oid, oid, oid, oid, SqlType::Bool])
}

/// Deletes the configuration row of a table.
pub fn delete_configuration(configuration: &str) -> Sql {
    let text = format!("DELETE FROM {configuration} AS a WHERE a.stock_table OPERATOR(pg_catalog.=) $1");
    Sql::new(text, &[SqlType::Oid])
}

/// Deletes the rows of tables that were dropped, as far as no other session does.
pub fn delete_dropped(configuration: &str) -> Sql {
    let text = format!(
        "DELETE FROM {configuration} AS a
 WHERE a.stock_table OPERATOR(pg_catalog.=) ANY (ARRAY(
    SELECT gone.stock_table::pg_catalog.oid FROM {configuration} AS gone
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) gone.stock_table)
       FOR UPDATE SKIP LOCKED))"
    );
    Sql::new(text, &[])
}

/// Notes that several tables are attached, where there is another one.
pub fn begin_sharing(configuration: &str, sharing: &str) -> Sql {
    let text = format!(
        "INSERT INTO {sharing} (stock_table)
 SELECT $1 WHERE EXISTS (
    SELECT FROM {configuration} AS a WHERE a.stock_table OPERATOR(pg_catalog.<>) $1)
     ON CONFLICT DO NOTHING"
    );
    Sql::new(text, &[SqlType::Regclass])
}

/// Forgets that several tables were attached, where none is.
pub fn end_sharing(configuration: &str, sharing: &str) -> Sql {
    Sql::new(format!("DELETE FROM {sharing} WHERE NOT EXISTS (SELECT FROM {configuration})"), &[])
}

/// The same where no other transaction has the row.
pub fn try_set_striped(configuration: &str) -> Sql {
    let text = format!(
        "UPDATE {configuration} AS a SET striped = true
  FROM (SELECT c.ctid AS place FROM {configuration} AS c
         WHERE c.stock_table OPERATOR(pg_catalog.=) $1 AND NOT c.striped FOR UPDATE SKIP LOCKED) AS free
 WHERE a.ctid OPERATOR(pg_catalog.=) free.place"
    );
    Sql::new(text, &[SqlType::Oid])
}

/// Notes that a table has stripes.
pub fn set_striped(configuration: &str) -> Sql {
    let text = format!(
        "UPDATE {configuration} AS a SET striped = true
 WHERE a.stock_table OPERATOR(pg_catalog.=) $1 AND NOT a.striped"
    );
    Sql::new(text, &[SqlType::Oid])
}

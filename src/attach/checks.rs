//! The checks of a table that is to be attached; `attach::constraint` checks its rows.

use crate::core::error::{Error, Result};
use crate::pg::types::SqlType;
use crate::table::attachment::USER_SCHEMA;
use crate::table::catalog::{Description, RelationKind};
use serde_json::json;

/// The error for a view, a foreign table and so on.
pub fn unsuitable_kind(table: &Description) -> Box<Error> {
    Error::unsuitable(
        "42809",
        "the stock table must be an ordinary or a partitioned table",
        "not_a_table",
        json!({"table": table.name}),
        "Attach the table that holds the quantities.",
    )
}

fn unsuitable<T>(
    table: &Description,
    [sqlstate, message, reason]: [&'static str; 3],
    column: Option<&str>,
    hint: &'static str,
) -> Result<T> {
    let mut facts = json!({"table": table.name});
    if let Some(column) = column {
        facts["column"] = json!(column);
    }
    Err(Error::unsuitable(sqlstate, message, reason, facts, hint))
}

const ADD_UUID: &str = "Add another id: ALTER TABLE ... ADD COLUMN ... uuid UNIQUE NOT NULL DEFAULT gen_random_uuid().";
const ADD_UNIQUE: &str = "Create a unique index on the id column alone, not partial and not deferrable; or add another \
    id: ALTER TABLE ... ADD COLUMN ... uuid UNIQUE NOT NULL DEFAULT gen_random_uuid().";

/// Checks the table and its two columns.
pub fn require_suitable(table: &Description, columns: [&str; 2]) -> Result<()> {
    require_suitable_relation(table)?;
    require_suitable_columns(table, columns)
}

fn require_suitable_relation(table: &Description) -> Result<()> {
    if table.kind == RelationKind::Other {
        return Err(unsuitable_kind(table));
    }
    if table.schema == USER_SCHEMA {
        let hint = "Rename the schema: PostgreSQL reads $user in a search_path as the name of the role.";
        let words = ["42602", "the stock table is in a schema named $user", "schema_name"];
        return unsuitable(table, words, None, hint);
    }
    if table.temporary {
        let hint = "Other sessions cannot see a temporary table; attach a permanent one.";
        return unsuitable(table, ["42809", "the stock table must not be temporary", "temporary"], None, hint);
    }
    if table.has_children {
        let hint = "Use a partitioned table, or one without children.";
        return unsuitable(table, ["42809", "other tables inherit from the stock table", "has_children"], None, hint);
    }
    Ok(())
}

fn require_suitable_columns(table: &Description, [id_column, quantity_column]: [&str; 2]) -> Result<()> {
    let missing = |column| {
        let words = ["42703", "the stock table has no such column", "no_column"];
        unsuitable(table, words, Some(column), "Name an existing column.")
    };
    let Some(id) = &table.id else { return missing(id_column) };
    let Some(quantity) = &table.quantity else { return missing(quantity_column) };
    let of_id = |words, hint| unsuitable(table, words, Some(&id.name), hint);
    let of_quantity = |words, hint| unsuitable(table, words, Some(&quantity.name), hint);
    if id.number == quantity.number {
        let words = ["42804", "the id column and the quantity column are the same", "same_column"];
        return of_id(words, "Name two columns.");
    }
    if SqlType::id_type(id.type_oid).is_none() {
        let words = ["42804", "the id column must be of type uuid, bigint, integer, text or varchar", "id_type"];
        return of_id(words, ADD_UUID);
    }
    if !id.deterministic {
        let words = ["42P22", "the collation of the id column is not deterministic", "id_collation"];
        return of_id(words, ADD_UUID);
    }
    if quantity.quantity().is_none() {
        let words = ["42804", "the quantity column must be a number of units", "quantity_type"];
        return of_quantity(words, "Use numeric, smallint, integer or bigint.");
    }
    if quantity.generated {
        let words = ["42809", "the quantity column is generated", "quantity_generated"];
        return of_quantity(words, "Name a column that can be written.");
    }
    if !id.not_null {
        let words = ["55000", "the id column must be NOT NULL", "id_nullable"];
        return of_id(words, "Run ALTER TABLE with ALTER COLUMN ... SET NOT NULL.");
    }
    if !table.unique_index {
        let words = ["55000", "the id column has no plain unique index of its own", "id_not_unique"];
        return of_id(words, ADD_UNIQUE);
    }
    Ok(())
}

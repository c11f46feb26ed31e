//! The constraint of the stock table: NOT NULL, and a CHECK that the quantity is neither negative nor NaN nor infinite.

use crate::core::error::{Error, Result};
use crate::core::item_id::{IdType, MAX_ID_BYTES};
use crate::core::json::exact;
use crate::core::quantity::MAX_DIGITS;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::spi::Connection;
use crate::statements::attach as statements;
use crate::table::catalog::{ColumnDescription, Description};
use serde_json::{Value, json};

/// Counts the items, and refuses a table with rows that are no stock, or that no key can name.
pub fn check_rows(spi: &Connection, table: &Description) -> Result<i64> {
    let [id, quantity] = table.columns()?;
    if table.id_type()? == IdType::Text {
        let longest = spi.once(&statements::longest_id(&table.name, &id.quoted), &[]).get::<i32>(0, c"bytes");
        let longest =
            longest.map_or(Ok(0), usize::try_from).map_err(|_| Error::internal("an id of negative length"))?;
        if longest > MAX_ID_BYTES {
            return Err(Error::long_id(longest));
        }
    }
    let (quantity_type, _) = quantity.quantity().ok_or_else(|| Error::internal("the quantity has no type"))?;
    let bad =
        spi.once(&statements::bad_rows(&table.name, &id.quoted, &quantity.quoted, quantity_type, MAX_DIGITS), &[]);
    let Some(count) = bad.get::<i64>(0, c"rows") else {
        return count_items(spi, table);
    };
    let ids_are_numbers = matches!(table.id_type()?, IdType::Integer | IdType::Bigint);
    let bad_row = |row| {
        let stored = bad.text(row, c"quantity").map_or(Value::Null, |text| exact(&text));
        let id = bad.text(row, c"id");
        json!({"inventory_id": id.map(|id| if ids_are_numbers { exact(&id) } else { json!(id) }), "quantity": stored})
    };
    let first: Vec<Value> = (0..bad.count()).map(bad_row).collect();
    Err(Error::unsuitable(
        "23514",
        "the stock table has rows whose quantity is NULL, negative, NaN, infinite or of more than 28 digits",
        "bad_rows",
        json!({"table": table.name, "column": quantity.name, "rows": count, "first": first}),
        "Correct these rows and attach again; nothing has been changed.",
    ))
}

/// Counts the items.
pub fn count_items(spi: &Connection, table: &Description) -> Result<i64> {
    spi.once(&statements::count_items(&table.name), &[]).required(0, c"items")
}

/// Adds NOT NULL and the CHECK, and returns the name of the CHECK.
pub fn constrain(spi: &Connection, table: &Description) -> Result<String> {
    let [id, quantity] = table.columns()?;
    let check = Check::of(spi, table.oid, id, quantity)?;
    let name = &table.name;
    if check.foreign {
        return Err(Error::unsuitable(
            "42710",
            "the stock table has a constraint with the name of the CHECK to be added",
            "constraint_name_taken",
            json!({"table": name, "constraint": check.name}),
            "Rename that constraint.",
        ));
    }
    if !quantity.not_null {
        spi.once(&statements::set_not_null(name, &quantity.quoted), &[]);
    }
    // A constraint of that name is of an earlier attach: it is created again, in case it was changed since.
    if check.exists {
        spi.once(&statements::drop_constraint(name, &check.quoted), &[]);
    }
    let (quantity_type, _) = quantity.quantity().ok_or_else(|| Error::internal("the quantity has no type"))?;
    for sql in statements::add_check(name, &check.quoted, &id.quoted, &quantity.quoted, quantity_type) {
        spi.once(&sql, &[]);
    }
    Ok(check.name)
}

/// `<column>_non_negative`, cut to the length of a name as PostgreSQL cuts it.
struct Check {
    name: String,
    quoted: String,
    exists: bool,
    /// The constraint of this name is no CHECK, or contains other columns than ours.
    foreign: bool,
}

impl Check {
    fn of(spi: &Connection, table: Oid, id: &ColumnDescription, quantity: &ColumnDescription) -> Result<Self> {
        let args =
            [Arg::owned(table), Arg::text(quantity.name.as_str()), Arg::owned(id.number), Arg::owned(quantity.number)];
        let rows = spi.once(&statements::check_name(), &args);
        Ok(Self {
            name: rows.required_text(0, c"name")?,
            quoted: rows.required_text(0, c"quoted")?,
            exists: rows.required(0, c"exists")?,
            foreign: rows.required(0, c"foreign")?,
        })
    }
}

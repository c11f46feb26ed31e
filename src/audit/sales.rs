//! Compares the ledger with the shop's own sales.
//!
//! The sales are read with the rights of the caller, the ledger with those of its owner, both grouped by reference and
//! item, and divided alike into temporary files.

use crate::audit::access::stock_of_owner;
use crate::core::decimal_text::are_equal;
use crate::core::error::{Error, Result};
use crate::core::seal::numbers;
use crate::pg::Oid;
use crate::pg::args::{Arg, Moment};
use crate::pg::lock::{TableLock, lock_table};
use crate::pg::relation;
use crate::pg::role::act_as_unfiltered;
use crate::pg::spi::{checked, connected};
use crate::pg::system_catalog;
use crate::pg::temp_files::TempFiles;
use crate::pg::transaction::{check_interrupts, with_new_snapshot};
use crate::pg::types::SqlType;
use crate::statements::audit::{self as statements, DEDUCTED_TYPES, Sales};
use crate::table::attachment::{Attachment, Judged};
use crate::table::beside_ledger;
use crate::table::cursors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The parts into which both sides are divided: a million sales are some 10,000 in each.
const PARTS: usize = 128;

/// The table of sales, and its columns.
pub struct SalesTable {
    /// The table.
    pub table: Oid,
    /// The column of the reference.
    pub reference: String,
    /// That of the item.
    pub item: String,
    /// That of the quantity.
    pub quantity: String,
}

/// A reference and an item of which not as much was deducted as was sold.
pub struct Difference {
    /// not_deducted, not_sold, quantity_differs or deducted_twice.
    pub kind: &'static str,
    /// The reference.
    pub reference: String,
    /// The item.
    pub item: String,
    /// The quantity that was sold.
    pub sold: Option<String>,
    /// The quantity that was deducted.
    pub deducted: Option<String>,
    /// Its movements.
    pub movements: Option<Vec<i64>>,
}

/// Finds the differences. The sales are read with the rights of the caller.
pub fn audit(sales: &SalesTable, since: Option<Moment>) -> Result<Vec<Difference>> {
    let stock = stock_of_owner()?;
    // Before its name is read, by which the statement will find it.
    lock_table(sales.table, TableLock::AccessShare);
    relation::schema_of(sales.table).ok_or_else(|| Error::no_table(sales.table.to_u32()))?;
    let table = relation::qualified_name(sales.table);
    let [reference, item, quantity] = [&sales.reference, &sales.item, &sales.quantity].map(|column| {
        if system_catalog::column_named(sales.table, column).is_some() {
            Ok(system_catalog::quoted(column))
        } else {
            Err(Error::no_sales_column(&table, column))
        }
    });
    let (reference, item, quantity) = (reference?, item?, quantity?);
    let columns = Sales { table: &table, reference: &reference, item: &item, quantity: &quantity };
    connected(|spi| {
        with_new_snapshot(|| {
            let mut files = TempFiles::new(PARTS);
            let sold = statements::sold(stock.names.id_type, columns);
            spi.cursor(&sold, &[]).each(&[SqlType::Text, SqlType::Text, SqlType::Numeric], |row| {
                let key = (row.required_text(0)?, row.required_text(1)?);
                add(&mut files, &key, &json!({"sold": row.decimal(2)?}));
                Ok(())
            })?;
            cursors::leaving_none(stock.owner, || deducted(&stock, since, &mut files))?;
            compare(&files)
        })
    })
}

fn deducted(stock: &Rc<Attachment>, since: Option<Moment>, files: &mut TempFiles) -> Result<()> {
    let ledger = stock.names.movements.as_deref().ok_or_else(|| Error::no_ledger(&stock.names.relation))?;
    let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
    checked(stock.check(Judged::Companions), |spi| {
        let archive = beside_ledger::archive(spi, stock, false)?.map(|archive| archive.name);
        let sql = statements::deducted(ledger, archive.as_deref());
        spi.cursor(&sql, &[Arg::owned(since)]).each(&DEDUCTED_TYPES, |row| {
            let key = (row.required_text(0)?, row.required_text(1)?);
            let facts = json!({
                "deducted": row.decimal(2)?, "times": row.number(3)?, "least": row.decimal(4)?,
                "most": row.decimal(5)?, "recent": row.flag(6)?, "movements": row.required_text(7)?,
            });
            add(files, &key, &facts);
            Ok(())
        })
    })
}

/// Adds what is known of a reference and an item, as a line of JSON.
fn add(files: &mut TempFiles, (reference, item): &(String, String), facts: &Value) {
    let hash = numbers(reference.bytes().chain([0]).chain(item.bytes()).map(i64::from));
    let line = json!([reference, item, facts]).to_string();
    files.write(usize::from(hash[0]) % files.parts(), format!("{line}\n").as_bytes());
}

fn compare(files: &TempFiles) -> Result<Vec<Difference>> {
    let broken = || Error::internal("a temporary file is not as it was written");
    let mut found = Vec::new();
    for part in 0..files.parts() {
        let bytes = files.read(part)?;
        let mut known = BTreeMap::<(String, String), [Option<Value>; 2]>::new();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let (reference, item, facts): (String, String, Value) =
                serde_json::from_slice(line).map_err(|_| broken())?;
            let side = usize::from(facts.get("sold").is_none());
            known.entry((reference, item)).or_default()[side] = Some(facts);
        }
        found.extend(known.into_iter().filter_map(|(key, facts)| difference(key, &facts)));
        check_interrupts();
    }
    found.sort_by(|one, other| (&one.reference, &one.item).cmp(&(&other.reference, &other.item)));
    Ok(found)
}

fn difference((reference, item): (String, String), [sold, deducted]: &[Option<Value>; 2]) -> Option<Difference> {
    let text = |facts: &Option<Value>, key: &str| Some(facts.as_ref()?.get(key)?.as_str()?.to_owned());
    let (sold, quantity) = (text(sold, "sold"), text(deducted, "deducted"));
    let or_nothing = |quantity: &Option<String>| quantity.clone().unwrap_or_else(|| "0".to_owned());
    if are_equal(&or_nothing(&sold), &or_nothing(&quantity)) {
        return None;
    }
    let facts = deducted.as_ref();
    if facts.is_some_and(|facts| facts.get("recent") != Some(&Value::Bool(true))) {
        return None;
    }
    let times = facts.and_then(|facts| facts.get("times")?.as_i64()).unwrap_or(0);
    let each = |key| text(deducted, key).zip(sold.clone()).is_some_and(|(one, sold)| are_equal(&one, &sold));
    let kind = match (&sold, &quantity) {
        (_, None) => "not_deducted",
        (None, _) => "not_sold",
        _ if times > 1 && each("least") && each("most") => "deducted_twice",
        _ => "quantity_differs",
    };
    let movements = text(deducted, "movements");
    let movements = movements.map(|all| all.split(',').filter_map(|number| number.parse().ok()).collect());
    Some(Difference { kind, reference, item, sold, deducted: quantity, movements })
}

//! The statements of a sale of one item, and of the quantity of one item.

use super::{LockClause, Names};
use crate::core::error::Result;
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

fn locked_columns(names: &Names) -> String {
    let row = if names.by_ctid { ", stock.ctid AS row" } else { "" };
    format!("stock.{} AS quantity{row}", names.quantity)
}

pub fn lock_enough(names: &Names, lock: LockClause) -> Result<Sql> {
    let (columns, source, item, quantity) = (locked_columns(names), names.source(), names.is_item(), &names.quantity);
    let text = format!(
        "SELECT {columns}
  FROM {source}
 WHERE {item} AND stock.{quantity} OPERATOR(pg_catalog.>=) $2{}",
        lock.clause()
    );
    Ok(Sql::new(text, &[names.id_parameter(), names.amount_type()]))
}

pub fn lock_item(names: &Names, lock: LockClause) -> Result<Sql> {
    let (columns, source, item) = (locked_columns(names), names.source(), names.is_item());
    Ok(Sql::new(format!("SELECT {columns}\n  FROM {source}\n WHERE {item}{}", lock.clause()), &[names.id_parameter()]))
}

pub fn look(names: &Names) -> Result<Sql> {
    let text =
        format!("SELECT stock.{} AS quantity\n  FROM {}\n WHERE {}", names.quantity, names.source(), names.is_item());
    Ok(Sql::new(text, &[names.id_parameter()]))
}

/// The row was locked by this transaction, so its ctid stays.
pub fn deduct(names: &Names) -> Result<Sql> {
    let (source, quantity) = (names.source(), &names.quantity);
    let (row, row_type) = if names.by_ctid {
        ("stock.ctid OPERATOR(pg_catalog.=) $1".to_owned(), SqlType::Tid)
    } else {
        (names.is_item(), names.id_parameter())
    };
    let text = format!(
        "UPDATE {source} SET {quantity} = stock.{quantity} OPERATOR(pg_catalog.-) $2
 WHERE {row}
RETURNING stock.{quantity} AS quantity"
    );
    Ok(Sql::new(text, &[row_type, names.amount_type()]))
}

pub fn read_available(names: &Names) -> Result<Sql> {
    let (source, quantity, item) = (names.source(), &names.quantity, names.is_item());
    let text = format!("SELECT stock.{quantity}::pg_catalog.numeric AS quantity\n  FROM {source}\n WHERE {item}");
    Ok(Sql::new(text, &[names.id_parameter()]))
}

/// The policies of the role in force decide on the row, which is locked against nothing but its deletion.
pub fn may_change(names: &Names) -> Result<Sql> {
    let (source, item, lock) = (names.source(), names.is_item(), LockClause::KeyShare.clause());
    Ok(Sql::new(format!("SELECT FROM {source}\n WHERE {item}{lock}"), &[names.id_parameter()]))
}

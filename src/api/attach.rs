//! attach_inventory and detach_inventory.

use crate::attach::attach_table::{self, Options};
use crate::attach::detach_table;
use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::encoding::{from_c, from_server};
use crate::pg::report::finish;
use crate::pg::spi::connected;
use pgrx::pg_extern;
use std::ffi::CStr;

/// Makes an existing table a stock table.
#[pg_extern(sql = false)]
fn attach_table(
    p_table: Option<Oid>,
    p_id_column: Option<&CStr>,
    p_quantity_column: Option<&CStr>,
    p_ledger: Option<bool>,
    p_run_as: Option<&[u8]>,
    p_companion_schema: Option<&CStr>,
) -> Vec<u8> {
    let names = [p_id_column, p_quantity_column, p_companion_schema].map(|name| name.map(from_c));
    finish(attach(p_table, names, p_ledger, p_run_as.map(from_server)))
}

/// Stops managing a stock table.
#[pg_extern(sql = false)]
fn detach_table(p_table: Option<Oid>) {
    connected(|spi| detach_table::detach(spi, p_table)).unwrap_or_else(|error| error.raise());
}

fn attach(
    table: Option<Oid>,
    [id_column, quantity_column, companion_schema]: [Option<String>; 3],
    ledger: Option<bool>,
    run_as: Option<String>,
) -> Result<String> {
    let options = Options {
        table: table.ok_or_else(|| Error::null_argument("p_table"))?,
        id_column: id_column.ok_or_else(|| Error::null_argument("p_id_column"))?,
        quantity_column: quantity_column.ok_or_else(|| Error::null_argument("p_quantity_column"))?,
        ledger: ledger.ok_or_else(|| Error::null_argument("p_ledger"))?,
        run_as: run_as.ok_or_else(|| Error::null_argument("p_run_as"))?,
        companion_schema,
    };
    let options = options.checked()?;
    connected(|spi| attach_table::attach(spi, &options))
}

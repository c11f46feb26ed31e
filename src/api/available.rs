//! available_inventory.

use crate::core::error::{Error, Result};
use crate::pg::args::{AnyNumeric, Arg, KeyArg};
use crate::pg::transaction::has_one_snapshot;
use crate::statements::Statement;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use crate::stock::call::on_stock;
use crate::stripes::striped;
use crate::stripes::totals;
use crate::table::attachment::Intent;
use crate::table::cache::learn_divided;
use pgrx::pg_extern;

/// Returns the exact committed quantity of an item, striped or not.
#[pg_extern(sql = false)]
fn available_item(p_inventory_id: Option<KeyArg>) -> AnyNumeric {
    counted(Function::AvailableInventory, || available(p_inventory_id)).unwrap_or_else(|error| error.raise())
}

fn available(id: Option<KeyArg>) -> Result<AnyNumeric> {
    let key = id.ok_or_else(|| Error::null_argument("p_inventory_id"))?.text()?;
    on_stock(Intent::Read, |spi, stock| {
        let id = stock.item("p_inventory_id", &key)?;
        // The rights in force decide whether the item may be seen.
        let rows = stock.run(spi, Statement::ReadAvailable, &[Arg::item(&id)]);
        let shown = rows.get::<AnyNumeric>(0, c"quantity").ok_or_else(|| Error::unknown_item(&id))?;
        learn_divided(spi, stock, std::slice::from_ref(&id))?;
        let is_striped = stock.stripes_of(&id).is_some();
        // In an older snapshot an item may have stripes that are merged by now, and the reverse.
        if !is_striped && !has_one_snapshot() {
            return Ok(shown);
        }
        let sum = striped::sum(spi, stock, &id).get::<AnyNumeric>(0, c"quantity");
        if is_striped && sum.as_ref().is_some_and(|sum| *sum != shown) {
            totals::start_worker(stock.owner);
        }
        Ok(sum.unwrap_or(shown))
    })
}

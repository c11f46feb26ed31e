//! The stock of an item in the past, as the ledger has it.

use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::quantity::Quantity;
use crate::pg::args::{AnyNumeric, Arg, Moment};
use crate::pg::spi::{Connection, Rows};
use crate::pg::types::SqlType;
use crate::statements::past as statements;
use crate::table::attachment::Attachment;
use crate::table::beside_ledger;

/// The stock of an item at a moment; None where the item was not there.
pub fn quantity_at(spi: &Connection, stock: &Attachment, id: &ItemId, moment: Moment) -> Result<Option<AnyNumeric>> {
    Ok(read(spi, stock, id, moment)?.get(0, c"quantity"))
}

/// The stock of an item when it was counted.
pub fn counted_stock(spi: &Connection, stock: &Attachment, id: &ItemId, moment: Moment) -> Result<Quantity> {
    if moment > Moment::now() {
        return Err(Error::moment_out_of_range(id, "the count is in the future"));
    }
    let rows = read(spi, stock, id, moment)?;
    if rows.is_null(0, c"quantity") {
        return Err(Error::moment_out_of_range(id, "the item was not there"));
    }
    rows.quantity(0, c"quantity", SqlType::Numeric).map_err(|stored| Error::unreadable_stock(id, &stored))
}

fn read<'c>(spi: &'c Connection, stock: &Attachment, id: &ItemId, moment: Moment) -> Result<Rows<'c>> {
    let ledger = stock.names.movements.as_deref().ok_or_else(|| Error::no_ledger(&stock.names.relation))?;
    let _acting = stock.act_on_companions();
    let args = [Arg::item(id), Arg::owned(moment)];
    let archive = beside_ledger::archive(spi, stock, false)?.map(|archive| archive.name);
    let rows = spi.once(&statements::quantity_at(ledger, archive.as_deref(), stock.names.id_type), &args);
    if archive.is_none()
        && let Some(boundary) = rows.text(0, c"archived_until")
    {
        return Err(Error::before_archive(id, &boundary));
    }
    if rows.required(0, c"is_known")? { Ok(rows) } else { Err(Error::unknown_item(id)) }
}

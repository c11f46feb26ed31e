//! Stripes that no attachment manages: found at attach, or at the detach of a broken attachment.
//!
//! The row of a striped item shows a total that may lag behind its stripes. Beside them is the total that was last
//! written to the row: where the row still shows it, no other statement has written the row, and the stripes have the
//! stock. Where the row shows their sum, both agree. Anything else is a contradiction that only a person can decide;
//! nothing is changed then.

use crate::attach::companions::Found;
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::exact;
use crate::core::quantity::differ;
use crate::ledger::attribution;
use crate::pg::args::Arg;
use crate::pg::role::act_as_unfiltered;
use crate::pg::spi::{Connection, Rows};
use crate::statements::companions::has_rows;
use crate::statements::leftover::{self, Leftover};
use crate::table::attachment::pinned_path;
use crate::table::catalog::{Description, RelationKind};
use serde_json::json;

/// The items whose stripes were left.
#[derive(Default)]
pub struct Merged {
    /// Items whose stripes were merged into their rows.
    pub items: Vec<ItemId>,
    /// Items that keep their stripes, because their row is in a detached partition, which may come back.
    pub away: Vec<ItemId>,
}

/// Writes the sum of the stripes into the row of each item, and deletes the stripes. No trigger of ours may be on the
/// stock table. Stripes of a table that has not been attached are those of another one, which had its name: they may
/// neither change a row nor go.
pub fn merge(
    spi: &Connection,
    (table, marked): (&Description, bool),
    stripes: &Found,
    totals: &Found,
) -> Result<Merged> {
    let path = pinned_path(table);
    let _acting = act_as_unfiltered(table.owner, &path);
    if spi.once(&has_rows(&stripes.name), &[]).count() == 0 {
        return Ok(Merged::default());
    }
    let ([id, quantity], table_ids) = (table.columns()?, table.id_type()?);
    let names = Leftover {
        table: &table.name,
        id: &id.quoted,
        id_type: table_ids,
        quantity: &quantity.quoted,
        stripes: &stripes.name,
        totals: &totals.name,
    };
    let found = spi.once(&leftover::items(names), &[]);
    let (mut merged, mut sums) = (Merged::default(), Vec::new());
    for row in 0..found.count() {
        let item = found.item(row, c"id")?;
        let in_row = found.text(row, c"in_row");
        let sum = found.required_text(row, c"sum")?;
        let agrees = in_row.is_some() && found.required(row, c"agrees")?;
        if !marked && (in_row.is_none() || (agrees && in_row.is_some_and(|in_row| differ(&in_row, &sum)))) {
            return Err(Error::stripes_of_another(&table.name, &stripes.name));
        }
        if found.text(row, c"in_row").is_none() {
            // The row was deleted while nothing was attached: the item is gone, and its stripes with it. A partition
            // may come back.
            if table.kind == RelationKind::Partitioned {
                merged.away.push(item);
            }
            continue;
        }
        if !agrees {
            return Err(differs(table, &found, row, found.text(row, c"last_total")));
        }
        sums.push(sum);
        merged.items.push(item);
    }
    write(spi, table, names, (&merged.items, sums))?;
    for companion in [stripes, totals] {
        let args = [Arg::items(&merged.away, table_ids)];
        let delete = || spi.once(&leftover::delete_except(&companion.name, table_ids), &args).count();
        attribution::writing(companion.oid, delete);
    }
    Ok(merged)
}

fn differs(table: &Description, found: &Rows<'_>, row: usize, last_total: Option<String>) -> Box<Error> {
    let item = match found.item(row, c"id") {
        Ok(item) => item,
        Err(error) => return error,
    };
    let figure = |text: Option<String>| text.map(|text| exact(&text));
    let facts = json!({
        "table": table.name, "row": figure(found.text(row, c"in_row")), "last_total": figure(last_total),
        "stripes": figure(found.text(row, c"sum")),
    });
    Error::stripes_differ(&item, facts)
}

fn write(
    spi: &Connection,
    table: &Description,
    names: Leftover<'_>,
    (ids, sums): (&[ItemId], Vec<String>),
) -> Result<()> {
    let written = spi.once(&leftover::write(names), &[Arg::items(ids, names.id_type), Arg::owned(sums)]);
    for row in 0..written.count() {
        // A trigger of the owner may have changed the sum.
        if written.get(row, c"agrees") != Some(true) {
            return Err(differs(table, &written, row, None));
        }
    }
    if written.count() == ids.len() { Ok(()) } else { Err(Error::internal("a row was not written")) }
}

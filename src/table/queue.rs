//! Who takes the lock of which item now, with the item for which an order of several lines waits.

use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::lock::{TableLock, try_lock_table};
use crate::pg::relation::{self, qualified_name};
use crate::pg::role::act_as_unfiltered;
use crate::pg::shared_memory::SharedMemory;
use crate::pg::spi::{Connection, connected};
use crate::pg::transaction::in_subtransaction;
use crate::statements::queue as statements;
use crate::stats::waits::{self, Waiting};
use crate::table::cache::describe_configured;
use crate::table::configuration::{CATALOG_PATH, configuration, configured};

/// The row that a process waits for.
struct AwaitedRow {
    process: i32,
    table: Oid,
    place: String,
}

/// The backends of this database that take a lock now. One that takes those of several items says which only while it
/// waits: then PostgreSQL knows the place of the row. The item is missing where the row cannot be read at once.
pub fn read(memory: SharedMemory) -> Vec<Waiting> {
    let mut waiting = waits::read(memory);
    let of_several = |waiting: &Waiting| waiting.item.is_none();
    let processes: Vec<i32> =
        waiting.iter().filter(|one| of_several(one)).map(|one| one.process.cast_signed()).collect();
    if processes.is_empty() {
        return waiting;
    }
    let awaited = in_subtransaction(|| connected(|spi| awaited_rows(spi, processes))).unwrap_or_default();
    for one in waiting.iter_mut().filter(|one| of_several(one)) {
        let row = awaited.iter().find(|row| row.process == one.process.cast_signed());
        let table = Oid::from(one.table);
        one.item = row.and_then(|row| in_subtransaction(|| item_at(table, row)).ok().flatten());
    }
    waiting
}

fn awaited_rows(spi: &Connection, processes: Vec<i32>) -> Vec<AwaitedRow> {
    let rows = spi.once(&statements::awaited_rows(), &[Arg::owned(processes)]);
    let read = |row| {
        let [process, table, place] = [c"pid", c"relation", c"place"];
        Some(AwaitedRow {
            process: rows.get(row, process)?,
            table: rows.get(row, table)?,
            place: rows.text(row, place)?,
        })
    };
    (0..rows.count()).filter_map(read).collect()
}

/// The item in a row of a stock table, read with the rights of its owner.
fn item_at(stock: Oid, row: &AwaitedRow) -> Option<String> {
    let owner = relation::owner(stock)?;
    if !try_lock_table(stock, TableLock::AccessShare) {
        return None;
    }
    connected(|spi| {
        let configured = configured(spi, &configuration().ok()?, stock).ok()??;
        let described = describe_configured(&configured).ok()?;
        let [id, _] = described.columns().ok()?;
        let _acting = act_as_unfiltered(owner, CATALOG_PATH);
        let statement = statements::item_at(&qualified_name(stock), &id.quoted);
        spi.once(&statement, &[Arg::owned(row.table), Arg::text(row.place.as_str())]).text(0, c"item")
    })
}

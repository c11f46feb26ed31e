//! Who takes the lock of which item now, with the item for which an order of several lines waits.

use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::lock::{TableLock, try_lock_table};
use crate::pg::lookup;
use crate::pg::relation;
use crate::pg::shared_memory::SharedMemory;
use crate::pg::spi::{Connection, connected};
use crate::pg::system_catalog;
use crate::pg::transaction::looking;
use crate::statements::queue as statements;
use crate::stats::text::kept;
use crate::stats::waits::{self, Waiting};
use crate::table::cache::describe_configured;
use crate::table::configuration::{configuration, configured};

/// The row that a process waits for.
struct AwaitedRow {
    process: i32,
    table: Oid,
    page: i32,
    number: i16,
}

/// The backends of this database that take a lock now. One that takes those of several items says which only while it
/// waits: then PostgreSQL knows the place of the row, unless its transaction has locked that row less strongly before.
/// The item is missing where it cannot be read at once.
pub fn read(memory: SharedMemory) -> Vec<Waiting> {
    let mut waiting = waits::read(memory);
    let of_several = |waiting: &Waiting| waiting.item.is_none();
    let processes: Vec<i32> =
        waiting.iter().filter(|one| of_several(one)).map(|one| one.process.cast_signed()).collect();
    if processes.is_empty() {
        return waiting;
    }
    let awaited = looking(|| connected(|spi| awaited_rows(spi, processes))).unwrap_or_default();
    for one in waiting.iter_mut().filter(|one| of_several(one)) {
        let row = awaited.iter().find(|row| row.process == one.process.cast_signed());
        let table = Oid::from(one.table);
        one.item = row.and_then(|row| looking(|| item_at(table, row)).ok().flatten());
    }
    waiting
}

fn awaited_rows(spi: &Connection, processes: Vec<i32>) -> Vec<AwaitedRow> {
    let rows = spi.once(&statements::awaited_rows(), &[Arg::owned(processes)]);
    let read = |row| {
        Some(AwaitedRow {
            process: rows.get(row, c"pid")?,
            table: rows.get(row, c"relation")?,
            page: rows.get(row, c"page")?,
            number: rows.get(row, c"tuple")?,
        })
    };
    (0..rows.count()).filter_map(read).collect()
}

/// The item in a row of a stock table, or of a partition of it.
fn item_at(stock: Oid, row: &AwaitedRow) -> Option<String> {
    if !try_lock_table(row.table, TableLock::AccessShare) || !relation::with_ancestors(row.table).contains(&stock) {
        return None;
    }
    let configured = connected(|spi| configured(spi, &configuration().ok()?, stock).ok()?)?;
    let described = describe_configured(&configured).ok()?;
    let [id, _] = described.columns().ok()?;
    let column = system_catalog::column_named(row.table, &id.name)?.number;
    let place = lookup::place(row.page.cast_unsigned(), row.number.cast_unsigned());
    lookup::id_at(row.table, place, column).map(|id| kept(&id.to_string()).to_owned())
}

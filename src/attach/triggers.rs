//! Creates and drops the triggers of an attached table. They depend on the extension and go with it.
//!
//! Every statement runs as the owner of the table, with the search_path pinned, while the stock table is locked.

use crate::core::error::Error;
use crate::core::error::Result;
use crate::core::part::{Companion, Part};
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::relation;
use crate::pg::role::act_as;
use crate::pg::spi::{Connection, Sql};
use crate::statements::companions;
use crate::table::attachment::Attachment;
use crate::table::catalog::{self, Columns, Description};
use crate::table::configuration::{CATALOG_PATH, Configuration, configuration};
use crate::table::triggers::{STOCK_GUARD, TRIGGERS, TRUNCATE_GUARD, TriggerDefinition, expected};

/// Creates the triggers of a part anew.
pub fn set(
    spi: &Connection,
    configuration: &Configuration,
    table: &Description,
    (part, oid, relation): (Part, Oid, &str),
    ledger: bool,
) {
    for trigger in TRIGGERS.iter().filter(|trigger| trigger.part == part) {
        drop_trigger(spi, table, (oid, relation), trigger.name);
    }
    for trigger in expected(part, ledger, false) {
        create(spi, configuration, table, trigger, (oid, relation));
    }
}

/// Creates the triggers of the stock table of an attachment with a ledger; a partition gets the guard against TRUNCATE.
pub fn set_on_stock(spi: &Connection, configuration: &Configuration, table: &Description) -> Result<()> {
    set(spi, configuration, table, (Part::Stock, table.oid, &table.name), true);
    for (oid, name) in partitions(spi, table)? {
        create(spi, configuration, table, &TRUNCATE_GUARD, (oid, &name));
    }
    Ok(())
}

/// Lets a stock table without a ledger refuse direct writes to the quantities of striped items: no trigger of ours is
/// on it until an item is striped. The trigger of a ledger refuses them by itself.
pub fn guard_striped_stock(spi: &Connection, stock: &Attachment) -> Result<()> {
    if stock.has_ledger() {
        return Ok(());
    }
    let table = catalog::describe(stock.oid, Columns::None);
    let table = table.ok_or_else(|| Error::stock_table_dropped(stock.oid.to_u32()))?;
    let configuration = configuration()?;
    let on_stock = [&STOCK_GUARD, &TRUNCATE_GUARD].map(|trigger| (trigger, table.oid, table.name.clone()));
    let on_partitions = partitions(spi, &table)?.into_iter().map(|(oid, name)| (&TRUNCATE_GUARD, oid, name));
    for (trigger, oid, relation) in on_stock.into_iter().chain(on_partitions) {
        // One that is there stays: to drop it would lock readers out.
        if !exists(oid, trigger.name) {
            create(spi, &configuration, &table, trigger, (oid, &relation));
        }
    }
    Ok(())
}

/// Drops the triggers of the stock table; those of the companions stay, and keep refusing direct writes.
pub fn drop_from_stock(spi: &Connection, table: &Description) -> Result<()> {
    let on_stock = TRIGGERS.iter().filter(|trigger| trigger.part == Part::Stock);
    for trigger in on_stock.chain([&STOCK_GUARD]) {
        drop_trigger(spi, table, (table.oid, &table.name), trigger.name);
    }
    for (oid, name) in partitions(spi, table)? {
        drop_trigger(spi, table, (oid, &name), TRUNCATE_GUARD.name);
    }
    Ok(())
}

/// Drops the triggers that record changes of stripes; the guards stay.
pub fn drop_recording(spi: &Connection, table: &Description, (oid, stripes): (Oid, &str)) {
    let on_stripes = Part::Companion(Companion::Stripes);
    for trigger in TRIGGERS.iter().filter(|trigger| trigger.part == on_stripes && !trigger.always) {
        drop_trigger(spi, table, (oid, stripes), trigger.name);
    }
}

/// Runs a statement as the owner of a table.
pub fn run_as_owner(spi: &Connection, table: &Description, sql: &Sql) {
    let _acting = act_as(table.owner, CATALOG_PATH);
    spi.once(sql, &[]);
}

fn create(
    spi: &Connection,
    configuration: &Configuration,
    table: &Description,
    trigger: &TriggerDefinition,
    (oid, relation): (Oid, &str),
) {
    let function = format!("{}.{}", configuration.schema, trigger.function);
    let when = trigger.when();
    let create = companions::create_trigger(trigger.name, [&when, trigger.each()], relation, &function);
    run_as_owner(spi, table, &create);
    relation::tie_to_extension(oid, trigger.name);
}

fn drop_trigger(spi: &Connection, table: &Description, (oid, relation): (Oid, &str), name: &str) {
    if exists(oid, name) {
        run_as_owner(spi, table, &companions::drop_trigger(name, relation));
    }
}

fn exists(oid: Oid, name: &str) -> bool {
    relation::facts(oid).is_some_and(|facts| facts.triggers.iter().any(|trigger| trigger.name == name))
}

fn partitions(spi: &Connection, table: &Description) -> Result<Vec<(Oid, String)>> {
    let rows = spi.once(&companions::partitions(), &[Arg::owned(table.oid)]);
    (0..rows.count()).map(|row| Ok((rows.required(row, c"oid")?, rows.required_text(row, c"name")?))).collect()
}

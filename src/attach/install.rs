//! Installs an attachment: companions, triggers, the stripes that were left, the movements that are missing.
//!
//! Statements run as the owner of the table, with the search_path pinned, while the stock table is locked.

use crate::attach::companions::{self, Found, Home};
use crate::attach::leftover;
use crate::attach::opening;
use crate::attach::triggers::{self, run_as_owner};
use crate::core::error::Result;
use crate::core::part::{Companion, Part};
use crate::pg::spi::Connection;
use crate::statements::companions::index_movements;
use crate::table::catalog::Description;
use crate::table::configuration::{CompanionOids, Configuration};

/// The companions of a table that was attached.
pub struct Installed {
    /// The tables.
    pub companions: CompanionOids,
    /// Stripes of an earlier attachment were kept: of items whose row is in a detached partition.
    pub striped: bool,
}

/// Creates, or finds again, the companions of a table that is being attached, and may have been before.
pub fn make(
    spi: &Connection,
    configuration: &Configuration,
    (table, marked): (&Description, bool),
    places: (&Home, &[Found]),
    ledger: bool,
) -> Result<Installed> {
    let make = |companion| companions::make_table(spi, table, places, companion);
    let (requests, stripes, totals) = (make(Companion::Requests)?, make(Companion::Stripes)?, make(Companion::Totals)?);
    let movements = if ledger { Some(make(Companion::Movements)?) } else { None };
    // Triggers that a dump or a broken attachment left look for an attachment that is not there yet.
    triggers::drop_from_stock(spi, table)?;
    triggers::drop_recording(spi, table, (stripes.oid, &stripes.name));
    let merged = leftover::merge(spi, (table, marked), &stripes, &totals)?;
    let set = |companion, found: &Found| {
        triggers::set(spi, configuration, table, (Part::Companion(companion), found.oid, &found.name), ledger);
    };
    set(Companion::Requests, &requests);
    set(Companion::Stripes, &stripes);
    set(Companion::Totals, &totals);
    if let Some(movements) = &movements {
        if movements.new {
            index_movements(&movements.name).iter().for_each(|index| run_as_owner(spi, table, index));
        }
        set(Companion::Movements, movements);
        opening::record_stock(table, movements, &merged)?;
        triggers::set_on_stock(spi, configuration, table)?;
    }
    let striped = companions::has_rows(spi, table, &stripes);
    let companions = CompanionOids {
        movements: movements.map(|movements| movements.oid),
        requests: requests.oid,
        stripes: stripes.oid,
        totals: totals.oid,
    };
    Ok(Installed { companions, striped })
}

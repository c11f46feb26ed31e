//! The tables that attach creates beside the stock table, or in another schema, or finds again.
//!
//! `<stock>_request` keeps idempotency keys, `<stock>_stripe` the stripes of hot items, `<stock>_stripe_total` the
//! totals last written to their rows, `<stock>_movement` is the ledger. They belong to the owner of the stock table and
//! stay when the extension goes. Statements run as the owner, with the search_path pinned, while the stock table is
//! locked. Tables left by an earlier attach are reused, if their columns and their owner are right.

use crate::attach::triggers::run_as_owner;
use crate::core::error::{Error, Result};
use crate::core::json::exact;
use crate::core::part::Companion;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::namespace;
use crate::pg::relation;
use crate::pg::role::act_as_unfiltered;
use crate::pg::spi::Connection;
use crate::statements::companions as statements;
use crate::table::catalog::{self, Columns, Description};
use crate::table::companion::companion_name;
use crate::table::configuration::{CATALOG_PATH, CompanionOids, Configuration, configured_with};
use serde_json::json;

/// The schema of the companions.
pub struct Home {
    /// The schema.
    pub oid: Oid,
    /// Its name, quoted.
    quoted: String,
}

/// The schema that attach_inventory was given, or that of the stock table.
pub fn home(spi: &Connection, table: &Description, schema: Option<&str>) -> Result<Home> {
    let own = || relation::schema_of(table.oid).map(|oid| Home { oid, quoted: table.schema.clone() });
    let named = |name: &str| {
        let rows = spi.once_latest(&statements::schema(), &[Arg::text(name)]);
        let found = || -> Result<Home> {
            Ok(Home { oid: rows.required(0, c"oid")?, quoted: rows.required_text(0, c"quoted")? })
        };
        if rows.count() == 0 {
            return Err(Error::no_such_schema(&table.name, name));
        }
        let home = found()?;
        if namespace::is_temporary(home.oid) { Err(Error::temporary_schema(&table.name, name)) } else { Ok(home) }
    };
    schema.map_or_else(|| own().ok_or_else(|| Error::no_table(table.oid.to_u32())), named)
}

/// A companion table by its names.
pub struct Found {
    /// The table.
    pub oid: Oid,
    /// Schema and name, quoted.
    pub name: String,
    /// Created by this attach.
    pub new: bool,
}

/// Creates a companion with its comments, or finds it again among those that were left and are locked.
pub fn make_table(
    spi: &Connection,
    table: &Description,
    (home, left): (&Home, &[Found]),
    companion: Companion,
) -> Result<Found> {
    match find(spi, table, home, companion)? {
        None => create(spi, table, home, companion),
        Some(found) if left.iter().any(|left| left.oid == found.oid) => Ok(found),
        // Another attach has made it meanwhile.
        Some(found) => Err(Error::companion_in_use(&table.name, &found.name, None)),
    }
}

fn create(spi: &Connection, table: &Description, home: &Home, companion: Companion) -> Result<Found> {
    let bare = companion_name(&table.bare_name, companion.suffix());
    let quoted = spi.once(&statements::quote(), &[Arg::text(bare.as_str())]).required_text(0, c"quoted")?;
    let name = format!("{}.{quoted}", home.quoted);
    run_as_owner(spi, table, &statements::create_table(&name, companion, table.id_type()?));
    statements::comments(&name, companion, &table.name).iter().for_each(|comment| run_as_owner(spi, table, comment));
    let made = find(spi, table, home, companion)?;
    let made = made.ok_or_else(|| Error::internal("a table that was created is not there"))?;
    revoke_defaults(spi, table, made.oid)?;
    Ok(Found { new: true, ..made })
}

/// Takes back the grants of default privileges on a new table, and on the sequence of its identity column.
fn revoke_defaults(spi: &Connection, table: &Description, made: Oid) -> Result<()> {
    let rows = spi.once(&statements::default_grants(), &[Arg::owned(made)]);
    (0..rows.count()).try_for_each(|row| {
        run_as_owner(spi, table, &statements::revoke(rows.required_text(row, c"revocation")?));
        Ok(())
    })
}

/// A table left by an earlier attach. One of another owner or with other columns is refused.
fn find(spi: &Connection, table: &Description, home: &Home, companion: Companion) -> Result<Option<Found>> {
    let bare = companion_name(&table.bare_name, companion.suffix());
    let rows = spi.once_latest(&statements::find(), &[Arg::owned(home.oid), Arg::text(bare.as_str())]);
    if rows.count() == 0 {
        return Ok(None);
    }
    let (oid, name) = (rows.required(0, c"oid")?, rows.required_text(0, c"name")?);
    // Beside the table, the name says whose it is.
    let is_beside = relation::schema_of(table.oid) == Some(home.oid);
    let description = rows.text(0, c"description");
    if !is_beside && description.as_deref() != Some(&statements::description(companion, &table.name)) {
        return Err(Error::companion_of_another(&table.name, &name, description.as_deref()));
    }
    checked(table, companion, oid, name).map(Some)
}

fn checked(table: &Description, companion: Companion, oid: Oid, name: String) -> Result<Found> {
    let problem = match relation::facts(oid) {
        Some(facts) => companion.problem(&facts, table.owner, table.id_type().ok()),
        None => Some("it is gone".to_owned()),
    };
    match problem {
        None => Ok(Found { oid, name, new: false }),
        Some(problem) => Err(Error::unsuitable(
            "42P07",
            "relation already exists with incompatible columns or owner",
            "name_taken",
            json!({"table": table.name, "relation": name, "problem": problem}),
            "Rename that relation, or give a table of an earlier attach to the owner of the stock table.",
        )),
    }
}

/// The companions that an earlier attachment left, as far as they can be used again.
pub fn left(spi: &Connection, table: &Description, home: &Home) -> Vec<Found> {
    let found = |companion: &Companion| find(spi, table, home, *companion).ok().flatten();
    Companion::ALL.iter().filter_map(found).collect()
}

/// The stripes and the totals of an attachment, where both are there as they were created.
pub fn stripes_of(table: &Description, companions: &CompanionOids) -> Result<Option<[Found; 2]>> {
    let by_oid = |companion, oid| {
        let described = catalog::describe(oid, Columns::None);
        described.map(|described| checked(table, companion, oid, described.name)).transpose()
    };
    let stripes = by_oid(Companion::Stripes, companions.stripes)?;
    Ok(stripes.zip(by_oid(Companion::Totals, companions.totals)?).map(|(stripes, totals)| [stripes, totals]))
}

/// Refuses to attach without stripes that may be those of this table: they hold stock.
///
/// Stripes are known by their names and comments, which may be older than the names of today. So stripes that no table
/// which has been attached accounts for may be those of any table of their owner that has such items. Others are not
/// touched: the owner may be attaching their table at the same time.
pub fn require_own_stripes(
    spi: &Connection,
    configuration: &Configuration,
    table: &Description,
    companions: &[Found],
) -> Result<()> {
    let rows = spi.once_latest(&statements::find_stripes()?, &[Arg::owned(table.owner), Arg::owned(table.oid)]);
    for row in 0..rows.count() {
        let oid = rows.required(row, c"oid")?;
        let made_for = rows.required_text(row, c"made_for")?;
        let is_found = companions.iter().any(|found| found.oid == oid);
        if is_found || rows.required(row, c"is_known")? {
            continue;
        }
        if is_of_attached(spi, configuration, oid)? {
            continue;
        }
        let Ok(stripes) = checked(table, Companion::Stripes, oid, rows.required_text(row, c"name")?) else { continue };
        if !has_rows(spi, table, &stripes) {
            continue;
        }
        if made_for == table.name {
            return Err(Error::stripes_elsewhere(&table.name, &stripes.name));
        }
        require_none_shared(spi, table, &stripes, &made_for)?;
    }
    Ok(())
}

/// Whether a table has been attached before: one that has the name of another, which was, has no stripes.
pub fn is_marked(spi: &Connection, table: &Description) -> Result<bool> {
    spi.once_latest(&statements::is_marked(), &[Arg::owned(table.oid)]).required(0, c"is_marked")
}

/// Refuses stripes of items that the table has.
fn require_none_shared(spi: &Connection, table: &Description, stripes: &Found, made_for: &str) -> Result<()> {
    let Some(id) = &table.id else { return Ok(()) };
    let _acting = act_as_unfiltered(table.owner, CATALOG_PATH);
    let shared = spi.once(&statements::count_shared(&stripes.name, &table.name, &id.quoted), &[]);
    let items: i64 = shared.required(0, c"items")?;
    if items == 0 {
        return Ok(());
    }
    let quantity = exact(&shared.required_text(0, c"quantity")?);
    let facts = json!({
        "table": table.name, "stripes": stripes.name, "made_for": made_for, "items": items, "quantity": quantity,
    });
    Err(Error::stripes_of_unknown(facts))
}

fn is_of_attached(spi: &Connection, configuration: &Configuration, companion: Oid) -> Result<bool> {
    let users = configured_with(spi, configuration, vec![companion])?;
    Ok(users.iter().any(|configured| relation::schema_of(configured.table).is_some()))
}

/// Notes the present name of the stock table in the comments of its companions in another schema, by which the next
/// attach knows them.
pub fn note_name(spi: &Connection, table: &Description, companions: &CompanionOids) -> Result<()> {
    for (companion, oid) in companions.all() {
        let is_beside = relation::schema_of(table.oid) == relation::schema_of(oid);
        if !is_beside && let Some(found) = catalog::describe(oid, Columns::None) {
            run_as_owner(spi, table, &statements::comment_on_table(&found.name, companion, &table.name));
        }
    }
    Ok(())
}

/// Whether an earlier attachment left stripes.
pub fn have_stripes(spi: &Connection, table: &Description, home: &Home) -> Result<bool> {
    find(spi, table, home, Companion::Stripes)?.map_or(Ok(false), |stripes| Ok(has_rows(spi, table, &stripes)))
}

/// Whether a companion has rows.
pub fn has_rows(spi: &Connection, table: &Description, companion: &Found) -> bool {
    let _acting = act_as_unfiltered(table.owner, CATALOG_PATH);
    spi.once(&statements::has_rows(&companion.name), &[]).count() > 0
}

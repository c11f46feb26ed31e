//! The tables of the audit: `<stock>_audit` keeps the runs and their seals, `<stock>_audit_chain` how far each chain is
//! verified, `<stock>_audit_segment` the hashes of sealed movements.
//!
//! They lie beside the ledger, belong to its owner, and are created by the first audit that may write. They are known
//! by their names: see `table::beside_ledger`.

use crate::core::error::{Error, Result};
use crate::core::item_id::IdType;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::lock::{Lock, Mode};
use crate::pg::relation;
use crate::pg::spi::{Connection, Sql};
use crate::pg::types::SqlType;
use crate::pg::writability::identity_sequence;
use crate::statements::archive;
use crate::statements::audit::{self as statements, AuditNames};
use crate::statements::audit_tables;
use crate::statements::companions;
use crate::table::attachment::Attachment;
use crate::table::beside_ledger::{self, ARCHIVE, Beside, LedgerHome};
use crate::table::companion::{Column, ITEM, column, identity, nullable};

/// Follows the beginning of the ledger's name in that of the table of runs.
pub const RUNS_SUFFIX: &str = "_audit";
const SUFFIXES: [&str; 3] = [RUNS_SUFFIX, "_audit_chain", "_audit_segment"];

pub(super) const RUNS: &[Column] = &[
    identity("run_id"),
    column("kind", SqlType::Text),
    column("started_at", SqlType::Timestamptz),
    column("finished_at", SqlType::Timestamptz),
    column("is_full", SqlType::Bool),
    column("checked_movements", SqlType::Int8),
    column("checked_items", SqlType::Int8),
    column("discrepancies", SqlType::Int8),
    column("found", SqlType::Json),
    nullable("inventory_id", SqlType::Text),
    column("position", SqlType::Int8),
    column("oldest_transaction", SqlType::Int8),
    column("next_transaction", SqlType::Int8),
    column("actor", SqlType::Text),
    nullable("acknowledged", SqlType::Json),
    nullable("seal_number", SqlType::Int8),
    nullable("sealed", SqlType::Int8),
    nullable("sealed_at", SqlType::Timestamptz),
    nullable("previous_seal", SqlType::Bytea),
    nullable("root", SqlType::Bytea),
    nullable("seal", SqlType::Bytea),
];

const CHAINS: &[Column] = &[
    ITEM,
    column("stripe", SqlType::Int2),
    column("movement_id", SqlType::Int8),
    column("kind", SqlType::Text),
    column("quantity", SqlType::Text),
    nullable("occurred_at", SqlType::Timestamptz),
    column("head", SqlType::Bytea),
    column("broken", SqlType::Bool),
];

const SEGMENTS: &[Column] = &[
    column("seal_number", SqlType::Int8),
    column("place", SqlType::Int8),
    ITEM,
    column("stripe", SqlType::Int2),
    column("first_movement", SqlType::Int8),
    column("last_movement", SqlType::Int8),
    column("quantity", SqlType::Text),
    column("previous", SqlType::Bytea),
    column("root", SqlType::Bytea),
    column("head", SqlType::Bytea),
    column("movements", SqlType::Bytea),
];

const COLUMNS: [&[Column]; 3] = [RUNS, CHAINS, SEGMENTS];

/// What each table is for.
const COMMENTS: [&str; 3] = [
    "The audits of a stock table: a row for each run, with what it found and what it sealed.",
    "How far the movements of each item are verified.",
    "The hashes of the movements that were sealed.",
];

/// The ledger that is audited, and the tables of its audit.
pub struct Audited {
    /// Its name, quoted, with its schema.
    pub ledger: String,
    /// The sequence of its movements, quoted, with its schema.
    pub sequence: String,
    /// The type of ids.
    pub id_type: IdType,
    /// The tables of the audit, where they are there.
    pub tables: Option<AuditNames>,
    /// The movements that were moved out of the ledger, where such a table is there.
    pub archive: Option<Beside>,
}

/// Finds the ledger and the tables of its audit; `may_create` creates those that are not there. One run at a time
/// writes to them, until its transaction ends.
pub fn open(spi: &Connection, stock: &Attachment, may_create: bool) -> Result<Audited> {
    let audited = open_any(spi, stock, may_create)?;
    if let Some(tables) = &audited.tables {
        let known = spi.once_latest(&statements::is_of_ledger(tables, &audited.ledger), &[]);
        let is_known: bool = known.required(0, c"is_known")?;
        if !is_known {
            return Err(Error::audit_of_another(&tables.runs));
        }
    }
    Ok(audited)
}

/// The same for what compares the whole ledger with what was sealed: tables of another ledger are reported so.
pub fn open_any(spi: &Connection, stock: &Attachment, may_create: bool) -> Result<Audited> {
    let ledger = stock.names.movements.clone().ok_or_else(|| Error::no_ledger(&stock.names.relation))?;
    if may_create {
        Lock::of_audit(stock.oid).wait(Mode::Exclusive);
    }
    let home = LedgerHome::of(stock)?;
    let find = || -> Result<usize> {
        let mut found = 0;
        for (suffix, columns) in SUFFIXES.into_iter().zip(COLUMNS) {
            found += usize::from(home.find(spi, stock, (suffix, columns), may_create)?.is_some());
        }
        Ok(found)
    };
    let [runs, chains, segments] = SUFFIXES.map(|suffix| home.name(suffix));
    let names = AuditNames { runs, chains, segments };
    let mut found = find()?;
    if found == 0 && may_create {
        let sql = audit_tables::create_tables(&names, stock.names.id_type);
        for ((sql, name), comment) in sql.iter().zip(names.all()).zip(COMMENTS) {
            create(spi, sql, name, comment)?;
        }
        spi.once(&audit_tables::keep_uncompressed(&names), &[]);
        found = find()?;
    }
    // Beside the first audit, which makes them, a reader may see some.
    if found != COLUMNS.len() && found != 0 {
        if may_create {
            let problem = "not all of the three tables are there";
            return Err(Error::unsuitable_audit_table(&names.runs, problem));
        }
        found = 0;
    }
    let archive = beside_ledger::archive(spi, stock, false)?;
    let tables = (found > 0).then_some(names);
    Ok(Audited { ledger, sequence: sequence_of(spi, stock)?, id_type: stock.names.id_type, tables, archive })
}

/// The same for a call that runs with the rights of the caller, and writes to tables that are there.
pub fn of_owner(spi: &Connection, stock: &Attachment, writing: bool) -> Result<Audited> {
    let _acting = stock.act_on_companions();
    if writing {
        Lock::of_audit(stock.oid).wait(Mode::Exclusive);
    }
    let audited = open(spi, stock, false)?;
    if writing && audited.tables.is_some() { open(spi, stock, true) } else { Ok(audited) }
}

/// The archive, which is created where it is not there.
pub fn archive(spi: &Connection, stock: &Attachment) -> Result<String> {
    let name = LedgerHome::of(stock)?.name(ARCHIVE);
    if beside_ledger::archive(spi, stock, true)?.is_none() {
        let comment = "The movements that were moved out of the ledger.";
        create(spi, &archive::create(&name, stock.names.id_type), &name, comment)?;
        spi.once(&archive::index(&name), &[]);
    }
    Ok(name)
}

/// Creates a table. Grants of default privileges are taken back.
fn create(spi: &Connection, sql: &Sql, name: &str, comment: &str) -> Result<()> {
    spi.once(sql, &[]);
    spi.once(&statements::comment(name, comment), &[]);
    let created = spi.once(&statements::oid_of(), &[Arg::text(name)]).required::<Oid>(0, c"oid")?;
    let grants = spi.once(&companions::default_grants(), &[Arg::owned(created)]);
    for row in 0..grants.count() {
        spi.once(&companions::revoke(grants.required_text(row, c"revocation")?), &[]);
    }
    Ok(())
}

/// The sequence of the movements, quoted, with its schema.
pub fn sequence_of(spi: &Connection, stock: &Attachment) -> Result<String> {
    let sequence = |ledger| identity_sequence(ledger, relation::column_number(ledger, c"movement_id")?);
    let sequence = stock.companions.movements.and_then(sequence);
    let sequence = sequence.ok_or_else(|| Error::no_ledger(&stock.names.relation))?;
    let name = relation::qualified_name(sequence);
    let rises: bool = spi.once_latest(&statements::rises(), &[Arg::owned(sequence)]).required(0, c"rises")?;
    if rises { Ok(name) } else { Err(Error::sequence_in_no_order(&name)) }
}

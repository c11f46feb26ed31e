//! The tables beside the ledger that come later: those of the audit, and the archive.
//!
//! They belong to the owner of the ledger, and are known by their names, which begin as that of the ledger does: a
//! ledger that is renamed takes its own along if they are renamed alike.

use crate::core::error::{Error, Result};
use crate::core::seal::{hex, numbers};
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::lock::{TableLock, lock_and_look, try_lock_table};
use crate::pg::namespace;
use crate::pg::relation;
use crate::pg::spi::Connection;
use crate::pg::system_catalog;
use crate::pg::types::SqlType;
use crate::statements::companions;
use crate::table::attachment::Attachment;
use crate::table::companion::{Column, ITEM, MAX_NAME_BYTES, column, companion_name, nullable, problem};
use crate::table::trust;

const LEDGER: &str = "_movement";
/// The digits of a hash in a name.
const HASH_DIGITS: usize = 8;

/// Follows the same beginning in the name of the archive.
pub const ARCHIVE: &str = "_movement_archive";

const ARCHIVED: &[Column] = &[
    column("movement_id", SqlType::Int8),
    ITEM,
    nullable("stripe", SqlType::Int2),
    column("kind", SqlType::Text),
    column("old_quantity", SqlType::Numeric),
    column("new_quantity", SqlType::Numeric),
    nullable("reference", SqlType::Text),
    nullable("idempotency_key", SqlType::Text),
    column("actor", SqlType::Text),
    column("xact_id", SqlType::Xid8),
    column("occurred_at", SqlType::Timestamptz),
];

/// The schema of the ledger, and the beginning of the names of its tables.
pub struct LedgerHome {
    schema: Oid,
    quoted: String,
    base: String,
}

impl LedgerHome {
    /// That of an attached table; an error where it has no ledger.
    pub fn of(stock: &Attachment) -> Result<Self> {
        let found = stock.companions.movements.and_then(Self::of_ledger);
        found.ok_or_else(|| Error::no_ledger(&stock.names.relation))
    }

    /// That of a ledger; None where it is gone.
    pub fn of_ledger(ledger: Oid) -> Option<Self> {
        let schema = relation::schema_of(ledger)?;
        let name = relation::facts(ledger)?.name;
        let base = name.strip_suffix(LEDGER).unwrap_or(&name).to_owned();
        Some(Self { schema, quoted: system_catalog::quoted_schema(schema)?, base })
    }

    /// The table of that name with these columns that a role owns; None where there is none, or it is locked.
    pub fn owned(&self, (suffix, columns): (&str, &[Column]), owner: Oid) -> Option<Oid> {
        let found = namespace::relation_in(self.schema, &namespace::name(&self.bare(suffix)))?;
        if !try_lock_table(found, TableLock::AccessShare) {
            return None;
        }
        let facts = relation::facts(found)?;
        problem(columns, &facts, owner, None).is_none().then_some(found)
    }

    /// The name of a table, quoted, with its schema.
    pub fn name(&self, suffix: &str) -> String {
        format!("{}.{}", self.quoted, system_catalog::quoted(&self.bare(suffix)))
    }

    /// A name that would be too long is cut, and distinguished from others that begin alike by a part of its hash.
    fn bare(&self, suffix: &str) -> String {
        if self.base.len() + suffix.len() <= MAX_NAME_BYTES {
            return format!("{}{suffix}", self.base);
        }
        let hash = hex(&numbers(self.base.bytes().map(i64::from)));
        companion_name(&self.base, &format!("_{}{suffix}", &hash[..HASH_DIGITS]))
    }

    /// A table of ours, which must be as it was created. One that is to be written is locked like the companions, and
    /// must have no trigger that may not run as the owner. A relation of another role is none of ours.
    pub fn find(
        &self,
        spi: &Connection,
        stock: &Attachment,
        (suffix, columns): (&str, &[Column]),
        writing: bool,
    ) -> Result<Option<Oid>> {
        let name = self.bare(suffix);
        let rows = spi.once_latest(&companions::find(), &[Arg::owned(self.schema), Arg::text(name.as_str())]);
        if rows.count() == 0 {
            return Ok(None);
        }
        let oid: Oid = rows.required(0, c"oid")?;
        lock_and_look(&[oid], if writing { TableLock::RowExclusive } else { TableLock::AccessShare });
        if namespace::relation_in(self.schema, &namespace::name(&name)) != Some(oid) {
            return Err(Error::renamed_meanwhile(&self.name(suffix)));
        }
        let not_ours = |problem: &str| Error::unsuitable_audit_table(&self.name(suffix), problem);
        let facts = relation::facts(oid).ok_or_else(|| not_ours("it is gone"))?;
        if facts.owner != stock.owner && !writing {
            return Ok(None);
        }
        if let Some(problem) = problem(columns, &facts, stock.owner, Some(stock.names.id_type)) {
            return Err(not_ours(&problem));
        }
        if writing {
            trust::objection(&[facts], stock.owner).map_or(Ok(()), Err)?;
        }
        Ok(Some(oid))
    }
}

/// A table beside the ledger: its oid, and its name, quoted, with its schema.
#[derive(Clone)]
pub struct Beside {
    /// The table.
    pub oid: Oid,
    /// Its name.
    pub name: String,
}

/// The archive, where there is one.
pub fn archive(spi: &Connection, stock: &Attachment, writing: bool) -> Result<Option<Beside>> {
    let home = LedgerHome::of(stock)?;
    let found = home.find(spi, stock, (ARCHIVE, ARCHIVED), writing)?;
    Ok(found.map(|oid| Beside { oid, name: home.name(ARCHIVE) }))
}

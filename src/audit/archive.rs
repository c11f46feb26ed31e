//! Moves closed history out of the ledger.
//!
//! Of each chain all movements that were written before a moment, and are sealed, go to `<stock>_movement_archive`; a
//! movement is left that has the number and the time of the last of them, and the balance. It is sealed, too, so that a
//! full audit knows it. Sales go on meanwhile: what is moved is not written any more; no row of the stock is locked.

use crate::audit::access::as_owner_of_all;
use crate::audit::kept::{Finished, keep_run};
use crate::audit::run::{keep_audit, previous};
use crate::audit::scan::Movement;
use crate::audit::sealing::Sealer;
use crate::audit::tables::{self, Audited};
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::part::{Access, Companion, Part};
use crate::ledger::attribution;
use crate::ledger::context;
use crate::pg::Oid;
use crate::pg::args::{Arg, Moment};
use crate::pg::relation;
use crate::pg::role::current_role;
use crate::pg::spi::Connection;
use crate::pg::transaction::{next_transaction, require_writable};
use crate::pg::types::SqlType;
use crate::statements::archive as statements;
use crate::statements::audit::{self as audit_statements, AuditNames};
use crate::table::attachment::Attachment;
use crate::table::beside_ledger;
use serde_json::{Value, json};

/// Archives what was written before a moment, and returns the result.
pub fn archive(moment: Moment) -> Result<Value> {
    require_writable(c"archive_movements()");
    if moment > Moment::now() {
        return Err(Error::archive_in_the_future());
    }
    let role = current_role();
    as_owner_of_all(|spi, stock| {
        let audited = tables::open(spi, stock, true)?;
        // Before they are read: a lock that is made stronger later deadlocks with REINDEX.
        stock.ready(Part::Companion(Companion::Movements), Access::Write)?;
        beside_ledger::archive(spi, stock, true)?;
        // What is archived must be sealed, and be what was sealed: what is left of it is sealed anew.
        let found = keep_audit(spi, stock, &audited, role)?;
        if let Some(altered) = found.iter().find(|found| found.kind.is_of_seals()) {
            return Err(Error::archive_of_altered(altered.kind.name(), altered.movement));
        }
        let tables = audited.tables.as_ref().ok_or_else(|| Error::internal("the audit has no tables"))?;
        require_no_other_columns(stock)?;
        let archive = tables::archive(spi, stock)?;
        let work = Archiving { spi, stock, audited: &audited, tables, archive: &archive, role };
        work.run(moment, found.len())
    })
}

/// Refuses a ledger with columns that its owner has added: the archive has none of them.
fn require_no_other_columns(stock: &Attachment) -> Result<()> {
    let Some(facts) = stock.companions.movements.and_then(relation::facts) else { return Ok(()) };
    match facts.columns.iter().find(|column| !Companion::Movements.has_column(&column.name)) {
        Some(column) => Err(Error::column_not_archived(&facts.name, &column.name)),
        None => Ok(()),
    }
}

struct Archiving<'a> {
    spi: &'a Connection,
    stock: &'a Attachment,
    audited: &'a Audited,
    tables: &'a AuditNames,
    archive: &'a str,
    role: Oid,
}

/// The last movement of each chain that is archived.
#[derive(Default)]
struct Cut {
    items: Vec<ItemId>,
    stripes: Vec<i16>,
    last: Vec<i64>,
}

impl Archiving<'_> {
    fn run(&self, moment: Moment, found: usize) -> Result<Value> {
        let (spi, id_type) = (self.spi, self.audited.id_type);
        let position: i64 =
            spi.once_latest(&audit_statements::last_number(&self.audited.sequence), &[]).required(0, c"number")?;
        let next_transaction = next_transaction()?;
        let begun = spi.once(&audit_statements::snapshot(), &[]);
        let cut = self.cut(moment)?;
        let ledger = self.stock.companions.movements.ok_or_else(|| Error::no_ledger(&self.stock.names.relation))?;
        let args = || [Arg::items(&cut.items, id_type), Arg::owned(cut.stripes.clone()), Arg::owned(cut.last.clone())];
        let others = spi.once(&statements::others(&self.audited.ledger, self.archive, id_type), &args());
        let others: i64 = others.required(0, c"movements")?;
        if others > 0 {
            return Err(Error::archive_of_another(self.archive, others));
        }
        let copied = spi.once(&statements::copy(&self.audited.ledger, self.archive, id_type), &args()).count();
        let left_out = spi.once(&statements::left_out(&self.audited.ledger, self.archive, id_type), &args());
        let left_out: i64 = left_out.required(0, c"movements")?;
        if left_out > 0 {
            return Err(Error::not_archived(self.archive, left_out));
        }
        attribution::writing(ledger, || spi.once(&statements::delete(&self.audited.ledger, id_type), &args()).count());
        let seal = previous(spi, self.tables)?.number + 1;
        let [items, stripes, last] = args();
        let reference = format!("archive, seal {seal}");
        let actor = context::actor(self.role)?;
        let left = [items, stripes, last, Arg::text(reference.as_str()), Arg::text(actor.as_str())];
        let left = attribution::writing(ledger, || {
            spi.once(&statements::leave(&self.audited.ledger, self.archive, id_type), &left)
        });
        if left.count() != cut.items.len() {
            return Err(Error::not_archived(&self.audited.ledger, 0));
        }
        let mut sealer = Sealer::new(self.spi, self.audited, self.tables, previous(spi, self.tables)?);
        left.each(&audit_statements::movement_types(id_type), |row| {
            let item = row.item(1)?;
            let movement = Movement::read(row, &item, true)?;
            sealer.add_left(&item, row.small(2).unwrap_or(0), &movement.link())
        })?;
        drop(left);
        let seal = sealer.finish(begun.moment(0, c"moment")?);
        let finished = Finished {
            kind: "archive",
            begun: &begun,
            full: false,
            movements: i64::try_from(copied).unwrap_or(i64::MAX),
            items: i64::try_from(cut.items.len()).unwrap_or(i64::MAX),
            discrepancies: 0,
            found: Vec::new(),
            item: None,
            position,
            next_transaction,
            role: self.role,
            acknowledged: None,
            seal: seal.as_ref(),
        };
        let run = keep_run(spi, self.tables, &finished)?;
        Ok(json!({
            "success": true, "archive": self.archive, "movements": copied, "chains": cut.items.len(), "run": run,
            "discrepancies": found,
        }))
    }

    fn cut(&self, moment: Moment) -> Result<Cut> {
        let mut cut = Cut::default();
        let id_type = self.audited.id_type;
        let types = [SqlType::of_id(id_type), SqlType::Int2, SqlType::Int8];
        let sql = statements::cut(&self.audited.ledger, self.tables);
        self.spi.once(&sql, &[Arg::owned(moment)]).each(&types, |row| {
            cut.items.push(row.item(0)?);
            cut.stripes.push(row.small(1).unwrap_or(0));
            cut.last.push(row.number(2)?);
            Ok(())
        })?;
        Ok(cut)
    }
}

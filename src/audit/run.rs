//! One run of the audit.

use crate::audit::access::{as_owner, as_owner_of_all};
use crate::audit::chain::{self, Acknowledged, CheckExtent};
use crate::audit::discrepancy::{Discrepancy, Findings};
use crate::audit::kept::{Finished, MOST_KEPT, acknowledged, keep_run};
use crate::audit::scan::{self, Origin, ScanScope, hash_of};
use crate::audit::sealing::{Previous, Sealer};
use crate::audit::seals;
use crate::audit::tables::{self, Audited};
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::seal::NOTHING;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::relation;
use crate::pg::role::current_role;
use crate::pg::spi::Connection;
use crate::pg::transaction::{is_read_only, next_transaction, with_new_snapshot};
use crate::statements::audit::{self as statements, AuditNames};
use crate::table::attachment::Attachment;
use serde_json::json;

/// With more broken items than this, the whole ledger is read.
const MOST_BROKEN: usize = 10_000;

/// Audits all items, or one, and returns what it found.
pub fn audit(key: Option<&str>, full: bool) -> Result<Vec<Discrepancy>> {
    let role = current_role();
    let audit = |spi: &Connection, stock: &Attachment| {
        let item = key.map(|key| stock.item("p_item", key)).transpose()?;
        let may_write = !is_read_only();
        let open = if full { tables::open_any } else { tables::open };
        let audited = open(spi, stock, may_write)?;
        let run = Run { spi, stock, audited: &audited, item: item.as_ref(), full, role };
        match &audited.tables {
            Some(tables) if may_write => run.keeping(tables),
            _ => with_new_snapshot(|| run.check(&Origin::First, &mut None)).map(|checked| checked.found.returned()),
        }
    };
    if full { as_owner_of_all(audit) } else { as_owner(audit) }
}

struct Run<'a> {
    spi: &'a Connection,
    stock: &'a Attachment,
    audited: &'a Audited,
    item: Option<&'a ItemId>,
    full: bool,
    /// Who called.
    role: Oid,
}

struct Checked {
    found: Findings,
    movements: i64,
    items: i64,
}

impl Run<'_> {
    /// Audits, seals, and keeps the run.
    fn keeping(&self, tables: &AuditNames) -> Result<Vec<Discrepancy>> {
        let spi = self.spi;
        // Both are read before the snapshot: a transaction that has a number up to this one had begun by then.
        let position: i64 =
            spi.once_latest(&statements::last_number(&self.audited.sequence), &[]).required(0, c"number")?;
        let next_transaction = next_transaction()?;
        let previous = previous(spi, tables)?;
        let start = if self.full { Origin::First } else { self.start(tables)? };
        let mut sealer = Some(Sealer::new(self.spi, self.audited, tables, previous));
        let (checked, begun) = with_new_snapshot(|| {
            let begun = spi.run_active(&statements::snapshot(), &[]);
            self.check(&start, &mut sealer).map(|checked| (checked, begun))
        })?;
        let moment: i64 = begun.moment(0, c"moment")?;
        let seal = sealer.and_then(|sealer| sealer.finish(moment));
        let finished = Finished {
            kind: "audit",
            begun: &begun,
            full: self.full,
            movements: checked.movements,
            items: checked.items,
            discrepancies: checked.found.count,
            found: checked.found.list.iter().take(MOST_KEPT).map(Discrepancy::to_json).collect(),
            item: self.item,
            position,
            next_transaction,
            role: self.role,
            acknowledged: None,
            seal: seal.as_ref(),
        };
        keep_run(spi, tables, &finished)?;
        Ok(checked.found.returned())
    }

    fn start(&self, tables: &AuditNames) -> Result<Origin> {
        let position: Option<i64> = self.spi.once_latest(&statements::position(tables), &[]).get(0, c"position");
        let Some(position) = position else { return Ok(Origin::First) };
        let broken = self.spi.once_latest(&statements::broken_items(tables), &[]);
        if broken.count() > MOST_BROKEN {
            return Ok(Origin::First);
        }
        let items = (0..broken.count()).map(|row| broken.item(row, c"id")).collect::<Result<_>>()?;
        Ok(Origin::After(position, items))
    }

    fn check(&self, start: &Origin, sealer: &mut Option<Sealer<'_>>) -> Result<Checked> {
        let (spi, audited) = (self.spi, self.audited);
        let acknowledged = match &audited.tables {
            Some(tables) => acknowledged(spi, tables, self.stock)?,
            None => Acknowledged::new(),
        };
        let sealed_up_to = self.full.then_some(i64::MAX);
        let movements = estimate(spi, audited, start).max(self.items()?);
        let scope = ScanScope {
            item: self.item,
            start: start.clone(),
            sealed_up_to,
            hashes: sealed_up_to.is_some() || sealer.is_some(),
            stock: true,
            archive: self.full,
            movements,
        };
        let scanned = scan::read(spi, &self.stock.names, audited, &scope)?;
        let all_seals = self.full && audited.tables.is_some();
        let full = self.full || audited.tables.is_none();
        let extent = CheckExtent { full, all_seals, acknowledged: &acknowledged };
        let mut found = Findings::default();
        if self.full
            && self.item.is_none()
            && let Some(tables) = &audited.tables
        {
            seals::altered(spi, audited, tables, i64::MAX, &mut found)?;
        }
        let items = chain::check(&scanned, audited.id_type, extent, sealer, &mut found)?;
        self.describe(&mut found.list)?;
        Ok(Checked { found, movements: scanned.movements, items })
    }

    /// About how many items there are.
    fn items(&self) -> Result<i64> {
        let tables = relation::with_partitions(self.stock.oid);
        Ok(self.spi.once_latest(&statements::items(), &[Arg::owned(tables)]).get(0, c"items").unwrap_or(0))
    }

    /// Names the movement before which each discrepancy arose.
    fn describe(&self, found: &mut [Discrepancy]) -> Result<()> {
        let (mut places, mut items, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for (place, discrepancy) in found.iter().take(MOST_KEPT).enumerate() {
            if let (Some(item), Some((movement, _))) = (&discrepancy.item, discrepancy.before) {
                places.push(place);
                items.push(item.clone());
                numbers.push(movement);
            }
        }
        if places.is_empty() {
            return Ok(());
        }
        let sql = statements::describe_movements(&self.audited.ledger, self.audited.id_type);
        let args = [Arg::items(&items, self.audited.id_type), Arg::owned(numbers)];
        self.spi.cursor(&sql, &args).each(&statements::DESCRIBED_TYPES, |row| {
            let place = usize::try_from(row.number(0)? - 1).ok().and_then(|place| places.get(place));
            let place = place.ok_or_else(|| Error::internal("a movement that was not asked for is described"))?;
            found[*place].facts = json!({
                "kind": row.text(1), "reference": row.text(2), "actor": row.text(3), "xact_id": row.text(4),
            });
            Ok(())
        })
    }
}

/// Audits all items, keeps the run, and returns what it found.
pub fn keep_audit(spi: &Connection, stock: &Attachment, audited: &Audited, role: Oid) -> Result<Vec<Discrepancy>> {
    let tables = audited.tables.as_ref().ok_or_else(|| Error::internal("the audit has no tables"))?;
    let run = Run { spi, stock, audited, item: None, full: true, role };
    run.keeping(tables)
}

/// The newest seal.
pub fn previous(spi: &Connection, tables: &AuditNames) -> Result<Previous> {
    let mut previous = Previous { number: 0, hash: NOTHING };
    let rows = spi.once_latest(&statements::last_seal(tables), &[]);
    rows.each(&statements::LAST_SEAL_TYPES, |row| {
        previous = Previous { number: row.number(0)?, hash: hash_of(row, 1)? };
        Ok(())
    })?;
    if previous.number == i64::MAX {
        return Err(Error::altered_run(&tables.runs, "no seal can follow one with this number"));
    }
    Ok(previous)
}

/// About how many movements are read.
fn estimate(spi: &Connection, audited: &Audited, start: &Origin) -> i64 {
    let last = spi.once_latest(&statements::last_number(&audited.sequence), &[]).get(0, c"number").unwrap_or(0);
    match start {
        Origin::First => last,
        Origin::After(position, _) => last - position,
    }
}

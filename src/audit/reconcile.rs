//! Puts an item right: by the movements that are missing, or by writing the row back to what the ledger says.
//!
//! History is never edited. It shows what it would do, and does it where that is asked for, under the lock of the item,
//! and only where nothing has moved since the audit that it rests on.

use crate::audit::access::require_member;
use crate::audit::chain::{self, Acknowledged, CheckExtent};
use crate::audit::discrepancy::{Discrepancy, Findings, Kind};
use crate::audit::kept::{self, Finished, MOST_KEPT, acknowledged, keep_run};
use crate::audit::scan::{self, Origin, ScanScope};
use crate::audit::tables::{self, Audited};
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::exact;
use crate::core::movement::MovementKind;
use crate::core::part::{Access, Part};
use crate::core::quantity::Quantity;
use crate::ledger::attribution::{self, Extent as Rows};
use crate::ledger::context::CallContext;
use crate::ledger::recorder::recording;
use crate::ledger::writer::write_missing;
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::role::{act_as_unfiltered, current_role};
use crate::pg::spi::Connection;
use crate::pg::transaction::{next_transaction, require_number, require_writable, with_new_snapshot};
use crate::statements::audit::{self as statements, AuditNames};
use crate::statements::layout;
use crate::stock::call::on_stock;
use crate::stripes::striped::Striped;
use crate::table::attachment::{Attachment, Intent};
use crate::table::rows;
use serde_json::{Value, json};

/// What is right.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The stock: the movement that is missing is recorded.
    Stock,
    /// The ledger: the row is written back.
    Ledger,
}

impl Trust {
    /// Reads p_trust.
    pub fn read(word: &str) -> Result<Self> {
        match word {
            "stock" => Ok(Self::Stock),
            "ledger" => Ok(Self::Ledger),
            _ => Err(Error::unknown_word("p_trust", word, &["stock", "ledger"], "Pass stock or ledger.")),
        }
    }

    fn name(self) -> &'static str {
        if self == Self::Stock { "stock" } else { "ledger" }
    }
}

/// Shows, or posts, what puts an item right.
pub fn reconcile(key: &str, trust: Trust, apply: bool, context: &CallContext) -> Result<Value> {
    if apply {
        require_writable(c"reconcile_inventory()");
    }
    let role = current_role();
    on_stock(Intent::Change, |spi, stock| {
        require_member(stock, role)?;
        let item = stock.item("p_item", key)?;
        let audited = tables::of_owner(spi, stock, apply)?;
        let work = Reconciliation { spi, stock, audited: &audited, item: &item, trust, role };
        let rests_on = if apply { Some(work.newest_audit()?) } else { None };
        if apply {
            require_number();
            work.lock()?;
        }
        let mut found = work.found(rests_on.as_ref().is_some_and(|audit| audit.is_full))?;
        if let Some(audit) = rests_on.as_ref().filter(|audit| audit.is_cut) {
            found.truncate(audit.of_stock().count());
        }
        let steps = found.iter().map(|found| work.step(found)).collect::<Result<Vec<_>>>()?;
        let run = match rests_on {
            Some(audit) if !steps.is_empty() => Some(work.apply(&audit, &found, &steps, context)?),
            _ => None,
        };
        Ok(json!({
            "success": true, "inventory_id": item.to_json(), "trust": trust.name(), "applied": run.is_some(),
            "run": run, "steps": steps.iter().map(RepairStep::to_json).collect::<Vec<_>>(),
        }))
    })
}

/// One thing that puts an item right.
enum RepairStep {
    /// A movement is recorded.
    Record { stripe: Option<i16>, kind: MovementKind, old_quantity: Quantity, new_quantity: Quantity },
    /// The row is written.
    Write { old_quantity: Quantity, new_quantity: Quantity },
    /// A break between two movements is acknowledged.
    Acknowledge { stripe: i16, after: Option<i64>, before: i64, expected: String, actual: String },
}

impl RepairStep {
    fn to_json(&self) -> Value {
        let number = |quantity: &Quantity| exact(&quantity.to_string());
        match self {
            Self::Record { stripe, kind, old_quantity, new_quantity } => json!({
                "step": "record", "stripe": stripe, "kind": kind.name(), "old_quantity": number(old_quantity),
                "new_quantity": number(new_quantity),
            }),
            Self::Write { old_quantity, new_quantity } => json!({
                "step": "write", "old_quantity": number(old_quantity), "new_quantity": number(new_quantity),
            }),
            Self::Acknowledge { stripe, after, before, expected, actual } => json!({
                "step": "acknowledge", "stripe": (*stripe > 0).then_some(stripe), "after_movement": after,
                "before_movement": before, "expected": exact(expected), "actual": exact(actual),
            }),
        }
    }
}

/// The audit that a reconciliation rests on.
struct NewestAudit {
    position: i64,
    is_full: bool,
    /// What it found of the item.
    found: Vec<Value>,
    /// It found more, of this item or of others.
    is_cut: bool,
}

impl NewestAudit {
    /// What it found beside what was sealed.
    fn of_stock(&self) -> impl Iterator<Item = &Value> {
        self.found.iter().filter(|value| {
            let kind = value.get("kind").and_then(Value::as_str);
            !Kind::ALL.iter().any(|known| known.is_of_seals() && Some(known.name()) == kind)
        })
    }
}

struct Reconciliation<'a> {
    spi: &'a Connection,
    stock: &'a Attachment,
    audited: &'a Audited,
    item: &'a ItemId,
    trust: Trust,
    /// Who called.
    role: Oid,
}

impl Reconciliation<'_> {
    /// Locks the item: its row, and all of its stripes.
    fn lock(&self) -> Result<()> {
        rows::lock(self.spi, self.stock, std::slice::from_ref(self.item))?;
        if let Some(striped) = Striped::of(self.spi, self.stock, self.item)? {
            striped.lock_all()?;
        }
        Ok(())
    }

    /// What is wrong with the item now, as the audit would find it; what was sealed is not put right here.
    fn found(&self, full: bool) -> Result<Vec<Discrepancy>> {
        let _acting = act_as_unfiltered(self.stock.owner, &self.stock.search_path);
        self.stock.require_own_partitions()?;
        with_new_snapshot(|| {
            let known = match &self.audited.tables {
                Some(tables) => acknowledged(self.spi, tables, self.stock)?,
                None => Acknowledged::new(),
            };
            let scope = ScanScope {
                item: Some(self.item),
                start: Origin::First,
                sealed_up_to: full.then_some(i64::MAX),
                hashes: full,
                stock: true,
                archive: full,
                movements: 0,
            };
            let scanned = scan::read(self.spi, &self.stock.names, self.audited, &scope)?;
            // Of more than these an audit says no more either.
            let mut found = Findings::up_to(MOST_KEPT).only(|kind| !kind.is_of_seals());
            let extent = CheckExtent { full, all_seals: false, acknowledged: &known };
            chain::check(&scanned, self.audited.id_type, extent, &mut None, &mut found)?;
            Ok(found.list)
        })
    }

    fn step(&self, found: &Discrepancy) -> Result<RepairStep> {
        let read = |text: &Option<String>| -> Result<Quantity> {
            let text = text.as_deref().unwrap_or("0");
            text.parse().map_err(|_| Error::unreadable_stock(self.item, text))
        };
        if found.kind == Kind::BrokenChain {
            return Ok(RepairStep::Acknowledge {
                stripe: found.stripe.unwrap_or(0),
                after: found.after.map(|(id, _)| id),
                before: found.before.map_or(0, |(id, _)| id),
                expected: found.expected.clone().unwrap_or_default(),
                actual: found.actual.clone().unwrap_or_default(),
            });
        }
        let (expected, actual) = (read(&found.expected)?, read(&found.actual)?);
        match (self.trust, found.kind) {
            (Trust::Stock, kind) => Ok(RepairStep::Record {
                stripe: found.stripe,
                kind: match kind {
                    Kind::UnknownItem => MovementKind::Opening,
                    Kind::MissingItem => MovementKind::Closing,
                    _ => MovementKind::Correction,
                },
                old_quantity: expected,
                new_quantity: actual,
            }),
            (Trust::Ledger, Kind::OnHandDrift) => {
                Ok(RepairStep::Write { old_quantity: actual, new_quantity: expected })
            }
            (Trust::Ledger, kind) => Err(Error::not_reconcilable(self.item, kind.name())),
        }
    }

    /// Posts the steps, and returns the number of the run.
    fn apply(
        &self,
        audit: &NewestAudit,
        found: &[Discrepancy],
        steps: &[RepairStep],
        context: &CallContext,
    ) -> Result<i64> {
        self.require_unmoved(audit, found)?;
        let next_transaction = next_transaction()?;
        let act = (MovementKind::Correction, Rows::OneRow);
        let mut acknowledged = Vec::new();
        recording(self.stock, act, context, self.role, || {
            for step in steps {
                match step {
                    RepairStep::Record { stripe, kind, old_quantity, new_quantity } => {
                        self.record(*stripe, *kind, [*old_quantity, *new_quantity])?;
                    }
                    RepairStep::Write { new_quantity, .. } => self.write(*new_quantity)?,
                    RepairStep::Acknowledge { stripe, before, .. } => {
                        acknowledged.push(json!({"item": self.item.to_string(), "stripe": stripe, "movement": before}))
                    }
                }
            }
            Ok(())
        })?;
        let _acting = act_as_unfiltered(self.stock.owner, &self.stock.search_path);
        let finished = Finished {
            kind: "reconciliation",
            begun: &with_new_snapshot(|| self.spi.run_active(&statements::snapshot(), &[])),
            full: false,
            movements: 0,
            items: 1,
            discrepancies: found.len() as i64,
            found: steps.iter().map(RepairStep::to_json).collect(),
            item: Some(self.item),
            position: audit.position,
            next_transaction,
            role: self.role,
            acknowledged: (!acknowledged.is_empty()).then(|| Value::from(acknowledged)),
            seal: None,
        };
        keep_run(self.spi, self.tables()?, &finished)
    }

    fn tables(&self) -> Result<&AuditNames> {
        self.audited.tables.as_ref().ok_or_else(|| Error::not_audited(self.item))
    }

    /// The newest audit of the item.
    fn newest_audit(&self) -> Result<NewestAudit> {
        let _acting = act_as_unfiltered(self.stock.owner, &self.stock.search_path);
        let item = self.item.to_string();
        let rows = self.spi.once_latest(&statements::newest_audit(self.tables()?), &[Arg::text(item.as_str())]);
        if rows.count() == 0 {
            return Err(Error::not_audited(self.item));
        }
        let found = kept::list(self.tables()?, &rows.required_text(0, c"found")?)?;
        let id = self.item.to_json();
        let of_item: Vec<_> = found.iter().filter(|found| found.get("inventory_id") == Some(&id)).cloned().collect();
        // Of very many discrepancies not all are kept.
        let discrepancies: i64 = rows.required(0, c"discrepancies")?;
        let is_cut = usize::try_from(discrepancies).is_ok_and(|count| count > found.len());
        if of_item.is_empty() && is_cut {
            return Err(Error::not_audited(self.item));
        }
        let (position, is_full) = (rows.required(0, c"position")?, rows.required(0, c"is_full")?);
        Ok(NewestAudit { position, is_full, found: of_item, is_cut })
    }

    /// Refuses where the item has moved since the audit that has found this.
    fn require_unmoved(&self, audit: &NewestAudit, found: &[Discrepancy]) -> Result<()> {
        let _acting = act_as_unfiltered(self.stock.owner, &self.stock.search_path);
        let last = statements::last_movement(&self.audited.ledger, self.audited.id_type);
        let last: Option<i64> = self.spi.once_latest(&last, &[Arg::item(self.item)]).get(0, c"number");
        let facts = |value: &Value| {
            let fact = |key: &str| value.get(key).cloned().unwrap_or(Value::Null).to_string();
            ["kind", "stripe", "expected", "actual", "after_movement"].map(fact)
        };
        let mut reported: Vec<_> = audit.of_stock().map(facts).collect();
        let mut now: Vec<_> = found.iter().map(|found| facts(&found.to_json())).collect();
        reported.sort();
        now.sort();
        let has_moved = last.is_some_and(|last| last > audit.position) || reported != now;
        if has_moved { Err(Error::item_moved(self.item)) } else { Ok(()) }
    }

    fn record(&self, stripe: Option<i16>, kind: MovementKind, quantities: [Quantity; 2]) -> Result<()> {
        attribution::acting_as(kind, || {
            let act = attribution::act(self.stock.oid);
            let act = act.ok_or_else(|| Error::internal("a correction belongs to no act"))?;
            write_missing(self.stock, (self.item, stripe), quantities, &act);
            Ok(())
        })
    }

    fn write(&self, quantity: Quantity) -> Result<()> {
        self.stock.require_fit("p_item", quantity)?;
        let integer = self.stock.names.quantity_type.is_integer();
        let printed = if integer { quantity.canonical().to_string() } else { quantity.to_string() };
        let args = [Arg::item(self.item), Arg::text(printed.as_str())];
        self.stock.ready(Part::Stock, Access::Write)?;
        let written = attribution::writing_totals(self.stock.oid, vec![(self.item.clone(), printed.clone())], || {
            self.spi.once(&layout::show_total(&self.stock.names), &args)
        });
        let shown = written.quantity(0, c"quantity", self.stock.names.quantity_type).ok();
        if shown == Some(quantity) {
            return Ok(());
        }
        Err(Error::verification_failed(self.item, quantity, shown, None::<Quantity>))
    }
}

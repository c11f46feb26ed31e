//! The ledger read along time: stock at a moment, and changes for readers that follow it.

use crate::audit::access::require_reader;
use crate::audit::scan::Movement;
use crate::audit::seals;
use crate::audit::tables::{self, sequence_of};
use crate::core::error::{Error, Result};
use crate::core::seal::hex;
use crate::ledger::past;
use crate::pg::args::{AnyNumeric, Arg, Moment};
use crate::pg::role::current_role;
use crate::pg::spi::{Connection, checked};
use crate::pg::transaction::{is_standby, next_transaction, system, with_new_snapshot};
use crate::statements::Statement;
use crate::statements::audit::{self as statements, Range};
use crate::statements::past as past_statements;
use crate::stock::call::on_stock;
use crate::table::attachment::{Attachment, Intent, Judged};
use crate::table::cache;
use crate::table::cursors;
use serde_json::{Value, json};

/// The stock of an item at a moment, as the ledger has it; None where the item was not there.
pub fn quantity_at(key: &str, moment: Moment) -> Result<Option<AnyNumeric>> {
    on_stock(Intent::Read, |spi, stock| {
        let item = stock.item("p_item", key)?;
        // The rights in force decide whether the item may be seen; one that is gone, only where they hide nothing.
        let is_there = stock.run(spi, Statement::ReadAvailable, &[Arg::item(&item)]).count() > 0;
        if !is_there && (stock.run_as_caller || stock.forced_rls) {
            return Err(Error::unknown_item(&item));
        }
        past::quantity_at(spi, stock, &item, moment)
    })
}

/// How far a reader has come.
struct Position {
    /// Every movement up to this one was returned, or will never be.
    movement: i64,
    /// The last movement that was returned, and the first digits of its hash: whether this is the ledger it came from.
    seen: Option<(i64, String)>,
    /// Every movement up to the first number is known once all transactions before the second have ended.
    pending: Option<(i64, i64)>,
    /// The cluster whose transactions those are.
    system: String,
}

/// The digits of a hash that a position keeps.
const DIGITS: usize = 16;

impl Position {
    fn read(cursor: Option<&Value>) -> Result<Self> {
        let Some(cursor) = cursor else {
            return Ok(Self { movement: 0, seen: None, pending: None, system: String::new() });
        };
        let pair = |value: &Value| Some((value.get(0)?.as_i64()?, value.get(1)?.clone()));
        let read = || {
            let seen = match cursor.get("seen")? {
                Value::Null => None,
                seen => {
                    let (id, hash) = pair(seen)?;
                    Some((id, hash.as_str().filter(|hash| hash.len() == DIGITS)?.to_owned()))
                }
            };
            let pending = match cursor.get("pending")? {
                Value::Null => None,
                pending => pair(pending).map(|(id, end)| Some((id, end.as_i64()?)))?,
            };
            let system = cursor.get("system")?.as_str()?.to_owned();
            Some(Self { movement: cursor.get("movement")?.as_i64()?, seen, pending, system })
        };
        read().ok_or_else(Error::malformed_cursor)
    }

    fn to_json(&self) -> Value {
        json!({"movement": self.movement, "seen": self.seen, "pending": self.pending, "system": self.system})
    }
}

/// The movements after a position, in the order of their numbers: none is left out that commits late, and none is
/// returned twice.
pub fn changes(cursor: Option<&Value>, limit: i64) -> Result<Value> {
    let position = Position::read(cursor)?;
    let stock = cache::current()?;
    stock.require_healthy()?;
    let no_ledger = || Error::no_ledger(&stock.names.relation);
    let (oid, ledger) = stock.companions.movements.zip(stock.names.movements.as_deref()).ok_or_else(no_ledger)?;
    let role = current_role();
    require_reader(oid, ledger, role)?;
    cursors::leaving_none(stock.owner, || {
        let _acting = stock.act_on_companions();
        checked(stock.check(Judged::Companions), |spi| {
            let mut follower = Follower { spi, stock: &stock, ledger, archive: None, position };
            // Both are read before the snapshot: a transaction that has a number up to `last` had begun by then.
            let last = follower.last_number()?;
            let next = next_transaction()?;
            with_new_snapshot(|| {
                let last = if is_standby() { follower.last_there()? } else { last };
                follower.archive = follower.archive_behind()?;
                follower.require_same_ledger(last)?;
                let known = follower.horizon(last, next)?;
                let changes = follower.page(known, limit)?;
                Ok(json!({"changes": changes, "next": follower.position.to_json()}))
            })
        })
    })
}

struct Follower<'a> {
    spi: &'a Connection,
    stock: &'a Attachment,
    ledger: &'a str,
    /// The archive, where the reader is behind what went there.
    archive: Option<String>,
    position: Position,
}

impl Follower<'_> {
    fn last_number(&self) -> Result<i64> {
        let sequence = sequence_of(self.spi, self.stock)?;
        self.spi.once_latest(&statements::last_number(&sequence), &[]).required(0, c"number")
    }

    /// On a standby the sequence is ahead of what there is. What is there was written after what it lacks had begun.
    fn last_there(&self) -> Result<i64> {
        let args = [Arg::owned(self.position.movement)];
        let last = self.spi.run_active(&past_statements::last_there(self.ledger), &args);
        Ok(last.get(0, c"number").unwrap_or(self.position.movement))
    }

    /// The archive, where the reader is behind what went there: whoever may read the ledger may read what was in it.
    fn archive_behind(&self) -> Result<Option<String>> {
        let audited = tables::open(self.spi, self.stock, false)?;
        let Some(tables) = &audited.tables else { return Ok(None) };
        let until = self.spi.run_active(&statements::archived_until(tables), &[]);
        let until: Option<i64> = until.get(0, c"position");
        let behind = audited.archive.filter(|_| until.is_some_and(|until| self.position.movement < until));
        Ok(behind.map(|archive| archive.name))
    }

    /// Refuses a position in another ledger: one that was restored from an older backup, in which numbers come again.
    fn require_same_ledger(&self, last: i64) -> Result<()> {
        if self.position.movement > last {
            return Err(Error::cursor_of_another(self.position.movement, last));
        }
        let Some((seen, digits)) = &self.position.seen else { return Ok(()) };
        // What archiving has left has the number of the last movement that was archived.
        let audited = tables::open(self.spi, self.stock, false)?;
        let mut is_same = false;
        let id_type = self.stock.names.id_type;
        let mut found = None;
        let archive = audited.archive.as_ref().map(|archive| archive.name.as_str());
        for table in [Some(self.ledger), archive].into_iter().flatten() {
            let sql = statements::movements(table, id_type, Range::One, true);
            self.spi.run_active(&sql, &[Arg::owned(*seen)]).each(&statements::movement_types(id_type), |row| {
                let item = row.item(1)?;
                is_same |= hex(&Movement::read(row, &item, true)?.link().hash).starts_with(digits.as_str());
                found = Some((item, row.small(2).unwrap_or(0)));
                Ok(())
            })?;
        }
        if !is_same && let (Some(tables), Some((item, stripe))) = (&audited.tables, found) {
            is_same = seals::was_sealed_as(self.spi, &audited, tables, (&item, stripe, *seen), digits)?;
        }
        if is_same { Ok(()) } else { Err(Error::cursor_of_another(*seen, last)) }
    }

    /// The movement up to which all are decided: no transaction that runs can have one of them.
    fn horizon(&mut self, last: i64, next: i64) -> Result<i64> {
        let oldest: i64 = self.spi.run_active(&statements::snapshot(), &[]).required(0, c"oldest")?;
        let here = system();
        let position = &mut self.position;
        let known = match position.pending {
            _ if oldest == next => Some(last),
            // In a cluster to which the ledger was restored none of those transactions runs.
            Some((number, _)) if position.system != here => Some(number.min(last)),
            Some((number, end)) if end <= oldest => Some(number.min(last)),
            _ => None,
        };
        if known.is_some() || position.pending.is_none() {
            position.pending = Some((last, next));
        }
        position.system = here;
        Ok(known.unwrap_or(0).max(position.movement))
    }

    /// The next movements up to a number.
    fn page(&mut self, known: i64, limit: i64) -> Result<Vec<Value>> {
        let (spi, archive) = (self.spi, self.archive.as_deref());
        let mut changes = Vec::new();
        let mut from = self.position.movement;
        while changes.is_empty() && from < known {
            let to = known.min(from.saturating_add(limit));
            let args = [Arg::owned(from), Arg::owned(to)];
            let rows = spi.run_active(&past_statements::changes(self.ledger, archive), &args);
            for row in 0..rows.count() {
                let change = rows.required_text(row, c"change")?;
                changes.push(serde_json::from_str(&change).map_err(|_| Error::internal("a movement is no JSON"))?);
            }
            from = to;
            if rows.count() == 0 && to < known {
                // Numbers that nothing has: go on where there is a movement.
                let args = [Arg::owned(to), Arg::owned(known)];
                let next = spi.run_active(&past_statements::next_number(self.ledger, archive), &args);
                from = next.get::<i64>(0, c"number").map_or(known, |number| number - 1);
            }
        }
        // Not further than the last that was returned: after a crash the sequence may give out later numbers again.
        let position = &mut self.position;
        let last = changes.last().and_then(|change: &Value| change.get("movement_id")?.as_i64());
        let Some(last) = last else { return Ok(changes) };
        position.movement = last;
        let id_type = self.stock.names.id_type;
        // What archiving has left has the number of a movement in the archive, which comes second.
        for table in [Some(self.ledger), archive].into_iter().flatten() {
            let sql = statements::movements(table, id_type, Range::One, true);
            spi.run_active(&sql, &[Arg::owned(last)]).each(&statements::movement_types(id_type), |row| {
                let hash = hex(&Movement::read(row, &row.item(1)?, true)?.link().hash);
                position.seen = Some((last, hash[..DIGITS].to_owned()));
                Ok(())
            })?;
        }
        Ok(changes)
    }
}

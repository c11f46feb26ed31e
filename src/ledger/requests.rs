//! Idempotency keys: a retried request is answered, not run again.
//!
//! Lock order: the key comes first, before any item. It is inserted before anything else is done; a rival with the same key
//! waits there until this transaction ends. If it commits, the rival reads the answer in a new statement; if it rolls
//! back, the key is gone and the rival runs.

use crate::core::error::{Fault, Outcome};
use crate::ledger::attribution;
use crate::pg::failpoint::{self, Place};
use crate::pg::spi::{self, Arg, Connection, Sight, connected};
use crate::table::attachment::{self, Attachment, Kept};
use crate::table::cursors;
use pgrx::datum::Interval;
use pgrx::{Uuid, pg_extern, pg_sys};
use std::collections::HashSet;

/// A call as its retries must repeat it.
pub struct Request<'a> {
    /// The key.
    pub key: &'a str,
    /// The function called.
    pub function: &'static str,
    /// All arguments that decide what is done, in one canonical text.
    pub arguments: String,
    /// The items that the call names.
    pub items: &'a [Uuid],
    /// The call fails where one of them is unknown.
    pub needs_all: bool,
}

/// A key that is deleted between the two statements of a claim is free; so often that is tried.
const CLAIMS: usize = 100;

/// Runs `act` unless the key was used before; then gives the first result again, marked as replayed.
///
/// The caller's rights, and what row-level security hides from it, are checked before anything about the key is said.
pub fn once(
    spi: &Connection,
    stock: &Attachment,
    request: &Request<'_>,
    act: impl FnOnce() -> Outcome<String>,
) -> Outcome<String> {
    stock.require_sale_rights();
    let hidden = hidden_items(spi, stock, request.items, Kept::Visible);
    if let Some(id) = hidden.first().filter(|_| request.needs_all) {
        // The call fails in its own words, whatever the key stands for, and waits for nobody who uses it.
        act()?;
        return Err(Fault::unknown_item(&id.to_string()));
    }
    match claim(spi, stock, request)? {
        Claim::Ours => {}
        Claim::Taken(Ok(answer)) => {
            // Now that the key is not waited for any more, rows may be locked: policies for UPDATE count, too.
            let hidden = hidden_items(spi, stock, request.items, Kept::Changeable);
            let told = hidden.iter().find(|id| tells_of(&answer, id));
            return told.map_or(Ok(answer.clone()), |id| Err(Fault::unknown_item(&id.to_string())));
        }
        Claim::Taken(refused) => return refused,
    }
    failpoint::reached(spi, Place::KeyClaimed);
    let answer = act()?;
    let _acting = stock.act_on_companions();
    let plan = stock.plan(spi, Kept::KeepAnswer, || {
        let sql = format!(
            "UPDATE {} SET answer = $2::pg_catalog.json WHERE idempotency_key OPERATOR(pg_catalog.=) $1",
            stock.requests.name
        );
        (sql, vec![pg_sys::TEXTOID, pg_sys::TEXTOID])
    });
    let args = [Arg::text(request.key), Arg::text(answer.as_str())];
    let kept = attribution::writing(stock.requests.oid, || spi.run(plan, &args, Sight::Isolation).count());
    if kept != 1 {
        return Err(Fault::key_not_kept(request.key));
    }
    failpoint::reached(spi, Place::AnswerKept);
    Ok(answer)
}

/// What claiming a key gave.
enum Claim {
    /// The key is ours now.
    Ours,
    /// It was used before: the first result again, or an error.
    Taken(Outcome<String>),
}

fn claim(spi: &Connection, stock: &Attachment, request: &Request<'_>) -> Outcome<Claim> {
    // Until the transaction ends, also where a cursor that runs the call fails.
    attachment::lock_rows(&[stock.requests.oid]);
    let _acting = stock.act_on_companions();
    let args = [Arg::text(request.key), Arg::text(request.function), Arg::text(request.arguments.as_str())];
    let types = || vec![pg_sys::TEXTOID; 3];
    for _ in 0..CLAIMS {
        let plan = stock.plan(spi, Kept::ClaimKey, || {
            let sql = format!(
                "INSERT INTO {} (idempotency_key, function_name, arguments_hash)
                 VALUES ($1, $2, pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')))
                 ON CONFLICT (idempotency_key) DO NOTHING",
                stock.requests.name
            );
            (sql, types())
        });
        if attribution::writing(stock.requests.oid, || spi.run(plan, &args, Sight::Isolation).count()) == 1 {
            return Ok(Claim::Ours);
        }
        let plan = stock.plan(spi, Kept::ReadKey, || {
            let sql = format!(
                "SELECT function_name, function_name OPERATOR(pg_catalog.=) $2
                        AND arguments_hash OPERATOR(pg_catalog.=) pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')),
                        json::pg_catalog.text
                   FROM {} WHERE idempotency_key OPERATOR(pg_catalog.=) $1",
                stock.requests.name
            );
            (sql, types())
        });
        let found = spi.run(plan, &args, Sight::Isolation);
        let taken = match (found.text(0, 1), found.get::<bool>(0, 2), found.text(0, 3)) {
            // Gone between the two statements: purged, so it is free.
            (None, ..) => continue,
            (Some(_), Some(true), Some(answer)) => Ok(replayed(&answer)),
            (Some(_), Some(true), None) => Err(Fault::key_in_use(request.key)),
            (Some(function), ..) => Err(Fault::key_reused(request.key, &function)),
        };
        return Ok(Claim::Taken(taken));
    }
    Err(Fault::key_not_kept(request.key))
}

/// Those of these items that row-level security hides from the role in force, or that do not exist; none where it hides nothing.
fn hidden_items(spi: &Connection, stock: &Attachment, items: &[Uuid], kept: Kept) -> Vec<Uuid> {
    if !stock.run_as_caller && !stock.forced_rls {
        return Vec::new();
    }
    let plan = stock.plan(spi, kept, || {
        let (source, id) = (stock.source(), &stock.id);
        let lock = if matches!(kept, Kept::Changeable) { "FOR KEY SHARE" } else { "" };
        let sql = format!("SELECT stock.{id} FROM {source} WHERE stock.{id} OPERATOR(pg_catalog.=) ANY ($1) {lock}");
        (sql, vec![pg_sys::UUIDARRAYOID])
    });
    let rows = spi.run(plan, &[Arg::owned(items.to_vec())], Sight::Isolation);
    let visible: HashSet<[u8; 16]> =
        (0..rows.count()).filter_map(|row| rows.get::<Uuid>(row, 1)).map(|id| *id.as_bytes()).collect();
    items.iter().filter(|id| !visible.contains(id.as_bytes())).copied().collect()
}

/// Whether a result has quantities of an item. One that was unknown then is named without.
fn tells_of(answer: &str, id: &Uuid) -> bool {
    ["old_quantity", "available", "stored"]
        .iter()
        .any(|fact| answer.contains(&format!(r#""inventory_id": "{id}", "{fact}""#)))
}

/// The first answer with one key more.
fn replayed(answer: &str) -> String {
    match answer.trim_end().strip_suffix('}') {
        Some(open) => format!(r#"{open}, "replayed": true}}"#),
        None => answer.to_owned(),
    }
}

/// Forgets idempotency keys that are older than an interval.
///
/// A forgotten key is free: a retry of its request would run again. p_older_than: zero or more, counted back from now.
/// Answers how many keys were forgotten. Errors: 22004 NULL, 22023 negative, 55000 no stock table attached.
#[pg_extern(sql = false)]
pub fn purge_requests(p_older_than: Option<Interval>) -> i64 {
    purge(p_older_than).unwrap_or_else(|fault| fault.raise())
}

fn purge(older_than: Option<Interval>) -> Outcome<i64> {
    let older_than = older_than.ok_or_else(|| Fault::null_argument("p_older_than"))?;
    spi::require_writable(c"purge_requests()");
    let stock = attachment::current()?;
    let purge = |spi: &Connection| {
        let _acting = stock.act_on_companions();
        let interval = [pg_sys::INTERVALOID];
        let valid = spi.once(
            "SELECT $1 OPERATOR(pg_catalog.>=) '0'::pg_catalog.interval",
            &interval,
            &[Arg::owned(older_than)],
        );
        if valid.get(0, 1) != Some(true) {
            return Err(Fault::negative_interval("p_older_than"));
        }
        let sql = format!(
            "DELETE FROM {} WHERE created_at OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) $1)",
            stock.requests.name
        );
        let args = [Arg::owned(older_than)];
        Ok(attribution::writing(stock.requests.oid, || spi.once(&sql, &interval, &args).count() as i64))
    };
    cursors::leaving_none(stock.owner, || connected(purge))
}

#[cfg(test)]
mod tests {
    use super::replayed;

    #[test]
    fn a_replay_is_the_first_answer_and_one_key() {
        assert_eq!(replayed(r#"{"success": true}"#), r#"{"success": true, "replayed": true}"#);
    }
}

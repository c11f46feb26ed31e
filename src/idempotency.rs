//! Idempotency keys: a retried request is answered, not run again.
//!
//! Lock order: the key comes first, before any item. It is inserted before anything else is done; a rival with the same key
//! waits there until this transaction ends. If it commits, the rival reads the answer in a new statement; if it rolls
//! back, the key is gone and the rival runs.

use crate::attachment::{self, Attachment, Kept};
use crate::error::{Fault, Outcome};
use crate::failpoint::{self, Place};
use crate::identity::act_as;
use crate::spi::{Arg, Connection, Sight, connected};
use pgrx::datum::Interval;
use pgrx::pg_extern;
use pgrx::pg_sys;

/// A call as its retries must repeat it.
pub struct Request<'a> {
    /// The key.
    pub key: &'a str,
    /// The function called.
    pub function: &'static str,
    /// All arguments that decide what is done, in one canonical text.
    pub arguments: String,
}

/// Runs `act` unless the key was used before; then gives the first answer again, marked as replayed.
pub fn once(
    spi: &Connection,
    stock: &Attachment,
    request: &Request<'_>,
    act: impl FnOnce() -> Outcome<String>,
) -> Outcome<String> {
    if let Some(answer) = claim(spi, stock, request)? {
        return Ok(answer);
    }
    failpoint::reached(spi, Place::KeyClaimed);
    let answer = act()?;
    let _acting = act_as(stock.requests.owner, stock.search_path.as_deref());
    let plan = stock.plan(spi, Kept::KeepAnswer, || {
        let sql = format!(
            "UPDATE {} SET answer = $2::pg_catalog.json WHERE idempotency_key OPERATOR(pg_catalog.=) $1",
            stock.requests.name
        );
        (sql, vec![pg_sys::TEXTOID, pg_sys::TEXTOID])
    });
    spi.run(plan, &[Arg::text(request.key), Arg::text(answer.as_str())], Sight::Isolation);
    failpoint::reached(spi, Place::AnswerKept);
    Ok(answer)
}

/// None where the key is ours now; else the answer it stands for.
fn claim(spi: &Connection, stock: &Attachment, request: &Request<'_>) -> Outcome<Option<String>> {
    let _acting = act_as(stock.requests.owner, stock.search_path.as_deref());
    let args = [Arg::text(request.key), Arg::text(request.function), Arg::text(request.arguments.as_str())];
    let types = || vec![pg_sys::TEXTOID; 3];
    loop {
        let plan = stock.plan(spi, Kept::ClaimKey, || {
            let sql = format!(
                "INSERT INTO {} (idempotency_key, function_name, arguments_hash)
                 VALUES ($1, $2, pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')))
                 ON CONFLICT (idempotency_key) DO NOTHING",
                stock.requests.name
            );
            (sql, types())
        });
        if spi.run(plan, &args, Sight::Isolation).count() == 1 {
            return Ok(None);
        }
        let plan = stock.plan(spi, Kept::ReadKey, || {
            let sql = format!(
                "SELECT function_name, function_name OPERATOR(pg_catalog.=) $2
                        AND arguments_hash OPERATOR(pg_catalog.=) pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')),
                        answer::pg_catalog.text
                   FROM {} WHERE idempotency_key OPERATOR(pg_catalog.=) $1",
                stock.requests.name
            );
            (sql, types())
        });
        let found = spi.run(plan, &args, Sight::Isolation);
        match (found.text(0, 1), found.get::<bool>(0, 2), found.text(0, 3)) {
            // Gone between the two statements: purged, so it is free.
            (None, ..) => {}
            (Some(_), Some(true), Some(answer)) => return Ok(Some(replayed(&answer))),
            (Some(_), Some(true), None) => return Err(Fault::key_in_use(request.key)),
            (Some(function), ..) => return Err(Fault::key_reused(request.key, &function)),
        }
    }
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
    let stock = attachment::current()?;
    let _acting = act_as(stock.requests.owner, stock.search_path.as_deref());
    connected(|spi| {
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
        Ok(spi.once(&sql, &interval, &[Arg::owned(older_than)]).count() as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::replayed;

    #[test]
    fn a_replay_is_the_first_answer_and_one_key() {
        assert_eq!(replayed(r#"{"success": true}"#), r#"{"success": true, "replayed": true}"#);
    }
}

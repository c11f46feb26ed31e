//! audit_inventory, inventory_digest, verify_inventory and movement_proof.

use crate::audit::discrepancy::Discrepancy;
use crate::audit::{run, seals};
use crate::core::error::{Error, Result};
use crate::core::item_id::ItemId;
use crate::core::json::spaced;
use crate::pg::args::{AnyNumeric, KeyArg, Moment, TableIterator, name, numeric};
use crate::pg::encoding::{from_server, to_server};
use crate::pg::report::finish;
use crate::stats::function::Function;
use crate::stats::meter::counted;
use pgrx::pg_extern;
use serde_json::Value;

/// The most bytes of a digest: it is a small object.
const MAX_DIGEST_BYTES: usize = 65_536;

/// Compares the stock with the ledger, and the ledger with itself; seals the movements that it has verified.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn audit_inventory(
    p_item: Option<KeyArg>,
    p_full: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(kind, Vec<u8>),
        name!(inventory_id, Option<Vec<u8>>),
        name!(stripe, Option<i16>),
        name!(expected, Option<AnyNumeric>),
        name!(actual, Option<AnyNumeric>),
        name!(difference, Option<AnyNumeric>),
        name!(after_movement, Option<i64>),
        name!(before_movement, Option<i64>),
        name!(since, Option<Moment>),
        name!(until, Option<Moment>),
        name!(detail, Vec<u8>),
    ),
> {
    let found = counted(Function::AuditInventory, || audit(p_item, p_full)).unwrap_or_else(|error| error.raise());
    let now = Moment::now();
    TableIterator::new(found.into_iter().map(move |found| {
        let number = |text: &Option<String>| text.as_deref().map(numeric);
        let moment = |movement: Option<(i64, i64)>| movement.map(|(_, time)| Moment(time));
        (
            to_server(found.kind.name()),
            text_of(found.item.as_ref()),
            found.stripe,
            number(&found.expected),
            number(&found.actual),
            number(&found.difference()),
            found.after.map(|(id, _)| id),
            found.before.map(|(id, _)| id),
            moment(found.after),
            moment(found.before).or(Some(now)),
            to_server(&spaced(&found.detail())),
        )
    }))
}

fn audit(item: Option<KeyArg>, full: Option<bool>) -> Result<Vec<Discrepancy>> {
    let key = item.map(KeyArg::text).transpose()?;
    run::audit(key.as_deref(), full.ok_or_else(|| Error::null_argument("p_full"))?)
}

fn text_of(item: Option<&ItemId>) -> Option<Vec<u8>> {
    item.map(|item| to_server(&item.to_string()))
}

/// Returns the newest seal, to be kept outside of the database.
#[pg_extern(sql = false)]
fn inventory_digest() -> Vec<u8> {
    finish(seals::digest().map(|digest| spaced(&digest)))
}

/// Compares the ledger with a digest: whether anything that was sealed has been altered since.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the columns of the result")]
fn verify_inventory(
    p_digest: Option<&[u8]>,
) -> TableIterator<
    'static,
    (
        name!(kind, Vec<u8>),
        name!(movement_id, Option<i64>),
        name!(inventory_id, Option<Vec<u8>>),
        name!(detail, Vec<u8>),
    ),
> {
    let found = counted(Function::VerifyInventory, || verify(p_digest)).unwrap_or_else(|error| error.raise());
    TableIterator::new(found.into_iter().map(|found| {
        let (kind, item) = (to_server(found.kind.name()), text_of(found.item.as_ref()));
        (kind, found.movement, item, to_server(&spaced(&found.detail())))
    }))
}

fn verify(digest: Option<&[u8]>) -> Result<Vec<Discrepancy>> {
    let digest = digest.ok_or_else(|| Error::null_argument("p_digest"))?;
    if digest.len() > MAX_DIGEST_BYTES {
        return Err(Error::text_length("p_digest", digest.len(), MAX_DIGEST_BYTES));
    }
    let digest: Value = serde_json::from_str(&from_server(digest)).map_err(|_| Error::malformed_digest())?;
    seals::verify(&digest)
}

/// Returns the proof that a movement is in the newest seal, which can be checked without the database.
#[pg_extern(sql = false)]
fn movement_proof(p_movement_id: Option<i64>) -> Vec<u8> {
    finish(prove(p_movement_id))
}

fn prove(movement: Option<i64>) -> Result<String> {
    seals::proof(movement.ok_or_else(|| Error::null_argument("p_movement_id"))?).map(|proof| spaced(&proof))
}

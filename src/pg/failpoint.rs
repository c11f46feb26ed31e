//! Places where a test can stop a backend and kill it. Compiled out of every release: without the feature `failpoints`
//! [`reached`] is empty.
//!
//! A backend whose setting `inventory_ext.failpoint` names the place waits there for an advisory lock that the test
//! holds: the test sees it wait, and kills it between two statements of our own.

/// The places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The idempotency key is inserted.
    KeyClaimed,
    /// The items are locked.
    Locked,
    /// The stock is written, and so are its movements.
    Written,
    /// The result is kept under its key.
    AnswerKept,
    /// The totals worker found nothing striped and is about to end.
    TotalsOver,
    /// A session looks for the totals worker.
    WorkerSought,
}

#[cfg(not(feature = "failpoints"))]
/// Does nothing in a release.
#[inline(always)]
pub fn reached(_: Point) {}

#[cfg(feature = "failpoints")]
/// Waits where the setting names the place.
pub fn reached(point: Point) {
    let name = match point {
        Point::KeyClaimed => "key_claimed",
        Point::Locked => "locked",
        Point::Written => "written",
        Point::AnswerKept => "answer_kept",
        Point::TotalsOver => "totals_over",
        Point::WorkerSought => "worker_sought",
    };
    if crate::pg::settings::failpoint().as_deref() == Some(name) {
        let key = pgrx::IntoDatum::into_datum(4711_i64);
        // SAFETY: takes one bigint and returns void.
        unsafe { pgrx::direct_function_call::<()>(pgrx::pg_sys::pg_advisory_xact_lock_int8, &[key]) };
    }
}

//! Every setting, with why its default is its default. The prefix `inventory_ext` is reserved.
//!
//! Anyone may set these but max_batch_lines, which relaxes a check, and those of statistics and log: they are the
//! superuser's.

use crate::pg::encoding;
use crate::pg::session_key;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// The SQLSTATEs of errors of class IV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum ErrorStyle {
    /// SQLSTATE class IV, with the figures in the message.
    #[name = c"sqlstate"]
    Sqlstate,
    /// SQLSTATE `PTnnn`, which PostgREST returns as HTTP status nnn; the message is a constant.
    #[name = c"postgrest"]
    Postgrest,
}

/// How strongly a sale locks its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum RowLock {
    /// `FOR NO KEY UPDATE` where a foreign key points at the stock table, else `FOR UPDATE`.
    #[name = c"auto"]
    Auto,
    /// Always `FOR UPDATE`.
    #[name = c"update"]
    Update,
    /// Always `FOR NO KEY UPDATE`.
    #[name = c"no_key_update"]
    NoKeyUpdate,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum WritePath {
    /// Natively where that does what a statement would do, else by statements.
    #[name = c"auto"]
    Auto,
    /// Always by statements.
    #[name = c"sql"]
    Sql,
}

// sqlstate: SQL users branch on SQLSTATE; only behind PostgREST is an HTTP status worth more, and there
// it is set once, with ALTER ROLE authenticator SET.
static ERROR_STYLE: GucSetting<ErrorStyle> = GucSetting::<ErrorStyle>::new(ErrorStyle::Sqlstate);

// auto: FOR UPDATE waits for the FOR KEY SHARE of a foreign key check. Two sales that each insert an order line and
// then deduct the same item would deadlock, so a table that is referenced gets the weaker lock.
static ROW_LOCK: GucSetting<RowLock> = GucSetting::<RowLock>::new(RowLock::Auto);

// auto: a native write costs less than half of a statement; sql shows every write to tools that watch the executor.
static WRITE_PATH: GucSetting<WritePath> = GucSetting::<WritePath>::new(WritePath::Auto);

// Unset: most calls have none, and an empty text is read as none, because SET LOCAL leaves one behind.
static REFERENCE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
// Unset: the sub of the claims, or the role, is the actor.
static ACTOR: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

// Unset: the search_path chooses, or there is one table only.
static STOCK_TABLE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

// off: a header is the client's word, and a proxy that repeats one would make two sales into one.
static REQUEST_HEADERS: GucSetting<bool> = GucSetting::<bool>::new(false);

// 10,000: an order of a wholesaler; its locks are held until commit, so more should be several orders.
static MAX_BATCH_LINES: GucSetting<i32> = GucSetting::<i32>::new(10_000);

// on: what was not counted cannot be looked up afterwards; docs/benchmark.md has what it costs.
static TRACK: GucSetting<bool> = GucSetting::<bool>::new(true);

// 100: so many items have each more than a hundredth of all waits, or of all refusals.
static HOT_ITEMS: GucSetting<i32> = GucSetting::<i32>::new(100);

// -1: a shop whose tills wait for each other is no error; who looks for slow sales sets it.
static LOG_LOCK_WAIT: GucSetting<i32> = GucSetting::<i32>::new(-1);

// on: PostgreSQL logs every error; a shop that sells out may not want half a kilobyte for each refusal.
static LOG_REFUSALS: GucSetting<bool> = GucSetting::<bool>::new(true);

// off: a striped item has its total in its row a little late, which a shop must know of.
static AUTO_STRIPE: GucSetting<bool> = GucSetting::<bool>::new(false);

// Unset: no place stops a backend.
#[cfg(feature = "failpoints")]
static FAILPOINT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The place where a test wants the backend to stop.
#[cfg(feature = "failpoints")]
pub fn failpoint() -> Option<String> {
    text(&FAILPOINT)
}

/// The error style in force.
pub fn error_style() -> ErrorStyle {
    ERROR_STYLE.get()
}

/// The row lock asked for.
pub fn row_lock() -> RowLock {
    ROW_LOCK.get()
}

/// Whether rows may be written natively: triggers of a replica are others.
pub fn may_write_natively() -> bool {
    // SAFETY: reads a variable of the backend.
    let role = unsafe { pg_sys::SessionReplicationRole };
    WRITE_PATH.get() == WritePath::Auto && role == pg_sys::SESSION_REPLICATION_ROLE_ORIGIN as i32
}

/// The reference of the call, where one is set.
pub fn reference() -> Option<String> {
    text(&REFERENCE)
}

/// Who acts, where it is set.
pub fn actor() -> Option<String> {
    text(&ACTOR)
}

/// The stock table that calls mean, where it is set.
pub fn stock_table() -> Option<String> {
    text(&STOCK_TABLE)
}

/// Whether the `Idempotency-Key` header counts.
pub fn request_headers() -> bool {
    REQUEST_HEADERS.get()
}

/// The most elements of one p_items.
pub fn max_batch_lines() -> usize {
    MAX_BATCH_LINES.get().unsigned_abs() as usize
}

/// Whether calls are counted.
pub fn track() -> bool {
    TRACK.get()
}

/// The length of a list of hot items.
pub fn hot_items() -> usize {
    HOT_ITEMS.get().unsigned_abs() as usize
}

/// The shortest wait for a lock that is logged, in milliseconds; None, none is.
pub fn log_lock_wait() -> Option<f64> {
    Some(LOG_LOCK_WAIT.get()).filter(|least| *least >= 0).map(f64::from)
}

/// Whether refusals of a shortage are in the server's log.
pub fn log_refusals() -> bool {
    LOG_REFUSALS.get()
}

/// Whether contended items are divided into stripes by themselves.
pub fn auto_stripe() -> bool {
    AUTO_STRIPE.get()
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    setting.get().map(|text| encoding::from_c(&text)).filter(|text| !text.is_empty())
}

/// A setting of another program that holds JSON, such as PostgREST's `request.headers`; None where it is not set or
/// empty.
pub fn foreign(name: &CStr) -> Option<String> {
    // SAFETY: the name is a C string; a missing setting is NULL; the text is copied before any setting can change.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| encoding::json_from_c(CStr::from_ptr(value)))
    }
    .filter(|text| !text.is_empty())
}

/// Makes the settings known to the server; called once a backend.
pub fn define() {
    let none = GucFlags::default();
    GucRegistry::define_enum_guc(
        c"inventory_ext.error_style",
        c"How inventory errors are reported.",
        c"sqlstate: class IV, figures in the message. postgrest: PTnnn for HTTP status nnn, and a constant message.",
        &ERROR_STYLE,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_enum_guc(
        c"inventory_ext.row_lock",
        c"How strongly a sale locks the row of its item.",
        c"auto: FOR NO KEY UPDATE where a foreign key points at the table, else FOR UPDATE. Others: always that lock.",
        &ROW_LOCK,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_enum_guc(
        c"inventory_ext.write_path",
        c"How rows of the stock table and of the ledger are written.",
        c"auto: natively, unless user-defined code or a constraint is to be evaluated. sql: by statements.",
        &WRITE_PATH,
        GucContext::Userset,
        none,
    );
    define_call_context();
    GucRegistry::define_int_guc(
        c"inventory_ext.max_batch_lines",
        c"The most lines of one order.",
        c"More are refused, before anything is locked.",
        &MAX_BATCH_LINES,
        1,
        1_000_000,
        GucContext::Suset,
        none,
    );
    define_statistics();
    #[cfg(feature = "failpoints")]
    GucRegistry::define_string_guc(
        c"inventory_ext.failpoint",
        c"Where a test stops this backend.",
        c"Only in builds with the feature failpoints.",
        &FAILPOINT,
        GucContext::Suset,
        none,
    );
    reserve_prefix();
}

/// The settings of statistics and log, which are the superuser's: no role must hide its own calls.
fn define_statistics() {
    let flags = [
        (
            c"inventory_ext.track",
            c"Whether calls are counted.",
            c"See inventory_stats, inventory_latency, inventory_hot_items and inventory_lock_queue.",
            &TRACK,
        ),
        (
            c"inventory_ext.log_refusals",
            c"Whether the server's log has the refusals of a shortage, SQLSTATE IV001.",
            c"off: the caller still gets the error, and inventory_stats counts it.",
            &LOG_REFUSALS,
        ),
    ];
    let auto_stripe = (
        c"inventory_ext.auto_stripe",
        c"Whether an item that many calls wait for is divided into stripes by itself.",
        c"Its stripes are put together again when it is quiet.",
        &AUTO_STRIPE,
    );
    for (name, short, long, setting) in flags.into_iter().chain([auto_stripe]) {
        GucRegistry::define_bool_guc(name, short, long, setting, GucContext::Suset, GucFlags::default());
    }
    GucRegistry::define_int_guc(
        c"inventory_ext.hot_items",
        c"The number of items in each list of inventory_hot_items.",
        c"One list has the items that calls wait for most, one those that are refused most.",
        &HOT_ITEMS,
        1,
        1_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"inventory_ext.log_lock_wait",
        c"The shortest wait for the lock of an item that is logged.",
        c"0: every wait that is counted. -1: none.",
        &LOG_LOCK_WAIT,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
}

/// The settings by which a caller describes a call, with SET LOCAL.
fn define_call_context() {
    let texts = [
        (
            c"inventory_ext.reference",
            c"What the movements of the transaction belong to, such as an order number.",
            c"Used where a function is not given p_reference.",
            &REFERENCE,
        ),
        (
            c"inventory_ext.actor",
            c"Who changes the stock, as the ledger names him.",
            c"Unset: the sub of request.jwt.claims, else the calling role.",
            &ACTOR,
        ),
        (
            c"inventory_ext.stock_table",
            c"The stock table that calls mean, where several are attached.",
            c"Unset: the attached table whose schema comes first in search_path, else the only one.",
            &STOCK_TABLE,
        ),
    ];
    for (name, short, long, setting) in texts {
        GucRegistry::define_string_guc(name, short, long, setting, GucContext::Userset, GucFlags::default());
    }
    session_key::define();
    GucRegistry::define_bool_guc(
        c"inventory_ext.request_headers",
        c"Whether the Idempotency-Key header of a PostgREST request is the idempotency key of the call.",
        c"Read from request.headers; a key given in another way goes before it.",
        &REQUEST_HEADERS,
        GucContext::Userset,
        GucFlags::default(),
    );
}

#[cfg(not(feature = "pg14"))]
fn reserve_prefix() {
    // SAFETY: a C string constant; PostgreSQL copies it. Called from _PG_init after the settings are defined.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"inventory_ext".as_ptr()) }
}

#[cfg(feature = "pg14")]
fn reserve_prefix() {
    // SAFETY: a C string constant; PostgreSQL 14 only warns about unknown settings of the prefix.
    unsafe { pg_sys::EmitWarningsOnPlaceholders(c"inventory_ext".as_ptr()) }
}

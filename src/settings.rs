//! Every setting, with why its default is its default. The prefix `inventory_ext` is reserved.
//!
//! Anyone may set these: none of them relaxes a check.

#![allow(unsafe_code)]

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::prelude::*;

/// How errors of our own class are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum ErrorStyle {
    /// SQLSTATE class IV, with the figures in the message.
    #[name = c"sqlstate"]
    Sqlstate,
    /// SQLSTATE `PTnnn`, which PostgREST answers as HTTP status nnn; the message is a constant.
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

// sqlstate: SQL users branch on SQLSTATE; only behind PostgREST is an HTTP status worth more, and there
// it is set once, with ALTER ROLE authenticator SET.
static ERROR_STYLE: GucSetting<ErrorStyle> = GucSetting::<ErrorStyle>::new(ErrorStyle::Sqlstate);

// auto: FOR UPDATE waits for the FOR KEY SHARE of a foreign key check. Two sales that each insert an order line and then
// deduct the same item would deadlock, so a table that is referenced gets the weaker lock.
static ROW_LOCK: GucSetting<RowLock> = GucSetting::<RowLock>::new(RowLock::Auto);

/// The error style in force.
pub fn error_style() -> ErrorStyle {
    ERROR_STYLE.get()
}

/// The row lock asked for.
pub fn row_lock() -> RowLock {
    ROW_LOCK.get()
}

/// Makes the settings known to the server; called once a backend.
pub fn define() {
    GucRegistry::define_enum_guc(
        c"inventory_ext.error_style",
        c"How inventory errors are told.",
        c"sqlstate: SQLSTATE class IV, figures in the message. postgrest: SQLSTATE PTnnn, which PostgREST turns into HTTP status nnn, and a constant message.",
        &ERROR_STYLE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"inventory_ext.row_lock",
        c"How strongly a sale locks the row of its item.",
        c"auto: FOR NO KEY UPDATE where a foreign key points at the stock table, else FOR UPDATE. update, no_key_update: always that.",
        &ROW_LOCK,
        GucContext::Userset,
        GucFlags::default(),
    );
    reserve_prefix();
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

//! Commands that code of a table's owner must not run within a call.
//!
//! A security-restricted operation of PostgreSQL forbids most commands whose effect would outlive it. It allows SET
//! CONSTRAINTS: it would fire the deferred triggers of the caller at once, in our surroundings, and stay in force for
//! the caller's transaction.

use crate::pg::role;
use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// The hook of another library, to be called on; set once, when the library is loaded.
    static NEXT: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
}

/// Sees to it that every command is looked at; called once a backend.
pub fn register() {
    // SAFETY: called from _PG_init; the library is never unloaded.
    unsafe {
        NEXT.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(run);
    }
}

#[allow(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn run(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the arguments are those of PostgreSQL; a hook calls the next one.
    unsafe {
        let command = (*statement).utilityStmt;
        if !command.is_null() && (*command).type_ == pg_sys::NodeTag::T_ConstraintsSetStmt && role::is_restricted() {
            pgrx::ereport!(
                ERROR,
                pgrx::PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                "cannot execute SET CONSTRAINTS within security-restricted operation"
            );
        }
        match NEXT.get() {
            Some(next) => {
                next(statement, query, read_only_tree, context, params, environment, receiver, completion);
            }
            None => pg_sys::standard_ProcessUtility(
                statement,
                query,
                read_only_tree,
                context,
                params,
                environment,
                receiver,
                completion,
            ),
        }
    }
}

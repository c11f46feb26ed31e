//! Whose rights a statement runs with.
//!
//! Statements on the stock table run as its owner, the way PostgreSQL runs its foreign-key triggers: the role is
//! switched for the statement and `SECURITY_LOCAL_USERID_CHANGE` forbids SET ROLE meanwhile. The search_path is pinned so
//! that no name in a trigger, policy or expression of the owner is looked up where the caller can create things. The
//! switch ends with the value of [`Acting`]; where PostgreSQL raises an error, its abort restores role and path.

#![allow(unsafe_code)]

use crate::encoding;
use pgrx::pg_sys;
use std::ffi::CStr;

/// The time during which statements run as another role.
pub struct Acting {
    caller: pg_sys::Oid,
    context: i32,
    guc_level: Option<i32>,
}

/// Switches to `role`, with `search_path` in force, until the answer is dropped.
///
/// `search_path` None leaves the path alone; that is for statements during which no user code can run.
pub fn act_as(role: pg_sys::Oid, search_path: Option<&CStr>) -> Acting {
    switch(role, search_path, 0)
}

/// The same, and the owner's own forced row-level security hides no row: for reading a whole stock table, as PostgreSQL
/// reads it for a foreign key.
pub fn act_as_unfiltered(role: pg_sys::Oid, search_path: Option<&CStr>) -> Acting {
    switch(role, search_path, pg_sys::SECURITY_NOFORCE_RLS as i32)
}

fn switch(role: pg_sys::Oid, search_path: Option<&CStr>, more: i32) -> Acting {
    let mut caller = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: both pointers are to locals; the role is the owner of a catalog object that was read under a lock.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut caller, &raw mut context);
        pg_sys::SetUserIdAndSecContext(role, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | more);
    }
    let mut acting = Acting { caller, context, guc_level: None };
    if let Some(path) = search_path {
        // SAFETY: the name and value are C strings that PostgreSQL copies; GUC_ACTION_SAVE puts the value back when
        // the nest level is popped, by Acting::drop or by the abort of the (sub)transaction.
        unsafe {
            acting.guc_level = Some(pg_sys::NewGUCNestLevel());
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                path.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
    acting
}

impl Drop for Acting {
    fn drop(&mut self) {
        // SAFETY: the saved values are put back in the reverse order of their taking. While an error of PostgreSQL
        // unwinds, the nest level is left to its abort, which pops it along with those above.
        unsafe {
            if let Some(level) = self.guc_level.filter(|_| !std::thread::panicking()) {
                pg_sys::AtEOXact_GUC(true, level);
            }
            pg_sys::SetUserIdAndSecContext(self.caller, self.context);
        }
    }
}

/// The role whose rights are in force now.
pub fn current_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetUserId() }
}

/// The name of a role, or its number where it was dropped meanwhile.
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: gives NULL for a missing role, else a palloc'd C string, which is copied.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() { role.to_u32().to_string() } else { encoding::from_c(CStr::from_ptr(name)) }
    }
}

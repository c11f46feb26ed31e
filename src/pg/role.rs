//! The rights with which a statement runs, and the traces that its code may leave.
//!
//! Statements on the stock table and its companions run as their owner, the way PostgreSQL runs its foreign-key
//! triggers: the role is switched and `SECURITY_LOCAL_USERID_CHANGE` forbids SET ROLE meanwhile. Where the caller is
//! another role, a superuser too, the statements form a security-restricted operation, as the maintenance commands of
//! PostgreSQL do: code of the owner can leave no temporary object, held cursor or deferred trigger that would run as
//! the caller. The search_path is always pinned, and every setting is restored at the end, even if that code changed
//! it.

use crate::pg::detail::{Withheld, withhold};
use crate::pg::encoding;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;

thread_local! {
    /// This process serves no client: it is the totals worker, whose own role is the bootstrap superuser. A fact of the
    /// process, set once, so it is no argument.
    static ALWAYS_RESTRICTED: Cell<bool> = const { Cell::new(false) };
    /// The number of [`Acting`] values that hold a nest level of settings, so that an inner one need not open another.
    /// The levels are PostgreSQL's own global state; this only counts ours.
    static PINNED: Cell<u32> = const { Cell::new(0) };
}

/// The time during which statements run as another role.
pub struct Acting {
    caller: pg_sys::Oid,
    context: i32,
    guc_level: Option<i32>,
    _withheld: Option<Withheld>,
}

/// Whether code of a user runs within a switch that restricts it.
pub fn is_restricted() -> bool {
    PINNED.get() > 0 && current().1 & pg_sys::SECURITY_RESTRICTED_OPERATION as i32 != 0
}

/// Switches to `role`, with `search_path` in force, until the result is dropped. Row-level security that is forced on
/// the owner holds.
pub fn act_as(role: pg_sys::Oid, search_path: &CStr) -> Acting {
    switch(role, search_path, 0)
}

/// The same without forced row-level security: for companions, and for reading a whole stock table, as PostgreSQL reads
/// it for a foreign key.
pub fn act_as_unfiltered(role: pg_sys::Oid, search_path: &CStr) -> Acting {
    switch(role, search_path, pg_sys::SECURITY_NOFORCE_RLS as i32)
}

/// From here on every switch of this process is security-restricted, also one to the same role.
pub fn always_restrict() {
    ALWAYS_RESTRICTED.set(true);
}

fn switch(role: pg_sys::Oid, search_path: &CStr, more: i32) -> Acting {
    let (caller, context) = current();
    let restricted =
        if role != caller || ALWAYS_RESTRICTED.get() { pg_sys::SECURITY_RESTRICTED_OPERATION as i32 } else { 0 };
    // The flags of an outer switch stay, but for the one that each call decides.
    let kept = context & !(pg_sys::SECURITY_NOFORCE_RLS as i32);
    let flags = kept | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | restricted | more;
    // SAFETY: the role is the owner of a catalog object that was read under a lock.
    unsafe { pg_sys::SetUserIdAndSecContext(role, flags) };
    let withheld = (role != caller && !is_superuser(caller)).then(withhold);
    let mut acting = Acting { caller, context, guc_level: None, _withheld: withheld };
    if PINNED.get() == 0 || !is_in_force(search_path) {
        acting.pin(search_path);
    }
    acting
}

/// The role in force and its security context.
fn current() -> (pg_sys::Oid, i32) {
    let mut role = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: both pointers are to locals.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut role, &raw mut context) };
    (role, context)
}

fn is_in_force(search_path: &CStr) -> bool {
    // SAFETY: returns the value of a setting that always exists, which is compared before any setting can change.
    unsafe {
        let value = pg_sys::GetConfigOption(c"search_path".as_ptr(), true, false);
        !value.is_null() && CStr::from_ptr(value) == search_path
    }
}

impl Acting {
    /// Plans no scan of an index, and believes no constraint, until this is dropped. Without a level of settings of its
    /// own, an outer one undoes it.
    pub fn without_indexes(&self) {
        let settings = [c"enable_indexscan", c"enable_indexonlyscan", c"enable_bitmapscan", c"constraint_exclusion"];
        for setting in settings {
            // SAFETY: the names and the value are C strings that PostgreSQL copies; as in `pin`.
            unsafe {
                pg_sys::set_config_option(
                    setting.as_ptr(),
                    c"off".as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
        }
    }

    fn pin(&mut self, search_path: &CStr) {
        // SAFETY: the name and value are C strings that PostgreSQL copies; GUC_ACTION_SAVE puts the value back when
        // the nest level is popped, by Acting::drop or by the abort of the (sub)transaction.
        unsafe {
            self.guc_level = Some(pg_sys::NewGUCNestLevel());
            PINNED.set(PINNED.get() + 1);
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                search_path.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        if let Some(level) = self.guc_level {
            PINNED.set(PINNED.get() - 1);
            if !std::thread::panicking() {
                // SAFETY: as if the level were aborted: settings of that code are reverted, SET and SET LOCAL alike.
                // While an error of PostgreSQL unwinds, the level is left to its abort, which pops it along with those
                // above.
                unsafe { pg_sys::AtEOXact_GUC(false, level) };
            }
        }
        // SAFETY: the values that were in force before.
        unsafe { pg_sys::SetUserIdAndSecContext(self.caller, self.context) };
    }
}

/// Whether forced row-level security is lifted now. A plan that was made with it lifted must not serve without, and the
/// reverse.
pub fn is_unfiltered() -> bool {
    current().1 & pg_sys::SECURITY_NOFORCE_RLS as i32 != 0
}

/// The role whose rights are in force now.
pub fn current_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetUserId() }
}

/// Whether a role is a superuser.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: looks a role up; one that does not exist is no superuser.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether a role is a member of another one, and so may do what that one may.
pub fn is_member(role: pg_sys::Oid, of: pg_sys::Oid) -> bool {
    // SAFETY: looks memberships up; a role that does not exist has none.
    unsafe { pg_sys::is_member_of_role(role, of) }
}

/// Whether a role has the rights of another one.
pub fn has_rights_of(role: pg_sys::Oid, of: pg_sys::Oid) -> bool {
    // SAFETY: looks memberships up; a role that does not exist has none.
    unsafe { pg_sys::has_privs_of_role(role, of) }
}

/// Raises PostgreSQL's own error 42501 where a role may not read a table; returns whether row-level security would hide
/// rows from it.
pub fn require_select(table: pg_sys::Oid, role: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: looks privileges and policies up, and raises an error; the table is locked, the name is a C string.
    unsafe {
        let found = pg_sys::pg_class_aclcheck(table, role, pg_sys::ACL_SELECT.into());
        if found != pg_sys::AclResult::ACLCHECK_OK {
            pg_sys::aclcheck_error(found, pg_sys::ObjectType::OBJECT_TABLE, name.as_ptr());
        }
        pg_sys::check_enable_rls(table, role, true) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
    }
}

/// The name of a role, or its number where it was dropped meanwhile.
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: returns NULL for a missing role, else a palloc'd C string, which is copied.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() { role.to_u32().to_string() } else { encoding::from_c(CStr::from_ptr(name)) }
    }
}

/// Whether a role may add rows to a table.
pub fn may_insert(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: looks a privilege up; the table is locked.
    unsafe { pg_sys::pg_class_aclcheck(table, role, pg_sys::ACL_INSERT.into()) == pg_sys::AclResult::ACLCHECK_OK }
}

/// Raises PostgreSQL's own error 42501 unless the role in force may read and write these columns of a table.
pub fn require_sale_rights(table: pg_sys::Oid, table_name: &CStr, [id, quantity]: [i16; 2]) {
    let role = current_role();
    let (select, update) = (pg_sys::ACL_SELECT.into(), pg_sys::ACL_UPDATE.into());
    let granted = |column: i16, mode| {
        // SAFETY: looks privileges up; the table is locked.
        unsafe {
            pg_sys::pg_class_aclcheck(table, role, mode) == pg_sys::AclResult::ACLCHECK_OK
                || pg_sys::pg_attribute_aclcheck(table, column, role, mode) == pg_sys::AclResult::ACLCHECK_OK
        }
    };
    if !(granted(id, select) && granted(quantity, select) && granted(quantity, update)) {
        // SAFETY: raises an error; the name is a C string.
        unsafe {
            pg_sys::aclcheck_error(
                pg_sys::AclResult::ACLCHECK_NO_PRIV,
                pg_sys::ObjectType::OBJECT_TABLE,
                table_name.as_ptr(),
            );
        }
    }
}

//! The cursors of the caller, while code of the table's owner runs.
//!
//! That code could close a cursor of the caller, and open one of the same name, from which the caller would then fetch with its own rights.
//! So the caller's cursors are pinned, as PL/pgSQL pins that of a FOR loop, and those that are left behind are closed.

#![allow(unsafe_code)]

use crate::core::error::Outcome;
use crate::pg::encoding;
use crate::pg::role::current_role;
use crate::pg::spi::{self, connected};
use pgrx::pg_sys::{self, Oid};
use std::collections::HashSet;

/// The cursors that were open, hardly ever any; pinned until it is dropped.
struct Cursors {
    names: HashSet<String>,
    pinned: Vec<pg_sys::Portal>,
}

impl Cursors {
    /// Pins the cursors there are.
    fn hold() -> Self {
        // The portal that runs this very call is no cursor.
        if spi::portals() <= 1 {
            return Self { names: HashSet::new(), pinned: Vec::new() };
        }
        let names = names();
        let pinned = names.iter().filter_map(|name| pin(name)).collect();
        Self { names, pinned }
    }

    /// Closes those that came since.
    fn close_others(self) {
        if spi::portals() > 1 {
            names().difference(&self.names).for_each(|name| spi::close_cursor(name));
        }
    }
}

impl Drop for Cursors {
    fn drop(&mut self) {
        // SAFETY: a pinned portal cannot have been dropped.
        self.pinned.iter().for_each(|portal| unsafe { pg_sys::UnpinPortal(*portal) });
    }
}

/// Runs what may run code of this owner; where the caller is another role, it leaves no cursor behind.
pub fn leaving_none<T>(owner: Oid, act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    guarded(current_role() != owner, act)
}

/// The same where it is known whether code of another role may run.
pub fn guarded<T>(of_another: bool, act: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let of_caller = of_another.then(Cursors::hold);
    let result = act()?;
    if let Some(of_caller) = of_caller {
        of_caller.close_others();
    }
    Ok(result)
}

fn names() -> HashSet<String> {
    connected(|spi| {
        let rows = spi.once("SELECT name FROM pg_catalog.pg_cursors", &[], &[]);
        (0..rows.count()).filter_map(|row| rows.text(row, 1)).collect()
    })
}

/// One that is pinned already, by a loop of PL/pgSQL or by an outer call, stays so.
fn pin(name: &str) -> Option<pg_sys::Portal> {
    let name = encoding::c_text(name);
    // SAFETY: a portal that is found is open.
    unsafe {
        let portal = pg_sys::GetPortalByName(name.as_ptr());
        if portal.is_null() || (*portal).portalPinned {
            return None;
        }
        pg_sys::PinPortal(portal);
        Some(portal)
    }
}

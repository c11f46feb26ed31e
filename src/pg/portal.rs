//! The portals of the session: the one that runs, loops of PL/pgSQL around it, and cursors.

use crate::pg::encoding;
use pgrx::pg_sys;

/// A cursor that cannot be closed while this value lives, as PL/pgSQL pins that of a FOR loop.
pub struct Pinned(pg_sys::Portal);

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: a pinned portal cannot have been dropped.
        unsafe { pg_sys::UnpinPortal(self.0) };
    }
}

/// Pins a cursor. One that is pinned already, by a loop of PL/pgSQL or by an outer call, stays so.
pub fn pin(name: &str) -> Option<Pinned> {
    let name = encoding::c_text(name);
    // SAFETY: a portal that is found is open.
    unsafe {
        let portal = pg_sys::GetPortalByName(name.as_ptr());
        if portal.is_null() || (*portal).portalPinned {
            return None;
        }
        pg_sys::PinPortal(portal);
        Some(Pinned(portal))
    }
}

/// How many portals the session has.
pub fn count() -> usize {
    // SAFETY: while a portal runs, its memory context is a child of the one that all portals share; the list of
    // children is read.
    unsafe {
        if pg_sys::PortalContext.is_null() || (*pg_sys::PortalContext).parent.is_null() {
            return 0;
        }
        let mut child = (*(*pg_sys::PortalContext).parent).firstchild;
        let mut count = 0;
        while !child.is_null() {
            count += 1;
            child = (*child).nextchild;
        }
        count
    }
}

/// Closes a cursor, where it is open.
pub fn close(name: &str) {
    let name = encoding::c_text(name);
    // SAFETY: a portal that is found is open; none of ours is.
    unsafe {
        let portal = pg_sys::SPI_cursor_find(name.as_ptr());
        if !portal.is_null() {
            pg_sys::SPI_cursor_close(portal);
        }
    }
}

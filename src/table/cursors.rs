//! The cursors of the caller, while code of the table's owner runs.
//!
//! That code could close a cursor of the caller and open one of the same name, from which the caller would then fetch
//! with its own rights. So the caller's cursors are pinned, and cursors that are left open are closed.

use crate::core::error::Result;
use crate::pg::Oid;
use crate::pg::portal::{self, Pinned};
use crate::pg::role::current_role;
use crate::pg::spi::connected;
use crate::statements::catalog;
use std::collections::HashSet;

/// The cursors that were open, hardly ever any; pinned until it is dropped.
struct Cursors {
    names: HashSet<String>,
    _pinned: Vec<Pinned>,
}

impl Cursors {
    /// Pins the cursors that are open.
    fn hold() -> Result<Self> {
        // The portal that runs this very call is no cursor.
        if portal::count() <= 1 {
            return Ok(Self { names: HashSet::new(), _pinned: Vec::new() });
        }
        let names = open_cursors()?;
        let pinned = names.iter().filter_map(|name| portal::pin(name)).collect();
        Ok(Self { names, _pinned: pinned })
    }

    /// Closes those that were opened since.
    fn close_others(self) -> Result<()> {
        if portal::count() > 1 {
            open_cursors()?.difference(&self.names).for_each(|name| portal::close(name));
        }
        Ok(())
    }
}

/// Runs `act`, which may run code of this owner; where the caller is another role, that code leaves no cursor behind.
pub fn leaving_none<T>(owner: Oid, act: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded(current_role() != owner, act)
}

/// The same where the caller knows whether code of another role may run.
pub fn guarded<T>(of_another: bool, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let of_caller = if of_another { Some(Cursors::hold()?) } else { None };
    let result = act()?;
    if let Some(of_caller) = of_caller {
        of_caller.close_others()?;
    }
    Ok(result)
}

fn open_cursors() -> Result<HashSet<String>> {
    connected(|spi| {
        let rows = spi.once(&catalog::open_cursors(), &[]);
        (0..rows.count()).map(|row| rows.required_text(row, c"name")).collect()
    })
}

//! The names by which statements find tables. A schema can be renamed under a lock on its tables, and another table
//! take the name: where a call may have waited, the names are compared before the next statement.

use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::lock::{TableLock, lock_and_look};
use crate::pg::relation;
use crate::pg::spi::StatementCheck;
use std::rc::Rc;

/// Tables, each with its schema and its name.
#[derive(Clone, PartialEq)]
pub struct Called(Vec<(Oid, [String; 2])>);

impl Called {
    /// The names that these tables have now.
    pub fn of(tables: impl IntoIterator<Item = Oid>) -> Self {
        Self(tables.into_iter().filter_map(|table| Some((table, relation::full_name(table)?))).collect())
    }

    /// Refuses where one of them has another name by now.
    pub fn require(&self) -> Result<()> {
        let is_renamed = |(table, name): &&(Oid, [String; 2])| relation::full_name(*table).as_ref() != Some(name);
        match self.0.iter().find(is_renamed) {
            Some((table, _)) => Err(Error::renamed_meanwhile(&relation::qualified_name(*table))),
            None => Ok(()),
        }
    }

    /// The same as the check of a connection.
    pub fn into_check(self) -> StatementCheck {
        Rc::new(move || {
            lock_and_look(&[], TableLock::AccessShare);
            self.require()
        })
    }
}

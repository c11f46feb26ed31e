//! Who may audit, and with which locks and rights.

use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::encoding;
use crate::pg::lock::{TableLock, lock_table};
use crate::pg::relation::has_pending_triggers;
use crate::pg::role::{act_as_unfiltered, current_role, has_rights_of, require_select};
use crate::pg::spi::{Connection, checked};
use crate::table::attachment::{Attachment, Judged};
use crate::table::cache;
use crate::table::cursors;
use std::rc::Rc;

/// The attached table for a member of its owner, who audits it. Sales and the division into stripes do not wait for the
/// audit: the locks that a sale needs are released at once, and what is read is locked against its removal alone.
pub fn stock_of_owner() -> Result<Rc<Attachment>> {
    let stock = cache::current()?;
    require_member(&stock, current_role())?;
    stock.require_healthy()?;
    // Changes of the calling statement are not recorded yet.
    if has_pending_triggers(stock.oid) {
        return Err(Error::write_running("the audit"));
    }
    let read = [stock.oid, stock.companions.stripes];
    read.into_iter().chain(stock.companions.movements).for_each(|table| lock_table(table, TableLock::AccessShare));
    cache::release(&stock);
    stock.require_own_partitions()?;
    Ok(stock)
}

/// Refuses a role that is no member of the owner.
pub fn require_member(stock: &Attachment, role: Oid) -> Result<()> {
    if has_rights_of(role, stock.owner) { Ok(()) } else { Err(Error::not_owner(&stock.names.relation)) }
}

/// Runs `act` on the attached table with the rights of its owner, of whom the role in force must be a member.
pub fn as_owner<T>(act: impl FnOnce(&Connection, &Attachment) -> Result<T>) -> Result<T> {
    let stock = stock_of_owner()?;
    cursors::leaving_none(stock.owner, || {
        let _acting = act_as_unfiltered(stock.owner, &stock.search_path);
        checked(stock.check(Judged::Reading), |spi| act(spi, &stock))
    })
}

/// The same where tables are read as a whole: not through indexes, whose predicates the owner may have made to lie.
pub fn as_owner_of_all<T>(act: impl FnOnce(&Connection, &Attachment) -> Result<T>) -> Result<T> {
    let stock = stock_of_owner()?;
    cursors::leaving_none(stock.owner, || {
        let acting = act_as_unfiltered(stock.owner, &stock.search_path);
        acting.without_indexes();
        checked(stock.check(Judged::Reading), |spi| act(spi, &stock))
    })
}

/// Refuses a role that may not read the ledger, or the archive, as a whole.
pub fn require_reader(table: Oid, name: &str, role: Oid) -> Result<()> {
    if require_select(table, role, &encoding::c_text(name)) { Err(Error::rows_hidden(name)) } else { Ok(()) }
}

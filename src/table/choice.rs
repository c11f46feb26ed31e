//! Which of the attached tables a call means.
//!
//! The table that `inventory_ext.stock_table` names; else the one whose schema comes first in the caller's search_path;
//! else the only one. Schemas without USAGE for the caller are skipped, as PostgreSQL skips them; with one table,
//! EXECUTE is enough, unless others have been attached beside it.

use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::args::Arg;
use crate::pg::invalidation::{self, Watch};
use crate::pg::namespace;
use crate::pg::relation;
use crate::pg::role::{is_member, is_superuser};
use crate::pg::settings;
use crate::pg::spi::{Connection, connected};
use crate::statements::catalog as statements;
use crate::table::attachment::Attachment;
use crate::table::configuration::{AttachedTables, attached, configuration};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// The most tables that an error names.
const NAMED_TABLES: usize = 10;

/// The attached tables.
struct List {
    tables: Rc<HashSet<Oid>>,
    /// Several tables have been attached at once.
    several: bool,
    /// Those of them in a schema that was asked for: of a thousand tables most sessions need to know one schema.
    by_schema: RefCell<HashMap<Oid, Rc<[Oid]>>>,
    generation: u64,
    generation_of_places: u64,
}

thread_local! {
    /// Outlives a call: a session reads the list once, and again when it has changed.
    static LIST: RefCell<Option<Rc<List>>> = const { RefCell::new(None) };
}

/// The table that a call means.
pub struct Choice {
    /// The table.
    pub table: Oid,
    /// It was chosen by a setting, not by the search_path.
    named: bool,
    list: Rc<List>,
}

impl Choice {
    /// Whether the attached tables are the same as when the choice was made, as far as messages have been read.
    pub fn is_current(&self) -> bool {
        self.list.is_current()
    }

    /// Refuses a table whose name means another table to the caller: one with the same columns, earlier in the
    /// search_path, which is not attached. It is the copy of a schema that was forgotten, and its stock would stay. A
    /// table that a guest has put into a schema is none: it could hold up every sale.
    pub fn require_unshadowed(&self, stock: &Attachment) -> Result<()> {
        if self.named {
            return Ok(());
        }
        let own_schema = relation::schema_of(self.table);
        for schema in namespace::search_path() {
            if Some(schema) == own_schema {
                break;
            }
            let Some(found) = namespace::relation_in(schema, &stock.table_name) else { continue };
            let is_at_home = relation::owner(found)
                .is_some_and(|owner| is_kin(owner, stock.owner) || namespace::owner(schema) == Some(owner));
            let columns = [&stock.id_name, &stock.quantity_name].map(|column| namespace::name(column));
            if is_at_home && columns.iter().all(|column| namespace::has_column(found, column)) {
                return Err(Error::shadowed_table(&stock.names.relation, &relation::qualified_name(found)));
            }
        }
        Ok(())
    }
}

/// Whether a role could put a table of its own in the place of one of another role: it is that role, a member of it, or
/// a superuser. A guest could only hold up sales by the name.
pub fn is_kin(role: Oid, owner: Oid) -> bool {
    is_member(role, owner) || is_superuser(role)
}

/// Chooses the table that a call of the role in force means.
pub fn choose() -> Result<Choice> {
    let list = list()?;
    if let Some(setting) = settings::stock_table() {
        let found = namespace::relation_named(&setting).filter(|found| list.tables.contains(found));
        let table = found.ok_or_else(|| Error::no_such_stock_table(&setting))?;
        return Ok(Choice { table, named: true, list });
    }
    let only = list.only().filter(|only| !list.several || may_use(*only));
    let table = only.map_or_else(|| list.first_in_path(), Ok)?;
    Ok(Choice { table, named: false, list })
}

/// The only table that is attached, for a function that takes one: no setting and no search_path chooses it.
pub fn only() -> Result<Oid> {
    let list = list()?;
    match list.only() {
        Some(only) => Ok(only),
        None if list.tables.is_empty() => Err(Error::not_attached()),
        None => Err(list.several_usable()),
    }
}

/// All attached tables, by their oids.
pub fn all() -> Result<Vec<Oid>> {
    let mut tables: Vec<Oid> = list()?.tables.iter().copied().collect();
    tables.sort_unstable_by_key(|table| table.to_u32());
    Ok(tables)
}

/// Whether a table is attached.
pub fn is_attached(table: Oid) -> Result<bool> {
    Ok(list()?.tables.contains(&table))
}

impl List {
    fn is_current(&self) -> bool {
        self.generation == invalidation::generation(Watch::List) && self.are_places_current()
    }

    fn are_places_current(&self) -> bool {
        self.generation_of_places == invalidation::generation(Watch::Places)
    }

    fn of(tables: Rc<HashSet<Oid>>, several: bool, [generation, generation_of_places]: [u64; 2]) -> Rc<Self> {
        Rc::new(Self { tables, several, by_schema: RefCell::default(), generation, generation_of_places })
    }

    /// The only table that there is; or the only one that there was, whose error says that it was dropped.
    fn only(&self) -> Option<Oid> {
        let mut there = self.tables.iter().copied().filter(|table| relation::schema_of(*table).is_some());
        match (there.next(), there.next()) {
            (Some(only), None) => Some(only),
            (None, _) => self.tables.iter().next().copied(),
            _ => None,
        }
    }

    fn in_schema(&self, schema: Oid) -> Result<Rc<[Oid]>> {
        if let Some(found) = self.by_schema.borrow().get(&schema) {
            return Ok(Rc::clone(found));
        }
        let relations: Vec<Oid> = connected(|spi| {
            spi.once_latest(&statements::relations_in(), &[Arg::owned(schema)]).required(0, c"relations")
        })?;
        let found: Rc<[Oid]> = relations.into_iter().filter(|relation| self.tables.contains(relation)).collect();
        self.by_schema.borrow_mut().insert(schema, Rc::clone(&found));
        Ok(found)
    }

    fn first_in_path(&self) -> Result<Oid> {
        if self.tables.is_empty() {
            return Err(Error::not_attached());
        }
        for schema in namespace::search_path() {
            match *self.in_schema(schema)? {
                [] => {}
                [table] => return Ok(table),
                ref tables => return Err(several(tables.iter().copied())),
            }
        }
        Err(self.several_usable())
    }

    /// The error that names the tables in schemas which the caller may use.
    fn several_usable(&self) -> Box<Error> {
        let there = self.tables.iter().copied().filter(|table| relation::schema_of(*table).is_some());
        several(there.filter(|table| may_use(*table)))
    }
}

/// Whether the role in force has USAGE on the schema of a table; of one that was dropped, nothing is to be used.
fn may_use(table: Oid) -> bool {
    relation::schema_of(table).is_none_or(namespace::may_use)
}

fn several(tables: impl Iterator<Item = Oid>) -> Box<Error> {
    let mut names: Vec<String> = tables.map(relation::qualified_name).collect();
    names.sort();
    names.truncate(NAMED_TABLES);
    Error::several_tables(&names)
}

fn list() -> Result<Rc<List>> {
    let list = match LIST.with_borrow(Clone::clone) {
        Some(list) if list.is_current() => return Ok(list),
        // A table may have moved to another schema, but most changes of a table are others.
        Some(list) if list.generation == invalidation::generation(Watch::List) => {
            let generations = [list.generation, invalidation::generation(Watch::Places)];
            List::of(Rc::clone(&list.tables), list.several, generations)
        }
        _ => connected(load)?,
    };
    LIST.set(Some(Rc::clone(&list)));
    Ok(list)
}

fn load(spi: &Connection) -> Result<Rc<List>> {
    let configuration = configuration()?;
    loop {
        drop(invalidation::start(Watch::List, &[configuration.oid]));
        invalidation::start_with_all(Watch::Places);
        let generations = [Watch::List, Watch::Places].map(invalidation::generation);
        let AttachedTables { tables, several } = attached(spi, &configuration)?;
        // A table that was dropped counts, too, until its row is gone.
        let several = several || tables.len() > 1;
        let list = List::of(Rc::new(tables.into_iter().collect()), several, generations);
        let is_current = list.is_current();
        drop(invalidation::start(Watch::Places, &list.tables.iter().copied().collect::<Vec<_>>()));
        if is_current {
            return Ok(list);
        }
    }
}

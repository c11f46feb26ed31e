//! Which of the attached tables a call means.
//!
//! The table that `inventory_ext.stock_table` names; else the one whose schema comes first in the caller's search_path;
//! else the only one. Schemas without USAGE for the caller are skipped, as PostgreSQL skips them; with one table,
//! EXECUTE is enough, unless others have been attached beside it.

use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::invalidation::{self, Watch};
use crate::pg::namespace;
use crate::pg::relation;
use crate::pg::role::is_superuser;
use crate::pg::settings;
use crate::pg::spi::{Connection, connected};
use crate::table::attachment::Attachment;
use crate::table::configuration::{AttachedTables, attached, configuration};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The most tables that an error names.
const NAMED_TABLES: usize = 10;

/// The attached tables by their schemas.
struct List {
    tables: HashMap<Oid, Option<Oid>>,
    by_schema: HashMap<Oid, Vec<Oid>>,
    /// Several tables have been attached at once.
    several: bool,
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
        let own_schema = self.list.tables.get(&self.table).copied().flatten();
        let columns = [&stock.id_name, &stock.quantity_name].map(|column| namespace::name(column));
        for schema in namespace::search_path() {
            if Some(schema) == own_schema {
                break;
            }
            let Some(found) = namespace::relation_in(schema, &stock.table_name) else { continue };
            let is_at_home = relation::owner(found).is_some_and(|owner| {
                owner == stock.owner || is_superuser(owner) || namespace::owner(schema) == Some(owner)
            });
            if is_at_home && columns.iter().all(|column| namespace::has_column(found, column)) {
                return Err(Error::shadowed_table(&stock.names.relation, &relation::qualified_name(found)));
            }
        }
        Ok(())
    }
}

/// Chooses the table that a call of the role in force means.
pub fn choose() -> Result<Choice> {
    let list = list()?;
    if let Some(setting) = settings::stock_table() {
        let found = namespace::relation_named(&setting).filter(|found| list.tables.contains_key(found));
        let table = found.ok_or_else(|| Error::no_such_stock_table(&setting))?;
        return Ok(Choice { table, named: true, list });
    }
    let only = list.only().filter(|only| !list.several || list.may_use(*only));
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

/// Whether a table is attached.
pub fn is_attached(table: Oid) -> Result<bool> {
    Ok(list()?.tables.contains_key(&table))
}

impl List {
    fn is_current(&self) -> bool {
        self.generation == invalidation::generation(Watch::List) && self.are_places_current()
    }

    fn are_places_current(&self) -> bool {
        self.generation_of_places == invalidation::generation(Watch::Places)
    }

    fn of(tables: HashMap<Oid, Option<Oid>>, several: bool, [generation, generation_of_places]: [u64; 2]) -> Rc<Self> {
        let mut by_schema = HashMap::<Oid, Vec<Oid>>::new();
        for (table, schema) in &tables {
            if let Some(schema) = schema {
                by_schema.entry(*schema).or_default().push(*table);
            }
        }
        Rc::new(Self { tables, by_schema, several, generation, generation_of_places })
    }

    /// The only table that there is; or the only one that there was, whose error says that it was dropped.
    fn only(&self) -> Option<Oid> {
        let mut there = self.by_schema.values().flatten();
        match (there.next(), there.next()) {
            (Some(only), None) => Some(*only),
            (None, _) => self.tables.keys().next().copied(),
            _ => None,
        }
    }

    /// Whether the role in force has USAGE on the schema of a table; of one that was dropped, nothing is to be used.
    fn may_use(&self, table: Oid) -> bool {
        self.tables.get(&table).copied().flatten().is_none_or(namespace::may_use)
    }

    fn first_in_path(&self) -> Result<Oid> {
        match namespace::search_path().iter().find_map(|schema| self.by_schema.get(schema)).map(Vec::as_slice) {
            Some([table]) => Ok(*table),
            Some(tables) => Err(several(tables.iter().copied())),
            None if self.tables.is_empty() => Err(Error::not_attached()),
            None => Err(self.several_usable()),
        }
    }

    /// The error that names the tables in schemas which the caller may use.
    fn several_usable(&self) -> Box<Error> {
        let usable = self.by_schema.iter().filter(|(schema, _)| namespace::may_use(**schema));
        several(usable.flat_map(|(_, tables)| tables.iter().copied()))
    }
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
            let tables = list.tables.keys().map(|table| (*table, relation::schema_of(*table))).collect();
            List::of(tables, list.several, generations)
        }
        _ => connected(load)?,
    };
    LIST.set(Some(Rc::clone(&list)));
    Ok(list)
}

fn load(spi: &Connection) -> Result<Rc<List>> {
    let configuration = configuration(spi)?;
    loop {
        invalidation::start(Watch::List, &[configuration.oid]);
        invalidation::start_with_all(Watch::Places);
        let generations = [Watch::List, Watch::Places].map(invalidation::generation);
        let AttachedTables { tables, several } = attached(spi, &configuration)?;
        let list = List::of(tables.into_iter().collect(), several, generations);
        let is_current = list.is_current();
        invalidation::start(Watch::Places, &list.tables.keys().copied().collect::<Vec<_>>());
        if is_current {
            return Ok(list);
        }
    }
}

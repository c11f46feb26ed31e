//! The native path: rows of the stock table and of the ledger written without the executor.
//!
//! Chosen when the attachment is looked up, where nothing of a user's can run on the write, and nothing that the
//! executor would check is left out. The obstacle, where there is one, is reported at DEBUG1.

use crate::core::obstacle::Obstacle;
use crate::core::part::{Companion, Part};
use crate::pg::Oid;
use crate::pg::lookup::{self, KeyIndex};
use crate::pg::namespace;
use crate::pg::relation;
use crate::pg::writability::{self, RowFacts, StockColumns};
use crate::table::catalog::{Description, RelationKind};
use crate::table::triggers::{STOCK_GUARD, TRIGGERS, TriggerDefinition};

/// What native writes of an attachment need to know.
pub struct Native {
    /// The index that rows are found by without a statement, where there is one.
    pub key: Option<KeyIndex>,
    /// About rows of the stock table.
    pub row: RowFacts,
    /// The ledger, where there is one.
    pub ledger: Option<LedgerColumns>,
    /// The number of the quantity column of the table of stripes, where that can be written natively, too.
    pub stripes: Option<i16>,
}

/// The sequence of the movements, and the numbers of the ledger's columns.
pub struct LedgerColumns {
    /// The sequence of `movement_id`.
    pub sequence: Oid,
    /// `movement_id`.
    pub number: i16,
    /// `inventory_id`.
    pub item: i16,
    /// `stripe`.
    pub stripe: i16,
    /// `kind`.
    pub kind: i16,
    /// `old_quantity`.
    pub old_quantity: i16,
    /// `new_quantity`.
    pub new_quantity: i16,
    /// `delta`.
    pub delta: i16,
    /// `reference`.
    pub reference: i16,
    /// `idempotency_key`.
    pub key: i16,
    /// `actor`.
    pub actor: i16,
    /// `xact_id`.
    pub transaction: i16,
    /// `occurred_at`.
    pub time: i16,
}

/// The number of its columns.
const LEDGER_COLUMNS: usize = 12;

/// Whether and how an attachment can be written natively.
pub fn of(
    table: &Description,
    (columns, run_as_caller, forced_rls): (&StockColumns<'_>, bool, bool),
    (movements, stripes): (Option<Oid>, Oid),
    extension_schema: Option<Oid>,
) -> Result<Native, Obstacle> {
    if run_as_caller {
        return Err(Obstacle::RunAsCaller);
    }
    if forced_rls {
        return Err(Obstacle::ForcedRowSecurity);
    }
    if table.kind != RelationKind::Ordinary || table.has_children {
        return Err(Obstacle::Partitioned);
    }
    let owns_schemas = movements.into_iter().chain([stripes]).filter_map(relation::schema_of);
    if !owns_schemas.into_iter().all(|schema| namespace::may_be_used_by(schema, table.owner)) {
        return Err(Obstacle::Ledger);
    }
    let row = writability::of_stock(table.oid, columns, is_ours(Part::Stock, extension_schema))?;
    let ledger = movements.map(|ledger| ledger_columns(ledger, extension_schema)).transpose()?;
    let of_stripes = is_ours(Part::Companion(Companion::Stripes), extension_schema);
    let column = relation::column_number(stripes, c"quantity");
    let stripes = column.filter(|column| writability::of_stripes(stripes, *column, of_stripes).is_ok());
    Ok(Native { key: lookup::key_index(table.oid, columns.id), row, ledger, stripes })
}

fn is_ours(part: Part, extension_schema: Option<Oid>) -> impl Fn(&str, Oid, i16) -> bool {
    move |name, function, bits| {
        let named = |ours: &&TriggerDefinition| ours.part == part && ours.name == name && ours.bits() == bits;
        let ours = TRIGGERS.iter().chain([&STOCK_GUARD]).find(named);
        ours.zip(relation::function_name(function))
            .is_some_and(|(ours, (schema, function))| Some(schema) == extension_schema && function == ours.function)
    }
}

fn ledger_columns(ledger: Oid, extension_schema: Option<Oid>) -> Result<LedgerColumns, Obstacle> {
    let ours = is_ours(Part::Companion(Companion::Movements), extension_schema);
    writability::of_ledger(ledger, LEDGER_COLUMNS, ours)?;
    let column = |name| relation::column_number(ledger, name).ok_or(Obstacle::Ledger);
    let number = column(c"movement_id")?;
    Ok(LedgerColumns {
        sequence: writability::identity_sequence(ledger, number).ok_or(Obstacle::Ledger)?,
        number,
        item: column(c"inventory_id")?,
        stripe: column(c"stripe")?,
        kind: column(c"kind")?,
        old_quantity: column(c"old_quantity")?,
        new_quantity: column(c"new_quantity")?,
        delta: column(c"delta")?,
        reference: column(c"reference")?,
        key: column(c"idempotency_key")?,
        actor: column(c"actor")?,
        transaction: column(c"xact_id")?,
        time: column(c"occurred_at")?,
    })
}

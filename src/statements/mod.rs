//! Every SQL text, as pure functions of names and column types.
//!
//! The statements of a call are variants of [`Statement`]; their plans are kept with the attachment. Other statements
//! are functions of the modules here. A text holds names, never values: values are bound. Every name and operator is
//! qualified, so that the search_path of a caller has no effect. A test compares all texts with golden/*.sql.

pub mod advice;
pub mod archive;
pub mod attach;
pub mod audit;
pub mod audit_tables;
pub mod catalog;
pub mod companions;
pub mod layout;
mod ledger;
pub mod leftover;
pub mod opening;
pub mod past;
pub mod queue;
pub mod report;
pub mod requests;
mod rows;
mod sale;
pub mod schedule;
mod stripes;
mod totals;

#[cfg(test)]
mod golden;

use crate::core::error::{Error, Result};
use crate::core::item_id::IdType;
use crate::core::part::{Access, Companion, Part};
use crate::pg::spi::Sql;
use crate::pg::types::SqlType;

/// The names and types of an attached table and its companions. Names are quoted, those of tables with their schema.
#[derive(Clone)]
pub struct Names {
    /// The stock table.
    pub relation: String,
    /// It is a partitioned table.
    pub partitioned: bool,
    /// The id column.
    pub id: String,
    /// The type of ids.
    pub id_type: IdType,
    /// The quantity column.
    pub quantity: String,
    /// Its type.
    pub quantity_type: SqlType,
    /// A row that is locked can be named by its ctid: not in a partitioned table, where partitions share ctids, and not
    /// with the caller's rights, who would need SELECT on the whole table and not on two columns.
    pub by_ctid: bool,
    /// The ledger, where there is one.
    pub movements: Option<String>,
    /// The idempotency keys.
    pub requests: String,
    /// The stripes of hot items.
    pub stripes: String,
    /// The totals last written to the rows of striped items.
    pub totals: String,
}

impl Names {
    /// The stock table under the alias `stock`. ONLY: rows of tables that inherit from an ordinary stock table are no
    /// items.
    fn source(&self) -> String {
        let only = if self.partitioned { "" } else { "ONLY " };
        format!("{only}{} AS stock", self.relation)
    }

    /// The condition that names one item by $1.
    fn is_item(&self) -> String {
        format!("stock.{} OPERATOR(pg_catalog.=) $1", self.id)
    }

    /// The type with which quantities are computed: a whole number for the whole-number types.
    fn amount_type(&self) -> SqlType {
        if self.quantity_type.is_integer() { SqlType::Int8 } else { SqlType::Numeric }
    }

    /// The same as a name for a cast.
    fn amount(&self) -> &'static str {
        if self.quantity_type.is_integer() { "pg_catalog.int8" } else { "pg_catalog.numeric" }
    }

    fn id_parameter(&self) -> SqlType {
        SqlType::of_id(self.id_type)
    }

    fn ids_parameter(&self) -> SqlType {
        SqlType::of_ids(self.id_type)
    }

    /// The order in which items are locked: texts are sorted by bytes, in any collation of the column.
    fn id_order(&self) -> String {
        let collation = if self.id_type == IdType::Text { " COLLATE pg_catalog.\"C\"" } else { "" };
        format!("stock.{}{collation}", self.id)
    }

    fn ledger(&self) -> Result<&str> {
        self.movements.as_deref().ok_or_else(|| Error::internal("a movement is recorded where there is no ledger"))
    }
}

/// The row lock of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockClause {
    /// FOR UPDATE
    Update,
    /// FOR NO KEY UPDATE
    NoKeyUpdate,
    /// FOR KEY SHARE
    KeyShare,
    /// None.
    Unlocked,
}

impl LockClause {
    fn clause(self) -> &'static str {
        match self {
            Self::Update => "\n   FOR UPDATE",
            Self::NoKeyUpdate => "\n   FOR NO KEY UPDATE",
            Self::KeyShare => "\n   FOR KEY SHARE",
            Self::Unlocked => "",
        }
    }
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident => $sql:expr;)*) => {
        /// A statement whose plan is kept.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Statement {
            $($(#[$doc])* $name,)*
        }

        impl Statement {
            /// All statements, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The statement for these names and types.
            pub fn sql(self, names: &Names) -> Result<Sql> {
                match self {
                    $(Self::$name => ($sql)(names),)*
                }
            }
        }
    };
}

statements! {
    /// Locks an item that has enough.
    LockEnough => |names| sale::lock_enough(names, LockClause::Update);
    /// The same, with the weaker lock.
    LockEnoughNoKey => |names| sale::lock_enough(names, LockClause::NoKeyUpdate);
    /// Locks an item in any case.
    LockItem => |names| sale::lock_item(names, LockClause::Update);
    /// The same, with the weaker lock.
    LockItemNoKey => |names| sale::lock_item(names, LockClause::NoKeyUpdate);
    /// Reads an item without a lock.
    LookAtItem => sale::look;
    /// Writes a deduction.
    Deduct => sale::deduct;
    /// Reads an item as a numeric.
    ReadAvailable => sale::read_available;
    /// Returns a row where the rights in force allow a change of an item.
    MayChangeItem => sale::may_change;
    /// Locks many items in the order of their ids.
    LockItems => |names| rows::lock_items(names, LockClause::Update);
    /// The same, with the weaker lock.
    LockItemsNoKey => |names| rows::lock_items(names, LockClause::NoKeyUpdate);
    /// Writes many changes.
    ChangeItems => rows::change_items;
    /// Returns those of some items that may be read.
    VisibleItems => |names| rows::permitted_items(names, LockClause::Unlocked);
    /// Returns those of some items that may be changed.
    ChangeableItems => |names| rows::permitted_items(names, LockClause::KeyShare);
    /// Sets an item whose row holds more digits than a quantity has.
    RepairItem => rows::repair_item;
    /// Records one movement of an item.
    RecordItem => |names: &Names| ledger::record(names, names.quantity_type);
    /// Records one movement of a stripe.
    RecordStripe => |names| ledger::record(names, SqlType::Numeric);
    /// Records many movements of one act.
    RecordMany => ledger::record_many;
    /// Claims an idempotency key.
    ClaimKey => requests::claim;
    /// Reads the request of a claimed key.
    ReadKey => requests::read;
    /// Keeps the result of a call under its key.
    KeepResult => requests::keep_result;
    /// Locks a stripe that has enough.
    LockStripe => stripes::lock_stripe;
    /// Reads all stripes of an item without a lock.
    LookAtStripes => |names| stripes::read_all(names, LockClause::Unlocked);
    /// Locks all stripes of an item.
    LockStripes => |names| stripes::read_all(names, LockClause::Update);
    /// Adds up the stripes of an item.
    SumOfItem => stripes::sum_of_item;
    /// Locks some stripes, of any items.
    LockSomeStripes => stripes::lock_some;
    /// Writes one stripe.
    ChangeStripe => stripes::change_stripe;
    /// Writes many stripes.
    ChangeStripes => stripes::change_stripes;
    /// Adds up the stripes of every item.
    SumsOfItems => totals::sums;
    /// Finds the items whose total lags.
    FindLagging => |names| totals::lagging(names, LockClause::Unlocked);
    /// Locks the items whose total lags.
    LockLagging => |names| totals::lagging(names, LockClause::NoKeyUpdate);
    /// Writes totals into the rows of their items.
    WriteTotals => totals::write;
    /// Keeps the totals that were written.
    KeepTotals => totals::keep;
}

impl Statement {
    /// The table that it names, which is one, and what it does there.
    pub fn uses(self) -> (Part, Access) {
        let companion = |companion, access| (Part::Companion(companion), access);
        match self {
            Self::ReadAvailable => (Part::Stock, Access::Read),
            // Some of these only read; a write follows.
            Self::LookAtItem
            | Self::VisibleItems
            | Self::FindLagging
            | Self::LockEnough
            | Self::LockEnoughNoKey
            | Self::LockItem
            | Self::LockItemNoKey
            | Self::LockItems
            | Self::LockItemsNoKey
            | Self::LockLagging
            | Self::MayChangeItem
            | Self::ChangeableItems
            | Self::Deduct
            | Self::ChangeItems
            | Self::RepairItem
            | Self::WriteTotals => (Part::Stock, Access::Write),
            Self::RecordItem | Self::RecordStripe | Self::RecordMany => companion(Companion::Movements, Access::Write),
            Self::ReadKey => companion(Companion::Requests, Access::Read),
            Self::ClaimKey | Self::KeepResult => companion(Companion::Requests, Access::Write),
            Self::LookAtStripes | Self::SumOfItem | Self::SumsOfItems => companion(Companion::Stripes, Access::Read),
            Self::LockStripe | Self::LockStripes | Self::LockSomeStripes | Self::ChangeStripe | Self::ChangeStripes => {
                companion(Companion::Stripes, Access::Write)
            }
            Self::KeepTotals => companion(Companion::Totals, Access::Write),
        }
    }
}

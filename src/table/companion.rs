//! The columns that a companion must have: names, types, NOT NULL and the source of the values.
//!
//! Checked when a table left by an earlier attach is reused, when the attachment is cached, and after each change. A
//! user may add columns.

use crate::core::item_id::IdType;
use crate::core::part::Companion;
use crate::pg::Oid;
use crate::pg::relation::{Facts, Source};
use crate::pg::types::SqlType;

/// A column of a companion, as it was created.
struct Column {
    name: &'static str,
    /// Its type; None for the id of an item, which has the type of the stock table's ids.
    sql_type: Option<SqlType>,
    not_null: bool,
    source: Source,
}

impl Column {
    fn has_type(&self, type_oid: Oid, id_type: Option<IdType>) -> bool {
        match (self.sql_type, id_type) {
            (Some(sql_type), _) => type_oid == sql_type.oid(),
            (None, Some(id_type)) => type_oid == SqlType::of_id(id_type).oid(),
            (None, None) => SqlType::id_type(type_oid).is_some(),
        }
    }
}

const fn column(name: &'static str, sql_type: SqlType) -> Column {
    Column { name, sql_type: Some(sql_type), not_null: true, source: Source::Writer }
}

const fn nullable(name: &'static str, sql_type: SqlType) -> Column {
    Column { name, sql_type: Some(sql_type), not_null: false, source: Source::Writer }
}

/// The id of an item.
const ITEM: Column = Column { name: "inventory_id", sql_type: None, not_null: true, source: Source::Writer };

const MOVEMENTS: &[Column] = &[
    Column { source: Source::Identity, ..column("movement_id", SqlType::Int8) },
    ITEM,
    nullable("stripe", SqlType::Int2),
    column("kind", SqlType::Text),
    column("old_quantity", SqlType::Numeric),
    column("new_quantity", SqlType::Numeric),
    Column { source: Source::Expression, ..column("delta", SqlType::Numeric) },
    nullable("reference", SqlType::Text),
    nullable("idempotency_key", SqlType::Text),
    column("actor", SqlType::Text),
    column("xact_id", SqlType::Xid8),
    column("occurred_at", SqlType::Timestamptz),
];

const REQUESTS: &[Column] = &[
    column("idempotency_key", SqlType::Text),
    column("function_name", SqlType::Text),
    column("arguments_hash", SqlType::Bytea),
    nullable("answer", SqlType::Json),
    column("created_at", SqlType::Timestamptz),
];

const STRIPES: &[Column] = &[ITEM, column("stripe", SqlType::Int2), column("quantity", SqlType::Numeric)];

const TOTALS: &[Column] = &[ITEM, column("quantity", SqlType::Numeric)];

impl Companion {
    /// Follows the name of the stock table in the name of the companion.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Movements => "_movement",
            Self::Requests => "_request",
            Self::Stripes => "_stripe",
            Self::Totals => "_stripe_total",
        }
    }

    /// The reason of the error where it was dropped.
    pub fn reason_dropped(self) -> &'static str {
        match self {
            Self::Movements => "movement_table_dropped",
            Self::Requests => "request_table_dropped",
            Self::Stripes => "stripe_table_dropped",
            Self::Totals => "total_table_dropped",
        }
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Self::Movements => MOVEMENTS,
            Self::Requests => REQUESTS,
            Self::Stripes => STRIPES,
            Self::Totals => TOTALS,
        }
    }

    /// The reason why a table cannot be this companion: it must have our columns, with ids of this type, where it is
    /// known, and the owner of the stock table.
    pub fn problem(self, facts: &Facts, owner: Oid, id_type: Option<IdType>) -> Option<String> {
        if !facts.ordinary {
            return Some("it is no ordinary table".to_owned());
        }
        if facts.inherits {
            return Some("it inherits from another table, or another one from it".to_owned());
        }
        if facts.owner != owner {
            return Some("its owner is not the owner of the stock table".to_owned());
        }
        let wrong = self.columns().iter().find(|ours| {
            let found = facts.columns.iter().find(|column| column.name == ours.name);
            !found.is_some_and(|column| {
                ours.has_type(column.type_oid, id_type)
                    && column.modifier == -1
                    && (column.not_null || !ours.not_null)
                    && column.source == ours.source
            })
        });
        wrong.map(|ours| format!("column {} is not as it was created", ours.name))
    }

    /// Whether a column is one of ours.
    pub fn has_column(self, name: &str) -> bool {
        self.columns().iter().any(|ours| ours.name == name)
    }
}

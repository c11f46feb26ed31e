//! The columns that a companion must have: names, types, NOT NULL and the source of the values.
//!
//! Checked when a table left by an earlier attach is reused, when the attachment is cached, and after each change. A
//! user may add columns.

use crate::core::item_id::IdType;
use crate::core::part::Companion;
use crate::pg::Oid;
use crate::pg::relation::{Facts, Source};
use crate::pg::types::SqlType;

/// A column of a table of ours, as it was created.
pub struct Column {
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

/// A column that is NOT NULL.
pub const fn column(name: &'static str, sql_type: SqlType) -> Column {
    Column { name, sql_type: Some(sql_type), not_null: true, source: Source::Writer }
}

/// A column that is not.
pub const fn nullable(name: &'static str, sql_type: SqlType) -> Column {
    Column { name, sql_type: Some(sql_type), not_null: false, source: Source::Writer }
}

/// The number that PostgreSQL gives a row.
pub const fn identity(name: &'static str) -> Column {
    Column { source: Source::Identity, ..column(name, SqlType::Int8) }
}

/// The id of an item.
pub const ITEM: Column = Column { name: "inventory_id", sql_type: None, not_null: true, source: Source::Writer };

const MOVEMENTS: &[Column] = &[
    identity("movement_id"),
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

    /// The reason why a table cannot be this companion.
    pub fn problem(self, facts: &Facts, owner: Oid, id_type: Option<IdType>) -> Option<String> {
        problem(self.columns(), facts, owner, id_type)
    }

    /// Whether a column is one of ours.
    pub fn has_column(self, name: &str) -> bool {
        self.columns().iter().any(|ours| ours.name == name)
    }
}

/// The reason why a table cannot be one of ours: it must have these columns, with ids of this type, where it is known,
/// and the owner of the stock table.
pub fn problem(ours: &[Column], facts: &Facts, owner: Oid, id_type: Option<IdType>) -> Option<String> {
    if !facts.ordinary {
        return Some("it is no ordinary table".to_owned());
    }
    if facts.inherits {
        return Some("it inherits from another table, or another one from it".to_owned());
    }
    if facts.owner != owner {
        return Some("its owner is not the owner of the stock table".to_owned());
    }
    let wrong = ours.iter().find(|ours| {
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

/// The length of a name in PostgreSQL, in bytes.
pub const MAX_NAME_BYTES: usize = 63;

/// The stock table's name and a suffix, cut where a name ends, between two characters.
pub fn companion_name(table: &str, suffix: &str) -> String {
    let mut end = table.len().min(MAX_NAME_BYTES - suffix.len());
    while !table.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &table[..end])
}

#[cfg(test)]
mod tests {
    use super::companion_name;

    #[test]
    fn a_long_name_is_cut_between_two_characters() {
        assert_eq!(companion_name("inventory", "_movement"), "inventory_movement");
        assert_eq!(companion_name(&"x".repeat(63), "_movement"), format!("{}_movement", "x".repeat(54)));
        let umlauts = companion_name(&"ä".repeat(31), "_request");
        assert_eq!(umlauts, format!("{}_request", "ä".repeat(27)));
    }
}

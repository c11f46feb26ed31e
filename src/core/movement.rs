//! The kinds of movement that the ledger records.

/// Why a quantity changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovementKind {
    /// The item was inserted, or its table was attached.
    Opening,
    /// decrement_inventory and decrement_inventory_batch.
    Sale,
    /// restock_inventory.
    Restock,
    /// adjust_inventory.
    Adjustment,
    /// transfer_inventory, and stock that moves between an item and its stripes.
    Transfer,
    /// A direct write to the stock table.
    External,
    /// The item was deleted.
    Closing,
    /// reconcile_inventory: a change that nothing has recorded when it was made.
    Correction,
}

impl MovementKind {
    /// The word in the column `kind` of the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Sale => "sale",
            Self::Restock => "restock",
            Self::Adjustment => "adjustment",
            Self::Transfer => "transfer",
            Self::External => "external",
            Self::Closing => "closing",
            Self::Correction => "correction",
        }
    }
}

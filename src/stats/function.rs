//! The functions whose calls are counted.

/// A public function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "each has the name of its function")]
pub enum Function {
    DecrementInventory = 1,
    DecrementItem,
    DecrementInventoryBatch,
    RestockInventory,
    AdjustInventory,
    TransferInventory,
    StripeInventory,
    UnstripeInventory,
    AvailableInventory,
    PurgeRequests,
    AuditInventory,
    AuditSales,
    ReconcileInventory,
    ArchiveMovements,
    VerifyInventory,
    InventoryAt,
    InventoryChanges,
}

impl Function {
    const ALL: [Self; 17] = [
        Self::DecrementInventory,
        Self::DecrementItem,
        Self::DecrementInventoryBatch,
        Self::RestockInventory,
        Self::AdjustInventory,
        Self::TransferInventory,
        Self::StripeInventory,
        Self::UnstripeInventory,
        Self::AvailableInventory,
        Self::PurgeRequests,
        Self::AuditInventory,
        Self::AuditSales,
        Self::ReconcileInventory,
        Self::ArchiveMovements,
        Self::VerifyInventory,
        Self::InventoryAt,
        Self::InventoryChanges,
    ];

    /// The function of a number in shared memory.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|function| *function as u8 == number)
    }

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::DecrementInventory => "decrement_inventory",
            Self::DecrementItem => "decrement_item",
            Self::DecrementInventoryBatch => "decrement_inventory_batch",
            Self::RestockInventory => "restock_inventory",
            Self::AdjustInventory => "adjust_inventory",
            Self::TransferInventory => "transfer_inventory",
            Self::StripeInventory => "stripe_inventory",
            Self::UnstripeInventory => "unstripe_inventory",
            Self::AvailableInventory => "available_inventory",
            Self::PurgeRequests => "purge_requests",
            Self::AuditInventory => "audit_inventory",
            Self::AuditSales => "audit_sales",
            Self::ReconcileInventory => "reconcile_inventory",
            Self::ArchiveMovements => "archive_movements",
            Self::VerifyInventory => "verify_inventory",
            Self::InventoryAt => "inventory_at",
            Self::InventoryChanges => "inventory_changes",
        }
    }
}

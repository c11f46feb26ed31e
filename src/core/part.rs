//! The tables of an attachment.

/// A table of the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The stock table, or a partition of it.
    Stock,
    /// A table that belongs to it.
    Companion(Companion),
}

/// A table that attach creates beside the stock table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// The ledger.
    Movements,
    /// The idempotency keys.
    Requests,
    /// The stripes of hot items.
    Stripes,
    /// The totals last written to the rows of striped items.
    Totals,
}

impl Companion {
    /// All of them, in the order in which they are locked.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Stripes, Self::Totals, Self::Movements];
}

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

/// What a statement does with the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads them.
    Read,
    /// Writes them; or reads or locks what is written next: a lock that is made stronger later deadlocks with REINDEX.
    Write,
}

impl Companion {
    /// All of them, in the order in which they are locked.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Stripes, Self::Totals, Self::Movements];
}

//! Why a table cannot be written without the executor.

/// What the executor would do or check that a native write leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Statements run with the rights of the caller.
    RunAsCaller,
    /// Row-level security is forced on the owner.
    ForcedRowSecurity,
    /// Partitioned, a partition, or in an inheritance tree.
    Partitioned,
    /// Of another table access method than heap.
    NoHeap,
    /// A rule.
    Rule,
    /// A trigger that is not one of ours, nor one of a foreign key.
    Trigger,
    /// A generated column.
    Generated,
    /// A CHECK on the quantity, or one whose result may change, or that is not valid yet; or ours was changed.
    Check,
    /// A foreign key that contains the quantity.
    ForeignKey,
    /// An index on the quantity or an expression, a partial or deferrable one, or an exclusion constraint.
    Index,
    /// The ledger has other columns, defaults, triggers, constraints or rules than it was made with.
    Ledger,
}

impl Obstacle {
    /// The words of the message.
    pub fn words(self) -> &'static str {
        match self {
            Self::RunAsCaller => "it was attached with p_run_as => 'caller'",
            Self::ForcedRowSecurity => "it has forced row-level security",
            Self::Partitioned => "it is partitioned, a partition, or in an inheritance tree",
            Self::NoHeap => "its access method is not heap",
            Self::Rule => "it, or its ledger, has a rule",
            Self::Trigger => "it, or its ledger, has a trigger of a user",
            Self::Generated => "it has a generated column",
            Self::Check => "it has a CHECK or NOT NULL constraint that must be evaluated",
            Self::ForeignKey => "it has a foreign key that must be evaluated",
            Self::Index => "it, or its ledger, has an index that needs the executor",
            Self::Ledger => "its ledger is not as it was created, or not to be used by its owner",
        }
    }
}

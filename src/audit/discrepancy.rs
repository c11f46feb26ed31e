//! What an audit finds.

use crate::core::decimal_text;
use crate::core::item_id::ItemId;
use crate::core::json::exact;
use crate::core::quantity::Quantity;
use crate::pg::report;
use serde_json::{Value, json};

/// The most discrepancies that are returned; all are counted.
const MOST_FOUND: usize = 100_000;

/// The kind of a discrepancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The stock differs from the last movement.
    OnHandDrift,
    /// A movement does not begin where the one before ended.
    BrokenChain,
    /// A stripe differs from its last movement.
    StripeDrift,
    /// An item of the ledger is not in the stock table.
    MissingItem,
    /// An item of the stock table is not in the ledger.
    UnknownItem,
    /// A sealed movement was altered.
    AlteredMovement,
    /// A sealed movement was removed.
    MissingMovement,
    /// A movement was added among sealed ones.
    InsertedMovement,
    /// A seal was altered, or what it keeps.
    AlteredSeal,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::OnHandDrift,
        Self::BrokenChain,
        Self::StripeDrift,
        Self::MissingItem,
        Self::UnknownItem,
        Self::AlteredMovement,
        Self::MissingMovement,
        Self::InsertedMovement,
        Self::AlteredSeal,
    ];

    /// Whether it is about what was sealed.
    pub fn is_of_seals(self) -> bool {
        matches!(self, Self::AlteredMovement | Self::MissingMovement | Self::InsertedMovement | Self::AlteredSeal)
    }

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnHandDrift => "on_hand_drift",
            Self::BrokenChain => "broken_chain",
            Self::StripeDrift => "stripe_drift",
            Self::MissingItem => "missing_item",
            Self::UnknownItem => "unknown_item",
            Self::AlteredMovement => "altered_movement",
            Self::MissingMovement => "missing_movement",
            Self::InsertedMovement => "inserted_movement",
            Self::AlteredSeal => "altered_seal",
        }
    }
}

/// One discrepancy.
#[derive(Clone, Debug)]
pub struct Discrepancy {
    /// Its kind.
    pub kind: Kind,
    /// The item; none where a seal as a whole was altered.
    pub item: Option<ItemId>,
    /// The stripe.
    pub stripe: Option<i16>,
    /// The quantity that the ledger says.
    pub expected: Option<String>,
    /// The quantity that there is.
    pub actual: Option<String>,
    /// The movement after which it arose, and when that was written.
    pub after: Option<(i64, i64)>,
    /// The movement before which it arose, and when that was written.
    pub before: Option<(i64, i64)>,
    /// The sealed movement that it is about.
    pub movement: Option<i64>,
    /// Facts for a reader, beside the movement.
    pub facts: Value,
}

impl Discrepancy {
    /// Of an item.
    pub fn new(kind: Kind, item: &ItemId, stripe: i16) -> Self {
        Self {
            kind,
            item: Some(item.clone()),
            stripe: (stripe > 0).then_some(stripe),
            expected: None,
            actual: None,
            after: None,
            before: None,
            movement: None,
            facts: Value::Null,
        }
    }

    /// Of a seal.
    pub fn of_seal(number: i64, message: &str, item: Option<ItemId>) -> Self {
        Self {
            kind: Kind::AlteredSeal,
            item,
            stripe: None,
            expected: None,
            actual: None,
            after: None,
            before: None,
            movement: None,
            facts: json!({"seal": number, "problem": message}),
        }
    }

    /// What there is less what the ledger says; none where one of them is no number.
    pub fn difference(&self) -> Option<String> {
        let read = |text: &Option<String>| text.as_deref().map_or(Some(Quantity::ZERO), |text| text.parse().ok());
        if self.expected.is_none() && self.actual.is_none() {
            return None;
        }
        let difference = read(&self.actual)?.checked_sub(read(&self.expected)?)?;
        Some(difference.to_string())
    }

    /// Facts for a reader. They are made here, because very many discrepancies may be in memory.
    pub fn detail(&self) -> Value {
        match (self.facts.clone(), self.movement) {
            (facts, None) => facts,
            (Value::Object(mut facts), Some(movement)) => {
                facts.insert("movement".to_owned(), movement.into());
                Value::Object(facts)
            }
            (_, Some(movement)) => json!({"movement": movement}),
        }
    }

    /// As it is kept with the run.
    pub fn to_json(&self) -> Value {
        let number = |text: &Option<String>| text.as_deref().map(exact);
        json!({
            "kind": self.kind.name(), "inventory_id": self.item.as_ref().map(ItemId::to_json), "stripe": self.stripe,
            "expected": number(&self.expected), "actual": number(&self.actual),
            "difference": number(&self.difference()), "after_movement": self.after.map(|(id, _)| id),
            "before_movement": self.before.map(|(id, _)| id), "detail": self.detail(),
        })
    }

    /// Whether two quantities differ.
    pub fn differ(expected: &str, actual: &str) -> bool {
        !decimal_text::are_equal(expected, actual)
    }
}

/// The discrepancies that were found.
pub struct Findings {
    /// Those that are returned.
    pub list: Vec<Discrepancy>,
    /// How many there are; more than in the list where those are too many.
    pub count: i64,
    most: usize,
    is_wanted: fn(Kind) -> bool,
}

impl Default for Findings {
    fn default() -> Self {
        Self::up_to(MOST_FOUND)
    }
}

impl Findings {
    /// None yet; so many of them are returned at most.
    pub fn up_to(most: usize) -> Self {
        Self { list: Vec::new(), count: 0, most, is_wanted: |_| true }
    }

    /// Those of these kinds.
    pub fn only(self, is_wanted: fn(Kind) -> bool) -> Self {
        Self { is_wanted, ..self }
    }

    /// None yet, and of the same kinds as these.
    pub fn like(&self) -> Self {
        Self::up_to(self.most).only(self.is_wanted)
    }

    /// Adds one.
    pub fn push(&mut self, found: Discrepancy) {
        if (self.is_wanted)(found.kind) {
            self.count += 1;
            if self.list.len() < self.most {
                self.list.push(found);
            }
        }
    }

    /// Adds others.
    pub fn append(&mut self, others: Self) {
        self.count += others.count;
        self.list.extend(others.list.into_iter().take(self.most.saturating_sub(self.list.len())));
    }

    /// Those that are returned, with a warning where they are not all.
    pub fn returned(self) -> Vec<Discrepancy> {
        if self.count > i64::try_from(self.list.len()).unwrap_or(i64::MAX) {
            report::warning(
                &format!("{} discrepancies were found, of which not all are returned", self.count),
                "Look at those that are returned first; most have one cause.",
            );
        }
        self.list
    }
}

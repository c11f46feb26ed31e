//! Every error of the extension as data: SQLSTATE, MESSAGE, DETAIL, HINT. `pg::report` reports them.
//!
//! DETAIL is one JSON object whose first key is `reason`; a fact that is unknown is null. HINT is an action. A
//! MESSAGE holds no text of a caller: in the `postgrest` style it becomes an HTTP status line. Errors that PostgreSQL
//! raises itself are never converted: they pass unchanged.

mod attachment;
mod audit;
mod input;
mod protection;
mod stock;

use serde_json::{Map, Value, json};

/// The result of everything that can be refused.
pub type Result<T, E = Box<Error>> = std::result::Result<T, E>;

/// One error before it is reported.
#[derive(Clone, Debug)]
pub struct Error {
    /// SQLSTATE.
    pub code: Code,
    /// MESSAGE.
    pub message: String,
    /// DETAIL.
    pub detail: Map<String, Value>,
    /// HINT.
    pub hint: &'static str,
}

/// The SQLSTATE of an error, for each error style.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// The five characters of the style `sqlstate`.
    pub sqlstate: &'static str,
    /// The SQLSTATE and the constant message of the style `postgrest`, where they differ.
    pub postgrest: Option<[&'static str; 2]>,
}

impl Error {
    /// An error with a SQLSTATE of PostgreSQL.
    fn new(sqlstate: &'static str, message: impl Into<String>, detail: Value, hint: &'static str) -> Box<Self> {
        Self::coded(Code { sqlstate, postgrest: None }, message.into(), detail, hint)
    }

    /// An error of class IV, which has a SQLSTATE `PTnnn` and a constant message in the style `postgrest`.
    fn styled(
        [sqlstate, postgrest]: [&'static str; 2],
        message: Option<String>,
        constant: &'static str,
        detail: Value,
        hint: &'static str,
    ) -> Box<Self> {
        let code = Code { sqlstate, postgrest: Some([postgrest, constant]) };
        Self::coded(code, message.unwrap_or_else(|| constant.to_owned()), detail, hint)
    }

    fn coded(code: Code, message: String, detail: Value, hint: &'static str) -> Box<Self> {
        let detail = match detail {
            Value::Object(facts) => facts,
            other => Map::from_iter([("reason".to_owned(), other)]),
        };
        Box::new(Self { code, message, detail, hint })
    }

    /// An error whose facts are known to the caller of this function alone.
    fn with_reason(sqlstate: &'static str, message: &str, reason: &str, facts: Value, hint: &'static str) -> Box<Self> {
        let mut detail = Map::from_iter([("reason".to_owned(), json!(reason))]);
        if let Value::Object(facts) = facts {
            detail.extend(facts);
        }
        Self::new(sqlstate, message, Value::Object(detail), hint)
    }

    /// `XX000`: an impossible state; a defect of the extension.
    pub fn internal(message: &'static str) -> Box<Self> {
        Self::new("XX000", message, json!({"reason": "internal"}), "Report this as a bug.")
    }

    /// The first key of DETAIL.
    pub fn reason(&self) -> Option<&str> {
        self.detail.get("reason").and_then(Value::as_str)
    }

    /// Adds the number of the element of p_items that is meant.
    pub fn at_element(mut self: Box<Self>, element: usize) -> Box<Self> {
        self.detail.insert("element".to_owned(), json!(element));
        self
    }

    /// Adds the reference of the call, so that a failed change can be traced to its order.
    pub fn traced(mut self: Box<Self>, reference: Option<&str>) -> Box<Self> {
        if let Some(reference) = reference {
            self.detail.insert("reference".to_owned(), json!(reference));
        }
        self
    }
}

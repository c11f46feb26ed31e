//! The call context: what a change of stock belongs to, whose retry it is, and who acts.
//!
//! An argument goes before a setting, a setting before what PostgREST passes of the request. Nothing here decides
//! anything about stock; the ledger and the errors carry it.

use crate::error::{Fault, Outcome};
use crate::identity;
use crate::settings;
use serde_json::Value;

/// The longest idempotency key and reference, in bytes: both are kept in indexes or on every movement.
pub const MAX_TEXT_BYTES: usize = 255;

/// What is known about one call besides its main arguments.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    /// What the change belongs to, such as an order number.
    pub reference: Option<String>,
    /// Names the call for its retries.
    pub key: Option<String>,
}

impl CallContext {
    /// Reads the context of a call; arguments that are not given fall back to settings, the key also to the header.
    pub fn read(reference: Given, key: Given) -> Outcome<Self> {
        let reference = reference.or("inventory_ext.reference", settings::reference).checked()?;
        let key = key
            .or("inventory_ext.idempotency_key", settings::idempotency_key)
            .or("Idempotency-Key", header_key)
            .checked()
            .map_err(|fault| fault.traced(reference.as_deref()))?;
        Ok(Self { reference, key })
    }
}

/// A text of the context, and what it was given as.
pub struct Given {
    name: &'static str,
    text: Option<String>,
}

impl Given {
    /// An argument of a function.
    pub fn argument(name: &'static str, text: Option<String>) -> Self {
        Self { name, text }
    }

    /// Not an argument of the function.
    pub fn nothing() -> Self {
        Self { name: "", text: None }
    }

    fn or(self, name: &'static str, other: impl FnOnce() -> Option<String>) -> Self {
        if self.text.is_some() { self } else { Self { name, text: other() } }
    }

    fn checked(self) -> Outcome<Option<String>> {
        match &self.text {
            Some(text) if text.is_empty() || text.len() > MAX_TEXT_BYTES => {
                Err(Fault::text_length(self.name, text.len(), MAX_TEXT_BYTES))
            }
            _ => Ok(self.text),
        }
    }
}

/// Who acts: the setting, else the `sub` of the JWT, else the role.
pub fn actor(role: pgrx::pg_sys::Oid) -> String {
    settings::actor().or_else(jwt_subject).unwrap_or_else(|| identity::role_name(role))
}

fn jwt_subject() -> Option<String> {
    json_member(&settings::foreign(c"request.jwt.claims")?, "sub")
}

/// PostgREST passes header names in lower case.
fn header_key() -> Option<String> {
    if !settings::request_headers() {
        return None;
    }
    json_member(&settings::foreign(c"request.headers")?, "idempotency-key")
}

fn json_member(text: &str, member: &str) -> Option<String> {
    match serde_json::from_str::<Value>(text).ok()?.get(member)? {
        Value::String(value) if !value.is_empty() => Some(value.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::json_member;

    #[test]
    fn a_member_is_found_only_where_it_is_a_text() {
        assert_eq!(json_member(r#"{"sub": "anna", "n": 1}"#, "sub").as_deref(), Some("anna"));
        for other in [r#"{"sub": ""}"#, r#"{"sub": 5}"#, r#"{"sub": null}"#, "{}", "[]", "not json"] {
            assert_eq!(json_member(other, "sub"), None, "{other}");
        }
    }
}

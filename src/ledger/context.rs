//! The call context: the reference of a change of stock, the key for its retries, and the actor.
//!
//! An argument takes precedence over a setting, a setting over the headers and claims that PostgREST passes. The
//! context decides nothing about stock; the ledger and the errors carry it.

use crate::core::error::{Error, Result};
use crate::pg::Oid;
use crate::pg::role;
use crate::pg::session_key;
use crate::pg::settings;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::ffi::CStr;

/// The longest idempotency key, reference and actor, in bytes: they are kept in indexes or on every movement.
pub const MAX_TEXT_BYTES: usize = 255;

/// The context of one call.
#[derive(Clone, Debug, Default)]
pub struct CallContext {
    /// Identifies the order, delivery or other document of the change.
    pub reference: Option<String>,
    /// Names the call for its retries.
    pub key: Option<String>,
}

impl CallContext {
    /// Reads the context of a call; arguments that are not given fall back to settings, the key also to the header.
    pub fn read(reference: ContextText, key: ContextText) -> Result<Self> {
        let reference = reference.or(REFERENCE, settings::reference).checked()?;
        let traced = |error: Box<Error>| error.traced(reference.as_deref());
        let key = if key.text.is_some() { key } else { key_of_session().map_err(traced)? };
        let key = key.checked().map_err(traced)?;
        Ok(Self { reference, key })
    }

    /// The context of a direct write, an attach or a detach.
    pub fn of_session() -> Result<Self> {
        Ok(Self { reference: ContextText::nothing().or(REFERENCE, settings::reference).checked()?, key: None })
    }
}

const REFERENCE: &str = "inventory_ext.reference";
const KEY: &str = "inventory_ext.idempotency_key";
const SET_KEY: &str =
    "Set it with SET LOCAL or set_config('inventory_ext.idempotency_key', ..., true), in the transaction of the call.";
const SET_HEADERS: &str =
    "Set it with SET LOCAL or set_config('request.headers', ..., true), in the transaction of the call.";
const HEADERS: &CStr = c"request.headers";

/// The key in a setting or a header. One that an earlier transaction set may be another customer's, behind a pooler.
fn key_of_session() -> Result<ContextText> {
    match session_key::value() {
        Some((_, false)) => Err(Error::key_not_local(KEY, SET_KEY)),
        Some((key, true)) => Ok(ContextText { name: KEY, text: Some(key) }),
        None => match header_key()? {
            Some(_) if !session_key::is_set_in_transaction(HEADERS) => {
                Err(Error::key_not_local("request.headers", SET_HEADERS))
            }
            text => Ok(ContextText { name: "Idempotency-Key", text }),
        },
    }
}

/// A text of the context, and the name of the argument or setting that it comes from.
pub struct ContextText {
    name: &'static str,
    text: Option<String>,
}

impl ContextText {
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

    fn checked(self) -> Result<Option<String>> {
        match &self.text {
            Some(text) => check(self.name, text).map(|()| self.text),
            None => Ok(None),
        }
    }
}

/// A text that is kept must be short, and one that PostgreSQL can store and dump.
fn check(name: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > MAX_TEXT_BYTES {
        return Err(Error::text_length(name, text.len(), MAX_TEXT_BYTES));
    }
    if text.contains('\0') { Err(Error::nul_in_text(name)) } else { Ok(()) }
}

/// Who acts: the setting, else the `sub` of the JWT, else the role.
pub fn actor(role: Oid) -> Result<String> {
    let of_setting = || Some(("inventory_ext.actor", settings::actor()?));
    let given = match of_setting() {
        None => jwt_subject()?.map(|subject| ("sub of request.jwt.claims", subject)),
        of_setting => of_setting,
    };
    match given {
        Some((name, actor)) => check(name, &actor).map(|()| actor),
        None => Ok(role::role_name(role)),
    }
}

fn jwt_subject() -> Result<Option<String>> {
    json_setting("request.jwt.claims", c"request.jwt.claims", "sub")
}

/// PostgREST passes header names in lower case.
fn header_key() -> Result<Option<String>> {
    if !settings::request_headers() {
        return Ok(None);
    }
    json_setting("request.headers", HEADERS, "idempotency-key")
}

/// The largest JSON of a request that is read, in bytes.
const MAX_JSON_BYTES: usize = 2_097_152;

fn json_setting(name: &str, setting: &CStr, member: &str) -> Result<Option<String>> {
    match settings::foreign(setting) {
        Some(text) if text.len() > MAX_JSON_BYTES => Err(Error::text_length(name, text.len(), MAX_JSON_BYTES)),
        text => Ok(text.and_then(|text| json_member(&text, member))),
    }
}

/// The member of this name of a JSON object, where it is a text. Other members are skipped without being kept.
fn json_member(text: &str, member: &str) -> Option<String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = FindMember(member).deserialize(&mut json).ok()?;
    json.end().ok()?;
    found.filter(|value| !value.is_empty())
}

/// Looks for a member in an object; the last one of its name counts, as in jsonb.
struct FindMember<'m>(&'m str);

impl<'de> DeserializeSeed<'de> for FindMember<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FindMember<'_> {
    type Value = Option<String>;

    fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            if name == self.0 {
                found = members.next_value_seed(Text)?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// A text, or anything else, which is none.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<String>;

    fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
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

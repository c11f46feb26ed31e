//! A jsonb argument, read element by element where PostgreSQL holds it.
//!
//! Its size and the number of its elements are known before anything is converted, and no more than one scalar is
//! converted at a time: a short jsonb can print as a very long text.

use crate::core::order_lines::{Element, Items, Member};
use crate::pg::encoding;
use pgrx::pg_sys::{self, Datum, JsonbContainer, JsonbValue, Oid, jbvType};
use pgrx::{FromDatum, check_for_interrupts};
use std::ffi::CStr;

/// An element that is larger is not repeated in an error.
const MOST_PRINTED: i32 = 2_048;

/// A jsonb argument of a SQL function, alive until the call returns.
pub struct JsonbArg {
    root: *mut JsonbContainer,
    bytes: usize,
}

impl FromDatum for JsonbArg {
    unsafe fn from_polymorphic_datum(datum: Datum, is_null: bool, _type_oid: Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the caller passes a jsonb; its plain copy, or itself, is alive until the call returns. The container
        // begins after the length word.
        unsafe {
            let jsonb = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            Some(Self { root: pgrx::vardata_4b(jsonb).cast_mut().cast(), bytes: pgrx::varsize_any_exhdr(jsonb) })
        }
    }
}

impl JsonbArg {
    /// The element with this number, which there must be.
    fn nth(&self, element: usize) -> *mut JsonbValue {
        // SAFETY: the root is an array, see `elements`; the value is made in the memory of the call.
        unsafe { pg_sys::getIthJsonbValueFromContainer(self.root, element as u32) }
    }

    fn flags(&self) -> u32 {
        // SAFETY: the root is alive.
        unsafe { (*self.root).header }
    }
}

impl Items for JsonbArg {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn elements(&self) -> Result<usize, &'static str> {
        let (flags, count) = (self.flags(), (self.flags() & pg_sys::JB_CMASK) as usize);
        if flags & pg_sys::JB_FOBJECT != 0 {
            return Err("object");
        }
        if flags & pg_sys::JB_FSCALAR == 0 {
            return Ok(count);
        }
        let scalar = self.nth(0);
        // SAFETY: a scalar is kept as an array of one.
        Err(match unsafe { (*scalar).type_ } {
            jbvType::jbvString => "string",
            jbvType::jbvNumeric => "number",
            jbvType::jbvBool => "boolean",
            _ => "null",
        })
    }

    fn element(&self, element: usize) -> Element {
        check_for_interrupts!();
        let value = self.nth(element);
        // SAFETY: the value is of the array; a container within it lies in the same jsonb. It is freed once it is read.
        unsafe {
            let read = if (*value).type_ == jbvType::jbvBinary { read_object((*value).val.binary.data) } else { None };
            pg_sys::pfree(value.cast());
            read.unwrap_or(Element::NotAnObject)
        }
    }

    fn printed(&self, element: usize) -> Option<String> {
        let value = self.nth(element);
        // SAFETY: as above; a short text is copied.
        unsafe {
            match (*value).type_ {
                jbvType::jbvBinary if (*value).val.binary.len <= MOST_PRINTED => {
                    let binary = (*value).val.binary;
                    let text = pg_sys::JsonbToCString(std::ptr::null_mut(), binary.data, binary.len);
                    Some(encoding::from_c(CStr::from_ptr(text)))
                }
                jbvType::jbvBinary => None,
                jbvType::jbvNull => Some("null".to_owned()),
                jbvType::jbvBool => Some((*value).val.boolean.to_string()),
                _ => match scalar(value) {
                    Member::Text(text) => Some(serde_json::Value::from(text).to_string()),
                    Member::Number(number) => Some(number),
                    _ => None,
                },
            }
        }
    }
}

/// # Safety
/// `container` must be alive.
unsafe fn read_object(container: *mut JsonbContainer) -> Option<Element> {
    // SAFETY: as the caller promises; a missing member is NULL.
    unsafe {
        let flags = (*container).header;
        if flags & pg_sys::JB_FOBJECT == 0 {
            return None;
        }
        let member = |name: &CStr| {
            let length = name.to_bytes().len() as i32;
            let found = pg_sys::getKeyJsonValueFromContainer(container, name.as_ptr(), length, std::ptr::null_mut());
            if found.is_null() {
                return (0, Member::Absent);
            }
            let member = scalar(found);
            pg_sys::pfree(found.cast());
            (1, member)
        };
        let (ids, id) = member(c"inventory_id");
        let (quantities, quantity) = member(c"quantity");
        let others = (flags & pg_sys::JB_CMASK) > ids + quantities;
        Some(Element::Object { id, quantity, others })
    }
}

/// # Safety
/// `value` must be alive.
unsafe fn scalar(value: *mut JsonbValue) -> Member {
    // SAFETY: the type says which of the values is there; texts are copied.
    unsafe {
        match (*value).type_ {
            jbvType::jbvNull => Member::Null,
            jbvType::jbvString => {
                let text = (*value).val.string;
                let bytes = std::slice::from_raw_parts(text.val.cast::<u8>(), text.len as usize);
                encoding::exact_from_server(bytes).map_or(Member::Other, Member::Text)
            }
            jbvType::jbvNumeric => {
                let datum = Datum::from((*value).val.numeric);
                let text = pg_sys::OidOutputFunctionCall(Oid::from(pg_sys::F_NUMERIC_OUT), datum);
                let number = CStr::from_ptr(text).to_string_lossy().into_owned();
                pg_sys::pfree(text.cast());
                Member::Number(number)
            }
            _ => Member::Other,
        }
    }
}

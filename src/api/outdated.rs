//! C functions of earlier versions, under the names that their catalogs have.
//!
//! A library can be newer than the catalog, until ALTER EXTENSION ... UPDATE: a function whose arguments have changed
//! since must not read them. It says what is to be done.

use crate::core::error::Error;
use crate::table::configuration::configuration;
use pgrx::pg_extern;

macro_rules! outdated {
    ($($name:ident)*) => {
        $(
            /// A function of an earlier version.
            #[pg_extern(sql = false)]
            fn $name() -> i64 {
                refuse()
            }
        )*
    };
}

outdated! {
    attach_inventory detach_inventory restock_inventory adjust_inventory transfer_inventory
    stripe_inventory unstripe_inventory available_inventory
    adjust_item
}

fn refuse() -> i64 {
    match configuration() {
        Err(error) => error.raise(),
        Ok(_) => Error::internal("a function of an earlier version is in the catalog").raise(),
    }
}

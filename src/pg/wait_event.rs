//! Names of our own for waits, as `pg_stat_activity` shows them in `wait_event`.
//!
//! PostgreSQL names every wait of its lock manager itself, after the kind of the lock; to wait with a name of one's own
//! but without the lock manager would be to wait without its queue and its deadlock check. So the place where a process
//! says what it waits for is taken from PostgreSQL for as long as one lock is waited for, and holds our name.

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEvent {
    /// A striped item as a whole.
    Item,
    /// One stripe of an item, or the gate before its stripes.
    Stripe,
}

/// While it lives, this process shows that it waits for this. Before PostgreSQL 17, which has no names for extensions,
/// PostgreSQL's own is shown.
pub struct Shown(#[cfg(any(feature = "pg17", feature = "pg18"))] bool);

#[cfg(not(any(feature = "pg17", feature = "pg18")))]
impl Shown {
    /// Begins to show it.
    pub fn begin(_: WaitEvent) -> Self {
        Self()
    }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
mod named {
    use super::{Shown, WaitEvent};
    use crate::pg::transaction::in_subtransaction;
    use pgrx::pg_sys;
    use std::ffi::CStr;
    use std::sync::OnceLock;

    /// The numbers of the names; None, the server has no room for more names. The same for all processes.
    static NUMBERS: [OnceLock<Option<u32>>; 2] = [const { OnceLock::new() }; 2];

    impl WaitEvent {
        fn name(self) -> &'static CStr {
            match self {
                Self::Item => c"InventoryItem",
                Self::Stripe => c"InventoryStripe",
            }
        }

        /// The number of the name, which the first wait of a process looks up. A server has room for some names of
        /// extensions: where another has taken them all, the wait goes on without.
        fn number(self) -> Option<u32> {
            *NUMBERS[self as usize].get_or_init(|| {
                // SAFETY: the name is static.
                in_subtransaction(|| unsafe { pg_sys::WaitEventExtensionNew(self.name().as_ptr()) }).ok()
            })
        }
    }

    impl Shown {
        /// Begins to show it.
        pub fn begin(event: WaitEvent) -> Self {
            let number = event.number();
            if let Some(number) = number {
                // SAFETY: PostgreSQL writes its own names to a variable of this process from here on; only this process
                // writes the place in its entry that others read.
                unsafe {
                    pg_sys::pgstat_reset_wait_event_storage();
                    (&raw mut (*pg_sys::MyProc).wait_event_info).write_volatile(number);
                }
            }
            Self(number.is_some())
        }
    }

    impl Drop for Shown {
        fn drop(&mut self) {
            if self.0 {
                // SAFETY: as above. Where the process ends meanwhile, nothing unwinds, and PostgreSQL resets the place.
                unsafe {
                    let place = &raw mut (*pg_sys::MyProc).wait_event_info;
                    place.write_volatile(0);
                    pg_sys::pgstat_set_wait_event_storage(place);
                }
            }
        }
    }
}

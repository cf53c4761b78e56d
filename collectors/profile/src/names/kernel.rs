//! Names of the kernel's functions.
//!
//! Owns when the kernel's list is read: once, when the first of its frames is met. Refuses to give an address away.

use crate::symbols::kernel::{KernelError, KernelSymbols};

/// Where they come from.
#[derive(Debug, Default)]
pub enum Kernel {
    /// Not asked yet.
    #[default]
    Unread,
    /// Nowhere: each is `[kernel]`, for this reason.
    Nameless(KernelError),
    /// Its own list.
    Symbols(Box<KernelSymbols>),
}

impl Kernel {
    /// The function at an address.
    pub(super) fn name(&mut self, address: u64) -> Option<String> {
        if matches!(self, Kernel::Unread) {
            *self = match KernelSymbols::read() {
                Ok(symbols) => Kernel::Symbols(Box::new(symbols)),
                Err(error) => Kernel::Nameless(error),
            };
        }
        match self {
            Kernel::Symbols(symbols) => symbols.name(address),
            Kernel::Unread | Kernel::Nameless(_) => None,
        }
    }

    /// Why its frames have no names.
    #[must_use]
    pub fn why_nameless(&self) -> Option<&KernelError> {
        match self {
            Kernel::Nameless(error) => Some(error),
            Kernel::Unread | Kernel::Symbols(_) => None,
        }
    }
}

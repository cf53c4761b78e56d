//! Names of the kernel's functions.

/// Where they come from.
#[derive(Debug, Default)]
pub enum Kernel {
    /// Nowhere: each is `[kernel]`.
    #[default]
    Nameless,
    // SEAM: `Symbols(symbols::kernel::KernelSymbols)`, of which `name` asks `name(address)`; `Names` takes it when it is made.
}

impl Kernel {
    /// The function at an address.
    pub(super) fn name(&self, _address: u64) -> Option<&str> {
        match self {
            Kernel::Nameless => None,
        }
    }
}

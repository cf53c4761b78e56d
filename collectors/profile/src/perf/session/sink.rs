//! Who takes what a session sees.

use super::Seen;

/// Code of the kernel's own that comes and goes while it runs: BPF programs, trampolines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCode {
    /// Where it begins.
    pub address: u64,
    /// How long it is.
    pub bytes: u32,
    /// Its name; `None` where it went.
    pub name: Option<Box<[u8]>>,
}

/// Takes samples, one after the other in order of time.
pub trait Sink: Send + 'static {
    /// Everything in it is gone when this returns.
    fn sample(&mut self, seen: &Seen<'_>);

    /// The kernel made code or let go of some; nobody needs to care.
    fn kernel_code(&mut self, _code: KernelCode) {}
}

impl<F: FnMut(&Seen<'_>) + Send + 'static> Sink for F {
    fn sample(&mut self, seen: &Seen<'_>) {
        self(seen);
    }
}

//! The account of an unwinder.

use crate::binaries::Missing;

/// Samples by what came of them. `go` and those before it are all samples of processes that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Without user registers: threads of the kernel.
    pub without_registers: u64,
    /// Of code in nothing that is mapped.
    pub nowhere: u64,
    /// Of code that Go did not build: left alone.
    pub other_code: u64,
    /// In the kernel's page of user code, with the function of Go put in that called it.
    pub page: u64,
    /// Before the file was open.
    pub not_yet: u64,
    /// Of files that could not be had, in the order of [`Missing::ALL`].
    pub missing: [u64; Missing::ALL.len()],
    /// Of Go's code.
    pub go: u64,
    /// Of those, nothing was missing.
    pub complete: u64,
    /// Of those, at least one caller was put in.
    pub mended: u64,
    /// Callers put in.
    pub added: u64,
    /// Of Go's, at the bottom of a stack.
    pub bottom: u64,
    /// Of Go's, where the frame pointer was used for something else: the rest of the stack is not known.
    pub broken: u64,
    /// Of Go's, ended where no table says how the frame looks, as where stacks are switched.
    pub no_delta: u64,
    /// Of Go's, the return address or the next known frame is beyond the copied part of the stack.
    pub out_of_reach: u64,
    /// Of Go's, no code where the return address should be.
    pub not_code: u64,
}

impl Statistics {
    pub(super) fn missed(&mut self, missing: Missing) {
        let at = Missing::ALL.iter().position(|one| *one == missing);
        if let Some(count) = at.and_then(|at| self.missing.get_mut(at)) {
            *count += 1;
        }
    }

    /// Samples whose stack stayed as it was although something may be missing, by reason.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let missing = Missing::ALL.iter().map(|missing| missing.reason()).zip(self.missing);
        let others =
            [("not_yet", self.not_yet), ("not_code", self.not_code), ("out_of_reach", self.out_of_reach)];
        missing.chain(others)
    }
}

//! Trace and span ids for the client's log lines: unique, not secret.

use std::hash::{BuildHasher, RandomState};

/// Makes ids; each process seeds its own from the standard library's random hasher state.
#[derive(Debug)]
pub(crate) struct Ids {
    state: RandomState,
    count: u64,
}

impl Ids {
    /// A new sequence.
    pub(crate) fn new() -> Ids {
        Ids { state: RandomState::new(), count: 0 }
    }

    /// 16 hex digits, never all zero.
    pub(crate) fn span(&mut self) -> String {
        self.count += 1;
        format!("{:016x}", self.state.hash_one(self.count).max(1))
    }

    /// 32 hex digits, never all zero.
    pub(crate) fn trace(&mut self) -> String {
        format!("{}{}", self.span(), self.span())
    }
}

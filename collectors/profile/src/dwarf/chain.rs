//! The kernel's walk by frame pointers, beside the copy of the stack that came with it.
//!
//! The kernel reads the same records that lie in the copy, and those beyond it too. Owns the question which of its
//! addresses belongs to which frame pointer: that is where one may change from the one walk to the other. Refuses to look
//! for equal addresses: in a recursion they are all equal.

use crate::perf::copied::Copied;
use crate::perf::record::Words;

/// The kernel's addresses, leaf first, and where the first frame pointer pointed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain<'a> {
    pub(super) addresses: Words<'a>,
    pub(super) fp: u64,
    pub(super) stack: Copied<'a>,
}

impl Chain<'_> {
    /// The address that the record at a frame pointer returns to, by its place in the chain.
    pub(super) fn place_of(&self, fp: u64) -> Option<usize> {
        let mut at = self.fp;
        for place in 1..self.addresses.len() {
            if at == fp {
                return Some(place);
            }
            // Ours must say what the kernel's do. They may lead to another stack, as Go's do: no order is expected.
            let next = self.stack.word(at)?;
            if self.stack.word(at.checked_add(8)?) != self.addresses.get(place) {
                return None;
            }
            at = next;
        }
        None
    }
}

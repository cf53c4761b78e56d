//! The part of a thread's stack that came with a sample.

/// Bytes from the stack pointer up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied<'a> {
    /// Where the first of them was.
    pub(crate) start: u64,
    /// As many as really were there.
    pub(crate) bytes: &'a [u8],
}

impl Copied<'_> {
    /// The word there; `None` when any of its bytes is not in the copy.
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        let from = usize::try_from(address.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..)?.first_chunk().copied().map(u64::from_le_bytes)
    }
}

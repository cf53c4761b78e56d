//! What was refused on a page: a count for each reason, and one line for a person.

use super::super::exposition::Reject;

/// How much of a bad line is kept for the log.
const SAMPLE_CHARS_MAX: usize = 120;

/// Counts of refused lines, and one of them for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejects {
    counts: [u32; Reject::ALL.len()],
    /// Reason and beginning of the first refused line of the page.
    pub sample: Option<(Reject, String)>,
}

impl Rejects {
    /// How many lines were refused for this reason.
    #[must_use]
    pub fn count(&self, reject: Reject) -> u64 {
        self.counts.get(reject as usize).copied().map_or(0, u64::from)
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().copied().map(u64::from).sum()
    }

    pub(super) fn add(&mut self, reject: Reject, line: &[u8]) {
        if let Some(count) = self.counts.get_mut(reject as usize) {
            *count = count.saturating_add(1);
        }
        self.sample.get_or_insert_with(|| {
            let line = line.trim_ascii_end();
            let end = line.len().min(SAMPLE_CHARS_MAX);
            let text = String::from_utf8_lossy(line.get(..end).unwrap_or_default());
            (reject, text.escape_debug().collect())
        });
    }
}

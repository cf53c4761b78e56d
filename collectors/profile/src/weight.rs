//! About how much memory profiles take: for the accounts of those who hold them.

use model::profile::{CaptureOutcome, FunctionCounts, ProfileSet, Stacks};
use model::record::{Fact, Record};

/// What a record takes besides its functions and stacks.
const RECORD_BYTES: usize = 1_024;

/// A record, for the inbox's account.
pub(crate) fn of_record(record: &Record) -> usize {
    let Fact::Capture(capture) = &record.fact else { return RECORD_BYTES };
    let CaptureOutcome::Done { before, after, .. } = &capture.outcome else { return RECORD_BYTES };
    RECORD_BYTES + of_set(after) + before.as_deref().map_or(0, of_set)
}

fn of_set(set: &ProfileSet) -> usize {
    set.counts.iter().map(of_counts).sum::<usize>() + set.stacks.iter().map(of_stacks).sum::<usize>()
}

fn of_counts(counts: &FunctionCounts) -> usize {
    let names: usize = counts.functions.iter().map(|function| function.name.len() + 48).sum();
    let windows: usize = counts.windows.iter().map(|window| window.functions.len() * 24 + 40).sum();
    names + counts.edges.len() * 16 + windows
}

/// Whole stacks.
pub(crate) fn of_stacks(stacks: &Stacks) -> usize {
    let names: usize = stacks.functions.iter().map(|f| f.name.len() + f.file.len() + 56).sum();
    let samples: usize = stacks.samples.iter().map(|sample| sample.frames.len() * 4 + 40).sum();
    names + samples + stacks.frames.len() * 40 + stacks.pprof.len()
}

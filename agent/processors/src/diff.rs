//! What changed between two profiles, beyond sampling noise.
//!
//! Owns the comparison by function and which capture belongs to which finding. Refuses to judge a cause: a diff explains,
//! it does not vote. Pure: the same two profiles give the same rows, in the same order.

mod stats;
mod wrappers;

use std::collections::{BTreeMap, BTreeSet};

use model::finding::{CaptureFailed, Conclusion, FunctionDiff, ProfileDiff};
use model::profile::{
    Baseline, CaptureOutcome, CaptureResult, FunctionCount, FunctionCounts, ProfileKind, ProfileSet,
};
use model::record::{Fact, Record};
use model::request::{Ask, Request};
use model::time::SECOND_NS;
use serde::{Deserialize, Serialize};

/// Rows of one diff: a person reads ten, a page shows fifty.
pub const ROWS_MAX: usize = 50;
/// Smallest change of share that is told, whatever its significance: half a percentage point.
pub const SHARE_FLOOR: f64 = 0.005;
/// Smallest change relative to the share before: 10 %.
pub const RELATIVE_FLOOR: f64 = 0.1;
/// Expected share of false rows among those listed (Benjamini and Hochberg, 1995).
pub const FALSE_DISCOVERY_RATE: f64 = 0.05;
/// Requests on their way; each ends in one record, so more than this means that somebody lost some.
const ASKED_MAX: usize = 1_024;
/// Functions named in the detail of a capture without a baseline.
const TOP_WITHOUT_BASELINE: usize = 5;

/// Captures on their way, by request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// Request id to the finding that asked.
    asked: BTreeMap<u64, u64>,
}

impl Diff {
    /// Remembers which finding a capture was asked for.
    pub fn asked(&mut self, request: &Request) {
        let Ask::Capture { finding, .. } = &request.ask;
        if self.asked.len() >= ASKED_MAX {
            // The lowest id is the oldest request.
            self.asked.pop_first();
        }
        self.asked.insert(request.id, *finding);
    }

    /// Whether a capture is still on its way.
    #[must_use]
    pub fn running(&self, request: u64) -> bool {
        self.asked.contains_key(&request)
    }

    /// One [`ProfileDiff`] for each kind that was captured before and after, or one [`CaptureFailed`].
    ///
    /// A capture nobody asked for in this life of the engine belongs to finding 0.
    pub fn observe(&mut self, record: &Record) -> Vec<Conclusion> {
        let Fact::Capture(capture) = &record.fact else { return Vec::new() };
        let finding = self.asked.remove(&capture.request).unwrap_or(0);
        let failed = |reason: &str, detail: String| {
            vec![Conclusion::CaptureFailed(CaptureFailed {
                request: capture.request,
                finding,
                target: capture.target.clone(),
                reason: reason.to_owned(),
                detail,
            })]
        };
        match &capture.outcome {
            CaptureOutcome::Refused { reason } => failed(reason, String::new()),
            CaptureOutcome::Failed { reason, detail } => failed(reason, detail.clone()),
            CaptureOutcome::Done { before: None, after, .. } => failed("no_baseline", top(after)),
            CaptureOutcome::Done { before: Some(before), baseline, after } => {
                let diffs = diffs(capture, finding, (before, *baseline), after);
                if diffs.is_empty() { failed("no_kind_in_common", top(after)) } else { diffs }
            }
        }
    }
}

fn diffs(
    capture: &CaptureResult,
    finding: u64,
    (before, baseline): (&ProfileSet, Baseline),
    after: &ProfileSet,
) -> Vec<Conclusion> {
    let pairs = after.counts.iter().filter_map(|now| {
        let then = before.counts.iter().find(|counts| counts.kind == now.kind)?;
        Some((then, now))
    });
    pairs
        .map(|(then, now)| {
            Conclusion::ProfileDiff(ProfileDiff {
                request: capture.request,
                finding,
                target: capture.target.clone(),
                kind: now.kind,
                unit: unit(now.kind).to_owned(),
                baseline,
                baseline_age_s: after.at.since_ns(before.at) / SECOND_NS,
                before_total: absolute(then, then.total),
                after_total: absolute(now, now.total),
                before_samples: then.samples,
                after_samples: now.samples,
                functions: compare(then, now),
            })
        })
        .collect()
}

/// UCUM: CPU seconds a second are CPUs in use.
fn unit(kind: ProfileKind) -> &'static str {
    match kind {
        // Threads that wait, on average.
        ProfileKind::OffCpu => "{thread}",
        ProfileKind::Cpu => "{cpu}",
        ProfileKind::Heap | ProfileKind::Alloc => "By",
        ProfileKind::Goroutine => "{goroutine}",
    }
}

/// The value in the unit of [`ProfileDiff::unit`]: CPU time per second, or the snapshot's value.
fn absolute(counts: &FunctionCounts, value: u64) -> f64 {
    match counts.kind {
        ProfileKind::Cpu | ProfileKind::OffCpu if counts.duration_ns == 0 => 0.0,
        ProfileKind::Cpu | ProfileKind::OffCpu => ratio(value, counts.duration_ns),
        ProfileKind::Heap | ProfileKind::Alloc | ProfileKind::Goroutine => ratio(value, 1),
    }
}

/// The heaviest functions, for a reader who gets no comparison.
fn top(set: &ProfileSet) -> String {
    let Some(counts) = set.counts.first() else { return "the capture is empty".to_owned() };
    let mut rows: Vec<&FunctionCount> = counts.functions.iter().filter(|row| row.own > 0).collect();
    rows.sort_by(|a, b| b.own.cmp(&a.own).then_with(|| a.name.cmp(&b.name)));
    let rows: Vec<String> = rows
        .iter()
        .take(TOP_WITHOUT_BASELINE)
        .map(|row| format!("{} {:.1} %", row.name, 100.0 * ratio(row.own, counts.total)))
        .collect();
    format!("now: {}", rows.join(", "))
}

/// Functions whose inclusive share of the total changed beyond sampling noise, largest change first.
///
/// A row must pass three gates: the change is at least the larger of [`SHARE_FLOOR`] and [`RELATIVE_FLOOR`] of the share
/// before; a two-proportion test with continuity correction survives Benjamini-Hochberg control at
/// [`FALSE_DISCOVERY_RATE`]; and the family tested holds only functions whose mean share could pass the floor at all, a
/// filter that does not look at the difference. The n of a share is [`FunctionCounts::samples`]: the samples of a CPU
/// profile, the goroutines, the effective number of sampled objects of a heap (never its bytes).
///
/// Where there are more than [`ROWS_MAX`] rows, callers that only pass on the change of one callee go first.
///
/// Shares say nothing about a uniform slow-down: the totals of [`ProfileDiff`] do.
#[must_use]
pub fn compare(before: &FunctionCounts, after: &FunctionCounts) -> Vec<FunctionDiff> {
    let comparable = before.kind == after.kind
        && [before.total, before.samples, after.total, after.samples].iter().all(|n| *n > 0);
    if !comparable {
        return Vec::new();
    }
    let candidates = candidates(before, after);
    let p_values: Vec<f64> = candidates
        .iter()
        .map(|(then, now)| {
            let (then, now) = (share(then.total, before), share(now.total, after));
            stats::two_proportions(then, before.samples, now, after.samples)
        })
        .collect();
    let mut rows: Vec<FunctionDiff> = candidates
        .iter()
        .zip(stats::q_values(&p_values))
        .map(|((then, now), q)| row((before, *then), (after, *now), q))
        .filter(|row| {
            let change = (row.after - row.before).abs();
            row.q <= FALSE_DISCOVERY_RATE && change >= SHARE_FLOOR.max(RELATIVE_FLOOR * row.before)
        })
        .collect();
    rows.sort_by(|a, b| {
        // Rounded, so that the last bit of a subtraction does not order rows; of two equal changes, what grew is first.
        let change = |row: &FunctionDiff| ((row.after - row.before) * 1e9).round();
        change(b)
            .abs()
            .total_cmp(&change(a).abs())
            .then_with(|| change(b).total_cmp(&change(a)).then_with(|| a.name.cmp(&b.name)))
    });
    if rows.len() > ROWS_MAX {
        let dropped: BTreeSet<String> =
            wrappers::passing_on(&rows, before, after).into_iter().map(str::to_owned).collect();
        rows.retain(|row| !dropped.contains(&row.name));
        rows.truncate(ROWS_MAX);
    }
    rows
}

/// One function on one side; absent means zero.
#[derive(Clone, Copy)]
struct Side<'a> {
    name: &'a str,
    own: u64,
    total: u64,
}

/// Functions of either side whose mean share reaches half the floor, by name.
fn candidates<'a>(before: &'a FunctionCounts, after: &'a FunctionCounts) -> Vec<(Side<'a>, Side<'a>)> {
    let by_name = |counts: &'a FunctionCounts| -> BTreeMap<&'a str, &'a FunctionCount> {
        counts.functions.iter().map(|function| (function.name.as_str(), function)).collect()
    };
    let (then, now) = (by_name(before), by_name(after));
    let names: BTreeSet<&str> = then.keys().chain(now.keys()).copied().collect();
    let side = |side: &BTreeMap<&'a str, &'a FunctionCount>, name: &'a str| {
        let function = side.get(name);
        Side { name, own: function.map_or(0, |f| f.own), total: function.map_or(0, |f| f.total) }
    };
    names
        .into_iter()
        .map(|name| (side(&then, name), side(&now, name)))
        .filter(|(then, now)| share(then.total, before) + share(now.total, after) >= SHARE_FLOOR)
        .collect()
}

fn row(
    (before, then): (&FunctionCounts, Side<'_>),
    (after, now): (&FunctionCounts, Side<'_>),
    q: f64,
) -> FunctionDiff {
    let (old, new) = (share(then.total, before), share(now.total, after));
    let (low, high) = stats::difference_interval(old, before.samples, new, after.samples);
    FunctionDiff {
        name: now.name.to_owned(),
        before: old,
        after: new,
        low,
        high,
        before_abs: absolute(before, then.total),
        after_abs: absolute(after, now.total),
        own_before: share(then.own, before),
        own_after: share(now.own, after),
        q,
    }
}

fn share(value: u64, counts: &FunctionCounts) -> f64 {
    ratio(value, counts.total).min(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds and bytes far below 2^53")]
fn ratio(value: u64, of: u64) -> f64 {
    value as f64 / of as f64
}

#[cfg(test)]
mod tests;

//! What changed between two profiles, beyond sampling noise.
//!
//! Owns the comparison by function and which capture belongs to which finding. Refuses to judge a cause: a diff explains,
//! it does not vote. Pure: the same two profiles give the same rows, in the same order.

mod bulk;
mod calls;
mod causes;
mod found;
mod lasting;
mod load;
mod pair;
mod spread;
mod stats;
mod weights;
mod wrappers;

use std::collections::{BTreeMap, BTreeSet};

use model::finding::{CaptureFailed, Cause, Conclusion, FunctionDiff, ProfileDiff, Proof};
use model::profile::{
    Baseline, CaptureOutcome, CaptureResult, FunctionCount, FunctionCounts, ProfileKind, ProfileSet,
};
use model::record::{Fact, Record};
use model::request::{Ask, Request};
use model::time::SECOND_NS;
use serde::{Deserialize, Serialize};

use calls::Calls;
use found::Found;
use pair::{Pair, Part};

/// Rows of one diff: a person reads ten, a page shows fifty.
pub const ROWS_MAX: usize = 50;
/// Smallest change of share that matters, whatever its significance: half a percentage point.
pub const SHARE_FLOOR: f64 = 0.005;
/// Smallest change relative to the smaller of both shares: 10 %.
pub const RELATIVE_FLOOR: f64 = 0.1;
/// Expected share of false rows among those listed (Benjamini and Hochberg, 1995).
pub const FALSE_DISCOVERY_RATE: f64 = 0.1;
/// The same of functions whose noise would hide a change as large as the floor: there are too few samples to ask of them.
pub const FALSE_DISCOVERY_RATE_FAINT: f64 = 0.05;
/// The same where the two runs lie apart: what lies farthest apart does so by more than a normal distribution has it.
pub const FALSE_DISCOVERY_RATE_APART: f64 = 0.01;
/// Requests on their way; each ends in one record, so more than this means that somebody lost some.
const ASKED_MAX: usize = 1_024;
/// Rows whose cause is looked for: ten times what is told.
const EXPLAINED_MAX: usize = 500;
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
                engine: after.engine.clone(),
                unit: unit(now.kind).to_owned(),
                baseline,
                baseline_age_s: after.began(now.kind).since_ns(before.began(now.kind)) / SECOND_NS,
                before_total: absolute(then, then.total),
                after_total: absolute(now, now.total),
                before_samples: then.samples,
                after_samples: now.samples,
                before_windows: u32::try_from(then.windows.len()).unwrap_or(u32::MAX),
                after_windows: u32::try_from(now.windows.len()).unwrap_or(u32::MAX),
                before_per_request: per_request(then, then.total),
                after_per_request: per_request(now, now.total),
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

/// CPU seconds for each request, where requests were counted.
fn per_request(counts: &FunctionCounts, value: u64) -> Option<f64> {
    let requests = counts.requests.filter(|requests| *requests > 0 && counts.kind == ProfileKind::Cpu)?;
    Some(ratio(value, requests) / ratio(SECOND_NS, 1))
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

/// Functions whose inclusive share of the total changed beyond noise.
///
/// A row must pass three gates. The change may be as large as the floor, the larger of [`SHARE_FLOOR`] and
/// [`RELATIVE_FLOOR`] of the smaller share: its 95 % interval reaches it, and half of it was seen. A two-proportion test
/// with continuity correction survives Benjamini-Hochberg control at [`FALSE_DISCOVERY_RATE`], with more weight where a change
/// as large as the floor is neither hopeless nor beyond doubt. And the family tested holds only functions whose mean share
/// could pass the floor at all, a filter that does not look at the difference.
///
/// A function that varies more than what grew in it passes by a part ([`Proof`]): own time, or what it spends in one callee
/// that is itself beyond noise, where that is most of its change and nearly as large as the floor, and the rest is as it
/// was. The interval of such a row is that of all of it, and may hold zero.
///
/// The n of a share is [`FunctionCounts::samples`] (the samples of a CPU profile, the goroutines, the effective number of
/// sampled objects of a heap, never its bytes) over the design effect that the windows show: samples of one window have
/// much in common. A profile in one piece takes the effect of the other side; where both are, what was seen of etcd stands
/// in for it. What is no time but a snapshot counts as it is.
///
/// Each row says why it is there ([`Cause`]); real changes come first, each kind by size. Where there are more than
/// [`ROWS_MAX`] rows, callers that only pass on the change of one callee go first.
///
/// Swapping both sides swaps the signs and nothing else. Shares say nothing about a uniform slow-down: the totals and the
/// CPU time for each request of [`ProfileDiff`] do.
#[must_use]
pub fn compare(before: &FunctionCounts, after: &FunctionCounts) -> Vec<FunctionDiff> {
    let Some(pair) = Pair::of(before, after) else { return Vec::new() };
    let tested = found::tested(&pair);
    if tested.is_empty() {
        return Vec::new();
    }
    let calls = Calls::of(&pair);
    let mut found: Vec<(FunctionDiff, Found<'_>)> = found::with_callers(tested, &pair, &calls)
        .into_iter()
        .map(|found| (row(&pair, &found), found))
        .collect();
    found.sort_by(|(a, _), (b, _)| by_size(a, b));
    found.truncate(EXPLAINED_MAX);
    causes::explain(&mut found, &pair, &calls);
    let mut rows: Vec<FunctionDiff> = found.into_iter().map(|(row, _)| row).collect();
    rows.sort_by(|a, b| b.cause.is_change().cmp(&a.cause.is_change()).then_with(|| by_size(a, b)));
    if rows.len() > ROWS_MAX {
        let dropped: BTreeSet<String> =
            wrappers::passing_on(&rows, before, after).into_iter().map(str::to_owned).collect();
        rows.retain(|row| !dropped.contains(&row.name));
        rows.truncate(ROWS_MAX);
    }
    rows
}

/// Inclusive shares of one function on both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares<'a> {
    /// As the profiles have it.
    pub name: &'a str,
    /// Of the total.
    pub before: f64,
    /// Of the total.
    pub after: f64,
    /// Lower end of the 95 % interval of the change, by all that [`compare`] knows of noise.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Every function of either side whose name is wanted, by name, whether it changed or not; nothing where there is nothing to
/// compare.
#[must_use]
pub fn shares<'a>(
    before: &'a FunctionCounts,
    after: &'a FunctionCounts,
    is_wanted: impl Fn(&str) -> bool,
) -> Vec<Shares<'a>> {
    let Some(pair) = Pair::of(before, after) else { return Vec::new() };
    let wanted = pair.all().filter(|both| is_wanted(both.name));
    wanted
        .map(|both| {
            let (seen, (low, high)) = (pair.seen(&both, Part::Total), pair.interval(&both, Part::Total));
            Shares { name: both.name, before: seen.before, after: seen.after, low, high }
        })
        .collect()
}

/// The smallest change that matters to a function of this share, which is the smaller of both.
#[must_use]
pub fn floor(share: f64) -> f64 {
    SHARE_FLOOR.max(RELATIVE_FLOOR * share)
}

/// The largest change first.
fn by_size(a: &FunctionDiff, b: &FunctionDiff) -> std::cmp::Ordering {
    // Rounded, so that the last bit of a subtraction does not order rows; of two equal changes, what grew is first.
    let change = |row: &FunctionDiff| ((row.after - row.before) * 1e9).round();
    change(b)
        .abs()
        .total_cmp(&change(a).abs())
        .then_with(|| change(b).total_cmp(&change(a)).then_with(|| a.name.cmp(&b.name)))
}

fn row(pair: &Pair<'_>, found: &Found<'_>) -> FunctionDiff {
    let both = &found.both;
    let (total, own) = (pair.seen(both, Part::Total), pair.seen(both, Part::Own));
    let (low, high) = pair.interval(both, Part::Total);
    let (before, after) = (pair.before, pair.after);
    FunctionDiff {
        name: both.name.to_owned(),
        before: total.before,
        after: total.after,
        low,
        high,
        before_abs: absolute(before, both.then.total),
        after_abs: absolute(after, both.now.total),
        own_before: own.before,
        own_after: own.after,
        q: found.q,
        proof: match found.proof {
            found::Proof::Whole => Proof::Whole,
            found::Proof::Own => Proof::OwnTime,
            found::Proof::Call(callee) => Proof::Callee(callee.to_owned()),
        },
        cause: Cause::Itself,
        through: None,
        went_away: lasting::went_away(pair, both),
        before_per_request: per_request(before, both.then.total),
        after_per_request: per_request(after, both.now.total),
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
mod causes_tests;
#[cfg(test)]
mod scoring;
#[cfg(test)]
mod tests;

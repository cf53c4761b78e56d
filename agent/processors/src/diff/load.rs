//! What a change of load explains: more requests make everything dearer, and what has a fixed cost loses share.
//!
//! Owns that judgement. A function's cost may stay as it was or follow the load, or anything in between; what goes beyond
//! both has another reason. Refuses to guess where the length of a profile is not known.

use model::profile::FunctionCounts;

use super::pair::{Pair, Shift};
use super::ratio;

/// So far beyond what the load explains a cost must be: a quarter of the smallest change that is told.
const MARGIN: f64 = 0.025;
/// A load that changed by less leaves no room for a cost that lies between the same and in proportion.
const CHANGED: f64 = 1.1;
/// Standard deviations by which a cost must be beyond what a load explains that did change.
const NOISE: f64 = 2.0;

/// The range of after / before that the load explains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    low: f64,
    high: f64,
}

impl Load {
    /// From the requests a second where they were counted on both sides; else from what happened to a typical function.
    pub(super) fn between(pair: &Pair<'_>) -> Option<Load> {
        let (before, after) = (pair.before, pair.after);
        if !before.kind.has_length() {
            // A heap is as large as it is, whatever is asked.
            return Some(Load { low: 1.0, high: 1.0 });
        }
        if before.duration_ns == 0 || after.duration_ns == 0 {
            return None;
        }
        let asked = rate(before).zip(rate(after)).map(|(then, now)| now / then);
        let factor = asked.unwrap_or_else(|| {
            pair.typical_ratio(|value| super::absolute(before, value), |value| super::absolute(after, value))
        });
        Some(Load { low: factor.min(1.0), high: factor.max(1.0) })
    }

    /// Whether the load may be why a cost changed, whose shares were seen so; `noise` is the standard deviation of the change
    /// of that share.
    pub(super) fn explains(self, pair: &Pair<'_>, seen: Shift, noise: f64) -> bool {
        let is_changed = self.high > CHANGED * self.low;
        let noise = if is_changed { NOISE * noise / seen.before.min(seen.after).max(noise) } else { 0.0 };
        let slack = 1.0 + MARGIN + noise;
        let cost = |share: f64, counts: &FunctionCounts| share * super::absolute(counts, counts.total);
        let (before, after) = (cost(seen.before, pair.before), cost(seen.after, pair.after));
        if seen.change() > 0.0 {
            after <= before * self.high * slack
        } else {
            after * slack >= before * self.low
        }
    }
}

fn rate(counts: &FunctionCounts) -> Option<f64> {
    counts.requests.filter(|requests| *requests > 0).map(|requests| ratio(requests, counts.duration_ns))
}

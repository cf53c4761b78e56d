//! Whether a change was still there at the end.
//!
//! Owns the look at the last windows: a change that came and went within the capture is a disturbance that is over.

use model::profile::FunctionCounts;

use super::pair::{Both, Pair, Part};
use super::ratio;

/// The last part of the windows that is looked at.
const LAST: usize = 4;
/// Fewer windows than this have no end to speak of: two of them, and as many that are not the end.
const WINDOWS_MIN: usize = 4;
/// At the end so much of the change must be gone.
const GONE: f64 = 0.7;
/// Standard deviations that the end's share may be away from what it was, or must be away from what it became.
const NOISE: f64 = 2.0;

/// Whether the share after came back to what it was before in the last windows, as far as these can tell.
pub(super) fn went_away(pair: &Pair<'_>, both: &Both<'_>) -> bool {
    let (then, now) = pair.observed(both, Part::Total);
    let Some((last, part)) = both.now_at().and_then(|at| last_share(pair.after, at)) else { return false };
    let change = now.share - then.share;
    let left = (last - then.share) * change.signum();
    let size = (last + then.share) / 2.0;
    let noise = (size * (1.0 - size).max(0.0) * (1.0 / then.n + 1.0 / (now.n * part).max(1.0))).sqrt();
    left <= (1.0 - GONE) * change.abs() && left.abs() <= NOISE * noise && change.abs() - left >= NOISE * noise
}

/// The share in the last windows, and which part of all samples they have.
fn last_share(counts: &FunctionCounts, function: u32) -> Option<(f64, f64)> {
    let windows = counts.windows.len();
    if windows < WINDOWS_MIN {
        return None;
    }
    let last = counts.windows.get(windows - (windows / LAST).max(2)..)?;
    let (mut value, mut total) = (0_u64, 0_u64);
    for window in last {
        total = total.saturating_add(window.total);
        let at = window.functions.binary_search_by_key(&function, |row| row.function).ok();
        let row = at.and_then(|at| window.functions.get(at));
        value = value.saturating_add(row.map_or(0, |row| row.total));
    }
    (total > 0).then(|| (ratio(value, total).min(1.0), ratio(total, counts.total)))
}

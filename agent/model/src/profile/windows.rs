//! Counts by window: samples that were taken together change together, so the window is what a comparison counts.
//!
//! Owns how counts of windows become those of a whole profile, and the bounds on both. A function that is too small to
//! matter has no rows by window: its changes are taken to be as independent as samples can be.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{FUNCTIONS_MAX, FunctionCount, FunctionCounts};

/// Windows of one profile: an hour of ten seconds each. Of more, neighbours are put together.
pub const WINDOWS_MAX: usize = 360;
/// Rows of all windows of one profile, 24 bytes each: 9 MiB. Ten minutes of etcd have 30,000.
pub const ROWS_MAX: usize = 400_000;
/// A function with a smaller share of the whole has no rows by window: a fifth of the smallest change that is told.
const SHARE_MIN: f64 = 0.001;

/// A part of a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Length, nanoseconds.
    pub duration_ns: u64,
    /// Sum over all samples in it, in the unit of the kind.
    pub total: u64,
    /// Functions seen in it that have a share worth it, ascending.
    pub functions: Vec<WindowCount>,
}

/// One function in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowCount {
    /// Index into [`FunctionCounts::functions`].
    pub function: u32,
    /// As [`FunctionCount::own`].
    pub own: u64,
    /// As [`FunctionCount::total`].
    pub total: u64,
}

impl FunctionCounts {
    /// One profile of consecutive parts, each of which becomes a window; `None` where there are none, where they are of
    /// several kinds, or of a kind that is a snapshot.
    ///
    /// The parts may differ in rate: values count, not samples. Requests are known when those of all parts are.
    #[must_use]
    pub fn joined(parts: &[FunctionCounts]) -> Option<FunctionCounts> {
        let first = parts.first()?;
        if !first.kind.has_length() || parts.iter().any(|part| part.kind != first.kind) {
            return None;
        }
        let mut joined = FunctionCounts {
            kind: first.kind,
            duration_ns: 0,
            period: first.period,
            total: 0,
            samples: 0,
            functions: Vec::new(),
            edges: Vec::new(),
            other: 0,
            requests: Some(0),
            windows: Vec::new(),
        };
        for part in parts {
            joined.duration_ns = joined.duration_ns.saturating_add(part.duration_ns);
            joined.total = joined.total.saturating_add(part.total);
            joined.samples = joined.samples.saturating_add(part.samples);
            joined.other = joined.other.saturating_add(part.other);
            joined.requests = joined.requests.zip(part.requests).map(|(sum, some)| sum.saturating_add(some));
            if part.period != joined.period {
                joined.period = 0;
            }
        }
        let places = joined.take_functions(parts);
        joined.take_edges(parts, &places);
        joined.take_windows(parts, &places);
        Some(joined)
    }

    /// Sums functions by name; what does not fit goes to `other`. Says where each part's functions are now.
    fn take_functions(&mut self, parts: &[FunctionCounts]) -> Vec<Vec<Option<u32>>> {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut sums: Vec<FunctionCount> = Vec::new();
        let mut seen: Vec<Vec<usize>> = Vec::with_capacity(parts.len());
        for part in parts {
            let mut of_part = Vec::with_capacity(part.functions.len());
            for function in &part.functions {
                let number = *numbers.entry(&function.name).or_insert(sums.len());
                if number == sums.len() {
                    sums.push(FunctionCount { name: function.name.clone(), own: 0, total: 0, samples: 0 });
                }
                if let Some(sum) = sums.get_mut(number) {
                    sum.own = sum.own.saturating_add(function.own);
                    sum.total = sum.total.saturating_add(function.total);
                    sum.samples = sum.samples.saturating_add(function.samples);
                }
                of_part.push(number);
            }
            seen.push(of_part);
        }
        let place = self.keep(sums);
        seen.iter()
            .map(|numbers| numbers.iter().map(|number| place.get(*number).copied().flatten()).collect())
            .collect()
    }

    /// Keeps the largest that fit, by name; says where each is.
    fn keep(&mut self, sums: Vec<FunctionCount>) -> Vec<Option<u32>> {
        let mut place = vec![None; sums.len()];
        let mut kept: Vec<(usize, FunctionCount)> = sums.into_iter().enumerate().collect();
        if kept.len() > FUNCTIONS_MAX {
            kept.sort_by(|(_, a), (_, b)| b.total.cmp(&a.total).then_with(|| a.name.cmp(&b.name)));
            for (_, dropped) in kept.drain(FUNCTIONS_MAX..) {
                self.other = self.other.saturating_add(dropped.own);
            }
        }
        kept.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        for ((number, _), at) in kept.iter().zip(0..) {
            if let Some(place) = place.get_mut(*number) {
                *place = Some(at);
            }
        }
        self.functions = kept.into_iter().map(|(_, sum)| sum).collect();
        place
    }

    fn take_edges(&mut self, parts: &[FunctionCounts], places: &[Vec<Option<u32>>]) {
        let mut sums: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (part, places) in parts.iter().zip(places) {
            let place = |at: u32| places.get(usize::try_from(at).ok()?).copied().flatten();
            for (caller, callee, value) in &part.edges {
                if let (Some(caller), Some(callee)) = (place(*caller), place(*callee)) {
                    let sum = sums.entry((caller, callee)).or_default();
                    *sum = sum.saturating_add(*value);
                }
            }
        }
        let mut edges: Vec<(u32, u32, u64)> =
            sums.into_iter().map(|((caller, callee), value)| (caller, callee, value)).collect();
        if edges.len() > FUNCTIONS_MAX {
            edges.sort_unstable_by_key(|(caller, callee, value)| {
                (std::cmp::Reverse(*value), *caller, *callee)
            });
            edges.truncate(FUNCTIONS_MAX);
            edges.sort_unstable();
        }
        self.edges = edges;
    }

    fn take_windows(&mut self, parts: &[FunctionCounts], places: &[Vec<Option<u32>>]) {
        let each = parts.len().div_ceil(WINDOWS_MAX).max(1);
        let worth = self.worth(parts.len().div_ceil(each));
        let chunks = parts.chunks(each).zip(places.chunks(each));
        self.windows = chunks.map(|(parts, places)| window(parts, places, &worth)).collect();
    }

    /// Functions that get rows: those with a share, and of them as many as there is room for in so many windows.
    fn worth(&self, windows: usize) -> BTreeSet<u32> {
        let least = floor(self.total);
        let mut worth: Vec<(u64, u32)> = (0..)
            .zip(&self.functions)
            .filter(|(_, function)| function.total > least)
            .map(|(at, function)| (function.total, at))
            .collect();
        worth.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        worth.truncate(ROWS_MAX / windows.max(1));
        worth.into_iter().map(|(_, at)| at).collect()
    }
}

/// What [`SHARE_MIN`] of a total is.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a threshold: what a float cannot tell apart need not be; the cast back saturates"
)]
fn floor(total: u64) -> u64 {
    (total as f64 * SHARE_MIN) as u64
}

fn window(parts: &[FunctionCounts], places: &[Vec<Option<u32>>], worth: &BTreeSet<u32>) -> Window {
    let mut window = Window::default();
    let mut rows: BTreeMap<u32, WindowCount> = BTreeMap::new();
    for (part, places) in parts.iter().zip(places) {
        window.duration_ns = window.duration_ns.saturating_add(part.duration_ns);
        window.total = window.total.saturating_add(part.total);
        for (count, place) in part.functions.iter().zip(places) {
            let Some(function) = place.filter(|at| worth.contains(at)) else { continue };
            let row = rows.entry(function).or_insert(WindowCount { function, own: 0, total: 0 });
            row.own = row.own.saturating_add(count.own);
            row.total = row.total.saturating_add(count.total);
        }
    }
    window.functions = rows.into_values().collect();
    window
}

#[cfg(test)]
mod tests {
    use super::WINDOWS_MAX;
    use crate::profile::{FunctionCount, FunctionCounts, ProfileKind};

    fn part(requests: Option<u64>, rows: &[(&str, u64)]) -> FunctionCounts {
        let mut functions: Vec<FunctionCount> = rows
            .iter()
            .map(|(name, n)| FunctionCount { name: (*name).to_owned(), own: *n, total: *n, samples: *n })
            .collect();
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        let total = rows.iter().map(|(_, n)| n).sum();
        FunctionCounts {
            kind: ProfileKind::Cpu,
            duration_ns: 10,
            period: 1,
            total,
            samples: total,
            edges: if functions.len() > 1 { vec![(0, 1, 2)] } else { Vec::new() },
            functions,
            other: 0,
            requests,
            windows: Vec::new(),
        }
    }

    #[test]
    fn parts_become_windows_of_one_profile() {
        let parts = [part(Some(3), &[("b", 9_000), ("c", 2)]), part(Some(4), &[("a", 1_000), ("b", 6_000)])];
        let seen = FunctionCounts::joined(&parts).unwrap();
        assert_eq!(
            (seen.total, seen.samples, seen.duration_ns, seen.requests),
            (16_002, 16_002, 20, Some(7))
        );
        let names: Vec<&str> = seen.functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(seen.edges, [(0, 1, 2), (1, 2, 2)]);
        let rows: Vec<Vec<(u32, u64)>> = seen
            .windows
            .iter()
            .map(|window| window.functions.iter().map(|row| (row.function, row.total)).collect())
            .collect();
        // c is too small for rows.
        assert_eq!(rows, [vec![(1, 9_000)], vec![(0, 1_000), (1, 6_000)]]);
    }

    #[test]
    fn more_parts_than_windows_are_put_together_and_nothing_is_lost() {
        let parts: Vec<FunctionCounts> = (0..1_000).map(|n| part(None, &[("a", n), ("b", 1)])).collect();
        let seen = FunctionCounts::joined(&parts).unwrap();
        assert!(seen.windows.len() <= WINDOWS_MAX && seen.windows.len() > WINDOWS_MAX / 2);
        assert_eq!(seen.windows.iter().map(|window| window.total).sum::<u64>(), seen.total);
        assert_eq!(seen.requests, None);
    }

    #[test]
    fn snapshots_and_mixtures_have_no_windows() {
        let heap = FunctionCounts { kind: ProfileKind::Heap, ..part(None, &[("a", 1)]) };
        assert_eq!(FunctionCounts::joined(&[]), None);
        assert_eq!(FunctionCounts::joined(std::slice::from_ref(&heap)), None);
        assert_eq!(FunctionCounts::joined(&[part(None, &[("a", 1)]), heap]), None);
    }
}

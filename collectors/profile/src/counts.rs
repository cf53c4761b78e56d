//! Counts by function and by call edge, from whole stacks: what the engine compares.
//!
//! Owns what "total" means under recursion (a stack counts once for each function in it) and what the n of a share is.
//! Works for every engine's [`Stacks`], not only Go's.

use foldhash::HashMap;
use model::profile::{FUNCTIONS_MAX, FunctionCount, FunctionCounts, ProfileKind, Stacks};

/// Distinct call edges looked at; etcd has under a thousand in a profile. Later ones are left out: 8 MiB of memory.
const EDGES_SEEN_MAX: usize = 100_000;

/// Counts of one profile.
///
/// `samples`, the n of every share, is
/// - CPU: the samples taken (the profile's own count);
/// - goroutines: the goroutines;
/// - time off the CPU: the *effective* number of waits, since they differ in length;
/// - heap, allocations: the *effective* number of sampled objects. Go scales what it samples (one allocation in `period` bytes), so
///   neither bytes nor objects are a number of observations. The scaling x / (1 − exp(−size / period)) is undone by
///   stack, and unequal weights are charged for by Kish's (Σw)² / Σw². A function's `samples` is its unscaled count.
#[must_use]
pub fn of(stacks: &Stacks) -> FunctionCounts {
    let names = Named::of(stacks);
    let mut tally = Tally::new(names.list.len());
    for (at, sample) in stacks.samples.iter().enumerate() {
        let observed = observations(stacks, sample.value, sample.count);
        let value = u64::try_from(sample.value).unwrap_or(0);
        tally.add(at, &names.path(stacks, &sample.frames), Weight { value, observed });
    }
    tally.finish(&Head { kind: stacks.kind, duration_ns: stacks.duration_ns, period: stacks.period }, &names)
}

/// One of several windows that were added up into one profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Length, nanoseconds.
    pub duration_ns: u64,
    /// Value that one sample stands for.
    pub period: u64,
    /// (index into the samples of the whole, value, count).
    pub shares: Vec<(u32, i64, i64)>,
}

/// Counts of each window of `stacks`, whose own values are not looked at. A share of nothing is left out.
#[must_use]
pub fn of_windows(stacks: &Stacks, windows: &[Window]) -> Vec<FunctionCounts> {
    let names = Named::of(stacks);
    let paths: Vec<Vec<usize>> =
        stacks.samples.iter().map(|sample| names.path(stacks, &sample.frames)).collect();
    let count = |window: &Window| {
        let mut tally = Tally::new(names.list.len());
        for (at, (sample, value, count)) in window.shares.iter().enumerate() {
            if let Some(path) = usize::try_from(*sample).ok().and_then(|sample| paths.get(sample)) {
                let observed = observations(stacks, *value, *count);
                tally.add(at, path, Weight { value: u64::try_from(*value).unwrap_or(0), observed });
            }
        }
        let Window { duration_ns, period, .. } = *window;
        tally.finish(&Head { kind: stacks.kind, duration_ns, period }, &names)
    };
    windows.iter().map(count).collect()
}

/// What counts say of the profile they are of.
struct Head {
    kind: ProfileKind,
    duration_ns: u64,
    period: u64,
}

/// How many observations a sample stands for; see [`of`].
fn observations(stacks: &Stacks, value: i64, count: i64) -> f64 {
    let (value, count) = (to_f64(value), to_f64(count));
    match stacks.kind {
        ProfileKind::Cpu | ProfileKind::OffCpu | ProfileKind::Goroutine => count,
        ProfileKind::Heap | ProfileKind::Alloc if count > 0.0 && stacks.period > 0 => {
            let rate = to_f64(i64::try_from(stacks.period).unwrap_or(i64::MAX));
            // At least one object was seen, else the stack would not be listed.
            (count * -(-(value / count) / rate).exp_m1()).max(1.0)
        }
        ProfileKind::Heap | ProfileKind::Alloc => 1.0,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes and counts below 2^53 are exact, above the loss is 1e-16"
)]
fn to_f64(value: i64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float to integer cast saturates, and these are not negative"
)]
fn to_count(value: f64) -> u64 {
    value.round() as u64
}

/// Functions by name: a name with two entries (two files, two start lines) is one function.
struct Named<'a> {
    list: Vec<&'a str>,
    by_function: Vec<usize>,
}

impl<'a> Named<'a> {
    fn of(stacks: &'a Stacks) -> Named<'a> {
        let mut list: Vec<&str> = stacks.functions.iter().map(|function| function.name.as_str()).collect();
        list.sort_unstable();
        list.dedup();
        let by_function = stacks
            .functions
            .iter()
            .map(|function| list.binary_search(&function.name.as_str()).unwrap_or(usize::MAX))
            .collect();
        Named { list, by_function }
    }

    /// Names of a stack, leaf first; a reference to nothing is left out.
    fn path(&self, stacks: &Stacks, frames: &[u32]) -> Vec<usize> {
        let function = |frame: &u32| {
            let frame = stacks.frames.get(usize::try_from(*frame).ok()?)?;
            self.by_function.get(usize::try_from(frame.function).ok()?).copied()
        };
        frames.iter().filter_map(function).collect()
    }
}

#[derive(Clone, Copy)]
struct Weight {
    value: u64,
    observed: f64,
}

#[derive(Clone, Copy, Default)]
struct Row {
    own: u64,
    total: u64,
    observed: f64,
    /// One more than the last sample that was counted, so that recursion counts once.
    seen: usize,
}

#[derive(Default)]
struct Tally {
    rows: Vec<Row>,
    /// (caller, callee) to (value, one more than the last sample counted).
    edges: HashMap<(usize, usize), (u64, usize)>,
    total: u64,
    /// Own value without a function to book it on.
    other: u64,
    observed: f64,
    /// Σ value² / observed, for Kish's effective n.
    squares: f64,
}

impl Tally {
    fn new(names: usize) -> Tally {
        Tally { rows: vec![Row::default(); names], ..Tally::default() }
    }

    fn add(&mut self, at: usize, path: &[usize], weight: Weight) {
        let Weight { value, observed } = weight;
        self.total = self.total.saturating_add(value);
        self.observed += observed;
        let exact = to_f64(i64::try_from(value).unwrap_or(i64::MAX));
        if observed > 0.0 {
            self.squares += exact * exact / observed;
        }
        match path.first().and_then(|leaf| self.rows.get_mut(*leaf)) {
            Some(row) => row.own = row.own.saturating_add(value),
            None => self.other = self.other.saturating_add(value),
        }
        let mark = at + 1;
        for name in path {
            if let Some(row) = self.rows.get_mut(*name)
                && row.seen != mark
            {
                row.seen = mark;
                row.total = row.total.saturating_add(value);
                row.observed += observed;
            }
        }
        for pair in path.windows(2) {
            if let [callee, caller] = pair
                && (self.edges.len() < EDGES_SEEN_MAX || self.edges.contains_key(&(*caller, *callee)))
            {
                let edge = self.edges.entry((*caller, *callee)).or_insert((0, 0));
                if edge.1 != mark {
                    *edge = (edge.0.saturating_add(value), mark);
                }
            }
        }
    }

    fn finish(self, head: &Head, names: &Named<'_>) -> FunctionCounts {
        let mut kept: Vec<usize> =
            self.rows.iter().enumerate().filter(|(_, row)| row.seen > 0).map(|(at, _)| at).collect();
        let total = |at: &usize| self.rows.get(*at).map_or(0, |row| row.total);
        let mut other = self.other;
        if kept.len() > FUNCTIONS_MAX {
            kept.sort_by_key(|at| (std::cmp::Reverse(total(at)), *at));
            for at in kept.drain(FUNCTIONS_MAX..) {
                other = other.saturating_add(self.rows.get(at).map_or(0, |row| row.own));
            }
            kept.sort_unstable();
        }
        let functions: Vec<FunctionCount> = kept
            .iter()
            .filter_map(|at| {
                let row = self.rows.get(*at)?;
                Some(FunctionCount {
                    name: (*names.list.get(*at)?).to_owned(),
                    own: row.own,
                    total: row.total,
                    samples: to_count(row.observed),
                })
            })
            .collect();
        let samples = match head.kind {
            ProfileKind::Heap | ProfileKind::Alloc | ProfileKind::OffCpu if self.squares > 0.0 => {
                let sum = to_f64(i64::try_from(self.total).unwrap_or(i64::MAX));
                to_count((sum * sum / self.squares).min(self.observed))
            }
            _ => to_count(self.observed),
        };
        FunctionCounts {
            kind: head.kind,
            duration_ns: match head.kind {
                ProfileKind::Cpu | ProfileKind::OffCpu => head.duration_ns,
                ProfileKind::Heap | ProfileKind::Alloc | ProfileKind::Goroutine => 0,
            },
            period: if head.kind == ProfileKind::Cpu { head.period } else { 0 },
            total: self.total,
            samples,
            functions,
            edges: edges(self.edges, &kept),
            other,
            requests: None,
            windows: Vec::new(),
        }
    }
}

fn edges(all: HashMap<(usize, usize), (u64, usize)>, kept: &[usize]) -> Vec<(u32, u32, u64)> {
    let position = |name: usize| kept.binary_search(&name).ok().and_then(|at| u32::try_from(at).ok());
    let mut list: Vec<(u32, u32, u64)> = all
        .into_iter()
        .filter_map(|((caller, callee), (value, _))| Some((position(caller)?, position(callee)?, value)))
        .collect();
    if list.len() > FUNCTIONS_MAX {
        list.sort_unstable_by_key(|(caller, callee, value)| (std::cmp::Reverse(*value), *caller, *callee));
        list.truncate(FUNCTIONS_MAX);
    }
    list.sort_unstable();
    list
}

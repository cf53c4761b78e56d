//! One side of a pair: windows drawn from real ones, changed in a known way, counted as the agent counts.
//!
//! Owns the drawing. Windows are drawn in blocks of neighbours, whole, so that what hangs together in them still does.

use std::collections::{BTreeMap, HashMap};

use model::profile::{FunctionCount, FunctionCounts, ProfileKind};

use crate::dice::Dice;
use crate::recording::{Recording, Run, Window};

/// Neighbours that stay together: a disturbance spans two or three windows.
const BLOCK: usize = 3;
/// Samples of ten seconds of two busy CPUs at 99 Hz.
pub(crate) const WINDOW_SAMPLES: f64 = 2_000.0;

/// Names and stacks that can grow: a change may bring new ones.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    /// Names.
    pub(crate) names: Vec<String>,
    /// Functions of a stack, leaf first.
    pub(crate) paths: Vec<Vec<u32>>,
    by_path: HashMap<Vec<u32>, u32>,
}

impl Code {
    /// Of a recording: leaves keep their numbers.
    pub(crate) fn of(recording: &Recording) -> Code {
        let leaves = 0..u32::try_from(recording.nodes.len()).unwrap_or(0);
        let paths: Vec<Vec<u32>> = leaves.map(|leaf| recording.path(leaf)).collect();
        let by_path = paths.iter().cloned().zip(0..).collect();
        Code { names: recording.functions.clone(), paths, by_path }
    }

    /// The number of a name.
    pub(crate) fn name(&mut self, name: &str) -> u32 {
        let known = self.names.iter().position(|known| known == name);
        let at = known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        at as u32
    }

    /// The number of a stack.
    pub(crate) fn stack(&mut self, path: Vec<u32>) -> u32 {
        let next = self.paths.len() as u32;
        let at = *self.by_path.entry(path.clone()).or_insert(next);
        if at == next {
            self.paths.push(path);
        }
        at
    }
}

/// A drawn window.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    /// Nanoseconds a sample stands for.
    pub(crate) period: f64,
    /// Nanoseconds.
    pub(crate) duration_ns: u64,
    /// Answered in it.
    pub(crate) requests: u64,
    /// (stack, samples).
    pub(crate) stacks: Vec<(u32, u32)>,
}

/// So many windows of these runs, with [`WINDOW_SAMPLES`] each on average.
pub(crate) fn draw(runs: &[&Run], windows: usize, dice: &mut Dice) -> Vec<Drawn> {
    let all: Vec<&Window> = runs.iter().flat_map(|run| &run.windows).collect();
    let mean = all.iter().map(|window| window.samples()).sum::<u64>() as f64 / all.len().max(1) as f64;
    // A busier side has more samples, as it would.
    let chance = WINDOW_SAMPLES / mean.max(1.0);
    let mut drawn = Vec::with_capacity(windows + BLOCK);
    while drawn.len() < windows {
        let Some(run) = runs.get(dice.below(runs.len())) else { return drawn };
        let first = dice.below(run.windows.len().saturating_sub(BLOCK - 1));
        for window in run.windows.iter().skip(first).take(BLOCK) {
            drawn.push(thinned(run, window, chance, dice));
        }
    }
    drawn.truncate(windows);
    drawn
}

/// Every window of a run as it was.
pub(crate) fn whole(run: &Run) -> Vec<Drawn> {
    let mut dice = Dice::new(0);
    run.windows.iter().map(|window| thinned(run, window, 1.0, &mut dice)).collect()
}

fn thinned(run: &Run, window: &Window, chance: f64, dice: &mut Dice) -> Drawn {
    let again = |dice: &mut Dice, count: u32| {
        if chance < 1.0 { dice.kept(count, chance) } else { dice.poisson(f64::from(count) * chance) }
    };
    let exact = (chance - 1.0).abs() < f64::EPSILON;
    Drawn {
        period: 1e9 / f64::from(run.hz) / chance,
        duration_ns: run.window_ns,
        requests: window.requests,
        stacks: window
            .stacks
            .iter()
            .map(|(leaf, count)| (*leaf, if exact { *count } else { again(dice, *count) }))
            .filter(|(_, count)| *count > 0)
            .collect(),
    }
}

/// Counts of all windows, as `profile::counts` makes them, joined.
pub(crate) fn counts(code: &Code, windows: &[Drawn], is_windowed: bool) -> FunctionCounts {
    let parts: Vec<FunctionCounts> = windows.iter().map(|window| window_counts(code, window)).collect();
    let mut joined = FunctionCounts::joined(&parts).unwrap_or_else(|| window_counts(code, &nothing()));
    if !is_windowed {
        joined.windows.clear();
    }
    joined
}

fn nothing() -> Drawn {
    Drawn { period: 1.0, duration_ns: 0, requests: 0, stacks: Vec::new() }
}

fn window_counts(code: &Code, window: &Drawn) -> FunctionCounts {
    let value = |samples: u64| (samples as f64 * window.period).round() as u64;
    let mut rows: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut edges: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut samples = 0;
    for (stack, count) in &window.stacks {
        let count = u64::from(*count);
        samples += count;
        let path: Vec<&str> = code.paths[*stack as usize]
            .iter()
            .map(|function| code.names[*function as usize].as_str())
            .collect();
        for (depth, name) in path.iter().enumerate() {
            let row = rows.entry(name).or_default();
            row.0 += if depth == 0 { count } else { 0 };
            row.1 += if path[..depth].contains(name) { 0 } else { count };
        }
        for (depth, pair) in path.windows(2).enumerate() {
            if !path[..=depth].windows(2).any(|seen| seen == pair) {
                *edges.entry((pair[1], pair[0])).or_default() += count;
            }
        }
    }
    let places: HashMap<&str, u32> = rows.keys().copied().zip(0..).collect();
    let function = |(name, (own, total)): (&&str, &(u64, u64))| FunctionCount {
        name: (*name).to_owned(),
        own: value(*own),
        total: value(*total),
        samples: *total,
    };
    FunctionCounts {
        kind: ProfileKind::Cpu,
        duration_ns: window.duration_ns,
        period: window.period.round() as u64,
        total: value(samples),
        samples,
        functions: rows.iter().map(function).collect(),
        edges: edges
            .iter()
            .map(|((caller, callee), count)| (places[caller], places[callee], value(*count)))
            .collect(),
        other: 0,
        requests: Some(window.requests),
        windows: Vec::new(),
    }
}

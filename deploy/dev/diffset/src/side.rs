//! One side of a pair: windows drawn from real ones, changed in a known way, counted as the agent counts.
//!
//! Owns the drawing. Windows are drawn in blocks of neighbours, whole, so that what hangs together in them still does.

use std::collections::HashMap;

use model::profile::{FunctionCount, FunctionCounts, ProfileKind};

use crate::dice::Dice;
use crate::recording::{Recording, Run, Window};

/// Neighbours that stay together: a disturbance spans two or three windows.
const BLOCK: usize = 3;

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

/// A run with the counts of its windows.
#[derive(Clone, Debug)]
pub(crate) struct Counted<'a> {
    /// As recorded.
    pub(crate) run: &'a Run,
    windows: Vec<FunctionCounts>,
}

impl<'a> Counted<'a> {
    /// Counts once what is drawn often.
    pub(crate) fn of(code: &Code, run: &'a Run) -> Counted<'a> {
        let windows =
            run.windows.iter().map(|window| window_counts(code, run, window, &window.stacks)).collect();
        Counted { run, windows }
    }

    /// Its first windows.
    pub(crate) fn first(&self, windows: usize) -> Counted<'a> {
        Counted { run: self.run, windows: self.windows.iter().take(windows).cloned().collect() }
    }

    /// The whole run.
    pub(crate) fn whole(&self) -> FunctionCounts {
        FunctionCounts::joined(&self.windows).unwrap_or_else(nothing)
    }
}

/// A drawn window.
#[derive(Clone, Debug)]
pub(crate) struct Drawn<'a> {
    run: &'a Run,
    window: &'a Window,
    counts: &'a FunctionCounts,
    /// (stack, samples), where they are no longer as recorded.
    changed: Option<Vec<(u32, u32)>>,
}

impl Drawn<'_> {
    /// The stacks as they were.
    pub(crate) fn recorded(&self) -> &[(u32, u32)] {
        &self.window.stacks
    }

    /// The stacks, to be changed.
    pub(crate) fn stacks(&mut self) -> &mut Vec<(u32, u32)> {
        self.changed.get_or_insert_with(|| self.window.stacks.clone())
    }
}

/// Windows of these runs, each as it was: so many samples as windows of `mean` samples make up. A busier side has more.
pub(crate) fn draw<'a>(
    runs: &[&'a Counted<'a>],
    (samples, mean): (u64, f64),
    dice: &mut Dice,
) -> Vec<Drawn<'a>> {
    let windows = (samples as f64 / mean).ceil() as usize;
    let mut drawn = Vec::with_capacity(windows + BLOCK);
    while drawn.len() < windows {
        let Some(counted) = runs.get(dice.below(runs.len())) else { return drawn };
        let first = dice.below(counted.windows.len().saturating_sub(BLOCK - 1));
        let block = counted.run.windows.iter().zip(&counted.windows).skip(first).take(BLOCK);
        drawn.extend(block.map(|(window, counts)| Drawn { run: counted.run, window, counts, changed: None }));
    }
    drawn.truncate(windows);
    drawn
}

/// Counts of all windows, joined.
pub(crate) fn counts(code: &Code, windows: &[Drawn<'_>], is_windowed: bool) -> FunctionCounts {
    let one = |drawn: &Drawn<'_>| match &drawn.changed {
        Some(stacks) => window_counts(code, drawn.run, drawn.window, stacks),
        None => drawn.counts.clone(),
    };
    let parts: Vec<FunctionCounts> = windows.iter().map(one).collect();
    let mut joined = FunctionCounts::joined(&parts).unwrap_or_else(nothing);
    if !is_windowed {
        joined.windows.clear();
    }
    joined
}

fn nothing() -> FunctionCounts {
    window_counts(&Code::of(&Recording::default()), &Run { hz: 1, ..Run::default() }, &Window::default(), &[])
}

/// As `profile::counts` makes them: a stack counts once for each function and each call in it.
fn window_counts(code: &Code, run: &Run, window: &Window, stacks: &[(u32, u32)]) -> FunctionCounts {
    let period = 1_000_000_000 / u64::from(run.hz);
    let mut rows: HashMap<u32, (u64, u64)> = HashMap::new();
    let mut edges: HashMap<(u32, u32), u64> = HashMap::new();
    let mut samples = 0;
    for (stack, count) in stacks {
        let count = u64::from(*count);
        samples += count;
        let path = &code.paths[*stack as usize];
        for (depth, name) in path.iter().enumerate() {
            let row = rows.entry(*name).or_default();
            row.0 += if depth == 0 { count } else { 0 };
            row.1 += if path[..depth].contains(name) { 0 } else { count };
        }
        for (depth, pair) in path.windows(2).enumerate() {
            if !path[..=depth].windows(2).any(|seen| seen == pair) {
                *edges.entry((pair[1], pair[0])).or_default() += count;
            }
        }
    }
    let mut names: Vec<u32> = rows.keys().copied().collect();
    names.sort_unstable_by_key(|name| code.names[*name as usize].as_str());
    let places: HashMap<u32, u32> = names.iter().copied().zip(0..).collect();
    let function = |name: &u32| FunctionCount {
        name: code.names[*name as usize].clone(),
        own: rows[name].0 * period,
        total: rows[name].1 * period,
        samples: rows[name].1,
    };
    let mut edges: Vec<(u32, u32, u64)> = edges
        .iter()
        .map(|((caller, callee), count)| (places[caller], places[callee], count * period))
        .collect();
    edges.sort_unstable();
    FunctionCounts {
        kind: ProfileKind::Cpu,
        duration_ns: run.window_ns,
        period,
        total: samples * period,
        samples,
        functions: names.iter().map(function).collect(),
        edges,
        other: 0,
        requests: Some(window.requests),
        windows: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use model::profile::{Frame, Function, StackSample, Stacks};
    use model::time::Stamp;

    use super::{Code, ProfileKind, window_counts};
    use crate::recording::{Recorder, Run, Window};

    #[test]
    fn windows_are_counted_as_the_agent_counts() {
        let stacks = [("a;b;c", 3), ("a;b", 2), ("a;b;a;b;a", 4), ("c", 1), ("a;c", 5), ("b;a;c", 6)];
        let mut recorder = Recorder::default();
        let names = ["a", "b", "c"];
        let mut whole = Stacks {
            kind: ProfileKind::Cpu,
            at: Stamp::default(),
            duration_ns: 10,
            period: 1_000_000,
            mappings: Vec::new(),
            functions: names.map(|name| Function { name: name.to_owned(), ..Function::default() }).to_vec(),
            frames: (0..3).map(|function| Frame { function, ..Frame::default() }).collect(),
            owners: Vec::new(),
            samples: Vec::new(),
            losses: model::profile::Losses::default(),
            pprof: Vec::new(),
        };
        let mut window = Window { requests: 7, stacks: Vec::new() };
        for (stack, count) in stacks {
            let path: Vec<String> = stack.split(';').rev().map(str::to_owned).collect();
            let frames =
                path.iter().map(|name| names.iter().position(|at| at == name).unwrap() as u32).collect();
            let value = i64::from(count) * 1_000_000;
            whole.samples.push(StackSample { frames, value, count: count.into(), owner: 0 });
            window.stacks.push((recorder.leaf(&path).unwrap(), count));
        }
        let run = Run { hz: 1_000, window_ns: 10, ..Run::default() };
        let seen = window_counts(&Code::of(&recorder.recording), &run, &window, &window.stacks);
        let mut expected = profile::counts::of(&whole);
        expected.requests = Some(7);
        assert_eq!(seen, expected);
    }
}

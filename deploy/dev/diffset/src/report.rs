//! The tables: what was scored, and whether it is what was promised.
//!
//! Owns the bounds and the sizes of the set.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::recording::Recording;
use crate::score::{False, Recall, alarms, recall};
use crate::set::{Set, Size};
use crate::side::{Code, Counted};
use crate::variance::{Variance, of};

/// At least 50 are promised.
const INJECTED: usize = 150;
/// At least 500 are promised.
const UNCHANGED: usize = 600;
/// Samples of a side.
const CURVE: [u64; 7] = [5_000, 10_000, 20_000, 40_000, 60_000, 120_000, 240_000];
/// Ten minutes of two busy CPUs at 99 Hz.
const PROMISED: u64 = 120_000;
/// Of the injected regressions.
const RECALL_MIN: f64 = 0.95;
/// Of the comparisons of unchanged pairs.
const ALARMS_MAX: f64 = 0.001;
/// Of the unchanged pairs.
const ALARMED_MAX: f64 = 0.05;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    variances: Vec<Variance>,
    eligible: usize,
    curve: Vec<(u64, Recall, False)>,
    groups: BTreeMap<&'static str, False>,
    in_one_piece: (Recall, BTreeMap<&'static str, False>),
    without_requests: (Recall, BTreeMap<&'static str, False>),
    loaded: Vec<(&'static str, Recall)>,
    program: Vec<Real>,
}

/// A pair of runs of the program, as recorded.
#[derive(Clone, Debug, Serialize)]
struct Real {
    before: String,
    after: String,
    samples: (u64, u64),
    changes: Vec<String>,
    explained: Vec<String>,
}

/// Scores it all, or every so manieth part of it for a look.
pub(crate) fn report(recording: &Recording, every: usize) -> Report {
    let (injected, unchanged) = (INJECTED / every, UNCHANGED / every);
    let code = Code::of(recording);
    let counted: Vec<Counted<'_>> = recording.runs.iter().map(|run| Counted::of(&code, run)).collect();
    let etcd = || counted.iter().filter(|counted| counted.run.subject == "etcd");
    let shortest = etcd().map(|counted| counted.run.windows.len()).min().unwrap_or(0);
    let steady = etcd().filter(|counted| counted.run.load == "steady");
    let young: Vec<Counted<'_>> = steady.map(|counted| counted.first(shortest)).collect();
    let set = Set::of(recording, &counted, &young);
    let size = |samples| Size { samples, is_windowed: true, has_requests: true };
    let mut groups = BTreeMap::new();
    let mut curve = Vec::new();
    for samples in CURVE {
        let found = recall(&set, injected, "same", size(samples));
        let seen = alarms(&set, if samples == PROMISED { unchanged } else { unchanged / 4 }, size(samples));
        curve.push((samples, found, seen.values().copied().fold(False::default(), False::sum)));
        if samples == PROMISED {
            groups = seen;
        }
    }
    let other = |size: Size| (recall(&set, injected / 2, "same", size), alarms(&set, unchanged / 4, size));
    let promised = size(PROMISED);
    Report {
        variances: counted.iter().map(of).collect(),
        eligible: set.eligible(),
        curve,
        groups,
        in_one_piece: other(Size { is_windowed: false, ..promised }),
        without_requests: other(Size { has_requests: false, ..promised }),
        loaded: ["another run", "half", "double"]
            .map(|load| (load, recall(&set, injected / 2, load, promised)))
            .to_vec(),
        program: program(&counted),
    }
}

/// Each run of the program against each that was not changed.
fn program(counted: &[Counted<'_>]) -> Vec<Real> {
    let runs: Vec<&Counted<'_>> = counted.iter().filter(|counted| counted.run.subject == "program").collect();
    let mut seen = Vec::new();
    for (at, before) in runs.iter().enumerate().filter(|(_, counted)| counted.run.load == "base") {
        for after in runs.iter().skip(at + 1) {
            let (then, now) = (before.whole(), after.whole());
            let rows = processors::diff::compare(&then, &now);
            let line = |row: &model::finding::FunctionDiff| {
                let through = row.through.as_deref().map(|at| format!(" {at}")).unwrap_or_default();
                let (before, after) = (100.0 * row.before, 100.0 * row.after);
                format!("{} {before:.2} -> {after:.2} % ({:?}{through})", row.name, row.cause)
            };
            let (changes, explained): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.cause.is_change());
            seen.push(Real {
                before: before.run.load.clone(),
                after: after.run.load.clone(),
                samples: (then.samples, now.samples),
                changes: changes.into_iter().map(line).collect(),
                explained: explained.into_iter().map(line).collect(),
            });
        }
    }
    seen
}

impl Report {
    /// What was promised and is not so.
    pub(crate) fn missed(&self) -> Vec<String> {
        let all = self.groups.values().copied().fold(False::default(), False::sum);
        let found = self.curve.iter().find(|(samples, ..)| *samples == PROMISED);
        let found = found.map_or(0.0, |(_, recall, _)| recall.share());
        let checks = [
            (found >= RECALL_MIN, format!("recall {found:.3} at 120,000 samples")),
            (
                all.per_comparison() <= ALARMS_MAX,
                format!("{:.5} false rows a comparison", all.per_comparison()),
            ),
            (all.per_pair() <= ALARMED_MAX, format!("{:.3} of the unchanged pairs alarm", all.per_pair())),
        ];
        checks.into_iter().filter(|(is_so, _)| !is_so).map(|(_, what)| what).collect()
    }

    /// As text.
    pub(crate) fn table(&self) -> String {
        let mut lines =
            vec!["variance of window shares over that of independent samples, median (90 %):".to_owned()];
        for one in &self.variances {
            let factors: Vec<String> =
                one.factors.iter().map(|(n, median, high)| format!("{n}: {median:.2} ({high:.2})")).collect();
            lines.push(format!(
                "  {:24} {:3} functions, {:5.0} samples a window; windows together {}; correlation {:.2}, {:.2}",
                one.run, one.functions, one.window_samples, factors.join(", "), one.correlation.0, one.correlation.1
            ));
        }
        lines.push(format!(
            "\ninjected regressions ({} functions of 1 to 10 %), and unchanged pairs:",
            self.eligible
        ));
        for (samples, recall, seen) in &self.curve {
            lines.push(format!("  {samples:7} samples: {}; {}", recalled(recall), alarmed(seen)));
        }
        lines.push("\nunchanged at 120,000 samples:".to_owned());
        lines.extend(self.groups.iter().map(|(group, seen)| format!("  {group:12} {}", alarmed(seen))));
        for (what, (found, groups)) in
            [("in one piece", &self.in_one_piece), ("without requests", &self.without_requests)]
        {
            lines.push(format!("\n{what}, 120,000 samples: {}", recalled(found)));
            lines.extend(groups.iter().map(|(group, seen)| format!("  {group:12} {}", alarmed(seen))));
        }
        lines.push("\ninjected, and something else changed as well:".to_owned());
        lines.extend(self.loaded.iter().map(|(load, found)| format!("  {load:12} {}", recalled(found))));
        lines.push("\nthe program, as recorded:".to_owned());
        for one in &self.program {
            let none = |rows: &[String]| if rows.is_empty() { "nothing".to_owned() } else { rows.join(", ") };
            lines.push(format!(
                "  {} -> {} {:?}: {}",
                one.before,
                one.after,
                one.samples,
                none(&one.changes)
            ));
            if !one.explained.is_empty() {
                lines.push(format!("      no change: {}", none(&one.explained)));
            }
        }
        lines.join("\n")
    }
}

fn recalled(recall: &Recall) -> String {
    format!(
        "found {}/{} ({:.1} %), located {}",
        recall.found,
        recall.pairs,
        100.0 * recall.share(),
        recall.located
    )
}

fn alarmed(seen: &False) -> String {
    format!(
        "alarms {} of {} comparisons ({:.3} %), in {} of {} pairs ({:.1} %), explained {}",
        seen.alarms,
        seen.comparisons,
        100.0 * seen.per_comparison(),
        seen.alarmed,
        seen.pairs,
        100.0 * seen.per_pair(),
        seen.explained
    )
}

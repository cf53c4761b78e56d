//! How well the diff does on the set.
//!
//! Owns the counting: what is found, what is a false alarm, and per how many looks.

use std::collections::BTreeMap;

use model::finding::FunctionDiff;
use model::profile::FunctionCounts;
use processors::diff::{SHARE_FLOOR, compare};
use serde::Serialize;

use crate::set::{Pair, Set, Size};

/// A function this large on either side is a comparison.
const COMPARED_SHARE: f64 = SHARE_FLOOR;

/// Injected regressions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Recall {
    pub(crate) pairs: usize,
    /// The function is listed, as dearer.
    pub(crate) found: usize,
    /// And the row that begins there says so.
    pub(crate) located: usize,
}

/// Unchanged pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct False {
    pub(crate) pairs: usize,
    /// With at least one row that claims a change.
    pub(crate) alarmed: usize,
    /// Functions compared.
    pub(crate) comparisons: usize,
    /// Rows that claim a change.
    pub(crate) alarms: usize,
    /// Rows that say that it only looks like one.
    pub(crate) explained: usize,
}

impl Recall {
    pub(crate) fn share(self) -> f64 {
        self.found as f64 / self.pairs.max(1) as f64
    }

    fn add(&mut self, pair: &Pair) {
        let Some((name, growth)) = &pair.grown else { return };
        let rows = compare(&pair.before, &pair.after);
        let row = rows.iter().find(|row| row.name == *name && is_alarm(row) && row.after > row.before);
        self.pairs += 1;
        self.found += usize::from(row.is_some());
        let here = |through: &Option<String>| through.as_deref().is_none_or(|at| at == crate::change::NEW);
        self.located += usize::from(row.is_some_and(|row| here(&row.through)));
        if row.is_none() && std::env::var_os("DIFFSET_SHOW").is_some() {
            let seen = rows.iter().find(|row| row.name == *name);
            let seen = seen.map(|row| (row.cause, &row.through, row.q));
            let side = |counts: &FunctionCounts| {
                let function = counts.functions.iter().find(|function| function.name == *name);
                function.map_or(0.0, |function| function.total as f64 / counts.total as f64)
            };
            let (before, after) = (side(&pair.before), side(&pair.after));
            let interval = processors::diff::shares(&pair.before, &pair.after, |other| other == name);
            let interval = interval.first().map(|shares| (shares.low, shares.high));
            println!(
                "missed {} {growth:?} {name} {before:.4} -> {after:.4} {interval:.4?}: {seen:?}",
                pair.group
            );
        }
    }
}

impl False {
    pub(crate) fn per_comparison(self) -> f64 {
        self.alarms as f64 / self.comparisons.max(1) as f64
    }

    pub(crate) fn per_pair(self) -> f64 {
        self.alarmed as f64 / self.pairs.max(1) as f64
    }

    pub(crate) fn sum(self, other: False) -> False {
        False {
            pairs: self.pairs + other.pairs,
            alarmed: self.alarmed + other.alarmed,
            comparisons: self.comparisons + other.comparisons,
            alarms: self.alarms + other.alarms,
            explained: self.explained + other.explained,
        }
    }

    pub(crate) fn add(&mut self, before: &FunctionCounts, after: &FunctionCounts, group: &str) {
        let rows = compare(before, after);
        let alarms = rows.iter().filter(|row| is_alarm(row)).count();
        self.pairs += 1;
        self.alarmed += usize::from(alarms > 0);
        self.alarms += alarms;
        self.explained += rows.len() - alarms;
        self.comparisons += compared(before, after);
        if alarms > 0 && std::env::var_os("DIFFSET_SHOW").is_some() {
            for row in rows.iter().filter(|row| is_alarm(row)) {
                println!(
                    "{group}: {} {:.2} -> {:.2} % abs {:.4} -> {:.4} q {:.1e} {:?} {:?}",
                    row.name,
                    row.before * 100.0,
                    row.after * 100.0,
                    row.before_abs,
                    row.after_abs,
                    row.q,
                    row.cause,
                    row.through
                );
            }
        }
    }
}

fn is_alarm(row: &FunctionDiff) -> bool {
    row.cause.is_change()
}

fn compared(before: &FunctionCounts, after: &FunctionCounts) -> usize {
    let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
    for counts in [before, after] {
        for function in &counts.functions {
            let share = shares.entry(&function.name).or_default();
            *share = share.max(function.total as f64 / counts.total.max(1) as f64);
        }
    }
    shares.values().filter(|share| **share >= COMPARED_SHARE).count()
}

/// Of so many injected regressions.
pub(crate) fn recall(set: &Set<'_>, pairs: usize, load: &'static str, size: Size) -> Recall {
    let mut recall = Recall::default();
    (0..pairs).for_each(|number| recall.add(&set.grown(number, load, size)));
    recall
}

/// Of so many unchanged pairs, by group.
pub(crate) fn alarms(set: &Set<'_>, pairs: usize, size: Size) -> BTreeMap<&'static str, False> {
    let mut groups: BTreeMap<&'static str, False> = BTreeMap::new();
    for number in 0..pairs {
        let pair = set.unchanged(number, size);
        groups.entry(pair.group).or_default().add(&pair.before, &pair.after, pair.group);
    }
    groups
}

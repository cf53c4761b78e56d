//! Which rows of a diff only pass on the change of one callee: they go first when there are too many rows.
//!
//! A change deep in a program shows up in each of its callers: a dozen wrappers with the same shares, and the function
//! that changed below the fold. Owns that judgement; drops nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use model::finding::FunctionDiff;
use model::profile::FunctionCounts;

/// A caller that spends this share of its own inclusive value in one callee adds nothing of its own.
const PASSED_ON: f64 = 0.95;

/// Names of rows that pass on the change of another row, which stays.
pub(super) fn passing_on<'a>(
    rows: &'a [FunctionDiff],
    before: &'a FunctionCounts,
    after: &'a FunctionCounts,
) -> BTreeSet<&'a str> {
    let listed: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let (then, now) = (heaviest_callees(before), heaviest_callees(after));
    let mut next: BTreeMap<&str, &str> = BTreeMap::new();
    for row in rows {
        // Judged on the side where there is more of it.
        let callees = if row.after >= row.before { &now } else { &then };
        if let Some(callee) = callees.get(row.name.as_str())
            && listed.contains(callee)
        {
            next.insert(&row.name, callee);
        }
    }
    next.keys().copied().filter(|name| !stays(name, &next)).collect()
}

/// Of functions that call each other in a circle, the first by name stands for all.
fn stays(name: &str, next: &BTreeMap<&str, &str>) -> bool {
    let mut at = name;
    let mut first = name;
    // No walk is longer than the map: after that it goes in a circle that does not hold `name`.
    for _ in 0..next.len() {
        let Some(callee) = next.get(at).copied() else { return false };
        if callee == name {
            return first == name;
        }
        first = first.min(callee);
        at = callee;
    }
    false
}

/// By caller, the callee that takes at least [`PASSED_ON`] of it; recursion aside.
fn heaviest_callees(counts: &FunctionCounts) -> BTreeMap<&str, &str> {
    let function = |at: u32| usize::try_from(at).ok().and_then(|at| counts.functions.get(at));
    let mut callees = BTreeMap::new();
    for (caller, callee, value) in &counts.edges {
        let (Some(caller), Some(callee)) = (function(*caller), function(*callee)) else { continue };
        if caller.name != callee.name && super::ratio(*value, caller.total.max(1)) >= PASSED_ON {
            callees.insert(caller.name.as_str(), callee.name.as_str());
        }
    }
    callees
}

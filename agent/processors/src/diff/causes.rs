//! Why a function is listed: where in the call graph a change begins, and whether it is one.
//!
//! Owns the walk from a row down to where its change begins, and the looks at what only resembles a change: work that is
//! done elsewhere, a collector that works more, a load. Shares are taken in units in which a typical function did not
//! change, so that one function's growth is not the shrinking of all others.

use std::collections::BTreeSet;

use model::finding::{Cause, FunctionDiff};
use model::profile::runtime::{begins_collection, is_runtime};

use super::calls::Calls;
use super::found::{Found, Proof};
use super::load::Load;
use super::pair::{Pair, Part};

/// Calls followed downwards. Deeper than any path on which each call takes most of its caller.
const DEPTH_MAX: usize = 128;
/// So much of a caller's change must come through one call to say that it comes from there.
const MOST: f64 = 0.5;
/// Two changes cancel out when what is left of them is at most so much of either.
const CANCELLED: f64 = 0.3;
/// Standard deviations of noise by which a counterpart must have changed itself: what is looked for among many is easily
/// found by chance.
const COUNTERPART_NOISE: f64 = 3.5;
/// The same of each caller that may have given work away: there are few of them.
const CALLER_NOISE: f64 = 2.5;
/// Rounds in which functions are found that only the collector calls: its calls are not deeper.
const COLLECTOR_ROUNDS: usize = 16;
/// So much of a function's time must come from the collector's calls.
const COLLECTORS_SHARE: f64 = 0.9;

/// Where a walk ends, and how.
enum End<'a> {
    /// The change begins in this function.
    Begins(&'a str),
    /// The callee that all of it goes to did not change.
    Moved(&'a str),
}

/// Fills in [`FunctionDiff::cause`] and [`FunctionDiff::through`] of each row.
pub(super) fn explain(rows: &mut [(FunctionDiff, Found<'_>)], pair: &Pair<'_>, calls: &Calls<'_, '_>) {
    let collector = collector(calls);
    let load = Load::between(pair);
    for (row, found) in rows {
        let name = found.both.name;
        if is_load(found, pair, load) {
            row.cause = Cause::Load;
            continue;
        }
        let (cause, through) = match end(calls, found) {
            End::Moved(callee) => (Cause::Moved, Some(callee)),
            End::Begins(at) if is_runtime(name) || collector.contains(at) => (Cause::Runtime, Some(at)),
            End::Begins(at) => match counterpart(calls, at) {
                Some(other) => (Cause::Moved, Some(other)),
                None if at == name => (Cause::Itself, None),
                None => (Cause::Callee, Some(at)),
            },
        };
        row.cause = cause;
        row.through = through.filter(|through| *through != row.name).map(str::to_owned);
    }
}

/// Whether what changed costs what the load lets it cost, or only has another share because others changed.
fn is_load(found: &Found<'_>, pair: &Pair<'_>, load: Option<Load>) -> bool {
    let (seen, scaled) = (found.seen.change(), pair.scaled(found.seen).change());
    load.is_some_and(|load| load.explains(pair, found.seen, found.noise))
        || scaled * seen.signum() <= CANCELLED * seen.abs()
}

/// Follows the call that carries most of the change, as long as there is one; first the one that is known to.
///
/// Functions that call each other in a circle are passed once: where the way ends in one, it goes on from there.
fn end<'a>(calls: &Calls<'_, 'a>, found: &Found<'a>) -> End<'a> {
    let along = |change: f64| change * found.seen.change().signum();
    let row = found.both.name;
    let (mut at, mut seen) = (row, BTreeSet::from([row]));
    let mut known = match found.proof {
        Proof::Own => return End::Begins(row),
        Proof::Call(callee) => Some((along(calls.edge(row, callee).change()), callee)),
        Proof::Whole => None,
    };
    let most = |at: &str, is_wanted: &dyn Fn(&str) -> bool| {
        let whole = along(calls.pair.total(at).change());
        let own = along(calls.pair.own(at).change());
        calls
            .callees(at)
            .filter(|(callee, _)| is_wanted(callee))
            .map(|(callee, shift)| (along(shift.change()), callee))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))
            .filter(|(passed, _)| *passed > own && *passed >= MOST * whole)
    };
    for _ in 0..DEPTH_MAX {
        let is_new = |callee: &str| !seen.contains(callee);
        let Some((passed, callee)) = known.take().or_else(|| most(at, &is_new)) else {
            let back = most(at, &|callee| seen.contains(callee)).map(|(_, back)| back);
            let Some(back) = back.filter(|back| most(back, &is_new).is_some()) else {
                return End::Begins(at);
            };
            at = back;
            continue;
        };
        if along(calls.pair.total(callee).change()) < MOST * passed {
            let is_moved = has_opposite(calls, (at, callee), passed * along(1.0));
            return if is_moved { End::Moved(callee) } else { End::Begins(at) };
        }
        seen.insert(callee);
        at = callee;
    }
    End::Begins(at)
}

/// Whether other callers spend so much less in a callee as this one spends more, or the other way round.
fn has_opposite(calls: &Calls<'_, '_>, (caller, callee): (&str, &str), given: f64) -> bool {
    let taken = |other: &str| {
        let edge = calls.edge(other, callee);
        let taken = -edge.change() * given.signum();
        // Of many callers, the noise adds up to something as well.
        if taken >= CALLER_NOISE * calls.pair.typical_noise(edge.size()) { taken } else { 0.0 }
    };
    let others = calls.callers(callee).filter(|other| *other != caller);
    others.map(taken).sum::<f64>() >= MOST * given.abs()
}

/// Another function that lost what this one gained, or the other way round: the same work under another name, or within
/// its caller.
fn counterpart<'a>(calls: &Calls<'_, 'a>, at: &'a str) -> Option<&'a str> {
    let change = calls.pair.total(at).change();
    calls.callers(at).find_map(|caller| {
        let given = calls.edge(caller, at).change();
        // This caller must be where most of the change comes from.
        if given * change.signum() < MOST * change.abs() {
            return None;
        }
        sibling(calls, (caller, at), given).or_else(|| within(calls, (caller, at), given))
    })
}

/// A callee of the same caller that changed by the opposite.
fn sibling<'a>(calls: &Calls<'_, 'a>, (caller, at): (&'a str, &'a str), given: f64) -> Option<&'a str> {
    calls
        .callees(caller)
        .filter(|(other, _)| *other != at)
        .map(|(other, shift)| (other, shift, (shift.change() + given).abs()))
        .filter(|(other, shift, left)| {
            *left <= CANCELLED * given.abs()
                && shift.change().abs()
                    >= COUNTERPART_NOISE * calls.pair.noise(other, Part::Total, shift.size())
        })
        .min_by(|a, b| a.2.total_cmp(&b.2).then(a.0.cmp(b.0)))
        .map(|(other, _, _)| other)
}

/// The caller itself, where it does now what it called for, or calls now for what it did: its own time and what it spends
/// in the other's callees changed by the opposite.
fn within<'a>(calls: &Calls<'_, 'a>, (caller, at): (&'a str, &'a str), given: f64) -> Option<&'a str> {
    let own = calls.pair.own(caller);
    let (mut taken, mut size) = (own.change(), own.size());
    for (callee, _) in calls.callees(at) {
        let edge = calls.edge(caller, callee);
        taken += edge.change();
        size += edge.size();
    }
    let cancels = (taken + given).abs() <= CANCELLED * given.abs();
    (cancels && taken.abs() >= COUNTERPART_NOISE * calls.pair.noise(caller, Part::Total, size))
        .then_some(caller)
}

/// Functions of the collector, and those that nothing else calls.
fn collector<'a>(calls: &Calls<'_, 'a>) -> BTreeSet<&'a str> {
    let mut found: BTreeSet<&str> = calls.pair.names().filter(|name| begins_collection(name)).collect();
    let mut newest: Vec<&str> = found.iter().copied().collect();
    for _ in 0..COLLECTOR_ROUNDS {
        let mut next: Vec<&str> = Vec::new();
        for callee in newest.iter().flat_map(|caller| calls.callees(caller)).map(|(callee, _)| callee) {
            let from = |is_wanted: &dyn Fn(&str) -> bool| -> f64 {
                let callers = calls.callers(callee).filter(|caller| is_wanted(caller));
                callers.map(|caller| calls.edge(caller, callee)).map(|edge| edge.before + edge.after).sum()
            };
            let whole = from(&|_| true);
            if !found.contains(callee) && from(&|caller| found.contains(caller)) >= COLLECTORS_SHARE * whole {
                found.insert(callee);
                next.push(callee);
            }
        }
        if next.is_empty() {
            break;
        }
        newest = next;
    }
    found
}

//! Which functions changed beyond noise, and by so much that it matters.
//!
//! Owns the family of tests and what they prove. A large function varies more than what grew in it: where its own time, or
//! what it spends in a callee that changed, is beyond noise and most of its change, it changed too, though its share alone
//! could not tell.

use std::collections::BTreeMap;

use super::calls::Calls;
use super::pair::{Both, Pair, Part, Shift};
use super::stats::{self, Z_95};
use super::{FALSE_DISCOVERY_RATE, FALSE_DISCOVERY_RATE_APART, FALSE_DISCOVERY_RATE_FAINT, weights};

/// So much of a function's change must be in the part that changed beyond noise.
const MOST: f64 = 0.5;
/// A change that may be as large as the floor is told when it is seen to be at least this part of it: noise makes half of
/// those that are exactly as large as the floor look smaller.
const SEEN_OF_FLOOR: f64 = 0.5;
/// The same of a part, which has less noise.
const PART_OF_FLOOR: f64 = 0.8;

/// Standard deviations at which a change shows among some hundred functions.
const SHOWS: f64 = 3.0;

/// What of a function is sure to have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof<'a> {
    /// All of it.
    Whole,
    /// Its own time.
    Own,
    /// What it spends in this callee.
    Call(&'a str),
}

/// A function that changed, and how sure that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) both: Both<'a>,
    pub(super) q: f64,
    pub(super) proof: Proof<'a>,
    /// The shares of what is sure to have changed.
    pub(super) seen: Shift,
    /// The standard deviation that noise gives their change.
    pub(super) noise: f64,
}

/// Those that a test of their own tells, by name. Inclusive and own shares are a family each (Benjamini and Hochberg, 1995).
pub(super) fn tested<'a>(pair: &Pair<'a>) -> BTreeMap<&'a str, Found<'a>> {
    let mut found = BTreeMap::new();
    test(pair, Part::Total, &mut found);
    test(pair, Part::Own, &mut found);
    found
}

fn test<'a>(pair: &Pair<'a>, part: Part, found: &mut BTreeMap<&'a str, Found<'a>>) {
    let candidates = pair.candidates(part);
    let prospects: Vec<(f64, f64)> = candidates.iter().map(|both| prospect(pair, both, part)).collect();
    let reaches: Vec<f64> = prospects.iter().map(|(reach, _)| *reach).collect();
    let weights = weights::of(&reaches, FALSE_DISCOVERY_RATE);
    let weights =
        weights.iter().zip(&prospects).map(|(weight, (_, rate))| weight * rate / FALSE_DISCOVERY_RATE);
    let p_values: Vec<f64> =
        candidates.iter().zip(weights).map(|(both, weight)| pair.p_value(both, part) / weight).collect();
    let q_values = stats::q_values(&p_values);
    for (both, q) in candidates.into_iter().zip(q_values).filter(|(_, q)| *q <= FALSE_DISCOVERY_RATE) {
        let seen = pair.seen(&both, part);
        let (low, high) = pair.interval(&both, part);
        let farthest = if seen.change() > 0.0 { high } else { -low };
        let (is_so, proof) = match part {
            Part::Total => (matters(seen, farthest), Proof::Whole),
            Part::Own => (is_changed_by(pair, &both, (seen, farthest)), Proof::Own),
        };
        if is_so {
            let noise = pair.noise(both.name, part, seen.size());
            put(found, Found { both, q, proof, seen, noise });
        }
    }
}

/// How many standard deviations a change as large as the floor is, and the rate of false rows that is accepted of such.
fn prospect(pair: &Pair<'_>, both: &Both<'_>, part: Part) -> (f64, f64) {
    let size = pair.seen(both, part).size();
    let reach = super::floor(size) / pair.noise(both.name, part, size).max(f64::MIN_POSITIVE);
    let rate = match pair.is_apart(both, part) {
        true => FALSE_DISCOVERY_RATE_APART,
        false if reach < SHOWS => FALSE_DISCOVERY_RATE_FAINT,
        false => FALSE_DISCOVERY_RATE,
    };
    (reach, rate)
}

/// And those of which what they spend in one of these is told.
pub(super) fn with_callers<'a>(
    mut found: BTreeMap<&'a str, Found<'a>>,
    pair: &Pair<'a>,
    calls: &Calls<'_, 'a>,
) -> Vec<Found<'a>> {
    let mut next: Vec<(f64, &str)> = found.values().map(|found| (found.q, found.both.name)).collect();
    // The surest last, and what it tells of behind it: no function is looked at twice.
    next.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(a.1)));
    while let Some((q, callee)) = next.pop() {
        let Some(both) = pair.both(callee) else { continue };
        let whole = pair.seen(&both, Part::Total);
        for caller in calls.callers(callee) {
            if found.get(caller).is_some_and(|known| known.q <= q) {
                continue;
            }
            let Some(other) = pair.both(caller) else { continue };
            let seen = calls.seen(caller, callee);
            // Calls have no windows of their own: their noise is taken for that of the callee.
            let noise = pair.noise(callee, Part::Total, seen.size());
            let change = seen.change().abs();
            let is_so = change > Z_95 * noise
                && is_most(seen, whole)
                && is_changed_by(pair, &other, (seen, change + Z_95 * noise));
            if is_so {
                put(&mut found, Found { both: other, q, proof: Proof::Call(callee), seen, noise });
                next.push((q, caller));
            }
        }
    }
    found.into_values().collect()
}

/// Of two proofs that of all of it is kept, else the surer one; the surer q in any case.
fn put<'a>(found: &mut BTreeMap<&'a str, Found<'a>>, new: Found<'a>) {
    let known = found.entry(new.both.name).or_insert(new);
    let q = known.q.min(new.q);
    if known.proof != Proof::Whole && new.q < known.q {
        *known = new;
    }
    known.q = q;
}

/// The smallest change that matters to this function.
fn floor(seen: Shift) -> f64 {
    super::floor(seen.before.min(seen.after))
}

/// Whether the change of the inclusive share, or the farthest that noise lets it be, is as large as the floor.
fn matters(whole: Shift, farthest: f64) -> bool {
    farthest >= floor(whole) && whole.change().abs() >= SEEN_OF_FLOOR * floor(whole)
}

/// Whether a part of it changed by so much that all of it did. The rest must be as it was, by what noise may do to the
/// whole: else the work only moved from there.
fn is_changed_by(pair: &Pair<'_>, both: &Both<'_>, (part, farthest): (Shift, f64)) -> bool {
    let whole = pair.seen(both, Part::Total);
    let taken = -(whole.change() - part.change()) * part.change().signum();
    is_most(part, whole)
        && farthest >= floor(whole)
        && part.change().abs() >= PART_OF_FLOOR * floor(whole)
        && taken <= Z_95 * pair.noise(both.name, Part::Total, whole.size())
}

/// Whether the change of a part goes the same way and is most of the whole.
fn is_most(part: Shift, whole: Shift) -> bool {
    let change = whole.change();
    part.change() * change.signum() >= MOST * change.abs() && change != 0.0
}

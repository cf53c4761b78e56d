//! Which functions changed beyond noise, and by so much that it matters.
//!
//! Owns the family of tests and what they prove. A large function varies more than what grew in it: where its own time, or
//! one of its callees, changed beyond noise and is most of its change, it changed too, though its share alone could not
//! tell.

use std::collections::BTreeMap;

use super::calls::Calls;
use super::pair::{Both, Pair, Part, Shift};
use super::stats::{self, Z_95};
use super::{FALSE_DISCOVERY_RATE, RELATIVE_FLOOR, SHARE_FLOOR};

/// So much of a function's change must be in the part that changed beyond noise.
const MOST: f64 = 0.5;
/// A change that may be as large as the floor is told when it is seen to be at least this part of it: noise makes half of
/// those that are exactly as large as the floor look smaller.
const SEEN_OF_FLOOR: f64 = 0.5;
/// The same of a part, which has less noise.
const PART_OF_FLOOR: f64 = 0.8;

/// A function that changed, and how sure that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) both: Both<'a>,
    pub(super) q: f64,
    /// What of its share changed beyond noise: all of it, its own time, or what it spends in one callee.
    pub(super) part: Shift,
}

/// All of them, by name. Inclusive and own shares are one family (Benjamini and Hochberg, 1995).
pub(super) fn found<'a>(pair: &Pair<'a>, calls: &Calls<'_, 'a>) -> Vec<Found<'a>> {
    let tests: Vec<(Part, Both<'a>)> = [Part::Total, Part::Own]
        .into_iter()
        .flat_map(|part| pair.candidates(part).into_iter().map(move |both| (part, both)))
        .collect();
    let p_values: Vec<f64> = tests.iter().map(|(part, both)| pair.p_value(both, *part)).collect();
    let mut found: BTreeMap<&str, Found<'a>> = BTreeMap::new();
    for ((part, both), q) in tests.into_iter().zip(stats::q_values(&p_values)) {
        let seen = pair.seen(&both, part);
        let (low, high) = pair.interval(&both, part);
        let farthest = if seen.change() > 0.0 { high } else { -low };
        let is_so = match part {
            Part::Total => matters(seen, farthest),
            Part::Own => has_part(pair, &both, (seen, farthest)),
        };
        if is_so && q <= FALSE_DISCOVERY_RATE {
            surer(&mut found, Found { both, q, part: seen });
        }
    }
    let mut next: Vec<&str> = found.keys().copied().collect();
    while let Some(callee) = next.pop() {
        let Some(Found { both, q, .. }) = found.get(callee).copied() else { continue };
        for caller in calls.callers(callee) {
            let Some(other) = pair.both(caller) else { continue };
            let part = calls.seen(caller, callee);
            // Calls have no windows of their own: their noise is taken for that of the callee.
            let noise = Z_95 * pair.noise(callee, (part.before + part.after) / 2.0);
            let is_proven = is_most(part, pair.seen(&both, Part::Total))
                && has_part(pair, &other, (part, part.change().abs() + noise));
            // Only what got surer is looked at again, so this ends.
            if is_proven && surer(&mut found, Found { both: other, q, part }) {
                next.push(caller);
            }
        }
    }
    found.into_values().collect()
}

/// The smallest change that matters to a function of this share.
fn floor(seen: Shift) -> f64 {
    SHARE_FLOOR.max(RELATIVE_FLOOR * seen.before.min(seen.after))
}

/// Whether the change of the inclusive share, or the farthest that noise lets it be, is as large as the floor.
fn matters(whole: Shift, farthest: f64) -> bool {
    farthest >= floor(whole) && whole.change().abs() >= SEEN_OF_FLOOR * floor(whole)
}

/// Whether a part of it changed by so much that all of it did.
fn has_part(pair: &Pair<'_>, both: &Both<'_>, (part, farthest): (Shift, f64)) -> bool {
    let whole = pair.seen(both, Part::Total);
    is_most(part, whole) && farthest >= floor(whole) && part.change().abs() >= PART_OF_FLOOR * floor(whole)
}

/// Whether the change of a part goes the same way and is most of the whole.
fn is_most(part: Shift, whole: Shift) -> bool {
    let change = whole.change();
    part.change() * change.signum() >= MOST * change.abs() && change != 0.0
}

/// Keeps the surest; whether this one is.
fn surer<'a>(found: &mut BTreeMap<&'a str, Found<'a>>, new: Found<'a>) -> bool {
    let is_surer = found.get(new.both.name).is_none_or(|known| new.q < known.q);
    if is_surer {
        found.insert(new.both.name, new);
    }
    is_surer
}

//! Two profiles side by side, by name: shares, how sure they are, and what calls what.
//!
//! Owns the lookup and what is known of the variance of a share. An absent function has the share 0.

use std::collections::BTreeMap;

use model::profile::FunctionCounts;
use model::profile::windows::WindowCount;

use super::bulk::{self, Bulk};
use super::spread::Spread;
use super::stats::{self, Observed};
use super::{SHARE_FLOOR, ratio, share};

/// A reference for scale needs so much of the CPU time on both sides, else its ratio is noise.
const REFERENCE_SHARE: f64 = 0.001;

/// What of a function is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It and all that it calls.
    Total,
    /// It alone.
    Own,
}

impl Part {
    /// Of one window.
    pub(super) fn of_window(self, row: &WindowCount) -> u64 {
        match self {
            Part::Total => row.total,
            Part::Own => row.own,
        }
    }
}

/// What is new and as large as the floor is seen to be so much of it: less only by more than two standard deviations of
/// some thousand samples.
const CANDIDATE: f64 = 0.8;

/// One function on one side; absent means zero.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Side {
    at: Option<u32>,
    pub(super) own: u64,
    pub(super) total: u64,
}

impl Side {
    fn value(self, part: Part) -> u64 {
        match part {
            Part::Total => self.total,
            Part::Own => self.own,
        }
    }
}

/// One function on both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Both<'a> {
    pub(super) name: &'a str,
    pub(super) then: Side,
    pub(super) now: Side,
}

impl Both<'_> {
    /// Index on the side after.
    pub(super) fn now_at(&self) -> Option<u32> {
        self.now.at
    }
}

/// Shares before and after.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shift {
    pub(super) before: f64,
    pub(super) after: f64,
}

impl Shift {
    /// The mean of both sides.
    pub(super) fn size(self) -> f64 {
        (self.before + self.after) / 2.0
    }

    /// What was added.
    pub(super) fn change(self) -> f64 {
        self.after - self.before
    }
}

/// What is known of the noise of one part of all functions.
#[derive(Debug)]
struct Noise {
    spreads: (Spread, Spread),
    /// What happened to all functions.
    bulk: Bulk,
}

/// Two profiles of one kind.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub(super) before: &'a FunctionCounts,
    pub(super) after: &'a FunctionCounts,
    functions: BTreeMap<&'a str, (Side, Side)>,
    total: Noise,
    own: Noise,
    /// A typical function's share after over its share before.
    scale: f64,
}

impl Noise {
    /// What is known of all shares stands in for what too few tell of their own.
    fn of((before, after): (&FunctionCounts, &FunctionCounts), part: Part, all: Option<&Noise>) -> Noise {
        let spreads = (
            Spread::of(before, part, all.map(|all| &all.spreads.0)),
            Spread::of(after, part, all.map(|all| &all.spreads.1)),
        );
        Noise { spreads, bulk: Bulk::default() }
    }

    /// The standard deviation of the change of a share of this size.
    fn of_size(
        &self,
        (before, then): (&FunctionCounts, Option<u32>),
        (after, now): (&FunctionCounts, Option<u32>),
        size: f64,
    ) -> f64 {
        let (a, b) = &self.spreads;
        let n = a.effect(then, (b, now)).factor / ratio(before.samples, 1)
            + b.effect(now, (a, then)).factor / ratio(after.samples, 1);
        let odds = size * (1.0 - size).max(0.0);
        (odds * n + odds * odds * self.bulk.variance()).sqrt()
    }
}

impl<'a> Pair<'a> {
    /// `None` where there is nothing to compare.
    pub(super) fn of(before: &'a FunctionCounts, after: &'a FunctionCounts) -> Option<Pair<'a>> {
        let comparable = before.kind == after.kind
            && [before.total, before.samples, after.total, after.samples].iter().all(|n| *n > 0);
        if !comparable {
            return None;
        }
        let total = Noise::of((before, after), Part::Total, None);
        let mut pair = Pair {
            before,
            after,
            functions: BTreeMap::new(),
            own: Noise::of((before, after), Part::Own, Some(&total)),
            total,
            scale: 1.0,
        };
        pair.read(before, |(then, _)| then);
        pair.read(after, |(_, now)| now);
        pair.scale = pair.typical_ratio(|value| share(value, before), |value| share(value, after));
        let bulk = |part| bulk::of(part, pair.candidates(part).iter().map(|both| pair.observed(both, part)));
        let (total, own) = (bulk(Part::Total).unwrap_or_default(), bulk(Part::Own));
        (pair.total.bulk, pair.own.bulk) = (total, own.unwrap_or(total));
        Some(pair)
    }

    fn read(&mut self, counts: &'a FunctionCounts, side: impl Fn(&mut (Side, Side)) -> &mut Side) {
        for (function, at) in counts.functions.iter().zip(0..) {
            let both = self.functions.entry(&function.name).or_default();
            *side(both) = Side { at: Some(at), own: function.own, total: function.total };
        }
    }

    /// The median over own time of after / before: what a change of load does to everything.
    pub(super) fn typical_ratio(&self, before: impl Fn(u64) -> f64, after: impl Fn(u64) -> f64) -> f64 {
        let reference = |(then, now): &&(Side, Side)| {
            share(then.own, self.before).min(share(now.own, self.after)) >= REFERENCE_SHARE
        };
        let mut ratios: Vec<(f64, f64)> = self
            .functions
            .values()
            .filter(reference)
            .map(|(then, now)| {
                let weight = share(then.own, self.before) + share(now.own, self.after);
                (after(now.own) / before(then.own), weight)
            })
            .filter(|(ratio, _)| ratio.is_finite())
            .collect();
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let half: f64 = ratios.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
        // From both ends, so that swapping both sides gives the inverse.
        match (middle(ratios.iter(), half), middle(ratios.iter().rev(), half)) {
            (Some(low), Some(high)) if low > 0.0 && high > 0.0 => (low * high).sqrt(),
            _ => 1.0,
        }
    }

    fn known(&self, part: Part) -> &Noise {
        match part {
            Part::Total => &self.total,
            Part::Own => &self.own,
        }
    }

    /// Functions whose mean share nearly reaches half the floor, by name: a filter that does not look at the difference.
    pub(super) fn candidates(&self, part: Part) -> Vec<Both<'a>> {
        let mean = |both: &Both<'_>| {
            share(both.then.value(part), self.before) + share(both.now.value(part), self.after)
        };
        self.all().filter(|both| mean(both) >= CANDIDATE * SHARE_FLOOR).collect()
    }

    /// All functions, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = Both<'a>> {
        self.functions.iter().map(|(name, (then, now))| Both { name, then: *then, now: *now })
    }

    /// Two-sided p of "this share did not change": neither beyond sampling, nor beyond what the bulk did.
    pub(super) fn p_value(&self, both: &Both<'_>, part: Part) -> f64 {
        let (then, now) = self.observed(both, part);
        let by_noise = stats::two_proportions(then, now);
        let bulk = &self.known(part).bulk;
        if bulk.is_still() { by_noise } else { by_noise.max(bulk.stands_out(then, now)) }
    }

    /// Whether what happened to all functions decides how sure a change of this one is.
    pub(super) fn is_apart(&self, both: &Both<'_>, part: Part) -> bool {
        let (then, now) = self.observed(both, part);
        self.known(part).bulk.decides(then, now)
    }

    /// 95 % interval of the change of a share: by noise, or where the two runs lie apart by that.
    pub(super) fn interval(&self, both: &Both<'_>, part: Part) -> (f64, f64) {
        let (then, now) = self.observed(both, part);
        let bulk = &self.known(part).bulk;
        if bulk.is_still() {
            return stats::difference_interval(then, now);
        }
        let sides = (bulk.interval(then), bulk.interval(now));
        stats::difference_of((then.share, sides.0), (now.share, sides.1))
    }

    /// The shares with what the windows say of their variance.
    pub(super) fn observed(&self, both: &Both<'_>, part: Part) -> (Observed, Observed) {
        let (then, now) = &self.known(part).spreads;
        let one = |value: u64, counts: &FunctionCounts, effect: super::spread::Effect| Observed {
            share: share(value, counts),
            n: (ratio(counts.samples, 1) / effect.factor).max(1.0),
            freedom: effect.freedom,
        };
        let (before, after) = (both.then.value(part), both.now.value(part));
        (
            one(before, self.before, then.effect(both.then.at, (now, both.now.at))),
            one(after, self.after, now.effect(both.now.at, (then, both.then.at))),
        )
    }

    /// Shares as they were seen.
    pub(super) fn seen(&self, both: &Both<'_>, part: Part) -> Shift {
        self.of_whole(both.then.value(part), both.now.value(part))
    }

    /// Two values as shares, as they were seen.
    pub(super) fn of_whole(&self, then: u64, now: u64) -> Shift {
        Shift { before: share(then, self.before), after: share(now, self.after) }
    }

    /// One function by name.
    pub(super) fn both(&self, name: &str) -> Option<Both<'a>> {
        let (name, (then, now)) = self.functions.get_key_value(name)?;
        Some(Both { name, then: *then, now: *now })
    }

    /// Inclusive share.
    pub(super) fn total(&self, name: &str) -> Shift {
        let (then, now) = self.functions.get(name).copied().unwrap_or_default();
        self.shift(then.total, now.total)
    }

    /// Own share.
    pub(super) fn own(&self, name: &str) -> Shift {
        let (then, now) = self.functions.get(name).copied().unwrap_or_default();
        self.shift(then.own, now.own)
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.functions.keys().copied()
    }

    /// The standard deviation that noise gives the change of a share of this size, which is of this function or of calls to
    /// it.
    pub(super) fn noise(&self, name: &str, part: Part, size: f64) -> f64 {
        let (then, now) = self.functions.get(name).map_or((None, None), |(then, now)| (then.at, now.at));
        self.known(part).of_size((self.before, then), (self.after, now), size)
    }

    /// The same of any function.
    pub(super) fn typical_noise(&self, size: f64) -> f64 {
        self.total.of_size((self.before, None), (self.after, None), size)
    }

    /// Two values as shares, in units in which a typical function did not change.
    pub(super) fn shift(&self, then: u64, now: u64) -> Shift {
        self.scaled(self.of_whole(then, now))
    }

    /// In units in which a typical function did not change.
    pub(super) fn scaled(&self, seen: Shift) -> Shift {
        // Half of the scale on each side, so that swapping both sides turns signs and nothing else.
        let half = self.scale.sqrt();
        Shift { before: seen.before * half, after: seen.after / half }
    }
}

/// The value at which half of the weight is passed.
fn middle<'r>(mut ratios: impl Iterator<Item = &'r (f64, f64)>, half: f64) -> Option<f64> {
    let mut passed = 0.0;
    let found = ratios.find(|(_, weight)| {
        passed += weight;
        passed >= half
    });
    found.map(|(ratio, _)| *ratio)
}

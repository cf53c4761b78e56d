//! How far two runs of the same program lie apart, beyond what the windows of either show.
//!
//! A machine that is busier, a larger heap, another state: many functions cost somewhat more or less, and no window tells,
//! because it lasts the whole run. The bulk of the functions tells (Efron's empirical null, 2004): what a regression does
//! to a few must stand out from what happened to all. Owns that variance, of log odds of shares; 0 where two profiles
//! differ by noise alone.

use super::pair::Part;
use super::stats::{Observed, Z_95};

/// Of fewer functions a handful of changed ones would be the bulk.
const FUNCTIONS_MIN: usize = 20;
/// Shares outside have too few samples, or hold most of the program.
const SHARES: std::ops::RangeInclusive<f64> = 0.003..=0.7;
/// Of fewer samples the log odds are mostly luck, and those that were seen at all the lucky ones.
const SEEN_MIN: f64 = 5.0;
/// Parts of the functions, and the squares below which so many of independent standard normal numbers are: the middle,
/// and points farther out, since some functions feel a busy machine more than others. The rest may have changed.
const POINTS: [(f64, f64); 3] = [(0.5, 0.454_936), (0.8, 1.642_374), (0.95, 3.841_459)];
/// The standard deviation of such a point of one number, over its square: √(p (1 − p)) over the density there. 1.8 to 2.3.
const POINT_NOISE: f64 = 2.0;
/// With a function's inclusive share that of its callers and callees changes: more of them may have.
const POINTS_OF_TOTALS: usize = 2;
/// A standard deviation of log odds of 3, a factor of 20: two runs that have next to nothing in common.
const VARIANCE_MAX: f64 = 9.0;

/// What happened to all functions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bulk {
    /// What it did to the typical one, in log odds: a new function that takes half of the time halves all others.
    typical: f64,
    /// How far the functions lie apart beyond their noise, a variance of log odds.
    variance: f64,
}

/// What the bulk of the functions did; `None` where there are too few to tell.
pub(super) fn of(part: Part, functions: impl Iterator<Item = (Observed, Observed)>) -> Option<Bulk> {
    let mut seen: Vec<(f64, f64)> = functions.filter_map(|(then, now)| log_odds(then, now)).collect();
    if seen.len() < FUNCTIONS_MIN {
        return None;
    }
    let differences = || seen.iter().map(|(difference, _)| *difference);
    // From both ends, so that swapping both sides turns the sign and nothing else.
    let typical =
        (point(differences().collect(), 0.5) - point(differences().map(|one| -one).collect(), 0.5)) / 2.0;
    for (difference, _) in &mut seen {
        *difference -= typical;
    }
    let points = if part == Part::Total { POINTS_OF_TOTALS } else { POINTS.len() };
    let too_wide = |extra: f64, chance: f64| {
        POINTS.iter().take(points).any(|(part, square)| {
            let squares = seen.iter().map(|(difference, noise)| difference * difference / (noise + extra));
            point(squares.collect(), *part) > *square * chance
        })
    };
    // A point of so many numbers is off by chance as well: two runs that may be alike are taken to be.
    let chance = 1.0 + Z_95 * POINT_NOISE / super::stats::size(seen.len()).sqrt();
    if !too_wide(0.0, chance) {
        return Some(Bulk::default());
    }
    let (_, variance) = super::stats::halved((0.0, VARIANCE_MAX), |extra| too_wide(extra, 1.0));
    Some(Bulk { typical, variance })
}

impl Bulk {
    /// Whether the two differ by noise alone, but for a few functions.
    pub(super) fn is_still(&self) -> bool {
        self.variance <= 0.0
    }

    /// How far functions lie apart beyond their noise, a variance of log odds.
    pub(super) fn variance(&self) -> f64 {
        self.variance
    }

    /// Two-sided p of "it did what the bulk did": a change by a factor, however large, is a distance of log odds. Student's,
    /// with the degrees of freedom of what is estimated (Welch and Satterthwaite).
    pub(super) fn stands_out(&self, then: Observed, now: Observed) -> f64 {
        let ((before, v1), (after, v2)) = (logit(then), logit(now));
        let all = v1 + v2 + self.variance;
        let estimated = v1 * v1 / then.freedom + v2 * v2 / now.freedom;
        let freedom = if estimated > 0.0 { all * all / estimated } else { f64::INFINITY };
        super::stats::student((after - before - self.typical).abs() / all.sqrt(), freedom)
    }

    /// Whether by how far all functions lie apart more is told of this one than by its noise.
    pub(super) fn decides(&self, then: Observed, now: Observed) -> bool {
        self.variance > logit(then).1 + logit(now).1
    }

    /// 95 % interval of one share, where each side has half of what the two lie apart.
    pub(super) fn interval(&self, one: Observed) -> (f64, f64) {
        let (middle, noise) = logit(one);
        let half = Z_95 * (noise + self.variance / 2.0).sqrt();
        let share = |logit: f64| 1.0 / (1.0 + (-logit).exp());
        (share(middle - half).min(one.share), share(middle + half).max(one.share))
    }
}

/// Log odds and the variance that noise gives them; shares of nothing have them too, by half a sample (Haldane, 1956).
fn logit(one: Observed) -> (f64, f64) {
    let share = (one.share * one.n + 0.5) / (one.n + 1.0);
    ((share / (1.0 - share)).ln(), 1.0 / (one.n * share * (1.0 - share)))
}

/// The difference of log odds and the variance that noise gives it.
fn log_odds(then: Observed, now: Observed) -> Option<(f64, f64)> {
    let both = [then, now];
    if !both.iter().all(|side| SHARES.contains(&side.share) && side.share * side.n >= SEEN_MIN) {
        return None;
    }
    let [before, after] = both.map(|side| (side.share / (1.0 - side.share)).ln());
    let noise = both.iter().map(|side| 1.0 / (side.n * side.share * (1.0 - side.share))).sum();
    Some((after - before, noise))
}

fn point(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (super::stats::size(values.len()) * part).floor();
    values.iter().zip(0_u32..).find(|(_, n)| f64::from(*n) >= at).map_or(0.0, |(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::{Bulk, Observed, Part};

    fn of(functions: impl Iterator<Item = (Observed, Observed)>) -> Option<Bulk> {
        super::of(Part::Total, functions)
    }

    fn side(share: f64, n: f64) -> Observed {
        Observed { share, n, freedom: f64::INFINITY }
    }

    fn pairs(relative: impl Fn(usize) -> f64) -> Vec<(Observed, Observed)> {
        (0..100).map(|at| (side(0.02, 1e6), side(0.02 * relative(at), 1e6))).collect()
    }

    #[test]
    fn a_few_changed_functions_are_not_the_bulk() {
        assert!(of(pairs(|at| if at < 15 { 1.5 } else { 1.0 }).into_iter()).unwrap().is_still());
        // All of them alike: a load.
        assert!(of(pairs(|_| 1.2).into_iter()).unwrap().is_still());
        assert!(of(pairs(|at| 1.0 + at as f64 / 50.0).into_iter().take(19)).is_none());
    }

    #[test]
    fn what_was_seen_a_few_times_says_nothing_of_the_bulk() {
        let far =
            |n: f64| (0..100_u32).map(move |at| (side(0.027, n), side(0.004 * f64::from(at % 9 + 1), 2e3)));
        assert!(of(far(37.0)).is_none_or(|bulk| bulk.is_still()));
        assert!(of(far(3_700.0)).unwrap().variance > 0.3);
    }

    #[test]
    fn what_the_bulk_did_is_no_change_of_a_function() {
        // Each lost two fifths of its share, give or take a tenth.
        let bulk = of(pairs(|at| 0.6 * (0.9 + (at % 11) as f64 / 50.0)).into_iter()).unwrap();
        assert!(!bulk.is_still() && (bulk.typical - 0.6_f64.ln()).abs() < 0.05, "{bulk:?}");
        assert!(bulk.stands_out(side(0.05, 1e5), side(0.03, 1e5)) > 0.5);
        assert!(bulk.stands_out(side(0.05, 1e5), side(0.05, 1e5)) < 1e-6);
    }

    #[test]
    fn a_change_by_a_large_factor_stands_out_of_a_bulk_that_lies_apart() {
        let bulk = Bulk { typical: 0.0, variance: 1.0 };
        let check = |then: (f64, f64), now: (f64, f64), (low, high): (f64, f64)| {
            let (then, now) = (side(then.0, then.1), side(now.0, now.1));
            let p = bulk.stands_out(then, now);
            assert!((low..high).contains(&p), "{then:?} {now:?}: {p}");
            // The intervals of both sides say the same as the test.
            let (before, after) = (bulk.interval(then), bulk.interval(now));
            assert!(before.0 <= then.share && then.share <= before.1 && after.0 < after.1);
            assert_eq!(p < 0.01, before.1 < after.0, "{p}: {before:?} {after:?}");
        };
        check((0.0, 37.0), (0.387, 1407.0), (0.01, 0.05));
        check((0.0, 370.0), (0.387, 1407.0), (1e-6, 1e-2));
        check((0.05, 1e4), (0.1, 1e4), (0.4, 0.6));
    }

    #[test]
    fn a_bulk_that_lies_apart_widens_what_noise_may_do() {
        let bulk = of(pairs(|at| 1.0 + (at % 11) as f64 / 100.0).into_iter()).unwrap();
        let spread = bulk.variance.sqrt();
        assert!(spread > 0.03 && spread < 0.06, "{spread}");
        let known = Bulk { typical: 0.0, variance: 0.04 * 0.04 };
        let (low, high) = known.interval(side(0.05, 1e9));
        // One side has a standard deviation of 4 % of 5 % over the root of two, less a little.
        let deviation = (high - low) / 2.0 / super::super::stats::Z_95 * std::f64::consts::SQRT_2;
        assert!((deviation / 0.05 / 0.04 - 0.95).abs() < 0.01, "{deviation}");
    }
}

//! How far two runs of the same program lie apart, beyond what the windows of either show.
//!
//! A machine that is busier, a larger heap, another state: many functions cost somewhat more or less, and no window tells,
//! because it lasts the whole run. The bulk of the functions tells (Efron's empirical null, 2004): what a regression does
//! to a few must stand out from what happened to all. Owns that variance, of log odds of shares; 0 where two profiles
//! differ by noise alone.

use super::stats::Observed;

/// Of fewer functions a handful of changed ones would be the bulk.
const FUNCTIONS_MIN: usize = 20;
/// Shares outside have too few samples, or hold most of the program.
const SHARES: std::ops::RangeInclusive<f64> = 0.003..=0.7;
/// Of fewer samples the log odds are mostly luck, and those that were seen at all the lucky ones.
const SEEN_MIN: f64 = 5.0;
/// Parts of the functions, and the squares below which so many of independent standard normal numbers are: the middle,
/// and a point farther out, since some functions feel a busy machine more than others. The rest may have changed.
const POINTS: [(f64, f64); 2] = [(0.5, 0.454_936), (0.8, 1.642_374)];
/// Halvings of an interval: far below the noise of the estimate.
const STEPS: usize = 40;
/// A standard deviation of log odds of 1 means that nothing can be said.
const VARIANCE_MAX: f64 = 1.0;

/// The variance that the bulk of the functions has beyond its noise.
pub(super) fn variance(functions: impl Iterator<Item = (Observed, Observed)>) -> f64 {
    let mut seen: Vec<(f64, f64)> = functions.filter_map(|(then, now)| log_odds(then, now)).collect();
    if seen.len() < FUNCTIONS_MIN {
        return 0.0;
    }
    let typical = point(seen.iter().map(|(difference, _)| *difference).collect(), 0.5);
    for (difference, _) in &mut seen {
        *difference -= typical;
    }
    let too_wide = |extra: f64| {
        POINTS.iter().any(|(part, square)| {
            let squares = seen.iter().map(|(difference, noise)| difference * difference / (noise + extra));
            point(squares.collect(), *part) > *square
        })
    };
    if !too_wide(0.0) {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, VARIANCE_MAX);
    for _ in 0..STEPS {
        let middle = (low + high) / 2.0;
        if too_wide(middle) { low = middle } else { high = middle }
    }
    high
}

/// What a share is worth when two runs lie so far apart: each side has half of that.
pub(super) fn widened(one: Observed, share: f64, variance: f64) -> Observed {
    let odds = share * (1.0 - share);
    Observed { n: 1.0 / (1.0 / one.n + odds * variance / 2.0), ..one }
}

/// Two-sided p of "it lies no farther apart than the bulk": a change by a factor, however large, is a distance of log odds,
/// which shares of nothing have too by half a sample (Haldane, 1956).
pub(super) fn stands_out(then: Observed, now: Observed, variance: f64) -> f64 {
    let side = |one: Observed| {
        let share = (one.share * one.n + 0.5) / (one.n + 1.0);
        ((share / (1.0 - share)).ln(), 1.0 / (one.n * share * (1.0 - share)))
    };
    let ((before, noise_before), (after, noise_after)) = (side(then), side(now));
    let distance = (after - before).abs() / (noise_before + noise_after + variance).sqrt();
    super::stats::student(distance, super::stats::welch(then, now))
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
    use super::{Observed, stands_out, variance, widened};

    fn pairs(relative: impl Fn(usize) -> f64) -> Vec<(Observed, Observed)> {
        let one = |share: f64| Observed { share, n: 1e6, freedom: f64::INFINITY };
        (0..100).map(|at| (one(0.02), one(0.02 * relative(at)))).collect()
    }

    #[test]
    fn a_few_changed_functions_are_not_the_bulk() {
        assert_eq!(variance(pairs(|at| if at < 15 { 1.5 } else { 1.0 }).into_iter()), 0.0);
        // All of them alike: a load.
        assert_eq!(variance(pairs(|_| 1.2).into_iter()), 0.0);
        assert_eq!(variance(pairs(|at| 1.0 + at as f64 / 50.0).into_iter().take(19)), 0.0);
    }

    #[test]
    fn what_was_seen_a_few_times_says_nothing_of_the_bulk() {
        let few = |n: f64| Observed { share: 0.027, n, freedom: f64::INFINITY };
        let far = |n: f64| {
            (0..100).map(move |at| (few(n), Observed { share: 0.004 * f64::from(at % 9 + 1), ..few(2e3) }))
        };
        assert_eq!(variance(far(37.0)), 0.0);
        assert!(variance(far(3_700.0)) > 0.3);
    }

    #[test]
    fn a_change_by_a_large_factor_stands_out_of_a_bulk_that_lies_apart() {
        let side = |share: f64, n: f64| Observed { share, n, freedom: f64::INFINITY };
        let check = |then: (f64, f64), now: (f64, f64), low: f64, high: f64| {
            let p = stands_out(side(then.0, then.1), side(now.0, now.1), 1.0);
            assert!((low..high).contains(&p), "{then:?} {now:?}: {p}");
        };
        check((0.0, 37.0), (0.387, 1407.0), 0.01, 0.05);
        check((0.0, 370.0), (0.387, 1407.0), 1e-6, 1e-3);
        check((0.05, 1e4), (0.1, 1e4), 0.4, 0.6);
    }

    #[test]
    fn a_bulk_that_lies_apart_widens_what_noise_may_do() {
        let spread = variance(pairs(|at| 1.0 + (at % 11) as f64 / 100.0).into_iter()).sqrt();
        assert!(spread > 0.03 && spread < 0.06, "{spread}");
        let one = Observed { share: 0.05, n: 1e9, freedom: 10.0 };
        let seen = widened(one, 0.05, 0.04 * 0.04);
        // Both sides together have a standard deviation of 4 % of 5 %, less a little.
        let deviation = (2.0 * 0.05 * 0.95 / seen.n).sqrt();
        assert!((deviation / 0.05 / 0.04 - 0.95).abs() < 0.01, "{deviation}");
    }
}

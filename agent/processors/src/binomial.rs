//! Exact binomial tails: how likely so many bad events are while the budget is kept.
//!
//! Owns the one formula both burn lanes rest on. Refuses normal and Poisson approximations: at 5 of 7 they are wrong by
//! orders of magnitude.

/// Terms smaller than this share of the sum cannot change a printed digit; the series stops there.
const NEGLIGIBLE: f64 = 1e-17;

/// Terms at most: for n = 10¹² the terms that count lie within a few million of the mean.
const TERMS_MAX: u64 = 20_000_000;

/// `P(X ≥ bad)` for `X ~ Binomial(total, ratio)`: the p value of `bad` events out of `total` when `ratio` are allowed.
///
/// A `ratio` outside 0 to 1 is taken as the nearer end; more bad than total has probability 0.
#[must_use]
pub fn tail(total: u64, bad: u64, ratio: f64) -> f64 {
    let ratio = if ratio.is_nan() { 1.0 } else { ratio.clamp(0.0, 1.0) };
    if bad == 0 || ratio >= 1.0 {
        return if bad <= total { 1.0 } else { 0.0 };
    }
    if bad > total || ratio <= 0.0 {
        return 0.0;
    }
    // The shorter side is summed, so that no digits are lost to 1 − x where x is close to 1.
    if to_f64(bad) > to_f64(total) * ratio {
        upper(total, bad, ratio)
    } else {
        (1.0 - lower(total, bad - 1, ratio)).clamp(0.0, 1.0)
    }
}

/// Σ pmf(i) for i ≥ from, where the terms fall.
fn upper(total: u64, from: u64, ratio: f64) -> f64 {
    let odds = ratio / (1.0 - ratio);
    let mut term = 1.0;
    let mut sum = 1.0;
    for i in (from..total).take(usize::try_from(TERMS_MAX).unwrap_or(usize::MAX)) {
        term *= to_f64(total - i) / to_f64(i + 1) * odds;
        sum += term;
        if term < sum * NEGLIGIBLE {
            break;
        }
    }
    (ln_mass(total, from, ratio) + sum.ln()).exp().min(1.0)
}

/// Σ pmf(i) for i ≤ to, where the terms fall towards 0.
fn lower(total: u64, to: u64, ratio: f64) -> f64 {
    let odds = (1.0 - ratio) / ratio;
    let mut term = 1.0;
    let mut sum = 1.0;
    for i in (1..=to).rev().take(usize::try_from(TERMS_MAX).unwrap_or(usize::MAX)) {
        term *= to_f64(i) / to_f64(total - i + 1) * odds;
        sum += term;
        if term < sum * NEGLIGIBLE {
            break;
        }
    }
    (ln_mass(total, to, ratio) + sum.ln()).exp().min(1.0)
}

/// ln of the probability of exactly `bad`.
fn ln_mass(total: u64, bad: u64, ratio: f64) -> f64 {
    ln_factorial(total) - ln_factorial(bad) - ln_factorial(total - bad)
        + to_f64(bad) * ratio.ln()
        + to_f64(total - bad) * (-ratio).ln_1p()
}

/// ln n!: exact products up to 20, Stirling's series with four terms (error below 1e-12) above.
fn ln_factorial(n: u64) -> f64 {
    if n <= 20 {
        return to_f64((1..=n).product::<u64>().max(1)).ln();
    }
    let x = to_f64(n);
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)));
    x * x.ln() - x + 0.5 * (std::f64::consts::TAU * x).ln() + series
}

/// A count as a float; exact below 2⁵³, which no counter here reaches.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::tail;

    fn check(total: u64, bad: u64, ratio: f64, expected: f64) {
        let found = tail(total, bad, ratio);
        assert!(
            (found - expected).abs() <= expected.abs() * 1e-9,
            "P(Bin({total}, {ratio}) >= {bad}) = {found:e}, expected {expected:e}"
        );
    }

    #[test]
    fn small_cases_match_hand_sums() {
        check(1, 1, 0.01, 0.01);
        check(2, 1, 0.5, 0.75);
        check(10, 10, 0.5, 1.0 / 1024.0);
        check(5, 3, 0.1, 0.00856);
        check(4, 0, 0.3, 1.0);
        check(7, 5, 0.01, 21.0 * 1e-10 * 0.9801 + 7.0 * 1e-12 * 0.99 + 1e-14);
    }

    #[test]
    fn ends_of_the_range_are_certain_or_impossible() {
        check(0, 0, 0.01, 1.0);
        check(3, 4, 0.5, 0.0);
        check(3, 1, 0.0, 0.0);
        check(3, 3, 1.0, 1.0);
        check(3, 3, f64::NAN, 1.0);
        check(3, 1, -4.0, 0.0);
    }

    #[test]
    fn the_least_count_that_passes_the_gate_matches_the_published_table() {
        let least = |total: u64| (0..=total).find(|bad| tail(total, *bad, 0.001) <= 1e-4);
        assert_eq!([10, 70, 500, 3000, 36_000].map(least), [Some(2), Some(3), Some(6), Some(12), Some(61)]);
    }

    #[test]
    fn the_whole_distribution_sums_to_one_on_both_sides_of_the_mean() {
        for bad in 0..=400_u64 {
            let mass_by_difference = tail(400, bad, 0.3) - tail(400, bad + 1, 0.3);
            assert!(mass_by_difference >= -1e-12, "falls at {bad}");
        }
        assert!((tail(1_000_000, 500_000, 0.5) - 0.500_398_942_2).abs() < 1e-8);
    }

    #[test]
    fn millions_of_events_cost_little_and_stay_finite() {
        let p = tail(300_000_000, 3_100_000, 0.01);
        assert!((0.0..1e-100).contains(&p));
        assert!((tail(300_000_000, 2_900_000, 0.01) - 1.0).abs() < 1e-9);
    }
}

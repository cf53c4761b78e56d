//! The statistics of a comparison of shares: a test, an interval, and control over many tests at once.
//!
//! Owns numbers only; knows nothing of profiles.

/// Two-sided 95 % of the normal distribution.
pub(super) const Z_95: f64 = 1.959_963_984_540_054;
/// Terms of either expansion of erfc: both are at the limit of f64 long before.
const TERMS_MAX: u32 = 200;
/// Where the series and the continued fraction of erfc take turns; both converge in under 60 terms there.
const SERIES_BELOW: f64 = 2.5;
/// Student's distribution is the normal one to four digits of p at any t that decides something.
const NORMAL_FROM: f64 = 1e6;
/// Of an interval: far below the noise of what is estimated.
const HALVINGS: usize = 40;
/// Keeps Lentz's method away from 0 / 0.
const TINY: f64 = 1e-300;
/// From here on three terms of Stirling's series give twelve digits.
const STIRLING_FROM: f64 = 20.0;

/// One share and how well it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    /// 0 to 1.
    pub(super) share: f64,
    /// Independent samples that would know as much.
    pub(super) n: f64,
    /// Degrees of freedom of that n; infinite where it is not estimated.
    pub(super) freedom: f64,
}

/// Two-sided p of "both shares are the same", by the pooled two-proportion test with Yates' continuity correction: normal
/// where n is known, Student's where it is estimated, with Welch's degrees of freedom.
///
/// The correction keeps the test honest where only a handful of samples carry the difference.
pub(super) fn two_proportions(before: Observed, after: Observed) -> f64 {
    let (n1, n2) = (before.n, after.n);
    let pooled = (before.share * n1 + after.share * n2) / (n1 + n2);
    let spread = (pooled * (1.0 - pooled) * (1.0 / n1 + 1.0 / n2)).sqrt();
    let correction = 0.5 * (1.0 / n1 + 1.0 / n2);
    let difference = ((after.share - before.share).abs() - correction).max(0.0);
    // No spread: both are 0 or both are 1.
    if spread > 0.0 { student(difference / spread, welch(before, after)) } else { 1.0 }
}

/// Degrees of freedom of a difference (Welch and Satterthwaite).
fn welch(before: Observed, after: Observed) -> f64 {
    let (v1, v2) = (1.0 / before.n, 1.0 / after.n);
    let weighed = v1 * v1 / before.freedom + v2 * v2 / after.freedom;
    if weighed > 0.0 { (v1 + v2).powi(2) / weighed } else { f64::INFINITY }
}

/// 95 % interval of `after − before`: Newcombe's hybrid of two Wilson intervals (Statistics in Medicine 17, 1998, method 10).
pub(super) fn difference_interval(before: Observed, after: Observed) -> (f64, f64) {
    let side = |one: Observed| (one.share, wilson(one.share, one.n));
    difference_of(side(before), side(after))
}

/// The same from any intervals of the two sides, which are independent (Zou and Donner, 2008).
pub(super) fn difference_of(
    (before, (low_1, high_1)): (f64, (f64, f64)),
    (after, (low_2, high_2)): (f64, (f64, f64)),
) -> (f64, f64) {
    let difference = after - before;
    let low = difference - ((after - low_2).powi(2) + (high_1 - before).powi(2)).sqrt();
    let high = difference + ((high_2 - after).powi(2) + (before - low_1).powi(2)).sqrt();
    (low.max(-1.0), high.min(1.0))
}

/// Wilson's score interval of one share.
fn wilson(share: f64, n: f64) -> (f64, f64) {
    let z2 = Z_95 * Z_95;
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z_95 / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Benjamini-Hochberg q values, in the order of `p_values`: q ≤ r for all of a list keeps its false share below r.
pub(super) fn q_values(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    let p = |at: usize| p_values.get(at).copied().unwrap_or(1.0);
    order.sort_by(|a, b| p(*a).total_cmp(&p(*b)).then(a.cmp(b)));
    let mut q_values = vec![1.0; p_values.len()];
    let mut smallest = 1.0_f64;
    for (rank, at) in order.iter().enumerate().rev() {
        smallest = smallest.min(p(*at) * size(p_values.len()) / size(rank + 1));
        if let Some(q) = q_values.get_mut(*at) {
            *q = smallest;
        }
    }
    q_values
}

/// Complementary error function for x ≥ 0: its series below [`SERIES_BELOW`], its continued fraction above
/// (Abramowitz and Stegun 7.1.6 and 7.1.14).
fn erfc(x: f64) -> f64 {
    let scale = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < SERIES_BELOW {
        let (mut term, mut sum) = (x, x);
        for k in 1..TERMS_MAX {
            term *= 2.0 * x * x / f64::from(2 * k + 1);
            sum += term;
        }
        return (1.0 - 2.0 * scale * sum).max(0.0);
    }
    let fraction = (1..TERMS_MAX).rev().fold(x, |tail, k| x + f64::from(k) / 2.0 / tail);
    scale / fraction
}

/// Two-sided p of |t| in Student's distribution.
pub(super) fn student(t: f64, freedom: f64) -> f64 {
    if freedom > NORMAL_FROM {
        return erfc(t / std::f64::consts::SQRT_2).min(1.0);
    }
    beta(freedom / (freedom + t * t), freedom / 2.0, 0.5).clamp(0.0, 1.0)
}

/// The regularised incomplete beta function, by its continued fraction (Abramowitz and Stegun 26.5.8) as Lentz evaluates it.
fn beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // It converges fast only on this side.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta(1.0 - x, b, a);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    let away = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let (mut c, mut fraction) = (1.0, d);
    for m in 1..TERMS_MAX {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            fraction *= d * c;
        }
    }
    front * fraction
}

/// ln Γ(x) for x > 0: Stirling's series, after Γ(x + 1) = x Γ(x) has made x large enough for it.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 0.0);
    while x < STIRLING_FROM {
        below += x.ln();
        x += 1.0;
    }
    let half_ln_tau = 0.5 * std::f64::consts::TAU.ln();
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1_260.0 * x.powi(5));
    (x - 0.5) * x.ln() - x + half_ln_tau + series - below
}

/// An interval halved until nothing is left of it: where a condition that holds at its lower end and not at its upper one
/// ceases to hold.
pub(super) fn halved((mut low, mut high): (f64, f64), is_so: impl Fn(f64) -> bool) -> (f64, f64) {
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if is_so(middle) { low = middle } else { high = middle }
    }
    (low, high)
}

/// How many there are, as a float.
#[expect(clippy::cast_precision_loss, reason = "at most twenty thousand functions, or some hundred windows")]
pub(super) fn size(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::{Observed, difference_interval, erfc, ln_gamma, q_values, student, two_proportions, wilson};

    fn close(seen: f64, expected: f64, tolerance: f64) {
        assert!(
            (seen - expected).abs() <= tolerance * expected.abs().max(1e-300),
            "{seen} is not {expected}"
        );
    }

    fn exact(share: f64, n: f64) -> Observed {
        Observed { share, n, freedom: f64::INFINITY }
    }

    #[test]
    fn student_agrees_with_published_quantiles() {
        // Two-sided 5 %, 1 % and 0.1 % points of the usual tables.
        for (freedom, t, p) in [
            (1.0, 12.706_204_7, 0.05),
            (2.0, 4.302_652_7, 0.05),
            (10.0, 3.169_272_7, 0.01),
            (60.0, 3.460_200, 0.001),
            (1e7, 1.959_963_985, 0.05),
        ] {
            close(student(t, freedom), p, 1e-5);
        }
        close(student(0.0, 5.0), 1.0, 1e-12);
        assert!(student(1e6, 30.0) < 1e-100);
        close(ln_gamma(0.5), std::f64::consts::PI.sqrt().ln(), 1e-11);
        close(ln_gamma(6.0), 120.0_f64.ln(), 1e-11);
    }

    #[test]
    fn erfc_agrees_with_published_values() {
        // Abramowitz and Stegun, table 7.1 and 7.3.
        close(erfc(0.0), 1.0, 1e-15);
        close(erfc(0.5), 0.479_500_122_186_953_5, 1e-13);
        close(erfc(1.0), 0.157_299_207_050_285_1, 1e-13);
        close(erfc(2.0), 4.677_734_981_047_266e-3, 1e-12);
        close(erfc(2.499_999), erfc(2.500_001), 1e-4);
        close(erfc(3.0), 2.209_049_699_858_544e-5, 1e-12);
        close(erfc(5.0), 1.537_459_794_428_035e-12, 1e-12);
        assert!(erfc(40.0) < 1e-300);
    }

    #[test]
    fn shares_of_the_same_size_do_not_differ() {
        for share in [0.0, 0.02, 0.5, 1.0] {
            close(two_proportions(exact(share, 100.0), exact(share, 900.0)), 1.0, 1e-12);
        }
    }

    #[test]
    fn a_known_table_has_its_known_p() {
        // 15 of 100 against 30 of 100: chi square with correction 5.621, p 0.01775.
        close(two_proportions(exact(0.15, 100.0), exact(0.30, 100.0)), 0.017_75, 1e-3);
    }

    #[test]
    fn intervals_agree_with_newcombe() {
        // His table II, (a) 56/70 - 48/80: 0.0524 to 0.3339.
        let (low, high) = difference_interval(exact(48.0 / 80.0, 80.0), exact(56.0 / 70.0, 70.0));
        close(low, 0.052_4, 1e-2);
        close(high, 0.333_9, 1e-2);
        let (low, high) = wilson(0.0, 10.0);
        assert!(low == 0.0 && high > 0.2 && high < 0.35);
    }

    #[test]
    fn q_values_follow_the_definition() {
        let seen = q_values(&[0.01, 0.04, 0.03, 0.005]);
        for (seen, expected) in seen.iter().zip([0.02, 0.04, 0.04, 0.02]) {
            close(*seen, expected, 1e-12);
        }
        assert!(q_values(&[]).is_empty());
    }
}

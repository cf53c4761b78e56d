//! The statistics of a comparison of shares: a test, an interval, and control over many tests at once.
//!
//! Owns numbers only; knows nothing of profiles.

/// Two-sided 95 % of the normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;
/// Terms of either expansion of erfc: both are at the limit of f64 long before.
const TERMS_MAX: u32 = 200;
/// Where the series and the continued fraction of erfc take turns; both converge in under 60 terms there.
const SERIES_BELOW: f64 = 2.5;

/// Two-sided p of "both shares are the same", by the pooled two-proportion z test with Yates' continuity correction.
///
/// The correction keeps the test honest where only a handful of samples carry the difference.
pub(super) fn two_proportions(before: f64, before_n: u64, after: f64, after_n: u64) -> f64 {
    let (n1, n2) = (count(before_n), count(after_n));
    let pooled = (before * n1 + after * n2) / (n1 + n2);
    let spread = (pooled * (1.0 - pooled) * (1.0 / n1 + 1.0 / n2)).sqrt();
    let correction = 0.5 * (1.0 / n1 + 1.0 / n2);
    let difference = ((after - before).abs() - correction).max(0.0);
    // No spread: both are 0 or both are 1.
    if spread > 0.0 { erfc(difference / spread / std::f64::consts::SQRT_2).min(1.0) } else { 1.0 }
}

/// 95 % interval of `after − before`: Newcombe's hybrid of two Wilson intervals (Statistics in Medicine 17, 1998, method 10).
pub(super) fn difference_interval(before: f64, before_n: u64, after: f64, after_n: u64) -> (f64, f64) {
    let (low_1, high_1) = wilson(before, before_n);
    let (low_2, high_2) = wilson(after, after_n);
    let difference = after - before;
    let low = difference - ((after - low_2).powi(2) + (high_1 - before).powi(2)).sqrt();
    let high = difference + ((high_2 - after).powi(2) + (before - low_1).powi(2)).sqrt();
    (low.max(-1.0), high.min(1.0))
}

/// Wilson's score interval of one share.
fn wilson(share: f64, n: u64) -> (f64, f64) {
    let n = count(n);
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

#[expect(clippy::cast_precision_loss, reason = "sample counts, far below 2^53")]
fn count(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "at most twenty thousand functions")]
fn size(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::{difference_interval, erfc, q_values, two_proportions, wilson};

    fn close(seen: f64, expected: f64, tolerance: f64) {
        assert!(
            (seen - expected).abs() <= tolerance * expected.abs().max(1e-300),
            "{seen} is not {expected}"
        );
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
            close(two_proportions(share, 100, share, 900), 1.0, 1e-12);
        }
    }

    #[test]
    fn a_known_table_has_its_known_p() {
        // 15 of 100 against 30 of 100: chi square with correction 5.621, p 0.01775.
        close(two_proportions(0.15, 100, 0.30, 100), 0.017_75, 1e-3);
    }

    #[test]
    fn intervals_agree_with_newcombe() {
        // His table II, (a) 56/70 - 48/80: 0.0524 to 0.3339.
        let (low, high) = difference_interval(48.0 / 80.0, 80, 56.0 / 70.0, 70);
        close(low, 0.052_4, 1e-2);
        close(high, 0.333_9, 1e-2);
        let (low, high) = wilson(0.0, 10);
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

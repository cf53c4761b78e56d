//! What the evidence of each function counts for among that of all.
//!
//! A test of several hundred functions asks each for more evidence. Most of them are small, and a change of theirs that
//! matters is tens of standard deviations; large ones that vary need all that they can get. Weights that are highest where
//! they decide, and one on average, keep the false-discovery rate (Genovese, Roeder and Wasserman, 2006) and find more
//! (Roeder and Wasserman, 2009: those that find most). They must not look at the difference, and do not.

use super::stats;

/// Beyond these the normal distribution has nothing.
const FAR: f64 = 400.0;
/// Of the weight so much is shared equally: a change may be larger or smaller than the one that weights are best for.
const EQUAL: f64 = 0.25;

/// A weight for each function; their mean is one. `reaches`: how many standard deviations the change is that is looked for.
pub(super) fn of(reaches: &[f64], rate: f64) -> Vec<f64> {
    let count = stats::size(reaches.len());
    let best = |bar: f64| reaches.iter().map(move |reach| tail(reach / 2.0 + bar / reach.max(1e-3)));
    // The higher the bar, the less weight in all.
    let (bar, _) = stats::halved((-FAR, FAR), |bar| best(bar).sum::<f64>() > rate);
    let given: Vec<f64> = best(bar).collect();
    let all: f64 = given.iter().sum();
    given.iter().map(|one| EQUAL + (1.0 - EQUAL) * if all > 0.0 { one * count / all } else { 1.0 }).collect()
}

/// The part of a normal distribution beyond.
fn tail(at: f64) -> f64 {
    let beyond = stats::student(at.abs(), f64::INFINITY) / 2.0;
    if at < 0.0 { 1.0 - beyond } else { beyond }
}

#[cfg(test)]
mod tests {
    use super::{EQUAL, of, tail};

    #[test]
    fn weight_goes_where_it_decides() {
        let close = |seen: f64, expected: f64| assert!((seen - expected).abs() < 1e-6, "{seen}, {expected}");
        assert!(of(&[], 0.05).is_empty());
        close(of(&[3.0], 0.05)[0], 1.0);
        of(&[2.0; 10], 0.05).into_iter().for_each(|weight| close(weight, 1.0));
        // Hopeless, in between, and beyond doubt.
        let reaches: Vec<f64> = [0.1, 3.0, 30.0].into_iter().flat_map(|reach| [reach; 100]).collect();
        let weights = of(&reaches, 0.05);
        close(weights.iter().sum::<f64>() / 300.0, 1.0);
        let [hopeless, between, beyond] = [0, 100, 200].map(|at| weights[at]);
        close(hopeless, EQUAL);
        close(beyond, EQUAL);
        assert!(between > 2.0, "{between}");
        assert!(of(&[0.0, f64::INFINITY, 1.0], 0.05).into_iter().all(f64::is_finite));
    }

    #[test]
    fn the_tail_is_that_of_a_normal_distribution() {
        for (at, part) in [(0.0, 0.5), (1.959_964, 0.025), (-1.959_964, 0.975), (40.0, 0.0)] {
            assert!((tail(at) - part).abs() < 1e-6, "{at}");
        }
    }
}

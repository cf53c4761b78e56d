//! How much more a share varies than independent samples would let it: the windows of a profile tell.
//!
//! Samples of one window have a garbage collection, a compaction or a burst of requests in common, so n samples know less
//! than n independent ones. Owns that factor, the design effect: 1 where samples are as good as independent.

use std::collections::BTreeMap;

use model::profile::FunctionCounts;

use super::pair::Part;
use super::stats::size;

/// Fewer windows cannot tell how much they vary.
const WINDOWS_MIN: usize = 3;
/// The windows' worth that the typical factor of all functions has beside a function's own: an estimate from few windows
/// is itself noise, and one that happens to be small would make noise look sure (Smyth, 2004, after Robbins).
const PRIOR_WINDOWS: f64 = 10.0;
/// Windows after which a disturbance is taken to be over: a compaction or a collection spans two or three, and a lag counts
/// the less the longer it is.
const LAGS_MAX: usize = 4;
/// Windows for each lag: from fewer it cannot be told how they hang together.
const WINDOWS_A_LAG: usize = 5;
/// Functions below it have too few samples a window to tell what is typical.
const TYPICAL_SHARE: f64 = 0.005;
/// The median of fewer is a function's own, and not what is typical.
const TYPICAL_OF_MIN: usize = 5;
/// Of samples over time that nobody cut into windows: those of a running program hang together, whether one sees it or not.
/// Of ten minutes of etcd the effect is 1.3 for half of the functions and above 5 for a tenth.
const UNSEEN: Effect = Effect { factor: 2.0, freedom: 10.0 };
/// Snapshots count things that are there, each once.
const INDEPENDENT: Effect = Effect { factor: 1.0, freedom: f64::INFINITY };

/// Design effects of one profile.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    by_function: BTreeMap<u32, f64>,
    typical: f64,
    /// Degrees of freedom of an effect; `None` where there are no windows.
    freedom: Option<f64>,
    /// What counts where neither side has windows.
    unseen: Effect,
}

/// What is known of the variance of one share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    /// The variance over that of independent samples, at least 1.
    pub(super) factor: f64,
    /// How sure that is; infinite where it is not estimated.
    pub(super) freedom: f64,
}

impl Spread {
    /// Learns from the windows, if there are enough. What is typical of all shares counts where too few functions tell.
    pub(super) fn of(counts: &FunctionCounts, part: Part, all: Option<&Spread>) -> Spread {
        let windows = counts.windows.len();
        let sum: u64 = counts.windows.iter().fold(0, |sum, window| sum.saturating_add(window.total));
        let unseen = if counts.kind.has_length() { UNSEEN } else { INDEPENDENT };
        if windows < WINDOWS_MIN || sum == 0 {
            return Spread { by_function: BTreeMap::new(), typical: 1.0, freedom: None, unseen };
        }
        let mut rows: Vec<(u32, usize, u64)> = Vec::new();
        for (at, window) in counts.windows.iter().enumerate() {
            let value = |row| part.of_window(row).min(window.total);
            rows.extend(window.functions.iter().map(|row| (row.function, at, value(row))));
        }
        rows.sort_unstable();
        let mut raw: Vec<(u32, f64, f64)> = Vec::new();
        for rows in rows.chunk_by(|a, b| a.0 == b.0) {
            let Some((function, _, _)) = rows.first() else { continue };
            let (share, factor) = raw_factor(counts, rows, sum);
            raw.push((*function, share, factor));
        }
        let freedom = size(windows) - 1.0;
        let typical = typical(&raw, freedom).unwrap_or(all.map_or(1.0, |all| all.typical));
        let moderated =
            |factor: f64| (PRIOR_WINDOWS * typical + freedom * factor) / (PRIOR_WINDOWS + freedom);
        Spread {
            by_function: raw.iter().map(|(at, _, factor)| (*at, moderated(*factor).max(1.0))).collect(),
            typical,
            freedom: Some(PRIOR_WINDOWS + freedom),
            unseen,
        }
    }

    /// Of the function at an index; `other` is the other side, which stands in where this one is in one piece.
    pub(super) fn effect(&self, at: Option<u32>, other: (&Spread, Option<u32>)) -> Effect {
        match (self.freedom, other.0.freedom) {
            (Some(freedom), _) => Effect { factor: self.factor(at), freedom },
            (None, Some(freedom)) => Effect { factor: other.0.factor(other.1), freedom },
            (None, None) => self.unseen,
        }
    }

    fn factor(&self, at: Option<u32>) -> f64 {
        at.and_then(|at| self.by_function.get(&at)).copied().unwrap_or(self.typical)
    }
}

/// A function's share and design effect: the variance of a ratio of sums over windows, over p(1 − p)/n.
fn raw_factor(counts: &FunctionCounts, rows: &[(u32, usize, u64)], sum: u64) -> (f64, f64) {
    let value: u64 = rows.iter().fold(0, |sum, row| sum.saturating_add(row.2));
    let share = super::ratio(value, sum).min(1.0);
    let independent = share * (1.0 - share) / super::ratio(counts.samples.max(1), 1);
    if independent <= 0.0 {
        return (share, 1.0);
    }
    let mut residuals: Vec<f64> =
        counts.windows.iter().map(|window| -share * super::ratio(window.total, sum)).collect();
    for (_, at, value) in rows {
        if let Some(residual) = residuals.get_mut(*at) {
            *residual += super::ratio(*value, sum);
        }
    }
    (share, long_run(&residuals) / independent)
}

/// Variance of the sum of residuals that hang together over a few windows (Newey and West, 1987), never below what they
/// would have if they did not.
fn long_run(residuals: &[f64]) -> f64 {
    let n = size(residuals.len());
    let products =
        |lag: usize| -> f64 { residuals.iter().zip(residuals.iter().skip(lag)).map(|(a, b)| a * b).sum() };
    let alone = products(0);
    let lags = (residuals.len() / WINDOWS_A_LAG).min(LAGS_MAX);
    let together: f64 =
        (1..=lags).map(|lag| 2.0 * (1.0 - size(lag) / (size(lags) + 1.0)) * products(lag)).sum();
    (alone + together.max(0.0)) * n / (n - 1.0).max(1.0)
}

/// The median over functions that are large enough, corrected for the skew of a variance from few windows; `None` where
/// there are too few of them.
fn typical(raw: &[(u32, f64, f64)], freedom: f64) -> Option<f64> {
    let large = |(_, share, _): &&(u32, f64, f64)| (TYPICAL_SHARE..=1.0 - TYPICAL_SHARE).contains(share);
    let mut factors: Vec<f64> = raw.iter().filter(large).map(|(_, _, factor)| *factor).collect();
    factors.sort_by(f64::total_cmp);
    let median = factors.get(factors.len() / 2).copied().filter(|_| factors.len() >= TYPICAL_OF_MIN)?;
    // Wilson and Hilferty: the median of chi square over its degrees of freedom.
    let skew = (1.0 - 2.0 / (9.0 * freedom)).powi(3);
    Some((median / skew).max(1.0))
}

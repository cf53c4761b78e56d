//! How real windows vary: what the diff must reckon with.
//!
//! Owns the figures: variance over that of independent samples, and how neighbours hang together.

use crate::side::Counted;

/// Functions this large are looked at.
const SHARE: f64 = 0.01;

/// Of one run, medians and 90 % points over functions.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Variance {
    pub(crate) run: String,
    pub(crate) functions: usize,
    pub(crate) window_samples: f64,
    /// (windows put together, median, 90 % point) of variance over that of independent samples.
    pub(crate) factors: Vec<(usize, f64, f64)>,
    /// Correlation of a window's share with the next one's and with the one after that.
    pub(crate) correlation: (f64, f64),
}

/// Looks at one run.
pub(crate) fn of(counted: &Counted<'_>) -> Variance {
    let (run, profile) = (counted.run, counted.whole());
    let totals: Vec<f64> =
        profile.windows.iter().map(|window| window.total as f64 / profile.period as f64).collect();
    let all: f64 = totals.iter().sum();
    let mut series = Vec::new();
    for at in 0..profile.functions.len() as u32 {
        let of_window = |window: &model::profile::windows::Window| {
            let row = window.functions.binary_search_by_key(&at, |row| row.function).ok();
            row.map_or(0.0, |row| window.functions[row].total as f64 / profile.period as f64)
        };
        let values: Vec<f64> = profile.windows.iter().map(of_window).collect();
        let share = values.iter().sum::<f64>() / all;
        if (SHARE..=1.0 - SHARE).contains(&share) {
            let residuals = values.iter().zip(&totals).map(|(value, total)| value - share * total).collect();
            series.push((share, residuals));
        }
    }
    let factors = [1, 2, 3, 6].map(|block| {
        let of = |(share, residuals): &(f64, Vec<f64>)| {
            let blocks: Vec<f64> = residuals.chunks_exact(block).map(|block| block.iter().sum()).collect();
            let seen = (blocks.len() * block) as f64 / residuals.len() as f64;
            let n = blocks.len() as f64;
            let squares: f64 = blocks.iter().map(|sum| sum * sum).sum();
            squares * n / (n - 1.0).max(1.0) / (share * (1.0 - share) * all * seen)
        };
        let (median, high) = points(series.iter().map(of).collect());
        (block, median, high)
    });
    let correlation =
        |lag: usize| points(series.iter().map(|(_, residuals)| correlated(residuals, lag)).collect()).0;
    Variance {
        run: format!("{} {}", run.subject, run.load),
        functions: series.len(),
        window_samples: all / totals.len().max(1) as f64,
        factors: factors.to_vec(),
        correlation: (correlation(1), correlation(2)),
    }
}

fn correlated(residuals: &[f64], lag: usize) -> f64 {
    let products: f64 = residuals.iter().zip(residuals.iter().skip(lag)).map(|(a, b)| a * b).sum();
    products / residuals.iter().map(|a| a * a).sum::<f64>()
}

fn points(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values.get((values.len() as f64 * part) as usize).copied().unwrap_or(0.0);
    (at(0.5), at(0.9))
}

//! One alarm: a clipped cumulative sum of standardised points, with memory of what the stream is like.
//!
//! Owns when a stream leaves its baseline and when it is back. Refuses single outliers (each point counts only so much,
//! and the change must last), and effects that are real but small.

use std::collections::VecDeque;

use model::finding::Measured;
use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

/// A point counts for at most so many deviations: one answer after 10 s must not do what needs three.
const Z_MAX: f64 = 6.0;

/// And a fast one takes back at most so many.
const Z_MIN: f64 = -2.0;

/// Deviations a point must exceed to count upwards: half of the smallest shift worth a finding.
const DRIFT: f64 = 1.5;

/// Points an opening needs.
const POINTS_MIN: usize = 3;

/// What lasts shorter is a hiccup of the host or an election.
const LASTING_NS: u64 = 3 * SECOND_NS;

/// An open alarm speaks again when it became worse by so many octaves: a small disturbance must not hide a large one.
const WORSE_OCTAVES: f64 = 2.0;

/// Sum of calm at which an alarm closes: six ordinary points.
const CALM: f64 = 9.0;

/// And they must span so much time.
const CALM_NS: u64 = 5 * SECOND_NS;

/// After so long the new level is the level.
const ADOPT_NS: u64 = 6 * 3600 * SECOND_NS;

/// Points kept since the onset, for "after".
const SINCE_MAX: usize = 64;

/// Points until the autocorrelation is believed; before that a usual value stands for it.
const PHI_POINTS: u32 = 30;

/// What latencies usually have.
const PHI_USUAL: f64 = 0.2;

/// Weight of that usual value against what is seen: a chance pattern must not make the alarm deaf.
const PHI_PRIOR: f64 = 0.3;

/// Deviations from which a point says nothing about memory: it is a spike, or the beginning of a change.
const ORDINARY: f64 = 3.0;

/// The effect is looked for in so many of the latest points: what has gone back is no step.
const LATEST: usize = 5;

/// Weight of one point in the autocorrelation: about the last 100 points.
const PHI_WEIGHT: f64 = 0.01;

/// The sum's threshold grows with memory, at most by this: beyond it a stream is a ramp, no step.
const MEMORY_MAX: f64 = 8.0;

/// One standardised observation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Robust deviations above the baseline's median.
    pub(super) z: f64,
    /// Octaves above it.
    pub(super) over: f64,
    /// Above it, in the metric's unit.
    pub(super) excess: f64,
    /// The value, in the metric's unit.
    pub(super) value: f64,
}

/// Below these a change is none, however sure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    /// Octaves.
    pub(super) octaves: f64,
    /// In the metric's unit.
    pub(super) absolute: f64,
    /// Threshold of the sum for points without memory.
    pub(super) threshold: f64,
}

/// What a point did to the alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It went off, or became much worse.
    Opened,
    /// It is over.
    Closed,
}

/// The state of one alarm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Alarm {
    is_open: bool,
    rise: f64,
    fall: f64,
    onset: Option<Stamp>,
    calm_from: Option<Stamp>,
    /// Octaves above the baseline when it last spoke.
    level: f64,
    since: VecDeque<Kept>,
    since_n: u64,
    last_z: f64,
    variance: f64,
    covariance: f64,
    seen: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    at: Stamp,
    over: f64,
    excess: f64,
    value: f64,
    z: f64,
}

impl Alarm {
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Open, but its latest points are ordinary again.
    pub(super) fn is_calming(&self) -> bool {
        self.fall > 0.0
    }

    /// Open, and without a point for longer than `longest_ns`.
    pub(super) fn is_forgotten(&self, at: Stamp, longest_ns: u64) -> bool {
        self.is_open && self.since.back().is_none_or(|kept| at.since_ns(kept.at) > longest_ns)
    }

    /// Closes it without a point that says so; the evidence stays until [`Alarm::forget`].
    pub(super) fn end(&mut self) -> Turn {
        self.is_open = false;
        Turn::Closed
    }

    /// First instant of the change; only while it is open or has just closed.
    pub(super) fn onset(&self) -> Option<Stamp> {
        self.onset
    }

    /// Takes a point. After [`Turn::Closed`] the evidence stays until [`Alarm::forget`].
    pub(super) fn observe(&mut self, at: Stamp, point: Point, effect: Effect) -> Option<Turn> {
        let z = if point.z.is_finite() { point.z.clamp(Z_MIN, Z_MAX) } else { return None };
        if self.is_open {
            self.keep(at, point);
            if self.calm(at, z) {
                self.is_open = false;
                return Some(Turn::Closed);
            }
            return self.is_worse(at, z).then(|| self.open(LATEST));
        }
        self.remember(z);
        let limit = effect.threshold * self.memory();
        self.rise = (self.rise + z - DRIFT).clamp(0.0, 3.0 * limit);
        if self.rise <= 0.0 {
            self.forget();
            return None;
        }
        self.keep(at, point);
        if self.rise < limit || z <= DRIFT {
            return None;
        }
        let run = self.run();
        let opens = self.has_lasted(at, run)
            && self.median(LATEST.min(run), |kept| kept.over) >= effect.octaves
            && self.median(LATEST.min(run), |kept| kept.excess) >= effect.absolute;
        opens.then(|| self.open(run))
    }

    /// Goes off for the latest `run` points: what came before them is not part of the change.
    fn open(&mut self, run: usize) -> Turn {
        self.since.drain(..self.since.len().saturating_sub(run));
        self.since_n = self.since.len() as u64;
        self.onset = self.since.iter().map(|kept| kept.at).min();
        self.level = self.median(LATEST, |kept| kept.over);
        self.is_open = true;
        self.fall = 0.0;
        self.calm_from = None;
        Turn::Opened
    }

    /// How many of the latest points make up the change: the start from which they sum up to most.
    fn run(&self) -> usize {
        let (mut sum, mut best, mut run) = (0.0, 0.0, 0);
        for (kept, n) in self.since.iter().rev().zip(1..) {
            sum += kept.z.clamp(Z_MIN, Z_MAX) - DRIFT;
            if sum > best {
                (best, run) = (sum, n);
            }
        }
        run
    }

    fn has_lasted(&self, at: Stamp, run: usize) -> bool {
        let first = self.since.iter().rev().take(run).map(|kept| kept.at).min();
        run >= POINTS_MIN && first.is_some_and(|first| at.since_ns(first) >= LASTING_NS)
    }

    fn is_worse(&self, at: Stamp, z: f64) -> bool {
        z > DRIFT
            && self.has_lasted(at, LATEST)
            && self.since.iter().rev().take(LATEST).all(|kept| kept.over >= self.level + WORSE_OCTAVES)
    }

    /// Starts to count anew, unless it is open.
    pub(super) fn begin(&mut self) {
        if !self.is_open {
            self.forget();
        }
    }

    /// Drops the evidence of a change that is over or was none.
    pub(super) fn forget(&mut self) {
        self.rise = 0.0;
        self.fall = 0.0;
        self.onset = None;
        self.calm_from = None;
        self.since.clear();
        self.since_n = 0;
    }

    /// Typical values since the onset.
    pub(super) fn after(&self) -> Measured {
        let mut values: Vec<f64> = self.since.iter().map(|kept| kept.value).collect();
        measured(&mut values, self.since_n)
    }

    /// Deviations of the typical point since the onset, unclipped.
    pub(super) fn score(&self) -> f64 {
        self.median(SINCE_MAX, |kept| kept.z)
    }

    fn keep(&mut self, at: Stamp, point: Point) {
        let onset = self.onset.get_or_insert(at);
        *onset = (*onset).min(at);
        if self.since.len() >= SINCE_MAX {
            self.since.pop_front();
        }
        self.since.push_back(Kept {
            at,
            over: point.over,
            excess: point.excess,
            value: point.value,
            z: point.z,
        });
        self.since_n += 1;
    }

    fn calm(&mut self, at: Stamp, z: f64) -> bool {
        if self.onset.is_some_and(|onset| at.since_ns(onset) > ADOPT_NS) {
            return true;
        }
        self.fall = (self.fall + DRIFT - z).clamp(0.0, 3.0 * CALM);
        if self.fall <= 0.0 {
            self.calm_from = None;
            return false;
        }
        let from = *self.calm_from.get_or_insert(at);
        self.fall >= CALM && at.since_ns(from) >= CALM_NS
    }

    fn remember(&mut self, z: f64) {
        if z >= ORDINARY {
            return;
        }
        self.variance += PHI_WEIGHT * (z * z - self.variance);
        self.covariance += PHI_WEIGHT * (z * self.last_z - self.covariance);
        self.last_z = z;
        self.seen = self.seen.saturating_add(1);
    }

    /// How many points say as much as one point without memory would: (1 + φ) / (1 − φ).
    fn memory(&self) -> f64 {
        let phi = if self.seen < PHI_POINTS {
            PHI_USUAL
        } else {
            let seen = (self.covariance + PHI_PRIOR * PHI_USUAL) / (self.variance + PHI_PRIOR);
            seen.clamp(0.0, 0.99)
        };
        ((1.0 + phi) / (1.0 - phi)).clamp(1.0, MEMORY_MAX)
    }

    /// Median of the latest points.
    fn median(&self, latest: usize, of: impl Fn(&Kept) -> f64) -> f64 {
        let mut values: Vec<f64> = self.since.iter().rev().take(latest).map(of).collect();
        measured(&mut values, 0).value
    }
}

/// Median, 10th and 90th percentile of `values`, with `n` as told.
pub(super) fn measured(values: &mut [f64], n: u64) -> Measured {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let at = |share: usize| values.get((last * share + 50) / 100).copied().unwrap_or(0.0);
    Measured { value: at(50), low: at(10), high: at(90), n }
}

//! What a stream usually looks like: median and spread of its last accepted points, in octaves.
//!
//! Owns what is learnt and when. Refuses what is too new (it may be the beginning of a change) and everything while an
//! alarm is open.

use std::collections::VecDeque;

use model::finding::Measured;
use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

use super::alarm::{Point, measured};

/// Points a baseline rests on: eight minutes of a probe every two seconds.
const POINTS: usize = 240;

/// A point is learnt when so many newer ones have come without an alarm: twice what an alarm on one member's stream needs.
const LAG: usize = 6;

/// How a watched value becomes octaves: log2(value + offset), and how finely it can be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// Added before the logarithm: what counts as next to nothing, in the metric's unit.
    pub(super) offset: f64,
    /// Smallest spread believed, octaves.
    pub(super) floor: f64,
    /// Points are learnt at most so often, so that fast scrapes do not shorten the memory.
    pub(super) learn_every_s: u64,
}

impl Scale {
    fn octaves(&self, value: f64) -> f64 {
        (value.max(0.0) + self.offset).max(f64::MIN_POSITIVE).log2()
    }

    fn value(&self, octaves: f64) -> f64 {
        (octaves.exp2() - self.offset).max(0.0)
    }
}

/// A robust baseline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Baseline {
    learnt: VecDeque<f32>,
    pending: VecDeque<(Stamp, f32)>,
    learnt_at: Option<Stamp>,
    median: f64,
    deviation: f64,
}

impl Baseline {
    /// The value against the baseline; `None` while fewer than `warm_up` points were learnt.
    pub(super) fn standardise(&self, value: f64, scale: Scale, warm_up: usize) -> Option<Point> {
        let n = self.learnt.len();
        if n < warm_up.max(2) {
            return None;
        }
        let over = scale.octaves(value) - self.median;
        // A spread from few points is itself uncertain.
        let spread = self.deviation.max(scale.floor) * (1.0 + 4.0 / crate::binomial::to_f64(n as u64));
        Some(Point { z: over / spread, over, excess: value - scale.value(self.median), value })
    }

    /// Queues a point; learns those that are old enough.
    pub(super) fn learn(&mut self, at: Stamp, value: f64, scale: Scale, warm_up: usize) {
        let due = |last: Stamp| at.since_ns(last) >= scale.learn_every_s * SECOND_NS;
        let newest = self.pending.back().map(|(at, _)| *at).or(self.learnt_at);
        if self.learnt.len() >= warm_up && !newest.is_none_or(due) {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seven digits of an octave are plenty")]
        self.pending.push_back((at, scale.octaves(value) as f32));
        if self.pending.len() <= LAG {
            return;
        }
        let Some((at, octaves)) = self.pending.pop_front() else { return };
        if self.learnt.len() >= POINTS {
            self.learnt.pop_front();
        }
        self.learnt.push_back(octaves);
        self.learnt_at = Some(at);
        self.settle();
    }

    /// An alarm went off: what was waiting to be learnt may belong to it.
    pub(super) fn discard_pending(&mut self) {
        self.pending.clear();
    }

    /// Typical values, in the metric's unit.
    pub(super) fn before(&self, scale: Scale) -> Measured {
        let mut values = self.values(scale);
        measured(&mut values, self.learnt.len() as u64)
    }

    /// All learnt values, in the metric's unit.
    pub(super) fn values(&self, scale: Scale) -> Vec<f64> {
        self.learnt.iter().map(|octaves| scale.value(f64::from(*octaves))).collect()
    }

    fn settle(&mut self) {
        let mut values: Vec<f64> = self.learnt.iter().copied().map(f64::from).collect();
        self.median = measured(&mut values, 0).value;
        for value in &mut values {
            *value = (*value - self.median).abs();
        }
        // 1.4826: the median absolute deviation of a normal distribution against its standard deviation.
        self.deviation = 1.4826 * measured(&mut values, 0).value;
    }
}

//! Profiles from before, per target, in bounded memory: a diff needs a "before".
//!
//! Owns what is kept, what is thrown out first, and which one a trigger is compared with. Profiles lie here as they were
//! received (30 to 100 KiB each) and are decoded when one is chosen.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use model::profile::{Baseline, ProfileKind, Stacks};
use model::time::{SECOND_NS, Stamp};

use crate::binaries::Ids;
use crate::weight;

/// Baselines of one target: an hour of ten-minute refreshes.
const PER_TARGET_MAX: usize = 6;
/// Bytes over all targets: three members with six baselines take 2 MiB; the agent has 96.
const BYTES_MAX: usize = 8 << 20;
/// Bytes of one baseline: twenty times what etcd sends. A larger one is not kept, lest it push out all others.
const SHOT_BYTES_MAX: usize = 2 << 20;
/// Younger than this, a baseline may hold the very change that raised the trigger.
pub const AGED_NS: u64 = 5 * 60 * SECOND_NS;

/// One capture as it was received.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shot {
    /// When the first request was sent.
    pub began: Stamp,
    /// When the CPU profile had come.
    pub ended: Stamp,
    /// Bodies by kind.
    pub bodies: Vec<(ProfileKind, Vec<u8>)>,
    /// What no endpoint gave: a heap that was read from memory.
    pub read: Vec<Stacks>,
    /// The program's path and ids, where its process is on this node: Go's own profiles name no file that others know.
    pub program: Option<(PathBuf, Ids)>,
}

impl Shot {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bodies: usize = self.bodies.iter().map(|(_, body)| body.len()).sum();
        bodies + self.read.iter().map(weight::of_stacks).sum::<usize>()
    }
}

/// The rings of all targets.
#[derive(Debug, Default)]
pub struct Baselines {
    by_target: BTreeMap<String, VecDeque<Shot>>,
    /// The latest rollout marker: the last baseline before it is never thrown out.
    mark: Option<Stamp>,
}

impl Baselines {
    /// Sets the latest rollout marker.
    pub fn mark(&mut self, mark: Stamp) {
        self.mark = Some(mark);
    }

    /// Keeps one more; the oldest unpinned goes when there are too many or too much. False when it is too large to keep.
    pub fn keep(&mut self, target: &str, shot: Shot) -> bool {
        if shot.bytes() > SHOT_BYTES_MAX {
            return false;
        }
        let mark = self.mark;
        let ring = self.by_target.entry(target.to_owned()).or_default();
        ring.push_back(shot);
        while ring.len() > PER_TARGET_MAX && evict(ring, mark) {}
        while self.bytes() > BYTES_MAX {
            // The fullest target pays.
            let fullest =
                self.by_target.values_mut().max_by_key(|ring| ring.iter().map(Shot::bytes).sum::<usize>());
            if !fullest.is_some_and(|ring| evict(ring, mark)) {
                break;
            }
        }
        true
    }

    /// Bytes held over all targets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.by_target.values().flatten().map(Shot::bytes).sum()
    }

    /// The "before" for a trigger: the last one that ended before the marker; without a marker the last one at least
    /// [`AGED_NS`] old; else the oldest there is, called young; else none.
    #[must_use]
    pub fn choose(
        &self,
        target: &str,
        trigger: Stamp,
        before_mono_ns: Option<u64>,
    ) -> (Option<&Shot>, Baseline) {
        let Some(ring) = self.by_target.get(target) else { return (None, Baseline::Missing) };
        if let Some(mark) = before_mono_ns {
            let shot = ring.iter().rfind(|shot| shot.ended.mono_ns <= mark);
            return (shot, if shot.is_some() { Baseline::BeforeMarker } else { Baseline::Missing });
        }
        let aged = ring.iter().rfind(|shot| trigger.since_ns(shot.ended) >= AGED_NS);
        match (aged, ring.front()) {
            (Some(shot), _) => (Some(shot), Baseline::Aged),
            // The oldest of the young is the likeliest to lie before the change.
            (None, Some(shot)) => (Some(shot), Baseline::Young),
            (None, None) => (None, Baseline::Missing),
        }
    }
}

/// Throws out the oldest but the last before the marker and the newest; false when there is nothing to throw out.
fn evict(ring: &mut VecDeque<Shot>, mark: Option<Stamp>) -> bool {
    let pinned = mark.and_then(|mark| ring.iter().rposition(|shot| shot.ended.mono_ns <= mark.mono_ns));
    let oldest = (0..ring.len().saturating_sub(1)).find(|at| Some(*at) != pinned);
    oldest.and_then(|at| ring.remove(at)).is_some()
}

#[cfg(test)]
mod tests {
    use model::profile::{Baseline, ProfileKind};
    use model::time::{SECOND_NS, Stamp};

    use super::{BYTES_MAX, Baselines, PER_TARGET_MAX, SHOT_BYTES_MAX, Shot};

    fn at(seconds: u64) -> Stamp {
        Stamp::default().plus_ns(seconds * SECOND_NS)
    }

    fn shot(seconds: u64, bytes: usize) -> Shot {
        let bodies = vec![(ProfileKind::Cpu, vec![0; bytes])];
        Shot { began: at(seconds), ended: at(seconds + 5), bodies, ..Shot::default() }
    }

    fn ring(seconds: &[u64]) -> Baselines {
        let mut baselines = Baselines::default();
        for seconds in seconds {
            baselines.keep("m1", shot(*seconds, 10));
        }
        baselines
    }

    fn check(baselines: &Baselines, trigger_s: u64, mark_s: Option<u64>, expected: (Option<u64>, Baseline)) {
        let (shot, label) = baselines.choose("m1", at(trigger_s), mark_s.map(|s| s * SECOND_NS));
        assert_eq!((shot.map(|shot| shot.began.mono_ns / SECOND_NS), label), expected);
    }

    #[test]
    fn the_before_is_chosen_by_marker_then_age() {
        let baselines = ring(&[100, 700, 1_300]);
        check(&baselines, 1_400, Some(800), (Some(700), Baseline::BeforeMarker));
        // The one at 700 ended at 705, after the marker.
        check(&baselines, 1_400, Some(704), (Some(100), Baseline::BeforeMarker));
        check(&baselines, 1_400, Some(50), (None, Baseline::Missing));
        check(&baselines, 1_400, None, (Some(700), Baseline::Aged));
        check(&baselines, 200, None, (Some(100), Baseline::Young));
        check(&Baselines::default(), 200, None, (None, Baseline::Missing));
    }

    #[test]
    fn the_last_before_the_marker_outlives_the_ring() {
        let mut baselines = ring(&[100, 200]);
        baselines.mark(at(210));
        for seconds in 3..30 {
            baselines.keep("m1", shot(seconds * 100, 10));
        }
        check(&baselines, 9_000, Some(210), (Some(200), Baseline::BeforeMarker));
        assert_eq!(baselines.bytes(), PER_TARGET_MAX * 10);
        // A newer marker frees it.
        baselines.mark(at(2_950));
        baselines.keep("m1", shot(3_000, 10));
        check(&baselines, 9_000, Some(210), (None, Baseline::Missing));
    }

    #[test]
    fn bytes_are_bounded_over_all_targets() {
        let mut baselines = Baselines::default();
        for seconds in 0..40 {
            baselines.keep(if seconds % 2 == 0 { "m1" } else { "m2" }, shot(seconds, BYTES_MAX / 5));
            assert!(baselines.bytes() <= BYTES_MAX);
        }
        assert!(baselines.choose("m2", at(1_000), None).0.is_some());
        assert!(!baselines.keep("m1", shot(50, SHOT_BYTES_MAX + 1)));
    }
}

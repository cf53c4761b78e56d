//! Times without the CPU: from the stack with which a thread left to the record that it came back.
//!
//! Owns the stacks of those that are away, as the bytes they came in, and the clocks of those that have some. Refuses short
//! times: a switch costs more to tell of than it took.

use std::collections::HashMap;

use super::super::record::Stint;
use super::{Wait, WaitKind};

/// Below this it is the scheduler that one would measure.
const WAIT_NS_MIN: u64 = 1_000_000;
/// Threads that are away at a time; each keeps one record of about a kilobyte.
const AWAY_MAX: usize = 8192;

/// Who left, when and with what stack.
#[derive(Debug, Default)]
struct Away {
    left_ns: Option<u64>,
    kind: Option<WaitKind>,
    /// Kept when it comes back: a thread that waits once waits again.
    record: Vec<u8>,
    /// What its clocks said last, by CPU.
    clocks: Vec<(u32, Stint)>,
}

/// All that are away.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_thread: HashMap<u32, Away>,
    short: u64,
    crowded: u64,
}

impl Waits {
    /// Times that were too short.
    pub(super) fn short(&self) -> u64 {
        self.short
    }

    /// Times of threads for which there was no room.
    pub(super) fn crowded(&self) -> u64 {
        self.crowded
    }

    /// What is kept of a thread; `None` where there is no room for another one.
    fn place(&mut self, tid: u32) -> Option<&mut Away> {
        if self.by_thread.len() >= AWAY_MAX && !self.by_thread.contains_key(&tid) {
            self.crowded += 1;
            return None;
        }
        Some(self.by_thread.entry(tid).or_default())
    }

    /// What a thread's clock on this CPU says now: how long it has run there since it came, and whether it leaves. `None`
    /// for whom there is no room. A thread comes to a CPU and leaves it again before it comes to another.
    pub(super) fn stint(&mut self, (tid, cpu): (u32, u32), now: Stint) -> Option<(u64, bool)> {
        let away = self.place(tid)?;
        let at = away.clocks.iter().position(|(other, _)| *other == cpu).unwrap_or_else(|| {
            away.clocks.push((cpu, Stint::default()));
            away.clocks.len() - 1
        });
        let (_, known) = away.clocks.get_mut(at)?;
        let then = std::mem::replace(known, now);
        let left = now.switches.saturating_sub(then.switches);
        if left > 1 {
            // It left without our hearing of it: what it waited for then is not known.
            away.left_ns = None;
        }
        Some((now.ran_ns.saturating_sub(then.ran_ns), left > 0))
    }

    /// Something was lost: whoever is away may have been back.
    pub(super) fn forget(&mut self) {
        self.by_thread.values_mut().for_each(|away| away.left_ns = None);
    }

    /// A thread leaves with this stack.
    pub(super) fn leave(&mut self, (tid, time_ns): (u32, u64), kind: WaitKind, record: &[u8]) {
        let Some(away) = self.place(tid) else { return };
        (away.left_ns, away.kind) = (Some(time_ns), Some(kind));
        away.record.clear();
        away.record.extend_from_slice(record);
    }

    /// It could have run on.
    pub(super) fn was_preempted(&mut self, tid: u32) {
        if let Some(away) = self.by_thread.get_mut(&tid) {
            away.kind = Some(WaitKind::Preempted);
        }
    }

    /// It is back: how long that was, and the record with which it left.
    pub(super) fn come_back(&mut self, tid: u32, time_ns: u64) -> Option<(Wait, &[u8])> {
        let away = self.by_thread.get_mut(&tid)?;
        let length_ns = time_ns.saturating_sub(away.left_ns.take()?);
        if length_ns < WAIT_NS_MIN {
            self.short += 1;
            return None;
        }
        Some((Wait { length_ns, kind: away.kind? }, &away.record))
    }

    /// Those that are still away.
    pub(super) fn away(&self) -> Vec<u32> {
        let away = self.by_thread.iter().filter(|(_, away)| away.left_ns.is_some());
        away.map(|(tid, _)| *tid).collect()
    }

    /// It will not come back.
    pub(super) fn end(&mut self, tid: u32) {
        self.by_thread.remove(&tid);
    }
}

#[cfg(test)]
mod tests {
    use super::{AWAY_MAX, Stint, WAIT_NS_MIN, Wait, WaitKind, Waits};

    #[test]
    fn a_wait_is_from_leaving_to_coming_back() {
        let mut waits = Waits::default();
        assert_eq!(waits.come_back(1, 10), None, "nobody saw it leave");
        waits.leave((1, 10), WaitKind::Uninterruptible, b"first");
        waits.leave((2, 20), WaitKind::Sleeping, b"second");
        waits.was_preempted(2);
        let wait = |length_ns, kind| Wait { length_ns, kind };
        let first = wait(WAIT_NS_MIN, WaitKind::Uninterruptible);
        assert_eq!(waits.come_back(1, 10 + WAIT_NS_MIN), Some((first, &b"first"[..])));
        assert_eq!(waits.come_back(1, u64::MAX), None, "it is here already");
        assert_eq!(
            waits.come_back(2, 30 + WAIT_NS_MIN),
            Some((wait(WAIT_NS_MIN + 10, WaitKind::Preempted), &b"second"[..]))
        );
        waits.leave((1, 100), WaitKind::Sleeping, b"third");
        assert_eq!(waits.come_back(1, 200), None);
        assert_eq!(waits.short(), 1);
        waits.leave((1, 300), WaitKind::Sleeping, b"fourth");
        assert_eq!(waits.away(), [1]);
        waits.end(1);
        assert_eq!(waits.come_back(1, u64::MAX), None);
    }

    #[test]
    fn a_clock_of_each_cpu_says_how_long_a_thread_ran_there() {
        let mut waits = Waits::default();
        let stint = |switches, ran_ns| Stint { switches, ran_ns };
        assert_eq!(waits.stint((1, 0), stint(1, 50)), Some((50, true)));
        assert_eq!(waits.stint((1, 1), stint(0, 10)), Some((10, false)), "it runs there, and says so");
        assert_eq!(waits.stint((1, 1), stint(1, 30)), Some((20, true)));
        assert_eq!(waits.stint((1, 0), stint(2, 51)), Some((1, true)), "not what it did elsewhere");
        assert_eq!(waits.stint((2, 0), stint(1, 7)), Some((7, true)), "nor what others did");
        waits.leave((1, 100), WaitKind::Sleeping, b"kept");
        assert_eq!(waits.stint((1, 0), stint(4, 60)), Some((9, true)));
        assert_eq!(waits.come_back(1, u64::MAX), None, "it left in between, with a stack that was lost");
        waits.leave((1, 100), WaitKind::Sleeping, b"kept");
        waits.forget();
        assert_eq!(waits.come_back(1, u64::MAX), None);
    }

    #[test]
    fn those_that_are_away_are_bounded() {
        let mut waits = Waits::default();
        (0..10_000).for_each(|tid| waits.leave((tid, 0), WaitKind::Sleeping, b"x"));
        let back = (0..10_000).filter(|tid| waits.come_back(*tid, WAIT_NS_MIN).is_some()).count();
        assert_eq!(back, AWAY_MAX);
        assert_eq!(waits.crowded(), 10_000 - u64::try_from(AWAY_MAX).unwrap());
        assert_eq!(waits.stint((10_000, 0), Stint::default()), None);
    }
}

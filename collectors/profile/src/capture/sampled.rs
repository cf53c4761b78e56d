//! A capture by the kernel's samples, with what else there is of the member.
//!
//! Owns the order: memory is read before and after, since that stops nobody; what stops the process, for however short a
//! time, is asked for afterwards, and not at all of a node that has nothing left.

use std::sync::Arc;

use model::profile::{Baseline, CaptureOutcome, FunctionCounts, ProfileKind, ProfileSet, Stacks};
use model::time::Clock;
use tokio::task::spawn_blocking;

use super::{Capturer, ProfileTarget, shot};
use crate::baselines::Shot;
use crate::continuous::{Continuous, Missed, Side, Wish};
use crate::counts;
use crate::goheap::{self, Reading};
use crate::perf::attr::Hz;

/// How the profile was taken.
const ENGINE: &str = "perf";

/// Reads a heap from memory, where that is allowed and possible.
pub(super) async fn heap(pid: Option<u32>, clock: &Clock) -> Option<Reading> {
    let (pid, at) = (pid?, clock.now());
    // Most of those that fail are no Go programs, or too old; their heaps are not missed.
    spawn_blocking(move || goheap::read(pid, at)).await.ok()?.ok()
}

impl Capturer {
    pub(super) async fn sampled(
        &self,
        sampled: &Continuous,
        target: &ProfileTarget,
        wish: Wish,
    ) -> Result<CaptureOutcome, Missed> {
        let (asked, before_mono_ns) = (wish.asked, wish.before_mono_ns);
        let first = heap(self.heap_of(&target.name), &self.clock).await;
        let taken = sampled.capture(wish).await?;
        let last = heap(self.heap_of(&target.name), &self.clock).await;
        let is_spared = taken.hz < Hz::TRIGGERED.get();
        let pulled = match target.pprof.as_ref().filter(|_| !is_spared) {
            Some(pprof) => self.pull((&target.name, pprof), None).await.ok(),
            None => None,
        };
        let mut now = Set::of(Some(taken.after));
        if let Some(last) = &last {
            now.add(last.stacks());
            // The process may have been another one before.
            first.and_then(|first| last.since(&first).ok()).into_iter().for_each(|stacks| now.add(stacks));
        }
        self.others(pulled.as_ref()).for_each(|stacks| now.add(stacks));
        let (shot, label) = self.baselines.choose(&target.name, asked, before_mono_ns);
        let baseline = if taken.before.is_some() { taken.baseline } else { label };
        let mut then = Set::of(taken.before);
        // Of another age than the CPU time, they would not be what the label says.
        let others = self.others(shot).filter(|_| label == baseline);
        others.for_each(|stacks| then.add(stacks));
        let before = then.finish().map(Arc::new);
        let baseline = if before.is_some() { baseline } else { Baseline::Missing };
        let after = Arc::new(now.finish().unwrap_or_default());
        Ok(CaptureOutcome::Done { before, baseline, after })
    }

    /// What is not CPU time of a shot.
    fn others(&self, shot: Option<&Shot>) -> impl Iterator<Item = Stacks> + use<> {
        let set = shot.and_then(|shot| shot::decode(shot, &self.ledger).ok());
        let stacks = set.map(|set| Arc::unwrap_or_clone(set.stacks)).unwrap_or_default();
        stacks.into_iter().filter(|stacks| stacks.kind != ProfileKind::Cpu)
    }
}

/// Profiles of one moment, each kind once.
#[derive(Debug, Default)]
struct Set {
    counts: Vec<FunctionCounts>,
    stacks: Vec<Stacks>,
}

impl Set {
    fn of(side: Option<Side>) -> Set {
        let (counts, stacks) = side.map(|Side { counts, stacks }| (counts, stacks)).unzip();
        Set { counts: counts.into_iter().collect(), stacks: stacks.into_iter().collect() }
    }

    fn add(&mut self, stacks: Stacks) {
        if self.stacks.iter().all(|known| known.kind != stacks.kind) {
            self.counts.push(counts::of(&stacks));
            self.stacks.push(stacks);
        }
    }

    fn finish(self) -> Option<ProfileSet> {
        let at = self.stacks.first()?.at;
        Some(ProfileSet::new(ENGINE, at, self.counts, self.stacks))
    }
}

//! Samples on their way from a session into counts by stack, with the callers that the kernel leaves out.
//!
//! Owns the order of the steps and the hand-over of what was counted so far. Refuses to name: that is done with what was
//! handed over, on a thread that nobody waits for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::binaries::Binaries;
use crate::perf::record::Sample;
use crate::perf::session::{Seen, Sink};
use crate::perf::stacks::Stacks;
use crate::unwind::{self, Unwinder};

/// What was counted.
#[derive(Debug, Default)]
pub struct Counted {
    /// By process and stack.
    pub stacks: Stacks,
    /// What the unwinder did to them, since the session began.
    pub unwinding: unwind::Statistics,
}

/// The sink of a session.
#[derive(Debug)]
pub struct Sampler {
    unwinder: Unwinder,
    counted: Arc<Mutex<Counted>>,
}

/// The other end: takes what was counted while the session goes on.
#[derive(Clone, Debug)]
pub struct Harvest {
    counted: Arc<Mutex<Counted>>,
}

impl Sampler {
    /// Both ends. The files are best shared with [`crate::names::Names`], which will want them too.
    #[must_use]
    pub fn new(binaries: Binaries) -> (Sampler, Harvest) {
        let counted = Arc::new(Mutex::default());
        let harvest = Harvest { counted: Arc::clone(&counted) };
        (Sampler { unwinder: Unwinder::new(binaries), counted }, harvest)
    }
}

impl Sink for Sampler {
    fn sample(&mut self, seen: &Seen<'_>) {
        let sample = Sample { user: self.unwinder.callers(seen), ..seen.sample };
        let mut counted = lock(&self.counted);
        counted.stacks.add(&Seen { sample, ..*seen });
        counted.unwinding = self.unwinder.statistics();
    }
}

impl Harvest {
    /// What was counted since it was taken before.
    #[must_use]
    pub fn take(&self) -> Counted {
        let mut counted = lock(&self.counted);
        let unwinding = counted.unwinding;
        Counted { stacks: std::mem::take(&mut counted.stacks), unwinding }
    }
}

/// Counting does not panic half-way; if it did, what was counted before is still right.
fn lock(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

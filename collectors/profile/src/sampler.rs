//! Samples on their way from a session into counts by stack, with the callers that the kernel leaves out.
//!
//! Owns the order of the steps and the hand-over of what was counted so far. Refuses to name: that is done with what was
//! handed over, on a thread that nobody waits for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::binaries::Binaries;
use crate::dwarf::{self, Walker};
use crate::names::{self, Capture, Names};
use crate::perf::record::{Sample, Words};
use crate::perf::session::{KernelCode, Seen, Sink};
use crate::perf::stacks::Stacks;
use crate::unwind::{self, Unwinder};

/// Changes of the kernel's code that wait to be taken: a service mesh that is restarted makes some hundred.
const KERNEL_CODE_MAX: usize = 4_096;

/// What was counted.
#[derive(Debug, Default)]
pub struct Counted {
    /// By process and stack.
    pub stacks: Stacks,
    /// What the unwinder did to them, since the session began.
    pub unwinding: unwind::Statistics,
    /// The same of native code, where its tables are walked.
    pub walks: dwarf::Counts,
    /// Code that the kernel made and let go of meanwhile, in order; of too many the last.
    pub kernel_code: VecDeque<KernelCode>,
}

impl Counted {
    /// All stacks, named, with what the kernel did to its code meanwhile: that is used up.
    #[must_use]
    pub fn name(
        &mut self,
        names: &mut Names,
        capture: &Capture,
    ) -> (model::profile::Stacks, names::Statistics) {
        names.kernel_changed(std::mem::take(&mut self.kernel_code));
        names.name(&self.stacks, capture)
    }
}

/// The sink of a session.
#[derive(Debug)]
pub struct Sampler {
    binaries: Binaries,
    unwinder: Unwinder,
    native: Option<Native>,
    counted: Arc<Mutex<Counted>>,
}

/// Walks stacks of code that Go did not build, by the tables in its files.
#[derive(Debug)]
struct Native {
    walker: Walker,
    words: Vec<u8>,
}

impl Native {
    fn callers<'a>(&'a mut self, seen: &Seen<'a>) -> (Words<'a>, dwarf::Counts) {
        let Some(process) = seen.process else { return (seen.sample.user, self.walker.counts()) };
        let walked = self.walker.walk(process.pid, &process.mappings, &seen.sample);
        self.words.clear();
        walked.addresses.iter().for_each(|address| self.words.extend_from_slice(&address.to_ne_bytes()));
        (Words::new(&self.words), self.walker.counts())
    }
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
        let unwinder = Unwinder::new(binaries.clone());
        (Sampler { binaries, unwinder, native: None, counted }, harvest)
    }

    /// Also counts by CPU.
    #[must_use]
    pub fn by_cpu(self) -> Sampler {
        lock(&self.counted).stacks = Stacks::by_cpu();
        self
    }

    /// Also walks native code by its tables, which pays where samples have much of the stack: programs without frame
    /// pointers have no other callers.
    #[must_use]
    pub fn walking_native(self) -> Sampler {
        let native = Native { walker: Walker::new(self.binaries.clone()), words: Vec::new() };
        Sampler { native: Some(native), ..self }
    }
}

impl Sink for Sampler {
    fn sample(&mut self, seen: &Seen<'_>) {
        let native = self.native.as_mut().filter(|_| self.unwinder.leaves_alone(seen));
        let (user, walks) = match native {
            Some(native) => {
                let (user, walks) = native.callers(seen);
                (user, Some(walks))
            }
            None => (self.unwinder.callers(seen), None),
        };
        let sample = Sample { user, ..seen.sample };
        let mut counted = lock(&self.counted);
        counted.stacks.add(&Seen { sample, ..*seen });
        counted.unwinding = self.unwinder.statistics();
        counted.walks = walks.unwrap_or(counted.walks);
    }

    fn kernel_code(&mut self, code: KernelCode) {
        let mut counted = lock(&self.counted);
        if counted.kernel_code.len() >= KERNEL_CODE_MAX {
            counted.kernel_code.pop_front();
        }
        counted.kernel_code.push_back(code);
    }
}

impl Harvest {
    /// What was counted since it was taken before.
    #[must_use]
    pub fn take(&self) -> Counted {
        let mut counted = lock(&self.counted);
        Counted {
            stacks: counted.stacks.take(),
            kernel_code: std::mem::take(&mut counted.kernel_code),
            unwinding: counted.unwinding,
            walks: counted.walks,
        }
    }
}

/// Counting does not panic half-way; if it did, what was counted before is still right.
fn lock(counted: &Mutex<Counted>) -> MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

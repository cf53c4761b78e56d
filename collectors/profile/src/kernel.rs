//! One capture by the kernel's sampling events, from its start to named stacks: what a person at a terminal gets.
//!
//! Owns the two sessions (what runs, what waits) and that both tell of the same time. Refuses to wait: how long it takes
//! is the caller's to say, and what was seen until then is kept.

use std::path::Path;

use model::profile::{Losses, ProfileKind, Stacks};
use model::time::Stamp;

use crate::binaries::Binaries;
use crate::dwarf;
use crate::names::{self, Capture, Names};
use crate::perf::attr::{Abilities, Hz, Measure, STACK_BYTES, StackBytes};
use crate::perf::refusal::Refusal;
use crate::perf::session::{End, Plan, Session};
use crate::perf::statistics::Statistics;
use crate::perf::target::Target;
use crate::perf::tracepoint::{Switches, Way};
use crate::sampler::{Harvest, Sampler};
use crate::symbols::kernel;
use crate::{unwind, waiting};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Whose stacks.
    pub target: Target,
    /// How often, of what runs.
    pub hz: Hz,
    /// How much of the stack each sample of what runs has; with more than a little, native code is walked by its tables.
    pub stack_bytes: StackBytes,
    /// Whether what waits is wanted too.
    pub is_waiting_wanted: bool,
    /// A process that is followed for its children alone: us, where a command is ours to start.
    pub left_out: Option<u32>,
}

/// A session and what it has counted.
#[derive(Debug)]
struct Half {
    session: Session<Sampler>,
    harvest: Harvest,
}

impl Half {
    fn start(wish: &Wish, measure: Measure, binaries: &Binaries) -> Result<Half, Refusal> {
        let (sampler, harvest) = Sampler::new(binaries.clone());
        let sampler = if measure == Measure::Running { sampler.by_cpu() } else { sampler };
        let mut plan = Plan { measure, ..Plan::new(wish.target.clone(), wish.hz) };
        if measure == Measure::Waiting {
            plan.way = Way::of(kernel::is_shown(Path::new(kernel::LIST)));
        }
        let is_deep = measure == Measure::Running && wish.stack_bytes > STACK_BYTES;
        let (plan, sampler) = match is_deep {
            true => (plan.with_stack(wish.stack_bytes), sampler.walking_native()),
            false => (plan, sampler),
        };
        Ok(Half { session: Session::start(&plan, sampler)?, harvest })
    }
}

/// A capture under way. Dropping it stops it.
#[derive(Debug)]
pub struct Kernel {
    running: Half,
    waiting: Option<Half>,
    waiting_refused: Option<Refusal>,
    names: Names,
    left_out: Option<u32>,
    at: Stamp,
}

impl Kernel {
    /// Opens everything. What waits is a part of its own: when only that is refused, the account says why.
    ///
    /// # Errors
    /// [`Refusal`], when what runs may not be sampled.
    pub fn start(wish: &Wish, at: Stamp) -> Result<Kernel, Refusal> {
        let binaries = Binaries::default();
        let running = Half::start(wish, Measure::Running, &binaries)?;
        let (waiting, waiting_refused) = match wish.is_waiting_wanted {
            false => (None, None),
            true => match Half::start(wish, Measure::Waiting, &binaries) {
                Ok(half) => (Some(half), None),
                Err(refusal) => (None, Some(refusal)),
            },
        };
        let (names, left_out) = (Names::new(binaries), wish.left_out);
        Ok(Kernel { running, waiting, waiting_refused, names, left_out, at })
    }

    /// Samples of what runs, until now.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.running.session.statistics().samples
    }

    /// Whether all of its processes have ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.running.session.is_over()
    }

    /// Stops, and names what was seen. Reads files: not for a thread that others wait for.
    #[must_use]
    pub fn end(mut self, now: Stamp) -> Sampled {
        let abilities = self.running.session.abilities();
        let outcome = self.running.session.stop();
        let duration_ns = match outcome.end {
            End::TargetsGone => outcome.statistics.wall_ns,
            End::Over | End::Stopped | End::Died => now.since_ns(self.at),
        };
        let switches = self.waiting.as_ref().and_then(|half| half.session.abilities().switches);
        let waiting = self.waiting.map(|half| (half.session.stop().statistics, half.harvest.take()));
        let mut counted = self.running.harvest.take();
        self.left_out.into_iter().for_each(|pid| counted.stacks.leave_out(pid));
        let hz = u64::from(outcome.statistics.hz.max(1));
        let mut capture =
            Capture { kind: ProfileKind::Cpu, at: self.at, duration_ns, period_ns: 1_000_000_000 / hz };
        let (cpu, naming) = counted.name(&mut self.names, &capture);
        (capture.kind, capture.period_ns) = (ProfileKind::OffCpu, 0);
        let off_cpu = waiting.map(|(statistics, mut counted)| {
            self.left_out.into_iter().for_each(|pid| counted.stacks.leave_out(pid));
            let (stacks, _) = counted.name(&mut self.names, &capture);
            let waited = match switches {
                Some(Switches::Timed) => waiting::what_for(&stacks),
                _ => statistics.waited,
            };
            (stacks, Statistics { waited, ..statistics })
        });
        let losses =
            |statistics: &Statistics| Losses { lost: statistics.lost, truncated: statistics.truncated };
        let cpu = Stacks { losses: losses(&outcome.statistics), ..cpu };
        let off_cpu = off_cpu.map(|(stacks, told)| (Stacks { losses: losses(&told), ..stacks }, told));
        let kernel_nameless = self.names.kernel().why_nameless().map(ToString::to_string);
        let are_waits_told_apart = match switches {
            Some(Switches::Timed) => kernel_nameless.is_none(),
            Some(Switches::Traced(_)) => true,
            Some(Switches::Counted(_)) | None => false,
        };
        let account = Account {
            kernel_nameless,
            abilities,
            end: outcome.end,
            statistics: outcome.statistics,
            unwinding: counted.unwinding,
            walks: counted.walks,
            naming,
            overflow: counted.stacks.overflow(),
            waiting: off_cpu.as_ref().map(|(_, statistics)| *statistics),
            are_waits_told_apart,
            waiting_refused: self.waiting_refused,
        };
        Sampled { cpu, off_cpu: off_cpu.map(|(stacks, _)| stacks), account }
    }
}

/// What was captured.
#[derive(Debug)]
pub struct Sampled {
    /// What ran.
    pub cpu: Stacks,
    /// What waited, where that was wanted and possible.
    pub off_cpu: Option<Stacks>,
    /// How much of it is sure.
    pub account: Account,
}

/// What came, what was lost, what it cost.
#[derive(Clone, Debug)]
pub struct Account {
    /// What the kernel granted.
    pub abilities: Abilities,
    /// Why it ended.
    pub end: End,
    /// Of the events.
    pub statistics: Statistics,
    /// Of callers that were put in.
    pub unwinding: unwind::Statistics,
    /// Of native code that was walked by its tables.
    pub walks: dwarf::Counts,
    /// Of names.
    pub naming: names::Statistics,
    /// Why frames of the kernel have no names.
    pub kernel_nameless: Option<String>,
    /// Samples whose stacks found no room.
    pub overflow: u64,
    /// The same of the events of waiting.
    pub waiting: Option<Statistics>,
    /// Whether it is known what for; else a sleep may be a wait for a device.
    pub are_waits_told_apart: bool,
    /// Why waiting was not seen although it was wanted.
    pub waiting_refused: Option<Refusal>,
}

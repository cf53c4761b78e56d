//! One capture: events, the processes they tell of, and a thread that reads them until it is told to stop.
//!
//! Owns that thread, its rounds and the account of what was lost on the way. Refuses to keep samples: each goes to the
//! sink while its bytes are still warm, and what the sink makes of it is the sink's.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::attr::{Abilities, Hz, Measure, Scope, StackBytes};
use super::cgroup::Cgroup;
use super::cpus;
use super::events::{Events, Sizes};
use super::processes::{Process, Processes};
use super::record::{Meta, Sample};
use super::refusal::Refusal;
use super::ring::Merge;
use super::statistics::Statistics;
use super::synthesis::Proc;
use super::sys;
use super::target::Target;
use super::tracepoint::Way;

use self::reader::Reader;
use self::shared::Shared;

mod reader;
mod shared;
mod sink;
mod waits;

pub use sink::{KernelCode, Sink};

/// Between two drains, unless a ring fills up before: four a second cost nothing, and a sample is at most so old.
const ROUND_MS: u32 = 250;
/// A record is stamped before it is written; by then every CPU has written it, unless the host stopped the machine.
const SETTLED_NS: u64 = 20_000_000;
/// How often CPUs that come or go, and targets that end, are looked for.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// How often the kernel is asked what was lost: it interrupts each CPU for the answer, and tells it anyway with the next
/// record that finds room.
const LOSSES_EVERY_NS: u64 = 10_000_000_000;
/// How often processes are looked for whose exit may have been lost.
const SWEEP_EVERY_NS: u64 = 60_000_000_000;

/// What to capture.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whose samples.
    pub target: Target,
    /// Of what they do or of what they wait for.
    pub measure: Measure,
    /// How often.
    pub hz: Hz,
    /// For how long; until it is stopped when there is no end.
    pub length: Option<Duration>,
    /// Bytes of each CPU's ring and of the stack in each sample.
    pub sizes: Sizes,
    /// Where waiting is measured, how.
    pub way: Way,
}

impl Plan {
    /// Of these, at this rate, until stopped.
    #[must_use]
    pub fn new(target: Target, hz: Hz) -> Plan {
        let (measure, length, way) = (Measure::Running, None, Way::ByStates);
        Plan { target, measure, hz, length, sizes: Sizes::default(), way }
    }

    /// With more of the stack in each sample, for programs without frame pointers, and rings to match. Not for what waits:
    /// the last stack of each thread that is away is kept.
    #[must_use]
    pub fn with_stack(self, stack_bytes: StackBytes) -> Plan {
        Plan { sizes: Sizes::with_stack(stack_bytes, self.hz), ..self }
    }
}

/// A sample with what is known of who ran.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When, where, who by number.
    pub meta: Meta,
    /// The stack.
    pub sample: Sample<'a>,
    /// Who, at that time; `None` when nobody told us.
    pub process: Option<&'a Process>,
    /// Where that belongs.
    pub cgroup: Option<&'a Arc<Cgroup>>,
    /// Whether the stack went on where the kernel stopped.
    pub is_truncated: bool,
    /// How long it stayed away from the CPU, where waiting is measured.
    pub wait: Option<Wait>,
}

/// A time without the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// From leaving to coming back.
    pub length_ns: u64,
    /// What for.
    pub kind: WaitKind,
}

impl Wait {
    /// It could have run, and others did.
    #[must_use]
    pub fn is_preempted(&self) -> bool {
        self.kind == WaitKind::Preempted
    }
}

/// What a thread without the CPU waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitKind {
    /// For the CPU: it could have run.
    Preempted,
    /// For another thread, for time or for the network. Without tracepoints ([`Abilities::switches`]) for anything.
    Sleeping,
    /// For a device, mostly: the state `D`, which no signal ends, or by the kernel's functions in the stack.
    Uninterruptible,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its time was over.
    Over,
    /// Somebody stopped it.
    Stopped,
    /// All of its processes have ended.
    TargetsGone,
    /// The thread that read has died. Nothing but a defect does that.
    Died,
}

/// What is left of a session.
#[derive(Debug)]
pub struct Outcome<S> {
    /// What the sink made of it; nothing when the thread died with it.
    pub sink: Option<S>,
    /// Who ran: those that live and those that have ended in the last seconds.
    pub processes: Processes,
    /// The whole account.
    pub statistics: Statistics,
    /// Why.
    pub end: End,
}

/// A running capture. Dropping it stops it and forgets what it had.
#[derive(Debug)]
pub struct Session<S> {
    shared: Arc<Shared>,
    abilities: Abilities,
    thread: Option<JoinHandle<(S, Processes, End)>>,
}

impl<S: Sink> Session<S> {
    /// Opens everything, reads who runs, and lets the samples come.
    pub fn start(plan: &Plan, sink: S) -> Result<Session<S>, Refusal> {
        let system = |error: io::Error| Refusal::Other(error.to_string());
        let wanted = (plan.measure, plan.hz);
        let mut events = Events::open_by(&plan.target, wanted, plan.sizes, plan.way)?;
        let abilities = events.abilities();
        let (mut proc, mut processes) = (Proc::new("/proc".into()), Processes::default());
        // From here on the rings tell what changes; what they tell once more than /proc did is told twice the same.
        match (&plan.target, abilities.scope) {
            (Target::Pids(pids), Scope::Tasks) => {
                pids.iter().for_each(|pid| proc.adopt(*pid, &mut processes));
            }
            _ => proc.everybody(&mut processes),
        }
        let shared = Arc::new(Shared::new(plan.hz).map_err(system)?);
        events.start()?;
        let reader = Reader::new(plan, events.abilities(), (proc, processes), sink);
        let worker = Worker {
            length_ns: plan.length.map(|length| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)),
            began_ns: sys::monotonic_ns(),
            shared: Arc::clone(&shared),
            merge: Merge::default(),
            cpus_refused: 0,
            looked_ns: 0,
            lost: None,
            asked_ns: 0,
            swept: (0, 0),
            events,
            reader,
        };
        let thread = thread::Builder::new().name("perf".to_owned());
        let thread = Some(thread.spawn(move || worker.run()).map_err(system)?);
        Ok(Session { shared, abilities, thread })
    }

    /// What became of the wish.
    #[must_use]
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Another rate, within a round.
    pub fn set_rate(&self, hz: Hz) -> Result<(), Refusal> {
        if self.abilities.is_rate_fixed {
            return Err(Refusal::FixedRate);
        }
        self.shared.want_rate(hz);
        Ok(())
    }

    /// Waits until the samples of the old rate have gone to the sink and those of this one are the next: a count of samples
    /// is a time only where they are of one rate. False when that took longer than `patience`.
    #[must_use]
    pub fn awaits_rate(&self, hz: Hz, patience: Duration) -> bool {
        self.shared.awaits_rate(hz, patience)
    }

    /// As of the latest round.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }

    /// Whether it has ended by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it now, with everything up to this moment in it.
    #[must_use]
    pub fn stop(mut self) -> Outcome<S> {
        self.call_off();
        self.join()
    }

    /// Waits for its end. Without a length that is when its processes have ended, or never.
    #[must_use]
    pub fn wait(mut self) -> Outcome<S> {
        self.join()
    }

    fn join(&mut self) -> Outcome<S> {
        let joined = self.thread.take().and_then(|thread| thread.join().ok());
        let statistics = self.shared.statistics();
        match joined {
            Some((sink, processes, end)) => Outcome { sink: Some(sink), processes, statistics, end },
            None => Outcome { sink: None, processes: Processes::default(), statistics, end: End::Died },
        }
    }
}

impl<S> Session<S> {
    fn call_off(&self) {
        self.shared.stop();
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        self.call_off();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            drop(thread.join());
        }
    }
}

/// The thread's state.
struct Worker<S> {
    shared: Arc<Shared>,
    events: Events,
    merge: Merge,
    reader: Reader<S>,
    length_ns: Option<u64>,
    began_ns: u64,
    cpus_refused: u64,
    looked_ns: u64,
    /// What the kernel says was lost, when it was last asked.
    lost: Option<u64>,
    asked_ns: u64,
    /// When, and what was lost until then.
    swept: (u64, u64),
}

impl<S: Sink> Worker<S> {
    fn run(mut self) -> (S, Processes, End) {
        let end = loop {
            self.events.wait(self.shared.bell(), self.patience_ms());
            let now_ns = sys::monotonic_ns();
            self.follow_wishes();
            self.round(now_ns.saturating_sub(SETTLED_NS));
            self.shared.publish(self.account(now_ns));
            if self.shared.is_stopped() {
                break End::Stopped;
            }
            if self.left_ns(now_ns) == Some(0) {
                break End::Over;
            }
            if now_ns - self.looked_ns >= LOOK_EVERY_NS {
                self.looked_ns = now_ns;
                if now_ns - self.asked_ns >= LOSSES_EVERY_NS {
                    (self.asked_ns, self.lost) = (now_ns, self.events.lost());
                }
                self.follow_cpus();
                self.sweep(now_ns);
                if self.reader.targets_are_gone() {
                    break End::TargetsGone;
                }
            }
        };
        self.events.stop();
        self.round(u64::MAX);
        let now_ns = sys::monotonic_ns();
        // That they are gone is seen up to a second later: nothing was there to be watched in it.
        let ended_ns = self.reader.targets_ended_ns().filter(|_| end == End::TargetsGone).unwrap_or(now_ns);
        self.reader.finish(ended_ns);
        self.lost = self.events.lost();
        self.shared.publish(self.account(ended_ns));
        let (sink, processes) = self.reader.into_parts();
        (sink, processes, end)
    }

    fn left_ns(&self, now_ns: u64) -> Option<u64> {
        self.length_ns.map(|length| (self.began_ns.saturating_add(length)).saturating_sub(now_ns))
    }

    fn patience_ms(&self) -> u32 {
        let left_ns = self.left_ns(sys::monotonic_ns()).unwrap_or(u64::MAX);
        u32::try_from(left_ns.div_ceil(1_000_000)).unwrap_or(u32::MAX).min(ROUND_MS)
    }

    /// Reads what has been written up to then.
    fn round(&mut self, until_ns: u64) {
        self.reader.begin_round();
        self.merge.drain(self.events.rings(), until_ns, |bytes| self.reader.record(bytes));
        self.reader.end_round();
    }

    fn follow_wishes(&mut self) {
        let Some(hz) = self.shared.wanted_rate() else { return };
        if let Err(refusal) = self.events.set_rate(hz) {
            tracing::warn!(%refusal, hz = hz.get(), "sampling goes on at the old rate");
            return;
        }
        let switched_ns = sys::monotonic_ns();
        thread::sleep(Duration::from_nanos(SETTLED_NS));
        self.round(switched_ns);
        self.lost = self.events.lost();
        self.shared.publish(self.account(switched_ns));
        self.shared.tell_rate(hz);
    }

    fn follow_cpus(&mut self) {
        let online = cpus::online();
        if self.events.is_on(&online) {
            return;
        }
        // What a CPU that went has left behind is read before its ring is closed.
        self.round(u64::MAX);
        if let Err(refusal) = self.events.follow(&online) {
            self.cpus_refused += 1;
            if self.cpus_refused == 1 {
                tracing::warn!(%refusal, "a CPU that came online is not sampled");
            }
        }
    }

    fn sweep(&mut self, now_ns: u64) {
        let lost = self.reader.lost();
        if now_ns - self.swept.0 >= SWEEP_EVERY_NS && lost > self.swept.1 {
            self.swept = (now_ns, lost);
            self.reader.end_the_gone(now_ns);
        }
    }

    fn account(&self, now_ns: u64) -> Statistics {
        let told = self.reader.statistics();
        Statistics {
            hz: self.events.hz().get(),
            // The kernel's own count also has what was lost after the last record that told of it.
            lost: self.lost.unwrap_or(0).max(told.lost),
            late: self.merge.late(),
            malformed: told.malformed + self.events.torn(),
            cpus_refused: self.cpus_refused,
            cpu_ns: sys::thread_cpu_ns(),
            wall_ns: now_ns.saturating_sub(self.began_ns),
            files: self.events.files(),
            locked_bytes: self.events.locked_bytes(),
            cpus: self.events.cpus(),
            ..told
        }
    }
}

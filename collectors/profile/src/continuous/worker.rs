//! The thread: windows one after the other, captures when they are asked for, and nobody sampled while the kill switch is
//! there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use model::ledger::Ledger;
use model::profile::{Losses, ProfileKind};
use model::time::{Clock, SECOND_NS, Stamp};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::idle::Ticks;
use super::ring::Ring;
use super::sampling::{Gathered, Sampling, is_killed};
use super::{Command, Config, Missed, Processes, StartError, Taken, Wish, rate};
use crate::binaries::Binaries;
use crate::history::Window;
use crate::names::{Capture, Names};
use crate::perf::attr::Hz;

/// Length of a window.
const WINDOW_NS: u64 = 10 * SECOND_NS;
/// The first windows are shorter, so that whoever was just started has a "before" within seconds.
const FIRST_WINDOWS_NS: [u64; 3] = [2 * SECOND_NS, 3 * SECOND_NS, 5 * SECOND_NS];
/// How often the kill switch and the session are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A session that has ended is begun anew as often.
const RETRY_NS: u64 = 10 * SECOND_NS;
/// A capture's windows: enough to tell how unrestful a share is, each a second at least.
const CAPTURE_WINDOWS: u32 = 6;

/// A capture under way.
#[derive(Debug)]
struct Capturing {
    wish: Wish,
    began: Stamp,
    ends_mono_ns: u64,
    window_ns: u64,
    losses: Losses,
    hz: u32,
    reply: oneshot::Sender<Result<Taken, Missed>>,
}

/// The thread's state.
pub(super) struct Worker {
    config: Config,
    processes: Processes,
    clock: Clock,
    ledger: Ledger,
    binaries: Binaries,
    names: Names,
    ring: Ring,
    sampling: Option<Sampling>,
    is_sampling: Arc<AtomicBool>,
    is_refusal_told: bool,
    retry_mono_ns: u64,
    /// When the window began.
    at: Stamp,
    /// How many of the first windows have been.
    first: usize,
    /// At the beginning of the window before, and of this one.
    ticks: (Option<Ticks>, Option<Ticks>),
    capturing: Option<Capturing>,
}

impl Worker {
    pub(super) fn open(
        config: Config,
        processes: Processes,
        clock: Clock,
        ledger: Ledger,
    ) -> Result<Worker, StartError> {
        let ring = Ring::open(&config, ledger.clone())?;
        let binaries = Binaries::default();
        let sampling = match is_killed(&config.kill_switch) {
            true => None,
            false => match Sampling::start(&binaries, &processes, Hz::STEADY) {
                Ok(sampling) => Some(sampling),
                // Members that are still to come may be ours to sample although the node is not.
                Err(_) if processes.current().is_empty() => None,
                Err(refusal) => return Err(refusal.into()),
            },
        };
        let at = clock.now();
        Ok(Worker {
            names: Names::new(binaries.clone()).by_functions(),
            retry_mono_ns: at.mono_ns,
            ticks: (None, Ticks::read()),
            config,
            processes,
            clock,
            ledger,
            binaries,
            ring,
            is_sampling: Arc::new(AtomicBool::new(sampling.is_some())),
            is_refusal_told: false,
            sampling,
            at,
            first: 0,
            capturing: None,
        })
    }

    /// Whether anybody is sampled, for those who must look elsewhere if not.
    pub(super) fn is_sampling(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_sampling)
    }

    /// Until nobody holds the other end.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let left = Duration::from_nanos(self.due_mono_ns().saturating_sub(self.clock.now().mono_ns));
            match commands.recv_timeout(left.min(LOOK)) {
                Ok(command) => self.begin(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.look();
            self.is_sampling.store(self.sampling.is_some(), Ordering::Relaxed);
            if self.clock.now().mono_ns >= self.due_mono_ns() {
                self.turn();
            }
        }
        self.close();
        self.ring.flush();
    }

    /// When the window ends.
    fn due_mono_ns(&self) -> u64 {
        let length = match &self.capturing {
            Some(capturing) => {
                capturing.window_ns.min(capturing.ends_mono_ns.saturating_sub(self.at.mono_ns))
            }
            None => FIRST_WINDOWS_NS.get(self.first).copied().unwrap_or(WINDOW_NS),
        };
        self.at.mono_ns.saturating_add(length)
    }

    fn begin(&mut self, Command { wish, reply }: Command) {
        let refusal = match (&self.sampling, &self.capturing) {
            (None, _) => Some(Missed::NotSampling),
            (_, Some(_)) => Some(Missed::Busy),
            _ if self.processes.of(&wish.member).is_none() => Some(Missed::NoProcess),
            _ => None,
        };
        if let Some(missed) = refusal {
            // Who asked may have gone.
            drop(reply.send(Err(missed)));
            return;
        }
        let is_busy = self.is_busy();
        self.switch(rate(is_busy));
        if self.sampling.is_none() {
            drop(reply.send(Err(Missed::NotSampling)));
            return;
        }
        let length_ns = u64::try_from(wish.length.as_nanos()).unwrap_or(u64::MAX);
        let window = (wish.length / CAPTURE_WINDOWS).max(Duration::from_secs(1));
        self.capturing = Some(Capturing {
            began: self.at,
            ends_mono_ns: self.at.mono_ns.saturating_add(length_ns),
            window_ns: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).min(WINDOW_NS),
            losses: Losses::default(),
            hz: self.sampling.as_ref().map_or(0, |sampling| sampling.hz().get()),
            wish,
            reply,
        });
    }

    /// Whether the node had next to nothing left, in this window and the one before.
    fn is_busy(&self) -> bool {
        self.ticks
            .0
            .or(self.ticks.1)
            .zip(Ticks::read())
            .is_some_and(|(before, now)| now.is_busy_since(before))
    }

    /// Follows the kill switch, ends a capture that nobody waits for, and brings back a session that has ended.
    fn look(&mut self) {
        if self.capturing.as_ref().is_some_and(|capturing| capturing.reply.is_closed()) {
            self.switch(Hz::STEADY);
            self.capturing = None;
        }
        if is_killed(&self.config.kill_switch) {
            if self.sampling.is_some() {
                info!(file = %self.config.kill_switch.display(), "nobody is sampled while this file is there");
                self.close();
                self.end_sampling();
            }
            return;
        }
        if self.sampling.as_ref().is_some_and(|sampling| sampling.is_stale(&self.processes)) {
            self.close();
            self.end_sampling();
        }
        let now = self.clock.now();
        if self.sampling.is_some() || now.mono_ns < self.retry_mono_ns {
            return;
        }
        self.retry_mono_ns = now.mono_ns.saturating_add(RETRY_NS);
        match Sampling::start(&self.binaries, &self.processes, Hz::STEADY) {
            Ok(sampling) => self.sampling = Some(sampling),
            Err(refusal) => {
                self.ledger.add("agent_profiler_refused_total", refusal.label(), 1);
                // Told once: it is tried again for as long as the agent runs.
                if !std::mem::replace(&mut self.is_refusal_told, true) {
                    warn!(%refusal, cure = refusal.cure(), "nobody is sampled");
                }
            }
        }
        self.at = self.clock.now();
    }

    /// From here on nobody is sampled, and a capture cannot go on.
    fn end_sampling(&mut self) {
        self.sampling = None;
        if let Some(capturing) = self.capturing.take() {
            drop(capturing.reply.send(Err(Missed::Interrupted)));
        }
    }

    /// The window is over, and with it perhaps the capture.
    fn turn(&mut self) {
        let is_last = self
            .capturing
            .as_ref()
            .is_some_and(|capturing| self.clock.now().mono_ns >= capturing.ends_mono_ns);
        if !is_last {
            self.close();
            return;
        }
        self.switch(Hz::STEADY);
        if let Some(capturing) = self.capturing.take() {
            let taken = self.taken(&capturing);
            // Who comes after the agent's end wants these windows most.
            self.ring.flush();
            drop(capturing.reply.send(taken));
        }
    }

    fn taken(&mut self, capturing: &Capturing) -> Result<Taken, Missed> {
        // Only now: a member that was restarted meanwhile has been found again.
        let who = self.processes.of(&capturing.wish.member).ok_or(Missed::NoProcess)?;
        self.ring.taken(&capturing.wish, (capturing.began, capturing.hz), &who, capturing.losses)
    }

    /// Another rate, and a window that ends where it changes.
    fn switch(&mut self, hz: Hz) {
        let Some(sampling) = &mut self.sampling else { return self.close() };
        let old = sampling.hz();
        match sampling.set_rate(hz, &self.binaries) {
            Ok(Some(gathered)) => self.write(gathered, old),
            Ok(None) => self.close(),
            Err(refusal) => {
                // What was sampled meanwhile is of a rate that nobody knows.
                warn!(%refusal, hz = hz.get(), "the rate of sampling could not be changed: it begins anew");
                self.ledger.add("agent_history_lost_total", "rate_unknown", 1);
                self.end_sampling();
                self.at = self.clock.now();
            }
        }
    }

    fn close(&mut self) {
        match &mut self.sampling {
            Some(sampling) => {
                let (hz, gathered) = (sampling.hz(), sampling.gather());
                self.write(gathered, hz);
            }
            // Nobody is sampled, and that is no window.
            None => self.at = self.clock.now(),
        }
    }

    /// Names a window and puts it into the ring.
    fn write(&mut self, gathered: Gathered, hz: Hz) {
        let (began, now) = (self.at, self.clock.now());
        self.at = now;
        let Gathered { mut counted, lost, truncated } = gathered;
        let duration_ns = now.since_ns(began);
        if duration_ns == 0 {
            return;
        }
        let capture = Capture { kind: ProfileKind::Cpu, at: began, duration_ns, period_ns: hz.period_ns() };
        let (stacks, _) = counted.name(&mut self.names, &capture);
        let lost = lost.saturating_add(counted.stacks.overflow());
        let samples: i64 = stacks.samples.iter().map(|sample| sample.count).sum();
        self.ledger.add("agent_profiler_samples_total", "", u64::try_from(samples).unwrap_or(0));
        self.ledger.add("agent_profiler_lost_samples_total", "no_room", lost);
        self.ledger.add("agent_profiler_truncated_stacks_total", "", truncated);
        if let Some(sampling) = &self.sampling {
            sampling.tell(&self.ledger);
        }
        if let Some(capturing) = &mut self.capturing {
            capturing.losses.lost = capturing.losses.lost.saturating_add(lost);
            capturing.losses.truncated = capturing.losses.truncated.saturating_add(truncated);
        } else {
            self.first = self.first.saturating_add(1);
            self.ticks = (self.ticks.1, Ticks::read());
        }
        self.ring.append(&Window { stacks, lost });
    }
}

//! The collector of profiles: one capture at a time, each request answered once, baselines in between.
//!
//! Owns budget, cool-down and kill switch, and what is taken by whom: CPU time by the kernel where it lets us, else by the
//! process itself; heaps and goroutines by the process itself, heaps from its memory where that is allowed. Refuses to
//! queue: a request that finds no place is answered by the caller with [`refused`].

mod config;
pub(crate) mod kill_switch;
mod sampled;
mod shot;
mod take;
mod target;

use std::sync::Arc;
use std::time::Duration;

use model::inbox::Inbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::profile::{CaptureOutcome, CaptureResult};
use model::record::{Fact, Record};
use model::request::{Ask, Request};
use model::time::{Clock, SECOND_NS, Stamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use crate::baselines::Baselines;
use crate::continuous::{Continuous, Processes};
use crate::fetch::FetchError;
use crate::weight;

pub use config::Config;
pub use target::{Identity, Pprof, ProfileTarget};

/// A baseline that failed for a passing reason is tried again after this.
const RETRY_NS: u64 = 60 * SECOND_NS;
/// How often it is looked whether a member without anything to take a baseline of has some now: its process was found.
const LOOK: Duration = Duration::from_secs(10);
/// The budget's window.
const HOUR_NS: u64 = 3_600 * SECOND_NS;

/// The answer to a request that is not taken on, e.g. because the slot is full (`slot_full`).
#[must_use]
pub fn refused(request: &Request, origin: Arc<Origin>, at: Stamp, reason: &str) -> Record {
    ended(request, origin, at, CaptureOutcome::Refused { reason: reason.to_owned() })
}

fn ended(request: &Request, origin: Arc<Origin>, at: Stamp, outcome: CaptureOutcome) -> Record {
    let Ask::Capture { target, .. } = &request.ask;
    let result = CaptureResult { request: request.id, target: target.clone(), outcome };
    Record { at, origin, fact: Fact::Capture(result) }
}

/// The collector task.
#[derive(Debug)]
pub struct Capturer {
    targets: Vec<Planned>,
    sampled: Option<Continuous>,
    processes: Processes,
    config: Config,
    clock: Clock,
    ledger: Ledger,
    baselines: Baselines,
    /// When captures of the last hour began; at most [`Config::captures_per_hour`].
    spent: Vec<Stamp>,
}

/// A target and what is due for it.
#[derive(Debug)]
struct Planned {
    target: ProfileTarget,
    baseline_due_ns: u64,
    last_capture: Option<Stamp>,
    /// The last failure told to the log: each is told once, not every ten minutes.
    told: Option<&'static str>,
}

/// What ends a wait.
enum Event {
    Stop,
    Asked(Request),
    Marked,
    BaselineDue(usize),
    Look,
}

impl Capturer {
    /// A collector for these targets; the first baselines are due at once.
    #[must_use]
    pub fn new(targets: Vec<ProfileTarget>, config: Config, clock: Clock, ledger: Ledger) -> Capturer {
        let now = clock.now().mono_ns;
        let planned = |target| Planned { target, baseline_due_ns: now, last_capture: None, told: None };
        let targets = targets.into_iter().map(planned).collect();
        let baselines = Baselines::default();
        let (sampled, processes, spent) = (None, Processes::default(), Vec::new());
        Capturer { targets, sampled, processes, config, clock, ledger, baselines, spent }
    }

    /// Takes CPU time from the kernel's samples.
    #[must_use]
    pub fn sampling(self, sampled: Continuous) -> Capturer {
        Capturer { sampled: Some(sampled), ..self }
    }

    /// Knows whose memory is whose.
    #[must_use]
    pub fn knowing(self, processes: Processes) -> Capturer {
        Capturer { processes, ..self }
    }

    /// Runs until cancelled or until nobody can ask any more. Each request it received ends in exactly one record.
    ///
    /// `marks` holds the latest rollout marker. A baseline that runs when a request comes is abandoned: it would hold
    /// the very change, and Go allows one CPU profile at a time.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut marks: watch::Receiver<Option<Stamp>>,
        inbox: Inbox,
        cancel: CancellationToken,
    ) {
        self.marked(*marks.borrow_and_update());
        let mut asked = None;
        loop {
            let event = match asked.take() {
                Some(request) => Event::Asked(request),
                None => self.wait(&mut requests, &mut marks, &cancel).await,
            };
            match event {
                Event::Stop => break,
                Event::Marked => self.marked(*marks.borrow_and_update()),
                Event::Look => {}
                Event::BaselineDue(at) => {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => break,
                        request = requests.recv() => match request {
                            Some(request) => {
                                self.ledger.add("agent_profile_baselines_total", "abandoned", 1);
                                asked = Some(request);
                            }
                            None => break,
                        },
                        () = self.baseline(at) => {}
                    }
                }
                Event::Asked(request) => {
                    let Ask::Capture { target: member, .. } = &request.ask;
                    let span = info_span!("capture", %member, request = request.id);
                    let record = self.answer(&request, &cancel).instrument(span).await;
                    send(&inbox, record).await;
                }
            }
        }
        requests.close();
        while let Some(request) = requests.recv().await {
            let record = self.end(&request, CaptureOutcome::Refused { reason: "shutdown".to_owned() });
            send(&inbox, record).await;
        }
        if let Some(sampled) = self.sampled {
            sampled.stop().await;
        }
    }

    async fn wait(
        &self,
        requests: &mut mpsc::Receiver<Request>,
        marks: &mut watch::Receiver<Option<Stamp>>,
        cancel: &CancellationToken,
    ) -> Event {
        let now = self.clock.now().mono_ns;
        let planned =
            self.targets.iter().enumerate().filter(|(_, planned)| self.has_baseline(&planned.target));
        let next = planned.min_by_key(|(_, planned)| planned.baseline_due_ns);
        let due = async {
            match next {
                Some((at, planned)) => {
                    tokio::time::sleep(Duration::from_nanos(planned.baseline_due_ns.saturating_sub(now)))
                        .await;
                    at
                }
                None => std::future::pending().await,
            }
        };
        let marked = async {
            if marks.changed().await.is_err() {
                // Nobody sets markers any more: that is no event.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Event::Stop,
            request = requests.recv() => request.map_or(Event::Stop, Event::Asked),
            () = marked => Event::Marked,
            at = due => Event::BaselineDue(at),
            () = tokio::time::sleep(LOOK) => Event::Look,
        }
    }

    /// A new marker: the last baseline before it is pinned, and a new one is due when the rollout has settled.
    fn marked(&mut self, mark: Option<Stamp>) {
        let Some(mark) = mark else { return };
        self.baselines.mark(mark);
        let settled = mark.plus_ns(nanoseconds(self.config.after_marker)).mono_ns;
        let now = self.clock.now().mono_ns;
        for planned in &mut self.targets {
            // Never before the marker's time is up, and a refresh that is due sooner after that stays.
            if planned.baseline_due_ns > settled || planned.baseline_due_ns > now {
                planned.baseline_due_ns = settled;
            }
        }
    }

    /// Takes a baseline; on any end the next one is planned first, so that being abandoned cannot make it spin.
    async fn baseline(&mut self, at: usize) {
        let now = self.clock.now();
        let refresh = nanoseconds(self.config.refresh);
        let retry = now.mono_ns.saturating_add(refresh.min(RETRY_NS));
        let killed = self.killed().await;
        let Some(planned) = self.targets.get_mut(at) else { return };
        planned.baseline_due_ns = retry;
        if killed {
            self.ledger.add("agent_profile_baselines_total", "kill_switch", 1);
            return;
        }
        let Some(planned) = self.targets.get(at) else { return };
        let shot = tokio::select! {
            shot = self.shoot(&planned.target) => shot,
            () = kill_switch::appears(&self.config.kill_switch) => {
                self.ledger.add("agent_profile_baselines_total", "kill_switch", 1);
                return;
            }
        };
        let outcome = shot.and_then(|shot| {
            shot::check(&shot, &self.ledger)?;
            Ok(shot)
        });
        let Some(planned) = self.targets.get_mut(at) else { return };
        match outcome {
            Ok(shot) => {
                planned.baseline_due_ns = shot.ended.mono_ns.saturating_add(refresh);
                planned.told = None;
                let kept = self.baselines.keep(&planned.target.name, shot);
                self.ledger.add("agent_profile_baselines_total", if kept { "taken" } else { "too_large" }, 1);
                self.ledger.set("agent_profile_baseline_bytes", "", count(self.baselines.bytes()));
            }
            Err(error) => {
                let reason = error.reason();
                if reason == FetchError::NoEndpoint.reason() {
                    planned.baseline_due_ns = now.mono_ns.saturating_add(refresh);
                }
                self.ledger.add("agent_profile_baselines_total", reason, 1);
                if planned.told.replace(reason) != Some(reason) {
                    warn!(%error, target_name = planned.target.name, "no baseline profile");
                }
            }
        }
    }

    /// Captures, or says why not.
    async fn answer(&mut self, request: &Request, cancel: &CancellationToken) -> Record {
        let asked = self.clock.now();
        let Ask::Capture { target, before_mono_ns, .. } = &request.ask;
        let at = match self.admit(target, asked).await {
            Ok(at) => at,
            Err(reason) => return self.end(request, CaptureOutcome::Refused { reason: reason.to_owned() }),
        };
        let Some(planned) = self.targets.get(at) else {
            return self.end(request, CaptureOutcome::Refused { reason: "unknown_target".to_owned() });
        };
        let interrupted =
            |reason: &str| CaptureOutcome::Failed { reason: reason.to_owned(), detail: String::new() };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => interrupted("shutdown"),
            () = kill_switch::appears(&self.config.kill_switch) => interrupted("kill_switch"),
            outcome = self.take(&planned.target, asked, *before_mono_ns) => outcome,
        };
        if cost_something(&outcome) {
            self.spent.push(asked);
            if let Some(planned) = self.targets.get_mut(at) {
                planned.last_capture = Some(asked);
            }
        }
        self.end(request, outcome)
    }

    /// The target's place, when nothing speaks against a capture now.
    async fn admit(&mut self, name: &str, now: Stamp) -> Result<usize, &'static str> {
        if self.killed().await {
            return Err("kill_switch");
        }
        let at =
            self.targets.iter().position(|planned| planned.target.name == name).ok_or("unknown_target")?;
        let cool_down = nanoseconds(self.config.cool_down);
        let last = self.targets.get(at).and_then(|planned| planned.last_capture);
        if last.is_some_and(|last| now.since_ns(last) < cool_down) {
            return Err("cool_down");
        }
        self.spent.retain(|begun| now.since_ns(*begun) < HOUR_NS);
        if self.spent.len() >= self.config.captures_per_hour { Err("budget") } else { Ok(at) }
    }

    fn end(&self, request: &Request, outcome: CaptureOutcome) -> Record {
        let Ask::Capture { target, .. } = &request.ask;
        let word = match &outcome {
            CaptureOutcome::Done { .. } => "done",
            CaptureOutcome::Refused { .. } => "refused",
            CaptureOutcome::Failed { .. } => "failed",
        };
        self.ledger.add("agent_profile_captures_total", word, 1);
        info!(request = request.id, target_name = target, outcome = word, "capture ended");
        let known = self.targets.iter().find(|planned| planned.target.name == *target);
        let origin = known.map_or_else(Arc::default, |planned| (planned.target.identity)());
        ended(request, origin, self.clock.now(), outcome)
    }

    async fn killed(&self) -> bool {
        kill_switch::present(&self.config.kill_switch).await
    }
}

/// Whether the target was made to work: a capture that did not begin costs neither budget nor cool-down.
fn cost_something(outcome: &CaptureOutcome) -> bool {
    match outcome {
        CaptureOutcome::Done { .. } => true,
        CaptureOutcome::Refused { .. } => false,
        CaptureOutcome::Failed { reason, .. } => !matches!(
            reason.as_str(),
            "another_profile_running" | "not_permitted" | "unreachable" | "shutdown"
        ),
    }
}

/// Waits for a place: a request must end in its record. Only an engine that has gone gets none.
async fn send(inbox: &Inbox, record: Record) {
    if let Ok(place) = inbox.wait(weight::of_record(&record)).await {
        place.send(record);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;

//! Measures latency as a client sees it, open loop, one connection a member. Owns when a probe is due and how it ended;
//! refuses to judge: a failed probe is a record like any other.
//!
//! Load: with the shipped rates a member gets 1.1 requests/s, with writes allowed 1.95/s (0.5 + 0.5 + 0.1 reads,
//! 3 × 0.25 for the lease cycle, 0.1 puts): never above [`REQUESTS_PER_S_MAX`]. It stays so over the whole fleet because
//! an agent probes only members of its own node (`Target::local`), so each member has one prober. A watcher adds one
//! open stream a member and an event for each put. Faster rates are a [`Boost`], for the members that this agent probes: asked
//! for at the start or, over [`Rates`], by a person. It lifts the limit up to [`RATE_HZ_MAX`] a kind, and ends by itself
//! after [`BOOST_MAX`] at the latest.
//!
//! Latency counts from the due time. The timer's grain is a millisecond: a probe that starts within [`GRAIN`] of its due
//! time counts from its start, a later start counts in full. If the agent itself slept past a due time by more than
//! the deadline, nothing was asked and nothing is known of etcd: the probe is skipped and counted as `agent_late`.

use std::sync::Arc;
use std::time::Duration;

use model::inbox::{Inbox, NoPlace};
use model::ledger::Ledger;
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::record::{Fact, Record};
use model::time::{Clock, Stamp};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::etcd::Connection;
use crate::etcd::outcome::{self, Admission};
use crate::etcd::session::Session;
use crate::target::{Identity, Target};

mod call;
mod config;
mod puts;
mod rates;
mod schedule;
mod watch;

pub use config::{
    BOOST_FACTOR_MAX, BOOST_MAX, Boost, Config, ConfigError, RATE_HZ_MAX, REQUESTS_PER_S_MAX, Writes,
};
pub use puts::PutClock;
use rates::Pace;
pub use rates::Rates;
use schedule::{Due, Lane, Schedule};

/// Probes of one kind in flight: 20 Hz times a deadline of three seconds. Above it, the next would only queue.
const IN_FLIGHT_MAX: usize = 64;

/// The timer's grain (1 ms) and one scheduling round.
const GRAIN: Duration = Duration::from_millis(2);

/// Room that one probe's record takes in the inbox.
const RECORD_BYTES: usize = 256;

/// Probes one member until it is told to stop.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    name: String,
    /// One for the probes and the watcher: both see the member as one client does.
    connection: Arc<Mutex<Connection>>,
    admission: Admission,
    session: Session,
    has_url: bool,
    puts: PutClock,
    rates: Rates,
    reach: Reach,
}

/// What each probe task takes along.
#[derive(Clone, Debug)]
struct Reach {
    identity: Identity,
    clock: Clock,
    ledger: Ledger,
    deadline: Duration,
    read_key: Arc<str>,
    write_key: Arc<str>,
}

impl Prober {
    /// A prober of one member. A target without a client URL is not probed: [`Prober::run`] then only waits for its end.
    #[must_use]
    pub fn new(target: &Target, config: Config, clock: Clock, ledger: Ledger) -> Prober {
        let node = target.identity.origin().node.clone();
        let own = |key: &str| Arc::from(key.replace("<node>", &node));
        let reach = Reach {
            identity: target.identity.clone(),
            clock,
            ledger,
            deadline: config.deadline,
            read_key: own(&config.read_key),
            write_key: own(config.writes.as_ref().map_or("", |writes| writes.key.as_str())),
        };
        let connection = Connection::new(target);
        Prober {
            config,
            name: target.name.clone(),
            admission: connection.admission(),
            session: connection.session(),
            has_url: target.client_url.is_some(),
            connection: Arc::new(Mutex::new(connection)),
            puts: PutClock::default(),
            rates: Rates::default(),
            reach,
        }
    }

    /// Shares the times of puts with the agent's other probers, so that a put through one member is awaited at all.
    #[must_use]
    pub fn sharing(mut self, puts: PutClock) -> Prober {
        self.puts = puts;
        self
    }

    /// Goes faster while somebody wants it to.
    #[must_use]
    pub fn following(mut self, rates: Rates) -> Prober {
        self.rates = rates;
        self
    }

    /// Probes until `cancel`, or until the engine has gone.
    pub async fn run(self, inbox: Inbox, cancel: CancellationToken) {
        if !self.has_url {
            cancel.cancelled().await;
            return;
        }
        let watches = self.config.writes.as_ref().is_some_and(|writes| writes.put_hz > 0.0);
        let watcher = watches.then(|| watch::Watcher::new(&self));
        let stop = cancel.child_token();
        let watching = async {
            if let Some(watcher) = watcher {
                watcher.run(&inbox, &stop).await;
            }
        };
        let (session, connection) = (self.session.clone(), Arc::clone(&self.connection));
        let keeping = session.keep(&connection, &stop);
        let probing = async {
            self.probe(&inbox, &stop).await;
            stop.cancel();
        };
        tokio::join!(probing, watching, keeping);
    }

    async fn probe(mut self, inbox: &Inbox, cancel: &CancellationToken) {
        let start = Instant::now();
        let start_mono = self.reach.clock.now().mono_ns;
        let mut asked = self.rates.follow();
        let mut pace = Pace::at_start(self.config.boost, start);
        let mut schedule = Schedule::new(&self.name, &self.config.lanes(pace.factor), Duration::ZERO);
        let mut in_flight = InFlight::default();
        loop {
            if let Some(next) = pace.next(Instant::now()) {
                (pace, schedule) = self.at_pace(next, start.elapsed());
            }
            let next = schedule.next().unwrap_or(BOOST_MAX);
            tokio::select! {
                () = cancel.cancelled() => return,
                // Its sender is ours as well: it never ends.
                Ok(()) = asked.changed() => {
                    let wish = Pace::asked(*asked.borrow_and_update());
                    (pace, schedule) = self.at_pace(wish, start.elapsed());
                }
                () = sleep_until(start + next) => {
                    let (due, late) = schedule.pop(start.elapsed(), self.reach.deadline);
                    self.reach.ledger.add("agent_probe_skips_total", "agent_late", late);
                    for Due { lane, at } in due {
                        let due = self.reach.due_stamp(start_mono, at);
                        match self.start(lane, due, inbox, &mut in_flight).await {
                            Ok(()) => {}
                            Err(NoPlace::Full) => self.reach.ledger.add("agent_probe_skips_total", "inbox_full", 1),
                            Err(NoPlace::Closed) => return,
                        }
                    }
                }
                Some(ended) = in_flight.tasks.join_next(), if !in_flight.tasks.is_empty() => {
                    if !in_flight.ended(ended.ok()) {
                        self.reach.ledger.add("agent_probe_skips_total", "panicked", 1);
                    }
                }
            }
        }
    }

    /// Another pace from `elapsed` after the start on.
    fn at_pace(&self, pace: Pace, elapsed: Duration) -> (Pace, Schedule) {
        tracing::info!(member = %self.name, factor = pace.factor, "probing at another rate");
        (pace, Schedule::new(&self.name, &self.config.lanes(pace.factor), elapsed))
    }

    /// Starts one probe at its due time.
    async fn start(
        &mut self,
        lane: Lane,
        due: Stamp,
        inbox: &Inbox,
        in_flight: &mut InFlight,
    ) -> Result<(), NoPlace> {
        if self.session.is_logging_in() {
            // For at most the time of one login: its latency is that of our own token, not of the probe.
            self.reach.ledger.add("agent_probe_skips_total", "logging_in", 1);
            return Ok(());
        }
        let place = inbox.reserve(RECORD_BYTES)?;
        if in_flight.is_full(lane) {
            // It would queue behind so many unanswered ones: no answer by the deadline, said at once.
            self.reach.ledger.add("agent_probe_skips_total", "in_flight", 1);
            place.send(self.reach.record(lane.kind(), due, self.reach.deadline, ProbeOutcome::TimedOut));
            return Ok(());
        }
        let client = self.connection.lock().await.client().await;
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                self.reach.ledger.add("agent_etcd_connect_errors_total", error.reason(), 1);
                let outcome = outcome::of_connect_error(&error);
                place.send(self.reach.record(lane.kind(), due, self.reach.since(due), outcome));
                return Ok(());
            }
        };
        let call = call::Call {
            client,
            admission: self.admission.clone(),
            reach: self.reach.clone(),
            puts: self.puts.clone(),
            inbox: inbox.clone(),
        };
        in_flight.start(lane, call.run(lane, due, place));
        Ok(())
    }
}

/// The probes that wait for an answer: tasks of one prober, bounded by lane; they end with it.
#[derive(Debug, Default)]
struct InFlight {
    tasks: JoinSet<Lane>,
    open: [usize; Lane::COUNT],
}

impl InFlight {
    fn is_full(&self, lane: Lane) -> bool {
        self.open.get(lane.index()).is_some_and(|open| *open >= IN_FLIGHT_MAX)
    }

    fn start(&mut self, lane: Lane, call: impl Future<Output = ()> + Send + 'static) {
        if let Some(open) = self.open.get_mut(lane.index()) {
            *open += 1;
        }
        self.tasks.spawn(async move {
            call.await;
            lane
        });
    }

    /// Frees the place of a task; one that panicked names no lane and keeps its place: false.
    fn ended(&mut self, lane: Option<Lane>) -> bool {
        if let Some(open) = lane.and_then(|lane| self.open.get_mut(lane.index())) {
            *open = open.saturating_sub(1);
        }
        lane.is_some()
    }
}

impl Reach {
    /// The stamp of a due time, or of now where the timer's grain alone lies between them.
    fn due_stamp(&self, start_mono_ns: u64, at: Duration) -> Stamp {
        let now = self.clock.now();
        let due = start_mono_ns.saturating_add(nanos(at));
        if now.mono_ns.saturating_sub(due) <= nanos(GRAIN) {
            return now;
        }
        Stamp { mono_ns: due, wall_ns: now.wall_at(due) }
    }

    fn since(&self, due: Stamp) -> Duration {
        Duration::from_nanos(self.clock.now().since_ns(due))
    }

    fn record(&self, kind: ProbeKind, due: Stamp, latency: Duration, outcome: ProbeOutcome) -> Record {
        self.ledger.add("agent_probes_total", outcome::label(&outcome), 1);
        let probe = Probe { kind, latency_ns: nanos(latency), outcome };
        Record { at: due, origin: self.identity.origin(), fact: Fact::Probe(probe) }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

//! Measures latency as a client sees it, open loop, one connection a member. Owns when a probe is due and how it ended;
//! refuses to judge: a failed probe is a record like any other.
//!
//! Load: with the shipped rates a member gets 1.1 requests/s, with writes allowed 1.95/s (0.5 + 0.5 + 0.1 reads,
//! 3 × 0.25 for the lease cycle, 0.1 puts): never above [`REQUESTS_PER_S_MAX`]. It stays so over the whole fleet because
//! an agent probes only members of its own node (`Target::local`), so each member has one prober. A watcher adds one
//! open stream a member and an event for each put. Faster rates are a [`Boost`], which ends by itself.
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
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::etcd::Connection;
use crate::etcd::outcome::{self, Admission};
use crate::target::{Identity, Target};

mod call;
mod puts;
mod schedule;
mod watch;

pub use puts::PutClock;
use schedule::{Due, Lane, Schedule};

/// The shipped rates never ask a member more often than this; a small cluster serves 200 requests/s, of which this is 1 %.
pub const REQUESTS_PER_S_MAX: f64 = 2.0;

/// A boost ends after this at the latest: guard rates are for minutes, not for days.
pub const BOOST_MAX: Duration = Duration::from_secs(15 * 60);

/// The fastest rate of one kind, in a boost too: 20 Hz answers within 50 ms what happened, more is a load test.
pub const RATE_HZ_MAX: f64 = 20.0;

/// Probes of one kind in flight: 20 Hz times a deadline of three seconds. Above it, the next would only queue.
const IN_FLIGHT_MAX: usize = 64;

/// The timer's grain (1 ms) and one scheduling round.
const GRAIN: Duration = Duration::from_millis(2);

/// Room that one probe's record takes in the inbox.
const RECORD_BYTES: usize = 256;

/// What is asked and how often. The default only reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// No answer by then is [`ProbeOutcome::TimedOut`].
    pub deadline: Duration,
    /// Serializable reads a second; 0 is off.
    pub serializable_read_hz: f64,
    /// Linearizable reads a second; 0 is off.
    pub linearizable_read_hz: f64,
    /// Status calls a second; 0 is off.
    pub status_hz: f64,
    /// The key that reads ask for; it need not exist. `<node>` stands for the node's name.
    pub read_key: String,
    /// Writes, only where the configuration allows them.
    pub writes: Option<Writes>,
    /// Faster rates for a while, from the start of the prober on.
    pub boost: Option<Boost>,
}

/// Writes that a configuration allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Writes {
    /// LeaseGrant, one KeepAlive and LeaseRevoke so often a second; 0 is off.
    pub lease_hz: f64,
    /// Puts a second on the key; 0 is off, and with it the watcher.
    pub put_hz: f64,
    /// The agent's own key; it stays after the agent has gone. `<node>` stands for the node's name.
    pub key: String,
}

/// Faster rates for a limited time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Boost {
    /// All rates times this.
    pub factor: f64,
    /// From the start on; at most [`BOOST_MAX`].
    pub lasts: Duration,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum ConfigError {
    /// A rate is negative, not a number or above [`RATE_HZ_MAX`].
    #[error("a rate is not between 0 and {RATE_HZ_MAX} per second")]
    Rate,
    /// Together more than [`REQUESTS_PER_S_MAX`].
    #[error("{0} requests/s a member; at most {REQUESTS_PER_S_MAX}, or a boost with a time limit")]
    TooMany(f64),
    /// The deadline is outside 10 ms to 3 s.
    #[error("the deadline is not between 10 ms and 3 s")]
    Deadline,
    /// The boost is longer than [`BOOST_MAX`] or not a factor between 1 and 40.
    #[error("a boost lasts at most 15 minutes, with a factor between 1 and 40")]
    Boost,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            deadline: Duration::from_secs(1),
            serializable_read_hz: 0.5,
            linearizable_read_hz: 0.5,
            status_hz: 0.1,
            read_key: "/backburn/probe/<node>".to_owned(),
            writes: None,
            boost: None,
        }
    }
}

impl Default for Writes {
    fn default() -> Writes {
        Writes { lease_hz: 0.25, put_hz: 0.1, key: "/backburn/probe/<node>".to_owned() }
    }
}

impl Config {
    /// Requests a second that this asks of each member, without a boost.
    #[must_use]
    pub fn requests_per_s(&self) -> f64 {
        let writes = self.writes.as_ref().map_or(0.0, |writes| 3.0 * writes.lease_hz + writes.put_hz);
        self.serializable_read_hz + self.linearizable_read_hz + self.status_hz + writes
    }

    /// Whether a member can bear it.
    ///
    /// # Errors
    /// The first thing that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let writes = self.writes.clone().unwrap_or(Writes { lease_hz: 0.0, put_hz: 0.0, key: String::new() });
        let rates = [
            self.serializable_read_hz,
            self.linearizable_read_hz,
            self.status_hz,
            writes.lease_hz,
            writes.put_hz,
        ];
        if !rates.iter().all(|hz| (0.0..=RATE_HZ_MAX).contains(hz)) {
            return Err(ConfigError::Rate);
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3)).contains(&self.deadline) {
            return Err(ConfigError::Deadline);
        }
        if self.requests_per_s() > REQUESTS_PER_S_MAX + 1e-9 {
            return Err(ConfigError::TooMany(self.requests_per_s()));
        }
        match self.boost {
            Some(boost) if boost.lasts > BOOST_MAX || !(1.0..=40.0).contains(&boost.factor) => {
                Err(ConfigError::Boost)
            }
            _ => Ok(()),
        }
    }

    fn lanes(&self, factor: f64) -> [(Lane, f64); 5] {
        let (lease_hz, put_hz) =
            self.writes.as_ref().map_or((0.0, 0.0), |writes| (writes.lease_hz, writes.put_hz));
        [
            (Lane::SerializableRead, self.serializable_read_hz),
            (Lane::LinearizableRead, self.linearizable_read_hz),
            (Lane::Status, self.status_hz),
            (Lane::LeaseCycle, lease_hz),
            (Lane::Put, put_hz),
        ]
        .map(|(lane, hz)| (lane, (hz * factor).min(RATE_HZ_MAX)))
    }
}

/// Probes one member until it is told to stop.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    name: String,
    /// One for the probes and the watcher: both see the member as one client does.
    connection: Arc<Mutex<Connection>>,
    admission: Admission,
    has_url: bool,
    puts: PutClock,
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
            has_url: target.client_url.is_some(),
            connection: Arc::new(Mutex::new(connection)),
            puts: PutClock::default(),
            reach,
        }
    }

    /// Shares the times of puts with the agent's other probers, so that a put through one member is awaited at all.
    #[must_use]
    pub fn sharing(mut self, puts: PutClock) -> Prober {
        self.puts = puts;
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
        let probing = async {
            self.probe(&inbox, &stop).await;
            stop.cancel();
        };
        tokio::join!(probing, watching);
    }

    async fn probe(mut self, inbox: &Inbox, cancel: &CancellationToken) {
        let start = Instant::now();
        let start_mono = self.reach.clock.now().mono_ns;
        let boost = self.config.boost.unwrap_or(Boost { factor: 1.0, lasts: Duration::ZERO });
        let boost_end = boost.lasts.min(BOOST_MAX);
        let mut boosted = boost_end > Duration::ZERO;
        let factor = if boosted { boost.factor } else { 1.0 };
        let mut schedule = Schedule::new(&self.name, &self.config.lanes(factor), Duration::ZERO);
        let mut in_flight = InFlight::default();
        loop {
            if boosted && start.elapsed() >= boost_end {
                boosted = false;
                schedule = Schedule::new(&self.name, &self.config.lanes(1.0), start.elapsed());
            }
            let next = schedule.next().unwrap_or(BOOST_MAX);
            tokio::select! {
                () = cancel.cancelled() => return,
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

    /// Starts one probe at its due time.
    async fn start(
        &mut self,
        lane: Lane,
        due: Stamp,
        inbox: &Inbox,
        in_flight: &mut InFlight,
    ) -> Result<(), NoPlace> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_rates_stay_below_two_requests_a_second() {
        let reads = Config::default();
        assert!((reads.requests_per_s() - 1.1).abs() < 1e-9, "{}", reads.requests_per_s());
        let writes = Config { writes: Some(Writes::default()), ..Config::default() };
        assert!((writes.requests_per_s() - 1.95).abs() < 1e-9, "{}", writes.requests_per_s());
        assert_eq!(reads.check(), Ok(()));
        assert_eq!(writes.check(), Ok(()));
    }

    #[test]
    fn rates_out_of_bounds_are_refused() {
        let check = |config: Config, expected: ConfigError| assert_eq!(config.check(), Err(expected));
        let base = Config::default;
        check(Config { status_hz: -0.1, ..base() }, ConfigError::Rate);
        check(Config { status_hz: f64::NAN, ..base() }, ConfigError::Rate);
        check(Config { serializable_read_hz: 3.0, ..base() }, ConfigError::TooMany(3.6));
        check(Config { deadline: Duration::from_secs(60), ..base() }, ConfigError::Deadline);
        let boost = Boost { factor: 10.0, lasts: Duration::from_secs(3_600) };
        check(Config { boost: Some(boost), ..base() }, ConfigError::Boost);
    }
}

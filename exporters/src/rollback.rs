//! Rollback signals: journal first, then send until acknowledged or expired.
//!
//! Owns the way from a [`Decision`] to the receivers: a webhook, a command, a file. A decision `rollback` that is no dry
//! run makes **one** signal for each (target, revision, epoch); evidence and intent are on the disk before the first byte
//! leaves; what was not acknowledged before a crash is sent again with the same id, what was acknowledged never. When the
//! target passes again, each receiver that got (or may have got) the rollback gets one `resolved`; a profile diff that
//! comes later follows as `evidence`. Each end of an effect is one [`model::verdict::Done`] record.
//!
//! Refuses to send anything in a dry run (journal, evidence file and log say what would have left), to send after
//! `valid_until` or once the target passes, to send what it could not journal, and to decide anything itself.

mod address;
mod book;
mod command;
mod desk;
mod event;
mod file;
mod journal;
pub mod signature;
mod sys;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::finding::Finding;
use model::inbox::WeakInbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::time::{Clock, SECOND_NS};
use model::verdict::{Decision, SignalEvent};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time;

pub use self::address::AddressError;
pub use self::command::CommandError;
use self::desk::Desk;
pub use self::journal::JournalError;
use self::signature::Secret;
use self::webhook::Webhook;
pub use self::webhook::WebhookError;

/// Receivers: a handful of deploy tools, never a mailing list.
const RECEIVERS_MAX: usize = 16;

/// Attempts under way at one receiver: a slow one holds up itself alone, and not with more than this.
const IN_FLIGHT_MAX: usize = 4;

/// Waits after the first, second, … attempt; the last one repeats. A rollback is worth two minutes of haste.
const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];

/// A wait is up to this share of itself (in 1/256) longer, so that three agents do not knock in step.
const JITTER_256: u32 = 51;

/// House-keeping (expiry, closing, telling the engine again) at least this often.
const TICK: Duration = Duration::from_secs(1);

/// Shortest and longest time limit of one attempt.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// See [`TIMEOUT_MIN`]; Standard Webhooks asks for 15 to 30 s.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Checked by [`Rollback::new`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Journal and evidence; made with mode 0700 where it is missing.
    pub journal_dir: PathBuf,
    /// Who is told.
    pub receivers: Vec<Receiver>,
}

/// Who is told, and how.
#[derive(Clone, Debug)]
pub enum Receiver {
    /// A signed POST.
    Webhook {
        /// Unique; the label in journal, log and `Done`.
        name: String,
        /// `https`, or `http` on this host.
        url: String,
        /// Plain `http` to other hosts too: the signature holds, the evidence is readable on the way.
        allow_http: bool,
        /// Signed with each; several while they rotate. At least one.
        secrets: Vec<Secret>,
        /// Of one attempt.
        timeout: Duration,
        /// Targets it takes; empty: all.
        targets: Vec<String>,
    },
    /// A program with the event on its stdin; see [`CommandError`] for what is refused.
    Command {
        /// Unique.
        name: String,
        /// Program and arguments; no shell.
        argv: Vec<String>,
        /// Of one run; then its process group is killed.
        timeout: Duration,
        /// Targets it takes; empty: all.
        targets: Vec<String>,
    },
    /// JSON lines in a file, 0600, each event once.
    File {
        /// Unique.
        name: String,
        /// The file; its folder must exist.
        path: PathBuf,
        /// Targets it takes; empty: all.
        targets: Vec<String>,
    },
}

impl Receiver {
    /// The unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Receiver::Webhook { name, .. } | Receiver::Command { name, .. } | Receiver::File { name, .. } => {
                name
            }
        }
    }

    fn takes(&self, target: &str) -> bool {
        let (Receiver::Webhook { targets, .. }
        | Receiver::Command { targets, .. }
        | Receiver::File { targets, .. }) = self;
        targets.is_empty() || targets.iter().any(|known| known == target)
    }
}

/// Why signals cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal.
    #[error("open the rollback journal: {0}")]
    Journal(#[from] JournalError),
    /// Two receivers share a name, or one has none.
    #[error("receiver name {0:?} is empty or used twice")]
    Name(String),
    /// More than sixteen.
    #[error("{0} receivers are more than sixteen")]
    TooMany(usize),
    /// A webhook.
    #[error("receiver {0}: {1}")]
    Webhook(String, #[source] WebhookError),
    /// A command.
    #[error("receiver {0}: {1}")]
    Command(String, #[source] CommandError),
    /// A time limit out of bounds.
    #[error("receiver {0}: a timeout is between 100 ms and 60 s")]
    Timeout(String),
}

/// The state of every target, by target.
pub type Decisions = Arc<BTreeMap<String, Arc<Decision>>>;

/// What [`Rollback::run`] is connected to.
#[derive(Debug)]
pub struct Wires {
    /// States by target; closing it begins the drain.
    pub decisions: watch::Receiver<Decisions>,
    /// Findings; profile diffs among them become evidence, the rest is ignored.
    pub findings: mpsc::Receiver<Arc<Finding>>,
    /// Where the ends of effects are told.
    pub inbox: WeakInbox,
    /// Cluster and node: the `source` of events.
    pub origin: Arc<Origin>,
    /// How long deliveries go on after `decisions` closed; what is left goes on at the next start.
    pub drain: Duration,
}

/// What one attempt led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attempted {
    /// The receiver took it.
    Taken {
        /// It says that it acted.
        confirmed: bool,
        /// For people.
        saw: String,
    },
    /// Not taken; it will be tried again.
    Later {
        /// For people.
        saw: String,
        /// Whether a byte of it may have arrived.
        reached: bool,
        /// The wait that the receiver asks for.
        wait: Option<Duration>,
    },
    /// Refused for good.
    Refused(String),
}

/// One event for one receiver: the unit of delivery.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Leg {
    /// Rollbacks go first.
    pub(crate) kind: SignalEvent,
    /// The signal's id.
    pub(crate) signal: String,
    /// The event's id.
    pub(crate) event: String,
    /// The receiver's name.
    pub(crate) receiver: String,
}

#[derive(Clone, Debug)]
enum Way {
    Webhook(Webhook),
    Command(Vec<String>),
    File(PathBuf),
}

#[derive(Clone, Debug)]
struct Door {
    way: Way,
    timeout: Duration,
}

/// The sink of decisions; see the module.
#[derive(Debug)]
pub struct Rollback {
    desk: Desk,
    doors: BTreeMap<String, Door>,
    waits: [Duration; 5],
}

impl Rollback {
    /// Checks the receivers, locks the folder and recovers the journal.
    ///
    /// # Errors
    /// [`StartError`]: the first thing that is wrong.
    pub fn new(config: Config, clock: Clock, ledger: Ledger) -> Result<Rollback, StartError> {
        if config.receivers.len() > RECEIVERS_MAX {
            return Err(StartError::TooMany(config.receivers.len()));
        }
        let mut doors = BTreeMap::new();
        for receiver in &config.receivers {
            let name = receiver.name().to_owned();
            if name.is_empty() || doors.insert(name.clone(), door(receiver)?).is_some() {
                return Err(StartError::Name(name));
            }
        }
        let desk = Desk::open(&config.journal_dir, config.receivers, clock, ledger)?;
        Ok(Rollback { desk, doors, waits: WAITS })
    }

    /// Sends until `decisions` closes, then for as long as `drain` allows.
    pub async fn run(self, wires: Wires) {
        let Wires { mut decisions, mut findings, inbox, origin, drain } = wires;
        let mut courier = Courier::new(self, inbox, origin);
        let mut latest = decisions.borrow_and_update().clone();
        let (mut deciding, mut finding, mut stop_at) = (true, true, None);
        loop {
            courier.desk.decided(&latest).await;
            courier.turn().await;
            if stop_at.is_some_and(|stop_at| courier.is_done_until(stop_at)) {
                break;
            }
            let rest = courier.rest();
            tokio::select! {
                changed = decisions.changed(), if deciding => match changed {
                    Ok(()) => latest = decisions.borrow_and_update().clone(),
                    Err(_closed) => {
                        deciding = false;
                        stop_at = Some(courier.clock_ns().saturating_add(nanos(drain)));
                    }
                },
                found = findings.recv(), if finding => match found {
                    Some(found) => courier.desk.found(&found).await,
                    None => finding = false,
                },
                Some(ended) = courier.under_way.join_next_with_id() => courier.ended(ended).await,
                () = time::sleep(rest) => {}
            }
        }
    }
}

fn door(receiver: &Receiver) -> Result<Door, StartError> {
    let name = || receiver.name().to_owned();
    let (way, timeout) = match receiver {
        Receiver::Webhook { url, allow_http, secrets, timeout, .. } => {
            let webhook = Webhook::new(url, *allow_http, secrets, *timeout)
                .map_err(|error| StartError::Webhook(name(), error))?;
            (Way::Webhook(webhook), *timeout)
        }
        Receiver::Command { argv, timeout, .. } => {
            command::check(argv).map_err(|error| StartError::Command(name(), error))?;
            (Way::Command(argv.clone()), *timeout)
        }
        Receiver::File { path, .. } => (Way::File(path.clone()), TIMEOUT_MAX),
    };
    if (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) {
        Ok(Door { way, timeout })
    } else {
        Err(StartError::Timeout(name()))
    }
}

/// Deliveries under way and when the next ones are due: what need not survive a restart.
#[derive(Debug)]
struct Courier {
    desk: Desk,
    doors: BTreeMap<String, Door>,
    waits: [Duration; 5],
    inbox: WeakInbox,
    under_way: JoinSet<Attempted>,
    legs: BTreeMap<Id, Leg>,
    /// Not before this monotonic time.
    not_before: BTreeMap<Leg, u64>,
}

impl Courier {
    fn new(rollback: Rollback, inbox: WeakInbox, origin: Arc<Origin>) -> Courier {
        let Rollback { mut desk, doors, waits } = rollback;
        desk.origin = origin;
        let (under_way, legs, not_before) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new());
        Courier { desk, doors, waits, inbox, under_way, legs, not_before }
    }

    fn clock_ns(&self) -> u64 {
        self.desk.clock.now().mono_ns
    }

    /// House-keeping, then whatever is due leaves.
    async fn turn(&mut self) {
        let busy: BTreeSet<Leg> = self.legs.values().cloned().collect();
        self.desk.keep_house(&busy).await;
        self.desk.tell(&self.inbox).await;
        let due = self.desk.due();
        self.not_before.retain(|leg, _| due.contains(leg));
        let now_ns = self.clock_ns();
        for leg in due {
            let early = self.not_before.get(&leg).is_some_and(|&at_ns| at_ns > now_ns);
            let at_receiver = self.legs.values().filter(|other| other.receiver == leg.receiver).count();
            if !early && !busy.contains(&leg) && at_receiver < IN_FLIGHT_MAX {
                self.launch(leg);
            }
        }
    }

    fn launch(&mut self, leg: Leg) {
        let Some(door) = self.doors.get(&leg.receiver).cloned() else { return };
        let Some((body, valid_until_ns)) = self.desk.parcel(&leg) else { return };
        let (clock, id) = (self.desk.clock.clone(), leg.event.clone());
        let task =
            self.under_way.spawn(async move { attempt(door, id, (body, valid_until_ns), clock).await });
        self.legs.insert(task.id(), leg);
    }

    async fn ended(&mut self, ended: Result<(Id, Attempted), JoinError>) {
        let (id, attempted) = ended.unwrap_or_else(|error| {
            // A panic in an attempt is a defect of ours; the effect is not lost for it.
            let saw = format!("attempt ended early: {error}");
            (error.id(), Attempted::Later { saw, reached: true, wait: None })
        });
        let Some(leg) = self.legs.remove(&id) else { return };
        let asked = if let Attempted::Later { wait, .. } = &attempted { *wait } else { None };
        let attempts = self.desk.attempted(&leg, attempted).await;
        let wait = wait_after(&self.waits, &leg, attempts).max(asked.unwrap_or_default());
        self.not_before.insert(leg, self.clock_ns().saturating_add(nanos(wait)));
    }

    /// Time until the next retry, at most a tick.
    fn rest(&self) -> Duration {
        let now_ns = self.clock_ns();
        let next = self.not_before.values().filter(|&&at_ns| at_ns > now_ns).min();
        next.map_or(TICK, |at_ns| Duration::from_nanos(at_ns - now_ns).min(TICK))
    }

    /// Whether nothing more can be done before `stop_at` (monotonic ns): all has ended, or waits longer than that.
    fn is_done_until(&self, stop_at: u64) -> bool {
        if self.clock_ns() >= stop_at {
            return true;
        }
        let waits_beyond = |leg: &Leg| self.not_before.get(leg).is_some_and(|&at_ns| at_ns >= stop_at);
        self.legs.is_empty() && self.desk.due().iter().all(waits_beyond)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The wait after the `attempts`th attempt, with a jitter that derives from the leg: no randomness to seed.
fn wait_after(waits: &[Duration; 5], leg: &Leg, attempts: u32) -> Duration {
    let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX).min(waits.len() - 1);
    let base = waits.get(index).copied().unwrap_or(TICK);
    let seed = Sha256::digest(format!("{}/{}/{attempts}/{}", leg.event, leg.receiver, std::process::id()));
    let share = u32::from(seed.first().copied().unwrap_or_default()) * JITTER_256 / 256;
    base + base * share / 256
}

/// One attempt through one door, never beyond `valid_until`.
async fn attempt(door: Door, id: String, parcel: (String, u64), clock: Clock) -> Attempted {
    let (body, valid_until_ns) = parcel;
    let now_ns = clock.now().wall_ns;
    let Some(left_ns) = valid_until_ns.checked_sub(now_ns).filter(|&left_ns| left_ns > 0) else {
        return Attempted::Later { saw: "too late".to_owned(), reached: false, wait: None };
    };
    let limit = door.timeout.min(Duration::from_nanos(left_ns));
    let send = async {
        match door.way {
            Way::Webhook(webhook) => webhook.attempt(&id, &body, now_ns).await,
            Way::Command(argv) => command::attempt(&argv, limit, &id, &body).await,
            Way::File(path) => {
                let written = tokio::task::spawn_blocking(move || file::attempt(&path, &id, &body)).await;
                written.unwrap_or_else(|error| Attempted::Later {
                    saw: error.to_string(),
                    reached: true,
                    wait: None,
                })
            }
        }
    };
    // A command ends its own group at the limit; the extra second only lets it.
    let ended = time::timeout(limit.saturating_add(Duration::from_nanos(SECOND_NS)), send).await;
    ended.unwrap_or_else(|_| Attempted::Later {
        saw: format!("no answer in {limit:?}"),
        reached: true,
        wait: None,
    })
}

#[cfg(test)]
mod tests;

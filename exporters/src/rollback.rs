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
mod courier;
mod desk;
mod event;
mod file;
mod journal;
mod papers;
mod scribe;
pub mod signature;
mod sys;
mod webhook;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::finding::Finding;
use model::inbox::WeakInbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::time::Clock;
use model::verdict::{Decision, SignalEvent};
use tokio::sync::{mpsc, watch};
use tokio::time;

pub use self::address::AddressError;
pub use self::command::CommandError;
use self::courier::{Courier, WAITS, nanos};
use self::desk::Desk;
pub use self::journal::JournalError;
use self::signature::Secret;
use self::webhook::Webhook;
pub use self::webhook::WebhookError;

/// Receivers: a handful of deploy tools, never a mailing list.
const RECEIVERS_MAX: usize = 16;

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
    #[error("open the rollback journal")]
    Journal(#[from] JournalError),
    /// Two receivers share a name, or one has none.
    #[error("receiver name {0:?} is empty or used twice")]
    Name(String),
    /// More than sixteen.
    #[error("{0} receivers are more than sixteen")]
    TooMany(usize),
    /// A webhook.
    #[error("receiver {0}")]
    Webhook(String, #[source] WebhookError),
    /// A command.
    #[error("receiver {0}")]
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

#[cfg(test)]
mod tests;

//! The node and the watched processes, from /proc, /sys and their control groups.
//!
//! Owns one reading every few seconds. Refuses to guess: what the kernel does not tell is `None`, and a node whose
//! `/proc/stat` cannot be read gives no record but a count. Reads happen on a blocking thread, one at a time: a
//! file system that hangs stops these readings and nothing else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::host::HostFact;
use model::inbox::{Inbox, NoPlace};
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::{Fact, Record};
use model::time::Clock;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

mod groups;
pub mod parse;
mod read;
mod sys;

use read::Reader;

/// What a reading takes in the inbox: a dozen disks, file systems and processes of some 200 bytes each, 400 with their groups.
const RECORD_BYTES: usize = 8 * 1024;

/// What is read, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From one reading to the next.
    pub interval: Duration,
    /// A path on each file system to watch: etcd's data directory, the agent's own. At most [`FILESYSTEMS_MAX`] are read.
    pub filesystems: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config { interval: Duration::from_secs(5), filesystems: Vec::new() }
    }
}

/// etcd has one data directory and perhaps one for its log; the agent has one.
pub const FILESYSTEMS_MAX: usize = 16;
/// The members of a node, the agent, and what is upgraded next to them.
pub const PROCESSES_MAX: usize = 64;

/// A process to watch; at most [`PROCESSES_MAX`] are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// In the pid namespace of the root that is read.
    pub pid: u32,
    /// The member it is, or the target it runs for.
    pub role: Option<String>,
}

/// Why a reading gave no record; the label of `agent_host_readings_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// `/proc/stat` is missing or not what it should be.
    #[error("/proc/stat cannot be read")]
    NoStat,
    /// The same of `/proc/meminfo`.
    #[error("/proc/meminfo cannot be read")]
    NoMeminfo,
    /// The reading thread is gone.
    #[error("the reading was abandoned")]
    Abandoned,
}

impl HostError {
    fn reason(self) -> &'static str {
        match self {
            HostError::NoStat => "no_stat",
            HostError::NoMeminfo => "no_meminfo",
            HostError::Abandoned => "abandoned",
        }
    }
}

/// Reads the node under one root.
#[derive(Debug)]
pub struct Host {
    reader: Arc<Reader>,
    interval: Duration,
    watched: watch::Receiver<Vec<Watched>>,
    clock: Clock,
    ledger: Ledger,
    failed: bool,
}

impl Host {
    /// `root` is `/`, a mount of the host's root, or a fixture with `proc` and `sys` in it.
    #[must_use]
    pub fn new(
        root: PathBuf,
        config: Config,
        watched: watch::Receiver<Vec<Watched>>,
        clock: Clock,
        ledger: Ledger,
    ) -> Host {
        let interval = config.interval.max(Duration::from_millis(100));
        let reader = Arc::new(Reader::new(root, config.filesystems));
        Host { reader, interval, watched, clock, ledger, failed: false }
    }

    /// Reads until cancelled or the engine is gone. A full inbox skips the reading, counted in
    /// `agent_host_readings_skipped_total{inbox_full}`; `origin` is the node.
    pub async fn run(mut self, origin: Arc<Origin>, inbox: Inbox, cancel: CancellationToken) {
        let mut interval = tokio::time::interval(self.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = interval.tick() => {}
            }
            let place = match inbox.reserve(RECORD_BYTES) {
                Ok(place) => place,
                Err(NoPlace::Closed) => return,
                Err(NoPlace::Full) => {
                    self.ledger.add("agent_host_readings_skipped_total", "inbox_full", 1);
                    continue;
                }
            };
            let at = self.clock.now();
            let fact = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                fact = self.read() => fact,
            };
            if let Some(fact) = self.count(fact) {
                place.send(Record { at, origin: Arc::clone(&origin), fact: Fact::Host(fact) });
            }
        }
    }

    /// One reading, now.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn read(&mut self) -> Result<HostFact, HostError> {
        let reader = Arc::clone(&self.reader);
        let watched = self.watched.borrow().clone();
        tokio::task::spawn_blocking(move || reader.read(&watched)).await.map_err(|_| HostError::Abandoned)?
    }

    fn count(&mut self, fact: Result<HostFact, HostError>) -> Option<HostFact> {
        let failed_before = std::mem::replace(&mut self.failed, fact.is_err());
        match fact {
            Ok(fact) => {
                self.ledger.add("agent_host_readings_total", "ok", 1);
                Some(fact)
            }
            Err(error) => {
                self.ledger.add("agent_host_readings_total", error.reason(), 1);
                if !failed_before {
                    tracing::warn!(%error, "the node cannot be read");
                }
                None
            }
        }
    }
}

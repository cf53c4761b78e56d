//! Profiling that never ends: everybody on the node, 19 times a second of CPU time, in windows of ten seconds, into the ring
//! on disk; and for a while more of it when something regresses.
//!
//! Owns the session, its rate and the ring's writer, on one thread that nobody waits for. A capture comes from the ring as
//! its baseline does, so that both are counted by one rule. Refuses to judge whether a capture may be taken, and whose
//! processes are whose.

mod idle;
mod processes;
mod ring;
mod sampling;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use model::ledger::Ledger;
use model::profile::{Baseline, FunctionCounts, Stacks};
use model::time::{Clock, Stamp};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use crate::history::{Limits, writer};
use crate::perf::attr::Hz;
use crate::perf::refusal::Refusal;

pub use processes::Processes;
use worker::Worker;

/// Captures that wait for the thread: its one caller takes one at a time.
const COMMANDS: usize = 4;

/// What a capture takes beyond its length: names and the ring, on a busy node.
const GRACE: Duration = Duration::from_secs(15);
/// The last window takes some milliseconds.
const STOP_MAX: Duration = Duration::from_secs(4);

/// What is sampled, and where it goes.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ring's directory.
    pub ring: PathBuf,
    /// Its bounds.
    pub limits: Limits,
    /// While this file exists nobody is sampled.
    pub kill_switch: PathBuf,
}

/// Why there is no profiling of this kind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel does not let us, not even with the members' own processes.
    #[error("{refusal}; cure: {}", refusal.cure())]
    Refused {
        /// Why.
        #[from]
        refusal: Refusal,
    },
    /// The ring is somebody else's.
    #[error(transparent)]
    Ring(#[from] writer::OpenError),
    /// No thread could be started.
    #[error("start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// The label of counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            StartError::Refused { refusal } => refusal.label(),
            StartError::Ring(_) => "ring_locked",
            StartError::Thread(_) => "thread",
        }
    }
}

/// A capture that is wanted.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Of this member.
    pub member: String,
    /// For how long.
    pub length: Duration,
    /// When it was asked for.
    pub asked: Stamp,
    /// Only what ran before this monotonic time is a "before".
    pub before_mono_ns: Option<u64>,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// Whole stacks.
    pub stacks: Stacks,
    /// Counts, by window too.
    pub counts: FunctionCounts,
}

/// What a capture brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// What ran.
    pub after: Side,
    /// What had run before; `None` where the ring has nothing.
    pub before: Option<Side>,
    /// How good that is.
    pub baseline: Baseline,
    /// At which rate it was taken.
    pub hz: u32,
}

/// Why a capture brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missed {
    /// The kernel stopped letting us, or the kill switch is there.
    #[error("nobody is being sampled")]
    NotSampling,
    /// One at a time.
    #[error("another capture is under way")]
    Busy,
    /// The member's process is not known: it is on another node, or in a namespace that we do not see.
    #[error("the member's process is not known")]
    NoProcess,
    /// The kernel stopped letting us, or the kill switch came.
    #[error("sampling ended in the middle of the capture")]
    Interrupted,
    /// The disk or the node did not come back in time.
    #[error("the capture did not come to its end in time")]
    Stalled,
    /// The windows did not come back from the ring.
    #[error("the windows of the capture were lost")]
    Lost,
    /// The thread has ended.
    #[error("profiling has ended")]
    Ended,
}

impl Missed {
    /// The fixed word.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Missed::NotSampling => "not_sampling",
            Missed::Busy => "capture_running",
            Missed::NoProcess => "no_process",
            Missed::Interrupted => "sampling_ended",
            Missed::Stalled => "stalled",
            Missed::Lost => "windows_lost",
            Missed::Ended => "profiling_ended",
        }
    }

    /// Whether anything had been done for it.
    #[must_use]
    pub fn has_begun(self) -> bool {
        matches!(self, Missed::Interrupted | Missed::Stalled | Missed::Lost)
    }
}

/// What the thread is told.
#[derive(Debug)]
struct Command {
    wish: Wish,
    reply: oneshot::Sender<Result<Taken, Missed>>,
}

/// The handle. Without it the thread ends, and what it has goes to disk.
#[derive(Debug)]
pub struct Continuous {
    commands: Option<SyncSender<Command>>,
    is_sampling: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Continuous {
    /// Opens the ring and the events: of the whole node, or where that is not allowed of the members' processes. Reads
    /// /proc and files: not for a thread that others wait for.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: Config,
        processes: Processes,
        clock: Clock,
        ledger: Ledger,
    ) -> Result<Continuous, StartError> {
        let worker = Worker::open(config, processes, clock, ledger)?;
        let is_sampling = worker.is_sampling();
        let (commands, told) = sync_channel(COMMANDS);
        let thread = thread::Builder::new().name("profiler".to_owned()).spawn(move || worker.run(&told))?;
        Ok(Continuous { commands: Some(commands), is_sampling, thread: Some(thread) })
    }

    /// Whether anybody is sampled now.
    #[must_use]
    pub fn is_sampling(&self) -> bool {
        self.is_sampling.load(Ordering::Relaxed)
    }

    /// Samples more often for that long, then gives what came and what had been before.
    ///
    /// # Errors
    /// [`Missed`].
    pub async fn capture(&self, wish: Wish) -> Result<Taken, Missed> {
        let ((reply, answer), length) = (oneshot::channel(), wish.length);
        let commands = self.commands.as_ref().ok_or(Missed::Ended)?;
        match commands.try_send(Command { wish, reply }) {
            Ok(()) => match timeout(length + GRACE, answer).await {
                Ok(answer) => answer.unwrap_or(Err(Missed::Ended)),
                Err(_) => Err(Missed::Stalled),
            },
            Err(TrySendError::Full(_)) => Err(Missed::Busy),
            Err(TrySendError::Disconnected(_)) => Err(Missed::Ended),
        }
    }

    /// Ends it and waits until the last window has been written, but not for ever.
    pub async fn stop(self) {
        if timeout(STOP_MAX, spawn_blocking(move || drop(self))).await.is_err() {
            warn!("the last window of samples is still being written: the disk does not come back");
        }
    }
}

impl Drop for Continuous {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            drop(thread.join());
        }
    }
}

/// How often a capture samples: a node that has nothing left is asked for a fifth.
fn rate(is_busy: bool) -> Hz {
    if is_busy { Hz::ASKED } else { Hz::TRIGGERED }
}

//! The account of a session: what came, what was lost on the way, and what reading it cost.

use super::processes::Refused;
use super::session::WaitKind;

/// Time without the CPU, of those that are wanted, by what for; nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// [`WaitKind::Preempted`].
    pub preempted_ns: u64,
    /// [`WaitKind::Sleeping`].
    pub sleeping_ns: u64,
    /// [`WaitKind::Uninterruptible`].
    pub uninterruptible_ns: u64,
}

impl Waited {
    /// So many nanoseconds more.
    pub(crate) fn add(&mut self, kind: WaitKind, length_ns: u64) {
        let sum = match kind {
            WaitKind::Preempted => &mut self.preempted_ns,
            WaitKind::Sleeping => &mut self.sleeping_ns,
            WaitKind::Uninterruptible => &mut self.uninterruptible_ns,
        };
        *sum = sum.saturating_add(length_ns);
    }
}

/// What happened, up to the latest round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The rate now; 0 before the first round.
    pub hz: u32,
    /// Given to the sink.
    pub samples: u64,
    /// Of others than the target.
    pub passed_over: u64,
    /// Records that found no room, samples or others.
    pub lost: u64,
    /// Stacks deeper than the kernel walks.
    pub truncated: u64,
    /// How often the kernel stopped sampling for the rest of a tick.
    pub throttled: u64,
    /// Samples of processes that nobody told us of.
    pub unattributed: u64,
    /// Samples of processes outside our pid namespace, which have no number here.
    pub hidden: u64,
    /// Records that came after younger ones.
    pub late: u64,
    /// Records that made no sense, and rings that did not.
    pub malformed: u64,
    /// CPUs that came online and could not be watched.
    pub cpus_refused: u64,
    /// Times without the CPU that were too short to tell of.
    pub short_waits: u64,
    /// Times without the CPU that were not followed: too many threads were away at once.
    pub crowded_waits: u64,
    /// What the waits that were told of were for.
    pub waited: Waited,
    /// Programs started.
    pub execs: u64,
    /// Processes known now.
    pub processes: usize,
    /// What of them did not fit.
    pub refused: Refused,
    /// CPU time of the thread that reads.
    pub cpu_ns: u64,
    /// From the first to the latest round.
    pub wall_ns: u64,
    /// Descriptors held.
    pub files: usize,
    /// Bytes locked for the rings.
    pub locked_bytes: usize,
    /// CPUs watched now.
    pub cpus: usize,
}

//! What is asked of a ring, and what comes back.
//!
//! Owns the questions (which windows, whose samples) and the answer: all windows added up, and each one's share in that.

use model::profile::{FunctionCounts, Owner, Stacks};

use super::reader::Placed;
use crate::counts;

/// The least of a container's id that names one, as everywhere with containers.
const CONTAINER_DIGITS_MIN: usize = 12;

/// Which windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Those that share time with `from_ns..to_ns`, nanoseconds since the Unix epoch. Where the clock was set back, windows
    /// of both passes.
    Wall {
        /// From here on.
        from_ns: u64,
        /// To before here.
        to_ns: u64,
    },
    /// By [`Placed::sequence`], both included.
    Windows {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
}

impl Range {
    pub(crate) fn contains(&self, window: &Placed) -> bool {
        match *self {
            Range::Wall { from_ns, to_ns } => window.at.wall_ns < to_ns && window.end().wall_ns > from_ns,
            Range::Windows { first, last } => (first..=last).contains(&window.sequence),
        }
    }
}

/// Whose samples; everybody's by default. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The process's name.
    pub process: Option<String>,
    /// Its number is one of these; any where there are none.
    pub pids: Vec<u32>,
    /// The container's id, or its first digits, twelve at least.
    pub container: Option<String>,
}

impl Filter {
    /// Whether there is a condition at all.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether samples of this owner are asked for.
    #[must_use]
    pub fn takes(&self, owner: &Owner) -> bool {
        let is_container = |wanted: &String| {
            owner.container == *wanted
                || wanted.len() >= CONTAINER_DIGITS_MIN && owner.container.starts_with(wanted.as_str())
        };
        self.process.as_ref().is_none_or(|process| owner.process == *process)
            && (self.pids.is_empty() || self.pids.contains(&owner.pid))
            && self.container.as_ref().is_none_or(is_container)
    }
}

/// Why there are no windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapKind {
    /// The writer ran and was given none.
    Pause,
    /// It was started anew.
    Restart,
    /// So was the machine.
    Reboot,
}

/// A time without windows between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The window before.
    pub after: u64,
    /// Why.
    pub kind: GapKind,
    /// How long; by the wall clock, and 0 at least, across a reboot.
    pub ns: u64,
}

/// What of a ring could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Windows that are listed and whose samples are damaged, removed, or more than a selection may hold.
    pub lost_windows: u64,
    /// Bytes after the last whole block of a segment: being written, torn, or damaged.
    pub torn_bytes: u64,
    /// Segments of which not even the header can be read.
    pub unreadable_segments: u64,
    /// Segments of another version.
    pub other_versions: u64,
}

/// A sample's share that is one window's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index into the samples of the whole.
    pub sample: u32,
    /// Samples taken.
    pub count: i64,
    /// Nanoseconds.
    pub value: i64,
}

/// One window of a selection.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Which.
    pub window: Placed,
    /// Nanoseconds that one sample stands for.
    pub period: u64,
    /// Samples that the kernel had no room for.
    pub lost: u64,
    /// Samples the ring had no room for.
    pub left_out: u64,
    /// Its samples.
    pub shares: Vec<Share>,
}

/// The windows of a range, added up.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// All of them together, from the first one's beginning; the duration is the sum of theirs, the period 0 where it
    /// changed.
    pub stacks: Stacks,
    /// Each, in order.
    pub parts: Vec<Part>,
    /// Times without windows between them.
    pub gaps: Vec<Gap>,
    /// What could not be read.
    pub loss: Loss,
    /// Samples, by count, for which the whole had no room.
    pub left_out: u64,
}

impl Selection {
    /// Without the windows before its first sample and after its last one: a process that came later, or had ended, used
    /// nothing then because it was not there. One that hardly runs loses some of its quiet.
    #[must_use]
    pub fn while_seen(mut self) -> Selection {
        let is_seen = |part: &Part| !part.shares.is_empty();
        let Some(first) = self.parts.iter().position(is_seen) else { return self };
        let last = self.parts.iter().rposition(is_seen).unwrap_or(first);
        self.parts.truncate(last.saturating_add(1));
        self.parts.drain(..first);
        let seen = |after: u64| self.parts.iter().any(|part| part.window.sequence == after);
        let end = self.parts.last().map(|part| part.window.sequence);
        self.gaps.retain(|gap| seen(gap.after) && Some(gap.after) != end);
        self.stacks.at = self.parts.first().map_or(self.stacks.at, |part| part.window.at);
        self.stacks.duration_ns =
            self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.window.duration_ns));
        self
    }

    /// The same of all windows together, with each of them in it; `None` where there are none.
    #[must_use]
    pub fn joined(&self) -> Option<FunctionCounts> {
        FunctionCounts::joined(&self.counts())
    }

    /// Counts by function and call edge, for each window.
    #[must_use]
    pub fn counts(&self) -> Vec<FunctionCounts> {
        let shares =
            |part: &Part| part.shares.iter().map(|share| (share.sample, share.value, share.count)).collect();
        let windows: Vec<counts::Window> = self
            .parts
            .iter()
            .map(|part| counts::Window {
                duration_ns: part.window.duration_ns,
                period: part.period,
                shares: shares(part),
            })
            .collect();
        counts::of_windows(&self.stacks, &windows)
    }
}

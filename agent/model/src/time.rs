//! One instant on two clocks. Owns [`Stamp`] and the [`Clock`] handle; reads no clock itself.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// One instant, read once on both clocks. Durations use `mono_ns`, exports use `wall_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub mono_ns: u64,
    /// Nanoseconds since the Unix epoch, UTC.
    pub wall_ns: u64,
}

impl Stamp {
    /// Monotonic nanoseconds since `earlier`; 0 when `earlier` is later.
    #[must_use]
    pub fn since_ns(&self, earlier: Stamp) -> u64 {
        self.mono_ns.saturating_sub(earlier.mono_ns)
    }

    /// The instant `ns` nanoseconds after this one, on both clocks.
    #[must_use]
    pub fn plus_ns(&self, ns: u64) -> Stamp {
        Stamp { mono_ns: self.mono_ns.saturating_add(ns), wall_ns: self.wall_ns.saturating_add(ns) }
    }

    /// The wall time that belongs to another monotonic reading of the same boot.
    #[must_use]
    pub fn wall_at(&self, mono_ns: u64) -> u64 {
        if mono_ns >= self.mono_ns {
            self.wall_ns.saturating_add(mono_ns - self.mono_ns)
        } else {
            self.wall_ns.saturating_sub(self.mono_ns - mono_ns)
        }
    }
}

/// A handle to whatever tells the time: the system in production, a script in tests.
///
/// `collectors::clock::system()` makes the real one; nothing else reads `Instant` or `SystemTime`.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> Stamp + Send + Sync>,
}

impl Clock {
    /// Wraps a function that reads both clocks at once.
    pub fn new(read: impl Fn() -> Stamp + Send + Sync + 'static) -> Clock {
        Clock { read: Arc::new(read) }
    }

    /// Both clocks, now.
    #[must_use]
    pub fn now(&self) -> Stamp {
        (self.read)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

//! What may be captured, how long and how often.

use std::path::PathBuf;
use std::time::Duration;

/// Length of a capture by the kernel.
const SAMPLED_SECONDS: u32 = 30;

/// What may be captured, how long, how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Length of a capture on a trigger, seconds; half a minute by the kernel, and as long as a baseline by an endpoint.
    pub cpu_seconds: Option<u32>,
    /// Length of a baseline by an endpoint, seconds.
    pub baseline_cpu_seconds: u32,
    /// Whether an endpoint may be asked for CPU time where the kernel does not give it.
    pub is_cpu_pulled: bool,
    /// Whether heaps may be read from the memory of the members, where all their secrets are.
    pub is_heap_read: bool,
    /// Captures an hour on this node, over all targets; baselines not counted.
    pub captures_per_hour: usize,
    /// After a capture of a target, the next one of the same target waits as long. The first never waits.
    pub cool_down: Duration,
    /// A new baseline of each target as often.
    pub refresh: Duration,
    /// A new baseline so long after a rollout marker, when the new revision has settled.
    pub after_marker: Duration,
    /// While this file exists nothing is profiled on the node.
    pub kill_switch: PathBuf,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            cpu_seconds: None,
            baseline_cpu_seconds: 5,
            is_cpu_pulled: true,
            is_heap_read: false,
            captures_per_hour: 6,
            cool_down: Duration::from_secs(600),
            refresh: Duration::from_secs(600),
            after_marker: Duration::from_secs(30),
            kill_switch: PathBuf::from("/etc/backburn/no-profiling"),
        }
    }
}

impl Config {
    /// A pull makes the process itself work, and its own sampler is only so fast; the kernel's samples cost it little.
    pub(super) fn seconds(&self, is_by_kernel: bool) -> u32 {
        self.cpu_seconds.unwrap_or(if is_by_kernel { SAMPLED_SECONDS } else { self.baseline_cpu_seconds })
    }
}

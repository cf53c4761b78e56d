//! The node and the watched processes, from /proc. Cumulative values stay cumulative.

use serde::{Deserialize, Serialize};

/// One reading of the node. A field is `None` where the kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFact {
    /// CPUs online.
    pub cpus: u32,
    /// Cumulative CPU time over all CPUs.
    pub cpu: CpuTimes,
    /// MemTotal, bytes.
    pub memory_total_bytes: u64,
    /// MemAvailable, bytes.
    pub memory_available_bytes: u64,
    /// Pressure stall information, where the kernel has it.
    pub pressure: Option<Pressure>,
    /// Block devices.
    pub disks: Vec<Disk>,
    /// Free space where etcd keeps its data and where the agent keeps its own.
    pub filesystems: Vec<Filesystem>,
    /// Watched processes.
    pub processes: Vec<Process>,
}

/// Cumulative nanoseconds by state, all CPUs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTimes {
    /// user + nice.
    pub user_ns: u64,
    /// system + irq + softirq.
    pub system_ns: u64,
    /// idle.
    pub idle_ns: u64,
    /// iowait.
    pub iowait_ns: u64,
    /// steal: wanted to run, the hypervisor did not let us.
    pub steal_ns: u64,
}

/// Cumulative stall time ("some"), microseconds as in /proc/pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// cpu some total.
    pub cpu_us: u64,
    /// io some total.
    pub io_us: u64,
    /// memory some total.
    pub memory_us: u64,
}

/// One block device, cumulative, from /proc/diskstats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Device name, e.g. `vda`.
    pub name: String,
    /// Reads completed.
    pub reads: u64,
    /// Milliseconds spent reading.
    pub read_ms: u64,
    /// Writes completed.
    pub writes: u64,
    /// Milliseconds spent writing.
    pub write_ms: u64,
    /// Flushes completed (0 before Linux 5.5).
    pub flushes: u64,
    /// Milliseconds spent flushing.
    pub flush_ms: u64,
    /// Milliseconds with I/O in flight.
    pub busy_ms: u64,
}

/// One filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// A path on it.
    pub path: String,
    /// Size, bytes.
    pub total_bytes: u64,
    /// Free for non-root, bytes.
    pub available_bytes: u64,
}

/// One watched process. `pid` and `started_ticks` together name it for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in our pid namespace.
    pub pid: u32,
    /// comm.
    pub name: String,
    /// The member it is, or the target it runs for, if known.
    pub role: Option<String>,
    /// Start time, clock ticks since boot.
    pub started_ticks: u64,
    /// Cumulative CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// Resident set, bytes.
    pub rss_bytes: u64,
    /// Open file descriptors; `None` when not permitted.
    pub fds: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// Established TCP connections; `None` when not permitted.
    pub connections: Option<u64>,
}

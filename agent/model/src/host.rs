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
    /// The node's own group: where the "node" is a container itself, its limits are there.
    pub cgroup: Option<Box<Cgroup>>,
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
    /// Its control group; `None` where it is not to be seen.
    pub cgroup: Option<Cgroup>,
}

/// A control group as far as its files can be read. CPU and memory are those of the nearest group up the tree that has a
/// limit, as that is the one which throttles and kills; without a limit anywhere, of the group itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// The group's path, as the process's own file tells it.
    pub path: String,
    /// CPU.
    pub cpu: Option<CgroupCpu>,
    /// Memory.
    pub memory: Option<CgroupMemory>,
    /// Block devices, all together.
    pub io: Option<CgroupIo>,
}

/// CPU of a group, cumulative but for the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupCpu {
    /// Time used by all its tasks, nanoseconds.
    pub usage_ns: Option<u64>,
    /// Quota over period, thousandths of a CPU; `None` is no limit.
    pub limit_millicpus: Option<u64>,
    /// Periods in which it was allowed to run.
    pub periods: u64,
    /// Those of them in which it used up its quota and was stopped.
    pub throttled_periods: u64,
    /// How long it was stopped, nanoseconds, its CPUs added up.
    pub throttled_ns: u64,
}

/// Memory of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupMemory {
    /// In use now, page cache included, bytes.
    pub usage_bytes: u64,
    /// The hard limit, bytes; `None` is no limit.
    pub limit_bytes: Option<u64>,
    /// How often the limit was reached and memory had to be reclaimed at once, cumulative.
    pub limit_hits: Option<u64>,
    /// Processes of the group that were killed for want of memory, cumulative.
    pub oom_kills: Option<u64>,
}

/// Block devices of a group, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupIo {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
}

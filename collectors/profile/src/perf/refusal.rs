//! Why the kernel did not let us sample, and what to do about it.
//!
//! Owns the reading of error numbers against what the machine says of itself: one number stands for several causes, and
//! each has another cure. Refuses to be fatal: a refusal costs the part it concerns, the caller decides what remains.

use std::fs;
use std::io;

/// Capabilities, by the kernel's numbers, that open any event.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
/// Above this level some distributions refuse everything to everybody without a capability.
const PARANOID_STRICTEST: i32 = 2;

/// One refused part, by cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The usual one: no capability, and the machine is set to want one.
    #[error("kernel.perf_event_paranoid is {level} and the capability perfmon is missing")]
    Paranoid {
        /// What the machine is set to.
        level: i32,
    },
    /// The capability is there but does not count.
    #[error("the capability perfmon does not count in this user namespace, or a security module refuses")]
    Namespace,
    /// The container's system call filter.
    #[error("a seccomp filter forbids perf_event_open")]
    Seccomp,
    /// Neither of these: lockdown or a security module.
    #[error("a security module or kernel lockdown forbids perf_event_open")]
    Policy,
    /// A process of somebody else.
    #[error("task {tid} belongs to somebody else")]
    Foreign {
        /// Which.
        tid: u32,
    },
    /// It ended before we came.
    #[error("task {tid} is gone")]
    Gone {
        /// Which.
        tid: u32,
    },
    /// No such file, or no cgroup.
    #[error("cgroup {path}: {cause}")]
    Cgroup {
        /// As it was given.
        path: String,
        /// The system's words.
        cause: String,
    },
    /// The kernel was built without them.
    #[error("this kernel has no perf events")]
    NoEvents,
    /// The kernel does not know this event or what we ask of it.
    #[error("this kernel does not know the event")]
    Unknown,
    /// Too many open files.
    #[error("no file descriptor is free")]
    Files,
    /// No memory.
    #[error("the kernel has no memory for a ring")]
    Memory,
    /// Even the smallest ring would be more locked memory than we may have.
    #[error("a ring of {bytes} bytes is more locked memory than is allowed")]
    Locked {
        /// The smallest that was tried.
        bytes: usize,
    },
    /// The CPU went offline.
    #[error("CPU {cpu} is offline")]
    Offline {
        /// Which.
        cpu: u32,
    },
    /// A following event takes its rate from the thread that it was opened on.
    #[error("the rate of followed tasks is fixed when they are opened")]
    FixedRate,
    /// Anything else.
    #[error("perf_event_open: {0}")]
    Other(String),
}

impl Refusal {
    /// One word, for counters.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Refusal::Paranoid { .. } => "paranoid",
            Refusal::Namespace => "namespace",
            Refusal::Seccomp => "seccomp",
            Refusal::Policy => "policy",
            Refusal::Foreign { .. } => "foreign",
            Refusal::Gone { .. } => "gone",
            Refusal::Cgroup { .. } => "cgroup",
            Refusal::NoEvents => "no_events",
            Refusal::Unknown => "unknown_event",
            Refusal::Files => "files",
            Refusal::Memory => "memory",
            Refusal::Locked { .. } => "locked_memory",
            Refusal::Offline { .. } => "offline",
            Refusal::FixedRate => "fixed_rate",
            Refusal::Other(_) => "other",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        match self {
            Refusal::Paranoid { level } if *level > PARANOID_STRICTEST => {
                "give the agent CAP_PERFMON; or set kernel.perf_event_paranoid to 2 for one's own processes"
            }
            Refusal::Paranoid { .. } => {
                "give the agent CAP_PERFMON; without it only one's own processes can be profiled, without the kernel"
            }
            Refusal::Namespace => {
                "run the agent in the host's user namespace, or allow it in the security module"
            }
            Refusal::Seccomp => {
                "allow perf_event_open in the container's seccomp profile, or run it unconfined with CAP_PERFMON"
            }
            Refusal::Policy => {
                "look for lockdown=confidentiality, SELinux perf_event or AppArmor denials in the log"
            }
            Refusal::Foreign { .. } => "run as that user, or give the agent CAP_PERFMON and CAP_SYS_PTRACE",
            Refusal::Gone { .. } => "name a process that runs; in a container, set hostPID",
            Refusal::Cgroup { .. } => {
                "name a directory below /sys/fs/cgroup that holds the perf_event hierarchy"
            }
            Refusal::NoEvents => "use a kernel with CONFIG_PERF_EVENTS; pprof endpoints work without",
            Refusal::Unknown => "use Linux 4.8 or newer",
            Refusal::Files => "raise LimitNOFILE: each CPU takes two descriptors",
            Refusal::Memory => "free memory, or ask for smaller rings",
            Refusal::Locked { .. } => {
                "give CAP_IPC_LOCK, or raise LimitMEMLOCK or kernel.perf_event_mlock_kb"
            }
            Refusal::Offline { .. } => "none is needed: it is followed when it comes back",
            Refusal::FixedRate => "start another session with the new rate, or give the agent CAP_PERFMON",
            Refusal::Other(_) => "report it with the kernel's version",
        }
    }

    /// What an error of `perf_event_open` means in this situation.
    #[must_use]
    pub(super) fn of(error: &io::Error, asked: Asked, situation: &Situation) -> Refusal {
        let task = match asked {
            Asked::Task { tid, .. } => Some(tid),
            Asked::Node { .. } => None,
        };
        match error.raw_os_error() {
            Some(libc::EACCES) if situation.is_capable => Refusal::Namespace,
            Some(libc::EACCES) => match (asked, situation.paranoid) {
                (Asked::Task { tid, is_kernel_seen: false }, level) if level <= PARANOID_STRICTEST => {
                    Refusal::Foreign { tid }
                }
                (_, level) => Refusal::Paranoid { level },
            },
            Some(libc::EPERM | libc::ENOSYS) if situation.is_filtered => Refusal::Seccomp,
            Some(libc::EPERM) => Refusal::Policy,
            Some(libc::ENOSYS) => Refusal::NoEvents,
            Some(libc::ESRCH) => Refusal::Gone { tid: task.unwrap_or(0) },
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL | libc::E2BIG | libc::EOVERFLOW) => {
                Refusal::Unknown
            }
            Some(libc::EMFILE | libc::ENFILE) => Refusal::Files,
            Some(libc::ENOMEM) => Refusal::Memory,
            Some(libc::ENODEV) => Refusal::Offline { cpu: asked.cpu() },
            _ => Refusal::Other(error.to_string()),
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// All tasks of a CPU.
    Node {
        /// Which.
        cpu: u32,
    },
    /// One task.
    Task {
        /// Which.
        tid: u32,
        /// With the kernel's part of its stacks.
        is_kernel_seen: bool,
    },
}

impl Asked {
    fn cpu(self) -> u32 {
        match self {
            Asked::Node { cpu } => cpu,
            Asked::Task { .. } => 0,
        }
    }
}

/// What the machine says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// `kernel.perf_event_paranoid`.
    pub paranoid: i32,
    /// Whether one of the two capabilities is in our effective set.
    pub is_capable: bool,
    /// Whether a seccomp filter is on us.
    pub is_filtered: bool,
}

impl Situation {
    /// As it is now.
    #[must_use]
    pub fn read() -> Situation {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
        Situation::parse(&status, &paranoid)
    }

    fn parse(status: &str, paranoid: &str) -> Situation {
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.map_or("", |rest| rest.trim_start_matches(':').trim())
        };
        let capabilities = u64::from_str_radix(value("CapEff"), 16).unwrap_or(0);
        Situation {
            // The kernel's own default, where the file cannot be read.
            paranoid: paranoid.trim().parse().unwrap_or(PARANOID_STRICTEST),
            is_capable: capabilities & (1 << CAP_SYS_ADMIN | 1 << CAP_PERFMON) != 0,
            is_filtered: value("Seccomp") == "2",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Asked, Refusal, Situation};

    #[test]
    fn one_number_has_several_causes() {
        let bare = Situation { paranoid: 2, is_capable: false, is_filtered: false };
        let ubuntu = Situation { paranoid: 4, ..bare };
        let docker = Situation { is_filtered: true, ..bare };
        let capable = Situation { is_capable: true, ..bare };
        let node = Asked::Node { cpu: 3 };
        let task = Asked::Task { tid: 7, is_kernel_seen: false };
        let check = |number: i32, asked: Asked, situation: Situation, label: &str| {
            let refusal = Refusal::of(&io::Error::from_raw_os_error(number), asked, &situation);
            assert_eq!(refusal.label(), label, "{number} {asked:?} {situation:?}");
            assert!(!refusal.cure().is_empty() && !refusal.to_string().is_empty());
            refusal
        };
        check(libc::EACCES, node, bare, "paranoid");
        check(libc::EACCES, Asked::Task { tid: 7, is_kernel_seen: true }, bare, "paranoid");
        check(libc::EACCES, task, bare, "foreign");
        let strict = check(libc::EACCES, task, ubuntu, "paranoid");
        assert_ne!(strict.cure(), Refusal::Paranoid { level: 2 }.cure());
        check(libc::EACCES, node, capable, "namespace");
        check(libc::EPERM, node, docker, "seccomp");
        check(libc::ENOSYS, node, docker, "seccomp");
        check(libc::EPERM, node, capable, "policy");
        check(libc::ENOSYS, node, bare, "no_events");
        check(libc::ENOENT, node, bare, "unknown_event");
        check(libc::EINVAL, node, bare, "unknown_event");
        check(libc::EMFILE, node, bare, "files");
        check(libc::ENOMEM, node, bare, "memory");
        check(libc::EIO, node, bare, "other");
        assert_eq!(check(libc::ESRCH, task, bare, "gone"), Refusal::Gone { tid: 7 });
        assert_eq!(check(libc::ENODEV, node, bare, "offline"), Refusal::Offline { cpu: 3 });
    }

    #[test]
    fn the_situation_is_what_proc_says() {
        let status =
            "Name:\tagent\nCapPrm:\t0\nCapEff:\t0000004000000000\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let expected = Situation { paranoid: -1, is_capable: true, is_filtered: true };
        assert_eq!(Situation::parse(status, "-1\n"), expected);
        let nothing = Situation { paranoid: 2, is_capable: false, is_filtered: false };
        assert_eq!(Situation::parse("", ""), nothing);
    }
}

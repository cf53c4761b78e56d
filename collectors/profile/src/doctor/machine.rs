//! What the machine says of itself where privileges are concerned: files of /proc and /sys, read once.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::perf::tracepoint;

/// Of each file that is read here; the longest has 2 kB.
const TEXT_BYTES_MAX: u64 = 16 << 10;

/// Capabilities that profiling uses, by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Opens any file for reading.
    DacReadSearch,
    /// Opens any file for anything.
    DacOverride,
    /// Locks memory without a limit.
    IpcLock,
    /// Looks into any process.
    SysPtrace,
    /// All of the below and more.
    SysAdmin,
    /// Addresses of the kernel.
    Syslog,
    /// Performance events. Linux 5.8.
    Perfmon,
}

impl Capability {
    fn bit(self) -> u64 {
        1 << match self {
            Capability::DacOverride => 1,
            Capability::DacReadSearch => 2,
            Capability::IpcLock => 14,
            Capability::SysPtrace => 19,
            Capability::SysAdmin => 21,
            Capability::Syslog => 34,
            Capability::Perfmon => 38,
        }
    }
}

/// The machine and this process on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The effective set.
    pub capabilities: u64,
    /// Those that this process and its children can ever have.
    pub bounding: u64,
    /// Whether a seccomp filter is on us.
    pub is_filtered: bool,
    /// `kernel.perf_event_paranoid`.
    pub paranoid: Option<i32>,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Option<i32>,
    /// `kernel.yama.ptrace_scope`, where that module is built in.
    pub ptrace_scope: Option<i32>,
    /// `none`, `integrity` or `confidentiality`; empty where it cannot be read.
    pub lockdown: String,
    /// The AppArmor or SELinux label of this process; empty without such a module.
    pub label: String,
    /// Whether processes have the host's numbers here.
    pub is_first_pid_namespace: bool,
    /// Whether there is one hierarchy of cgroups (version 2).
    pub is_unified: bool,
    /// `uname -r`.
    pub kernel: String,
    /// Locked bytes that this process may have; `None` is no limit.
    pub locked_bytes: Option<u64>,
}

impl Machine {
    /// As it is now, below this root.
    #[must_use]
    pub fn read(root: &Path) -> Machine {
        let text = |path: &str| text(&root.join(path));
        let sysctl = |name: &str| text(&format!("proc/sys/kernel/{name}")).trim().parse().ok();
        let status = text("proc/self/status");
        let hex = |key| u64::from_str_radix(value(&status, key), 16).unwrap_or(0);
        let cgroup = text("proc/self/cgroup");
        Machine {
            capabilities: hex("CapEff:"),
            bounding: hex("CapBnd:"),
            is_filtered: value(&status, "Seccomp:") == "2",
            paranoid: sysctl("perf_event_paranoid"),
            kptr_restrict: sysctl("kptr_restrict"),
            ptrace_scope: sysctl("yama/ptrace_scope"),
            lockdown: chosen(&text("sys/kernel/security/lockdown")).to_owned(),
            label: text("proc/self/attr/current").trim_end_matches(['\n', '\0']).to_owned(),
            is_first_pid_namespace: tracepoint::is_first_namespace(),
            is_unified: cgroup.lines().count() == 1 && cgroup.starts_with("0::"),
            kernel: text("proc/sys/kernel/osrelease").trim().to_owned(),
            locked_bytes: locked(&text("proc/self/limits")),
        }
    }

    /// Whether this process may do that.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities & capability.bit() != 0
    }

    /// Whether whoever started this process kept it from ever having that.
    #[must_use]
    pub fn is_barred(&self, capability: Capability) -> bool {
        self.bounding & capability.bit() == 0
    }
}

fn text(path: &Path) -> String {
    let mut text = String::new();
    // What cannot be read says nothing, and then what is tried has to say it.
    drop(File::open(path).and_then(|file| file.take(TEXT_BYTES_MAX).read_to_string(&mut text)));
    text
}

fn value<'a>(status: &'a str, key: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(key)).map_or("", str::trim)
}

/// The one in brackets: `none [integrity] confidentiality`.
fn chosen(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(chosen, _)| chosen)
}

/// The soft limit in `/proc/self/limits`.
fn locked(limits: &str) -> Option<u64> {
    value(limits, "Max locked memory").split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Capability, Machine, chosen, locked};

    #[test]
    fn a_machine_is_what_its_files_say() {
        let root = std::env::temp_dir().join(format!("machine-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/self/status", "CapEff:\t0000004000080000\nCapBnd:\t0000004000080004\nSeccomp:\t2\n");
        write("proc/sys/kernel/perf_event_paranoid", "4\n");
        write("proc/sys/kernel/kptr_restrict", "1\n");
        write("proc/sys/kernel/yama/ptrace_scope", "1\n");
        write("proc/sys/kernel/osrelease", "6.8.0-45-generic\n");
        write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        write("proc/self/attr/current", "docker-default (enforce)\n");
        write("proc/self/cgroup", "0::/user.slice\n");
        let machine = Machine::read(&root);
        std::fs::remove_dir_all(&root).unwrap();
        assert!(machine.has(Capability::Perfmon) && machine.has(Capability::SysPtrace));
        assert!(!machine.has(Capability::DacReadSearch) && !machine.is_barred(Capability::DacReadSearch));
        assert!(machine.is_barred(Capability::Syslog));
        assert_eq!(
            (machine.paranoid, machine.kptr_restrict, machine.ptrace_scope),
            (Some(4), Some(1), Some(1))
        );
        assert_eq!(
            (machine.lockdown.as_str(), machine.label.as_str()),
            ("integrity", "docker-default (enforce)")
        );
        assert!(machine.is_unified && machine.is_filtered);
        assert_eq!(machine.kernel, "6.8.0-45-generic");
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let is_first_pid_namespace = Machine::read(Path::new("/")).is_first_pid_namespace;
        assert_eq!(
            Machine::read(Path::new("/nowhere")),
            Machine { is_first_pid_namespace, ..Machine::default() }
        );
        assert_eq!((chosen(""), chosen("["), chosen("a [b] c")), ("", "", "b"));
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         8388608   8388608   bytes\n";
        assert_eq!(locked(limits), Some(8_388_608));
        assert_eq!(locked("Max locked memory         unlimited   unlimited   bytes\n"), None);
    }
}

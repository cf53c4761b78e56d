//! From what was tried and what the machine says to findings: pure, so that every machine can be made up in a test.

use super::machine::{Capability, Machine};
use super::{Finding, Part, State, Tried};
use crate::perf::attr::{Abilities, Level};
use crate::perf::events::RING_BYTES;
use crate::perf::refusal::Refusal;
use crate::perf::tracepoint::{Switches, Untraced};

/// From here on a setting that no kernel of kernel.org has: Debian's 3 and Ubuntu's 4.
const PARANOID_OF_DISTRIBUTIONS: i32 = 3;

/// One for each part, in the order of [`Part`].
#[must_use]
pub fn of(machine: &Machine, tried: &Tried) -> Vec<Finding> {
    vec![
        node_cpu(machine, tried),
        own_cpu(machine, tried),
        kernel_names(machine, tried),
        other_processes(machine, tried),
        other_files(machine),
        host_pids(machine),
        locked_memory(machine, tried),
        kernel(machine, tried),
        containers(machine),
        off_cpu(machine, tried),
        heap(machine),
    ]
}

fn ok(part: Part, seen: impl Into<String>) -> Finding {
    Finding { part, state: State::Ok, cause: seen.into(), cure: String::new() }
}

fn degraded(part: Part, cause: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { part, state: State::Degraded, cause: cause.into(), cure: cure.into() }
}

fn missing(part: Part, cause: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { part, state: State::Missing, cause: cause.into(), cure: cure.into() }
}

/// How one comes by a capability, by who withholds it.
fn give(machine: &Machine, capability: Capability, name: &str) -> String {
    if machine.is_barred(capability) {
        return format!(
            "whoever starts the agent bars CAP_{name}: add it to CapabilityBoundingSet= and AmbientCapabilities= of the \
             unit, or to securityContext.capabilities.add of the container as {name}"
        );
    }
    format!(
        "give the agent CAP_{name}: AmbientCapabilities=CAP_{name} in the unit, securityContext.capabilities.add: \
         [{name}] in the pod, or run it as root"
    )
}

fn refused(machine: &Machine, refusal: &Refusal) -> (String, String) {
    match refusal {
        Refusal::Paranoid { level } => {
            let whose = if *level >= PARANOID_OF_DISTRIBUTIONS {
                ", a level of Debian's and Ubuntu's that leaves nothing to those without it"
            } else {
                ""
            };
            let cause = format!("{refusal}{whose}");
            (cause, give(machine, Capability::Perfmon, "PERFMON"))
        }
        Refusal::Policy => {
            let mut cause = refusal.to_string();
            for (what, text) in [("lockdown", &machine.lockdown), ("label", &machine.label)] {
                if !text.is_empty() {
                    cause = format!("{cause} ({what}: {text})");
                }
            }
            (cause, refusal.cure().to_owned())
        }
        other => (other.to_string(), other.cure().to_owned()),
    }
}

fn node_cpu(machine: &Machine, tried: &Tried) -> Finding {
    match &tried.node {
        Ok(_) => ok(Part::NodeCpu, "every process of the node can be sampled"),
        Err(refusal) => {
            let (cause, cure) = refused(machine, refusal);
            missing(Part::NodeCpu, format!("{cause}: no CPU profiles of other users' processes"), cure)
        }
    }
}

fn own_cpu(machine: &Machine, tried: &Tried) -> Finding {
    match &tried.own {
        Ok(Abilities { is_kernel_seen: true, .. }) => {
            ok(Part::OwnCpu, "one's own processes can be sampled, the kernel's part included")
        }
        Ok(_) => degraded(
            Part::OwnCpu,
            format!(
                "kernel.perf_event_paranoid is {}: one's own processes can be sampled, without the kernel's part",
                machine.paranoid.unwrap_or(2)
            ),
            format!(
                "{}; or set kernel.perf_event_paranoid to 1",
                give(machine, Capability::Perfmon, "PERFMON")
            ),
        ),
        Err(refusal) => {
            let (cause, cure) = refused(machine, refusal);
            missing(Part::OwnCpu, format!("{cause}: profiles only where a process serves them itself"), cure)
        }
    }
}

fn kernel_names(machine: &Machine, tried: &Tried) -> Finding {
    if tried.is_kernel_named {
        return ok(Part::KernelNames, "the kernel's functions have names");
    }
    let cost = "kernel frames are addresses without names";
    match machine.kptr_restrict {
        Some(restrict @ 2..) => degraded(
            Part::KernelNames,
            format!("kernel.kptr_restrict is {restrict} and hides addresses from everybody: {cost}"),
            "set kernel.kptr_restrict to 1",
        ),
        _ if machine.has(Capability::Syslog) => degraded(
            Part::KernelNames,
            format!("/proc/kallsyms has no addresses although CAP_SYSLOG is there: {cost}"),
            "mount /proc without subset=pid, with CONFIG_KALLSYMS in the kernel, and outside a user namespace",
        ),
        restrict => degraded(
            Part::KernelNames,
            format!(
                "kernel.kptr_restrict is {} and the capability syslog is missing: {cost}",
                restrict.unwrap_or(0)
            ),
            give(machine, Capability::Syslog, "SYSLOG"),
        ),
    }
}

fn other_processes(machine: &Machine, tried: &Tried) -> Finding {
    let (unread, all) = tried.unread;
    let is_capable = machine.has(Capability::SysPtrace);
    if unread == 0 || is_capable && unread < all {
        // A security module may guard a few of them, and no capability helps there.
        return ok(
            Part::OtherProcesses,
            format!("maps of {} of {all} processes tried can be read", all - unread),
        );
    }
    let cost = "frames of those that ran before the agent have no files and no names";
    let cause = format!("maps of {unread} of {all} processes may not be read: {cost}");
    if is_capable {
        let cure = "run the agent in the host's user namespace, and look for denials of ptrace in the log";
        return degraded(Part::OtherProcesses, cause, cure);
    }
    degraded(
        Part::OtherProcesses,
        format!("the capability sys_ptrace is missing; {cause}"),
        give(machine, Capability::SysPtrace, "SYS_PTRACE"),
    )
}

fn other_files(machine: &Machine) -> Finding {
    if machine.has(Capability::DacReadSearch) || machine.has(Capability::DacOverride) {
        return ok(Part::OtherFiles, "executables can be read whoever owns them");
    }
    degraded(
        Part::OtherFiles,
        "the capability dac_read_search is missing: no names from executables in folders that their owners keep closed",
        give(machine, Capability::DacReadSearch, "DAC_READ_SEARCH"),
    )
}

fn host_pids(machine: &Machine) -> Finding {
    if machine.is_first_pid_namespace {
        return ok(Part::HostPids, "processes have the host's numbers");
    }
    degraded(
        Part::HostPids,
        "the agent is not in the host's pid namespace: samples of processes outside it come as process 0, without names",
        "set hostPID: true in the pod, or --pid=host for the container",
    )
}

fn locked_memory(machine: &Machine, tried: &Tried) -> Finding {
    let limit = match machine.locked_bytes {
        Some(bytes) => format!("RLIMIT_MEMLOCK is {} KiB", bytes >> 10),
        None => "RLIMIT_MEMLOCK is unlimited".to_owned(),
    };
    let cure = "set LimitMEMLOCK=64M in the unit, give CAP_IPC_LOCK, or raise kernel.perf_event_mlock_kb";
    match tried.node.as_ref().or(tried.own.as_ref()) {
        Ok(abilities) if abilities.ring_bytes >= RING_BYTES || machine.has(Capability::IpcLock) => {
            ok(Part::LockedMemory, format!("rings of {} KiB a CPU can be locked", abilities.ring_bytes >> 10))
        }
        Ok(abilities) => degraded(
            Part::LockedMemory,
            format!(
                "{limit} and may not be raised: rings have {} KiB a CPU instead of {}, and a busy node loses samples",
                abilities.ring_bytes >> 10,
                RING_BYTES >> 10
            ),
            cure,
        ),
        Err(refusal @ Refusal::Locked { .. }) => {
            missing(Part::LockedMemory, format!("{refusal}: {limit}"), cure)
        }
        // Without events there is nothing to lock, and that is told above.
        Err(_) => ok(Part::LockedMemory, limit),
    }
}

fn kernel(machine: &Machine, tried: &Tried) -> Finding {
    let release = &machine.kernel;
    let level = tried.node.as_ref().or(tried.own.as_ref()).map(|abilities| abilities.level);
    let lacks = match level {
        Ok(Level::Lost) => {
            return ok(Part::Kernel, format!("Linux {release} knows everything that is asked for"));
        }
        Ok(Level::BuildId) => ("6.0", "lost samples are counted only when the next one comes"),
        Ok(Level::Cgroup) => ("5.12", "programs that end at once are known by inode, not by build id"),
        Ok(Level::Ksymbol) => {
            ("5.7", "a sample's container is the one its process was in when it was last looked at")
        }
        Ok(Level::Basic) => ("5.1", "code that the kernel makes at run time has no names"),
        Err(Refusal::NoEvents) => {
            let cause = format!("Linux {release} is built without performance events");
            return missing(Part::Kernel, cause, Refusal::NoEvents.cure());
        }
        Err(Refusal::Unknown) => {
            let cause = format!("Linux {release} does not know the events");
            return missing(Part::Kernel, cause, Refusal::Unknown.cure());
        }
        Err(_) => return ok(Part::Kernel, format!("Linux {release}; what it knows was not to be tried")),
    };
    let (newer, cost) = lacks;
    degraded(Part::Kernel, format!("Linux {release}: {cost}"), format!("use Linux {newer} or newer"))
}

fn containers(machine: &Machine) -> Finding {
    if machine.is_unified {
        return ok(Part::Containers, "cgroups are one hierarchy (v2): each sample says its own");
    }
    degraded(
        Part::Containers,
        "cgroups are in several hierarchies (v1): a process's container is read when it is first seen or starts a program",
        "boot with systemd.unified_cgroup_hierarchy=1",
    )
}

fn off_cpu(machine: &Machine, tried: &Tried) -> Finding {
    match tried.waiting.as_ref().map(|abilities| abilities.switches) {
        Ok(Some(Switches::Counted(why))) => degraded(
            Part::OffCpu,
            format!(
                "{why}: waiting is seen, but other processes pay for it, and a disk is not told apart from sleep"
            ),
            why.cure(),
        ),
        Ok(Some(Switches::Timed)) if !tried.is_kernel_named => degraded(
            Part::OffCpu,
            "neither tracefs nor names of the kernel's functions are to be had: a disk is not told apart from sleep",
            Untraced::NotMounted.cure(),
        ),
        Ok(Some(Switches::Timed)) => ok(Part::OffCpu, "waiting is seen by each task's own clock"),
        Ok(_) => ok(Part::OffCpu, "waiting is seen by the scheduler's tracepoints"),
        Err(refusal) => {
            let (cause, cure) = refused(machine, refusal);
            missing(Part::OffCpu, format!("{cause}: no profile of what a process waits for"), cure)
        }
    }
}

fn heap(machine: &Machine) -> Finding {
    let own = "only of the agent's own children";
    match machine.ptrace_scope {
        Some(3..) => missing(
            Part::Heap,
            "kernel.yama.ptrace_scope is 3: nobody may read another process's memory until the next boot",
            "set kernel.yama.ptrace_scope to 1 at boot, or start the process with its pprof endpoint",
        ),
        _ if machine.has(Capability::SysPtrace) => {
            ok(Part::Heap, "other processes' memory may be read on request")
        }
        Some(scope @ 1..) => degraded(
            Part::Heap,
            format!(
                "kernel.yama.ptrace_scope is {scope} and the capability sys_ptrace is missing: heap profiles {own}"
            ),
            give(machine, Capability::SysPtrace, "SYS_PTRACE"),
        ),
        _ => degraded(
            Part::Heap,
            "the capability sys_ptrace is missing: heap profiles only of the same user's processes",
            give(machine, Capability::SysPtrace, "SYS_PTRACE"),
        ),
    }
}

#[cfg(test)]
mod tests;

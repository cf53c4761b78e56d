//! Machines that lack one thing, and what is said of it.

use super::super::machine::Machine;
use super::super::{Finding, Part, State, Tried, is_well};
use super::of;
use crate::perf::attr::{Abilities, Level, REGISTERS, STACK_BYTES, Scope};
use crate::perf::events::RING_BYTES;
use crate::perf::record::{Beside, Layout};
use crate::perf::refusal::Refusal;
use crate::perf::tracepoint::{Switches, Untraced};

const ALL: u64 = u64::MAX;
const PERFMON: u64 = 1 << 38;
const SYSLOG: u64 = 1 << 34;
const SYS_PTRACE: u64 = 1 << 19;
const DAC_READ_SEARCH: u64 = 1 << 2;
const DAC_OVERRIDE: u64 = 1 << 1;
const IPC_LOCK: u64 = 1 << 14;

fn whole() -> Machine {
    Machine {
        capabilities: ALL,
        bounding: ALL,
        paranoid: Some(2),
        kptr_restrict: Some(0),
        ptrace_scope: Some(1),
        is_first_pid_namespace: true,
        is_unified: true,
        kernel: "6.18.0".to_owned(),
        locked_bytes: Some(8 << 20),
        ..Machine::default()
    }
}

fn without(bits: u64) -> Machine {
    Machine { capabilities: !bits, ..whole() }
}

fn abilities() -> Abilities {
    Abilities {
        scope: Scope::Node,
        is_rate_fixed: false,
        is_kernel_seen: true,
        level: Level::Lost,
        ring_bytes: RING_BYTES,
        depth: 127,
        stack_bytes: STACK_BYTES,
        layout: Layout { registers: REGISTERS.len(), has_cgroup: true, beside: Beside::Nothing },
        switches: None,
    }
}

fn all_well() -> Tried {
    let abilities = Ok(abilities());
    let (node, own, waiting) = (abilities.clone(), abilities.clone(), abilities);
    Tried { node, own, waiting, is_kernel_named: true, unread: (0, 40) }
}

fn refused(refusal: &Refusal) -> Tried {
    let (node, waiting) = (Err(refusal.clone()), Err(refusal.clone()));
    let own = Ok(Abilities { scope: Scope::Tasks, is_kernel_seen: false, ..abilities() });
    Tried { node, own, waiting, ..all_well() }
}

/// These parts and no others are not whole, and the first one's cause and cure contain these words.
fn check(machine: &Machine, tried: &Tried, parts: &[(Part, State)], cause: &str, cure: &str) {
    let findings = of(machine, tried);
    let lacking: Vec<&Finding> = findings.iter().filter(|finding| finding.state != State::Ok).collect();
    let found: Vec<(Part, State)> = lacking.iter().map(|finding| (finding.part, finding.state)).collect();
    assert_eq!(found, parts, "{lacking:#?}");
    if let Some(first) = lacking.first() {
        assert!(first.cause.contains(cause), "{first:?}");
        assert!(first.cure.contains(cure), "{first:?}");
    }
    assert_eq!(is_well(&findings), !parts.iter().any(|(part, _)| part.is_default()));
    let pairs = findings.iter().map(|finding| (finding.state == State::Ok, finding.cure.is_empty()));
    assert!(pairs.clone().all(|(is_ok, has_no_cure)| is_ok == has_no_cure), "{findings:#?}");
}

#[test]
fn nothing_is_wrong_where_nothing_is_missing() {
    check(&whole(), &all_well(), &[], "", "");
}

#[test]
fn each_capability_costs_its_own_part() {
    use Part::{Heap, KernelNames, LockedMemory, NodeCpu, OffCpu, OtherFiles, OtherProcesses, OwnCpu};
    use State::{Degraded, Missing};
    let paranoid = |level| refused(&Refusal::Paranoid { level });
    let by_perfmon = [(NodeCpu, Missing), (OwnCpu, Degraded), (OffCpu, Missing)];
    check(&without(PERFMON), &paranoid(2), &by_perfmon, "perf_event_paranoid is 2", "CAP_PERFMON");
    let unnamed = Tried { is_kernel_named: false, ..all_well() };
    check(&without(SYSLOG), &unnamed, &[(KernelNames, Degraded)], "syslog is missing", "CAP_SYSLOG");
    let unread = Tried { unread: (3, 40), ..all_well() };
    let by_ptrace = [(OtherProcesses, Degraded), (Heap, Degraded)];
    check(&without(SYS_PTRACE), &unread, &by_ptrace, "maps of 3 of 40", "CAP_SYS_PTRACE");
    let files = without(DAC_READ_SEARCH | DAC_OVERRIDE);
    check(&files, &all_well(), &[(OtherFiles, Degraded)], "dac_read_search", "CAP_DAC_READ_SEARCH");
    let small = Abilities { ring_bytes: RING_BYTES / 4, ..abilities() };
    let small = Tried { node: Ok(small), ..all_well() };
    let locked = [(LockedMemory, Degraded)];
    check(&without(IPC_LOCK), &small, &locked, "128 KiB a CPU instead of 512", "LimitMEMLOCK");
}

#[test]
fn who_withholds_a_capability_is_told() {
    let barred = Machine { bounding: !SYSLOG, ..without(SYSLOG) };
    let unnamed = Tried { is_kernel_named: false, ..all_well() };
    check(&barred, &unnamed, &[(Part::KernelNames, State::Degraded)], "syslog", "CapabilityBoundingSet");
}

#[test]
fn distributions_have_levels_of_their_own() {
    for level in [3, 4] {
        let tried = Tried { own: Err(Refusal::Paranoid { level }), ..refused(&Refusal::Paranoid { level }) };
        let machine = Machine { paranoid: Some(level), ..without(PERFMON) };
        let parts =
            [(Part::NodeCpu, State::Missing), (Part::OwnCpu, State::Missing), (Part::OffCpu, State::Missing)];
        check(&machine, &tried, &parts, "Debian's and Ubuntu's", "CAP_PERFMON");
    }
}

#[test]
fn a_filter_a_policy_and_a_namespace_are_told_apart() {
    let parts =
        [(Part::NodeCpu, State::Missing), (Part::OwnCpu, State::Degraded), (Part::OffCpu, State::Missing)];
    check(&whole(), &refused(&Refusal::Seccomp), &parts, "seccomp filter", "seccomp profile");
    let locked_down = Machine { lockdown: "confidentiality".to_owned(), ..whole() };
    check(&locked_down, &refused(&Refusal::Policy), &parts, "lockdown: confidentiality", "lockdown");
    let confined = Machine { label: "docker-default (enforce)".to_owned(), ..whole() };
    check(&confined, &refused(&Refusal::Policy), &parts, "docker-default", "AppArmor");
    check(&whole(), &refused(&Refusal::Namespace), &parts, "user namespace", "host's user namespace");
}

#[test]
fn settings_cost_their_part() {
    use State::{Degraded, Missing};
    let unnamed = Tried { is_kernel_named: false, ..all_well() };
    let hidden = Machine { kptr_restrict: Some(2), ..whole() };
    check(&hidden, &unnamed, &[(Part::KernelNames, Degraded)], "kptr_restrict is 2", "kptr_restrict to 1");
    let guarded = Tried { unread: (1, 40), ..all_well() };
    check(&whole(), &guarded, &[], "", "");
    let closed_off = Tried { unread: (40, 40), ..all_well() };
    let parts = [(Part::OtherProcesses, Degraded)];
    check(&whole(), &closed_off, &parts, "maps of 40 of 40", "host's user namespace");
    let inside = Machine { is_first_pid_namespace: false, ..whole() };
    check(&inside, &all_well(), &[(Part::HostPids, Degraded)], "pid namespace", "hostPID: true");
    let old = Machine { is_unified: false, ..whole() };
    check(&old, &all_well(), &[(Part::Containers, Degraded)], "v1", "unified_cgroup_hierarchy");
    let closed = Machine { ptrace_scope: Some(3), ..whole() };
    check(&closed, &all_well(), &[(Part::Heap, Missing)], "ptrace_scope is 3", "ptrace_scope to 1");
    let yama = Machine { ptrace_scope: Some(1), ..without(SYS_PTRACE) };
    check(&yama, &all_well(), &[(Part::Heap, Degraded)], "ptrace_scope is 1", "CAP_SYS_PTRACE");
}

#[test]
fn tracefs_is_missing_for_several_reasons() {
    let timed = Abilities { switches: Some(Switches::Timed), ..abilities() };
    check(&whole(), &Tried { waiting: Ok(timed), ..all_well() }, &[], "", "");
    let nameless = Tried { waiting: Ok(timed), is_kernel_named: false, ..all_well() };
    let parts = [(Part::KernelNames, State::Degraded), (Part::OffCpu, State::Degraded)];
    let lacking: Vec<(Part, State)> = of(&whole(), &nameless)
        .into_iter()
        .filter(|finding| finding.state != State::Ok)
        .map(|finding| (finding.part, finding.state))
        .collect();
    assert_eq!(lacking, parts);
    for why in [Untraced::NotMounted, Untraced::Forbidden, Untraced::Unknown, Untraced::Refused] {
        let counted = Abilities { switches: Some(Switches::Counted(why)), ..abilities() };
        let tried = Tried { waiting: Ok(counted), ..all_well() };
        check(&whole(), &tried, &[(Part::OffCpu, State::Degraded)], &why.to_string(), why.cure());
    }
}

#[test]
fn an_older_kernel_says_what_it_lacks() {
    for (level, newer) in
        [(Level::BuildId, "6.0"), (Level::Cgroup, "5.12"), (Level::Ksymbol, "5.7"), (Level::Basic, "5.1")]
    {
        let tried = Tried { node: Ok(Abilities { level, ..abilities() }), ..all_well() };
        check(&whole(), &tried, &[(Part::Kernel, State::Degraded)], "6.18.0", newer);
    }
    for refusal in [Refusal::NoEvents, Refusal::Unknown] {
        let error = || Err(refusal.clone());
        let tried = Tried { node: error(), own: error(), waiting: error(), ..all_well() };
        let findings = of(&whole(), &tried);
        let kernel = findings.iter().find(|finding| finding.part == Part::Kernel).unwrap();
        assert_eq!(kernel.state, State::Missing, "{kernel:?}");
    }
}

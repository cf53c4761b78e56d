//! Stories of a node that is well, and of one that is the cause itself.

use model::finding::NodeCheck;
use model::host::{CpuTimes, Disk, HostFact, Pressure, Process};
use model::record::Fact;

use super::Node;
use crate::story::{record, stamp};

/// What a second of the node is like.
#[derive(Clone, Copy)]
struct Second {
    /// Of 1,000 ms of one CPU: etcd's use, others' use, steal.
    own_ms: u64,
    others_ms: u64,
    steal_ms: u64,
    /// 100 requests a second, each so long.
    await_ms: u64,
    busy_ms: u64,
    stall_ms: u64,
    available_percent: u64,
}

const WELL: Second = Second {
    own_ms: 100,
    others_ms: 100,
    steal_ms: 2,
    await_ms: 1,
    busy_ms: 100,
    stall_ms: 10,
    available_percent: 60,
};

const ONSET: u32 = 400;

/// A reading every 5 s of a node that is `well`, and `then` from `from` on; checked at the onset for `member`.
fn checked(member: &str, (well, then): (Second, Second), from: u32) -> NodeCheck {
    let mut node = Node::default();
    let mut fact = HostFact { cpus: 1, memory_total_bytes: 100, ..HostFact::default() };
    for now in 0..ONSET + 30 {
        if now % 5 == 0 {
            node.observe(&record(f64::from(now), "", Fact::Host(fact.clone())));
        }
        grow(&mut fact, if now < from { well } else { then });
    }
    node.check(member, stamp(f64::from(ONSET)))
}

fn grow(fact: &mut HostFact, second: Second) {
    const MS: u64 = 1_000_000;
    let Second { own_ms, others_ms, steal_ms, await_ms, busy_ms, stall_ms, available_percent } = second;
    let CpuTimes { user_ns, system_ns, idle_ns, steal_ns, .. } = &mut fact.cpu;
    *user_ns += own_ms * MS;
    *system_ns += others_ms * MS;
    *steal_ns += steal_ms * MS;
    *idle_ns += (1_000 - own_ms - others_ms - steal_ms) * MS;
    fact.memory_available_bytes = available_percent;
    let stalled = fact.pressure.get_or_insert(Pressure::default());
    stalled.cpu_us += stall_ms * 1_000;
    stalled.io_us += stall_ms * 1_000;
    stalled.memory_us += stall_ms * 1_000;
    if fact.processes.is_empty() {
        fact.disks.push(Disk { name: "vda".to_owned(), ..Disk::default() });
        fact.processes.push(Process { pid: 7, role: Some("m1".to_owned()), ..Process::default() });
    }
    fact.processes[0].cpu_ns += own_ms * MS;
    let disk = &mut fact.disks[0];
    disk.writes += 100;
    disk.write_ms += 100 * await_ms;
    disk.busy_ms += busy_ms;
}

/// What is excluded, and what is a rival, when the node is `then` from `from` on.
fn check(then: Second, from: u32, rivals: &[&str]) -> Vec<String> {
    match checked("m1", (WELL, then), from) {
        NodeCheck::Checked { excluded, rivals: found } => {
            assert_eq!(found.len(), rivals.len(), "{found:?}");
            for (found, expected) in found.iter().zip(rivals) {
                assert!(found.starts_with(expected), "{found:?} is not {expected:?}");
            }
            excluded
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_that_is_well_is_excluded_with_its_figures() {
    let excluded = check(WELL, ONSET, &[]);
    assert_eq!(
        excluded,
        [
            "cpu 20 % busy (20 % before), 50 % of it not by etcd, stalls 1.0 %",
            "steal 0.2 % (0.2 % before)",
            "disk vda await 1.0 ms (1.0 ms before), 10 % busy, io stalls 1.0 %",
            "memory 60 % available (60 % before), stalls 1.0 %",
        ]
    );
}

#[test]
fn steal_that_began_before_the_onset_or_with_it_is_a_rival() {
    let stolen = Second { steal_ms: 310, ..WELL };
    check(stolen, ONSET, &["steal 31 % (0.2 % before)"]);
    check(stolen, ONSET - 30, &["steal 31 % (3.3 % before)"]);
    check(stolen, ONSET + 15, &[]);
}

#[test]
fn what_was_always_so_explains_no_change() {
    let stolen = Second { steal_ms: 310, ..WELL };
    let check = checked("m1", (stolen, stolen), ONSET);
    let NodeCheck::Checked { excluded, rivals } = check else { panic!("{check:?}") };
    assert_eq!((rivals.len(), excluded[1].as_str()), (0, "steal 31 % (31 % before)"));
}

#[test]
fn a_saturated_disk_is_a_rival_and_a_busy_fast_one_is_not() {
    check(Second { await_ms: 40, busy_ms: 990, ..WELL }, ONSET, &["disk vda await 40.0 ms (1.0 ms before)"]);
    check(Second { await_ms: 40, stall_ms: 600, ..WELL }, ONSET, &["disk vda", "memory 60 % available"]);
    check(Second { await_ms: 2, busy_ms: 990, ..WELL }, ONSET, &[]);
    check(Second { await_ms: 40, ..WELL }, ONSET, &[]);
}

#[test]
fn a_cpu_that_others_fill_is_a_rival_and_one_that_etcd_fills_is_the_trouble_itself() {
    check(Second { others_ms: 880, ..WELL }, ONSET, &["cpu 98 % busy (20 % before), 90 % of it not by etcd"]);
    check(Second { own_ms: 880, ..WELL }, ONSET, &[]);
}

#[test]
fn memory_that_runs_out_is_a_rival() {
    check(Second { available_percent: 3, ..WELL }, ONSET, &["memory 3.0 % available (60 % before)"]);
}

#[test]
fn members_of_other_hosts_and_moments_without_readings_are_not_checked() {
    let not_checked = |node: &Node, member: &str, at: u32| match node.check(member, stamp(f64::from(at))) {
        NodeCheck::NotChecked(why) => why,
        checked => panic!("{checked:?}"),
    };
    let why = checked("m9", (WELL, WELL), ONSET);
    assert_eq!(why, NodeCheck::NotChecked("no process of m9 is seen on this node".to_owned()));
    let mut node = Node::default();
    assert_eq!(not_checked(&node, "", 1), "no member's process is seen on this node");
    let mut fact = HostFact::default();
    for now in 0..20 {
        grow(&mut fact, WELL);
        node.observe(&record(f64::from(now * 5), "", Fact::Host(fact.clone())));
    }
    assert_eq!(not_checked(&node, "m1", 99), "no reading of the node since the onset");
    assert_eq!(not_checked(&node, "m1", 0), "no reading of the node from before the onset");
    // After a gap nothing is known of the time before it.
    node.observe(&record(4_000.0, "", Fact::Host(fact.clone())));
    assert_eq!(not_checked(&node, "", 50), "no reading of the node since the onset");
}

#[test]
fn readings_are_bounded() {
    let mut node = Node::default();
    for now in 0..5_000 {
        node.observe(&record(f64::from(now), "", Fact::Host(HostFact::default())));
    }
    assert_eq!(node.spans.len(), super::SPANS_MAX);
    let state = postcard::to_stdvec(&node).unwrap();
    assert!(state.len() < 100_000, "{} bytes", state.len());
}

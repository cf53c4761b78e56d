//! Lives of processes, told by records.

use super::super::record::{Birth, Identity, Meta, Mmap, Record, Sample, Words};
use super::{BYTES_MAX, Found, GRACE_NS, PROCESSES_MAX, Processes};

fn at(time_ns: u64) -> Meta {
    Meta { time_ns, ..Meta::default() }
}

fn fork(processes: &mut Processes, parent: u32, pid: u32, time_ns: u64) {
    let birth = Birth { pid, parent_pid: parent, tid: pid, parent_tid: parent };
    processes.apply(&at(time_ns), &Record::Fork(birth));
}

fn thread(processes: &mut Processes, pid: u32, tid: u32) {
    let birth = Birth { pid, parent_pid: pid, tid, parent_tid: pid };
    processes.apply(&at(0), &Record::Fork(birth));
}

fn exit(processes: &mut Processes, pid: u32, tid: u32, time_ns: u64) {
    let death = Birth { pid, parent_pid: 1, tid, parent_tid: 1 };
    processes.apply(&at(time_ns), &Record::Exit(death));
}

fn name(processes: &mut Processes, pid: u32, tid: u32, name: &str) {
    processes.apply(&at(0), &Record::Comm { pid, tid, is_exec: false, name: name.as_bytes() });
}

fn exec(processes: &mut Processes, pid: u32, name: &str, path: &str) {
    processes.apply(&at(0), &Record::Comm { pid, tid: pid, is_exec: true, name: name.as_bytes() });
    map(processes, pid, 0x1000, path);
}

fn map(processes: &mut Processes, pid: u32, start: u64, path: &str) {
    let identity = Identity::Inode { major: 0, minor: 0, inode: 1 };
    let range = Mmap { pid, start, length: 0x1000, offset: 0, identity, path: path.as_bytes() };
    processes.apply(&at(0), &Record::Mmap(range));
}

/// The name of a process and the file at an address.
fn seen(processes: &Processes, pid: u32) -> Option<(String, String)> {
    let process = processes.get(pid)?;
    let path = process.mappings.locate(0x1800).map(|place| place.module.path.display().to_string());
    Some((process.name().to_string(), path.unwrap_or_default()))
}

fn pair(name: &str, path: &str) -> Option<(String, String)> {
    Some((name.to_owned(), path.to_owned()))
}

#[test]
fn fork_inherits_and_exec_replaces() {
    let mut processes = Processes::default();
    processes.found(10, Found { name: "bash", ..Found::default() });
    map(&mut processes, 10, 0x1000, "/bin/bash");
    fork(&mut processes, 10, 11, 1);
    assert_eq!(seen(&processes, 11), pair("bash", "/bin/bash"));
    map(&mut processes, 11, 0x5000, "/lib/only-of-the-child");
    assert_eq!(processes.get(10).unwrap().mappings.len(), 1, "the parent has its own");
    exec(&mut processes, 11, "true", "/bin/true");
    assert_eq!(seen(&processes, 11), pair("true", "/bin/true"));
    assert_eq!(processes.get(11).unwrap().mappings.len(), 1);
    assert_eq!(seen(&processes, 10), pair("bash", "/bin/bash"));
}

#[test]
fn a_number_that_comes_again_is_another_process() {
    let mut processes = Processes::default();
    fork(&mut processes, 1, 10, 1);
    exec(&mut processes, 10, "first", "/bin/first");
    let first = processes.get(10).unwrap().generation;
    exit(&mut processes, 10, 10, 5);
    fork(&mut processes, 1, 10, 6);
    exec(&mut processes, 10, "second", "/bin/second");
    let second = processes.get(10).unwrap().generation;
    assert!(second > first);
    // The death of the first is over; it must not take the second with it.
    processes.expire(5 + GRACE_NS);
    assert_eq!(seen(&processes, 10), pair("second", "/bin/second"));
    // Its exit was lost, the number comes a third time: nothing of the second is left.
    fork(&mut processes, 1, 10, 8);
    assert_eq!(seen(&processes, 10), pair("", ""));
}

#[test]
fn the_dead_stay_for_a_while() {
    let mut processes = Processes::default();
    fork(&mut processes, 1, 10, 1);
    exec(&mut processes, 10, "short", "/bin/short");
    exit(&mut processes, 10, 10, 100);
    processes.expire(100 + GRACE_NS - 1);
    assert_eq!(seen(&processes, 10), pair("short", "/bin/short"));
    processes.expire(100 + GRACE_NS);
    assert_eq!((processes.len(), processes.bytes()), (0, 0));
}

#[test]
fn a_process_outlives_its_first_thread() {
    let mut processes = Processes::default();
    fork(&mut processes, 1, 10, 1);
    thread(&mut processes, 10, 11);
    exit(&mut processes, 10, 10, 5);
    let empty = Words::default();
    let sample = Sample {
        address: 1,
        is_in_kernel: false,
        kernel: empty,
        user: empty,
        registers: empty,
        stack: &[],
        cgroup: 0,
        period: 0,
        raw: &[],
        stint: None,
    };
    processes.apply(&Meta { pid: 10, tid: 11, time_ns: 6, ..Meta::default() }, &Record::Sample(sample));
    processes.expire(u64::MAX);
    assert!(processes.get(10).is_some());
    // Nobody will tell of the first thread again: the others take the process with them.
    exit(&mut processes, 10, 11, 7);
    processes.expire(7 + GRACE_NS);
    assert!(processes.is_empty());
}

#[test]
fn an_exit_that_was_lost_is_made_up_for() {
    let mut processes = Processes::default();
    fork(&mut processes, 1, 10, 1);
    fork(&mut processes, 1, 11, 1);
    processes.end_unless(5, |pid| pid == 11);
    processes.expire(5 + GRACE_NS);
    assert!(processes.get(10).is_none() && processes.get(11).is_some());
}

#[test]
fn threads_have_names_of_their_own() {
    let mut processes = Processes::default();
    processes.found(10, Found { name: "java", threads: vec![(11, "GC".into())], ..Found::default() });
    thread(&mut processes, 10, 12);
    name(&mut processes, 10, 12, "C2 CompilerThread0");
    let names = |processes: &Processes| {
        [10, 11, 12, 13].map(|tid| processes.get(10).unwrap().thread_name(tid).to_string())
    };
    assert_eq!(names(&processes), ["java", "GC", "C2 CompilerThre", "java"]);
    exit(&mut processes, 10, 11, 1);
    assert_eq!(names(&processes)[1], "java");
    // A child of a thread begins with that thread's name.
    let birth = Birth { pid: 20, parent_pid: 10, tid: 20, parent_tid: 12 };
    processes.apply(&at(0), &Record::Fork(birth));
    assert_eq!(&**processes.get(20).unwrap().name(), "C2 CompilerThre");
    exec(&mut processes, 10, "sh", "/bin/sh");
    assert_eq!(names(&processes), ["sh"; 4]);
}

#[test]
fn what_is_found_does_not_overwrite_what_was_told() {
    let mut processes = Processes::default();
    exec(&mut processes, 10, "new", "/bin/new");
    processes.found(10, Found { name: "old", ..Found::default() });
    assert_eq!(seen(&processes, 10), pair("new", "/bin/new"));
}

#[test]
fn a_storm_of_processes_stays_within_bounds() {
    let mut processes = Processes::default();
    processes.found(1, Found { name: "init", ..Found::default() });
    for page in 0..50 {
        map(&mut processes, 1, 0x1000 + page * 0x10_000, "/sbin/init");
    }
    for pid in 2..50_000 {
        let time = u64::from(pid);
        fork(&mut processes, 1, pid, time);
        exec(&mut processes, pid, "true", "/bin/true");
        exit(&mut processes, pid, pid, time);
        assert!(processes.len() <= PROCESSES_MAX && processes.bytes() <= BYTES_MAX);
    }
    assert_eq!(processes.refused().processes, 0, "the dead make room");
    assert_eq!(seen(&processes, 49_999), pair("true", "/bin/true"));
    // When none of them ends, what comes too late is refused and counted; those that are there stay right.
    for pid in 1_000_000..1_040_000 {
        fork(&mut processes, 1, pid, 0);
    }
    assert!(processes.len() <= PROCESSES_MAX && processes.bytes() <= BYTES_MAX);
    assert!(processes.refused().processes > 0);
    processes.expire(u64::MAX);
    assert_eq!(seen(&processes, 1), pair("init", "/sbin/init"));
}

#[test]
fn a_cgroup_is_inherited_and_learnt() {
    use super::super::cgroup::Cgroup;
    let mut processes = Processes::default();
    processes.apply(&at(0), &Record::Cgroup { id: 7, path: b"/docker/x" });
    let path =
        |processes: &Processes, pid: u32| processes.get(pid).unwrap().cgroup.clone().unwrap().path.clone();
    assert_eq!(processes.cgroups().get(7).unwrap().path, "/docker/x");
    let found = Found { name: "a", cgroup: Some(Cgroup::new("/a.service").into()), ..Found::default() };
    processes.found(10, found);
    fork(&mut processes, 10, 11, 0);
    exec(&mut processes, 11, "b", "/b");
    assert_eq!(path(&processes, 11), "/a.service");
    processes.learn_cgroup(Some(8), 11, &Cgroup::new("/b.service").into());
    assert_eq!((path(&processes, 10), path(&processes, 11)), ("/a.service".into(), "/b.service".into()));
    assert_eq!(processes.cgroups().get(8).unwrap().path, "/b.service");
}

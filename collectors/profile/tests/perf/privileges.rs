//! CPUs, cgroups and users: what is allowed, what is refused and how, and what is left then.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use profile::perf::attr::{Hz, Measure, Scope};
use profile::perf::cpus;
use profile::perf::events::{Events, RING_BYTES, Sizes};
use profile::perf::refusal::{Refusal, Situation};
use profile::perf::session::{End, Plan};
use profile::perf::target::Target;

use crate::copies;
use crate::program::{Program, chain, is_near, is_node_ours, noting, run_chain, until};

#[test]
fn cpus_that_go_and_come_are_followed() {
    if !is_node_ours() {
        return;
    }
    let mut events = Events::open(&Target::Node, (Measure::Running, Hz::STEADY), Sizes::default()).unwrap();
    events.start().unwrap();
    let online = cpus::online();
    let held = (events.cpus(), events.files(), events.locked_bytes());
    assert_eq!((held.0, held.1), (online.len(), 2 * online.len()));
    events.follow(&online[..1]).unwrap();
    assert_eq!((events.cpus(), events.files()), (1, 2));
    events.follow(&online).unwrap();
    assert_eq!((events.cpus(), events.files(), events.locked_bytes()), held);
    assert_eq!((events.lost(), events.torn()), (Some(0), 0));
    let offline = online.iter().max().unwrap() + 1;
    let refusal = events.follow(&[&online[..], &[offline]].concat()).unwrap_err();
    assert!(matches!(refusal, Refusal::Offline { .. } | Refusal::Unknown), "{refusal}");
}

#[test]
fn what_is_no_cgroup_is_refused_with_a_cure() {
    if !is_node_ours() {
        return;
    }
    for path in ["/nowhere", "/etc/hostname", "/tmp"] {
        let refusal =
            Events::open(&Target::Cgroup(path.into()), (Measure::Running, Hz::STEADY), Sizes::default())
                .unwrap_err();
        assert_eq!(refusal.label(), "cgroup", "{path}: {refusal}");
        assert!(refusal.to_string().contains(path) && !refusal.cure().is_empty());
    }
}

#[test]
fn the_root_of_the_cgroups_is_the_whole_node() {
    if !is_node_ours() {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let unified =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|line| line[2] == "cgroup2");
    let root = unified.expect("mount cgroup2 somewhere")[1].to_owned();
    let (program, _) = run_chain(&[]);
    let (session, notes) = noting(&Plan::new(Target::Cgroup(root.into()), Hz::TRIGGERED));
    let is_there =
        || notes.lock().unwrap().iter().any(|note| note.pid == program.pid() && note.name == "chain");
    until("a sample of the program", is_there);
    assert_eq!(session.stop().end, End::Stopped);
}

/// Set for the copy of this program that runs as nobody.
const AS_NOBODY: &str = "PERF_TEST_AS_NOBODY";

#[test]
fn without_privileges_ones_own_programs_can_be_profiled() {
    if env::var_os(AS_NOBODY).is_some() {
        return profile_as_nobody();
    }
    let folder = chain().parent().unwrap();
    let copy = folder.join("as-nobody");
    copies::copy(&env::current_exe().unwrap(), &copy);
    let name = "privileges::without_privileges_ones_own_programs_can_be_profiled";
    // Without locked memory beyond what the kernel gives every user for this, and without the right to raise it.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -l 0; exec \"$0\" \"$@\""]).arg(&copy).args(["--exact", name, "--nocapture"]);
    command.env(AS_NOBODY, folder).current_dir("/");
    if Situation::read().is_capable {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    fs::remove_file(copy).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "it did not run: {said}");
}

fn profile_as_nobody() {
    let situation = Situation::read();
    assert!(!situation.is_capable, "{situation:?}");
    let program = PathBuf::from(env::var_os(AS_NOBODY).unwrap()).join("chain");
    let mut child = Command::new(&program).stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let child = Program(child);

    // The node is not ours, and neither is the first process: each refusal says why.
    let refusal = Events::open(&Target::Node, (Measure::Running, Hz::ASKED), Sizes::default()).unwrap_err();
    let level = situation.paranoid;
    assert_eq!(
        refusal,
        Refusal::Paranoid { level },
        "set kernel.perf_event_paranoid to 1 or 2 for this test"
    );
    assert!(refusal.cure().contains("CAP_PERFMON"));
    let foreign =
        Events::open(&Target::Pids(vec![1]), (Measure::Running, Hz::ASKED), Sizes::default()).unwrap_err();
    assert_eq!(foreign, Refusal::Foreign { tid: 1 });
    let gone =
        Events::open(&Target::Pids(vec![u32::MAX / 4]), (Measure::Running, Hz::ASKED), Sizes::default())
            .unwrap_err();
    assert!(matches!(gone, Refusal::Gone { .. }), "{gone}");

    // Waiting is the kernel's to tell.
    let waiting = (Measure::Waiting, Hz::ASKED);
    let waits = Events::open(&Target::Pids(vec![child.pid()]), waiting, Sizes::default());
    assert!(level < 2 || matches!(waits, Err(Refusal::Paranoid { .. })), "{waits:?}");

    rings_shrink_where_memory_may_not_be_locked(child.pid());

    let plan = Plan::new(Target::Pids(vec![child.pid()]), Hz::ASKED);
    until("a ring of its own", || {
        Events::open(&plan.target, (Measure::Running, Hz::ASKED), Sizes::default()).is_ok()
    });
    let (session, notes) = noting(&plan);
    let abilities = session.abilities();
    assert_eq!(abilities.scope, Scope::Tasks);
    assert_eq!(abilities.is_kernel_seen, level < 2);
    assert_eq!(session.set_rate(Hz::STEADY), Err(Refusal::FixedRate));
    // An event of a task runs with the task: the count is that of its CPU time, whatever else runs.
    let before = child.cpu_ns();
    child.run_until(before + 1_500_000_000);
    let ran = child.cpu_ns() - before;
    let outcome = session.stop();
    let expected = Duration::from_nanos(ran).as_secs_f64() * 99.0;
    println!("{} samples as nobody, {expected:.0} expected: {:?}", outcome.statistics.samples, abilities);
    assert!(is_near(outcome.statistics.samples, expected), "{:?}, {expected} expected", outcome.statistics);
    let notes = notes.lock().unwrap();
    assert!(notes.iter().all(|note| note.pid == child.pid() && note.name == "chain"));
    assert!(level < 2 || notes.iter().all(|note| note.kernel_frames == 0));
    assert_eq!((outcome.statistics.lost, outcome.statistics.unattributed), (0, 0));
}

fn rings_shrink_where_memory_may_not_be_locked(pid: u32) {
    let target = Target::Pids(vec![pid]);
    // The first takes half of what is allowed, the next what is left.
    let half = Sizes { ring_bytes: RING_BYTES / 2, ..Sizes::default() };
    let mut held = Vec::new();
    // Where this user runs the other stories too, they have some of it for as long as they last.
    until("memory that may be locked", || {
        held.extend(Events::open(&target, (Measure::Running, Hz::STEADY), half).ok());
        !held.is_empty()
    });
    let refusal = loop {
        match Events::open(&target, (Measure::Running, Hz::STEADY), Sizes::default()) {
            Ok(events) => held.push(events),
            Err(refusal) => break refusal,
        }
        assert!(held.len() < 100, "there is no limit");
    };
    assert!(matches!(refusal, Refusal::Locked { .. }), "{refusal}");
    let sizes: Vec<_> = held.iter().map(|events| events.abilities().ring_bytes).collect();
    println!("rings of {sizes:?}, then: {refusal}");
    assert!(sizes.iter().any(|size| *size < RING_BYTES));
}

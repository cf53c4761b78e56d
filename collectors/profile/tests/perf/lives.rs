//! Processes that come and go, and the stacks that are theirs.

use std::collections::HashSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use profile::perf::attr::{Hz, Scope};
use profile::perf::record::Identity;
use profile::perf::session::{End, Plan, Session};
use profile::perf::stacks::Stacks;
use profile::perf::target::Target;

use crate::program::{Note, chain_path, is_node_ours, noting, run_chain, until};

#[test]
fn each_of_200_programs_that_live_a_millisecond_is_known() {
    if !is_node_ours() {
        return;
    }
    let mut known = 0;
    // Four sessions: the dead are kept for ten seconds, and fifty programs start in that time on any machine.
    for _ in 0..4 {
        let session = Session::start(&Plan::new(Target::Node, Hz::ASKED), Stacks::default()).unwrap();
        let children: Vec<u32> = (0..50)
            .map(|_| {
                let mut child = Command::new("/bin/true").spawn().unwrap();
                child.wait().unwrap();
                child.id()
            })
            .collect();
        let outcome = session.stop();
        assert!(outcome.statistics.execs >= 50, "{:?}", outcome.statistics);
        let is_known = |pid: &&u32| {
            let Some(process) = outcome.processes.get(**pid) else { return false };
            let program = process.mappings.iter().find(|mapping| mapping.module.path.ends_with("true"));
            let has_id = program.is_some_and(|found| matches!(found.module.identity, Identity::BuildId(..)));
            &**process.name() == "true" && process.ended_ns().is_some() && has_id
        };
        known += children.iter().filter(is_known).count();
    }
    assert_eq!(known, 200);
}

#[test]
fn a_known_call_chain_is_seen_as_it_is() {
    let (program, functions) = run_chain(&[]);
    let plan = Plan::new(Target::Pids(vec![program.pid()]), Hz::TRIGGERED);
    let (session, notes) = noting(&plan);
    let scope = if is_node_ours() { Scope::Node } else { Scope::Tasks };
    assert_eq!(session.abilities().scope, scope);
    until("a hundred samples", || notes.lock().unwrap().len() >= 100);
    let outcome = session.stop();
    let notes = notes.lock().unwrap();
    assert!(notes.iter().all(|note| note.pid == program.pid() && note.name == "chain"));
    // The functions lie one after the other: an address belongs to the last that begins before it.
    let function = |address: &u64| {
        let before = functions.iter().filter(|start| *start <= address);
        before.max().and_then(|start| functions.iter().position(|own| own == start))
    };
    let is_right = |note: &&Note| {
        let chain: Vec<_> = note.user.iter().take(4).map(function).collect();
        let is_file = note.files.iter().take(4).all(|file| file == chain_path());
        chain == [Some(0), Some(1), Some(2), Some(3)] && is_file
    };
    let right = notes.iter().filter(is_right).count();
    // At its edges a function has no frame yet or no more: that is the unwinder's to mend.
    assert!(right * 100 >= notes.len() * 95, "{right} of {}: {:x?} in {functions:x?}", notes.len(), notes[0]);
    let has_registers = |note: &Note| {
        let [_frame, stack, instruction] = note.registers[..] else { return false };
        instruction == note.user[0] && stack % 8 == 0 && note.stack_bytes >= 256
    };
    assert!(!cfg!(target_arch = "x86_64") || notes.iter().all(has_registers), "{:x?}", notes[0]);
    assert!(notes.windows(2).all(|two| two[0].time_ns <= two[1].time_ns));
    assert_eq!((outcome.statistics.unattributed, outcome.statistics.malformed), (0, 0));
}

#[test]
fn children_that_live_for_milliseconds_are_followed_and_named() {
    if !is_node_ours() {
        return;
    }
    let mut plan = Plan::new(Target::Pids(vec![std::process::id()]), Hz::new(1999).unwrap());
    // Rings for seconds: what is tested is not how fast we read while others have the CPUs.
    plan.sizes.ring_bytes = 4 << 20;
    let (session, notes) = noting(&plan);
    let mut children = HashSet::new();
    for _ in 0..50 {
        let (mut program, _) = run_chain(&["4"]);
        program.0.wait().unwrap();
        children.insert(program.pid());
    }
    let outcome = session.stop();
    let notes = notes.lock().unwrap();
    let (inside, outside): (Vec<_>, Vec<_>) = notes.iter().partition(|note| children.contains(&note.pid));
    let in_program = |note: &&&Note| note.files.first().is_some_and(|file| file == chain_path());
    let seen: HashSet<u32> = inside.iter().filter(in_program).map(|note| note.pid).collect();
    println!("{} of 50 seen in their own code, {:?}", seen.len(), outcome.statistics);
    assert!(seen.len() >= 45, "{} of 50 were seen in their own code", seen.len());
    assert!(inside.iter().filter(in_program).all(|note| note.name == "chain"));
    // Other stories of this file start programs too, and those are children of ours as well.
    assert!(outside.iter().all(|note| !note.name.is_empty()));
    assert_eq!(outcome.statistics.unattributed, 0);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it lived is what is asked")]
fn a_session_of_programs_that_end_ends() {
    let (program, _) = run_chain(&["300"]);
    let (pid, began) = (program.pid(), Instant::now());
    let (session, notes) = noting(&Plan::new(Target::Pids(vec![pid]), Hz::TRIGGERED));
    let stat = format!("/proc/{pid}/stat");
    until("it has ended", || fs::read_to_string(&stat).unwrap().contains(") Z "));
    let lived = began.elapsed();
    // The child is not reaped before the session has ended: a zombie is as good as gone.
    let outcome = session.wait();
    assert_eq!(outcome.end, End::TargetsGone);
    // However much later that is seen, what was watched ended with it.
    let told = Duration::from_nanos(outcome.statistics.wall_ns);
    assert!(told <= lived, "{told:?} of {lived:?}");
    assert!(!notes.lock().unwrap().is_empty());
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    if !is_node_ours() {
        return;
    }
    let mut plan = Plan::new(Target::Node, Hz::ASKED);
    plan.length = Some(Duration::from_millis(300));
    let outcome = Session::start(&plan, Stacks::default()).unwrap().wait();
    assert_eq!(outcome.end, End::Over);
    assert!(outcome.statistics.wall_ns >= 300_000_000 && outcome.statistics.cpu_ns > 0);
}

//! How long a program waits, and in which call.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use model::time::Stamp;
use profile::kernel::{Kernel, Wish};
use profile::perf::attr::{Hz, Measure, STACK_BYTES, Scope};
use profile::perf::session::{End, Plan};
use profile::perf::session::{Wait, WaitKind};
use profile::perf::target::Target;
use profile::perf::tracepoint::{Switches, Untraced, Way};

use crate::kernel::has_clocks;
use crate::program::{Note, Program, chain, chain_path, is_node_ours, noting, until};
use crate::sleeper::Sleeper;

#[test]
fn a_program_waits_as_long_as_it_says_where_it_says() {
    if !is_node_ours() {
        return;
    }
    let mut command = Command::new(chain());
    command.args(["0", "50"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = Program(command.spawn().unwrap());
    let mut output = BufReader::new(program.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let functions: Vec<u64> = line.split_whitespace().map(address).collect();

    let mut plan = Plan::new(Target::Pids(vec![program.pid()]), Hz::ASKED);
    plan.measure = Measure::Waiting;
    let (session, notes) = noting(&plan);
    assert_eq!((session.abilities().scope, session.abilities().is_rate_fixed), (Scope::Tasks, true));
    program.0.stdin.take().unwrap().write_all(b"go").unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    let slept_ns: u64 = line.trim().parse().unwrap();
    let outcome = session.wait();
    assert_eq!((outcome.end, outcome.statistics.lost), (End::TargetsGone, 0));

    let notes = notes.lock().unwrap();
    assert!(notes.iter().all(|note| note.pid == program.pid() && note.wait.is_some()));
    // The nap is a call into libc, without a frame of its own: its caller's caller is middle, as the unwinder knows.
    let middle = functions.get(1).copied().unwrap()..functions.get(2).copied().unwrap();
    let naps = |note: &&Note| {
        let is_ours = note.files.iter().any(|file| file == chain_path());
        let is_blocked = note.wait.is_some_and(|wait| !wait.is_preempted());
        is_ours && is_blocked && note.user.iter().any(|address| middle.contains(address))
    };
    let naps: Vec<u64> = notes.iter().filter(naps).filter_map(|note| Some(note.wait?.length_ns)).collect();
    let waited_ns: u64 = naps.iter().sum();
    println!("{} naps of {slept_ns} ns, seen as {waited_ns} ns", naps.len());
    assert!(naps.len() == 50 && naps.iter().all(|nap| *nap >= 9_000_000), "{naps:?}");
    // Between its clock and the switch it may itself have waited for a CPU: never less is slept than waited.
    // But for a microsecond a nap between the two readings of the clock.
    let most_ns = slept_ns + slept_ns / 1_000;
    assert!(waited_ns <= most_ns && waited_ns * 10 >= slept_ns * 7, "{waited_ns} of {slept_ns}");
}

#[test]
fn who_never_comes_back_has_waited_until_the_end() {
    if !is_node_ours() {
        return;
    }
    let mut command = Command::new(chain());
    command.args(["0", "1", "and stay"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = Program(command.spawn().unwrap());
    let mut output = BufReader::new(program.0.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    let mut plan = Plan::new(Target::Pids(vec![program.pid()]), Hz::ASKED);
    plan.measure = Measure::Waiting;
    let (session, notes) = noting(&plan);
    let mut input = program.0.stdin.take().unwrap();
    input.write_all(b"g").unwrap();
    // It has slept and now reads what nobody writes.
    output.read_line(&mut String::new()).unwrap();
    let slept_ns = session.statistics().wall_ns;
    until("a second of reading", || session.statistics().wall_ns > slept_ns + 1_500_000_000);
    assert_eq!(session.stop().end, End::Stopped);
    let waits: Vec<_> = notes.lock().unwrap().iter().filter_map(|note| note.wait).collect();
    let last = waits.last().expect("the one that nothing ended");
    assert!(last.length_ns > 1_000_000_000 && !last.is_preempted(), "{waits:?}");
}

/// Lets a program wait in one way and holds what was seen in its function against what it says itself.
fn seen(way: &str, times: usize, by: Way) -> (Vec<u64>, Vec<Wait>, Option<Switches>) {
    let mut sleeper = Sleeper::new(way, times);
    let mut plan = Plan::new(Target::Pids(vec![sleeper.program.pid()]), Hz::ASKED);
    (plan.measure, plan.way) = (Measure::Waiting, by);
    let (session, notes) = noting(&plan);
    let switches = session.abilities().switches;
    let told = sleeper.run();
    let outcome = session.wait();
    let statistics = outcome.statistics;
    assert_eq!((statistics.lost, statistics.malformed), (0, 0), "{way}: {statistics:?}");
    // A child of vfork is in the same function.
    let pid = sleeper.program.pid();
    let is_there =
        |note: &&Note| note.pid == pid && note.user.iter().any(|address| sleeper.waits.contains(address));
    let waits: Vec<Wait> =
        notes.lock().unwrap().iter().filter(is_there).filter_map(|note| note.wait).collect();
    (told, waits, switches)
}

/// Each wait is seen as long as it was, give or take what the program needs to read its clock, and by the scheduler's word
/// as what it was.
fn check(way: &str, times: usize, kind: WaitKind) {
    let (told, waits, switches) = seen(way, times, Way::ByStates);
    assert!(matches!(switches, Some(Switches::Traced(_))), "{switches:?}");
    is_as_told(way, &told, waits.iter().filter(|wait| wait.kind == kind));
    let (told, waits, switches) = seen(way, times, Way::ByStacks);
    // Linux 6.13 has clocks of tasks.
    assert_eq!(switches == Some(Switches::Timed), has_clocks(), "{switches:?}");
    is_as_told(way, &told, waits.iter());
}

fn is_as_told<'a>(way: &str, told: &[u64], waits: impl Iterator<Item = &'a Wait> + Clone) {
    let told_ns: u64 = told.iter().sum();
    let (count, seen_ns) = (waits.clone().count(), waits.map(|wait| wait.length_ns).sum::<u64>());
    println!("{way}: {} waits of {told_ns} ns, {count} seen of {seen_ns} ns", told.len());
    assert!(seen_ns <= told_ns + told_ns / 50, "{way}: {seen_ns} ns seen, {told_ns} ns told");
    assert!(seen_ns * 10 >= told_ns * 8, "{way}: {seen_ns} ns seen, {told_ns} ns told");
}

#[test]
fn time_other_threads_and_pipes_are_slept_for() {
    if !is_node_ours() {
        return;
    }
    for way in ["nanosleep", "futex", "pipe"] {
        check(way, 20, WaitKind::Sleeping);
    }
}

#[test]
fn what_no_signal_ends_is_told_apart() {
    if !is_node_ours() {
        return;
    }
    check("vfork", 20, WaitKind::Uninterruptible);
}

#[test]
fn who_waits_for_a_disk_is_told_apart() {
    if !is_node_ours() {
        return;
    }
    // A disk may answer within the shortest time that is told of, so how long is known only of the longer ones.
    for way in ["direct", "fsync"] {
        let (told, waits, switches) = seen(way, 10, Way::ByStates);
        let told_ns: u64 = told.iter().sum();
        let of = |kind| waits.iter().filter(|wait| wait.kind == kind).map(|wait| wait.length_ns).sum::<u64>();
        let (disk_ns, slept_ns) = (of(WaitKind::Uninterruptible), of(WaitKind::Sleeping));
        println!("{way}: {told_ns} ns, of which {disk_ns} for the disk and {slept_ns} asleep");
        if matches!(switches, Some(Switches::Traced(_))) {
            // Of a quick disk nothing is told at all.
            assert!(disk_ns <= told_ns + told_ns / 50 && disk_ns >= slept_ns, "{way}: {waits:?}");
        }
    }
}

#[test]
fn who_could_have_run_is_told_apart() {
    if !is_node_ours() {
        return;
    }
    // Two that never sleep share a CPU: each waits while the other runs.
    check("rival", 20, WaitKind::Preempted);
}

/// The same by the kernel's functions in named stacks, as a person gets it.
#[test]
fn stacks_say_what_a_program_waits_for() {
    if !is_node_ours() || !has_clocks() {
        return;
    }
    let waited = |way: &str, times: usize| {
        let mut sleeper = Sleeper::new(way, times);
        let wish = Wish {
            target: Target::Pids(vec![sleeper.program.pid()]),
            hz: Hz::ASKED,
            stack_bytes: STACK_BYTES,
            is_waiting_wanted: true,
            left_out: None,
        };
        let capture = Kernel::start(&wish, Stamp::default()).unwrap();
        let told_ns: u64 = sleeper.run().iter().sum();
        until("it has ended", || capture.is_over());
        let account = capture.end(Stamp::default()).account;
        assert!(account.are_waits_told_apart, "{:?}", account.kernel_nameless);
        (told_ns, account.waiting.unwrap().waited)
    };
    let is_most = |part: u64, told: u64| part * 10 >= told * 8;
    let (told, seen) = waited("nanosleep", 20);
    assert!(is_most(seen.sleeping_ns, told) && seen.uninterruptible_ns < told / 10, "{told} ns: {seen:?}");
    let (told, seen) = waited("rival", 20);
    assert!(is_most(seen.preempted_ns, told), "{told} ns: {seen:?}");
    // Of a quick disk nothing is told at all.
    let (told, seen) = waited("fsync", 10);
    assert!(seen.uninterruptible_ns <= told + told / 50, "{told} ns: {seen:?}");
    assert!(seen.uninterruptible_ns >= seen.sleeping_ns, "{told} ns: {seen:?}");
}

#[test]
fn what_runs_behind_a_wait_is_no_part_of_it() {
    if !is_node_ours() {
        return;
    }
    // It sleeps a second, and then runs until it is looked away from: it never leaves the CPU of its own accord again.
    let script = "read; sleep 1; while :; do :; done";
    for by in [Way::ByStates, Way::ByStacks] {
        let mut command = Command::new("bash");
        let mut program = Program(command.args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap());
        let mut plan = Plan::new(Target::Pids(vec![program.pid()]), Hz::ASKED);
        (plan.measure, plan.way) = (Measure::Waiting, by);
        let (session, notes) = noting(&plan);
        program.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        until("three seconds", || session.statistics().wall_ns > 3_000_000_000);
        assert_eq!(session.stop().end, End::Stopped);
        let notes = notes.lock().unwrap();
        let waits = notes.iter().filter(|note| note.pid == program.pid()).filter_map(|note| note.wait);
        let longest = waits.map(|wait| wait.length_ns).max().unwrap_or(0);
        assert!((800_000_000..1_200_000_000).contains(&longest), "{by:?}: {longest} ns");
    }
}

#[test]
fn without_tracefs_durations_are_as_true() {
    if !is_node_ours() {
        return;
    }
    let (told, waits, switches) = seen("nanosleep", 20, Way::Records);
    assert_eq!(switches, Some(Switches::Counted(Untraced::Unwanted)));
    let (told_ns, seen_ns) = (told.iter().sum::<u64>(), waits.iter().map(|wait| wait.length_ns).sum::<u64>());
    assert!(waits.iter().all(|wait| wait.kind != WaitKind::Uninterruptible));
    assert!(seen_ns <= told_ns + told_ns / 50 && seen_ns * 10 >= told_ns * 8, "{seen_ns} of {told_ns}");
}

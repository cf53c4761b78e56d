//! How long a program waits, and in which call.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use profile::perf::attr::{Hz, Measure, Scope};
use profile::perf::session::{End, Plan};
use profile::perf::target::Target;

use crate::program::{Note, Program, chain, chain_path, noting, until};

#[test]
fn a_program_waits_as_long_as_it_says_where_it_says() {
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
        let is_blocked = note.wait.is_some_and(|wait| !wait.is_preempted);
        is_ours && is_blocked && note.user.iter().any(|address| middle.contains(address))
    };
    let naps: Vec<u64> = notes.iter().filter(naps).filter_map(|note| Some(note.wait?.length_ns)).collect();
    let waited_ns: u64 = naps.iter().sum();
    println!("{} naps of {slept_ns} ns, seen as {waited_ns} ns", naps.len());
    assert!(naps.len() == 50 && naps.iter().all(|nap| *nap >= 9_000_000), "{naps:?}");
    // Between its clock and the switch it may itself have waited for a CPU: never less is slept than waited.
    assert!(waited_ns <= slept_ns && waited_ns * 10 >= slept_ns * 7, "{waited_ns} of {slept_ns}");
}

#[test]
fn who_never_comes_back_has_waited_until_the_end() {
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
    assert!(last.length_ns > 1_000_000_000 && !last.is_preempted, "{waits:?}");
}

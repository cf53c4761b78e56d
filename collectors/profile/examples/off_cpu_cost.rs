//! What watching one service off the CPU costs a ping-pong over a pipe: of others, and when it is itself watched.
//!
//! `cargo run --release -p profile --example off_cpu_cost [ROUNDS]`. One pair of processes plays all games, so that memory
//! lies the same in all of them; ways to watch take turns, and after each the kernel gets a second to take its hooks out.
//! Where `perf` is installed it takes its turns too: with an event that never happens, which is the least that any watching
//! of a task costs the others, with a count of switches, and with a stack at each of them.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement on a terminal: whatever fails ends it"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, fs, process, thread};

use profile::perf::attr::{Hz, Measure};
use profile::perf::session::{Plan, Seen, Session};
use profile::perf::target::Target;
use profile::perf::tracepoint::Way;

/// Games between two turns, and exchanges in a game: four milliseconds, so that some of them nobody disturbs.
const GAMES: usize = 40;
const EXCHANGES: u32 = 2000;
/// The kernel takes the hook out of its scheduler a second after the last event of a task has gone.
const HOOK_GOES: Duration = Duration::from_millis(1250);

/// Until `perf` has opened its events.
const PERF_BEGINS: Duration = Duration::from_millis(500);

/// `pong CPU CPU` plays as many exchanges as each line says and answers with nanoseconds an exchange; `serve NAP THREADS`
/// sleeps so many nanoseconds at a time.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}
static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}
static long nap;
static void *serve(void *unused) {
    for (;;) { struct timespec t = {0, nap}; nanosleep(&t, 0); }
}
int main(int argc, char **argv) {
    char byte = 0, line[64];
    int there[2], back[2];
    if (argv[1][0] == 's') {
        pthread_t thread;
        nap = atol(argv[2]);
        for (int n = atoi(argv[3]); n > 1; n--) pthread_create(&thread, 0, serve, 0);
        serve(0);
    }
    if (pipe(there) || pipe(back)) return 1;
    int other = fork();
    if (!other) {
        pin(atoi(argv[3]));
        close(there[1]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1);
        return 0;
    }
    pin(atoi(argv[2]));
    printf("%d\n", other);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long count = atol(line), began = now();
        for (long n = 0; n < count; n++) if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) return 1;
        printf("%f\n", (double)(now() - began) / count);
        fflush(stdout);
    }
    return 0;
}
"#;

/// A child that ends with the measurement.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Pong {
    pids: Vec<u32>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _program: Program,
}

impl Pong {
    fn new(program: &Path, cpus: [u32; 2]) -> Pong {
        let mut command = Command::new(program);
        command.arg("pong").args(cpus.map(|cpu| cpu.to_string()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let pids = vec![child.id(), line.trim().parse().unwrap()];
        Pong { pids, input, output, _program: Program(child) }
    }

    /// Nanoseconds an exchange.
    fn play(&mut self) -> f64 {
        writeln!(self.input, "{EXCHANGES}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

/// Who watches.
#[derive(Clone, Copy)]
enum Watcher {
    Nobody,
    Ours(Way),
    /// `perf` with these arguments, and the processes behind them.
    Perf(&'static [&'static str]),
}

const WATCHERS: [(&str, Watcher); 8] = [
    ("unwatched", Watcher::Nobody),
    ("records", Watcher::Ours(Way::Records)),
    ("tracepoints", Watcher::Ours(Way::Tracepoints)),
    ("clocks", Watcher::Ours(Way::ByStacks)),
    ("perf, nothing", Watcher::Perf(&["stat", "-e", "dummy", "-o", "/dev/null"])),
    ("perf, counts", Watcher::Perf(&["stat", "-e", "context-switches", "-o", "/dev/null"])),
    ("perf, stacks", Watcher::Perf(&["record", "-e", "context-switches", "-c1", "-g", "-o", "/dev/null"])),
    ("unwatched again", Watcher::Nobody),
];

/// Plays while somebody watches, and says what he had of it.
fn play_watched(pong: &mut Pong, pids: &[u32], watcher: Watcher) -> (Vec<f64>, String) {
    let mut play = || (0..GAMES).map(|_| pong.play()).collect();
    match watcher {
        Watcher::Nobody => (play(), String::new()),
        Watcher::Ours(way) => {
            let mut plan = Plan::new(Target::Pids(pids.to_vec()), Hz::ASKED);
            (plan.measure, plan.way) = (Measure::Waiting, way);
            let session = Session::start(&plan, |_: &Seen<'_>| {}).unwrap();
            let games = play();
            let end = session.stop().statistics;
            let (short, told, lost, took_us) = (end.short_waits, end.samples, end.lost, end.cpu_ns / 1000);
            (games, format!("{short} short, {told} told, {lost} lost, {took_us} us of CPU"))
        }
        Watcher::Perf(arguments) => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            let mut command = Command::new("perf");
            command.args(arguments).arg("-p").arg(pids.join(",")).stdout(Stdio::null()).stderr(Stdio::null());
            let mut perf = Program(command.spawn().unwrap());
            thread::sleep(PERF_BEGINS);
            let has_ended = perf.0.try_wait().unwrap().is_some();
            (play(), if has_ended { "refused".to_owned() } else { String::new() })
        }
    }
}

/// The smallest, and the one with so many hundredths below it.
fn quantile(sorted: &[f64], hundredths: usize) -> f64 {
    sorted.get((sorted.len() - 1) * hundredths / 100).copied().unwrap_or(f64::NAN)
}

fn measure(what: &str, pong: &mut Pong, watched: &[u32], rounds: usize) {
    let has_perf = Command::new("perf").arg("version").output().is_ok_and(|said| said.status.success());
    let is_there = |watcher: &Watcher| has_perf || !matches!(watcher, Watcher::Perf(_));
    let watchers: Vec<_> = WATCHERS.into_iter().filter(|(_, watcher)| is_there(watcher)).collect();
    let mut games: Vec<Vec<f64>> = vec![Vec::new(); watchers.len()];
    let mut said = vec![String::new(); watchers.len()];
    for _ in 0..rounds {
        for ((games, said), (_, watcher)) in games.iter_mut().zip(&mut said).zip(&watchers) {
            let (played, told) = play_watched(pong, watched, *watcher);
            games.extend(played);
            *said = told;
            thread::sleep(HOOK_GOES);
        }
    }
    let mut base: Option<[f64; 4]> = None;
    for (((name, _), games), said) in watchers.iter().zip(&mut games).zip(said) {
        games.sort_by(f64::total_cmp);
        let now = [0, 5, 25, 50].map(|hundredths| quantile(games, hundredths));
        let base = base.get_or_insert(now);
        let told = now
            .iter()
            .zip(&*base)
            .map(|(now, base)| format!("{now:8.1} {:+6.2} %", (now / base - 1.0) * 100.0));
        println!("{what}: {name:16} {}  {said}", told.collect::<Vec<_>>().join("  "));
    }
}

fn built() -> PathBuf {
    let folder = env::temp_dir().join(format!("off-cpu-cost-{}", process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (source, program) = (folder.join("program.c"), folder.join("program"));
    fs::write(&source, PROGRAM).unwrap();
    let compiler =
        Command::new("cc").args(["-O2", "-w", "-pthread", "-o"]).arg(&program).arg(&source).status();
    assert!(compiler.unwrap().success());
    program
}

fn main() {
    let rounds = env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(10);
    let program = built();
    // Eight threads that each wake ten times a second: what they run is no part of the measurement.
    let service = Program(Command::new(&program).args(["serve", "100000000", "8"]).spawn().unwrap());
    thread::sleep(Duration::from_millis(100));
    println!(
        "nanoseconds an exchange: minimum, then the quantiles .05, .25 and .50 of {} games",
        rounds * GAMES
    );
    for (place, cpus) in [("one CPU", [0, 0]), ("two CPUs", [0, 1])] {
        let mut pong = Pong::new(&program, cpus);
        measure(&format!("others, {place}"), &mut pong, &[service.0.id()], rounds);
        let own = pong.pids.clone();
        measure(&format!("watched itself, {place}"), &mut pong, &own, rounds.div_ceil(4));
    }
    drop(service);
    drop(fs::remove_dir_all(program.parent().unwrap()));
}

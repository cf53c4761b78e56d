//! Profiling that never ends: what it finds a program doing before and after it changed its mind is what it did.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use model::ledger::Ledger;
use model::profile::{Baseline, FunctionCounts};
use model::time::{Clock, Stamp};
use profile::continuous::{Config, Continuous, Missed, Processes, Side, StartError, Taken, Wish};
use profile::history::Limits;
use profile::history::reader::Reader;
use profile::history::selection::Filter;
use profile::perf::attr::Hz;

use crate::program::{Program, built, is_near, is_node_ours, until};
use crate::rates::alone;

/// Runs in one function until it is told to run in another.
const TURNING: &str = r#"
#include <signal.h>
static volatile sig_atomic_t turned;
static volatile unsigned long sink;
static void turn(int signal) { turned = 1; }
__attribute__((noinline)) void earlier(void) { for (int i = 0; i < 100000; i++) sink += i; }
__attribute__((noinline)) void later(void) { for (int i = 0; i < 100000; i++) sink ^= i; }
int main(void) {
    signal(SIGUSR1, turn);
    for (;;) if (turned) later(); else earlier();
}
"#;

fn turning() -> Program {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(|| built("turning", TURNING));
    let program = Program(Command::new(path).stdout(Stdio::null()).spawn().unwrap());
    // From here on it takes a signal for what it is.
    program.run_until(20_000_000);
    program
}

/// One story at a time: two of these programs would leave the node nothing.
fn told(story: impl Future<Output = ()>) {
    let _alone = alone();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(story);
}

fn turn(program: &Program) {
    let told = Command::new("sh").args(["-c", "kill -USR1 $0", &program.pid().to_string()]).status();
    assert!(told.unwrap().success());
}

fn clock() -> Clock {
    let began = tokio::time::Instant::now();
    let start = Stamp { mono_ns: 1_000_000_000_000, wall_ns: 1_800_000_000_000_000_000 };
    Clock::new(move || start.plus_ns(u64::try_from(began.elapsed().as_nanos()).unwrap()))
}

struct Bench {
    folder: tempfile::TempDir,
    processes: Processes,
    clock: Clock,
    ledger: Ledger,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        Bench { folder, processes: Processes::default(), clock: clock(), ledger: Ledger::default() }
    }

    fn kill_switch(&self) -> PathBuf {
        self.folder.path().join("no-profiling")
    }

    fn ring(&self) -> PathBuf {
        self.folder.path().join("history")
    }

    fn start(&self) -> Result<Continuous, StartError> {
        let config = Config { ring: self.ring(), limits: Limits::default(), kill_switch: self.kill_switch() };
        Continuous::start(config, self.processes.clone(), self.clock.clone(), self.ledger.clone())
    }

    fn windows(&self) -> u64 {
        self.ledger.get("agent_history_windows_total", "")
    }

    /// Three seconds of it, against what had been until now.
    async fn capture(&self, continuous: &Continuous) -> Result<Taken, Missed> {
        let asked = self.clock.now();
        let (member, length) = ("m1".to_owned(), Duration::from_secs(3));
        continuous.capture(Wish { member, length, asked, before_mono_ns: Some(asked.mono_ns) }).await
    }
}

/// CPU time of the thread behind it.
fn worked_ns() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten().map(|entry| entry.path());
    let of = |path: &Path| {
        let is_it = fs::read_to_string(path.join("comm")).ok()?.trim() == "profiler";
        let text = fs::read_to_string(path.join("schedstat")).ok().filter(|_| is_it)?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.filter_map(|path| of(&path)).sum()
}

fn share(counts: &FunctionCounts, name: &str) -> f64 {
    let own =
        counts.functions.iter().find(|function| function.name == name).map_or(0, |function| function.own);
    own as f64 / counts.total as f64
}

fn runs_in(side: &Side, name: &str, other: &str) {
    let (own, rest) = (share(&side.counts, name), share(&side.counts, other));
    assert!(own > 0.9 && rest < 0.05, "{name} {own:.3}, {other} {rest:.3}: {:?}", side.counts.functions);
}

/// CPU time of a process by all windows of the ring.
fn recorded_ns(ring: &Path, pid: u32) -> u64 {
    let reader = Reader::open(ring).unwrap();
    let range = reader.last(u64::MAX).unwrap();
    let selection = reader.select(range, &Filter { pids: vec![pid], ..Filter::default() });
    selection.stacks.samples.iter().map(|sample| u64::try_from(sample.value).unwrap()).sum()
}

#[test]
fn a_capture_shows_what_changed_and_the_ring_holds_the_time_that_passed() {
    told(what_changed());
}

async fn what_changed() {
    let bench = Bench::new();
    let program = turning();
    bench.processes.seen("m1", program.pid());
    let began_ns = program.cpu_ns();
    let continuous = bench.start().unwrap();
    until("two windows", || bench.windows() >= 2);
    turn(&program);
    let before_ns = program.cpu_ns();
    let Taken { after, before, baseline, hz } = bench.capture(&continuous).await.unwrap();
    let ran_ns = program.cpu_ns() - before_ns;
    assert!([Hz::TRIGGERED.get(), Hz::ASKED.get()].contains(&hz), "{hz}");
    assert_eq!(baseline, Baseline::BeforeMarker);
    runs_in(&before.unwrap(), "earlier", "later");
    runs_in(&after, "later", "earlier");
    println!("{} samples at {hz} Hz in {} windows", after.counts.samples, after.counts.windows.len());
    assert!(after.counts.windows.len() >= 3, "each may be told from its neighbours");
    // Naming comes after it, while the program runs on.
    assert!((ran_ns / 2..ran_ns).contains(&after.counts.total), "{} of {ran_ns}", after.counts.total);
    // Rates have changed twice meanwhile: what is counted at one must not be taken for what the other stands for.
    continuous.stop().await;
    let ran_ns = program.cpu_ns() - began_ns;
    let recorded_ns = recorded_ns(&bench.ring(), program.pid());
    println!("{recorded_ns} ns of {ran_ns} are in the ring");
    assert!(is_near(recorded_ns / 1_000_000, ran_ns as f64 / 1e6), "{recorded_ns} of {ran_ns}");
}

#[test]
fn a_member_that_was_restarted_has_the_before_of_its_former_process() {
    told(restarted());
}

async fn restarted() {
    let bench = Bench::new();
    let first = turning();
    bench.processes.seen("m1", first.pid());
    bench.processes.seen("another", std::process::id());
    let continuous = bench.start().unwrap();
    until("two windows", || bench.windows() >= 2);
    assert!(matches!(bench.start(), Err(StartError::Ring(_))), "one ring has one writer");
    drop(first);
    let second = turning();
    turn(&second);
    bench.processes.seen("m1", second.pid());
    let taken = bench.capture(&continuous).await;
    let Ok(Taken { after, before, .. }) = taken else {
        // Where only the members may be sampled, another member is another session.
        assert_eq!(taken, Err(Missed::Interrupted));
        return;
    };
    runs_in(&before.unwrap(), "earlier", "later");
    runs_in(&after, "later", "earlier");
    continuous.stop().await;
    // Whoever comes next finds what was left.
    let continuous = bench.start().unwrap();
    let taken = bench.capture(&continuous).await.unwrap();
    assert!(taken.before.is_some());
}

#[test]
fn who_was_called_the_same_is_the_before_only_where_there_was_one() {
    told(namesakes());
}

async fn namesakes() {
    if !is_node_ours() {
        return;
    }
    for (count, baseline) in [(1, Baseline::BeforeMarker), (2, Baseline::Missing)] {
        let bench = Bench::new();
        let earlier: Vec<Program> = (0..count).map(|_| turning()).collect();
        let continuous = bench.start().unwrap();
        until("two windows", || bench.windows() >= 2);
        drop(earlier);
        let now = turning();
        bench.processes.seen("m1", now.pid());
        let taken = bench.capture(&continuous).await.unwrap();
        assert_eq!((taken.baseline, taken.before.is_some()), (baseline, count == 1));
        continuous.stop().await;
    }
}

#[test]
fn nobody_is_sampled_while_the_kill_switch_is_there() {
    told(killed());
}

async fn killed() {
    let bench = Bench::new();
    let program = turning();
    bench.processes.seen("m1", program.pid());
    let continuous = bench.start().unwrap();
    until("a window", || bench.windows() >= 1);
    let (missed, ()) = tokio::join!(bench.capture(&continuous), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        fs::write(bench.kill_switch(), "").unwrap();
    });
    assert_eq!(missed, Err(Missed::Interrupted), "what is under way ends");
    assert_eq!(bench.capture(&continuous).await, Err(Missed::NotSampling));
    assert!(!continuous.is_sampling());
    let (windows, worked_ns) = (bench.windows(), worked_ns());
    // Beyond the end of the window that would have been.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(bench.windows(), windows);
    let worked_ns = self::worked_ns() - worked_ns;
    assert!(worked_ns < 300_000_000, "who samples nobody has nothing to do: {worked_ns} ns");
    fs::remove_file(bench.kill_switch()).unwrap();
    until("more windows", || bench.windows() > windows);
    let wish = Wish {
        member: "m2".to_owned(),
        length: Duration::from_secs(1),
        asked: bench.clock.now(),
        before_mono_ns: None,
    };
    assert_eq!(continuous.capture(wish).await, Err(Missed::NoProcess));
}

//! Programs whose stacks are known, and what a session notes of them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::{env, fs, thread};

use profile::perf::attr::{Hz, Measure};
use profile::perf::events::{Events, Sizes};
use profile::perf::processes::Process;
use profile::perf::refusal::{Refusal, Situation};
use profile::perf::session::{Plan, Seen, Session, Wait};
use profile::perf::target::Target;

/// A child that does not outlive its test.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// CPU time so far.
    pub(crate) fn cpu_ns(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.pid())).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn run_until(&self, cpu_ns: u64) {
        while self.cpu_ns() < cpu_ns {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A program whose stack is known: main calls outer, that calls middle, that calls inner, which never returns unless it
/// is told after how many milliseconds of CPU time, or how often to sleep
/// once it has read a byte. It first prints where its functions are.
const CHAIN: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static volatile unsigned long sink;
static long end_ns;
static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}
static long naps, slept_ns;
static long on_the_wall(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}
__attribute__((noinline)) void inner(void) {
    for (; naps > 0; naps--) {
        struct timespec nap = {0, 10 * 1000000L};
        long began = on_the_wall();
        nanosleep(&nap, 0);
        slept_ns += on_the_wall() - began;
    }
    if (slept_ns) return;
    do { for (int i = 0; i < 100000; i++) sink += i; } while (!end_ns || now() < end_ns);
}
__attribute__((noinline)) void middle(void) { inner(); sink++; }
__attribute__((noinline)) void outer(void) { middle(); sink++; }
int main(int argc, char **argv) {
    if (argc > 1) end_ns = atol(argv[1]) * 1000000L;
    if (argc > 2) naps = atol(argv[2]);
    printf("%p %p %p %p\n", (void *)inner, (void *)middle, (void *)outer, (void *)main);
    fflush(stdout);
    if (naps) getchar();
    outer();
    if (slept_ns) printf("%ld\n", slept_ns);
    fflush(stdout);
    if (argc > 3) getchar();
    return 0;
}
"#;

/// Where it is built, before the number of the process that built it.
const FOLDER: &str = "perf-chain-";

/// A test has no last moment at which to clean up after itself, so the next one does.
fn remove_those_of_earlier_runs() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid: Option<u32> = name.to_str().and_then(|name| name.strip_prefix(FOLDER)?.parse().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// The program above, built once, where everybody may run it.
pub(crate) fn chain() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("chain", CHAIN))
}

/// A program of C, where everybody may run it.
pub(crate) fn built(name: &str, source: &str) -> PathBuf {
    remove_those_of_earlier_runs();
    let folder = env::temp_dir().join(format!("{FOLDER}{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (file, program) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&file, source).unwrap();
    let flags = ["-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread", "-w"];
    let built =
        Command::new("cc").args(flags).args(["-Wl,--build-id", "-o"]).arg(&program).arg(&file).status();
    assert!(built.expect("install a C compiler: cc").success());
    program
}

/// Runs it; also gives the addresses of inner, middle, outer and main.
pub(crate) fn run_chain(arguments: &[&str]) -> (Program, Vec<u64>) {
    let mut child = Command::new(chain()).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    (Program(child), line.split_whitespace().map(address).collect())
}

/// Waits for what must come.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("after a minute still not: {what}");
}

/// What a test wants to remember of a sample.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) pid: u32,
    pub(crate) time_ns: u64,
    pub(crate) name: String,
    pub(crate) user: Vec<u64>,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) registers: Vec<u64>,
    pub(crate) stack_bytes: usize,
    pub(crate) kernel_frames: usize,
    pub(crate) wait: Option<Wait>,
}

pub(crate) type Notes = Arc<Mutex<Vec<Note>>>;

pub(crate) fn note(seen: &Seen<'_>) -> Note {
    let file = |process: &Process, address| {
        process.mappings.locate(address).map(|place| place.module.path.clone()).unwrap_or_default()
    };
    let files =
        seen.process.map(|process| seen.sample.user.iter().map(|address| file(process, address)).collect());
    Note {
        pid: seen.meta.pid,
        time_ns: seen.meta.time_ns,
        name: seen.process.map(|process| process.name().to_string()).unwrap_or_default(),
        user: seen.sample.user.iter().collect(),
        files: files.unwrap_or_default(),
        registers: seen.sample.registers.iter().collect(),
        stack_bytes: seen.sample.stack.len(),
        kernel_frames: seen.sample.kernel.len(),
        wait: seen.wait,
    }
}

/// A session that notes its samples.
pub(crate) fn noting(plan: &Plan) -> (Session<impl FnMut(&Seen<'_>) + Send + use<>>, Notes) {
    let notes = Notes::default();
    let into = Arc::clone(&notes);
    let sink = move |seen: &Seen<'_>| into.lock().unwrap().push(note(seen));
    let session =
        Session::start(plan, sink).unwrap_or_else(|refusal| panic!("{refusal}: {}", refusal.cure()));
    (session, notes)
}

pub(crate) fn is_near(count: u64, expected: f64) -> bool {
    let count = f64::from(u32::try_from(count).unwrap());
    (count - expected).abs() <= expected * 0.1
}

/// Where that is, without links.
pub(crate) fn chain_path() -> &'static Path {
    static REAL: OnceLock<PathBuf> = OnceLock::new();
    REAL.get_or_init(|| chain().canonicalize().unwrap())
}

/// Whether the whole node may be sampled. Where it may not, that is told with its cause and cure, as it is to any user, and
/// the story of the node ends there.
pub(crate) fn is_node_ours() -> bool {
    match Events::open(&Target::Node, (Measure::Running, Hz::STEADY), Sizes::default()) {
        Ok(_) => true,
        Err(refusal) => {
            let situation = Situation::read();
            assert!(!situation.is_capable, "{refusal}: {}", refusal.cure());
            assert_eq!(refusal, Refusal::Paranoid { level: situation.paranoid });
            assert!(refusal.cure().contains("CAP_PERFMON"), "{}", refusal.cure());
            false
        }
    }
}

//! Who is recorded: etcd under several loads, and a program whose costs are known.
//!
//! Owns the list of runs. They are long enough to see etcd compact and collect garbage several times.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::etcd::{Cluster, Options, Version, go};

use crate::capture::{Subject, record};
use crate::load::Load;
use crate::recording::{Recorder, Run};

/// Of etcd: most runs take half a CPU, and a window shall have as many samples as ten seconds of two CPUs at 99 Hz.
const ETCD_HZ: u32 = 499;
/// Of the program: 120,000 samples of two CPUs in a minute.
const PROGRAM_HZ: u32 = 999;
/// A start fills caches and grows heaps.
const SETTLE: Duration = Duration::from_secs(8);
/// What etcd keeps of each key grows until it has compacted twice.
const ETCD_SETTLE: Duration = Duration::from_secs(75);
/// Program runs.
const PROGRAM_WINDOWS: usize = 6;

/// (load, requests a second, GOGC, windows)
const ETCD_RUNS: [(&str, u32, &str, usize); 7] = [
    ("steady", 1_200, "100", 18),
    ("steady", 1_200, "100", 18),
    ("half", 600, "100", 12),
    ("double", 2_400, "100", 12),
    ("gc 50", 1_200, "50", 12),
    ("gc 200", 1_200, "200", 12),
    ("steady", 1_200, "100", 18),
];

/// (load, flags). A minute of a busy machine has 15,000 to 40,000 samples: changes are as large as these can show.
const PROGRAM_RUNS: [(&str, &[&str]); 10] = [
    ("base", &[]),
    ("base", &[]),
    ("base", &[]),
    ("parse +30 %", &["-scale", "parse=1.3"]),
    ("lookup +40 %", &["-scale", "lookup=1.4"]),
    ("compare +100 %", &["-scale", "compare=2"]),
    ("checksum +30 %", &["-scale", "checksum=1.3"]),
    ("copyOut +200 %", &["-scale", "copyOut=3"]),
    ("load +50 %", &["-rate", "3000"]),
    ("moved", &["-moved"]),
];

/// Records all runs, or the one with this number, and adds them to what there is.
pub(crate) fn record_all(only: Option<usize>, recorder: &mut Recorder) -> Result<()> {
    let is_wanted = |number: usize| only.is_none_or(|only| only == number);
    for (number, (load, rate, gogc, windows)) in ETCD_RUNS.into_iter().enumerate() {
        if is_wanted(number) {
            let run = etcd(load, (rate, gogc, windows), recorder)?;
            done(&run);
            recorder.recording.runs.push(run);
        }
    }
    for (number, (load, flags)) in (ETCD_RUNS.len()..).zip(PROGRAM_RUNS) {
        if is_wanted(number) {
            let run = own(&build()?, load, flags, recorder)?;
            done(&run);
            recorder.recording.runs.push(run);
        }
    }
    Ok(())
}

fn done(run: &Run) {
    let samples: u64 = run.windows.iter().map(|window| window.samples()).sum();
    let requests: u64 = run.windows.iter().map(|window| window.requests).sum();
    let windows = run.windows.len();
    println!("{} {}: {windows} windows, {samples} samples, {requests} requests", run.subject, run.load);
}

fn etcd(load: &str, (rate, gogc, windows): (u32, &str, usize), recorder: &mut Recorder) -> Result<Run> {
    let options = Options {
        // So that the background has its turns within a run: Kubernetes compacts every five minutes, and three windows are
        // as much of a run as that is of an hour.
        args: ["--auto-compaction-mode=periodic", "--auto-compaction-retention=30s"]
            .map(str::to_owned)
            .to_vec(),
        env: vec![("GOGC".to_owned(), gogc.to_owned())],
        ..Options::default()
    };
    let cluster = Cluster::start(Version::V3_5, 1, &options)?;
    let member = cluster.member(1)?;
    let asked = Load::start(member.client_url(), rate)?;
    thread::sleep(ETCD_SETTLE);
    let pid = member.pid().context("etcd is down")?;
    record(&Subject { name: "etcd", load, pid, hz: ETCD_HZ, windows, requests: &asked.requests }, recorder)
}

fn build() -> Result<std::path::PathBuf> {
    let dir = std::env::current_dir()?.join("target/diffset");
    std::fs::create_dir_all(&dir)?;
    let program = dir.join("program");
    let mut go = Command::new(go());
    go.args(["build", "-ldflags=-s -w", "-o"]).arg(&program).arg("deploy/dev/diffset/program/main.go");
    ensure!(go.status().context("run go")?.success(), "go build failed");
    Ok(program)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn own(program: &std::path::Path, load: &str, flags: &[&str], recorder: &mut Recorder) -> Result<Run> {
    let mut child = Command::new(program).args(flags).stdout(Stdio::piped()).spawn()?;
    let lines = child.stdout.take().context("no output")?;
    let running = Running(child);
    let requests = Arc::new(AtomicU64::new(0));
    let of_reader = Arc::clone(&requests);
    let reader = thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            of_reader.store(line.parse().unwrap_or(0), Ordering::Relaxed);
        }
    });
    thread::sleep(SETTLE / 4);
    let (pid, hz) = (running.0.id(), PROGRAM_HZ);
    let subject = Subject { name: "program", load, pid, hz, windows: PROGRAM_WINDOWS, requests: &requests };
    let run = record(&subject, recorder);
    drop(running);
    reader.join().ok();
    run
}

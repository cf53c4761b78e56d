//! Goroutines at both ends of a window, of real Go programs: one that leaks is told by its function, one that does not is not.
//!
//! The programs are built here, by the Go that also builds etcd; `GO` names another one.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use harness::{
    agent::{Agent, Finished},
    daemon::Folder,
    etcd::go,
};
use model::{profile::ProfileKind, time::Stamp};
use profile::gopprof;

/// Two seconds of window, and the patience that a busy host asks for.
const SOON: Duration = Duration::from_secs(60);

/// Until the first goroutines have waited for a minute by Go's account, which begins with a collection.
const A_MINUTE: Duration = Duration::from_secs(65);

/// A running program; it does not outlive its story.
struct Program {
    child: Child,
    port: u16,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn asked(arguments: &[&str]) -> Command {
    let mut command = Command::new(go());
    command.args(arguments).env("GOTOOLCHAIN", "local").env("GOENV", "off").env("GOWORK", "off");
    command.env("CGO_ENABLED", "0").env_remove("GOFLAGS").env_remove("GOEXPERIMENT");
    command
}

/// 1.26 searches for leaks where it was built to, later versions always do.
fn experiment() -> Result<Option<&'static str>> {
    let version = asked(&["env", "GOVERSION"])
        .output()
        .context("no Go: `make tools` brings one where there is none")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    Ok(version.starts_with("go1.26").then_some("goroutineleakprofile"))
}

/// The program, doing what `mode` says.
fn start(folder: &Folder, mode: &str, experiment: Option<&str>) -> Result<Program> {
    let program = folder.path().join(format!("program-{mode}"));
    let mut build = asked(&["build", "-p", "2", "-trimpath", "-ldflags=-s -w", "-o"]);
    build.arg(&program).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/goroutines"));
    if let Some(experiment) = experiment {
        build.env("GOEXPERIMENT", experiment);
    }
    let built = build.status().context("no Go: `make tools` brings one where there is none")?;
    ensure!(built.success(), "the program does not build");
    let mut child = Command::new(&program).arg(mode).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let port = line.trim().parse().context("no port")?;
    Ok(Program { child, port })
}

/// `agent --profile` at its endpoint, for two seconds.
fn profiled(folder: &Folder, program: &Program, out: &str) -> Result<Finished> {
    let url = format!("http://127.0.0.1:{}", program.port);
    let text = format!("etcd: {{ members: [ {{ name: p1, client: \"{url}\", pprof: \"{url}\" }} ] }}\n");
    let config = folder.write(&format!("{out}.yaml"), &text)?;
    let (config, out) = (config.display().to_string(), folder.path().join(out).display().to_string());
    let arguments = ["--profile", "--engine", "pprof", "--for", "2s", "--config", &config, "--out", &out];
    let told = Agent::run(folder.path(), &arguments, &[], SOON)?;
    ensure!(told.status.code() == Some(0), "{told:?}");
    Ok(told)
}

fn line<'a>(told: &'a Finished, parts: &[&str]) -> Result<&'a str> {
    let found = told.stdout.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    found.with_context(|| format!("no line with {parts:?}: {}", told.stdout))
}

/// Goroutines of a file.
fn goroutines(path: &Path) -> Result<i64> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    ensure!(GzDecoder::new(bytes.as_slice()).header().is_some(), "{} is not gzipped", path.display());
    let (stacks, _) = gopprof::decode(&bytes, ProfileKind::Goroutine, Stamp::default())?;
    Ok(stacks.samples.iter().map(|sample| sample.value).sum())
}

fn a_leak_is_named() -> Result<()> {
    let folder = Folder::new("goroutines-kept")?;
    let program = start(&folder, "kept", None)?;
    // At once: they grow, and nobody can know yet whether they stay.
    let young = profiled(&folder, &program, "young")?;
    line(&young, &["perhaps a leak: main.takeKept: ", "too early to tell", "--for 2m"])?;
    thread::sleep(A_MINUTE);
    let told = profiled(&folder, &program, "told")?;
    let leak = line(&told, &["likely leak: main.takeKept: "])?;
    for part in [
        "chan receive; ",
        " for a minute or more, median ",
        " came, 0 went",
        "started by main.leaveKept",
        "--for 2m",
    ] {
        ensure!(leak.contains(part), "no {part:?} in {leak}");
    }
    // How many there were before and are now, by stack and in all.
    line(&told, &["goroutines: ", " > ", " in "])?;
    ensure!(
        !told.stdout.contains("leak: main.work") && !told.stdout.contains("leak: main.visit"),
        "{}",
        told.stdout
    );
    let (before, after) =
        (folder.path().join("told/goroutine.before.pb.gz"), folder.path().join("told/goroutine.pb.gz"));
    let (before, after) = (goroutines(&before)?, goroutines(&after)?);
    ensure!(after > before + 10, "{before} > {after}");
    Ok(())
}

fn what_go_knows_is_told() -> Result<()> {
    let folder = Folder::new("goroutines-lost")?;
    let program = start(&folder, "lost", experiment()?)?;
    let told = profiled(&folder, &program, "first")?;
    line(&told, &["leaked, by Go's own search: ", " of main.takeLost: nobody can wake them"])?;
    ensure!(!told.stdout.contains("of main.work"), "{}", told.stdout);
    // The mark stays, and takes the minutes away: it is told once.
    let told = profiled(&folder, &program, "again")?;
    ensure!(told.stdout.matches("main.takeLost: ").count() == 1, "{}", told.stdout);
    Ok(())
}

fn nothing_is_named_where_nothing_leaks() -> Result<()> {
    let folder = Folder::new("goroutines-calm")?;
    let program = start(&folder, "calm", experiment()?)?;
    thread::sleep(A_MINUTE);
    let told = profiled(&folder, &program, "calm")?;
    line(&told, &["main.work", "chan receive; 40 for a minute or more, median 1"])?;
    line(&told, &["leaks: no stack grew and stayed", "--for 2m"])?;
    line(&told, &["leaks by Go's own search: none"])?;
    ensure!(!told.stdout.contains("leak: ") && !told.stdout.contains("leaked, "), "{}", told.stdout);
    Ok(())
}

#[test]
fn a_leak_is_named_with_its_function_once_its_goroutines_have_waited() {
    a_leak_is_named().unwrap();
}

#[test]
fn what_nobody_can_wake_is_told_in_gos_own_words() {
    what_go_knows_is_told().unwrap();
}

#[test]
fn a_program_with_a_pool_and_visitors_names_no_leak() {
    nothing_is_named_where_nothing_leaks().unwrap();
}

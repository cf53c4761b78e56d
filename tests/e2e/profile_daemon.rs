//! The daemon's own profiles, of an etcd that serves none: always on, before and after a regression, and for who asks later.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{
    daemon::{self, Daemon, Seat},
    etcd::{Options, Version},
    incident::Incident,
    process::wait_until,
};
use model::{profile::ProfileKind, time::Stamp};
use profile::{
    gopprof,
    perf::{
        attr::{Hz, Measure},
        events::{Events, Sizes},
        target::Target,
    },
};
use serde_json::Value;

/// Detection takes ten to twenty seconds, the capture some more; a busy host takes its share.
const SOON: Duration = Duration::from_secs(90);

/// What there is to be seen of etcd before the regression, beside what the first baseline of probes takes.
const QUIET: Duration = Duration::from_secs(20);

const RATES: &str = "scrape: { interval: 1s }
probe: { writes: true, serializable_read_hz: 0.2, linearizable_read_hz: 0.3, status_hz: 0, lease_hz: 0.5, put_hz: 0 }
profile: { cpu: 3s, heap_from_memory: true }
";

/// A diff of that kind on the board.
fn diff<'a>(board: &'a Value, kind: &str) -> Option<&'a Value> {
    daemon::findings(board, "profile_diff").into_iter().find(|diff| diff["kind"] == kind)
}

/// Whoever may not sample the node, nor read others' memory, has it told; the stories of the endpoint are theirs.
fn is_ours() -> bool {
    Events::open(&Target::Node, (Measure::Running, Hz::STEADY), Sizes::default()).is_ok()
}

#[test]
fn a_regression_of_an_etcd_without_an_endpoint_is_explained_and_kept() -> Result<()> {
    if !is_ours() {
        return Ok(());
    }
    let seat = Seat::new("profile-daemon")?;
    let incident = Incident::with(Version::V3_6, seat.folder().path(), &Options::default())?;
    seat.configure(&format!("{}{RATES}", daemon::named(&incident.cluster, false)))?;
    let agent = seat.start(&[])?;
    incident.play(|| {
        seat.mark(&["--target", "orders", "--revision", "v1"])?;
        agent.wait_for("a baseline of writes", SOON, daemon::has_baseline_of_writes)?;
        // On a quick host etcd takes so little that 19 samples a second of CPU time find it a few times in ten seconds.
        std::thread::sleep(QUIET);
        seat.mark(&["--target", "orders", "--revision", "v2"])?;
        incident.turn_bad();
        agent.wait_for("a diff of CPU time", SOON, |board| diff(board, "cpu").map(drop))?;
        agent.wait_for("a diff of the heap", SOON, |board| diff(board, "heap").map(drop))
    })?;
    let board = agent.board()?;
    for kind in ["cpu", "heap"] {
        let diff = diff(&board, kind).context("no diff")?;
        ensure!(diff["engine"] == "perf" && diff["baseline"] == "before_marker", "{diff:#}");
        let samples = |side: &str| diff[side].as_u64().unwrap_or(0);
        ensure!(samples("before_samples") > 0 && samples("after_samples") > 0, "{diff:#}");
    }
    let member = diff(&board, "cpu").and_then(|diff| diff["target"].as_str()).context("no member")?;
    files_hold_etcd(&seat)?;
    what_was_kept_can_be_asked(&seat, member)?;
    agent.stop()?;
    // The ring outlives the daemon.
    what_was_kept_can_be_asked(&seat, member)
}

/// The capture's files have etcd's functions by name, of one process, in windows of both sides.
fn files_hold_etcd(seat: &Seat) -> Result<()> {
    let files = wait_until("the capture's files", SOON, || {
        let files = seat.folder().files("state/profiles")?;
        let count = files.iter().filter(|(path, ..)| path.extension().is_some_and(|end| end == "gz")).count();
        Ok((count >= 4).then_some(files))
    })?;
    for name in ["cpu.pb.gz", "cpu.before.pb.gz"] {
        let file = files.iter().find(|(path, ..)| path.ends_with(name));
        let (_, _, bytes) = file.with_context(|| format!("no {name}"))?;
        let (stacks, _) = gopprof::decode(bytes, ProfileKind::Cpu, Stamp::default())?;
        let named = stacks.functions.iter().filter(|function| function.name.contains("go.etcd.io/")).count();
        ensure!(named > 3, "{name}: {:?}", stacks.functions);
        ensure!(stacks.owners.iter().all(|owner| owner.process == "etcd"), "{:?}", stacks.owners);
        let pids: std::collections::BTreeSet<u32> = stacks.owners.iter().map(|owner| owner.pid).collect();
        ensure!(pids.len() == 1, "{name}: members are not mixed up: {pids:?}");
    }
    Ok(())
}

/// `agent --profile --against last`, for a person who comes after the fact.
fn what_was_kept_can_be_asked(seat: &Seat, member: &str) -> Result<()> {
    let config = seat.config();
    let config = config.to_str().context("path")?;
    let asked = [
        "--profile",
        "--config",
        config,
        "--name",
        member,
        "--for",
        "1s",
        "--against",
        "last",
        "--out",
        "out",
    ];
    let told = seat.command(&asked, &[])?;
    ensure!(told.status.code() == Some(0), "{told:?}");
    ensure!(told.stdout.contains("min that the daemon kept, until "), "{}", told.stdout);
    ensure!(told.stdout.contains("CPU: "), "{}", told.stdout);
    ensure!(seat.folder().path().join("command/out/cpu.before.pb.gz").exists(), "{}", told.stdout);
    Ok(())
}

#[test]
fn who_has_kept_nothing_says_so() -> Result<()> {
    let seat = Seat::new("profile-nothing")?;
    seat.configure("profile: { engine: pprof }\netcd: { discovery: false }\n")?;
    let agent: Daemon = seat.start(&[])?;
    let config = seat.config();
    let config = config.to_str().context("path")?;
    let ours = std::process::id().to_string();
    let common =
        ["--profile", "--config", config, "-p", &ours, "--for", "1s", "--against", "last", "--out", "out"];
    let told = seat.command(&common, &[])?;
    ensure!(
        told.status.code() == Some(0) && told.stdout.contains("no earlier profile of it in "),
        "{told:?}"
    );
    let strict: Vec<&str> = common.iter().copied().chain(["--fail-on", "*>+50%"]).collect();
    let told = seat.command(&strict, &[])?;
    ensure!(told.status.code() == Some(65) && told.stderr.contains("no earlier profile"), "{told:?}");
    ensure!(!agent.agent.stderr().contains(" sampled "), "{}", agent.agent.stderr());
    agent.stop()
}

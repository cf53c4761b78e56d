//! An agent that nobody told anything: it finds etcd on its node, reads only, says what it does, and stays up in any case.
//!
//! Other stories' members run on this node too, and are found as well: every check is about its own.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    daemon::{self, Daemon, Seat},
    etcd::{Cluster, Member, Options, Version},
    process::{Signal, wait_until},
};
use serde_json::Value;

/// Discovery on a node where other stories start and stop members all the time.
const SOON: Duration = Duration::from_secs(45);

/// A member that appears later is watched by then.
const FOUND_MAX: Duration = Duration::from_secs(15);

/// Our member on the board, whatever it is called there.
fn ours<'a>(board: &'a Value, member: &Member) -> Option<&'a Value> {
    let port = format!(":{}", member.client_address().port());
    let is_ours = |seen: &&Value| {
        let endpoint = seen.pointer("/origin/member/endpoint").and_then(Value::as_str);
        endpoint.is_some_and(|endpoint| endpoint.trim_end_matches('/').ends_with(&port))
    };
    board.get("members")?.as_array()?.iter().find(is_ours)
}

fn is_watched(board: &Value, member: &Member) -> Option<()> {
    let seen = ours(board, member)?;
    let read = |kind: &str| {
        let latencies = seen["latencies"].as_array()?;
        let of_kind = latencies.iter().find(|latency| latency["kind"] == kind)?;
        of_kind["n"].as_u64().filter(|n| *n >= 2)
    };
    let whole = seen["up"] == true && seen["state"].is_object();
    (whole && read("serializable_read").is_some() && read("linearizable_read").is_some()).then_some(())
}

fn finds_and_reads_only(version: Version) -> Result<()> {
    let cluster = Cluster::start(version, 1, &Options::default())?;
    let member = cluster.member(1)?;
    cluster.put("/somebody/else's", "key")?;
    let before = member.status()?.revision;
    let seat = Seat::new(&format!("zero-{version}"))?;
    // Nothing but where its files, its port and its socket lie: the defaults are the host's own.
    seat.configure("")?;
    let agent = seat.start(&[])?;
    agent.wait_for("the member that nobody named", SOON, |board| is_watched(board, member))?;

    let probes = |board: &Value| -> Vec<String> {
        let latencies = ours(board, member).and_then(|seen| seen["latencies"].as_array().cloned());
        let kinds = latencies.unwrap_or_default();
        kinds.iter().filter_map(|latency| latency["kind"].as_str().map(str::to_owned)).collect()
    };
    let kinds = probes(&agent.board()?);
    let reads = ["serializable_read", "linearizable_read", "status"];
    ensure!(kinds.iter().all(|kind| reads.contains(&kind.as_str())), "more than reads were sent: {kinds:?}");
    let after = member.status()?.revision;
    ensure!(before == after, "revision {before} then {after}: somebody wrote");

    let said = agent.agent.stderr();
    let port = member.client_address().port().to_string();
    let barred = "m1 serves no profiles: it was started without --enable-pprof";
    for wanted in ["dry run", "no OTLP endpoint: nothing leaves this node", "no writes", barred, &port] {
        ensure!(said.contains(wanted), "it does not say {wanted:?}: {said}");
    }
    agent.stop()?;
    let files = seat.folder().files("state")?;
    ensure!(files.len() >= 2, "state and checkpoint: {files:?}");
    for (path, mode, _) in files {
        ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
    }
    Ok(())
}

fn wait_for_reload(agent: &Daemon, worked: bool) -> Result<()> {
    wait_until("the reload to be told", SOON, || {
        let page = agent.get("/metrics")?.body;
        let told = format!("agent_config_last_reload_successful {}", u8::from(worked));
        Ok(page.lines().any(|line| line == told).then_some(()))
    })
    .with_context(|| format!("agent wrote: {}", agent.agent.stderr()))
}

fn reload_keeps_what_works() -> Result<()> {
    let cluster = Cluster::start(Version::V3_5, 1, &Options::default())?;
    let member = cluster.member(1)?;
    let seat = Seat::new("reload")?;
    let members = daemon::named(&cluster, false);
    seat.configure(&members)?;
    let agent = seat.start(&[])?;
    agent.wait_for("the member", SOON, |board| is_watched(board, member))?;

    for broken in ["scrape:\n  intervall: 1s\n", "etcd: [\n", "probe: { lease_hz: -1 }\n"] {
        seat.configure(broken)?;
        agent.agent.signal(Signal::Hup)?;
        wait_for_reload(&agent, false)?;
        let reads = |board: &Value| {
            let kinds = ours(board, member)?["latencies"].as_array()?.clone();
            kinds.iter().map(|latency| latency["n"].as_u64()).sum::<Option<u64>>()
        };
        let before = agent.wait_for("the member", SOON, reads)?;
        agent.wait_for("further probes", SOON, |board| reads(board).filter(|now| *now > before))?;
        seat.configure(&format!("{members}node: renamed\n"))?;
        agent.agent.signal(Signal::Hup)?;
        wait_for_reload(&agent, true)?;
    }
    let renamed =
        |board: &Value| (ours(board, member)?.pointer("/origin/node")?.as_str()? == "renamed").then_some(());
    agent.wait_for("the new name", SOON, renamed)?;
    ensure!(agent.agent.stderr().contains("intervall"), "it does not say what is wrong");
    agent.stop()
}

#[test]
fn an_agent_without_configuration_finds_a_member_of_3_5_and_only_reads() {
    finds_and_reads_only(Version::V3_5).unwrap();
}

#[test]
fn an_agent_without_configuration_finds_a_member_of_3_7_and_only_reads() {
    finds_and_reads_only(Version::V3_7).unwrap();
}

#[test]
fn a_node_without_etcd_is_normal_and_said_once() {
    let seat = Seat::new("nothing").unwrap();
    seat.configure("etcd: { discovery: false }\n").unwrap();
    let agent = seat.start(&[]).unwrap();
    // Longer than it takes to look again.
    for _ in 0..12 {
        thread::sleep(Duration::from_secs(1));
        assert_eq!(agent.get("/readyz").unwrap().status, 200);
        assert_eq!(agent.get("/healthz").unwrap().status, 200);
    }
    assert_eq!(agent.board().unwrap()["members"].as_array().unwrap().len(), 0);
    assert_eq!(agent.agent.stderr().matches("no etcd member here").count(), 1, "{}", agent.agent.stderr());
    agent.stop().unwrap();
    let config = seat.config();
    let checked = seat.command(&["check", "--config", config.to_str().unwrap()], &[]).unwrap();
    assert_eq!(checked.status.code(), Some(69), "{checked:?}");
}

#[test]
fn a_member_that_appears_later_is_found_within_fifteen_seconds() {
    let seat = Seat::new("later").unwrap();
    seat.configure("").unwrap();
    let agent = seat.start(&[]).unwrap();
    let cluster = Cluster::start(Version::V3_6, 1, &Options::default()).unwrap();
    let member = cluster.member(1).unwrap();
    agent
        .wait_for("the member that came later", FOUND_MAX, |board| {
            (ours(board, member)?["up"] == true).then_some(())
        })
        .unwrap();
    agent.stop().unwrap();
}

#[test]
fn a_broken_configuration_is_refused_on_reload_and_the_old_one_goes_on() {
    reload_keeps_what_works().unwrap();
}

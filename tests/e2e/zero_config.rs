//! An agent that nobody told anything: it finds etcd on its node, reads only, says what it does, and stays up in any case.
//!
//! Other stories' members run on this node too, and are found as well: every check is about its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    daemon::{self, Daemon, Seat},
    etcd::{Cluster, Member, Options, Version},
    http,
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

/// How often each gRPC method was called at a member, by its own count.
fn calls(member: &Member) -> Result<BTreeMap<String, u64>> {
    let address = member.metrics_url().trim_start_matches("http://").parse()?;
    let page = http::get(address, "/metrics", SOON)?.body;
    let started = page.lines().filter(|line| line.starts_with("grpc_server_started_total{"));
    let mut calls = BTreeMap::new();
    for line in started {
        let method = line.split("grpc_method=\"").nth(1).and_then(|rest| rest.split('"').next());
        let count = line.rsplit(' ').next().context("no value")?.parse::<f64>()?;
        *calls.entry(method.context("no method")?.to_owned()).or_default() += count as u64;
    }
    ensure!(!calls.is_empty(), "etcd counts no calls");
    Ok(calls)
}

/// Where a process's sockets lead to, as the kernel writes it: `0100007F` is 127.0.0.1.
fn peers(pid: u32) -> Result<BTreeSet<String>> {
    let links =
        fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let sockets: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let mut peers = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let rows = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for row in rows.lines().skip(1) {
            let fields: Vec<&str> = row.split_ascii_whitespace().collect();
            if fields.get(9).is_some_and(|inode| sockets.contains(*inode)) {
                peers.insert(
                    fields.get(2).and_then(|peer| peer.split(':').next()).context("no peer")?.to_owned(),
                );
            }
        }
    }
    Ok(peers)
}

/// The agent told nobody beyond this host: every peer of its sockets is loopback's, or nobody yet.
fn nothing_leaves(pid: u32) -> Result<()> {
    let peers = peers(pid)?;
    let is_here =
        |peer: &str| peer.ends_with("7F") || peer.ends_with("01000000") || peer.bytes().all(|b| b == b'0');
    ensure!(peers.contains("0100007F"), "no socket to etcd is seen: {peers:?}");
    ensure!(peers.iter().all(|peer| is_here(peer)), "somebody else is spoken to: {peers:?}");
    Ok(())
}

fn finds_and_reads_only(version: Version) -> Result<()> {
    let cluster = Cluster::start(version, 1, &Options::default())?;
    let member = cluster.member(1)?;
    cluster.put("/somebody/else's", "key")?;
    let (before, calls_before) = (member.status()?.revision, calls(member)?);
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
    // A lease leaves no revision behind; etcd's own count of calls has it.
    let grown = calls(member)?.into_iter().filter(|(method, n)| calls_before.get(method) != Some(n));
    let sent: BTreeSet<String> = grown.map(|(method, _)| method).collect();
    let harmless = ["Range", "Status", "MemberList", "Alarm"];
    ensure!(sent.iter().all(|method| harmless.contains(&method.as_str())), "etcd counts {sent:?}");
    ensure!(sent.contains("Range") && sent.contains("MemberList"), "etcd counts {sent:?}");
    nothing_leaves(agent.agent.pid())?;

    let said = agent.agent.stderr();
    let port = member.client_address().port().to_string();
    let barred = "m1 serves no profiles: it was started without --enable-pprof";
    let sent = "sent to it: its metrics page every 1s; Status every 10s, MemberList every third time; \
        serializable reads, 0.5 a second; linearizable reads, 0.5 a second; Status, 0.1 a second; no writes";
    for wanted in ["dry run", "no OTLP endpoint: nothing leaves this node", sent, barred, &port] {
        ensure!(said.contains(wanted), "it does not say {wanted:?}: {said}");
    }
    let mode = |name: &str| -> Result<u32> {
        Ok(fs::metadata(seat.folder().path().join(name))?.permissions().mode() & 0o777)
    };
    ensure!(mode("agent.sock")? == 0o600 && mode("state")? == 0o700, "the door is open");
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

//! What members raise or only show side by side: an alarm stops rollouts until it is disarmed, equal data are left alone, and
//! data that differ are found while every health check is content.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    daemon::{self, Daemon, Seat},
    etcd::{Cluster, Member, Options, Version},
    process::wait_until,
    sink::{Sink, flat},
};
use serde_json::Value;

/// Twenty probes, an account or two and a regression that closes again, on a busy host.
const SOON: Duration = Duration::from_secs(120);

/// Hashes are taken once a minute, all at the turn of the same period; the first round only notes which one it is.
const HASHED_MAX: Duration = Duration::from_secs(150);

const QUOTA: u64 = 4 << 20;

/// Puts of 100 kB until the quota must be used up, however late etcd compares it.
const PUTS_MAX: usize = 500;

const RATES: &str = "profile: { enabled: false }
scrape: { interval: 2s }
member: { interval: 1s }
probe: { serializable_read_hz: 0.9, linearizable_read_hz: 0.9, status_hz: 0 }
";

/// Writes over one key until the member refuses: the history fills the quota.
fn fill(member: &Member) -> Result<()> {
    let value = "eHh4".repeat(33_000);
    let request = format!(r#"{{"key":"Zm9v","value":"{value}"}}"#);
    for _ in 0..PUTS_MAX {
        if let Err(error) = member.call("/v3/kv/put", &request) {
            let told = format!("{error:#}");
            ensure!(told.contains("database space exceeded"), "{told}");
            return Ok(());
        }
    }
    anyhow::bail!("the quota holds {PUTS_MAX} puts")
}

/// What an operator does: compact, defragment, disarm.
fn make_room(member: &Member) -> Result<()> {
    let status = member.status()?;
    let compaction = format!(r#"{{"revision":"{}","physical":true}}"#, status.revision);
    member.call("/v3/kv/compaction", &compaction)?;
    member.call("/v3/maintenance/defragment", "{}")?;
    let disarm = format!(r#"{{"action":"DEACTIVATE","memberID":"{}","alarm":"NOSPACE"}}"#, status.member_id);
    member.call("/v3/maintenance/alarm", &disarm).map(drop)
}

fn state(board: &Value, target: &str) -> Option<String> {
    daemon::decision(board, target)?["state"].as_str().map(str::to_owned)
}

fn wait_for_state(agent: &Daemon, wanted: &str) -> Result<Value> {
    agent.wait_for(&format!("{wanted} for orders"), SOON, |board| {
        (state(board, "orders")? == wanted).then(|| board.clone())
    })
}

fn is_full(agent: &Daemon, seat: &Seat) -> Result<()> {
    let board = wait_for_state(agent, "hold")?;
    let found = daemon::findings(&board, "alarm");
    ensure!(found.len() == 1 && found[0]["raised"] == true && found[0]["holds"] == true, "{found:#?}");
    ensure!(found[0]["members"] == serde_json::json!(["m1"]), "{found:#?}");
    let figures = &found[0]["trouble"]["no_space"];
    ensure!(figures["quota_bytes"] == QUOTA, "{figures:#}");
    ensure!(figures["db_size_bytes"].as_u64().is_some_and(|size| size > QUOTA * 9 / 10), "{figures:#}");
    let evidence = &daemon::decision(&board, "orders").context("orders")?["evidence"];
    ensure!(
        evidence["sentence"].as_str().is_some_and(|told| told.contains("alarm NOSPACE of m1")),
        "{evidence:#}"
    );
    ensure!(evidence["alarms"].as_array().is_some_and(|alarms| alarms.len() == 1), "{evidence:#}");
    ensure!(state(&board, "etcd").as_deref() == Some("hold"), "{board:#}");
    // A rollout that begins all the same is stopped at once.
    seat.mark(&["--target", "orders", "--revision", "v2"])?;
    agent.wait_for("hold for v2", SOON, |board| {
        let decision = daemon::decision(board, "orders")?;
        (decision["revision"] == "v2" && decision["state"] == "hold").then_some(())
    })?;
    let config = seat.config();
    let checked = seat.command(&["check", "--config", config.to_str().context("path")?], &[])?;
    ensure!(checked.status.code() == Some(1), "{checked:?}");
    ensure!(checked.stdout.contains("warning: alarm NOSPACE of m1"), "{}", checked.stdout);
    Ok(())
}

/// The events that left, and what a replay of the recording says again.
fn is_told(sink: &Sink, seat: &Seat) -> Result<()> {
    let events = || {
        let lines = flat::logs(&sink.received()).into_iter().filter(|line| line.event == "backburn.alarm");
        lines.map(|line| line.record.severity_number).collect::<Vec<_>>()
    };
    wait_until("both events", SOON, || Ok((events() == [17, 9]).then_some(())))
        .with_context(|| format!("severities {:?}", events()))?;
    let file = seat.folder().path().join("alarm.recording");
    let replayed = seat.command(&["replay", file.to_str().context("path")?], &[])?;
    ensure!(replayed.status.code() == Some(0), "{}", replayed.stderr);
    let alarms = replayed.stdout.lines().filter(|line| line.contains(r#""conclusion":{"alarm""#)).count();
    ensure!(alarms == 2, "{alarms} alarm findings are in the recording");
    Ok(())
}

#[test]
fn a_full_quota_stops_rollouts_until_it_is_disarmed() {
    let full = || -> Result<()> {
        let args = vec![format!("--quota-backend-bytes={QUOTA}")];
        let cluster = Cluster::start(Version::V3_5, 1, &Options { args, ..Options::default() })?;
        let (sink, seat) = (Sink::start()?, Seat::new("alarm-nospace")?);
        let otlp = format!("otlp: {{ endpoint: {}, protocol: grpc, flush: 500ms }}\n", sink.grpc_endpoint());
        seat.configure(&format!("{}{otlp}{RATES}", daemon::named(&cluster, false)))?;
        let agent = seat.record("alarm.recording")?;
        seat.mark(&["--target", "orders", "--revision", "v1"])?;
        let board = wait_for_state(&agent, "pass")?;
        ensure!(daemon::findings(&board, "alarm").is_empty(), "{board:#}");

        fill(cluster.member(1)?)?;
        is_full(&agent, &seat)?;

        make_room(cluster.member(1)?)?;
        let board = wait_for_state(&agent, "pass")?;
        let found = daemon::findings(&board, "alarm");
        ensure!(
            found.len() == 2 && found[1]["raised"] == false && found[1]["ended"] == "disarmed",
            "{found:#?}"
        );
        ensure!(board["warnings"] == serde_json::json!([]), "{board:#}");
        agent.stop()?;
        is_told(&sink, &seat)
    };
    full().unwrap();
}

/// A value that stands in no other place of a database.
const VALUE: &str = "a value that one member will remember otherwise";

/// Changes one byte of the value wherever it stands in the database of a member that is down: bbolt keeps old copies.
fn flip(member: &Member) -> Result<()> {
    let file = member.data_dir().join("member/snap/db");
    let mut bytes = fs::read(&file)?;
    let places: Vec<usize> = bytes
        .windows(VALUE.len())
        .enumerate()
        .filter(|(_, at)| *at == VALUE.as_bytes())
        .map(|(at, _)| at)
        .collect();
    ensure!(!places.is_empty(), "the value is not in {}", file.display());
    for place in places {
        bytes[place] ^= 1;
    }
    fs::write(&file, bytes).map_err(Into::into)
}

/// The next hash of each member: a board shows it until the account after.
fn next_hashes(agent: &Daemon) -> Result<BTreeMap<String, Value>> {
    let mut hashes = BTreeMap::new();
    wait_until("a hash of each member", HASHED_MAX, || {
        let board = agent.board()?;
        for name in ["m1", "m2", "m3"] {
            let hash = daemon::member(&board, name).map(|member| &member["state"]["hash"]);
            if let Some(hash) = hash.filter(|hash| hash.is_object()) {
                hashes.insert(name.to_owned(), hash.clone());
            }
        }
        Ok((hashes.len() == 3).then_some(()))
    })?;
    Ok(hashes)
}

#[test]
fn equal_data_are_left_alone_and_data_that_differ_stop_rollouts() {
    let differ = || -> Result<()> {
        let cluster = Cluster::start(Version::V3_5, 3, &Options::default())?;
        cluster.put("foo", VALUE)?;
        let seat = Seat::new("alarm-hash")?;
        let rates = RATES.replace("interval: 1s", "interval: 2s, hash_kv: true, hash_kv_interval: 60s");
        seat.configure(&format!("{}{rates}", daemon::named(&cluster, false)))?;
        let agent = seat.start(&[])?;
        let hashes = next_hashes(&agent)?;
        ensure!(hashes.values().all(|hash| *hash == hashes["m1"]), "{hashes:#?}");
        let board = agent.board()?;
        ensure!(
            daemon::findings(&board, "alarm").is_empty() && board["warnings"] == serde_json::json!([]),
            "{board:#}"
        );

        let third = cluster.member(3)?;
        third.stop()?;
        flip(third)?;
        third.start()?;
        third.wait_healthy(SOON)?;
        let board = agent.wait_for("data that differ", HASHED_MAX, |board| {
            (!daemon::findings(board, "alarm").is_empty()).then(|| board.clone())
        })?;
        let found = daemon::findings(&board, "alarm");
        let hashes = found[0]["trouble"]["different_data"]["hashes"].as_array().context("no hashes")?;
        let of = |name: &str| hashes.iter().find(|one| one[0] == name).map(|one| &one[1]);
        ensure!(of("m3").is_some() && of("m3") != of("m1").or(of("m2")), "{found:#?}");
        agent.wait_for("hold", SOON, |board| (state(board, "etcd")? == "hold").then_some(()))?;
        for member in &cluster {
            ensure!(member.is_healthy()?, "etcd itself calls {} unhealthy", member.name());
        }
        agent.stop()
    };
    differ().unwrap();
}

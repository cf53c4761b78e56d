//! `check`, `validate`, `mark` and `version` as an operator meets them: what they print, from where, and how they end.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    agent::{Agent, Finished},
    daemon::{self, Seat},
    etcd::{Cluster, Member, Options, Version},
};
use serde_json::Value;

/// As in the other stories with a daemon.
const SOON: Duration = Duration::from_secs(45);

fn code(finished: &Finished) -> Option<i32> {
    finished.status.code()
}

/// `agent check` with the seat's configuration, so that it asks the seat's daemon and no other.
fn check(seat: &Seat, args: &[&str]) -> Result<Finished> {
    let config = seat.config();
    let mut all = vec!["check", "--config", config.to_str().context("path")?];
    all.extend(args);
    seat.command(&all, &[])
}

fn check_as_json(seat: &Seat) -> Result<Value> {
    let told = check(seat, &["--output", "json"])?;
    ensure!(code(&told) == Some(0), "{told:?}");
    serde_json::from_str(&told.stdout).context("not JSON")
}

/// The cells of the first member's row.
fn cells(table: &str) -> Result<Vec<&str>> {
    let mut lines = table.lines();
    let head = lines.next().context("no head")?;
    ensure!(head.starts_with("MEMBER  HEALTH  VERSION"), "{head}");
    let row = lines.next().context("no row")?;
    Ok(row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
}

/// `1.2 ms (30)`: a median with its n, and no 99th percentile, which thirty answers do not have.
fn is_median_alone(cell: &str) -> bool {
    let Some((median, n)) = cell.split_once(" ms (") else { return false };
    let n = n.strip_suffix(')').and_then(|n| n.parse::<u32>().ok());
    median.parse::<f64>().is_ok_and(|ms| ms > 0.0) && n.is_some_and(|n| (2..100).contains(&n))
}

fn without_a_daemon(seat: &Seat) -> Result<()> {
    let told = check(seat, &[])?;
    ensure!(code(&told) == Some(0), "{told:?}");
    let cells = cells(&told.stdout)?;
    ensure!(cells.len() == 7 && cells[..2] == ["m1", "ok"] && cells[3] == "leader", "{cells:?}");
    ensure!(cells[2].starts_with("3.6.") && cells[4].ends_with(" MiB"), "{cells:?}");
    ensure!(cells[5..].iter().all(|cell| is_median_alone(cell)), "{cells:?}");
    let socket = seat.folder().path().join("agent.sock");
    let unknown = format!("SLO: unknown (no agent at {}: connect: No such file", socket.display());
    ensure!(told.stdout.contains(&unknown), "{}", told.stdout);

    let told = check_as_json(seat)?;
    ensure!(told["slo"] == "unknown" && told["daemon"].is_null(), "{told:#}");
    ensure!(told["daemon_unknown"].as_str().is_some_and(|why| why.starts_with("no agent at ")), "{told:#}");
    let latencies = told.pointer("/members/0/latencies").and_then(Value::as_array).context("no latencies")?;
    for kind in ["serializable_read", "linearizable_read"] {
        let of_kind = latencies.iter().find(|latency| latency["kind"] == kind).context("not probed")?;
        let n = of_kind["n"].as_u64().context("no n")?;
        ensure!((2..100).contains(&n) && of_kind["failed"] == 0, "{of_kind:#}");
        ensure!(of_kind["p50_s"].is_f64() && of_kind["p99_s"].is_null(), "{of_kind:#}");
    }
    Ok(())
}

fn with_a_daemon(seat: &Seat, cluster: &Cluster) -> Result<()> {
    let agent = seat.start(&[])?;
    agent.wait_for("judged objectives", SOON, |board| {
        // What nobody writes to syncs nothing, and is judged by nothing.
        cluster.put("/written", "again").ok()?;
        let slos = board["slos"].as_array()?;
        let judged = |slo: &Value| slo["state"] == "ok" || slo["state"] == "burning";
        (slos.len() >= 3 && slos.iter().all(judged)).then_some(())
    })?;
    let told = check(seat, &[])?;
    let lines: Vec<&str> = told.stdout.lines().filter(|line| line.starts_with("SLO ")).collect();
    for (objective, side) in [
        ("SLO availability 99.90 %: ", ") "),
        ("SLO linearizable_read 99.00 %: ", ") "),
        ("SLO wal_fsync 99.00 %: ", ", server side) "),
    ] {
        let line = lines.iter().find(|line| line.starts_with(objective));
        let line = line.with_context(|| format!("no {objective:?} in {}", told.stdout))?;
        ensure!(line.contains(" bad in 1 h, burn ") && line.contains(side), "{line}");
    }
    ensure!(!told.stdout.contains("unknown ("), "{}", told.stdout);
    let told = check_as_json(seat)?;
    let states = told["daemon"]["slos"].as_array().context("no objectives")?.clone();
    let burning = states.iter().any(|slo| slo["state"] == "burning");
    ensure!(
        told["slo"] == if burning { "burning" } else { "ok" } && told["daemon_unknown"].is_null(),
        "{told:#}"
    );
    marks(seat, &agent)?;
    agent.stop()
}

/// A mark reaches the running agent, or says why not.
fn marks(seat: &Seat, agent: &daemon::Daemon) -> Result<()> {
    let socket = seat.folder().path().join("agent.sock");
    let socket = socket.to_str().context("path")?;
    let mark = |args: &[&str]| {
        let mut all = vec!["mark", "--socket", socket];
        all.extend(args);
        seat.command(&all, &[])
    };
    let cases: [(&[&str], i32, &str); 6] = [
        (&["--target", "orders", "--revision", "v1"], 0, "\"at\":\"20"),
        (&["--target", "m1", "--kind", "planned"], 0, "\"at\":\"20"),
        (&["--target", "m1", "--kind", "restart", "--revision", "3.6.1"], 0, "\"at\":\"20"),
        (&["--target", "orders"], 2, "--revision"),
        (&["--target", "orders", "--revision", "v1", "--kind", "upgrade"], 2, "rollout, restart, planned"),
        (&["--target", "orders", "--revision", "v1", "--rollback-of", "v1"], 65, "rollback_of"),
    ];
    for (args, wanted, said) in cases {
        let told = mark(args)?;
        let text = format!("{}{}", told.stdout, told.stderr);
        ensure!(code(&told) == Some(wanted) && text.contains(said), "{args:?}: {told:?}");
    }
    let closed = fs::Permissions::from_mode(0o000);
    fs::set_permissions(socket, closed)?;
    let args = ["mark", "--target", "orders", "--revision", "v 2", "--socket", socket];
    let dir = seat.folder().path().join("command");
    let told = Agent::run_as_stranger(&dir, &args, &[], SOON)?;
    ensure!(code(&told) == Some(77), "{told:?}");
    let command = told.stderr.lines().last().and_then(|line| line.strip_prefix("run: sudo /"));
    let ends = format!(" mark --target orders --revision 'v 2' --socket {socket}");
    ensure!(command.is_some_and(|command| command.ends_with(&ends)), "{told:?}");
    agent.wait_for("the target that was rolled out", SOON, |board| {
        daemon::decision(board, "orders").is_some().then_some(())
    })
}

fn a_frozen_member_has_no_percentiles(seat: &Seat, member: &Member) -> Result<()> {
    member.pause()?;
    let told = check(seat, &[])?;
    member.resume()?;
    ensure!(code(&told) == Some(69), "{told:?}");
    let cells = cells(&told.stdout)?;
    ensure!(cells[..2] == ["m1", "SILENT"] && cells[5..] == ["(0)", "(0)"], "{cells:?}");
    ensure!(told.stdout.contains("probes not answered"), "{}", told.stdout);
    Ok(())
}

#[test]
fn check_tells_members_in_a_table_and_in_json_with_and_without_a_daemon() {
    let cluster = Cluster::start(Version::V3_6, 1, &Options::default()).unwrap();
    let seat = Seat::new("checked").unwrap();
    seat.configure(&daemon::named(&cluster, false)).unwrap();
    without_a_daemon(&seat).unwrap();
    with_a_daemon(&seat, &cluster).unwrap();
    a_frozen_member_has_no_percentiles(&seat, cluster.member(1).unwrap()).unwrap();
    let socket = seat.folder().path().join("agent.sock");
    let args = ["mark", "--target", "orders", "--revision", "v2", "--socket", socket.to_str().unwrap()];
    let told = seat.command(&args, &[]).unwrap();
    assert_eq!(code(&told), Some(69), "{told:?}");
    assert!(told.stderr.contains("(is it running?): connect: No such file"), "{told:?}");
}

#[test]
fn validate_tells_where_each_value_came_from() {
    let seat = Seat::new("provenance").unwrap();
    let write = |name: &str, text: &str| {
        seat.folder().write(name, text).unwrap().to_str().map(str::to_owned).unwrap()
    };
    let first = write("first.yaml", "node: from-file\nscrape:\n  interval: 2s\n  timeout: 1s\n");
    let second = write("second.yaml", "scrape: { interval: 5s }\n");
    let variables = [
        ("NODE_NAME", "from-variable"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer s3cret"),
        ("ETCDCTL_CERT", "/home/op/client.crt"),
    ];
    let told = seat.command(&["validate", "--config", &first, "--config", &second], &variables).unwrap();
    assert_eq!(code(&told), Some(0), "{told:?}");
    for line in [
        format!("node = from-file  ({first}:1)"),
        format!("scrape.interval = 5s  ({second}:1)"),
        format!("scrape.timeout = 1s  ({first}:4)"),
        "probe.writes = false  (default)".to_owned(),
        "otlp = http://collector:4318  (OTEL_EXPORTER_OTLP_ENDPOINT)".to_owned(),
        "otlp = ***  (OTEL_EXPORTER_OTLP_HEADERS)".to_owned(),
        "etcd.discovery = /home/op/client.crt  (ETCDCTL_CERT)".to_owned(),
    ] {
        assert!(told.stdout.lines().any(|told| told == line), "no {line:?} in {}", told.stdout);
    }
    assert!(!told.stdout.contains("s3cret") && told.stderr.is_empty(), "{told:?}");

    let told = seat.command(&["validate"], &variables).unwrap();
    let line = "node = from-variable  (NODE_NAME)";
    assert!(told.stdout.lines().any(|told| told == line), "no {line:?} in {}", told.stdout);
}

#[test]
fn every_problem_is_told_in_one_run_with_its_place_and_its_cure() {
    let seat = Seat::new("problems").unwrap();
    let text = "scrape:
  intervall: 1s
probe: { lease_hz: -1, deadline: soon }
slo:
  fsync_limit: 15ms
rollback:
  webhooks:
    - { name: d, url: \"http://deployer/\" }
otlp: [ \"http://collector\" ]
admin: { listen: here }
";
    let file = seat.folder().write("broken.yaml", text).unwrap();
    let file = file.to_str().unwrap();
    let other = seat.folder().write("other.yaml", "log:\n  format: xml\n---\n").unwrap();
    let other = other.to_str().unwrap();
    let variables = [("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")];
    let told = seat.command(&["validate", "--config", file, "--config", other], &variables).unwrap();
    assert_eq!(code(&told), Some(78), "{told:?}");
    for (place, cure) in [
        ("2:3", "did you mean `interval`?"),
        ("3:20", "must be a number from 0 to 2"),
        ("3:34", "must be a duration from 10ms to 3s"),
        ("5:16", "fsync_limit"),
        ("8:7", "secret"),
        ("9:7", "must be a map of keys"),
        ("10:18", "127.0.0.1:9464"),
    ] {
        let begin = format!("{file}:{place}: ");
        let line = told.stderr.lines().find(|line| line.starts_with(&begin));
        assert!(line.is_some_and(|line| line.contains(cure)), "no {begin}… {cure} in\n{}", told.stderr);
    }
    assert!(told.stderr.contains(&format!("{other}:")), "the second file is forgotten: {}", told.stderr);
    assert!(told.stderr.contains("OTEL_EXPORTER_OTLP_PROTOCOL"), "{}", told.stderr);
    // Whoever reads a configuration refuses this one in the same words.
    for verb in [["run"].as_slice(), &["check"], &["--profile"], &["record", "unwritten"]] {
        let mut args = verb.to_vec();
        args.extend(["--config", file]);
        let refused = seat.command(&args, &[]).unwrap();
        assert_eq!(code(&refused), Some(78), "{verb:?}: {refused:?}");
        assert!(refused.stderr.contains(&format!("{file}:2:3: ")), "{verb:?}: {refused:?}");
    }
    assert!(!seat.folder().path().join("command/unwritten").exists());
    assert!(fs::metadata(seat.folder().path().join("state")).is_err(), "a refused run left its state");
}

#[test]
fn version_names_the_agent_and_its_formats() {
    let seat = Seat::new("version").unwrap();
    let told = seat.command(&["version"], &[]).unwrap();
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert_eq!(lines[0], format!("agent {}", env!("CARGO_PKG_VERSION")));
    for format in ["recording: format ", "state: version ", "OTLP profiles: v1development", "pprof: "] {
        assert!(lines.iter().any(|line| line.starts_with(format)), "{lines:?}");
    }
    let short = seat.command(&["--version"], &[]).unwrap();
    assert_eq!(short.stdout.trim(), lines[0]);
}

//! The OpenTelemetry Collector takes what the agent sends, all of it, and reads it as it was meant.
//!
//! Each story compares three accounts: what etcd, the service and the agent's files say, what the agent says it sent,
//! and what the Collector counted and wrote.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    collector::{
        Collector, Kind,
        written::{Item, Written},
    },
    daemon::{self, CALM, Daemon, Seat},
    etcd::{Member, Options, Version},
    incident::Incident,
    process::wait_until,
};

use self::{
    lines::{findings_arrived, lines_arrived_once, service_log, tree_arrived},
    pages::{pages_are_passed_on, probes_are_told},
    profiles::profiles_arrived,
};

mod lines;
mod pages;
mod profiles;

/// Detection takes ten to twenty seconds, the capture some more; a busy host takes its share.
const SOON: Duration = Duration::from_secs(90);

/// How long the Collector is gone.
const OUTAGE: Duration = Duration::from_secs(5);

/// `service.name` of the agent's own spans and log lines, which another exporter sends.
const OWN: &str = "backburn-agent";

/// How one signal is sent: its word in the agent's counters and in variables, what the Collector counts, protocol,
/// compression.
type Wire = (&'static str, Kind, &'static str, &'static str);

const GRPC: &str = "grpc";
const HTTP: &str = "http/protobuf";

/// Together with the other, each signal goes once over each protocol and once in each compression, by variables of its own.
const ONE_WAY: [Wire; 4] = [
    ("metrics", Kind::MetricPoints, GRPC, "gzip"),
    ("logs", Kind::LogRecords, GRPC, "zstd"),
    ("traces", Kind::Spans, HTTP, "zstd"),
    ("profiles", Kind::ProfileSamples, HTTP, "gzip"),
];

const OTHER_WAY: [Wire; 4] = [
    ("metrics", Kind::MetricPoints, HTTP, "zstd"),
    ("logs", Kind::LogRecords, HTTP, "gzip"),
    ("traces", Kind::Spans, GRPC, "gzip"),
    ("profiles", Kind::ProfileSamples, GRPC, "zstd"),
];

/// Profiles by endpoints, for heaps and goroutines: of a busy host, as this one may be, a capture by samples asks for none.
/// There v1's own answers may be late as well: the limits leave it room, v2's take a stall's 160 ms; and where a capture
/// comes before there is a baseline, another may follow.
const RATES: &str = "scrape: { interval: 1s }
slo: { write_limit: 64ms, read_limit: 64ms }
probe: { writes: true, serializable_read_hz: 0.2, linearizable_read_hz: 0.3, status_hz: 0, lease_hz: 0.5, put_hz: 0 }
profile: { engine: pprof, cpu: 2s, baseline_cpu: 1s, cool_down: 1s }
otlp: { flush: 2s }
";

struct Stage {
    incident: Incident,
    collector: Collector,
    wires: [Wire; 4],
    seat: Seat,
}

impl Stage {
    fn set(name: &str, wires: [Wire; 4]) -> Result<Stage> {
        let seat = Seat::new(name)?;
        let collector = Collector::start(seat.folder().path())?;
        let options = Options { pprof: true, ..Options::default() };
        let incident = Incident::with(Version::V3_5, seat.folder().path(), &options)?;
        let logs =
            format!("logs: {{ files: [\"{}\"], start_at: beginning }}\n", incident.orders.log().display());
        let members: String = incident.cluster.into_iter().map(member).collect();
        seat.configure(&format!("etcd:\n  members:\n{members}{logs}{RATES}"))?;
        Ok(Stage { incident, collector, wires, seat })
    }

    fn start(&self) -> Result<Daemon> {
        let mut variables = Vec::new();
        for (signal, _, protocol, compression) in self.wires {
            let (grpc, http) = (self.collector.grpc_endpoint(), self.collector.http_endpoint());
            let endpoint = match (protocol, signal) {
                (GRPC, _) => grpc,
                (_, "profiles") => format!("{http}/v1development/profiles"),
                _ => format!("{http}/v1/{signal}"),
            };
            let name = |what: &str| format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.to_uppercase());
            variables.push((name("ENDPOINT"), endpoint));
            variables.push((name("PROTOCOL"), protocol.to_owned()));
            variables.push((name("COMPRESSION"), compression.to_owned()));
        }
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.seat.start(&variables)
    }

    fn written(&self) -> Written {
        Written::new(self.collector.output())
    }

    fn transport(&self, kind: Kind) -> &'static str {
        let wire = self.wires.iter().find(|(_, of, _, _)| *of == kind);
        if wire.is_some_and(|(_, _, protocol, _)| *protocol == GRPC) { "grpc" } else { "http" }
    }

    /// What the receiver should have counted, by what is in the file; the agent's own spans and lines go the same way.
    fn receipts(&self, written: &Written) -> Receipts {
        let count = |kind| ((kind, self.transport(kind).to_owned()), written.count(kind, |_| true));
        Kind::ALL.into_iter().map(count).collect()
    }

    /// Three accounts of what was sent: the agent's, the file's, and the receiver's, which began when `before` was in the
    /// file. They are equal at a moment at which nothing is on its way; there are such moments, because the agent hands
    /// over every two seconds.
    fn accounts_agree(&self, agent: &Daemon, written: &mut Written, before: &Receipts) -> Result<()> {
        wait_until("the accounts to agree", SOON, || {
            let said = sent(agent)?;
            let counted = self.collector.counters()?;
            let mut expected = self.receipts(written.update()?);
            before.iter().for_each(|(of, count)| *expected.entry(of.clone()).or_default() -= count);
            ensure!(counted.refused == 0, "refused: {counted:?}");
            for (of, count) in &expected {
                let taken = counted.accepted.get(of).copied().unwrap_or_default();
                ensure!(taken == *count, "{of:?}: the receiver took {taken}, in the file are {count}");
            }
            let there = said_by_the_file(written);
            ensure!(said == there, "the agent says it sent {said:?}, in the file are {there:?}");
            ensure!(sent(agent)? == said, "something is on its way");
            Ok(Some(()))
        })
    }

    /// An order each tenth of a second: two lines and a tree.
    fn work_for(&self, lasts: Duration) -> Result<()> {
        for _ in 0..lasts.as_millis() / 100 {
            self.incident.orders.put("v1", self.incident.cluster.member(1)?, "/orders/1", "1")?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Items by kind and transport.
type Receipts = BTreeMap<(Kind, String), u64>;

/// One entry of `etcd.members`.
fn member(member: &Member) -> String {
    let (name, client, metrics, log) =
        (member.name(), member.client_url(), member.metrics_url(), member.log_path());
    let log = log.display();
    format!(
        "    - {{ name: {name}, client: {client}, metrics: {metrics}/metrics, pprof: {client}, log: {log} }}\n"
    )
}

/// Items the agent says were acknowledged, by signal.
fn sent(agent: &Daemon) -> Result<BTreeMap<&'static str, u64>> {
    let of = |signal: &'static str| Ok((signal, agent.metric("agent_otlp_sent_items_total", signal)? as u64));
    ["metrics", "logs", "traces", "profiles"].into_iter().map(of).collect()
}

/// The same as it can be seen in the file; the agent counts profiles, not samples.
fn said_by_the_file(written: &Written) -> BTreeMap<&'static str, u64> {
    let ours = |kind| written.count(kind, |service| service != OWN);
    [
        ("metrics", ours(Kind::MetricPoints)),
        ("logs", ours(Kind::LogRecords)),
        ("traces", ours(Kind::Spans)),
        ("profiles", written.profiles.len() as u64),
    ]
    .into()
}

/// Nothing was dropped, and the agent understood every answer.
fn nothing_was_amiss(agent: &Daemon) -> Result<()> {
    let dropped = agent.metric("agent_otlp_dropped_items_total", "")?;
    ensure!(dropped == 0.0, "{dropped} items dropped");
    let said = agent.agent.stderr();
    let remark = said.lines().find(|line| line.contains("otlp receiver has remarks"));
    ensure!(remark.is_none(), "{}", remark.unwrap_or_default());
    Ok(())
}

fn everything_arrives(name: &str, wires: [Wire; 4]) -> Result<()> {
    let stage = Stage::set(name, wires)?;
    let agent = stage.start()?;
    let mut written = stage.written();
    stage.incident.play(|| {
        agent.wait_for("fast writes", CALM, daemon::writes_are_fast)?;
        stage.seat.mark(&["--target", "orders", "--revision", "v1"])?;
        agent.wait_for("pass for v1", CALM, |board| {
            (daemon::decision(board, "orders")?["state"] == "pass").then_some(())
        })?;
        probes_are_told(&agent, &stage, &mut written)?;
        agent.wait_for("a baseline of writes", SOON, daemon::has_baseline_of_writes)?;
        stage.seat.mark(&["--target", "orders", "--revision", "v2"])?;
        stage.incident.turn_bad();
        agent.wait_for("a profile diff", SOON, |board| {
            (!daemon::findings(board, "profile_diff").is_empty()).then_some(())
        })
    })?;
    let said = service_log(stage.incident.orders.log())?;
    wait_until("lines, findings and trees", SOON, || {
        written.update()?;
        lines_arrived_once(&said, &written)?;
        findings_arrived(&written)?;
        tree_arrived(&said, &written).map(Some)
    })?;
    pages_are_passed_on(&stage, &mut written)?;
    stage.accounts_agree(&agent, &mut written, &Receipts::new())?;
    // A second capture may have ended meanwhile: it is sent within the next flush.
    wait_until("profiles", SOON, || profiles_arrived(&stage.seat, written.update()?).map(Some))?;
    nothing_was_amiss(&agent)?;
    agent.stop()
}

fn an_outage_loses_nothing(name: &str, wires: [Wire; 4]) -> Result<()> {
    let stage = Stage::set(name, wires)?;
    let agent = stage.start()?;
    let mut written = stage.written();
    stage.work_for(Duration::from_secs(1))?;
    wait_until("metrics and logs before the outage", SOON, || {
        let receipts = stage.receipts(written.update()?);
        let came = |kind| receipts.iter().any(|((of, _), count)| *of == kind && *count > 0);
        Ok((came(Kind::MetricPoints) && came(Kind::LogRecords)).then_some(()))
    })?;
    stage.collector.stop()?;
    let before = stage.receipts(written.update()?);
    stage.work_for(OUTAGE)?;
    ensure!(agent.metric("agent_otlp_retries_total", "")? > 0.0, "no retry is counted");
    ensure!(agent.metric("agent_otlp_queue_bytes", "")? > 0.0, "nothing waits");
    stage.collector.resume()?;
    stage.work_for(Duration::from_secs(1))?;
    let said = service_log(stage.incident.orders.log())?;
    wait_until("every line", SOON, || lines_arrived_once(&said, written.update()?).map(Some))
        .with_context(|| format!("the agent wrote: {}", agent.agent.stderr()))?;
    let rooted = |span: &&Item| span.service() == "orders" && span.text("parentSpanId").is_empty();
    wait_until("a tree of each order", SOON, || {
        let trees = written.update()?.spans.iter().filter(rooted).count();
        ensure!(2 * trees == said.len(), "{trees} trees of {} lines", said.len());
        Ok(Some(()))
    })?;
    stage.accounts_agree(&agent, &mut written, &before)?;
    nothing_was_amiss(&agent)?;
    agent.stop()
}

#[test]
fn all_four_signals_arrive_whole_one_way() {
    everything_arrives("collector-one-way", ONE_WAY).unwrap();
}

#[test]
fn all_four_signals_arrive_whole_the_other_way() {
    everything_arrives("collector-other-way", OTHER_WAY).unwrap();
}

#[test]
fn a_collector_that_was_gone_for_a_while_has_everything_one_way() {
    an_outage_loses_nothing("collector-outage-one-way", ONE_WAY).unwrap();
}

#[test]
fn a_collector_that_was_gone_for_a_while_has_everything_the_other_way() {
    an_outage_loses_nothing("collector-outage-other-way", OTHER_WAY).unwrap();
}

#[test]
fn profiles_still_need_the_collectors_gate() {
    let seat = Seat::new("collector-gate").unwrap();
    let refused = Collector::without_gate(seat.folder().path()).unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    assert!(refused.stderr.contains("service.profilesSupport"), "{}", refused.stderr);
}

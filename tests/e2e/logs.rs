//! Log lines: etcd's slow ones become spans of the request that caused them, no key leaves, and no line is lost or sent twice,
//! whether the receiver is there when the agent ends or not.

use std::{collections::BTreeMap, fs, io::Read, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    daemon::{self, Daemon, Seat},
    etcd::{Cluster, Logger, Member, Options, Version},
    process::{Signal, wait_until},
    service::Service,
    sink::{Payload, Sink, flat},
};
use prost::Message;

/// A tree is closed some seconds after its last line; then it has to be sent.
const SOON: Duration = Duration::from_secs(40);

/// Well above etcd's 100 ms for a slow line, well below its election timeout.
const STALL: Duration = Duration::from_millis(300);

/// Nothing else is spelled like these.
const KEY: &str = "canary-key-4f1d9c";
const VALUE: &str = "canary-value-77ab02";

fn otlp(sink: &Sink) -> String {
    format!("otlp: {{ endpoint: {}, flush: 300ms }}\n", sink.http_endpoint())
}

fn logs(service: &Service) -> String {
    format!("logs: {{ files: [\"{}\"], start_at: beginning }}\n", service.log().display())
}

fn slow_lines_become_spans(version: Version, logger: Logger) -> Result<()> {
    let cluster = Cluster::start(version, 3, &Options { logger, ..Options::default() })?;
    let sink = Sink::start()?;
    let seat = Seat::new(&format!("logs-{version}-{logger:?}"))?;
    let orders = Service::new(seat.folder().path(), "orders");
    seat.configure(&format!("{}{}{}", daemon::named(&cluster, true), otlp(&sink), logs(&orders)))?;
    let agent = seat.record("story.recording")?;

    let mut traces = Vec::new();
    for turn in 0..5 {
        let key = format!("{KEY}/{turn}");
        let call = |leader: &Member| match logger {
            // The old logger has no line for a slow write.
            Logger::Shipped if version == Version::V3_4 => orders.get("v1", leader, &key),
            _ => orders.put("v1", leader, &key, VALUE),
        };
        traces.push(cluster.stalled(STALL, call)?);
    }
    wait_until("a tree that leads from the service to etcd", SOON, || {
        let spans = flat::spans(&sink.received());
        ensure!(!spans.is_empty(), "no spans at all");
        Ok(traces.iter().any(|trace| leads_to_etcd(&spans, trace)).then_some(()))
    })?;
    wait_until("etcd's slow lines as log records", SOON, || {
        let lines = flat::logs(&sink.received());
        let slow = lines.iter().filter(|line| {
            line.resource.get("service.name").is_some_and(|name| name == "etcd")
                && line.attributes.contains_key("work.duration_ns")
                && line.attributes.contains_key("log.file.path")
        });
        let slow = slow.count();
        ensure!(slow >= traces.len(), "{slow} of {}", traces.len());
        Ok(Some(()))
    })?;
    let seen = [agent.get("/verdict")?.body, agent.get("/")?.body, agent.get("/metrics")?.body];
    agent.stop()?;
    ensure!(seen.iter().all(|page| !has_canary(page.as_bytes())), "a key is on an admin page");
    no_key_has_left(&sink, &seat)?;

    // The canaries were there to be found: etcd's own log spells them.
    let spelled =
        cluster.into_iter().any(|member| fs::read(member.log_path()).is_ok_and(|log| has_canary(&log)));
    ensure!(spelled, "etcd did not log the key: nothing was proven");
    Ok(())
}

fn leads_to_etcd(spans: &[flat::Spanned], trace: &str) -> bool {
    let of_trace: Vec<_> = spans.iter().filter(|span| span.trace_id == trace).collect();
    let parent = |span: &flat::Spanned| {
        of_trace.iter().find(|other| other.span.span_id == span.span.parent_span_id).copied()
    };
    let service = |span: &flat::Spanned| span.resource.get("service.name").cloned().unwrap_or_default();
    of_trace.iter().filter(|span| service(span) == "etcd").any(|span| {
        let call = parent(span)
            .filter(|call| service(call) == "orders" && ["put", "range"].contains(&call.span.name.as_str()));
        let root = call.and_then(parent).filter(|root| root.span.parent_span_id.is_empty());
        let inside = call.is_some_and(|call| {
            call.span.start_time_unix_nano <= span.span.start_time_unix_nano
                && span.span.end_time_unix_nano <= call.span.end_time_unix_nano
        });
        root.is_some() && inside && span.attributes.contains_key("stitch.confidence")
    })
}

fn no_key_has_left(sink: &Sink, seat: &Seat) -> Result<()> {
    for one in sink.received() {
        let bytes = match &one.payload {
            Payload::Metrics(request) => request.encode_to_vec(),
            Payload::Traces(request) => request.encode_to_vec(),
            Payload::Logs(request) => request.encode_to_vec(),
            Payload::Profiles(request) => request.encode_to_vec(),
        };
        let services = one.payload.by_service();
        ensure!(!has_canary(&bytes), "a key was sent at {:?}, for {services:?}", one.at);
    }
    for (path, mode, bytes) in seat.folder().files("state")? {
        ensure!(!has_canary(&bytes), "a key is in {}", path.display());
        ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
    }
    for output in ["agent.stdout", "agent.stderr"] {
        ensure!(!has_canary(&fs::read(seat.folder().path().join(output))?), "a key is in {output}");
    }
    let recording = unpacked(&fs::read(seat.folder().path().join("story.recording"))?)?;
    ensure!(recording.len() > 10_000, "the recording has only {} bytes", recording.len());
    ensure!(!has_canary(&recording), "a key is in the recording");
    Ok(())
}

/// The blocks of a recording: a mark and a version, then a length and a zstd frame each.
fn unpacked(recording: &[u8]) -> Result<Vec<u8>> {
    let mut rest = recording.get(10..).context("no recording")?;
    let mut all = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let (frame, next) = tail.split_at_checked(u32::from_le_bytes(*head) as usize).context("torn")?;
        zstd::Decoder::new(frame)?.read_to_end(&mut all)?;
        rest = next;
    }
    Ok(all)
}

fn has_canary(bytes: &[u8]) -> bool {
    // Also as base64 and hex would spell the beginning, and in Rust's list of bytes.
    let spellings = ["canary-", "Y2FuYXJ5L", "63616e6172792d", "99, 97, 110, 97, 114, 121"];
    spellings.iter().any(|text| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// How often each trace id has arrived in a log record.
fn arrivals(sink: &Sink) -> BTreeMap<String, usize> {
    let mut arrivals = BTreeMap::new();
    for line in flat::logs(&sink.received()) {
        if line.resource.get("service.name").is_some_and(|name| name == "orders") {
            *arrivals.entry(line.trace_id).or_default() += 1;
        }
    }
    arrivals
}

struct Told {
    seat: Seat,
    sink: Sink,
    orders: Service,
    said: Vec<String>,
}

impl Told {
    fn new(name: &str) -> Result<Told> {
        let seat = Seat::new(name)?;
        let sink = Sink::start()?;
        let orders = Service::new(seat.folder().path(), "orders");
        seat.configure(&format!("etcd: {{ discovery: false }}\n{}{}", otlp(&sink), logs(&orders)))?;
        Ok(Told { seat, sink, orders, said: Vec::new() })
    }

    fn start(&self) -> Result<Daemon> {
        self.seat.start(&[])
    }

    fn say(&mut self, lines: usize) -> Result<()> {
        for _ in 0..lines {
            let number = self.said.len();
            self.said.push(self.orders.say(&format!("line {number}"))?);
        }
        Ok(())
    }

    fn wait_for_all(&self) -> Result<BTreeMap<String, usize>> {
        wait_until("every line", SOON, || {
            let arrivals = arrivals(&self.sink);
            let lost = self.said.iter().filter(|trace| !arrivals.contains_key(*trace)).count();
            ensure!(lost == 0, "{lost} of {} lines have not come", self.said.len());
            Ok(Some(arrivals))
        })
    }
}

#[test]
fn slow_lines_of_3_4_in_its_old_format_become_spans_and_no_key_leaves() {
    slow_lines_become_spans(Version::V3_4, Logger::Shipped).unwrap();
}

#[test]
fn slow_lines_of_3_4_in_json_become_spans_and_no_key_leaves() {
    slow_lines_become_spans(Version::V3_4, Logger::Zap).unwrap();
}

#[test]
fn slow_lines_of_3_5_become_spans_and_no_key_leaves() {
    slow_lines_become_spans(Version::V3_5, Logger::Shipped).unwrap();
}

#[test]
fn slow_lines_of_3_6_become_spans_and_no_key_leaves() {
    slow_lines_become_spans(Version::V3_6, Logger::Shipped).unwrap();
}

#[test]
fn slow_lines_of_3_7_become_spans_and_no_key_leaves() {
    slow_lines_become_spans(Version::V3_7, Logger::Shipped).unwrap();
}

#[test]
fn an_agent_that_is_stopped_and_started_sends_each_line_once() {
    let mut told = Told::new("logs-stopped").unwrap();
    for _ in 0..3 {
        let agent = told.start().unwrap();
        told.say(50).unwrap();
        told.wait_for_all().unwrap();
        // These are on their way, or not even read, when it is told to stop.
        told.say(50).unwrap();
        agent.stop().unwrap();
        told.say(50).unwrap();
    }
    let agent = told.start().unwrap();
    let arrivals = told.wait_for_all().unwrap();
    let twice: Vec<_> = arrivals.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{} of {} lines came again: {twice:?}", twice.len(), told.said.len());
    agent.stop().unwrap();
}

#[test]
fn an_agent_that_is_killed_loses_no_line_and_repeats_only_those_since_its_checkpoint() {
    let mut told = Told::new("logs-killed").unwrap();
    let agent = told.start().unwrap();
    told.say(50).unwrap();
    told.wait_for_all().unwrap();
    agent.stop().unwrap();
    // A clean stop has written a checkpoint behind these.
    let safe = told.said.clone();

    let agent = told.start().unwrap();
    told.say(50).unwrap();
    told.wait_for_all().unwrap();
    told.say(50).unwrap();
    agent.agent.kill().unwrap();
    told.say(50).unwrap();
    let agent = told.start().unwrap();
    let arrivals = told.wait_for_all().unwrap();
    assert!(safe.iter().all(|trace| arrivals[trace] == 1), "lines behind the checkpoint came again");
    assert!(arrivals.values().all(|times| *times <= 2), "one crash, and a line came three times");
    agent.stop().unwrap();
}

/// What stood only in the agent's memory when it ended comes from the file when the receiver is back.
fn ends_while_the_receiver_is_away(name: &str, end: fn(&Daemon) -> Result<()>) -> Result<()> {
    let mut told = Told::new(name)?;
    told.sink.down();
    let agent = told.start()?;
    told.say(100)?;
    wait_until("the lines to wait for the receiver", SOON, || {
        let kept = agent.metric("agent_logs_lines_total", "kept")?;
        let queued = agent.metric("agent_otlp_queue_bytes", "")?;
        Ok((kept >= 100.0 && queued > 0.0).then_some(()))
    })?;
    end(&agent)?;
    told.sink.up()?;
    let agent = told.start()?;
    let arrivals = told.wait_for_all()?;
    ensure!(arrivals.values().all(|times| *times == 1), "nothing had arrived, and now some came twice");
    agent.stop()?;
    // Acknowledged before the end: not sent again after it.
    let agent = told.start()?;
    told.say(1)?;
    let arrivals = told.wait_for_all()?;
    ensure!(arrivals.values().all(|times| *times == 1), "a line that the receiver had came again");
    agent.stop()
}

#[test]
fn lines_that_no_receiver_took_before_the_stop_arrive_after_the_next_start() {
    ends_while_the_receiver_is_away("logs-away-stopped", Daemon::stop).unwrap();
}

#[test]
fn lines_that_no_receiver_took_before_the_kill_arrive_after_the_next_start() {
    let kill = |daemon: &Daemon| {
        // A checkpoint is written every ten seconds: one that passed these lines would lose them now.
        thread::sleep(Duration::from_secs(12));
        daemon.agent.kill()
    };
    ends_while_the_receiver_is_away("logs-away-killed", kill).unwrap();
}

#[test]
fn lines_that_no_receiver_took_before_a_reload_arrive_after_it() {
    let mut told = Told::new("logs-away-reloaded").unwrap();
    told.sink.down();
    let agent = told.start().unwrap();
    told.say(100).unwrap();
    let kept = || Ok((agent.metric("agent_logs_lines_total", "kept")? >= 100.0).then_some(()));
    wait_until("the lines to be read", SOON, kept).unwrap();
    agent.agent.signal(Signal::Hup).unwrap();
    let reloaded = || Ok((agent.metric("agent_otlp_left_items_total", "logs")? >= 100.0).then_some(()));
    wait_until("the lines to be left to the next run", SOON, reloaded).unwrap();
    told.sink.up().unwrap();
    let arrivals = told.wait_for_all().unwrap();
    assert!(arrivals.values().all(|times| *times == 1), "nothing had arrived, and now some came twice");
    agent.stop().unwrap();
}

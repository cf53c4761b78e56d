//! Each kind of item, encoded and read back by the generated types.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::finding::{Alarm, CallTree, CaptureFailed, Edge, FoundBy, Span, Trouble, Verdict};
use model::host::{Cgroup, CgroupCpu, CgroupIo, CpuTimes, Disk, Filesystem, HostFact, Pressure, Process};
use model::log::{LogBatch, LogEvent, Meaning, Receipt, ReceiptState, Severity, Step, Work};
use model::member::{MemberFact, MemberState};
use model::origin::{MemberRef, Origin};
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::profile::{
    Baseline, CaptureOutcome, CaptureResult, Frame, Function, Losses, Mapping, ProfileKind, ProfileSet,
    StackSample, Stacks,
};
use model::verdict::{Decision, Evidence, State};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, Metric, metric};
use opentelemetry_proto::tonic::profiles::v1development::{Link, Location, ProfilesDictionary};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::*;

fn origin() -> Arc<Origin> {
    let endpoint = "http://127.0.0.1:2379".to_owned();
    let member = MemberRef { id: Some(0xab), name: "m1".to_owned(), endpoint };
    Arc::new(Origin { cluster_id: Some(0xcd), node: "n1".to_owned(), member: Some(member) })
}

fn at(seconds: u64) -> Stamp {
    Stamp { mono_ns: seconds * 1_000_000_000, wall_ns: (1_000 + seconds) * 1_000_000_000 }
}

fn record(fact: Fact) -> Item {
    Item::Record(Arc::new(Record { at: at(1), origin: origin(), fact }))
}

fn finding(conclusion: Conclusion) -> Item {
    Item::Finding(Arc::new(Finding { id: 9, at: at(2), origin: origin(), conclusion }))
}

fn encoder() -> Encoder {
    let mut config = Config::default();
    config.each(|destination| destination.endpoint = Endpoint::Base("http://h:1".to_owned()));
    Encoder::new(&config, &Ledger::default())
}

fn payloads(items: &[Item]) -> Vec<Payload> {
    let mut encoder = encoder();
    let mut payloads: Vec<Payload> = items.iter().flat_map(|item| encoder.item(item)).collect();
    payloads.extend(encoder.flush(at(3)));
    payloads
}

fn only<T: Message + Default>(signal: Signal, items: &[Item]) -> T {
    let payloads = payloads(items);
    assert_eq!(payloads.iter().map(|payload| payload.signal).collect::<Vec<_>>(), [signal]);
    T::decode(payloads[0].bytes.as_slice()).unwrap()
}

fn shown(value: &AnyValue) -> String {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(yes)) => yes.to_string(),
        Some(any_value::Value::ArrayValue(list)) => {
            format!("[{}]", list.values.iter().map(shown).collect::<Vec<_>>().join(","))
        }
        Some(any_value::Value::KvlistValue(list)) => format!("{:?}", pairs(&list.values)),
        other => format!("{other:?}"),
    }
}

fn pairs(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.as_ref().map(shown).unwrap_or_default()))
        .collect()
}

fn resource(resource: Option<&Resource>) -> BTreeMap<String, String> {
    pairs(&resource.unwrap().attributes)
}

fn has(seen: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(seen.get(*key).map(String::as_str), Some(*value), "{key} in {seen:?}");
    }
}

fn event(message: &str) -> LogEvent {
    LogEvent {
        time_ns: 77,
        severity: Severity::Warn,
        service: "etcd".to_owned(),
        revision: Some("3.5.33".to_owned()),
        message: message.to_owned(),
        trace_id: None,
        span_id: None,
        parent_span_id: None,
        meaning: Meaning::Plain,
        attributes: vec![("caller".to_owned(), "raft.go:1".to_owned())],
        ship: true,
    }
}

fn batch(events: Vec<LogEvent>) -> (Item, Receipt) {
    let receipt = Receipt::default();
    let batch = LogBatch {
        file: Arc::from("/l"),
        events,
        lines: 9,
        rejects: Vec::new(),
        lost_bytes: 0,
        receipt: receipt.clone(),
    };
    (record(Fact::Logs(batch)), receipt)
}

fn work() -> Work {
    let (operation, key) = ("range".to_owned(), None);
    Work { operation, start_ns: 1, duration_ns: 5_000, peer: None, failed: true, key }
}

#[test]
fn shipped_lines_keep_time_severity_and_trace() {
    let client = LogEvent {
        service: "shop".to_owned(),
        revision: Some("v2".to_owned()),
        severity: Severity::Error,
        trace_id: Some([1; 16]),
        span_id: Some([2; 8]),
        parent_span_id: Some([3; 8]),
        ..event("checkout failed")
    };
    let steps = vec![Step { name: "s".to_owned(), duration_ns: 1 }];
    let slow =
        LogEvent { meaning: Meaning::EtcdTrace { number: 7, work: work(), steps }, ..event("trace[7]") };
    let quiet = LogEvent { ship: false, ..event("not shipped") };
    let (item, receipt) = batch(vec![client, slow, quiet]);
    let request: ExportLogsServiceRequest = only(Signal::Logs, &[item]);
    assert_eq!(receipt.state(), ReceiptState::Pending, "encoded is not queued");
    let [etcd, shop] = request.resource_logs.as_slice() else { panic!("{request:?}") };
    has(
        &resource(etcd.resource.as_ref()),
        &[
            ("service.name", "etcd"),
            ("service.version", "3.5.33"),
            ("service.instance.id", "127.0.0.1:2379"),
            ("etcd.member.name", "m1"),
            ("etcd.member.id", "ab"),
            ("etcd.cluster.id", "cd"),
        ],
    );
    let of_shop = resource(shop.resource.as_ref());
    has(&of_shop, &[("service.name", "shop"), ("service.version", "v2"), ("host.name", "n1")]);
    assert!(!of_shop.contains_key("etcd.member.name"), "a client is not a member");
    let line: &LogRecord = &shop.scope_logs[0].log_records[0];
    assert_eq!((line.time_unix_nano, line.observed_time_unix_nano), (77, 1_001_000_000_000));
    assert_eq!((line.severity_number, line.severity_text.as_str()), (17, "ERROR"));
    assert_eq!((line.trace_id.as_slice(), line.span_id.as_slice()), (&[1; 16][..], &[2; 8][..]));
    assert_eq!(shown(line.body.as_ref().unwrap()), "checkout failed");
    has(
        &pairs(&line.attributes),
        &[("log.file.path", "/l"), ("caller", "raft.go:1"), ("parent_span_id", "0303030303030303")],
    );
    let slow: &LogRecord = &etcd.scope_logs[0].log_records[0];
    assert!(slow.trace_id.is_empty(), "etcd's number is no trace id");
    has(
        &pairs(&slow.attributes),
        &[
            ("etcd.trace.number", "7"),
            ("work.operation", "range"),
            ("work.duration_ns", "5000"),
            ("work.failed", "true"),
        ],
    );
}

#[test]
fn a_batch_without_shipped_lines_is_safe_at_once() {
    let (item, receipt) = batch(vec![LogEvent { ship: false, ..event("x") }]);
    assert!(payloads(&[item]).is_empty());
    assert_eq!(receipt.state(), ReceiptState::Taken);
}

#[test]
fn a_batch_over_two_requests_is_safe_with_the_last_and_lost_with_the_first() {
    let mut config = Config::default();
    config.each(|destination| {
        destination.endpoint = Endpoint::Base("http://h:1".to_owned());
        destination.protocol = super::super::config::Protocol::Grpc;
    });
    let mut encoder = Encoder::new(&config, &Ledger::default());
    let (item, receipt) = batch((0..6).map(|_| event(&"x".repeat(1 << 20))).collect());
    let mut parts = encoder.item(&item);
    parts.extend(encoder.flush(at(3)));
    assert!(parts.iter().all(|part| part.bytes.len() < 4 << 20));
    assert_eq!(parts.iter().map(|part| part.items).collect::<Vec<_>>(), [3, 3]);
    assert_eq!((parts[0].tickets.len(), parts[1].tickets.len()), (1, 1), "both carry its lines");
    assert_eq!(receipt.state(), ReceiptState::Pending);
}

#[test]
fn a_verdict_is_an_event_with_its_evidence() {
    let mut evidence = Evidence::assemble("v2 made reads slow".to_owned());
    evidence.request_share = Some(0.5);
    evidence.members = vec!["m1".to_owned()];
    let decision = Decision {
        target: "shop".to_owned(),
        epoch: 1,
        revision: "v2".to_owned(),
        state: State::Rollback,
        since: at(1),
        valid_until_ns: u64::MAX,
        dry_run: true,
        evidence,
    };
    let verdict = Verdict { from: Some(State::Pass), decision: Arc::new(decision) };
    let request: ExportLogsServiceRequest = only(Signal::Logs, &[finding(Conclusion::Verdict(verdict))]);
    has(
        &resource(request.resource_logs[0].resource.as_ref()),
        &[("service.name", "backburn"), ("host.name", "n1")],
    );
    let event = &request.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!((event.event_name.as_str(), event.severity_number), ("backburn.verdict", 17));
    has(&pairs(&event.attributes), &[("backburn.finding.id", "9"), ("etcd.member.name", "m1")]);
    let body = shown(event.body.as_ref().unwrap()).replace('\\', "");
    for part in ["\"state\": \"rollback\"", "v2 made reads slow", "\"request_share\": \"0.5\"", "[m1]"] {
        assert!(body.contains(part), "{part} in {body}");
    }
}

#[test]
fn a_failed_capture_is_a_warning() {
    let text = |text: &str| text.to_owned();
    let failed = CaptureFailed {
        request: 1,
        finding: 2,
        target: text("m1"),
        reason: text("timeout"),
        detail: text("d"),
    };
    let request: ExportLogsServiceRequest = only(Signal::Logs, &[finding(Conclusion::CaptureFailed(failed))]);
    let event = &request.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!(
        (event.event_name.as_str(), event.severity_text.as_str()),
        ("backburn.capture_failed", "WARN")
    );
}

#[test]
fn an_alarm_is_as_loud_as_what_it_means() {
    let check = |trouble: Trouble, (raised, holds): (bool, bool), severity: i32| {
        let alarm = Alarm {
            key: "7 x".to_owned(),
            trouble,
            raised,
            holds,
            since: at(1),
            members: vec!["m1".to_owned()],
            sentence: "something is wrong".to_owned(),
            ended: (!raised).then(|| "disarmed".to_owned()),
        };
        let request: ExportLogsServiceRequest = only(Signal::Logs, &[finding(Conclusion::Alarm(alarm))]);
        let event = &request.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!((event.event_name.as_str(), event.severity_number), ("backburn.alarm", severity));
        shown(event.body.as_ref().unwrap()).replace('\\', "")
    };
    let full = || Trouble::NoSpace { db_size_bytes: Some(17), quota_bytes: Some(16) };
    let body = check(full(), (true, true), 17);
    for part in ["\"db_size_bytes\": \"17\"", "\"quota_bytes\": \"16\"", "something is wrong"] {
        assert!(body.contains(part), "{part} in {body}");
    }
    assert!(check(full(), (false, true), 9).contains("disarmed"));
    let skew = |minors_apart| Trouble::VersionSkew { versions: Vec::new(), minors_apart };
    check(skew(1), (true, false), 9);
    check(skew(2), (true, true), 13);
}

fn span(id: u8, parent: Option<u8>, service: &str, found_by: FoundBy) -> Span {
    Span {
        span_id: [id; 8],
        parent: parent.map(|id| [id; 8]),
        service: service.to_owned(),
        revision: None,
        name: format!("op {id}"),
        start_ns: 10,
        end_ns: 20,
        failed: id == 3,
        found_by,
        confidence: 90,
        slack_ns: u64::from(id == 4) * 1000,
        attributes: vec![("etcd.key".to_owned(), "len=5".to_owned())],
    }
}

#[test]
fn a_call_tree_becomes_spans_that_say_how_they_were_found() {
    let tree = CallTree {
        trace_id: [5; 16],
        derived: false,
        spans: vec![
            span(1, None, "shop", FoundBy::Root),
            span(2, Some(1), "shop", FoundBy::ParentId),
            span(3, Some(2), "etcd", FoundBy::PeerAndTime),
            span(4, Some(3), "etcd", FoundBy::Step),
        ],
        missing: 1,
    };
    let request: ExportTraceServiceRequest = only(Signal::Traces, &[finding(Conclusion::CallTree(tree))]);
    let services: Vec<_> = request
        .resource_spans
        .iter()
        .map(|of| resource(of.resource.as_ref())["service.name"].clone())
        .collect();
    assert_eq!(services, ["etcd", "shop"]);
    let all: BTreeMap<u8, _> = request
        .resource_spans
        .iter()
        .flat_map(|of| &of.scope_spans)
        .flat_map(|of| &of.spans)
        .map(|span| (span.span_id[0], span))
        .collect();
    assert!(all.values().all(|span| span.trace_id == [5; 16] && span.attributes.len() >= 4));
    assert_eq!(
        all.values().map(|span| span.kind).collect::<Vec<_>>(),
        [2, 3, 2, 1],
        "server, client, server, internal"
    );
    assert_eq!(all[&1].parent_span_id, Vec::<u8>::new());
    assert_eq!(all[&3].parent_span_id, [2; 8]);
    assert_eq!((all[&3].start_time_unix_nano, all[&3].end_time_unix_nano), (10, 20));
    assert_eq!(all[&3].status.as_ref().map(|status| status.code), Some(2));
    assert_eq!((all[&3].flags, all[&4].flags), (0x300, 0x100));
    has(
        &pairs(&all[&3].attributes),
        &[
            ("derived_from", "logs"),
            ("stitch.method", "peer_and_time"),
            ("stitch.confidence", "90"),
            ("etcd.key", "len=5"),
        ],
    );
    has(&pairs(&all[&4].attributes), &[("placement.slack_ns", "1000"), ("stitch.method", "step")]);
    has(&pairs(&all[&1].attributes), &[("stitch.missing", "1")]);
}

fn metrics(items: &[Item]) -> BTreeMap<String, Metric> {
    let request: ExportMetricsServiceRequest = only(Signal::Metrics, items);
    let scopes = request.resource_metrics.into_iter().flat_map(|of| of.scope_metrics);
    scopes.flat_map(|of| of.metrics).map(|metric| (metric.name.clone(), metric)).collect()
}

fn points(metric: &Metric) -> Vec<(BTreeMap<String, String>, String)> {
    let points = match metric.data.as_ref().unwrap() {
        metric::Data::Gauge(gauge) => &gauge.data_points,
        metric::Data::Sum(sum) => {
            assert_eq!(sum.aggregation_temporality, 2);
            &sum.data_points
        }
        other => panic!("{other:?}"),
    };
    points.iter().map(|point| (pairs(&point.attributes), format!("{:?}", point.value.unwrap()))).collect()
}

#[test]
fn probes_become_a_cumulative_histogram_by_kind_and_outcome() {
    let probe = |latency_ms: u64, outcome| {
        record(Fact::Probe(Probe {
            kind: ProbeKind::LeaseGrant,
            latency_ns: latency_ms * 1_000_000,
            outcome,
        }))
    };
    let mut encoder = encoder();
    let histogram = |payloads: Vec<Payload>| -> Vec<HistogramDataPoint> {
        let request = ExportMetricsServiceRequest::decode(payloads[0].bytes.as_slice()).unwrap();
        let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
        assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("etcd.client.probe.duration", "s"));
        match metric.data.as_ref().unwrap() {
            metric::Data::Histogram(histogram) => histogram.data_points.clone(),
            other => panic!("{other:?}"),
        }
    };
    for item in [probe(3, ProbeOutcome::Ok), probe(32, ProbeOutcome::Ok), probe(5000, ProbeOutcome::TimedOut)]
    {
        assert!(encoder.item(&item).is_empty());
    }
    let first = histogram(encoder.flush(at(5)));
    has(&pairs(&first[0].attributes), &[("etcd.probe.kind", "lease_grant"), ("etcd.probe.outcome", "ok")]);
    has(&pairs(&first[1].attributes), &[("etcd.probe.outcome", "timed_out")]);
    assert_eq!((first[0].count, first[0].sum), (2, Some(0.035)));
    assert_eq!((first[0].start_time_unix_nano, first[0].time_unix_nano), (at(1).wall_ns, at(5).wall_ns));
    assert_eq!(first[0].bucket_counts.len(), first[0].explicit_bounds.len() + 1);
    let place = first[0].explicit_bounds.iter().position(|bound| *bound == 0.032).unwrap();
    assert_eq!(first[0].bucket_counts[place], 1, "a bound belongs to its bucket");
    assert!(encoder.flush(at(6)).is_empty(), "what did not change is not sent again");
    encoder.item(&probe(1, ProbeOutcome::Ok));
    assert_eq!(histogram(encoder.flush(at(7)))[0].count, 3, "cumulative");
}

#[test]
fn edges_are_added_up() {
    let edge = |calls: u64, failed: u64| {
        finding(Conclusion::Edge(Edge {
            caller: "shop".to_owned(),
            callee: "etcd".to_owned(),
            operation: "range".to_owned(),
            calls,
            failed,
            duration_sum_ns: 500_000_000 * calls,
            duration_max_ns: 0,
            confidence: 90,
        }))
    };
    let seen = metrics(&[edge(2, 1), edge(4, 0)]);
    let one = |name: &str| points(&seen[name])[0].clone();
    assert_eq!(one("backburn.edge.calls").1, "AsInt(6)");
    assert_eq!(one("backburn.edge.failed").1, "AsInt(1)");
    let (attributes, duration) = one("backburn.edge.duration");
    assert_eq!(duration, "AsDouble(3.0)");
    has(&attributes, &[("client", "shop"), ("server", "etcd"), ("operation", "range")]);
    let mut table = EdgeTable::default();
    let ledger = Ledger::default();
    for number in 0..2000 {
        let Item::Finding(found) = edge(1, 0) else { panic!() };
        let Conclusion::Edge(edge) = &found.conclusion else { panic!() };
        let edge = Edge { operation: number.to_string(), ..edge.clone() };
        table.observe(&found.origin, at(1), &edge, &ledger);
    }
    assert_eq!(ledger.get("agent_otlp_folded_edges_total", "edges_max"), 2000 - 512);
}

#[test]
fn a_members_account_becomes_gauges() {
    let state = MemberState {
        id: 0xab,
        leader: 0xab,
        raft_term: 4,
        db_size_bytes: 1024,
        quota_bytes: Some(2048),
        alarms: vec![("NOSPACE".to_owned(), 1)],
        ..MemberState::default()
    };
    let seen = metrics(&[record(Fact::Member(MemberFact::Answered(Box::new(state))))]);
    let one = |name: &str| points(&seen[name])[0].1.clone();
    assert_eq!(one("etcd.member.is_leader"), "AsDouble(1.0)");
    assert_eq!(one("etcd.member.db.size"), "AsDouble(1024.0)");
    assert_eq!(one("etcd.member.db.quota"), "AsDouble(2048.0)");
    assert_eq!(points(&seen["etcd.cluster.alarms"])[0].1, "AsDouble(1.0)");
    assert_eq!(seen["etcd.member.db.size"].unit, "By");
    let silent = MemberFact::Silent { reason: "refused".to_owned(), detail: "x".to_owned() };
    let seen = metrics(&[record(Fact::Member(silent))]);
    let (attributes, value) = &points(&seen["etcd.member.answered"])[0];
    assert_eq!(value, "AsDouble(0.0)");
    has(attributes, &[("error.type", "refused")]);
}

#[test]
fn the_node_speaks_semantic_conventions() {
    let host = HostFact {
        cpus: 2,
        cpu: CpuTimes { steal_ns: 1_500_000_000, ..CpuTimes::default() },
        pressure: Some(Pressure { io_us: 2_000_000, ..Pressure::default() }),
        disks: vec![Disk { name: "vda".to_owned(), writes: 3, write_ms: 1500, ..Disk::default() }],
        filesystems: vec![Filesystem { path: "/d".to_owned(), total_bytes: 10, available_bytes: 4 }],
        processes: vec![Process {
            pid: 42,
            name: "etcd".to_owned(),
            fds: None,
            rss_bytes: 5,
            cgroup: Some(Cgroup {
                path: "/pod".to_owned(),
                cpu: Some(CgroupCpu {
                    limit_millicpus: Some(1_500),
                    throttled_ns: 2_500_000_000,
                    ..CgroupCpu::default()
                }),
                io: Some(CgroupIo { read_bytes: 1, write_bytes: 7 }),
                ..Cgroup::default()
            }),
            ..Process::default()
        }],
        ..HostFact::default()
    };
    let seen = metrics(&[record(Fact::Host(host.clone()))]);
    let find = |name: &str, key: &str, value: &str| {
        let points = points(&seen[name]);
        points.iter().find(|(attributes, _)| attributes[key] == value).unwrap().1.clone()
    };
    assert_eq!(find("system.cpu.time", "cpu.mode", "steal"), "AsDouble(1.5)");
    assert_eq!(find("system.disk.operation_time", "disk.io.direction", "write"), "AsDouble(1.5)");
    assert_eq!(find("system.filesystem.usage", "system.filesystem.state", "used"), "AsDouble(6.0)");
    assert_eq!(find("backburn.host.pressure.stall.time", "resource", "io"), "AsDouble(2.0)");
    assert_eq!(find("backburn.cgroup.disk.io", "disk.io.direction", "write"), "AsDouble(7.0)");
    let alone = |name: &str| points(&seen[name])[0].1.clone();
    assert_eq!(alone("backburn.cgroup.cpu.throttled.time"), "AsDouble(2.5)");
    assert_eq!(alone("backburn.cgroup.cpu.limit"), "AsDouble(1.5)");
    assert!(!seen.contains_key("backburn.cgroup.memory.usage"), "not readable is not zero");
    assert!(!seen.contains_key("process.unix.file_descriptor.count"), "not permitted is not zero");
    let request: ExportMetricsServiceRequest = only(Signal::Metrics, &[record(Fact::Host(host))]);
    let process = resource(request.resource_metrics[1].resource.as_ref());
    has(&process, &[("process.pid", "42"), ("process.executable.name", "etcd"), ("host.name", "n1")]);
}

fn stacks(samples: Vec<StackSample>) -> Stacks {
    let function = |name: &str| Function { name: name.to_owned(), file: "a.go".to_owned(), start_line: 1 };
    let frame = |function, inlined| Frame {
        function,
        mapping: 0,
        address: 0x40 + u64::from(function),
        line: 3,
        inlined,
        ..Frame::default()
    };
    Stacks {
        kind: ProfileKind::Cpu,
        at: at(1),
        duration_ns: 10_000_000_000,
        period: 10_000_000,
        mappings: vec![Mapping {
            path: "/bin/etcd".to_owned(),
            go_build_id: "abc/def/ghi/jkl".to_owned(),
            start: 1,
            end: 2,
            offset: 3,
            ..Mapping::default()
        }],
        functions: vec![function("leaf"), function("middle"), function("main")],
        frames: vec![
            frame(0, true),
            frame(1, false),
            frame(2, false),
            Frame { mapping: u32::MAX, ..frame(2, false) },
        ],
        owners: Vec::new(),
        samples,
        losses: Losses::default(),
        pprof: Vec::new(),
    }
}

fn capture(after: Stacks, before: Option<Stacks>) -> Item {
    let set = |stacks: Stacks| {
        Arc::new(ProfileSet {
            engine: "go_pprof".to_owned(),
            stacks: Arc::new(vec![stacks]),
            ..ProfileSet::default()
        })
    };
    let outcome =
        CaptureOutcome::Done { before: before.map(set), baseline: Baseline::Aged, after: set(after) };
    record(Fact::Capture(CaptureResult { request: 1, target: "m1".to_owned(), outcome }))
}

fn sample(frames: &[u32], value: i64) -> StackSample {
    StackSample { frames: frames.to_vec(), value, count: 1, owner: 0 }
}

fn names(dictionary: &ProfilesDictionary, location: i32) -> Vec<String> {
    let location: &Location = &dictionary.location_table[usize::try_from(location).unwrap()];
    let name = |index: i32| {
        let function = &dictionary.function_table[usize::try_from(index).unwrap()];
        dictionary.string_table[usize::try_from(function.name_strindex).unwrap()].clone()
    };
    location.lines.iter().map(|line| name(line.function_index)).collect()
}

#[test]
fn a_capture_becomes_profiles_with_a_whole_dictionary() {
    let after =
        stacks(vec![sample(&[0, 1, 2], 30), sample(&[2], 20), sample(&[0, 1, 2], 10), sample(&[99, 3], 5)]);
    let payloads = payloads(&[capture(after.clone(), Some(after))]);
    assert_eq!(payloads.iter().map(|payload| payload.items).collect::<Vec<_>>(), [1, 1]);
    let request = ExportProfilesServiceRequest::decode(payloads[1].bytes.as_slice()).unwrap();
    let dictionary = request.dictionary.as_ref().unwrap();
    assert_eq!(dictionary.mapping_table[0], Default::default());
    assert_eq!(dictionary.location_table[0], Default::default());
    assert_eq!(dictionary.function_table[0], Default::default());
    assert_eq!(dictionary.stack_table[0], Default::default());
    assert_eq!(dictionary.attribute_table[0], Default::default());
    assert_eq!(dictionary.link_table, [Link { trace_id: vec![0; 16], span_id: vec![0; 8] }]);
    assert_eq!(dictionary.string_table[0], "");
    let strings: BTreeSet<_> = dictionary.string_table.iter().collect();
    assert_eq!(strings.len(), dictionary.string_table.len(), "each string once");
    has(
        &resource(request.resource_profiles[0].resource.as_ref()),
        &[("service.name", "etcd"), ("etcd.member.name", "m1")],
    );
    let profile = &request.resource_profiles[0].scope_profiles[0].profiles[0];
    assert_eq!(
        (profile.time_unix_nano, profile.duration_nano, profile.period),
        (at(1).wall_ns, 10_000_000_000, 10_000_000)
    );
    let word = |index: i32| dictionary.string_table[usize::try_from(index).unwrap()].as_str();
    let of = profile.sample_type.unwrap();
    assert_eq!((word(of.type_strindex), word(of.unit_strindex)), ("cpu", "nanoseconds"));
    assert!(profile.period_type.is_some());
    assert_eq!(profile.profile_id.len(), 16);
    let seen: Vec<_> = profile
        .samples
        .iter()
        .map(|sample| {
            let stack = &dictionary.stack_table[usize::try_from(sample.stack_index).unwrap()];
            (
                stack
                    .location_indices
                    .iter()
                    .map(|location| names(dictionary, *location))
                    .collect::<Vec<_>>(),
                sample.values.clone(),
            )
        })
        .collect();
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        seen,
        [
            (vec![text(&["leaf", "middle"]), text(&["main"])], vec![40]),
            (vec![text(&["main"])], vec![20]),
            (vec![text(&["main"])], vec![5]),
        ]
    );
    let mapping = &dictionary.mapping_table[1];
    let build = &dictionary.attribute_table[usize::try_from(mapping.attribute_indices[0]).unwrap()];
    assert_eq!(word(build.key_strindex), "process.executable.build_id.go");
    assert_eq!(word(mapping.filename_strindex), "/bin/etcd");
    let other = ExportProfilesServiceRequest::decode(payloads[0].bytes.as_slice()).unwrap();
    let before = &other.resource_profiles[0].scope_profiles[0].profiles[0];
    assert_eq!(before.profile_id, profile.profile_id, "the same profile has the same id");
}

#[test]
fn a_profile_that_is_too_large_is_split() {
    let mut whole = stacks((0..200).map(|n| sample(&[n, n + 1], 1 + i64::from(n))).collect());
    whole.functions =
        (0..=200).map(|n| Function { name: format!("function number {n}"), ..Function::default() }).collect();
    whole.frames = (0..=200).map(|function| Frame { function, ..Frame::default() }).collect();
    let mut pack = Pack::new(Signal::Profiles, 4000);
    let Item::Record(record) = capture(whole, None) else { panic!() };
    let Fact::Capture(result) = &record.fact else { panic!() };
    profiles::capture(&Identity::new(&Config::default()), &record, result, &mut pack);
    let parts = pack.take_done();
    let mut ids = BTreeSet::new();
    let mut total = 0;
    for part in &parts {
        assert!(part.bytes.len() <= 4000);
        let request = ExportProfilesServiceRequest::decode(part.bytes.as_slice()).unwrap();
        let profile = &request.resource_profiles[0].scope_profiles[0].profiles[0];
        ids.insert(profile.profile_id.clone());
        total += profile.samples.iter().flat_map(|sample| &sample.values).sum::<i64>();
    }
    assert!(parts.len() > 1);
    assert_eq!((total, ids.len()), (200 * 201 / 2, parts.len()));
    let mut tiny = Pack::new(Signal::Profiles, 300);
    profiles::capture(&Identity::new(&Config::default()), &record, result, &mut tiny);
    assert!(tiny.take_done().is_empty() && tiny.take_too_large() > 0, "what cannot be split is counted");
}

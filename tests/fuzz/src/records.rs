//! Records in the order in which an engine could get them: several members, probes, pages, lines, marks, captures.
//!
//! Stamps mostly move on; some go back, as two sources may, and the wall clock is sometimes set. Values are anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use collectors::scrape::columns::Columns;
use model::host::{CpuTimes, Disk, HostFact, Pressure, Process};
use model::log::{LogBatch, LogEvent, Meaning, Receipt, Severity, Step, Work};
use model::mark::{Mark, MarkKind, MarkSource};
use model::member::{HashKv, ListedMember, MemberFact, MemberState};
use model::origin::{MemberRef, Origin};
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::profile::{
    Baseline, CaptureOutcome, CaptureResult, FunctionCount, FunctionCounts, ProfileKind, ProfileSet,
};
use model::record::{Fact, Record, Tick};
use model::scrape::{Family, Layout, MetricKind, Point, PointShape, Scrape, ScrapeOutcome};
use model::time::{SECOND_NS, Stamp};
use model::verdict::{Delivery, Done, SignalEvent};

use crate::seed::Seed;

/// Records of one input: an hour of a small cluster fits, and a run stays below a second.
const RECORDS_MAX: usize = 2_000;

/// Families that processors look at, and the shape in which etcd shows them.
const COUNTERS: [&str; 7] = [
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "process_cpu_seconds_total",
];

/// See [`COUNTERS`].
const GAUGES: [&str; 8] = [
    "etcd_disk_defrag_inflight",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_server_proposals_pending",
    "etcd_debugging_mvcc_compact_revision",
    "go_goroutines",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "etcd_server_is_leader",
];

/// See [`COUNTERS`].
const HISTOGRAMS: [&str; 6] = [
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_server_apply_duration_seconds",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_server_request_duration_seconds",
    "grpc_server_handling_seconds",
];

/// Upper bounds of etcd's latency buckets, shortened.
const BOUNDS: [f64; 6] = [0.001, 0.016, 0.032, 0.128, 1.024, f64::INFINITY];

/// What the next record follows from.
#[derive(Debug)]
struct World {
    now: Stamp,
    /// Of the last layout that is nobody's page: one generation is one shape.
    generation: u64,
    pages: BTreeMap<String, (Columns, BTreeMap<String, f64>)>,
}

/// All records that the bytes stand for.
#[must_use]
pub fn records(data: &[u8]) -> Vec<Record> {
    let mut seed = Seed::new(data);
    let start = Stamp { mono_ns: 1_000 * SECOND_NS, wall_ns: 1_700_000_000 * SECOND_NS };
    let mut world = World { now: start, generation: 1 << 32, pages: BTreeMap::new() };
    let mut records: Vec<Record> = Vec::new();
    while !seed.is_empty() && records.len() < RECORDS_MAX {
        match seed.byte() {
            // Quiet minutes and long incidents are many records of one kind; a byte is enough for each.
            0..24 => world.repeat(&mut seed, &mut records),
            24..40 => records.push(world.tick(&mut seed)),
            kind => {
                let fact = world.fact(&mut seed, kind);
                let origin = origin(&mut seed);
                world.pass(&mut seed);
                records.push(Record { at: world.now, origin, fact });
            }
        }
    }
    records
}

/// Batches of log lines alone, with ticks between them.
#[must_use]
pub fn logs(data: &[u8]) -> Vec<Record> {
    let mut seed = Seed::new(data);
    let now = Stamp { mono_ns: 1_000 * SECOND_NS, wall_ns: 1_700_000_000 * SECOND_NS };
    let mut world = World { now, generation: 1 << 32, pages: BTreeMap::new() };
    let mut records = Vec::new();
    while !seed.is_empty() && records.len() < RECORDS_MAX {
        let fact = if seed.rarely() {
            Fact::Tick(Tick::default())
        } else {
            Fact::Logs(batch(&mut seed, world.now.wall_ns))
        };
        let origin = origin(&mut seed);
        world.pass(&mut seed);
        records.push(Record { at: world.now, origin, fact });
    }
    records
}

impl World {
    fn pass(&mut self, seed: &mut Seed<'_>) {
        let ms = SECOND_NS / 1_000;
        match seed.byte() {
            0..128 => self.now = self.now.plus_ns(SECOND_NS),
            128..160 => self.now = self.now.plus_ns(20 * ms),
            160..192 => {}
            192..208 => self.now = self.now.plus_ns(30 * SECOND_NS),
            208..224 => self.now = self.now.plus_ns(3_600 * SECOND_NS),
            224..232 => self.now = self.now.plus_ns(seed.number() % (1 << 56)),
            232..244 => self.now = self.now.minus_ns(seed.number() % (10 * SECOND_NS)),
            _ => self.now.wall_ns = seed.number(),
        }
    }

    fn tick(&mut self, seed: &mut Seed<'_>) -> Record {
        self.pass(seed);
        let wall_step_ns = if seed.rarely() { seed.number().cast_signed() } else { 0 };
        Record { at: self.now, origin: Arc::new(Origin::default()), fact: Fact::Tick(Tick { wall_step_ns }) }
    }

    fn repeat(&mut self, seed: &mut Seed<'_>, records: &mut Vec<Record>) {
        let back = seed.below(4) + 1;
        let times = usize::from(seed.byte());
        let from = records.len().saturating_sub(back);
        let pattern: Vec<Record> = records.get(from..).unwrap_or_default().to_vec();
        let step = seed.pick(&[SECOND_NS, SECOND_NS / 4, 5 * SECOND_NS, 60 * SECOND_NS]);
        for record in std::iter::repeat_n(pattern, times).flatten() {
            if records.len() >= RECORDS_MAX {
                return;
            }
            self.now = self.now.plus_ns(step);
            records.push(Record { at: self.now, ..record });
        }
    }

    fn fact(&mut self, seed: &mut Seed<'_>, kind: u8) -> Fact {
        match kind {
            40..96 => Fact::Probe(probe(seed)),
            96..128 => Fact::Scrape(self.page(seed)),
            128..136 => Fact::Scrape(self.any_scrape(seed)),
            136..152 => Fact::Member(member(seed)),
            152..164 => Fact::Host(host(seed)),
            164..188 => Fact::Mark(mark(seed)),
            188..224 => Fact::Logs(batch(seed, self.now.wall_ns)),
            224..240 => Fact::Capture(capture(seed, self.now)),
            240..250 => Fact::Done(done(seed)),
            _ => Fact::Config(config(seed)),
        }
    }

    fn any_scrape(&mut self, seed: &mut Seed<'_>) -> Scrape {
        self.generation += 1;
        any_scrape(seed, self.generation)
    }

    /// A page as a member would show it, read by the collector's own columns: counters move on, and sometimes begin anew.
    fn page(&mut self, seed: &mut Seed<'_>) -> Scrape {
        let target = seed.pick(&["m1", "m2", "m3"]).to_owned();
        let (columns, values) =
            self.pages.entry(target.clone()).or_insert_with(|| (Columns::new(128), BTreeMap::new()));
        let reading = if seed.rarely() {
            columns.fail(seed.number())
        } else {
            let text = page(seed, values);
            match columns.read(text.as_bytes(), seed.number()) {
                Ok(reading) => reading,
                Err(_) => columns.fail(1),
            }
        };
        Scrape {
            target: target.into(),
            generation: reading.layout.generation,
            layout: reading.layout,
            values: reading.values,
            outcome: ScrapeOutcome::Up,
            duration_ns: 1,
            body_bytes: 1,
            samples: reading.samples,
            process_start_ns: reading.process_start_ns,
            restarted: reading.restarted.is_some(),
        }
    }
}

fn page(seed: &mut Seed<'_>, values: &mut BTreeMap<String, f64>) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    if seed.rarely() {
        values.clear();
    }
    let mut grown = |seed: &mut Seed<'_>, key: String, by: f64| {
        let value = values.entry(key).or_insert(0.0);
        *value = if seed.rarely() { seed.float() } else { *value + by };
        *value
    };
    let labels =
        if seed.rarely() { "{grpc_method=\"Range\",grpc_code=\"OK\",grpc_type=\"unary\"}" } else { "" };
    for name in COUNTERS.iter().take(seed.below(COUNTERS.len() + 1)) {
        let by = f64::from(seed.byte());
        let value = grown(seed, (*name).to_owned(), by);
        write!(text, "# TYPE {name} counter\n{name}{labels} {value}\n").ok();
    }
    for name in GAUGES.iter().take(seed.below(GAUGES.len() + 1)) {
        let value = if seed.rarely() { seed.float() } else { f64::from(seed.byte()) };
        write!(text, "# TYPE {name} gauge\n{name} {value}\n").ok();
    }
    for name in HISTOGRAMS.iter().take(seed.below(HISTOGRAMS.len() + 1)) {
        writeln!(text, "# TYPE {name} histogram").ok();
        // One byte: which bucket this page's observations fell into, and how many.
        let (into, many) = (seed.below(BOUNDS.len()), f64::from(seed.byte()));
        for (place, bound) in BOUNDS.iter().enumerate() {
            let by = if place >= into { many } else { 0.0 };
            let value = grown(seed, format!("{name}{place}"), by);
            let le = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            writeln!(text, "{name}_bucket{{le=\"{le}\"}} {value}").ok();
        }
        let sum = grown(seed, format!("{name}sum"), many);
        let count = grown(seed, format!("{name}count"), many);
        write!(text, "{name}_sum {sum}\n{name}_count {count}\n").ok();
    }
    text
}

/// A scrape whose layout need not fit its values: what a damaged recording may hold.
fn any_scrape(seed: &mut Seed<'_>, generation: u64) -> Scrape {
    let kinds = [
        MetricKind::Counter,
        MetricKind::Gauge,
        MetricKind::Histogram,
        MetricKind::Summary,
        MetricKind::Unknown,
    ];
    let layout = Layout {
        generation,
        families: seed.some(5, |seed| Family {
            name: match seed.byte() % 3 {
                0 => seed.pick(&HISTOGRAMS).to_owned(),
                1 => seed.pick(&COUNTERS).to_owned(),
                _ => seed.text(),
            },
            kind: seed.pick(&kinds),
            help: seed.text(),
        }),
        points: seed.some(8, any_point),
        series: u32::from(seed.byte()),
    };
    let values = seed.some(24, Seed::float);
    let outcome = if seed.rarely() {
        ScrapeOutcome::Down { reason: seed.text(), detail: seed.text() }
    } else {
        ScrapeOutcome::Up
    };
    Scrape {
        target: seed.pick(&["m1", "m2", "m3", ""]).into(),
        layout: Arc::new(layout),
        generation,
        values: values.into(),
        outcome,
        duration_ns: seed.number(),
        body_bytes: seed.number(),
        samples: seed.number(),
        process_start_ns: seed.maybe(Seed::number),
        restarted: seed.rarely(),
    }
}

fn any_point(seed: &mut Seed<'_>) -> Point {
    let series = |seed: &mut Seed<'_>| if seed.rarely() { u32::MAX } else { u32::from(seed.byte() % 32) };
    let family = u32::from(seed.byte() % 6);
    let labels = seed.some(4, |seed| (seed.text(), seed.text()));
    let shape = match seed.byte() % 3 {
        0 => PointShape::Value { series: series(seed) },
        1 => PointShape::Histogram {
            buckets: seed.some(8, |seed| (seed.float(), series(seed))),
            count: seed.maybe(series),
            sum: seed.maybe(series),
        },
        _ => PointShape::Summary {
            quantiles: seed.some(8, |seed| (seed.float(), series(seed))),
            count: seed.maybe(series),
            sum: seed.maybe(series),
        },
    };
    Point { family, labels, shape }
}

fn origin(seed: &mut Seed<'_>) -> Arc<Origin> {
    let name = seed.pick(&["m1", "m2", "m3"]);
    let member = (!seed.rarely()).then(|| MemberRef {
        id: seed.maybe(Seed::number),
        name: name.to_owned(),
        endpoint: "http://127.0.0.1:2379".to_owned(),
    });
    Arc::new(Origin { cluster_id: seed.maybe(|seed| u64::from(seed.byte())), node: seed.text(), member })
}

fn probe(seed: &mut Seed<'_>) -> Probe {
    let kind = seed.pick(&[
        ProbeKind::LinearizableRead,
        ProbeKind::LeaseGrant,
        ProbeKind::SerializableRead,
        ProbeKind::Status,
        ProbeKind::LeaseKeepAlive,
        ProbeKind::LeaseRevoke,
        ProbeKind::Put,
        ProbeKind::WatchLag,
    ]);
    let latency_ns = match seed.byte() {
        byte @ 0..200 => u64::from(byte) * 2_000_000,
        _ => seed.number(),
    };
    let outcome = match seed.byte() {
        0..192 => ProbeOutcome::Ok,
        192..204 => ProbeOutcome::TimedOut,
        204..212 => ProbeOutcome::Refused,
        212..220 => ProbeOutcome::LostInFlight,
        220..228 => ProbeOutcome::LeaderChanged,
        228..236 => ProbeOutcome::NotPermitted,
        _ => ProbeOutcome::Grpc(seed.text()),
    };
    Probe { kind, latency_ns, outcome }
}

fn member(seed: &mut Seed<'_>) -> MemberFact {
    if seed.rarely() {
        return MemberFact::Silent { reason: seed.text(), detail: seed.text() };
    }
    MemberFact::Answered(Box::new(MemberState {
        id: seed.number(),
        cluster_id: seed.number(),
        version: seed.pick(&["3.5.33", "3.4.23", ""]).to_owned(),
        leader: seed.number(),
        raft_term: seed.number(),
        raft_index: seed.number(),
        raft_applied_index: seed.number(),
        db_size_bytes: seed.number(),
        db_in_use_bytes: seed.number(),
        quota_bytes: seed.maybe(Seed::number),
        revision: seed.number(),
        learner: seed.rarely(),
        alarms: seed.some(3, |seed| (seed.text(), seed.number())),
        errors: seed.some(3, Seed::text),
        members: seed.some(4, |seed| ListedMember {
            id: seed.number(),
            name: seed.text(),
            client_urls: seed.some(3, Seed::text),
            learner: seed.rarely(),
        }),
        hash: seed.maybe(|seed| HashKv { revision: seed.number(), compact_revision: seed.number(), hash: 1 }),
    }))
}

fn host(seed: &mut Seed<'_>) -> HostFact {
    HostFact {
        cpus: u32::from(seed.byte()),
        cpu: CpuTimes {
            user_ns: seed.number(),
            system_ns: seed.number(),
            idle_ns: seed.number(),
            iowait_ns: seed.number(),
            steal_ns: seed.number(),
        },
        memory_total_bytes: seed.number(),
        memory_available_bytes: seed.number(),
        pressure: seed.maybe(|seed| Pressure {
            cpu_us: seed.number(),
            io_us: seed.number(),
            memory_us: seed.number(),
        }),
        disks: seed.some(3, |seed| Disk {
            name: seed.text(),
            writes: seed.number(),
            write_ms: seed.number(),
            ..Disk::default()
        }),
        filesystems: Vec::new(),
        processes: seed.some(3, |seed| Process {
            pid: u32::from(seed.byte()),
            name: seed.text(),
            role: seed.maybe(Seed::text),
            started_ticks: seed.number(),
            cpu_ns: seed.number(),
            rss_bytes: seed.number(),
            ..Process::default()
        }),
    }
}

fn mark(seed: &mut Seed<'_>) -> Mark {
    Mark {
        target: seed.pick(&["checkout", "etcd", "m1", "payments"]).to_owned(),
        revision: seed.pick(&["v1", "v1b", "v2", "", "v3"]).to_owned(),
        kind: seed.pick(&[MarkKind::Rollout, MarkKind::Restart, MarkKind::Planned]),
        rollback_of: if seed.rarely() { Some(seed.pick(&["v2", "v1", ""]).to_owned()) } else { None },
        source: seed.pick(&[MarkSource::Operator, MarkSource::Observed]),
    }
}

fn batch(seed: &mut Seed<'_>, wall_ns: u64) -> LogBatch {
    LogBatch {
        file: "app.log".into(),
        events: seed.some(12, |seed| event(seed, wall_ns)),
        lines: seed.number(),
        rejects: Vec::new(),
        lost_bytes: seed.number(),
        receipt: Receipt::default(),
    }
}

fn event(seed: &mut Seed<'_>, wall_ns: u64) -> LogEvent {
    // Few ids: they must meet.
    let trace_id = seed.maybe(|seed| [seed.byte() % 4; 16]);
    let span = |seed: &mut Seed<'_>| [seed.byte() % 6; 8];
    LogEvent {
        time_ns: near(seed, wall_ns),
        severity: seed.pick(&[
            Severity::Trace,
            Severity::Info,
            Severity::Warn,
            Severity::Error,
            Severity::Fatal,
        ]),
        service: seed.text(),
        revision: seed.maybe(Seed::text),
        message: seed.text(),
        trace_id,
        span_id: seed.maybe(span),
        parent_span_id: seed.maybe(span),
        meaning: meaning(seed, wall_ns),
        attributes: seed.some(4, |seed| (seed.text(), seed.text())),
        ship: seed.rarely(),
    }
}

/// A time of the last minute, mostly.
fn near(seed: &mut Seed<'_>, wall_ns: u64) -> u64 {
    if seed.rarely() { seed.number() } else { wall_ns.saturating_sub(u64::from(seed.byte()) * 40_000_000) }
}

fn work(seed: &mut Seed<'_>, wall_ns: u64) -> Work {
    Work {
        operation: seed.text(),
        start_ns: near(seed, wall_ns),
        duration_ns: if seed.rarely() { seed.number() } else { u64::from(seed.byte()) * 10_000_000 },
        peer: seed.maybe(Seed::text),
        failed: seed.rarely(),
        key: seed.maybe(Seed::text),
    }
}

fn meaning(seed: &mut Seed<'_>, wall_ns: u64) -> Meaning {
    match seed.byte() % 5 {
        0 => Meaning::Plain,
        1 => Meaning::Work(work(seed, wall_ns)),
        2 => Meaning::EtcdTrace {
            number: u32::from(seed.byte()),
            work: work(seed, wall_ns),
            steps: seed.some(5, |seed| Step { name: seed.text(), duration_ns: seed.number() }),
        },
        3 => Meaning::EtcdSlowApply { work: work(seed, wall_ns), expected_ns: seed.number() },
        _ => Meaning::EtcdRequest {
            work: work(seed, wall_ns),
            remote: seed.text(),
            response_count: seed.number().cast_signed(),
            response_bytes: seed.number().cast_signed(),
        },
    }
}

fn capture(seed: &mut Seed<'_>, now: Stamp) -> CaptureResult {
    let outcome = match seed.byte() % 8 {
        0 => CaptureOutcome::Refused { reason: seed.text() },
        1 => CaptureOutcome::Failed { reason: seed.text(), detail: seed.text() },
        _ => CaptureOutcome::Done {
            before: seed.maybe(|seed| profiles(seed, now)),
            baseline: seed.pick(&[
                Baseline::BeforeMarker,
                Baseline::Aged,
                Baseline::Young,
                Baseline::Missing,
            ]),
            after: profiles(seed, now),
        },
    };
    CaptureResult {
        request: u64::from(seed.byte() % 8),
        target: seed.pick(&["m1", "m2", "m3"]).to_owned(),
        outcome,
    }
}

fn profiles(seed: &mut Seed<'_>, now: Stamp) -> Arc<ProfileSet> {
    let counts = seed.some(4, |seed| FunctionCounts {
        kind: seed.pick(&[ProfileKind::Cpu, ProfileKind::Heap, ProfileKind::Goroutine]),
        duration_ns: seed.number(),
        period: seed.number(),
        total: seed.number(),
        samples: seed.number(),
        functions: seed.some(8, |seed| FunctionCount {
            name: seed.text(),
            own: seed.number(),
            total: seed.number(),
            samples: seed.number(),
        }),
        edges: seed.some(8, |seed| (u32::from(seed.byte()), u32::from(seed.byte()), seed.number())),
        other: seed.number(),
    });
    Arc::new(ProfileSet { at: now, engine: seed.text(), counts, stacks: Arc::default() })
}

fn done(seed: &mut Seed<'_>) -> Done {
    Done {
        target: seed.pick(&["checkout", "etcd"]).to_owned(),
        epoch: u64::from(seed.byte()),
        revision: seed.pick(&["v1", "v2"]).to_owned(),
        receiver: seed.text(),
        event: seed.pick(&[SignalEvent::Rollback, SignalEvent::Evidence, SignalEvent::Resolved]),
        outcome: match seed.byte() % 4 {
            0 => Delivery::Delivered,
            1 => Delivery::Confirmed,
            2 => Delivery::Refused(seed.text()),
            _ => Delivery::Expired,
        },
    }
}

/// The agent writes this record itself, from a checked configuration.
fn config(seed: &mut Seed<'_>) -> String {
    let mut config = processors::Config::default();
    config.verdict.enforce = seed.byte() % 2 == 0;
    config.slo.write.limit_ms = seed.pick(&[32, 256, 64, 128]);
    config.slo.availability.target_ppm = seed.pick(&[999_000, 990_000, 999_900, 500_000]);
    if !config.slo.problems().is_empty() {
        config.slo = processors::slo::Config::default();
    }
    config.detect.warm_up_points = u32::from(seed.byte());
    serde_json::to_string(&config).unwrap_or_default()
}

//! Records for tests: three members, probes at the shipped rates, noise from fixed seeds.

use std::sync::Arc;

use model::log::{LogBatch, LogEvent, Meaning, Receipt, Severity, Work};
use model::mark::{Mark, MarkKind, MarkSource};
use model::origin::{MemberRef, Origin};
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::record::{Fact, Record, Tick};
use model::scrape::{Family, Layout, MetricKind, Point, PointShape, Scrape, ScrapeOutcome};
use model::time::{SECOND_NS, Stamp};

pub(crate) const MEMBERS: [&str; 3] = ["m1", "m2", "m3"];

const EPOCH_NS: u64 = 1_790_000_000 * SECOND_NS;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test times are small and positive"
)]
pub(crate) fn stamp(seconds: f64) -> Stamp {
    let mono_ns = (seconds * 1e9) as u64;
    Stamp { mono_ns, wall_ns: EPOCH_NS + mono_ns }
}

pub(crate) fn record(seconds: f64, member: &str, fact: Fact) -> Record {
    let member = (!member.is_empty()).then(|| MemberRef {
        id: None,
        name: member.to_owned(),
        endpoint: format!("http://{member}:2379"),
    });
    let origin = Origin { cluster_id: Some(1), node: "node".to_owned(), member };
    Record { at: stamp(seconds), origin: Arc::new(origin), fact }
}

pub(crate) fn tick(seconds: f64) -> Record {
    record(seconds, "", Fact::Tick(Tick::default()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test latencies are small and positive"
)]
pub(crate) fn probe(
    seconds: f64,
    member: &str,
    kind: ProbeKind,
    (latency_ms, outcome): (f64, ProbeOutcome),
) -> Record {
    record(seconds, member, Fact::Probe(Probe { kind, latency_ns: (latency_ms * 1e6) as u64, outcome }))
}

pub(crate) fn mark(seconds: f64, target: &str, revision: &str, kind: MarkKind) -> Record {
    let mark = Mark {
        target: target.to_owned(),
        revision: revision.to_owned(),
        kind,
        rollback_of: None,
        source: MarkSource::Operator,
    };
    record(seconds, "", Fact::Mark(mark))
}

pub(crate) fn put_back(seconds: f64, target: &str, revision: &str, of: &str) -> Record {
    let mut record = mark(seconds, target, revision, MarkKind::Rollout);
    if let Fact::Mark(mark) = &mut record.fact {
        mark.rollback_of = Some(of.to_owned());
    }
    record
}

/// The shipped rates of one second: (kind, first due, period), all members alike.
const SCHEDULE: [(ProbeKind, f64); 5] = [
    (ProbeKind::SerializableRead, 2.0),
    (ProbeKind::LinearizableRead, 2.0),
    (ProbeKind::LeaseGrant, 4.0),
    (ProbeKind::LeaseRevoke, 4.0),
    (ProbeKind::Status, 10.0),
];

/// Probes due in `[second, second + 1)`, spread over the second, then the tick. `answer` gives latency and outcome.
pub(crate) fn second(
    second: u32,
    answer: &mut dyn FnMut(f64, &str, ProbeKind) -> (f64, ProbeOutcome),
) -> Vec<Record> {
    let mut records = Vec::new();
    for (index, member) in (0_u32..).zip(MEMBERS) {
        for (place, (kind, period)) in (0_u32..).zip(SCHEDULE) {
            let shifted = f64::from(second) + f64::from(index) + f64::from(place) * 0.7;
            if shifted.floor() % period == 0.0 {
                let due = f64::from(second) + f64::from(index) * 0.3 + f64::from(place) * 0.05;
                records.push(probe(due, member, kind, answer(due, member, kind)));
            }
        }
    }
    records.sort_by_key(|record| record.at);
    records.push(tick(f64::from(second) + 0.999));
    records
}

/// Drives three members through `seconds`: `answer` as in [`second`], and every record goes to `feed`.
pub(crate) fn drive(
    seconds: std::ops::Range<u32>,
    answer: &mut dyn FnMut(f64, &str, ProbeKind) -> (f64, ProbeOutcome),
    feed: &mut dyn FnMut(&Record),
) {
    for now in seconds {
        second(now, answer).iter().for_each(&mut *feed);
    }
}

/// What `service` and m1 log of one slow range: the service's work, its call to m1, and etcd's own line of that request.
pub(crate) fn slow_call(seconds: f64, service: &str, revision: &str, number: u8) -> Record {
    const MS: u64 = 1_000_000;
    let end_ns = stamp(seconds).wall_ns;
    let work = |operation: &str, took_ms: u64, peer: Option<&str>| Work {
        operation: operation.to_owned(),
        start_ns: end_ns - took_ms * MS,
        duration_ns: (took_ms - 1) * MS,
        peer: peer.map(str::to_owned),
        failed: false,
        key: None,
    };
    let event = |service: &str, ids: Option<(u8, Option<u8>)>, meaning: Meaning| LogEvent {
        time_ns: end_ns,
        severity: Severity::Info,
        service: service.to_owned(),
        revision: ids.map(|_| revision.to_owned()),
        message: String::new(),
        trace_id: ids.map(|_| [number.max(1); 16]),
        span_id: ids.map(|(span, _)| [span; 8]),
        parent_span_id: ids.and_then(|(_, parent)| parent).map(|parent| [parent; 8]),
        meaning,
        attributes: ids
            .and_then(|(_, parent)| parent)
            .map(|_| ("peer".to_owned(), "m1:2379".to_owned()))
            .into_iter()
            .collect(),
        ship: true,
    };
    let request = Meaning::EtcdRequest {
        work: work("/etcdserverpb.KV/Range", 102, None),
        remote: "127.0.0.1:50608".to_owned(),
        response_count: 30_000,
        response_bytes: 6_784_832,
    };
    let events = vec![
        event(service, Some((1, None)), Meaning::Work(work("list", 110, None))),
        event(service, Some((2, Some(1))), Meaning::Work(work("range", 104, Some("m1:2379")))),
        event("etcd", None, request),
    ];
    let batch = LogBatch {
        file: "m1.log".into(),
        lines: 3,
        events,
        rejects: Vec::new(),
        lost_bytes: 0,
        receipt: Receipt::default(),
    };
    record(seconds, "m1", Fact::Logs(batch))
}

/// Lognormal noise from a fixed seed.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        crate::binomial::to_f64(self.0 >> 11) / crate::binomial::to_f64(1 << 53)
    }

    /// Standard normal.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Lognormal around `median`, `sigma` in natural logs.
    pub(crate) fn around(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }
}

/// A plain series: family, labels, value.
type Plain = (&'static str, Vec<(&'static str, &'static str)>, f64);

/// A page of plain series and histograms: (family, labels, value), (family, cumulative buckets with bounds).
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) values: Vec<Plain>,
    pub(crate) histograms: Vec<(&'static str, Vec<(f64, f64)>)>,
    pub(crate) process_start_ns: Option<u64>,
    pub(crate) restarted: bool,
}

impl Page {
    pub(crate) fn scrape(&self, seconds: f64, member: &str) -> Record {
        let mut layout = Layout { generation: 1, ..Layout::default() };
        let mut values = Vec::new();
        let mut next = |value: f64| {
            values.push(value);
            u32::try_from(values.len() - 1).unwrap()
        };
        let family = |layout: &mut Layout, name: &str, kind: MetricKind| {
            let known = layout.families.iter().position(|family| family.name == name);
            let index = known.unwrap_or(layout.families.len());
            if known.is_none() {
                layout.families.push(Family { name: name.to_owned(), kind, help: String::new() });
            }
            u32::try_from(index).unwrap()
        };
        for (name, labels, value) in &self.values {
            let family = family(&mut layout, name, MetricKind::Unknown);
            let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let shape = PointShape::Value { series: next(*value) };
            layout.points.push(Point { family, labels, shape });
        }
        for (name, buckets) in &self.histograms {
            let family = family(&mut layout, name, MetricKind::Histogram);
            let count = buckets.last().map_or(0.0, |(_, count)| *count);
            let buckets = buckets.iter().map(|(bound, value)| (*bound, next(*value))).collect();
            let shape = PointShape::Histogram { buckets, count: Some(next(count)), sum: None };
            layout.points.push(Point { family, labels: Vec::new(), shape });
        }
        layout.series = u32::try_from(values.len()).unwrap();
        let scrape = Scrape {
            target: format!("http://{member}:2381/metrics").into(),
            generation: 1,
            layout: Arc::new(layout),
            values: values.into(),
            outcome: ScrapeOutcome::Up,
            duration_ns: 2_000_000,
            body_bytes: 0,
            samples: 0,
            process_start_ns: self.process_start_ns,
            restarted: self.restarted,
        };
        record(seconds, member, Fact::Scrape(scrape))
    }
}

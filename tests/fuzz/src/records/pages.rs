//! Pages of metrics: text as a member would show it, and layouts as a damaged recording may hold them.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::scrape::{Family, Layout, MetricKind, Point, PointShape, Scrape, ScrapeOutcome};

use crate::seed::Seed;

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

pub(super) fn page(seed: &mut Seed<'_>, values: &mut BTreeMap<String, f64>) -> String {
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
pub(super) fn any_scrape(seed: &mut Seed<'_>, generation: u64) -> Scrape {
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

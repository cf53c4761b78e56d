//! What is watched on a page: a flat table, and how each row becomes one number a scrape.
//!
//! Owns series ids (resolved once a layout), deltas between pages, and the bucket counts histograms are judged by.
//! Refuses averages: of a histogram only the share well beyond its usual 99th percentile is watched.

use std::collections::VecDeque;

use model::finding::Measured;
use model::scrape::{Layout, PointShape, Scrape};
use serde::{Deserialize, Serialize};

use super::baseline::Scale;
use crate::binomial::to_f64;

/// Fewer events than this in one delta are merged with the next.
const EVENTS_MIN: f64 = 20.0;

/// Events a histogram's baseline needs before its 99th percentile means anything.
const EVENTS_BASELINE: f64 = 200.0;

/// Deltas held back from the baseline: they may be the beginning of a change.
const LAG: usize = 8;

/// Weight of the past in a histogram's baseline at each delta: about the last 240 of them.
const DECAY: f64 = 1.0 - 1.0 / 240.0;

/// Over a longer pause deltas mean nothing.
const PAUSE_MAX_S: f64 = 120.0;

/// Stands for +Inf in bounds: snapshots may be JSON, which has no infinity.
const UNBOUNDED: f64 = f64::MAX;

/// How a row is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// The value itself.
    Gauge,
    /// Growth a second.
    Rate,
    /// Share of events slower than twice the baseline's 99th percentile, and than so many milliseconds.
    Slower(u32),
    /// Share of `grpc_server_handled_total` with a code that means trouble.
    Failed,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) family: &'static str,
    pub(super) measure: Measure,
    pub(super) unit: &'static str,
    pub(super) scale: Scale,
    /// Smallest effect, octaves.
    pub(super) octaves: f64,
    /// Smallest effect, in the unit of what is watched (a share for [`Measure::Slower`]).
    pub(super) absolute: f64,
}

const SHARE: Scale = Scale { offset: 0.01, floor: 0.5, learn_every_s: 2 };
const RATE: Scale = Scale { offset: 0.1, floor: 0.4, learn_every_s: 2 };
const SIZE: Scale = Scale { offset: 1.0, floor: 0.08, learn_every_s: 5 };

const fn slower(family: &'static str, beyond_ms: u32) -> Row {
    Row { family, measure: Measure::Slower(beyond_ms), unit: "s", scale: SHARE, octaves: 2.0, absolute: 0.1 }
}

const fn rate(family: &'static str, absolute: f64) -> Row {
    Row { family, measure: Measure::Rate, unit: "1/s", scale: RATE, octaves: 2.0, absolute }
}

const fn gauge(family: &'static str, unit: &'static str, absolute: f64) -> Row {
    Row { family, measure: Measure::Gauge, unit, scale: SIZE, octaves: 0.6, absolute }
}

const CPU: Scale = Scale { offset: 0.05, floor: 0.2, learn_every_s: 2 };

/// The watch list. Rows whose family a version lacks are silent.
pub(super) const ROWS: [Row; 16] = [
    slower("etcd_disk_wal_fsync_duration_seconds", 8),
    slower("etcd_disk_backend_commit_duration_seconds", 8),
    slower("etcd_server_apply_duration_seconds", 6),
    slower("etcd_network_peer_round_trip_time_seconds", 8),
    slower("grpc_server_handling_seconds", 10),
    slower("etcd_server_request_duration_seconds", 10),
    rate("etcd_server_slow_apply_total", 0.5),
    rate("etcd_server_slow_read_indexes_total", 0.5),
    rate("etcd_server_proposals_failed_total", 1.0),
    rate("etcd_server_leader_changes_seen_total", 0.2),
    gauge("etcd_server_proposals_pending", "{proposal}", 10.0),
    gauge("go_goroutines", "{goroutine}", 200.0),
    gauge("process_resident_memory_bytes", "By", 64.0 * 1024.0 * 1024.0),
    gauge("etcd_mvcc_db_total_size_in_bytes", "By", 128.0 * 1024.0 * 1024.0),
    Row {
        family: "process_cpu_seconds_total",
        measure: Measure::Rate,
        unit: "{cpu}",
        scale: CPU,
        octaves: 1.0,
        absolute: 0.3,
    },
    Row {
        family: "grpc_server_handled_total",
        measure: Measure::Failed,
        unit: "1",
        scale: SHARE,
        octaves: 2.0,
        absolute: 0.02,
    },
];

/// Codes that mean trouble at the server; a client's own cancel or a missing key does not.
const FAILED_CODES: [&str; 7] = [
    "Unknown",
    "FailedPrecondition",
    "ResourceExhausted",
    "Internal",
    "Unavailable",
    "DataLoss",
    "DeadlineExceeded",
];

/// Series of one row in one layout.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    /// Groups of series that are summed: buckets by bound, or (all), or (failed, all).
    groups: Vec<Vec<u32>>,
    /// Bounds of the groups, for histograms.
    bounds: Vec<f64>,
}

impl Resolved {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.iter().all(Vec::is_empty)
    }
}

/// Finds the series of a row.
pub(super) fn resolve(layout: &Layout, row: &Row) -> Resolved {
    let mut resolved = Resolved::default();
    let Some(family) = layout.families.iter().position(|family| family.name == row.family) else {
        return resolved;
    };
    let points =
        layout.points.iter().filter(|point| usize::try_from(point.family).is_ok_and(|at| at == family));
    for point in points {
        // A stream lasts as long as its client wants, and the server books its end as trouble.
        if point.labels.iter().any(|(name, value)| name == "grpc_type" && value != "unary") {
            continue;
        }
        match (&point.shape, row.measure) {
            (PointShape::Histogram { buckets, .. }, Measure::Slower(_)) => {
                if resolved.bounds.is_empty() {
                    resolved.bounds = buckets.iter().map(|(bound, _)| bound.min(UNBOUNDED)).collect();
                    resolved.groups = vec![Vec::new(); buckets.len()];
                }
                // Histograms of other bounds under the same name cannot be summed.
                if resolved.bounds.iter().copied().eq(buckets.iter().map(|(bound, _)| bound.min(UNBOUNDED))) {
                    for (group, (_, series)) in resolved.groups.iter_mut().zip(buckets) {
                        group.push(*series);
                    }
                }
            }
            (PointShape::Value { series }, Measure::Failed) => {
                resolved.groups.resize(2, Vec::new());
                let code =
                    point.labels.iter().find(|(name, _)| name == "grpc_code").map(|(_, code)| code.as_str());
                // Watches are ended by their clients; the server books that as trouble.
                let watch =
                    point.labels.iter().any(|(name, value)| name == "grpc_method" && value == "Watch");
                let failed = code.is_some_and(|code| FAILED_CODES.contains(&code)) && !watch;
                for (group, wanted) in resolved.groups.iter_mut().zip([failed, true]) {
                    if wanted {
                        group.push(*series);
                    }
                }
            }
            (PointShape::Value { series }, Measure::Gauge | Measure::Rate) => {
                resolved.groups.resize(1, Vec::new());
                resolved.groups.iter_mut().for_each(|group| group.push(*series));
            }
            _ => {}
        }
    }
    resolved
}

/// The counters of one row at one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Meter {
    at_s: f64,
    last: Vec<f64>,
    merged: Vec<f64>,
    usual: Vec<f64>,
    pending: VecDeque<(f64, Vec<f64>)>,
    /// Bucket counts since an alarm opened.
    since: Vec<f64>,
    bounds: Vec<f64>,
}

impl Meter {
    /// Begins anew: the process restarted, or the page changed its shape.
    pub(super) fn reset(&mut self) {
        self.last.clear();
        self.merged.clear();
    }

    /// The row's number for this page; `None` when it has none yet.
    pub(super) fn read(&mut self, at_s: f64, scrape: &Scrape, row: &Row, series: &Resolved) -> Option<f64> {
        let values: Vec<f64> = series
            .groups
            .iter()
            .map(|group| {
                group
                    .iter()
                    .filter_map(|series| scrape.value(*series))
                    .filter(|value| value.is_finite())
                    .sum()
            })
            .collect();
        if row.measure == Measure::Gauge {
            return values.first().copied();
        }
        let pause = at_s - std::mem::replace(&mut self.at_s, at_s);
        let before = std::mem::replace(&mut self.last, values);
        if before.len() != self.last.len() || pause <= 0.0 || pause > PAUSE_MAX_S {
            return None;
        }
        let deltas: Vec<f64> = self.last.iter().zip(&before).map(|(now, before)| now - before).collect();
        if deltas.iter().any(|delta| *delta < 0.0) {
            self.merged.clear();
            return None;
        }
        match row.measure {
            Measure::Rate => deltas.first().map(|delta| delta / pause),
            Measure::Failed => self.merge(&deltas).and_then(|sum| Some(sum.first()? / sum.get(1)?)),
            Measure::Slower(beyond_ms) => {
                self.bounds.clone_from(&series.bounds);
                let counts = self.merge(&deltas)?;
                self.slower(counts, f64::from(beyond_ms) / 1e3)
            }
            Measure::Gauge => None,
        }
    }

    /// Adds up deltas until there are enough events (the last group counts them all).
    fn merge(&mut self, deltas: &[f64]) -> Option<Vec<f64>> {
        self.merged.resize(deltas.len(), 0.0);
        for (sum, delta) in self.merged.iter_mut().zip(deltas) {
            *sum += delta;
        }
        (self.merged.last().copied()? >= EVENTS_MIN).then(|| std::mem::take(&mut self.merged))
    }

    /// Share of events beyond the bucket after the usual 99th percentile's (twice as slow at etcd's bounds), and beyond
    /// `beyond_s`. Counts at fixed edges stay counts; a mean or an interpolated quantile would not.
    fn slower(&mut self, counts: Vec<f64>, beyond_s: f64) -> Option<f64> {
        if self.usual.len() != counts.len() {
            self.usual = vec![0.0; counts.len()];
            self.pending.clear();
        }
        let all = *counts.last()?;
        let usual_all = *self.usual.last()?;
        let usual_edge = self.usual.iter().position(|within| *within >= 0.99 * usual_all)?;
        let least_edge = self.bounds.iter().position(|bound| *bound >= beyond_s)?;
        let edge = (usual_edge + 1).max(least_edge);
        let share =
            (usual_all >= EVENTS_BASELINE).then(|| 1.0 - counts.get(edge).copied().unwrap_or(all) / all);
        for (since, count) in self.since.iter_mut().zip(&counts) {
            *since += count;
        }
        self.pending.push_back((self.at_s, counts));
        share
    }

    /// Learns what is old enough, while no alarm is open.
    pub(super) fn learn(&mut self) {
        while self.pending.len() > LAG {
            let Some((_, counts)) = self.pending.pop_front() else { return };
            for (usual, count) in self.usual.iter_mut().zip(counts) {
                *usual = *usual * DECAY + count;
            }
        }
    }

    /// An alarm went off: what waits to be learnt is its beginning, from the onset on.
    pub(super) fn begin_since(&mut self, onset_s: f64) {
        self.since = vec![0.0; self.usual.len()];
        for (_, counts) in self.pending.drain(..).filter(|(at_s, _)| *at_s >= onset_s) {
            for (since, count) in self.since.iter_mut().zip(counts) {
                *since += count;
            }
        }
    }

    /// While an alarm is open nothing waits to be learnt.
    pub(super) fn skip(&mut self) {
        self.pending.clear();
    }

    /// Quantiles of a histogram row, before and since; `None` for other rows.
    pub(super) fn quantiles(&self) -> Option<(Measured, Measured)> {
        (!self.bounds.is_empty())
            .then(|| (quantiles(&self.bounds, &self.usual), quantiles(&self.bounds, &self.since)))
    }
}

fn quantiles(bounds: &[f64], counts: &[f64]) -> Measured {
    let all = counts.last().copied().unwrap_or(0.0);
    let at = |share: f64| quantile(bounds, counts, share * all);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of events")]
    Measured { value: at(0.5), low: at(0.1), high: at(0.9), n: all.max(0.0) as u64 }
}

/// The value below which `rank` events lie, straight lines within buckets; the last finite bound beyond it.
fn quantile(bounds: &[f64], counts: &[f64], rank: f64) -> f64 {
    let mut lower = (0.0, 0.0);
    for (bound, count) in bounds.iter().zip(counts) {
        if *count >= rank && *count > lower.1 {
            if *bound >= UNBOUNDED {
                return lower.0;
            }
            return lower.0 + (bound - lower.0) * ((rank - lower.1) / (count - lower.1)).clamp(0.0, 1.0);
        }
        if *bound < UNBOUNDED {
            lower = (*bound, *count);
        }
    }
    lower.0
}

/// Seconds of a stamp, for rates.
pub(super) fn seconds(mono_ns: u64) -> f64 {
    to_f64(mono_ns) / 1e9
}

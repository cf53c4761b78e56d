//! What a scrape gives away of leader moves and maintenance: counters that moved, sizes that fell.
//!
//! Owns the short list of series and their last values. Absence means "not in this version", never 0.

use std::collections::BTreeMap;

use model::scrape::{Layout, PointShape, Scrape};
use serde::{Deserialize, Serialize};

use super::Harmless;

/// A defragmentation frees at least this share of the file; less is noise of other work.
const SHRUNK_TO: f64 = 0.95;

/// Targets remembered; a node watches its own members, a cluster has at most 7.
const TARGETS_MAX: usize = 64;

/// How a series tells of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// It grew.
    Grew,
    /// It is above zero while the work is under way.
    Positive,
    /// It fell below [`SHRUNK_TO`] of what it was.
    Shrank,
}

/// (family, labels, how it tells, of what).
type Row = (&'static str, &'static [(&'static str, &'static str)], Sign, Harmless);

/// A flat table: read it from the top.
const SIGNS: [Row; 8] = [
    ("etcd_server_leader_changes_seen_total", &[], Sign::Grew, Harmless::LeaderMove),
    ("etcd_disk_defrag_inflight", &[], Sign::Positive, Harmless::Defragmentation),
    ("etcd_mvcc_db_total_size_in_bytes", &[], Sign::Shrank, Harmless::Defragmentation),
    ("grpc_server_started_total", &[("grpc_method", "Defragment")], Sign::Grew, Harmless::Defragmentation),
    ("grpc_server_started_total", &[("grpc_method", "Snapshot")], Sign::Grew, Harmless::Snapshot),
    (
        "grpc_server_handled_total",
        &[("grpc_code", "OK"), ("grpc_method", "Snapshot")],
        Sign::Grew,
        Harmless::Snapshot,
    ),
    ("etcd_debugging_mvcc_compact_revision", &[], Sign::Grew, Harmless::Compaction),
    ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", &[], Sign::Grew, Harmless::Compaction),
];

/// Last values by target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Signs {
    targets: BTreeMap<String, Target>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Target {
    at_ns: u64,
    values: Vec<Option<f64>>,
    /// Series ids of one layout; found again after a restart of the agent, whose layouts are new.
    #[serde(skip)]
    resolved: Option<(u64, u32, Vec<Option<u32>>)>,
}

impl Signs {
    /// Work that this page gives away: (earliest begin, what). The first page and the first after a restart give none.
    pub(crate) fn read(
        &mut self,
        now: u64,
        member: &str,
        scrape: &Scrape,
        restarted: bool,
    ) -> Vec<(u64, Harmless)> {
        if !self.targets.contains_key(member) {
            if self.targets.len() >= TARGETS_MAX {
                return Vec::new();
            }
            self.targets.insert(member.to_owned(), Target::default());
        }
        let Some(target) = self.targets.get_mut(member) else { return Vec::new() };
        let layout = scrape.layout.as_ref();
        let values: Vec<Option<f64>> =
            target.series(layout).iter().map(|series| scrape.value((*series)?)).collect();
        let mut found = Vec::new();
        for (index, (_, _, sign, what)) in SIGNS.iter().enumerate() {
            let value = values.get(index).copied().flatten();
            let before = target.values.get(index).copied().flatten().filter(|_| !restarted);
            let tells = match (sign, before, value) {
                (Sign::Grew, Some(before), Some(value)) => value > before,
                (Sign::Shrank, Some(before), Some(value)) => value < before * SHRUNK_TO,
                (Sign::Positive, _, Some(value)) => value > 0.0,
                _ => false,
            };
            if tells {
                found.push((if target.at_ns == 0 { now } else { target.at_ns }, *what));
            }
        }
        target.values = values;
        target.at_ns = now;
        found
    }
}

impl Target {
    fn series(&mut self, layout: &Layout) -> &[Option<u32>] {
        let stale = self.resolved.as_ref().is_none_or(|(generation, series, _)| {
            *generation != layout.generation || *series != layout.series
        });
        if stale {
            let found = SIGNS.iter().map(|(family, labels, ..)| series_of(layout, family, labels)).collect();
            self.resolved = Some((layout.generation, layout.series, found));
        }
        self.resolved.as_ref().map_or(&[], |(_, _, found)| found)
    }
}

/// The value of a plain series, the count of a histogram.
fn series_of(layout: &Layout, family: &str, labels: &[(&str, &str)]) -> Option<u32> {
    match &layout.find(family, labels)?.shape {
        PointShape::Value { series } => Some(*series),
        PointShape::Histogram { count, .. } | PointShape::Summary { count, .. } => *count,
    }
}

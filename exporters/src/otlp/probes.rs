//! Probe results as histograms: `etcd.client.probe.duration` in seconds, by member, kind and outcome.
//!
//! Owns the buckets: powers of two from half a millisecond, so that every objective (16, 32, 128, 256 ms, 1 s) is a bound. Cumulative since the first probe the exporter saw, hence with a true start time. Refuses to keep
//! single probes.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::ledger::Ledger;
use model::origin::Origin;
use model::probe::{Probe, ProbeKind};
use model::record::Record;
use model::time::Stamp;

use super::metrics::{CUMULATIVE, seconds};
use super::pack::{Nest, Pack};
use super::resource::Identity;
use super::wire::{Value, Writer};

/// Upper bounds in seconds. 1 s, the availability objective, stands in for 1.024 s.
const BOUNDS: [f64; 16] = [
    0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.048, 4.096, 8.192,
    16.384,
];

/// Members times kinds times outcomes: ten members with every outcome. Beyond it the outcome becomes `other`.
const SERIES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    count: u64,
    sum_ns: u64,
    start_ns: u64,
    changed: bool,
}

type Key = (ProbeKind, String);

/// Histograms of all members.
#[derive(Debug, Default)]
pub(crate) struct ProbeTable {
    members: BTreeMap<String, (Arc<Origin>, BTreeMap<Key, Histogram>)>,
    series: usize,
}

impl ProbeTable {
    /// Adds one probe.
    pub(crate) fn observe(&mut self, record: &Record, probe: &Probe, ledger: &Ledger) {
        let name = record.origin.member_name();
        let known = self
            .members
            .get(name)
            .is_some_and(|(_, table)| table.contains_key(&(probe.kind, probe.outcome.name().to_owned())));
        let mut outcome = probe.outcome.name();
        if !known && self.series >= SERIES_MAX {
            ledger.add("agent_otlp_folded_probes_total", "series_max", 1);
            outcome = "other";
        }
        let (origin, table) =
            self.members.entry(name.to_owned()).or_insert_with(|| (record.origin.clone(), BTreeMap::new()));
        if *origin != record.origin {
            *origin = record.origin.clone();
        }
        let histogram = table.entry((probe.kind, outcome.to_owned())).or_insert_with(|| {
            self.series += 1;
            Histogram { start_ns: record.at.wall_ns, ..Histogram::default() }
        });
        histogram.observe(probe.latency_ns);
    }

    /// Writes the histograms that changed since the last call.
    pub(crate) fn flush(&mut self, identity: &Identity, now: Stamp, pack: &mut Pack) {
        let header = header();
        for (origin, table) in self.members.values_mut() {
            if table.values().all(|histogram| !histogram.changed) {
                continue;
            }
            let resource = identity.member(origin);
            let mut nest = Nest::new(pack);
            nest.enter(1, &resource);
            nest.enter(2, identity.scope());
            nest.enter(2, &header);
            nest.enter(9, &[0x10, CUMULATIVE]);
            for ((kind, outcome), histogram) in table.iter_mut().filter(|(_, histogram)| histogram.changed) {
                nest.put(1, &|writer| histogram.write(*kind, outcome, now.wall_ns, writer));
                histogram.changed = false;
            }
        }
    }
}

/// Name, description and unit of the metric.
fn header() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.string(1, "etcd.client.probe.duration");
    writer.string(2, "Due time to answer, or to giving up, of requests sent by the agent");
    writer.string(3, "s");
    writer.into_bytes()
}

impl Histogram {
    fn observe(&mut self, latency_ns: u64) {
        let latency = seconds(latency_ns);
        let place = BOUNDS.iter().position(|bound| latency <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(latency_ns);
        self.changed = true;
    }

    fn write(&self, kind: ProbeKind, outcome: &str, now_ns: u64, writer: &mut Writer) {
        let point = writer.open(1);
        writer.attribute(9, "etcd.probe.kind", Value::Str(kind.name()));
        writer.attribute(9, "etcd.probe.outcome", Value::Str(outcome));
        writer.fixed64(2, self.start_ns);
        writer.fixed64(3, now_ns.max(self.start_ns));
        writer.fixed64(4, self.count);
        writer.double(5, seconds(self.sum_ns));
        writer.length(6, 8 * self.counts.len());
        self.counts.iter().for_each(|count| writer.raw(&count.to_le_bytes()));
        writer.length(7, 8 * BOUNDS.len());
        BOUNDS.iter().for_each(|bound| writer.raw(&bound.to_le_bytes()));
        writer.close(point);
    }
}

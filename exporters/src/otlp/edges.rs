//! Calls between services as counters: `backburn.edge.calls`, `.failed` and `.duration`, by caller, callee and operation.
//!
//! The stitcher tells what an interval added; this adds it up, so that a lost request costs resolution and no calls.
//! Owns the sums, cumulative since the first interval the exporter saw. Refuses percentiles: an edge carries none.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::finding::Edge;
use model::ledger::Ledger;
use model::origin::Origin;
use model::time::Stamp;

use super::metrics::{CUMULATIVE, seconds};
use super::pack::{Nest, Pack};
use super::resource::Identity;
use super::wire::{Value, Writer};

/// Callers times callees times operations. Beyond it an edge is not counted by itself but as `other`.
const EDGES_MAX: usize = 512;

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    calls: u64,
    failed: u64,
    duration_ns: u64,
    start_ns: u64,
    changed: bool,
}

/// Caller, callee, operation.
type Key = [String; 3];

/// Sums of all edges.
#[derive(Debug, Default)]
pub(crate) struct EdgeTable {
    origin: Arc<Origin>,
    edges: BTreeMap<Key, Sums>,
}

/// One of the three metrics.
#[derive(Clone, Copy, Debug)]
struct Metric {
    name: &'static str,
    unit: &'static str,
    value: fn(&Sums) -> Number,
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Int(u64),
    Double(f64),
}

const METRICS: [Metric; 3] = [
    Metric { name: "backburn.edge.calls", unit: "{call}", value: |sums| Number::Int(sums.calls) },
    Metric { name: "backburn.edge.failed", unit: "{call}", value: |sums| Number::Int(sums.failed) },
    Metric {
        name: "backburn.edge.duration",
        unit: "s",
        value: |sums| Number::Double(seconds(sums.duration_ns)),
    },
];

impl EdgeTable {
    /// Adds what one interval saw.
    pub(crate) fn observe(&mut self, origin: &Arc<Origin>, at: Stamp, edge: &Edge, ledger: &Ledger) {
        self.origin = origin.clone();
        let mut key = [edge.caller.clone(), edge.callee.clone(), edge.operation.clone()];
        if self.edges.len() >= EDGES_MAX && !self.edges.contains_key(&key) {
            ledger.add("agent_otlp_folded_edges_total", "edges_max", 1);
            key = ["other", "other", "other"].map(str::to_owned);
        }
        let sums = self.edges.entry(key).or_insert(Sums { start_ns: at.wall_ns, ..Sums::default() });
        sums.calls = sums.calls.saturating_add(edge.calls);
        sums.failed = sums.failed.saturating_add(edge.failed);
        sums.duration_ns = sums.duration_ns.saturating_add(edge.duration_sum_ns);
        sums.changed = true;
    }

    /// Writes the edges that changed since the last call.
    pub(crate) fn flush(&mut self, identity: &Identity, now: Stamp, pack: &mut Pack) {
        if self.edges.values().all(|sums| !sums.changed) {
            return;
        }
        let resource = identity.agent(&self.origin);
        let headers = METRICS.map(|metric| {
            let mut header = Writer::default();
            header.string(1, metric.name);
            header.string(3, metric.unit);
            header.into_bytes()
        });
        let mut nest = Nest::new(pack);
        nest.enter(1, &resource);
        nest.enter(2, identity.scope());
        for (metric, header) in METRICS.iter().zip(&headers) {
            nest.enter(2, header);
            nest.enter(7, &[0x10, CUMULATIVE, 0x18, 1]);
            for (key, sums) in self.edges.iter().filter(|(_, sums)| sums.changed) {
                nest.put(1, &|writer| point(key, sums, (metric.value)(sums), now, writer));
            }
            nest.leave();
            nest.leave();
        }
        drop(nest);
        self.edges.values_mut().for_each(|sums| sums.changed = false);
    }
}

fn point(key: &Key, sums: &Sums, number: Number, now: Stamp, writer: &mut Writer) {
    let [caller, callee, operation] = key;
    let point = writer.open(1);
    writer.attribute(7, "client", Value::Str(caller));
    writer.attribute(7, "server", Value::Str(callee));
    writer.attribute(7, "operation", Value::Str(operation));
    writer.fixed64(2, sums.start_ns);
    writer.fixed64(3, now.wall_ns.max(sums.start_ns));
    match number {
        Number::Int(number) => writer.fixed64(6, number),
        Number::Double(number) => writer.double(4, number),
    }
    writer.close(point);
}

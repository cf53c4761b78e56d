//! From items to payloads: which encoder an item goes to, and when a payload is full enough to go.
//!
//! Owns the packs of the four signals and the encoders' state. A signal that goes nowhere is not encoded, and the receipts of
//! its lines are taken at once: nobody waits for them. Refuses to compress or to send.

use model::finding::{Conclusion, Finding};
use model::ledger::Ledger;
use model::record::{Fact, Record};
use model::time::Stamp;

use super::Item;
use super::config::{Config, Endpoint, Signal};
use super::edges::EdgeTable;
use super::metrics::ScrapeEncoder;
use super::pack::{Pack, Payload};
use super::probes::ProbeTable;
use super::resource::Identity;
use super::{facts, logs, profiles, traces};

/// Encoders and packs.
#[derive(Debug)]
pub(crate) struct Encoder {
    identity: Identity,
    ledger: Ledger,
    batch_bytes: usize,
    scrapes: ScrapeEncoder,
    probes: ProbeTable,
    edges: EdgeTable,
    metrics: Option<Pack>,
    logs: Option<Pack>,
    traces: Option<Pack>,
    profiles: Option<Pack>,
}

impl Encoder {
    pub(crate) fn new(config: &Config, ledger: &Ledger) -> Encoder {
        let pack = |signal| {
            let destination = config.destination(signal);
            (destination.endpoint != Endpoint::Nowhere)
                .then(|| Pack::new(signal, destination.request_bytes_max()))
        };
        Encoder {
            identity: Identity::new(config),
            ledger: ledger.clone(),
            batch_bytes: config.batch_bytes,
            scrapes: ScrapeEncoder::new(config, ledger.clone()),
            probes: ProbeTable::default(),
            edges: EdgeTable::default(),
            metrics: pack(Signal::Metrics),
            logs: pack(Signal::Logs),
            traces: pack(Signal::Traces),
            profiles: pack(Signal::Profiles),
        }
    }

    /// Encodes one item; payloads that are full come back.
    pub(crate) fn item(&mut self, item: &Item) -> Vec<Payload> {
        match item {
            Item::Record(record) => self.record(record),
            Item::Finding(finding) => self.finding(finding),
        }
        let batch_bytes = self.batch_bytes;
        self.collect(|pack| pack.len() >= batch_bytes)
    }

    /// Everything that waits for more, as payloads.
    pub(crate) fn flush(&mut self, now: Stamp) -> Vec<Payload> {
        if let Some(pack) = &mut self.metrics {
            self.probes.flush(&self.identity, now, pack);
            self.edges.flush(&self.identity, now, pack);
        }
        self.collect(|_| true)
    }

    /// A receiver has refused a request of `bytes` for its size.
    pub(crate) fn shrink(&mut self, signal: Signal, bytes: usize) {
        let packs = [&mut self.metrics, &mut self.logs, &mut self.traces, &mut self.profiles];
        for pack in packs.into_iter().flatten().filter(|pack| pack.signal() == signal) {
            pack.want_at_most(bytes / 2);
        }
    }

    fn record(&mut self, record: &Record) {
        match (&record.fact, &mut self.metrics) {
            (Fact::Scrape(scrape), Some(pack)) => self.scrapes.encode(record, scrape, pack),
            (Fact::Probe(probe), Some(_)) => self.probes.observe(record, probe, &self.ledger),
            (Fact::Member(fact), Some(pack)) => facts::member(&self.identity, record, fact, pack),
            (Fact::Host(fact), Some(pack)) => facts::host(&self.identity, record, fact, pack),
            _ => {}
        }
        match (&record.fact, &mut self.logs, &mut self.profiles) {
            (Fact::Logs(batch), Some(pack), _) => logs::batch(&self.identity, record, batch, pack),
            (Fact::Logs(batch), None, _) => batch.receipt.take(),
            (Fact::Capture(result), _, Some(pack)) => profiles::capture(&self.identity, record, result, pack),
            _ => {}
        }
    }

    fn finding(&mut self, finding: &Finding) {
        let origin = &finding.origin;
        match (&finding.conclusion, &mut self.traces, &mut self.logs) {
            (Conclusion::CallTree(tree), Some(pack), _) => traces::tree(&self.identity, origin, tree, pack),
            (Conclusion::Edge(edge), ..) if self.metrics.is_some() => {
                self.edges.observe(origin, finding.at, edge, &self.ledger);
            }
            (_, _, Some(pack)) => logs::finding(&self.identity, finding, pack),
            _ => {}
        }
    }

    fn collect(&mut self, full: impl Fn(&Pack) -> bool) -> Vec<Payload> {
        let mut payloads = Vec::new();
        let packs = [&mut self.metrics, &mut self.logs, &mut self.traces, &mut self.profiles];
        for pack in packs.into_iter().flatten() {
            if full(pack) {
                pack.cut();
            }
            let too_large = pack.take_too_large();
            super::ends::count_dropped(&self.ledger, pack.signal(), "too_large", too_large);
            payloads.append(&mut pack.take_done());
        }
        payloads
    }
}

#[cfg(test)]
mod tests;

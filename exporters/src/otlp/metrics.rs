//! Scraped pages as OTLP metrics, from columns: in the steady state a page costs a copy of prepared bytes and two fixed
//! fields a point.
//!
//! Owns the translation of Prometheus text to OTLP (compatibility specification 1.60). Names, help and labels are taken as
//! they are; a vanished series is told once as "no recorded value". A start time is set only where it is known: after a
//! reset that we saw, it is the process start if that lies between the two pages, else the time of the page before;
//! until then it stays unset, as the specification asks. Refuses to guess units, and drops (counted) a point that would lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::ledger::Ledger;
use model::record::Record;
use model::scrape::{MetricKind, Scrape, ScrapeOutcome};

use super::config::Config;
use super::pack::{Nest, Pack};
use super::resource::Identity;

use self::point::{Page, PointPart, Series, Shown, State};
use self::shape::{Data, Shape, header};

mod point;
mod shape;

/// Targets whose shapes are kept: members of a large cluster, twice. Beyond it the least recently seen is forgotten.
const TARGETS_MAX: usize = 64;

/// Points that are left out because they would lie, by reason.
const SKIPPED: &str = "agent_otlp_skipped_points_total";

/// Cumulative, in `AggregationTemporality`.
pub(crate) const CUMULATIVE: u8 = 2;

/// Encodes pages; keeps one prepared shape a target.
#[derive(Debug)]
pub(crate) struct ScrapeEncoder {
    identity: Identity,
    targets: BTreeMap<Arc<str>, Target>,
    ledger: Ledger,
}

#[derive(Debug, Default)]
struct Target {
    shape: Option<Shape>,
    seen_ns: u64,
    /// When its counters began anew; 0 = unknown.
    start_ns: u64,
    /// The last page that came.
    good_ns: u64,
}

impl ScrapeEncoder {
    pub(crate) fn new(config: &Config, ledger: Ledger) -> ScrapeEncoder {
        ScrapeEncoder { identity: Identity::new(config), targets: BTreeMap::new(), ledger }
    }

    /// Adds one page to the request in the making.
    pub(crate) fn encode(&mut self, record: &Record, scrape: &Scrape, pack: &mut Pack) {
        let now_ns = record.at.wall_ns;
        self.make_room(&scrape.target);
        let target = self.targets.entry(scrape.target.clone()).or_default();
        target.seen_ns = now_ns;
        target.follow_resets(scrape, now_ns);
        let known = target.shape.take().filter(|shape| shape.fits(scrape.generation, &record.origin));
        let shape = known.unwrap_or_else(|| Shape::new(&self.identity, record, scrape, &self.ledger));
        let mut nest = Nest::new(pack);
        nest.enter(1, &shape.resource);
        for part in &shape.scopes {
            nest.enter(2, &part.scope);
            for metric in &part.metrics {
                nest.enter(2, &metric.header);
                nest.enter(metric.data.field(), metric.data.prefix());
                let start_ns = if metric.data == Data::Gauge { 0 } else { target.start_ns };
                let page = Page { values: &scrape.values, time_ns: now_ns, start_ns };
                for point in &metric.points {
                    match point.check(&page) {
                        Shown::Yes(state) => nest.put(1, &|writer| point.write(&page, state, writer)),
                        Shown::No => {}
                        Shown::Lies(reason) => self.ledger.add(SKIPPED, reason, 1),
                    }
                }
                nest.leave();
                nest.leave();
            }
            nest.leave();
        }
        drop(nest);
        if shape.scopes.is_empty() {
            self.bare(record, scrape, &shape.resource, pack);
        } else {
            target.shape = Some(shape);
        }
    }

    /// `up` and the duration of a target that has never answered: there is no layout to carry them.
    fn bare(&self, record: &Record, scrape: &Scrape, resource: &[u8], pack: &mut Pack) {
        let up = if scrape.outcome == ScrapeOutcome::Up { 1.0 } else { 0.0 };
        let seconds = seconds(scrape.duration_ns);
        let mut nest = Nest::new(pack);
        nest.enter(1, resource);
        nest.enter(2, self.identity.scope());
        for (name, value) in [("up", up), ("scrape_duration_seconds", seconds)] {
            let header = header(name, "", MetricKind::Gauge);
            let point = PointPart { attributes: Vec::new(), series: Series::Value(0) };
            let page = Page { values: &[value], time_ns: record.at.wall_ns, start_ns: 0 };
            nest.put(1, &|writer| {
                let metric = writer.open(2);
                writer.raw(&header);
                let data = writer.open(Data::Gauge.field());
                point.write(&page, State::Here, writer);
                writer.close(data);
                writer.close(metric);
            });
        }
    }

    fn make_room(&mut self, target: &Arc<str>) {
        if self.targets.len() < TARGETS_MAX || self.targets.contains_key(target) {
            return;
        }
        let oldest =
            self.targets.iter().min_by_key(|(_, target)| target.seen_ns).map(|(name, _)| name.clone());
        if let Some(oldest) = oldest {
            self.targets.remove(&oldest);
        }
    }
}

impl Target {
    fn follow_resets(&mut self, scrape: &Scrape, now_ns: u64) {
        if scrape.outcome != ScrapeOutcome::Up {
            return;
        }
        if scrape.restarted {
            let began = scrape.process_start_ns.filter(|start| (self.good_ns..=now_ns).contains(start));
            // Without a page before, neither bound is known: better unset than wrong.
            self.start_ns = if self.good_ns == 0 { 0 } else { began.unwrap_or(self.good_ns) };
        }
        self.good_ns = now_ns;
    }
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "a float has 53 bits: exact below 104 days")]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests;

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
use model::origin::Origin;
use model::record::Record;
use model::scrape::{Layout, MetricKind, PointShape, Scrape, ScrapeOutcome, is_absent, is_stale};

use super::config::Config;
use super::pack::{Nest, Pack};
use super::resource::{Identity, scope};
use super::wire::{Value, Writer};

/// Targets whose shapes are kept: members of a large cluster, twice. Beyond it the least recently seen is forgotten.
const TARGETS_MAX: usize = 64;

/// Points that are left out because they would lie, by reason.
const SKIPPED: &str = "agent_otlp_skipped_points_total";

/// Cumulative, in `AggregationTemporality`.
pub(crate) const CUMULATIVE: u8 = 2;
/// `DataPointFlags`: the series has ended.
const NO_RECORDED_VALUE: u64 = 1;

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

/// A layout as prepared bytes.
#[derive(Debug)]
struct Shape {
    generation: u64,
    origin: Arc<Origin>,
    resource: Vec<u8>,
    scopes: Vec<ScopePart>,
}

#[derive(Debug)]
struct ScopePart {
    scope: Vec<u8>,
    metrics: Vec<MetricPart>,
}

#[derive(Debug)]
struct MetricPart {
    header: Vec<u8>,
    data: Data,
    points: Vec<PointPart>,
}

/// The `data` oneof: its field and what stands before the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    Gauge,
    Sum,
    Histogram,
    Summary,
}

#[derive(Debug)]
struct PointPart {
    attributes: Vec<u8>,
    series: Series,
}

#[derive(Debug)]
enum Series {
    Value(u32),
    Histogram { bounds: Vec<u8>, buckets: Vec<u32>, infinite: bool, count: Option<u32>, sum: Option<u32> },
    Summary { quantiles: Vec<(f64, u32)>, count: Option<u32>, sum: Option<u32> },
}

/// What is the same for all points of a page.
#[derive(Clone, Copy, Debug)]
struct Page<'a> {
    values: &'a [f64],
    time_ns: u64,
    start_ns: u64,
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

impl Shape {
    fn fits(&self, generation: u64, origin: &Arc<Origin>) -> bool {
        self.generation == generation && (Arc::ptr_eq(&self.origin, origin) || self.origin == *origin)
    }

    fn new(identity: &Identity, record: &Record, scrape: &Scrape, ledger: &Ledger) -> Shape {
        let info = target_info(&scrape.layout);
        Shape {
            generation: scrape.generation,
            origin: record.origin.clone(),
            resource: identity.target(&record.origin, &scrape.target, &info),
            scopes: scope_parts(identity, &scrape.layout, ledger),
        }
    }
}

/// Labels of `target_info`: attributes of the resource, not a metric.
fn target_info(layout: &Layout) -> Vec<(String, String)> {
    layout
        .find("target_info", &[])
        .map(|point| {
            let mut labels = point.labels.clone();
            labels.retain(|(name, _)| name != "job" && name != "instance");
            labels
        })
        .unwrap_or_default()
}

/// The points of a layout by scope, then by family, in page order.
fn scope_parts(identity: &Identity, layout: &Layout, ledger: &Ledger) -> Vec<ScopePart> {
    type Labels = Vec<(String, String)>;
    let mut scopes: BTreeMap<Labels, BTreeMap<u32, Vec<PointPart>>> = BTreeMap::new();
    for point in &layout.points {
        let family = usize::try_from(point.family).ok().and_then(|index| layout.families.get(index));
        let Some(family) = family else {
            ledger.add(SKIPPED, "no_family", 1);
            continue;
        };
        if matches!(family.name.as_str(), "target_info" | "otel_scope_info") {
            continue;
        }
        if Data::of(family.kind) != Data::of_shape(family.kind, &point.shape) {
            ledger.add(SKIPPED, "type_mismatch", 1);
            continue;
        }
        let (of_scope, labels): (Labels, Labels) =
            point.labels.iter().cloned().partition(|(name, _)| name.starts_with(SCOPE_LABEL));
        let part = PointPart::new(&labels, &point.shape);
        scopes.entry(of_scope).or_default().entry(point.family).or_default().push(part);
    }
    scopes
        .into_iter()
        .map(|(labels, families)| ScopePart {
            scope: scope_of(identity, &labels),
            metrics: families
                .into_iter()
                .filter_map(|(index, points)| {
                    let family = layout.families.get(usize::try_from(index).ok()?)?;
                    let header = header(&family.name, &family.help, family.kind);
                    Some(MetricPart { header, data: Data::of(family.kind), points })
                })
                .collect(),
        })
        .collect()
}

/// Labels that describe the scope, not the point.
const SCOPE_LABEL: &str = "otel_scope_";

fn scope_of(identity: &Identity, labels: &[(String, String)]) -> Vec<u8> {
    if labels.is_empty() {
        return identity.scope().to_vec();
    }
    let (mut name, mut version, mut schema, mut rest) = ("", "", "", Vec::new());
    for (label, value) in labels {
        match label.strip_prefix(SCOPE_LABEL).unwrap_or(label) {
            "name" => name = value,
            "version" => version = value,
            "schema_url" => schema = value,
            attribute => rest.push((attribute.to_owned(), value.clone())),
        }
    }
    scope(name, version, schema, &rest)
}

/// Name, description and `prometheus.type` of a metric.
fn header(name: &str, help: &str, kind: MetricKind) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.string(1, name);
    writer.string(2, help);
    let kind = match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
        MetricKind::Summary => "summary",
        MetricKind::Unknown => "unknown",
    };
    writer.attribute(12, "prometheus.type", Value::Str(kind));
    writer.into_bytes()
}

impl Data {
    fn of(kind: MetricKind) -> Data {
        match kind {
            MetricKind::Counter => Data::Sum,
            MetricKind::Gauge | MetricKind::Unknown => Data::Gauge,
            MetricKind::Histogram => Data::Histogram,
            MetricKind::Summary => Data::Summary,
        }
    }

    fn of_shape(kind: MetricKind, shape: &PointShape) -> Data {
        match shape {
            PointShape::Value { .. } if kind == MetricKind::Counter => Data::Sum,
            PointShape::Value { .. } => Data::Gauge,
            PointShape::Histogram { .. } => Data::Histogram,
            PointShape::Summary { .. } => Data::Summary,
        }
    }

    fn field(self) -> u32 {
        match self {
            Data::Gauge => 5,
            Data::Sum => 7,
            Data::Histogram => 9,
            Data::Summary => 11,
        }
    }

    /// Temporality (field 2) and, for a sum, monotonic (field 3).
    fn prefix(self) -> &'static [u8] {
        match self {
            Data::Gauge | Data::Summary => &[],
            Data::Sum => &[0x10, CUMULATIVE, 0x18, 1],
            Data::Histogram => &[0x10, CUMULATIVE],
        }
    }
}

/// Whether a point stands on a page.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Yes(State),
    /// Not on the page, and its end was told.
    No,
    /// On the page, but what we would say of it is not true.
    Lies(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Here,
    Ended,
}

impl PointPart {
    fn new(labels: &[(String, String)], shape: &PointShape) -> PointPart {
        let histogram = matches!(shape, PointShape::Histogram { .. });
        let mut attributes = Writer::default();
        for (name, value) in labels {
            attributes.attribute(if histogram { 9 } else { 7 }, name, Value::Str(value));
        }
        let series = match shape {
            PointShape::Value { series } => Series::Value(*series),
            PointShape::Histogram { buckets, count, sum } => {
                let mut finite: Vec<(f64, u32)> = Vec::with_capacity(buckets.len());
                for (bound, series) in buckets.iter().filter(|(bound, _)| bound.is_finite()) {
                    if finite.last().is_none_or(|(last, _)| last < bound) {
                        finite.push((*bound, *series));
                    }
                }
                let mut bounds = Writer::default();
                if !finite.is_empty() {
                    bounds.length(7, 8 * finite.len());
                }
                finite.iter().for_each(|(bound, _)| bounds.raw(&bound.to_le_bytes()));
                Series::Histogram {
                    bounds: bounds.into_bytes(),
                    buckets: finite.iter().map(|(_, series)| *series).collect(),
                    infinite: buckets.iter().any(|(bound, _)| *bound == f64::INFINITY),
                    count: *count,
                    sum: *sum,
                }
            }
            PointShape::Summary { quantiles, count, sum } => {
                Series::Summary { quantiles: quantiles.clone(), count: *count, sum: *sum }
            }
        };
        PointPart { attributes: attributes.into_bytes(), series }
    }

    fn check(&self, page: &Page<'_>) -> Shown {
        match &self.series {
            Series::Value(series) => match page.raw(*series) {
                None => Shown::No,
                Some(value) if is_stale(value) => Shown::Yes(State::Ended),
                Some(_) => Shown::Yes(State::Here),
            },
            Series::Histogram { buckets, count, sum, .. } => {
                let all = buckets.iter().chain(count).chain(sum).copied();
                page.presence(all, *count, buckets)
            }
            Series::Summary { quantiles, count, sum } => {
                let all = quantiles.iter().map(|(_, series)| *series).chain(*count).chain(*sum);
                page.presence(all, *count, &[])
            }
        }
    }

    fn write(&self, page: &Page<'_>, state: State, writer: &mut Writer) {
        let start = if page.start_ns > 0 { 9 } else { 0 };
        let common = self.attributes.len() + start + 9;
        match &self.series {
            Series::Value(series) => {
                writer.length(1, common + if state == State::Here { 9 } else { 2 });
                self.common(page, writer);
                match state {
                    State::Here => writer.double(4, page.raw(*series).unwrap_or_default()),
                    State::Ended => writer.uint(8, NO_RECORDED_VALUE),
                }
            }
            Series::Histogram { bounds, buckets, infinite, count, sum } => {
                let mark = writer.open(1);
                self.common(page, writer);
                if state == State::Ended {
                    writer.uint(10, NO_RECORDED_VALUE);
                } else {
                    let count = page.count(*count).unwrap_or_default();
                    writer.fixed64(4, count);
                    if let Some(sum) = page.value(*sum) {
                        writer.double(5, sum);
                    }
                    if !buckets.is_empty() || *infinite {
                        page.bucket_counts(buckets, count, writer);
                    }
                    writer.raw(bounds);
                }
                writer.close(mark);
            }
            Series::Summary { quantiles, count, sum } => {
                let mark = writer.open(1);
                self.common(page, writer);
                if state == State::Ended {
                    writer.uint(8, NO_RECORDED_VALUE);
                } else {
                    writer.fixed64(4, page.count(*count).unwrap_or_default());
                    writer.double(5, page.value(*sum).unwrap_or(0.0));
                    for (quantile, series) in quantiles {
                        if let Some(value) = page.value(Some(*series)) {
                            writer.length(6, 18);
                            writer.double(1, *quantile);
                            writer.double(2, value);
                        }
                    }
                }
                writer.close(mark);
            }
        }
    }

    fn common(&self, page: &Page<'_>, writer: &mut Writer) {
        writer.raw(&self.attributes);
        if page.start_ns > 0 {
            writer.fixed64(2, page.start_ns);
        }
        writer.fixed64(3, page.time_ns);
    }
}

impl Page<'_> {
    /// The value as the page has it, the staleness marker included; `None` when absent.
    fn raw(&self, series: u32) -> Option<f64> {
        let value = *self.values.get(usize::try_from(series).ok()?)?;
        (!is_absent(value)).then_some(value)
    }

    fn value(&self, series: Option<u32>) -> Option<f64> {
        self.raw(series?).filter(|value| !is_stale(*value))
    }

    /// A value that can be a count: finite and not negative.
    fn count(&self, series: Option<u32>) -> Option<u64> {
        self.value(series).and_then(as_count)
    }

    fn presence(&self, all: impl Iterator<Item = u32>, count: Option<u32>, buckets: &[u32]) -> Shown {
        let (mut here, mut ended) = (false, false);
        for value in all.filter_map(|series| self.raw(series)) {
            if is_stale(value) { ended = true } else { here = true }
        }
        match (here, ended) {
            (false, false) => Shown::No,
            (false, true) => Shown::Yes(State::Ended),
            _ if self.value(count).is_none() => Shown::Lies("no_count"),
            _ if self.count(count).is_none() => Shown::Lies("bad_count"),
            _ if buckets.iter().any(|series| self.count(Some(*series)).is_none()) => {
                Shown::Lies("bad_bucket")
            }
            _ => Shown::Yes(State::Here),
        }
    }

    /// Differences of cumulative counts. A page that was torn while it was written can run backwards or beyond its
    /// `_count`: such a bucket is held between its neighbours, so that the buckets always add up to the count.
    fn bucket_counts(&self, buckets: &[u32], count: u64, writer: &mut Writer) {
        writer.length(6, 8 * (buckets.len() + 1));
        let mut below = 0;
        for series in buckets {
            let cumulative = self.count(Some(*series)).unwrap_or(below).clamp(below, count);
            writer.raw(&(cumulative - below).to_le_bytes());
            below = cumulative;
        }
        writer.raw(&(count - below).to_le_bytes());
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be finite and not negative; a float beyond u64 saturates"
)]
fn as_count(value: f64) -> Option<u64> {
    (value.is_finite() && value >= 0.0).then(|| value.round() as u64)
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "a float has 53 bits: exact below 104 days")]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests;

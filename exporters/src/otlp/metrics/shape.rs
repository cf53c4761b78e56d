//! A layout as prepared bytes: what of a page does not change from one scrape to the next.
//!
//! Owns the grouping by scope and family and the heads of metrics. Made once a generation, freed with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::ledger::Ledger;
use model::origin::Origin;
use model::record::Record;
use model::scrape::{Layout, MetricKind, PointShape, Scrape};

use super::point::PointPart;
use super::{CUMULATIVE, SKIPPED};
use crate::otlp::resource::{Identity, scope};
use crate::otlp::wire::{Value, Writer};

/// A layout as prepared bytes.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) generation: u64,
    pub(super) origin: Arc<Origin>,
    pub(super) resource: Vec<u8>,
    pub(super) scopes: Vec<ScopePart>,
}

#[derive(Debug)]
pub(super) struct ScopePart {
    pub(super) scope: Vec<u8>,
    pub(super) metrics: Vec<MetricPart>,
}

#[derive(Debug)]
pub(super) struct MetricPart {
    pub(super) header: Vec<u8>,
    pub(super) data: Data,
    pub(super) points: Vec<PointPart>,
}

/// The `data` oneof: its field and what stands before the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Gauge,
    Sum,
    Histogram,
    Summary,
}

impl Shape {
    pub(super) fn fits(&self, generation: u64, origin: &Arc<Origin>) -> bool {
        self.generation == generation && (Arc::ptr_eq(&self.origin, origin) || self.origin == *origin)
    }

    pub(super) fn new(identity: &Identity, record: &Record, scrape: &Scrape, ledger: &Ledger) -> Shape {
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
pub(super) fn target_info(layout: &Layout) -> Vec<(String, String)> {
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
pub(super) fn scope_parts(identity: &Identity, layout: &Layout, ledger: &Ledger) -> Vec<ScopePart> {
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

pub(super) fn scope_of(identity: &Identity, labels: &[(String, String)]) -> Vec<u8> {
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
pub(super) fn header(name: &str, help: &str, kind: MetricKind) -> Vec<u8> {
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
    pub(super) fn of(kind: MetricKind) -> Data {
        match kind {
            MetricKind::Counter => Data::Sum,
            MetricKind::Gauge | MetricKind::Unknown => Data::Gauge,
            MetricKind::Histogram => Data::Histogram,
            MetricKind::Summary => Data::Summary,
        }
    }

    pub(super) fn of_shape(kind: MetricKind, shape: &PointShape) -> Data {
        match shape {
            PointShape::Value { .. } if kind == MetricKind::Counter => Data::Sum,
            PointShape::Value { .. } => Data::Gauge,
            PointShape::Histogram { .. } => Data::Histogram,
            PointShape::Summary { .. } => Data::Summary,
        }
    }

    pub(super) fn field(self) -> u32 {
        match self {
            Data::Gauge => 5,
            Data::Sum => 7,
            Data::Histogram => 9,
            Data::Summary => 11,
        }
    }

    /// Temporality (field 2) and, for a sum, monotonic (field 3).
    pub(super) fn prefix(self) -> &'static [u8] {
        match self {
            Data::Gauge | Data::Summary => &[],
            Data::Sum => &[0x10, CUMULATIVE, 0x18, 1],
            Data::Histogram => &[0x10, CUMULATIVE],
        }
    }
}

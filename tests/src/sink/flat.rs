//! What arrived, one item at a time, with attributes as plain text.
//!
//! Owns the flattening; keeps nothing and judges nothing.

use std::{collections::BTreeMap, sync::Arc};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{Metric, NumberDataPoint, metric::Data, number_data_point::Value as Number},
    resource::v1::Resource,
    trace::v1::Span,
};

use super::{Payload, Received};

/// Attributes as text: numbers in decimal, bytes and lists left out.
pub type Attributes = BTreeMap<String, String>;

/// One metric of one resource in one request.
#[derive(Clone, Debug)]
pub struct Series {
    /// Who it is about.
    pub resource: Attributes,
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<Point>,
}

/// One point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its own attributes.
    pub attributes: Attributes,
    /// The number, or of a distribution the count.
    pub value: f64,
}

/// One log record.
#[derive(Clone, Debug)]
pub struct Line {
    /// Who it is about.
    pub resource: Attributes,
    /// Its own attributes.
    pub attributes: Attributes,
    /// The body, where it is text.
    pub body: String,
    /// Event name; empty for a line.
    pub event: String,
    /// Trace id in hex; empty without.
    pub trace_id: String,
    /// The record itself.
    pub record: LogRecord,
}

/// One span.
#[derive(Clone, Debug)]
pub struct Spanned {
    /// Who did the work.
    pub resource: Attributes,
    /// Its own attributes.
    pub attributes: Attributes,
    /// Trace id in hex.
    pub trace_id: String,
    /// The span itself.
    pub span: Span,
}

/// Metrics in the order of arrival.
pub fn metrics(received: &[Arc<Received>]) -> Vec<Series> {
    let mut all = Vec::new();
    for request in received.iter().filter_map(|one| match &one.payload {
        Payload::Metrics(request) => Some(request),
        _ => None,
    }) {
        for batch in &request.resource_metrics {
            let resource = resource(batch.resource.as_ref());
            for metric in batch.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                let (name, points) = (metric.name.clone(), points(metric));
                all.push(Series { resource: resource.clone(), name, points });
            }
        }
    }
    all
}

/// Probes of one member that ended in some way, by kind and outcome, since the agent started.
pub fn outcomes(received: &[Arc<Received>], member: &str) -> BTreeMap<(String, String), u64> {
    let name = member.to_owned();
    let mut all = BTreeMap::new();
    for request in received.iter().filter_map(|one| match &one.payload {
        Payload::Metrics(request) => Some(request),
        _ => None,
    }) {
        for batch in &request.resource_metrics {
            // Looked at first: most of what arrives are pages of etcd, and stories ask often.
            let ours = batch.scope_metrics.iter().flat_map(|scope| &scope.metrics);
            let mut ours = ours.filter(|metric| metric.name == "etcd.client.probe.duration").peekable();
            if ours.peek().is_none()
                || resource(batch.resource.as_ref()).get("etcd.member.name") != Some(&name)
            {
                continue;
            }
            for point in ours.flat_map(points) {
                let of = |key: &str| point.attributes.get(key).cloned().unwrap_or_default();
                let count: &mut u64 =
                    all.entry((of("etcd.probe.kind"), of("etcd.probe.outcome"))).or_default();
                // Cumulative: the latest is the largest.
                *count = point.value.max(*count as f64) as u64;
            }
        }
    }
    all
}

/// Log records in the order of arrival.
pub fn logs(received: &[Arc<Received>]) -> Vec<Line> {
    let mut all = Vec::new();
    for request in received.iter().filter_map(|one| match &one.payload {
        Payload::Logs(request) => Some(request),
        _ => None,
    }) {
        for batch in &request.resource_logs {
            let resource = resource(batch.resource.as_ref());
            for record in batch.scope_logs.iter().flat_map(|scope| &scope.log_records) {
                all.push(Line {
                    resource: resource.clone(),
                    attributes: attributes(&record.attributes),
                    body: record.body.as_ref().and_then(text).unwrap_or_default(),
                    event: record.event_name.clone(),
                    trace_id: hex(&record.trace_id),
                    record: record.clone(),
                });
            }
        }
    }
    all
}

/// Spans in the order of arrival.
pub fn spans(received: &[Arc<Received>]) -> Vec<Spanned> {
    let mut all = Vec::new();
    for request in received.iter().filter_map(|one| match &one.payload {
        Payload::Traces(request) => Some(request),
        _ => None,
    }) {
        for batch in &request.resource_spans {
            let resource = resource(batch.resource.as_ref());
            for span in batch.scope_spans.iter().flat_map(|scope| &scope.spans) {
                all.push(Spanned {
                    resource: resource.clone(),
                    attributes: attributes(&span.attributes),
                    trace_id: hex(&span.trace_id),
                    span: span.clone(),
                });
            }
        }
    }
    all
}

fn points(metric: &Metric) -> Vec<Point> {
    let number = |point: &NumberDataPoint| Point {
        attributes: attributes(&point.attributes),
        value: match point.value {
            Some(Number::AsDouble(value)) => value,
            Some(Number::AsInt(value)) => value as f64,
            None => f64::NAN,
        },
    };
    let counted =
        |pairs: &[KeyValue], count: u64| Point { attributes: attributes(pairs), value: count as f64 };
    match &metric.data {
        Some(Data::Gauge(data)) => data.data_points.iter().map(number).collect(),
        Some(Data::Sum(data)) => data.data_points.iter().map(number).collect(),
        Some(Data::Histogram(data)) => {
            data.data_points.iter().map(|point| counted(&point.attributes, point.count)).collect()
        }
        Some(Data::ExponentialHistogram(data)) => {
            data.data_points.iter().map(|point| counted(&point.attributes, point.count)).collect()
        }
        Some(Data::Summary(data)) => {
            data.data_points.iter().map(|point| counted(&point.attributes, point.count)).collect()
        }
        None => Vec::new(),
    }
}

fn resource(resource: Option<&Resource>) -> Attributes {
    resource.map(|resource| attributes(&resource.attributes)).unwrap_or_default()
}

fn attributes(pairs: &[KeyValue]) -> Attributes {
    let pair = |pair: &KeyValue| Some((pair.key.clone(), pair.value.as_ref().and_then(text)?));
    pairs.iter().filter_map(pair).collect()
}

fn text(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::BoolValue(yes) => Some(yes.to_string()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

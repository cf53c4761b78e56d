//! What arrived, one item at a time, with attributes as plain text.
//!
//! Owns the flattening; keeps nothing and judges nothing.

use std::{collections::BTreeMap, sync::Arc};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{Metric, metric::Data},
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
    /// Attributes of each of its points.
    pub points: Vec<Attributes>,
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

fn points(metric: &Metric) -> Vec<Attributes> {
    let of = |points: Vec<&Vec<KeyValue>>| points.into_iter().map(|point| attributes(point)).collect();
    match &metric.data {
        Some(Data::Gauge(data)) => of(data.data_points.iter().map(|point| &point.attributes).collect()),
        Some(Data::Sum(data)) => of(data.data_points.iter().map(|point| &point.attributes).collect()),
        Some(Data::Histogram(data)) => of(data.data_points.iter().map(|point| &point.attributes).collect()),
        Some(Data::ExponentialHistogram(data)) => {
            of(data.data_points.iter().map(|point| &point.attributes).collect())
        }
        Some(Data::Summary(data)) => of(data.data_points.iter().map(|point| &point.attributes).collect()),
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

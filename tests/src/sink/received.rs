//! What arrived at the sink, and how much of it.
//!
//! Owns the memory of a run, which is bounded, and the counting, which is not.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::AddAssign,
    sync::Arc,
    time::SystemTime,
};

use http::HeaderMap;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        profiles::v1development::ExportProfilesServiceRequest, trace::v1::ExportTraceServiceRequest,
    },
    common::v1::any_value::Value,
    metrics::v1::metric::Data,
    resource::v1::Resource,
};
use prost::Message;

/// Of decoded requests that are kept, by their encoded size: a few minutes of three members at one-second scrapes.
pub const KEPT_BYTES_MAX: usize = 256 << 20;

/// Services that are counted apart; what comes later is counted under an empty name.
const SERVICES_MAX: usize = 64;

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf in a POST.
    Http,
}

/// One export that was taken.
#[derive(Debug)]
pub struct Received {
    /// When it was taken.
    pub at: SystemTime,
    /// How it came.
    pub protocol: Protocol,
    /// HTTP headers, or gRPC metadata.
    pub headers: HeaderMap,
    /// What it said.
    pub payload: Payload,
}

/// A decoded export.
#[derive(Debug)]
pub enum Payload {
    /// Metrics.
    Metrics(ExportMetricsServiceRequest),
    /// Spans.
    Traces(ExportTraceServiceRequest),
    /// Log records.
    Logs(ExportLogsServiceRequest),
    /// Profiles, v1development.
    Profiles(ExportProfilesServiceRequest),
}

/// How much was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Resources in requests: a request with two resources counts for two services once each.
    pub batches: u64,
    /// Data points of all kinds of metrics.
    pub metric_points: u64,
    /// Spans.
    pub spans: u64,
    /// Log records.
    pub log_records: u64,
    /// Profiles.
    pub profiles: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.batches += other.batches;
        self.metric_points += other.metric_points;
        self.spans += other.spans;
        self.log_records += other.log_records;
        self.profiles += other.profiles;
    }
}

impl Payload {
    /// `service.name` of each resource with what it brought.
    pub fn by_service(&self) -> Vec<(String, Counts)> {
        let one = |resource: &Option<Resource>, counts| {
            (service_of(resource.as_ref()), Counts { batches: 1, ..counts })
        };
        match self {
            Payload::Metrics(request) => request
                .resource_metrics
                .iter()
                .map(|batch| {
                    let metrics = batch.scope_metrics.iter().flat_map(|scope| &scope.metrics);
                    let metric_points = metrics.map(|metric| points_of(metric.data.as_ref())).sum();
                    one(&batch.resource, Counts { metric_points, ..Counts::default() })
                })
                .collect(),
            Payload::Traces(request) => request
                .resource_spans
                .iter()
                .map(|batch| {
                    let spans = batch.scope_spans.iter().map(|scope| scope.spans.len() as u64).sum();
                    one(&batch.resource, Counts { spans, ..Counts::default() })
                })
                .collect(),
            Payload::Logs(request) => request
                .resource_logs
                .iter()
                .map(|batch| {
                    let log_records =
                        batch.scope_logs.iter().map(|scope| scope.log_records.len() as u64).sum();
                    one(&batch.resource, Counts { log_records, ..Counts::default() })
                })
                .collect(),
            Payload::Profiles(request) => request
                .resource_profiles
                .iter()
                .map(|batch| {
                    let profiles = batch.scope_profiles.iter().map(|scope| scope.profiles.len() as u64).sum();
                    one(&batch.resource, Counts { profiles, ..Counts::default() })
                })
                .collect(),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Payload::Metrics(request) => request.encoded_len(),
            Payload::Traces(request) => request.encoded_len(),
            Payload::Logs(request) => request.encoded_len(),
            Payload::Profiles(request) => request.encoded_len(),
        }
    }
}

fn points_of(data: Option<&Data>) -> u64 {
    let points = match data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        None => 0,
    };
    points as u64
}

fn service_of(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    let named = attributes.iter().find(|attribute| attribute.key == "service.name");
    match named.and_then(|attribute| attribute.value.as_ref()).and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(name)) => name.clone(),
        _ => String::new(),
    }
}

/// Everything the sink remembers.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    kept: VecDeque<(usize, Arc<Received>)>,
    kept_bytes: usize,
    by_service: BTreeMap<String, Counts>,
    pub(super) refused: u64,
}

impl Arrived {
    pub(super) fn add(&mut self, received: Received) {
        for (service, counts) in received.payload.by_service() {
            let is_counted_apart =
                self.by_service.len() < SERVICES_MAX || self.by_service.contains_key(&service);
            let service = if is_counted_apart { service } else { String::new() };
            *self.by_service.entry(service).or_default() += counts;
        }
        let bytes = received.payload.encoded_len();
        self.kept_bytes += bytes;
        self.kept.push_back((bytes, Arc::new(received)));
        while self.kept_bytes > KEPT_BYTES_MAX {
            let Some((bytes, _)) = self.kept.pop_front() else { break };
            self.kept_bytes -= bytes;
        }
    }

    pub(super) fn kept(&self) -> Vec<Arc<Received>> {
        self.kept.iter().map(|(_, received)| Arc::clone(received)).collect()
    }

    pub(super) fn counts(&self, wanted: impl Fn(&str) -> bool) -> Counts {
        let mut total = Counts::default();
        for (_, counts) in self.by_service.iter().filter(|(service, _)| wanted(service)) {
            total += *counts;
        }
        total
    }
}

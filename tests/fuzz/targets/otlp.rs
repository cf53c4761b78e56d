//! Any record and any conclusion as OTLP: each request is read by the schema's own decoder and fits a receiver.
#![no_main]

use std::sync::Arc;

use exporters::otlp::{Config, Endpoint, Item, Signal, encode};
use fuzz::records;
use libfuzzer_sys::fuzz_target;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use processors::Engine;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let mut config = Config::default();
    for signal in Signal::ALL {
        config.destination_mut(signal).endpoint = Endpoint::Base("http://127.0.0.1:4318".to_owned());
    }
    let mut engine = Engine::new(processors::Config::default());
    let mut items = Vec::new();
    let mut now = model::time::Stamp::default();
    for record in records::records(data) {
        let outcome = engine.apply(&record);
        now = record.at;
        items.push(Item::Record(Arc::new(record)));
        items.extend(outcome.findings.into_iter().map(|finding| Item::Finding(Arc::new(finding))));
    }
    for (signal, bytes) in encode(&config, &items, now) {
        let bytes = bytes.as_slice();
        let empty = match signal {
            Signal::Metrics => {
                ExportMetricsServiceRequest::decode(bytes).map(|read| read.resource_metrics.is_empty())
            }
            Signal::Logs => ExportLogsServiceRequest::decode(bytes).map(|read| read.resource_logs.is_empty()),
            Signal::Traces => {
                ExportTraceServiceRequest::decode(bytes).map(|read| read.resource_spans.is_empty())
            }
            Signal::Profiles => {
                ExportProfilesServiceRequest::decode(bytes).map(|read| read.resource_profiles.is_empty())
            }
        };
        let empty = empty.unwrap_or_else(|error| panic!("{} cannot be read: {error}", signal.name()));
        assert!(!empty || bytes.is_empty());
    }
});

//! The stand-ins for backends do what they are told: a story that trusts them must be able to.

use std::{env, fs, io::Write, process, time::Duration};

use anyhow::Result;
use harness::{
    certs::{Certs, ClientAuth},
    http::{Answer, Peer},
    sink::{Counts, Reply, Sink},
    webhook::{self, Webhook},
};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        profiles::v1development::{
            ExportProfilesServiceRequest, profiles_service_client::ProfilesServiceClient,
        },
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data},
    profiles::v1development::{Profile, ResourceProfiles, ScopeProfiles},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use tonic::{
    Code,
    codec::CompressionEncoding,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

/// For an answer from the same host.
const SOON: Duration = Duration::from_secs(10);

const ONE_OF_EACH: Counts = Counts { batches: 4, metric_points: 2, spans: 1, log_records: 3, profiles: 1 };

fn resource() -> Option<Resource> {
    let value = Some(AnyValue { value: Some(Value::StringValue("etcd".into())) });
    let name = KeyValue { key: "service.name".into(), value, ..KeyValue::default() };
    Some(Resource { attributes: vec![name], ..Resource::default() })
}

fn metrics() -> ExportMetricsServiceRequest {
    let data = Some(Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default(); 2] }));
    let metrics = vec![Metric { name: "up".into(), data, ..Metric::default() }];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let batch = ResourceMetrics { resource: resource(), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![batch] }
}

fn traces() -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans: vec![Span::default()], ..ScopeSpans::default() }];
    let batch = ResourceSpans { resource: resource(), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![batch] }
}

fn logs() -> ExportLogsServiceRequest {
    let scope_logs = vec![ScopeLogs { log_records: vec![LogRecord::default(); 3], ..ScopeLogs::default() }];
    let batch = ResourceLogs { resource: resource(), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![batch] }
}

fn profiles() -> ExportProfilesServiceRequest {
    let scope_profiles =
        vec![ScopeProfiles { profiles: vec![Profile::default()], ..ScopeProfiles::default() }];
    let batch = ResourceProfiles { resource: resource(), scope_profiles, ..ResourceProfiles::default() };
    ExportProfilesServiceRequest { resource_profiles: vec![batch], ..ExportProfilesServiceRequest::default() }
}

async fn connect(sink: &Sink) -> Result<Channel> {
    Ok(Channel::from_shared(sink.grpc_endpoint())?.timeout(SOON).connect().await?)
}

async fn export_all_by_grpc(sink: &Sink, encoding: CompressionEncoding) -> Result<()> {
    let channel = connect(sink).await?;
    MetricsServiceClient::new(channel.clone()).send_compressed(encoding).export(metrics()).await?;
    TraceServiceClient::new(channel.clone()).send_compressed(encoding).export(traces()).await?;
    LogsServiceClient::new(channel.clone()).send_compressed(encoding).export(logs()).await?;
    ProfilesServiceClient::new(channel).send_compressed(encoding).export(profiles()).await?;
    Ok(())
}

fn export_metrics_by_http(sink: &Sink, encoding: &str) -> Result<Answer> {
    let plain = metrics().encode_to_vec();
    let body = match encoding {
        "gzip" => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&plain)?;
            gzip.finish()?
        }
        "zstd" => zstd::encode_all(&plain[..], 1)?,
        _ => plain,
    };
    let headers = [("Content-Type", "application/x-protobuf"), ("Content-Encoding", encoding)];
    Peer::from(sink.http_address()).post("/v1/metrics", &headers, &body, SOON)
}

#[tokio::test]
async fn every_signal_arrives_by_grpc() {
    let sink = Sink::start().unwrap();
    export_all_by_grpc(&sink, CompressionEncoding::Gzip).await.unwrap();
    assert_eq!(sink.total(), ONE_OF_EACH);
    export_all_by_grpc(&sink, CompressionEncoding::Zstd).await.unwrap();
    assert_eq!(sink.counts(|service| service == "etcd").log_records, 6);
    assert_eq!(sink.counts(|service| service == "agent"), Counts::default());
    assert_eq!(sink.received().len(), 8);
}

#[test]
fn every_signal_arrives_by_http() {
    let sink = Sink::start().unwrap();
    let paths = [
        ("/v1/metrics", metrics().encode_to_vec()),
        ("/v1/traces", traces().encode_to_vec()),
        ("/v1/logs", logs().encode_to_vec()),
        ("/v1development/profiles", profiles().encode_to_vec()),
    ];
    for (path, body) in paths {
        let headers = [("Content-Type", "application/x-protobuf")];
        let answer = Peer::from(sink.http_address()).post(path, &headers, &body, SOON).unwrap();
        assert_eq!(answer.status, 200, "{path}");
    }
    assert_eq!(sink.total(), ONE_OF_EACH);
}

#[test]
fn bodies_arrive_in_every_encoding_but_unknown_ones() {
    let sink = Sink::start().unwrap();
    for (encoding, status) in [("identity", 200), ("gzip", 200), ("zstd", 200), ("br", 400)] {
        assert_eq!(export_metrics_by_http(&sink, encoding).unwrap().status, status, "{encoding}");
    }
    assert_eq!((sink.total().metric_points, sink.refused()), (6, 1));
}

#[tokio::test]
async fn an_overloaded_sink_names_the_wait_and_takes_nothing() {
    let sink = Sink::start().unwrap();
    sink.respond(Reply::Unavailable { retry_after: Some(Duration::from_millis(1500)) });
    assert_eq!(export_metrics_by_http(&sink, "gzip").unwrap().header("retry-after"), "2");

    let status = LogsServiceClient::new(connect(&sink).await.unwrap()).export(logs()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    // RetryInfo with 1 s and 500,000,000 ns: field 1, in it fields 1 and 2.
    let retry_delay = b"\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01";
    assert!(status.details().windows(retry_delay.len()).any(|bytes| bytes == retry_delay), "{status:?}");
    assert_eq!((sink.total(), sink.refused()), (Counts::default(), 2));
}

#[tokio::test]
async fn queued_replies_come_before_the_standing_one() {
    let sink = Sink::start().unwrap();
    sink.queue([
        Reply::Refuse { grpc: Code::ResourceExhausted, http: 429 },
        Reply::Partial { rejected: 2, message: "too old".into() },
    ]);
    assert_eq!(export_metrics_by_http(&sink, "gzip").unwrap().status, 429);
    let mut client = LogsServiceClient::new(connect(&sink).await.unwrap());
    let partial = client.export(logs()).await.unwrap().into_inner().partial_success.unwrap();
    assert_eq!((partial.rejected_log_records, partial.error_message.as_str()), (2, "too old"));
    assert_eq!(client.export(logs()).await.unwrap().into_inner().partial_success, None);
}

#[tokio::test]
async fn garbage_and_an_endless_body_reach_the_client() {
    let sink = Sink::start().unwrap();
    let mut client = LogsServiceClient::new(connect(&sink).await.unwrap());
    for (reply, code) in [(Reply::Garbage, Code::Internal), (Reply::Endless, Code::OutOfRange)] {
        sink.respond(reply.clone());
        assert_eq!(client.export(logs()).await.unwrap_err().code(), code, "{reply:?}");
    }
    assert_eq!(sink.total(), Counts::default());
}

#[tokio::test]
async fn a_hanging_or_slow_sink_is_given_up_on() {
    let sink = Sink::start().unwrap();
    for reply in [Reply::Hang, Reply::Slow(Duration::from_secs(60))] {
        sink.respond(reply);
        let mut request = tonic::Request::new(logs());
        request.set_timeout(Duration::from_millis(100));
        let status = LogsServiceClient::new(connect(&sink).await.unwrap()).export(request).await.unwrap_err();
        assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    }
    assert_eq!(sink.total(), Counts::default());
}

#[test]
fn a_sink_that_is_down_comes_back_on_the_same_port() {
    let mut sink = Sink::start().unwrap();
    sink.down();
    export_metrics_by_http(&sink, "gzip").unwrap_err();
    sink.up().unwrap();
    assert_eq!(export_metrics_by_http(&sink, "gzip").unwrap().status, 200);
}

#[test]
fn a_webhook_remembers_refused_requests_too() {
    let hook = Webhook::start().unwrap();
    hook.queue([webhook::Reply::Status(503), webhook::Reply::RetryAfter(429, 7)]);
    let answers: Vec<Answer> = (0..3)
        .map(|n| {
            Peer::from(hook.address()).post("/hook?x=1", &[("webhook-id", "a")], &[b'0' + n], SOON).unwrap()
        })
        .collect();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [503, 429, 204]);
    assert_eq!(answers[1].header("Retry-After"), "7");
    let second = hook.wait_for(2, SOON).unwrap();
    assert_eq!(
        (second.path.as_str(), second.header("webhook-id"), &second.body[..]),
        ("/hook?x=1", "a", &b"1"[..])
    );
}

#[tokio::test]
async fn tls_lets_in_who_may_come() {
    let dir = env::temp_dir().join(format!("backburn-tls-{}", process::id()));
    let certs = Certs::generate(&dir).unwrap();
    let trusting =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(&certs.cacert).unwrap()));
    let own = Identity::from_pem(fs::read(&certs.cert).unwrap(), fs::read(&certs.key).unwrap());
    let known = trusting.clone().identity(own);
    let export = async |auth, tls| {
        let sink = Sink::start_with_tls(&certs, auth)?;
        let channel = Channel::from_shared(sink.grpc_endpoint())?.tls_config(tls)?.connect().await?;
        Ok::<_, anyhow::Error>(LogsServiceClient::new(channel).export(logs()).await?.into_inner())
    };
    export(ClientAuth::None, trusting.clone()).await.unwrap();
    export(ClientAuth::Required, known).await.unwrap();
    export(ClientAuth::Required, trusting).await.unwrap_err();
    export(ClientAuth::None, ClientTlsConfig::new()).await.unwrap_err();

    let hook = Webhook::start_with_tls(&certs, ClientAuth::Required).unwrap();
    let peer = Peer::with_tls(hook.address(), &certs).unwrap();
    assert_eq!(peer.post_json("/hook", "{}", SOON).unwrap().status, 204);
    fs::remove_dir_all(dir).unwrap();
}

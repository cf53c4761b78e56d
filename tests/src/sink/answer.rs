//! One export: read, decode, record, answer as the script says.
//!
//! Owns the two protocols and the faults on each. gRPC goes through tonic's generated servers, HTTP is spelled out here.

use std::{
    convert::Infallible,
    io::Read,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::body::{Frame, Incoming};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    profiles::v1development::{
        ExportProfilesPartialSuccess, ExportProfilesServiceRequest, ExportProfilesServiceResponse,
        profiles_service_server::{ProfilesService, ProfilesServiceServer},
    },
    trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use prost::Message;
use tonic::{Code, Status, body::Body, codec::CompressionEncoding, codegen::Service};

use super::{Payload, Protocol, Received, Reply, Shared};
use crate::listen;

/// Largest request after decompression, until a story says otherwise.
pub(super) const DECODED_BYTES_MAX: usize = 64 << 20;

/// Where OTLP/HTTP posts the four signals.
const PATHS: [&str; 4] = ["/v1/metrics", "/v1/traces", "/v1/logs", "/v1development/profiles"];

const PROTOBUF: &str = "application/x-protobuf";

pub(super) async fn answer(shared: Arc<Shared>, mut request: Request<Incoming>) -> Response<Body> {
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let is_grpc = content_type.starts_with(b"application/grpc");
    let reply = shared.script.next();
    match reply {
        Reply::Hang | Reply::Garbage | Reply::Endless => {
            listen::read_body(request.into_body()).await;
            shared.refuse();
            misbehave(&reply, is_grpc).await
        }
        _ if is_grpc => {
            request.extensions_mut().insert(reply);
            grpc(shared, request).await
        }
        _ => http(shared, request, reply).await,
    }
}

async fn misbehave(reply: &Reply, is_grpc: bool) -> Response<Body> {
    let content_type = if is_grpc { "application/grpc" } else { PROTOBUF };
    match reply {
        Reply::Endless => {
            let mut response = listen::answer(200, content_type, Bytes::new());
            *response.body_mut() = Body::new(Endless { is_head_due: is_grpc });
            response
        }
        Reply::Garbage => listen::answer(200, content_type, &b"\xff\xfe<html>\x00 not a message"[..]),
        _ => std::future::pending().await,
    }
}

/// Zeros for ever; over gRPC behind the head of a message that claims four gigabytes.
struct Endless {
    is_head_due: bool,
}

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        let head = std::mem::take(&mut self.is_head_due);
        let data = if head { Bytes::from_static(b"\0\xff\xff\xff\xff") } else { Bytes::from_static(&ZEROS) };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

// ------------------------------------------------------------------------------------------------------------------ gRPC

/// Implements the four generated services.
struct Receiver(Arc<Shared>);

async fn grpc(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    /// Each generated server is its own type with the same methods.
    macro_rules! serve {
        ($server:ident) => {
            $server::new(Receiver(Arc::clone(&shared)))
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
                .max_decoding_message_size(shared.decoded_bytes_max())
                .call(request)
                .await
        };
    }
    let answered = match request.uri().path().rsplit_once('/').map(|(service, _)| service) {
        Some("/opentelemetry.proto.collector.metrics.v1.MetricsService") => serve!(MetricsServiceServer),
        Some("/opentelemetry.proto.collector.trace.v1.TraceService") => serve!(TraceServiceServer),
        Some("/opentelemetry.proto.collector.logs.v1.LogsService") => serve!(LogsServiceServer),
        Some("/opentelemetry.proto.collector.profiles.v1development.ProfilesService") => {
            serve!(ProfilesServiceServer)
        }
        _ => Ok(Status::unimplemented("no such service").into_http()),
    };
    answered.unwrap_or_else(|never| match never {})
}

impl Receiver {
    /// Records the request where the reply takes it; the number and message of a partial success are passed back.
    async fn take<T>(
        &self,
        request: tonic::Request<T>,
        into_payload: fn(T) -> Payload,
    ) -> Result<Option<(i64, String)>, Status> {
        let (metadata, mut extensions, message) = request.into_parts();
        let reply = extensions.remove::<Reply>().unwrap_or_default();
        let partial = match reply {
            Reply::Unavailable { retry_after } => {
                self.0.refuse();
                return Err(unavailable(retry_after));
            }
            Reply::Refuse { grpc, .. } => {
                self.0.refuse();
                return Err(Status::new(grpc, "refused by the script"));
            }
            Reply::Partial { rejected, message } => Some((rejected, message)),
            Reply::Slow(pause) => {
                tokio::time::sleep(pause).await;
                None
            }
            Reply::Accept | Reply::Hang | Reply::Garbage | Reply::Endless => None,
        };
        self.0.take(received(Protocol::Grpc, metadata.into_headers(), into_payload(message)));
        Ok(partial)
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, Status> {
        Ok(tonic::Response::new(metrics_response(self.take(request, Payload::Metrics).await?)))
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        Ok(tonic::Response::new(trace_response(self.take(request, Payload::Traces).await?)))
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        Ok(tonic::Response::new(logs_response(self.take(request, Payload::Logs).await?)))
    }
}

#[tonic::async_trait]
impl ProfilesService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportProfilesServiceRequest>,
    ) -> Result<tonic::Response<ExportProfilesServiceResponse>, Status> {
        Ok(tonic::Response::new(profiles_response(self.take(request, Payload::Profiles).await?)))
    }
}

/// `UNAVAILABLE` with `google.rpc.RetryInfo` in `grpc-status-details-bin`.
fn unavailable(retry_after: Option<Duration>) -> Status {
    const MESSAGE: &str = "overloaded by the script";
    let Some(delay) = retry_after else { return Status::unavailable(MESSAGE) };
    Status::with_details(
        Code::Unavailable,
        MESSAGE,
        rpc_status(Code::Unavailable, MESSAGE, Some(delay)).into(),
    )
}

// ------------------------------------------------------------------------------------------------------------------ HTTP

async fn http(shared: Arc<Shared>, request: Request<Incoming>, reply: Reply) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = listen::read_body(body).await;
    if !PATHS.contains(&head.uri.path()) {
        shared.refuse();
        return listen::answer(404, "text/plain", "no such path");
    }
    let refuse = |status, message: &str| {
        shared.refuse();
        listen::answer(status, PROTOBUF, rpc_status(Code::Unknown, message, None))
    };
    let partial = match reply {
        Reply::Unavailable { retry_after } => {
            let mut response = refuse(503, "overloaded by the script");
            if let Some(delay) = retry_after {
                let seconds = delay.as_millis().div_ceil(1000);
                let value = HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX));
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
            return response;
        }
        Reply::Refuse { http, .. } => return refuse(http, "refused by the script"),
        Reply::Partial { rejected, message } => Some((rejected, message)),
        Reply::Slow(pause) => {
            tokio::time::sleep(pause).await;
            None
        }
        Reply::Accept | Reply::Hang | Reply::Garbage | Reply::Endless => None,
    };
    if head.headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != PROTOBUF) {
        return refuse(415, "only application/x-protobuf");
    }
    let most = shared.decoded_bytes_max();
    let Some(plain) = body.and_then(|body| decompress(&head.headers, body)) else {
        return refuse(400, "the body cannot be read");
    };
    if plain.len() > most {
        return refuse(413, "too large");
    }
    match decode(head.uri.path(), &plain, partial) {
        Some((payload, response)) => {
            shared.take(received(Protocol::Http, head.headers, payload));
            listen::answer(200, PROTOBUF, response)
        }
        None => refuse(400, "not the message of this path"),
    }
}

/// The payload and the encoded answer, by path.
fn decode(path: &str, plain: &[u8], partial: Option<(i64, String)>) -> Option<(Payload, Vec<u8>)> {
    Some(match path {
        "/v1/metrics" => {
            let request = ExportMetricsServiceRequest::decode(plain).ok()?;
            (Payload::Metrics(request), metrics_response(partial).encode_to_vec())
        }
        "/v1/traces" => {
            let request = ExportTraceServiceRequest::decode(plain).ok()?;
            (Payload::Traces(request), trace_response(partial).encode_to_vec())
        }
        "/v1/logs" => {
            let request = ExportLogsServiceRequest::decode(plain).ok()?;
            (Payload::Logs(request), logs_response(partial).encode_to_vec())
        }
        "/v1development/profiles" => {
            let request = ExportProfilesServiceRequest::decode(plain).ok()?;
            (Payload::Profiles(request), profiles_response(partial).encode_to_vec())
        }
        _ => return None,
    })
}

fn decompress(headers: &HeaderMap, body: Bytes) -> Option<Bytes> {
    let inflate = |reader: &mut dyn Read| {
        let mut plain = Vec::new();
        reader.take(DECODED_BYTES_MAX as u64).read_to_end(&mut plain).ok()?;
        Some(Bytes::from(plain))
    };
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Some(body),
        Some(b"gzip") => inflate(&mut flate2::read::MultiGzDecoder::new(&body[..])),
        Some(b"zstd") => inflate(&mut zstd::stream::read::Decoder::new(&body[..]).ok()?),
        Some(_) => None,
    }
}

// ------------------------------------------------------------------------------------------------------------- messages

fn received(protocol: Protocol, headers: HeaderMap, payload: Payload) -> Received {
    #[expect(
        clippy::disallowed_methods,
        reason = "when it really arrived; nothing of the product reads this"
    )]
    let at = SystemTime::now();
    Received { at, protocol, headers, payload }
}

fn metrics_response(partial: Option<(i64, String)>) -> ExportMetricsServiceResponse {
    let partial_success = partial.map(|(rejected_data_points, error_message)| ExportMetricsPartialSuccess {
        rejected_data_points,
        error_message,
    });
    ExportMetricsServiceResponse { partial_success }
}

fn trace_response(partial: Option<(i64, String)>) -> ExportTraceServiceResponse {
    let partial_success = partial
        .map(|(rejected_spans, error_message)| ExportTracePartialSuccess { rejected_spans, error_message });
    ExportTraceServiceResponse { partial_success }
}

fn logs_response(partial: Option<(i64, String)>) -> ExportLogsServiceResponse {
    let partial_success = partial.map(|(rejected_log_records, error_message)| ExportLogsPartialSuccess {
        rejected_log_records,
        error_message,
    });
    ExportLogsServiceResponse { partial_success }
}

fn profiles_response(partial: Option<(i64, String)>) -> ExportProfilesServiceResponse {
    let partial_success = partial.map(|(rejected_profiles, error_message)| ExportProfilesPartialSuccess {
        rejected_profiles,
        error_message,
    });
    ExportProfilesServiceResponse { partial_success }
}

/// `google.rpc.Status`, which both protocols use for what went wrong.
fn rpc_status(code: Code, message: &str, retry_after: Option<Duration>) -> Vec<u8> {
    let details = retry_after.map(|delay| Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: RetryInfo {
            retry_delay: Some(Delay {
                seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(delay.subsec_nanos()).unwrap_or(0),
            }),
        }
        .encode_to_vec(),
    });
    RpcStatus { code: code as i32, message: message.to_owned(), details: details.into_iter().collect() }
        .encode_to_vec()
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

//! OTLP over gRPC: one unary call with bytes that are already framed.
//!
//! Goes through tonic's channel, below its codecs: the body is the same for every attempt, the reply is read under a cap,
//! and message and status are read by [`super::reply`]. Owns headers and deadlines of a call.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};
use reqwest::Url;
use tonic::client::GrpcService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::StartError;
use super::config::{Compression, Destination, Signal};
use super::reply::{REPLY_BYTES_MAX, Reply, grpc_message, grpc_status};
use super::tls::Pem;

/// What a `grpc-timeout` can say in milliseconds: eight digits.
const TIMEOUT_MS_MAX: u128 = 99_999_999;

/// A call to one service.
#[derive(Debug)]
pub(crate) struct GrpcClient {
    endpoint: Endpoint,
    /// Made with the first call, because it needs a running runtime.
    channel: Option<Channel>,
    uri: http::Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl GrpcClient {
    pub(crate) fn new(
        destination: &Destination,
        signal: Signal,
        url: &Url,
        pem: Pem,
    ) -> Result<GrpcClient, StartError> {
        let failed = |error: &dyn std::error::Error| StartError::Client {
            signal: signal.name(),
            message: super::http::chain(error),
        };
        let mut endpoint = Endpoint::from_shared(url.as_str().to_owned())
            .map_err(|error| failed(&error))?
            .connect_timeout(destination.timeout)
            .user_agent(super::http::USER_AGENT)
            .map_err(|error| failed(&error))?;
        if url.scheme() == "https" {
            endpoint = endpoint.tls_config(tls(pem)).map_err(|error| failed(&error))?;
        }
        let uri = signal.grpc_path().parse().map_err(|error| failed(&error))?;
        let headers = headers(destination).ok_or(StartError::Header { signal: signal.name() })?;
        Ok(GrpcClient { endpoint, channel: None, uri, headers, timeout: destination.timeout })
    }

    /// Where calls go, with TLS as the files had it.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What goes with each call.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The length-prefixed message.
    pub(crate) fn frame(compression: Compression, body: &[u8]) -> Bytes {
        let mut framed = BytesMut::with_capacity(body.len() + 5);
        framed.put_u8(u8::from(compression != Compression::None));
        framed.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        framed.put_slice(body);
        framed.freeze()
    }

    /// The message of [`GrpcClient::frame`].
    pub(crate) fn unframe(framed: &[u8]) -> Option<&[u8]> {
        framed.get(5..)
    }

    pub(crate) async fn send(&mut self, body: Bytes) -> Reply {
        let timeout = self.timeout;
        let reply = tokio::time::timeout(timeout, self.call(body)).await;
        let reply = reply.unwrap_or_else(|_| timed_out());
        if reply == timed_out() {
            // A connection that swallows requests would swallow the next one too.
            self.channel = None;
        }
        reply
    }

    async fn call(&mut self, body: Bytes) -> Reply {
        let mut channel = self.channel.get_or_insert_with(|| self.endpoint.connect_lazy()).clone();
        let mut request = http::Request::new(tonic::body::Body::new(Full::new(body)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        let ready = std::future::poll_fn(|cx| GrpcService::poll_ready(&mut channel, cx)).await;
        if let Err(error) = ready {
            return Reply::later("connection", &super::http::chain(&error));
        }
        match GrpcService::call(&mut channel, request).await {
            Ok(response) => read(response).await,
            // Tonic reads our own `grpc-timeout` and may be first.
            Err(error) if is_timeout(&error) => timed_out(),
            Err(error) => Reply::later("connection", &super::http::chain(&error)),
        }
    }
}

fn timed_out() -> Reply {
    Reply::later("timeout", "no answer in time")
}

fn is_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<tonic::TimeoutExpired>() || error.source().is_some_and(is_timeout)
}

async fn read(response: http::Response<tonic::body::Body>) -> Reply {
    let (head, mut body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        let message = format!("http status {}", head.status);
        return match head.status.as_u16() {
            429 | 502 | 503 | 504 => Reply::later("unavailable", &message),
            // A proxy in front of the receiver.
            413 => Reply::TooLarge { message },
            _ => Reply::refused("http_status", &message),
        };
    }
    if let Some(reply) = grpc_status(&head.headers, Some(b"")) {
        return reply;
    }
    let encoding = head.headers.get("grpc-encoding").map(HeaderValue::as_bytes);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(status) => return Reply::later("connection", status.message()),
        };
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > REPLY_BYTES_MAX => {
                return Reply::refused("reply_too_large", "the answer has no end");
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => {
                let message = grpc_message(&bytes, encoding);
                let status = |trailers| grpc_status(trailers, message.as_deref());
                if let Some(reply) = frame.trailers_ref().and_then(status) {
                    return reply;
                }
            }
        }
    }
    Reply::refused("no_status", "the answer has no grpc-status: is this a gRPC endpoint?")
}

fn tls(pem: Pem) -> ClientTlsConfig {
    let mut tls = ClientTlsConfig::new();
    tls = match pem.ca {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
        None => tls.with_enabled_roots(),
    };
    match pem.identity {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    }
}

fn headers(destination: &Destination) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &destination.headers.0 {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        headers.append(HeaderName::try_from(name).ok()?, value);
    }
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    if let Some(encoding) = destination.compression.encoding() {
        headers.insert("grpc-encoding", HeaderValue::from_static(encoding));
    }
    let timeout = format!("{}m", destination.timeout.as_millis().clamp(1, TIMEOUT_MS_MAX));
    headers.insert("grpc-timeout", HeaderValue::try_from(timeout).ok()?);
    Some(headers)
}

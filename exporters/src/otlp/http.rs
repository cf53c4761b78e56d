//! OTLP over HTTP: one POST of a protobuf body.
//!
//! Owns headers, the reading of the status and of `Retry-After`, and the cap on the answer. Refuses redirects (a token would
//! follow them) and a proxy for loopback addresses.

use std::error::Error;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use model::time::Clock;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Identity, Response, StatusCode, Url};

use super::StartError;
use super::config::{Destination, Signal};
use super::reply::{REPLY_BYTES_MAX, Reply, accepted, rpc_status};
use super::retry::retry_after;
use super::tls::Pem;

/// How we name ourselves.
pub(crate) const USER_AGENT: &str = concat!("backburn/", env!("CARGO_PKG_VERSION"));

/// A POST to one URL.
#[derive(Debug)]
pub(crate) struct HttpClient {
    client: Client,
    url: Url,
    headers: HeaderMap,
    clock: Clock,
}

impl HttpClient {
    pub(crate) fn new(
        destination: &Destination,
        signal: Signal,
        url: Url,
        pem: Pem,
        clock: Clock,
    ) -> Result<HttpClient, StartError> {
        let failed =
            |error: reqwest::Error| StartError::Client { signal: signal.name(), message: chain(&error) };
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .timeout(destination.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(1)
            // Finds out within one attempt that a connection is dead.
            .http2_keep_alive_interval(destination.timeout / 2)
            .http2_keep_alive_timeout(destination.timeout / 2);
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        if let Some(ca) = pem.ca {
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(&ca).map_err(failed)?);
        } else if url.scheme() == "http" {
            // Plain text needs no roots, and a node without any must not fail for it.
            builder = builder.tls_certs_only([]);
        }
        if let Some((mut certificate, key)) = pem.identity {
            certificate.push(b'\n');
            certificate.extend_from_slice(&key);
            builder = builder.identity(Identity::from_pem(&certificate).map_err(failed)?);
        }
        let headers = headers(destination).ok_or(StartError::Header { signal: signal.name() })?;
        Ok(HttpClient { client: builder.build().map_err(failed)?, url, headers, clock })
    }

    pub(crate) async fn send(&mut self, body: Bytes) -> Reply {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        match request.send().await {
            Ok(response) => self.read(response).await,
            Err(error) if error.is_timeout() => Reply::later("timeout", "no answer in time"),
            Err(error) => Reply::later("connection", &chain(&error.without_url())),
        }
    }

    async fn read(&self, mut response: Response) -> Reply {
        let status = response.status();
        let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let after = after.and_then(|value| retry_after(value, self.clock.now().wall_ns));
        let (body, whole) = read_body(&mut response).await;
        if status.is_success() {
            // The status stands, whatever became of the body.
            return accepted(if whole { &body } else { b"\xff" });
        }
        let (message, _) = rpc_status(&body);
        let message = format!("http status {status} {message}");
        match later_code(status) {
            Some(code) => Reply::Later { code, after, message },
            None if is_too_large(status, &body) => Reply::TooLarge { message },
            None => Reply::refused("http_status", &message),
        }
    }
}

/// 413, or the 400 of receivers that read the body through a limit and pass on what their library says.
fn is_too_large(status: StatusCode, body: &[u8]) -> bool {
    let said = || String::from_utf8_lossy(body).contains("request body too large");
    status == StatusCode::PAYLOAD_TOO_LARGE || (status == StatusCode::BAD_REQUEST && said())
}

/// The body up to the cap, and whether that was all of it.
async fn read_body(response: &mut Response) -> (BytesMut, bool) {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= REPLY_BYTES_MAX => body.extend_from_slice(&chunk),
            Ok(Some(_)) | Err(_) => return (body, false),
            Ok(None) => return (body, true),
        }
    }
}

/// Only these are worth another attempt with the same bytes; 413 and 400 never are.
fn later_code(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        429 => Some("http_429"),
        502 => Some("http_502"),
        503 => Some("http_503"),
        504 => Some("http_504"),
        _ => None,
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn headers(destination: &Destination) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &destination.headers.0 {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        headers.append(HeaderName::try_from(name).ok()?, value);
    }
    headers.insert("content-type", HeaderValue::from_static("application/x-protobuf"));
    if let Some(encoding) = destination.compression.encoding() {
        headers.insert("content-encoding", HeaderValue::from_static(encoding));
    }
    Some(headers)
}

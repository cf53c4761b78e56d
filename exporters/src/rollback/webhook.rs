//! One POST to one webhook, and what its answer means.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | taken; confirmed where the body is JSON with `"acted": true` |
//! | 408, 409, 425, 429, 3xx, 5xx | later: busy, in conflict with another change, or misrouted for now; `Retry-After` is kept |
//! | any other 4xx, 410 among them | refused for good: the same bytes would be refused again |
//! | none | later |
//!
//! Redirects are not followed, proxies of the environment are not used (they would resolve past the address check),
//! and no more than 64 KiB of a reply is read.

use std::sync::Arc;
use std::time::Duration;

use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde_json::Value;

use super::Attempted;
use super::address::{self, AddressError, Guarded};
use super::signature::{self, Secret};

/// Of a reply only `acted` matters; whatever is longer is not read.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Connecting is a round trip or three; the rest of the time belongs to the receiver.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest wait that a receiver may ask for; the signal's own end is the other bound.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No secret: an unsigned rollback signal is an invitation.
    #[error("no secret: every signal is signed")]
    NoSecret,
    /// The client.
    #[error("set up the client")]
    Client(#[source] reqwest::Error),
}

/// A checked webhook.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    client: Client,
    url: Url,
    secrets: Vec<Secret>,
}

impl Webhook {
    pub(crate) fn new(
        url: &str,
        allow_http: bool,
        secrets: &[Secret],
        timeout: Duration,
    ) -> Result<Webhook, WebhookError> {
        if secrets.is_empty() {
            return Err(WebhookError::NoSecret);
        }
        let url = address::check(url, allow_http)?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Somebody else may have been quicker: either way there is one now.
            let _installed = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(Guarded))
            .connect_timeout(CONNECT.min(timeout))
            .timeout(timeout)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("backburn-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(WebhookError::Client)?;
        Ok(Webhook { client, url, secrets: secrets.to_vec() })
    }

    /// One attempt, within the client's time limit. `now_ns` is the attempt's time: the signature covers it.
    pub(crate) async fn attempt(&self, id: &str, body: &str, now_ns: u64) -> Attempted {
        let timestamp_s = now_ns / model::time::SECOND_NS;
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp_s.to_string())
            .header("webhook-signature", signature::sign(&self.secrets, id, timestamp_s, body.as_bytes()))
            .body(body.to_owned());
        match request.send().await {
            Ok(response) => judge(response, now_ns).await,
            Err(error) => {
                let saw = describe(&error.without_url());
                Attempted::Later { reached: !saw.1, saw: saw.0, wait: None }
            }
        }
    }
}

/// The error with its causes on one line, and whether no connection was made.
fn describe(error: &reqwest::Error) -> (String, bool) {
    let never_reached = error.is_connect();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    // A chain of five is as deep as hyper's get.
    for _ in 0..5 {
        let Some(inner) = cause else { break };
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    (text, never_reached)
}

async fn judge(response: Response, now_ns: u64) -> Attempted {
    let status = response.status();
    let saw = format!("status {}", status.as_u16());
    if status.is_success() {
        return Attempted::Taken { confirmed: acted(response).await, saw };
    }
    if refuses(status) {
        return Attempted::Refused(saw);
    }
    let wait = retry_after(response.headers(), now_ns);
    Attempted::Later { saw, reached: true, wait }
}

fn refuses(status: StatusCode) -> bool {
    let later = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::CONFLICT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_client_error() && !later.contains(&status)
}

/// Whether the reply says `{"acted": true}`. A reply that is long, slow, torn or something else says nothing: it was taken.
async fn acted(mut response: Response) -> bool {
    let mut reply = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if reply.len().saturating_add(chunk.len()) > REPLY_BYTES_MAX {
            return false;
        }
        reply.extend_from_slice(&chunk);
    }
    serde_json::from_slice::<Value>(&reply)
        .is_ok_and(|reply| reply.get("acted").and_then(Value::as_bool) == Some(true))
}

/// Seconds or an HTTP date.
fn retry_after(headers: &HeaderMap, now_ns: u64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            let until_ns = u64::try_from(until.as_nanosecond()).ok()?;
            Duration::from_nanos(until_ns.saturating_sub(now_ns))
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::StatusCode;
    use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};

    use super::{refuses, retry_after};

    fn check(value: &str, expected: Option<u64>) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        // Sat, 21 Nov 2026 03:00:00 GMT
        let now_ns = 1_795_230_000_000_000_000;
        assert_eq!(retry_after(&headers, now_ns), expected.map(Duration::from_secs), "{value}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        check("7", Some(7));
        check(" 0 ", Some(0));
        check("Sat, 21 Nov 2026 03:00:30 GMT", Some(30));
        check("Sat, 21 Nov 2026 02:00:00 GMT", Some(0));
        check("18446744073709551615", Some(3600));
        check("-1", None);
        check("1.5", None);
        check("soon", None);
        check("Sat, 99 Nov 2026 03:00:30 GMT", None);
    }

    #[test]
    fn only_what_would_be_refused_again_is_refused() {
        for (status, expected) in [
            (400, true),
            (401, true),
            (404, true),
            (410, true),
            (422, true),
            (408, false),
            (409, false),
            (425, false),
            (429, false),
            (302, false),
            (500, false),
            (503, false),
        ] {
            assert_eq!(refuses(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }
}

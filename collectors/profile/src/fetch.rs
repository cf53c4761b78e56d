//! One GET to a Go process's pprof endpoint, with a cap and a deadline, and what its refusal means.
//!
//! Owns the paths and the words for failures. Refuses to retry and to follow a redirect: who captures decides on that.

use std::sync::Arc;
use std::time::Duration;

use model::profile::ProfileKind;
use reqwest::{Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};

/// Bytes of one answer as sent (gzipped): etcd sends 10 to 100 KiB, its goroutines at 20,000 watchers about 1 MiB.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Bytes of Go's text of goroutines, which is not gzipped: etcd's have 800 bytes each, 5,000 of them 4 MiB.
pub const TEXT_BYTES_MAX: usize = 8 << 20;
/// Bytes of an error page that are read to tell refusals apart.
const ERROR_BYTES_MAX: usize = 512;
/// A member that is busy may need long to write its profile; after this the answer would describe another time.
const GRACE: Duration = Duration::from_secs(10);
/// A member that does not accept within this is not going to be profiled.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// On-CPU samples of so many seconds, at the runtime's 100 Hz.
    Cpu {
        /// Length, seconds.
        seconds: u32,
    },
    /// Live heap as of the last garbage collection; does not force one.
    Heap,
    /// All goroutines by stack.
    Goroutine,
    /// All goroutines one by one, as [`crate::goroutines::text`] reads them. The process stands still while it writes them.
    GoroutineText,
    /// Goroutines that nobody can ever wake, by Go's own search: Go 1.27, or 1.26 built with the experiment. The search is a
    /// garbage collection.
    GoroutineLeak,
}

impl Endpoint {
    /// The kind of profile that comes back.
    #[must_use]
    pub fn kind(self) -> ProfileKind {
        match self {
            Endpoint::Cpu { .. } => ProfileKind::Cpu,
            Endpoint::Heap => ProfileKind::Heap,
            Endpoint::Goroutine | Endpoint::GoroutineText | Endpoint::GoroutineLeak => ProfileKind::Goroutine,
        }
    }

    fn url(self, base: &str) -> String {
        let base = base.trim_end_matches('/');
        match self {
            Endpoint::Cpu { seconds } => format!("{base}/debug/pprof/profile?seconds={seconds}"),
            Endpoint::Heap => format!("{base}/debug/pprof/heap"),
            Endpoint::Goroutine => format!("{base}/debug/pprof/goroutine"),
            Endpoint::GoroutineText => format!("{base}/debug/pprof/goroutine?debug=2"),
            Endpoint::GoroutineLeak => format!("{base}/debug/pprof/goroutineleak"),
        }
    }

    fn bytes_max(self) -> usize {
        if self == Endpoint::GoroutineText { TEXT_BYTES_MAX } else { BODY_BYTES_MAX }
    }

    fn deadline(self) -> Duration {
        match self {
            Endpoint::Cpu { seconds } => GRACE + Duration::from_secs(u64::from(seconds)),
            _ => GRACE,
        }
    }
}

/// Why there is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// 404: etcd runs without `--enable-pprof`.
    #[error("no pprof endpoint (404); etcd serves one with --enable-pprof")]
    NoEndpoint,
    /// 500 "cpu profiling already in use": Go allows one CPU profile at a time.
    #[error("another cpu profile is running")]
    AnotherProfileRunning,
    /// 401 or 403.
    #[error("not permitted ({0})")]
    NotPermitted(u16),
    /// Any other answer but 200.
    #[error("status {0}")]
    Status(u16),
    /// No whole answer by the deadline.
    #[error("no answer within {0} s")]
    Timeout(u64),
    /// No connection, or TLS refused.
    #[error("not reachable: {0}")]
    Unreachable(String),
    /// More than [`BODY_BYTES_MAX`], or [`TEXT_BYTES_MAX`].
    #[error("answer larger than {0} bytes")]
    TooLarge(usize),
    /// The connection broke inside the answer.
    #[error("answer torn: {0}")]
    Torn(String),
}

impl FetchError {
    /// The fixed word, label of counters and reason of a failed capture.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            FetchError::NoEndpoint => "no_endpoint",
            FetchError::AnotherProfileRunning => "another_profile_running",
            FetchError::NotPermitted(_) => "not_permitted",
            FetchError::Status(_) => "status",
            FetchError::Timeout(_) => "timeout",
            FetchError::Unreachable(_) => "unreachable",
            FetchError::TooLarge(_) => "too_large",
            FetchError::Torn(_) => "torn",
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The TLS provider offers no protocol version.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// The configuration cannot be used.
    #[error("http client: {0}")]
    Build(#[from] reqwest::Error),
}

/// A client for profiles: no proxy (members are near), no redirect, and TLS as configured; `None` trusts nobody and is for
/// `http://` alone.
///
/// # Errors
/// [`ClientError`], when the TLS configuration cannot be used.
pub fn client(tls: Option<ClientConfig>) -> Result<reqwest::Client, ClientError> {
    let tls = match tls {
        Some(tls) => tls,
        None => ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        // One connection a capture: an idle one kept for ten minutes is a surprise to whoever restarts the member.
        .pool_max_idle_per_host(0)
        .build()?;
    Ok(client)
}

/// Fetches one profile as it was sent. Dropping the future closes the connection, and Go then stops its CPU profile.
///
/// # Errors
/// [`FetchError`].
pub async fn get(
    client: &reqwest::Client,
    base_url: &str,
    endpoint: Endpoint,
) -> Result<Vec<u8>, FetchError> {
    let deadline = endpoint.deadline();
    match tokio::time::timeout(deadline, answer(client, &endpoint.url(base_url), endpoint.bytes_max())).await
    {
        Ok(answer) => answer,
        Err(_) => Err(FetchError::Timeout(deadline.as_secs())),
    }
}

async fn answer(client: &reqwest::Client, url: &str, bytes_max: usize) -> Result<Vec<u8>, FetchError> {
    let response = client.get(url).send().await.map_err(|error| unreachable(&error))?;
    let status = response.status();
    match status {
        StatusCode::OK => body(response, bytes_max).await?.ok_or(FetchError::TooLarge(bytes_max)),
        StatusCode::NOT_FOUND => Err(FetchError::NoEndpoint),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(FetchError::NotPermitted(status.as_u16())),
        StatusCode::INTERNAL_SERVER_ERROR => {
            let page = body(response, ERROR_BYTES_MAX).await.ok().flatten().unwrap_or_default();
            let busy = String::from_utf8_lossy(&page).contains("profiling already in use");
            Err(if busy { FetchError::AnotherProfileRunning } else { FetchError::Status(500) })
        }
        _ => Err(FetchError::Status(status.as_u16())),
    }
}

/// The body, or `None` when it is longer than `max`.
async fn body(mut response: Response, max: usize) -> Result<Option<Vec<u8>>, FetchError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| FetchError::Torn(chain(&error)))? {
        if bytes.len() + chunk.len() > max {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn unreachable(error: &reqwest::Error) -> FetchError {
    if error.is_timeout() {
        return FetchError::Timeout(CONNECT_TIMEOUT.as_secs());
    }
    FetchError::Unreachable(chain(error))
}

/// The innermost cause: "connection refused" tells more than "error sending request".
fn chain(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, FetchError, client, get};
    use crate::capture::tests::Server;

    async fn check(status: &'static str, body: &'static [u8], expected: Result<Vec<u8>, FetchError>) {
        let server = Server::start(move |_| (status, body.to_vec()));
        let seen = get(&client(None).unwrap(), &server.url, Endpoint::Cpu { seconds: 1 }).await;
        assert_eq!(seen, expected);
        assert_eq!(server.paths(), ["/debug/pprof/profile?seconds=1"]);
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        check("200 OK", b"profile", Ok(b"profile".to_vec())).await;
        check("404 Not Found", b"404 page not found", Err(FetchError::NoEndpoint)).await;
        check("403 Forbidden", b"", Err(FetchError::NotPermitted(403))).await;
        check("302 Found", b"", Err(FetchError::Status(302))).await;
        check("500 Internal Server Error", b"oops", Err(FetchError::Status(500))).await;
        let busy = b"Could not enable CPU profiling: cpu profiling already in use\n";
        check("500 Internal Server Error", busy, Err(FetchError::AnotherProfileRunning)).await;
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut() {
        let (max, text_max) = (super::BODY_BYTES_MAX, super::TEXT_BYTES_MAX);
        let server = Server::start(move |path| {
            ("200 OK", vec![0; if path.ends_with("?debug=2") { text_max } else { max } + 1])
        });
        let client = client(None).unwrap();
        for (endpoint, max) in [(Endpoint::Heap, max), (Endpoint::GoroutineText, text_max)] {
            assert_eq!(get(&client, &server.url, endpoint).await, Err(FetchError::TooLarge(max)));
        }
    }

    #[tokio::test]
    async fn nobody_there_is_not_reachable() {
        // Port 1 of the loopback: nothing listens there.
        let seen = get(&client(None).unwrap(), "http://127.0.0.1:1/", Endpoint::Goroutine).await;
        assert!(matches!(seen, Err(FetchError::Unreachable(_))), "{seen:?}");
    }
}

//! Gets one page over HTTP or HTTPS: one connection, no redirects, no proxy, a cap on what is read and on what it inflates to.
//!
//! Owns the HTTP client and renews it when certificates rotate. Refuses to keep a page: the caller lends the buffer.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use model::ledger::Ledger;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};

use crate::tls::{self, Fingerprint, TlsError, TlsFiles};

use super::{Encoding, StartError};

/// etcd offers nothing better (asked for OpenMetrics it answers with this), and it costs etcd less than protobuf with gzip.
const ACCEPT_TEXT: &str = "text/plain;version=0.0.4";
/// What a chain of causes may take in a record; it is for a person.
const DETAIL_CHARS_MAX: usize = 300;

/// Why no page came. The variant is the reason in `up = 0` records and in `agent_scrapes_total`.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no whole answer within {0} ms")]
    Timeout(u128),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Dns(String),
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Connect(String),
    #[error("{0}")]
    Broken(String),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("content-encoding {0:?} was not asked for")]
    Encoding(String),
    #[error("body is larger than {0} bytes")]
    BodyTooLarge(usize),
    #[error("gzip body: {0}")]
    Gzip(io::Error),
    #[error("no sample on the page, {0} lines refused")]
    NotExposition(u64),
}

impl Failure {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Failure::Timeout(_) => "timeout",
            Failure::Refused(_) => "refused",
            Failure::Dns(_) => "dns",
            Failure::Tls(_) => "tls",
            Failure::Connect(_) => "connect",
            Failure::Broken(_) => "broken",
            Failure::Status(_) => "status",
            Failure::Encoding(_) => "encoding",
            Failure::BodyTooLarge(_) => "body_too_large",
            Failure::Gzip(_) => "gzip",
            Failure::NotExposition(_) => "not_exposition",
        }
    }
}

/// The client of one target.
#[derive(Debug)]
pub(super) struct Fetcher {
    client: Client,
    url: Url,
    accept_encoding: &'static str,
    files: TlsFiles,
    fingerprint: Fingerprint,
    /// The last rotation could not be used; said once.
    reload_failed: bool,
    body_bytes_max: usize,
}

impl Fetcher {
    pub(super) fn new(
        url: Url,
        files: &TlsFiles,
        encoding: Encoding,
        body_bytes_max: usize,
    ) -> Result<Fetcher, StartError> {
        let accept_encoding = match encoding {
            Encoding::Auto if is_loopback(&url) => "identity",
            Encoding::Identity => "identity",
            Encoding::Auto | Encoding::Gzip => "gzip",
        };
        let files = files.clone();
        // Taken before reading: a rotation in between is seen at the next scrape.
        let fingerprint = files.fingerprint();
        let client = client(&url, &files)?;
        Ok(Fetcher { client, url, accept_encoding, files, fingerprint, reload_failed: false, body_bytes_max })
    }

    /// Renews the client when a certificate file has changed; keeps the old one while the new files do not fit together.
    pub(super) fn refresh(&mut self, ledger: &Ledger) {
        let fingerprint = self.files.fingerprint();
        if self.url.scheme() != "https" || fingerprint == self.fingerprint {
            return;
        }
        match client(&self.url, &self.files) {
            Ok(client) => {
                self.client = client;
                self.fingerprint = fingerprint;
                self.reload_failed = false;
                ledger.add("agent_tls_reloads_total", "ok", 1);
                tracing::info!(target_url = %self.url, "certificates rotated");
            }
            Err(error) => {
                ledger.add("agent_tls_reloads_total", "failed", 1);
                if !self.reload_failed {
                    tracing::warn!(%error, target_url = %self.url, "rotated certificates cannot be used yet");
                }
                self.reload_failed = true;
            }
        }
    }

    /// Gets one page into `body`, which is emptied first.
    pub(super) async fn get(&self, body: &mut Vec<u8>) -> Result<(), Failure> {
        body.clear();
        let request = self
            .client
            .get(self.url.clone())
            .header(ACCEPT, HeaderValue::from_static(ACCEPT_TEXT))
            .header(ACCEPT_ENCODING, HeaderValue::from_static(self.accept_encoding));
        let response = request.send().await.map_err(classify)?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Status(response.status()));
        }
        let too_large = |length| length > u64::try_from(self.body_bytes_max).unwrap_or(u64::MAX);
        if response.content_length().is_some_and(too_large) {
            return Err(Failure::BodyTooLarge(self.body_bytes_max));
        }
        match response.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => self.plain(response, body).await,
            Some(b"gzip" | b"x-gzip") => self.inflated(response, body).await,
            Some(other) => Err(Failure::Encoding(String::from_utf8_lossy(other).chars().take(40).collect())),
        }
    }

    async fn plain(&self, mut response: Response, body: &mut Vec<u8>) -> Result<(), Failure> {
        let mut capped = Capped { body, max: self.body_bytes_max };
        while let Some(chunk) = response.chunk().await.map_err(classify)? {
            capped.write_all(&chunk).map_err(|_| Failure::BodyTooLarge(self.body_bytes_max))?;
        }
        Ok(())
    }

    /// Inflates chunk by chunk: a bomb is refused when it passes the cap, and its rest is never read.
    async fn inflated(&self, mut response: Response, body: &mut Vec<u8>) -> Result<(), Failure> {
        let mut decoder = MultiGzDecoder::new(Capped { body, max: self.body_bytes_max });
        let mut compressed = 0_usize;
        while let Some(chunk) = response.chunk().await.map_err(classify)? {
            compressed = compressed.saturating_add(chunk.len());
            if compressed > self.body_bytes_max {
                return Err(Failure::BodyTooLarge(self.body_bytes_max));
            }
            decoder.write_all(&chunk).map_err(|error| self.gzip(error))?;
        }
        decoder.try_finish().map_err(|error| self.gzip(error))
    }

    fn gzip(&self, error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::FileTooLarge {
            Failure::BodyTooLarge(self.body_bytes_max)
        } else {
            Failure::Gzip(error)
        }
    }
}

fn client(url: &Url, files: &TlsFiles) -> Result<Client, StartError> {
    let config = if url.scheme() == "https" { tls::client_config(files) } else { tls::trust_nobody() };
    Client::builder()
        .tls_backend_preconfigured(config.map_err(|error: TlsError| StartError::Tls(error))?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .pool_max_idle_per_host(1)
        .referer(false)
        .user_agent(concat!("backburn/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| StartError::Client(chain(&error)))
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Writes until the cap, then fails with [`io::ErrorKind::FileTooLarge`].
struct Capped<'a> {
    body: &'a mut Vec<u8>,
    max: usize,
}

impl Write for Capped<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.body.len().saturating_add(bytes.len()) > self.max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.body.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn classify(error: reqwest::Error) -> Failure {
    // The URL is in the record already, and may carry a password.
    let error = error.without_url();
    let detail = chain(&error);
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(current) = cause {
        if is_tls(current) {
            return Failure::Tls(detail);
        }
        let io = current.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return Failure::Refused(detail);
        }
        cause = current.source();
    }
    if !error.is_connect() {
        return Failure::Broken(detail);
    }
    if detail.contains("dns error") { Failure::Dns(detail) } else { Failure::Connect(detail) }
}

/// Looks through the I/O errors that TLS errors travel in; `source` leaves out what they hold.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    error.is::<rustls::Error>()
        || error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| is_tls(inner))
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        // Wrappers repeat their cause; writing to a string cannot fail.
        let next = current.to_string();
        if !text.ends_with(&next) {
            let _written = write!(text, ": {next}").is_ok();
        }
        cause = current.source();
    }
    text.chars().take(DETAIL_CHARS_MAX).collect()
}

//! One destination: compress once, send, try again, give up.
//!
//! Owns what is common to both protocols: the compression of a body, the loop of attempts, all of which send the same bytes,
//! and the change to rotated certificates. The connection is made with the first request, and a lost one is made anew by the
//! next attempt. Refuses to queue: one request at a time, so the order of a signal is kept.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use model::ledger::Ledger;
use model::time::Clock;
use reqwest::Url;
use tokio::sync::watch;
use tracing::{info, warn};

use super::StartError;
use super::config::{Compression, Config, Destination, Protocol, Signal};
use super::grpc::GrpcClient;
use super::http::HttpClient;
use super::queue::Outgoing;
use super::reply::Reply;
use super::retry::{Backoff, Quiet};
use super::tls::{Files, Pem};

/// No request of ours is larger before compression.
const PAYLOAD_BYTES_MAX: u64 = 32 << 20;

/// Own back-off once the agent stops: there is little time, and the receiver did not ask for patience.
const DRAIN_DELAY: Duration = Duration::from_millis(250);

/// The fastest: metrics repeat themselves so much that higher levels gain little.
const ZSTD_LEVEL: i32 = 1;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Taken, but for some items.
    Accepted { rejected: u64, message: String },
    /// Never.
    Refused { code: &'static str, message: String },
    /// Not in one piece.
    TooLarge { message: String },
    /// Older than it may get.
    Expired,
}

#[derive(Debug)]
enum Client {
    Grpc(Box<GrpcClient>),
    Http(HttpClient),
}

/// The way of one signal to its receiver: one attempt at a time, with the certificates that are in the files now.
#[derive(Debug)]
pub(crate) struct Link {
    signal: Signal,
    destination: Destination,
    url: Url,
    client: Client,
    files: Files,
    clock: Clock,
    ledger: Ledger,
    quiet: Quiet,
}

impl Link {
    /// The way of a signal; `None` when it goes nowhere.
    pub(crate) fn new(
        config: &Config,
        signal: Signal,
        (clock, ledger): (&Clock, &Ledger),
    ) -> Result<Option<Link>, StartError> {
        let destination = config.destination(signal).clone();
        let endpoint = |message| StartError::Endpoint { signal: signal.name(), message };
        let Some(url) = destination.url(signal).map_err(endpoint)? else { return Ok(None) };
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Losing the race against another part that installs the same provider is fine.
            rustls::crypto::ring::default_provider().install_default().ok();
        }
        // Looked at before reading: a rotation in between is seen by the next attempt.
        let files = Files::new(&destination.tls);
        let client = client(&destination, signal, &url, clock)?;
        let (clock, ledger, quiet) = (clock.clone(), ledger.clone(), Quiet::default());
        Ok(Some(Link { signal, destination, url, client, files, clock, ledger, quiet }))
    }

    /// Sends a finished body once.
    pub(crate) async fn attempt(&mut self, body: Bytes) -> Reply {
        self.refresh();
        match &mut self.client {
            Client::Grpc(client) => client.send(body).await,
            Client::Http(client) => client.send(body).await,
        }
    }

    /// The body as [`Link::attempt`] takes it.
    pub(crate) fn finish(&self, payload: &[u8]) -> std::io::Result<Bytes> {
        finish(self.destination.protocol, self.destination.compression, payload)
    }

    /// The gRPC client; `None` over HTTP.
    pub(crate) fn grpc(&self) -> Option<&GrpcClient> {
        match &self.client {
            Client::Grpc(client) => Some(client),
            Client::Http(_) => None,
        }
    }

    /// A new client when a certificate file has changed, and whether that is so; the old one stays while the new files cannot
    /// be used.
    pub(crate) fn refresh(&mut self) -> bool {
        let now_ns = self.clock.now().mono_ns;
        if self.url.scheme() != "https" || !self.files.is_changed(now_ns) {
            return false;
        }
        let signal = self.signal.name();
        match client(&self.destination, self.signal, &self.url, &self.clock) {
            Ok(client) => {
                self.client = client;
                self.files.used();
                self.ledger.add("agent_tls_reloads_total", "ok", 1);
                info!(signal, "otlp certificates rotated");
                true
            }
            Err(error) => {
                self.files.refused(now_ns);
                self.ledger.add("agent_tls_reloads_total", "failed", 1);
                if self.quiet.speak(now_ns) {
                    warn!(%error, signal, "rotated otlp certificates cannot be used, the old ones stay");
                }
                false
            }
        }
    }
}

fn client(destination: &Destination, signal: Signal, url: &Url, clock: &Clock) -> Result<Client, StartError> {
    let pem = Pem::read(&destination.tls)?;
    Ok(match destination.protocol {
        Protocol::Grpc => Client::Grpc(Box::new(GrpcClient::new(destination, signal, url, pem)?)),
        Protocol::HttpProtobuf => {
            Client::Http(HttpClient::new(destination, signal, url.clone(), pem, clock.clone())?)
        }
    })
}

/// Sends the requests of one signal.
#[derive(Debug)]
pub(crate) struct Sender {
    link: Link,
    backoff: Backoff,
    age_max: Duration,
    draining: watch::Receiver<bool>,
    quiet: Quiet,
    /// An outage was logged, so its end will be.
    told: bool,
}

impl Sender {
    /// The sender of a signal; `None` when the signal goes nowhere.
    pub(crate) fn new(
        config: &Config,
        signal: Signal,
        tools: (&Clock, &Ledger),
        draining: &watch::Receiver<bool>,
    ) -> Result<Option<Sender>, StartError> {
        let Some(link) = Link::new(config, signal, tools)? else { return Ok(None) };
        let number = Signal::ALL.iter().position(|known| *known == signal).unwrap_or_default();
        let seed = config.seed.wrapping_add(super::wire::wide(number));
        Ok(Some(Sender {
            link,
            backoff: Backoff::new(config.retry_initial, config.retry_max, seed),
            age_max: config.age_max,
            draining: draining.clone(),
            quiet: Quiet::default(),
            told: false,
        }))
    }

    /// Sends one request until it is taken, refused or too old.
    pub(crate) async fn deliver(mut self, request: Outgoing) -> (Sender, Delivery) {
        let mut attempt = 0_u32;
        let signal = self.link.signal.name();
        loop {
            let (code, after, message) = match self.link.attempt(request.body.clone()).await {
                Reply::Accepted { rejected, message } => {
                    if std::mem::take(&mut self.told) {
                        info!(signal, attempts = attempt, "otlp receiver takes data again");
                    }
                    return (self, Delivery::Accepted { rejected, message });
                }
                Reply::Refused { code, message } => return (self, Delivery::Refused { code, message }),
                Reply::TooLarge { message } => return (self, Delivery::TooLarge { message }),
                Reply::Later { code, after, message } => (code, after, message),
            };
            attempt = attempt.saturating_add(1);
            self.link.ledger.add("agent_otlp_retries_total", code, 1);
            let now = self.link.clock.now();
            if attempt == 1 && self.quiet.speak(now.mono_ns) {
                self.told = true;
                warn!(signal, code, message, "otlp receiver does not take data, trying again");
            }
            let age = Duration::from_nanos(now.since_ns(request.queued_at));
            if age >= self.age_max {
                return (self, Delivery::Expired);
            }
            self.wait(attempt, after).await;
        }
    }

    async fn wait(&mut self, attempt: u32, after: Option<Duration>) {
        let own = self.backoff.delay(attempt);
        match after.filter(|after| !after.is_zero()) {
            Some(after) => tokio::time::sleep(self.backoff.asked(after)).await,
            None if *self.draining.borrow() => tokio::time::sleep(own.min(DRAIN_DELAY)).await,
            None => {
                tokio::select! {
                    () = tokio::time::sleep(own) => {}
                    // The agent stops: one more attempt at once.
                    _ = self.draining.wait_for(|draining| *draining) => {}
                }
            }
        }
    }
}

/// The body as it will be sent by each attempt: compressed, and framed for gRPC.
pub(crate) fn finish(protocol: Protocol, compression: Compression, payload: &[u8]) -> std::io::Result<Bytes> {
    let body = compress(compression, payload)?;
    Ok(match protocol {
        Protocol::Grpc => GrpcClient::frame(compression, &body),
        Protocol::HttpProtobuf => Bytes::from(body),
    })
}

fn compress(compression: Compression, payload: &[u8]) -> std::io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(payload.to_vec()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(
                Vec::with_capacity(payload.len() / 8),
                flate2::Compression::fast(),
            );
            encoder.write_all(payload)?;
            encoder.finish()
        }
        Compression::Zstd => zstd::bulk::compress(payload, ZSTD_LEVEL),
    }
}

/// The payload of a finished body again; `None` for bytes that [`finish`] did not make.
pub(crate) fn plain(protocol: Protocol, compression: Compression, body: &[u8]) -> Option<Vec<u8>> {
    let body = match protocol {
        Protocol::Grpc => GrpcClient::unframe(body)?,
        Protocol::HttpProtobuf => body,
    };
    let mut payload = Vec::new();
    match compression {
        Compression::None => payload.extend_from_slice(body),
        Compression::Gzip => {
            let inflate = flate2::read::GzDecoder::new(body);
            inflate.take(PAYLOAD_BYTES_MAX).read_to_end(&mut payload).ok()?;
        }
        Compression::Zstd => {
            let inflate = zstd::stream::read::Decoder::new(body).ok()?;
            inflate.take(PAYLOAD_BYTES_MAX).read_to_end(&mut payload).ok()?;
        }
    }
    Some(payload)
}

//! One destination: compress once, send, try again, give up.
//!
//! Owns what is common to both protocols: which TLS files to read, the compression of a body, and the loop of attempts, all
//! of which send the same bytes. The connection is made with the first request, and a lost one is made anew by the next
//! attempt. Refuses to queue: one request at a time, so the order of a signal is kept.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use model::ledger::Ledger;
use model::time::Clock;
use tokio::sync::watch;
use tracing::{info, warn};

use super::StartError;
use super::config::{Compression, Config, Protocol, Signal, Tls};
use super::grpc::GrpcClient;
use super::http::HttpClient;
use super::queue::Request;
use super::reply::Reply;
use super::retry::{Backoff, Quiet};

/// A PEM file that is larger is not one.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Own back-off once the agent stops: there is little time, and the receiver did not ask for patience.
const DRAIN_DELAY: Duration = Duration::from_millis(250);

/// The fastest: metrics repeat themselves so much that higher levels gain little.
const ZSTD_LEVEL: i32 = 1;

#[derive(Debug)]
enum Client {
    Grpc(Box<GrpcClient>),
    Http(HttpClient),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Taken, but for some items.
    Accepted { rejected: u64, message: String },
    /// Never.
    Refused { code: &'static str, message: String },
    /// Older than it may get.
    Expired,
}

/// PEM bytes of a destination.
#[derive(Default)]
pub(crate) struct Pem {
    pub(crate) ca: Option<Vec<u8>>,
    /// Certificate and key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Sends the requests of one signal.
#[derive(Debug)]
pub(crate) struct Sender {
    signal: Signal,
    client: Client,
    backoff: Backoff,
    age_max: Duration,
    clock: Clock,
    ledger: Ledger,
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
        (clock, ledger): (&Clock, &Ledger),
        draining: &watch::Receiver<bool>,
    ) -> Result<Option<Sender>, StartError> {
        let destination = config.destination(signal);
        let endpoint = |message| StartError::Endpoint { signal: signal.name(), message };
        let Some(url) = destination.url(signal).map_err(endpoint)? else { return Ok(None) };
        let pem = read_pem(&destination.tls)?;
        let client = match destination.protocol {
            Protocol::Grpc => Client::Grpc(Box::new(GrpcClient::new(destination, signal, &url, pem)?)),
            Protocol::HttpProtobuf => {
                Client::Http(HttpClient::new(destination, signal, url, pem, clock.clone())?)
            }
        };
        let number = Signal::ALL.iter().position(|known| *known == signal).unwrap_or_default();
        let seed = config.seed.wrapping_add(super::wire::wide(number));
        Ok(Some(Sender {
            signal,
            client,
            backoff: Backoff::new(config.retry_initial, config.retry_max, seed),
            age_max: config.age_max,
            clock: clock.clone(),
            ledger: ledger.clone(),
            draining: draining.clone(),
            quiet: Quiet::default(),
            told: false,
        }))
    }

    /// Sends one request until it is taken, refused or too old.
    pub(crate) async fn deliver(mut self, request: Request) -> (Sender, Delivery) {
        let mut attempt = 0_u32;
        loop {
            let reply = match &mut self.client {
                Client::Grpc(client) => client.send(request.body.clone()).await,
                Client::Http(client) => client.send(request.body.clone()).await,
            };
            let (code, after, message) = match reply {
                Reply::Accepted { rejected, message } => {
                    if std::mem::take(&mut self.told) {
                        info!(
                            signal = self.signal.name(),
                            attempts = attempt,
                            "otlp receiver takes data again"
                        );
                    }
                    return (self, Delivery::Accepted { rejected, message });
                }
                Reply::Refused { code, message } => return (self, Delivery::Refused { code, message }),
                Reply::Later { code, after, message } => (code, after, message),
            };
            attempt = attempt.saturating_add(1);
            self.ledger.add("agent_otlp_retries_total", code, 1);
            if attempt == 1 && self.quiet.speak(self.clock.now().mono_ns) {
                self.told = true;
                warn!(
                    signal = self.signal.name(),
                    code, message, "otlp receiver does not take data, trying again"
                );
            }
            let age = Duration::from_nanos(self.clock.now().since_ns(request.queued_at));
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

fn read_pem(tls: &Tls) -> Result<Pem, StartError> {
    let ca = tls.ca.as_deref().map(read_file).transpose()?;
    let identity = match (&tls.client_certificate, &tls.client_key) {
        (Some(certificate), Some(key)) => Some((read_file(certificate)?, read_file(key)?)),
        (None, None) => None,
        _ => return Err(StartError::HalfIdentity),
    };
    Ok(Pem { ca, identity })
}

fn read_file(path: &Path) -> Result<Vec<u8>, StartError> {
    use std::io::Read;
    let failed = |error| StartError::File { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(PEM_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

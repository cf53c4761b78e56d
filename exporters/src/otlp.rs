//! OTLP: encode, queue, send. The queue holds finished requests, bounded in bytes.
//!
//! [`Exporter::run`] is one future: it encodes what arrives, and for each signal has at most one request on its way, so the
//! order of a signal is kept and nothing is spawned. Memory is the queue, one request in the making a signal, and the
//! prepared shapes of the scraped targets. The receipt of a log line is resolved when its request has ended. Nothing leaves
//! without an endpoint. Refuses OTLP/JSON, delta temporality and an SDK's meters: what is shipped is what was observed. The
//! agent's own spans and logs are encoded elsewhere and sent by [`Direct`] or over [`Dial`].

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use model::finding::Finding;
use model::ledger::Ledger;
use model::record::Record;
use model::time::Clock;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use self::client::{Delivery, Sender};
use self::encode::Encoder;
#[cfg(fuzzing)]
use self::pack::Payload;
use self::queue::Queue;
use self::retry::Quiet;

pub use self::config::{Compression, Config, Destination, Endpoint, Headers, Protocol, Signal, Tls};
pub use self::dial::Dial;
pub use self::direct::{Direct, Sent};
pub use self::env::{Problem, Variables};

mod client;
mod config;
mod dial;
mod direct;
mod edges;
mod encode;
mod ends;
mod env;
mod facts;
mod grpc;
mod http;
mod logs;
mod metrics;
mod pack;
mod probes;
mod profiles;
mod queue;
mod reply;
mod resource;
mod retry;
mod split;
mod tls;
mod traces;
mod wire;

/// What the engine hands out.
#[derive(Clone, Debug)]
pub enum Item {
    /// A batch of facts.
    Record(Arc<Record>),
    /// A conclusion.
    Finding(Arc<Finding>),
}

/// Why the exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The URL is none.
    #[error("otlp endpoint of {signal}: {message}")]
    Endpoint {
        /// Whose.
        signal: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A header that HTTP does not allow.
    #[error("otlp headers of {signal}: a name or value cannot stand in a header")]
    Header {
        /// Whose.
        signal: &'static str,
    },
    /// A certificate or key cannot be read.
    #[error("read {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file that holds something else than it should.
    #[error("{}: {message}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A certificate without a key, or the other way round.
    #[error("otlp client certificate and client key belong together: one is missing")]
    HalfIdentity,
    /// TLS or HTTP refuse the configuration.
    #[error("otlp client of {signal}: {message}")]
    Client {
        /// Whose.
        signal: &'static str,
        /// What they say.
        message: String,
    },
}

/// A sender at rest or on its way.
enum State {
    Idle(Box<Sender>),
    Busy(Pin<Box<dyn Future<Output = (Sender, Delivery)> + Send>>),
    /// The signal goes nowhere, or the sender is between two states.
    Closed,
}

/// One signal: how its requests are finished, and who sends them.
struct Lane {
    signal: Signal,
    protocol: Protocol,
    compression: Compression,
    state: State,
    quiet: Quiet,
}

/// Encodes, queues and sends what the engine hands out.
pub struct Exporter {
    clock: Clock,
    ledger: Ledger,
    flush_interval: Duration,
    encoder: Encoder,
    queue: Queue,
    lanes: Vec<Lane>,
    draining: watch::Sender<bool>,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("queue_bytes", &self.queue.bytes()).finish_non_exhaustive()
    }
}

impl Exporter {
    /// Reads certificates and prepares connections; nothing is sent before [`Exporter::run`].
    ///
    /// # Errors
    /// [`StartError`]: an endpoint, header or file that cannot work.
    pub fn new(config: &Config, clock: Clock, ledger: Ledger) -> Result<Exporter, StartError> {
        let (draining, drain_seen) = watch::channel(false);
        let mut lanes = Vec::with_capacity(Signal::ALL.len());
        for signal in Signal::ALL {
            let sender = Sender::new(config, signal, (&clock, &ledger), &drain_seen)?;
            let destination = config.destination(signal);
            lanes.push(Lane {
                signal,
                protocol: destination.protocol,
                compression: destination.compression,
                state: sender.map_or(State::Closed, |sender| State::Idle(Box::new(sender))),
                quiet: Quiet::default(),
            });
        }
        Ok(Exporter {
            encoder: Encoder::new(config, &ledger),
            queue: Queue::new(config.queue_bytes_max),
            flush_interval: config.flush_interval.max(Duration::from_millis(10)),
            clock,
            ledger,
            lanes,
            draining,
        })
    }

    /// Runs until `items` is closed and all is sent, or `drain` has passed since the closing. What is left then is counted
    /// as `shutdown`. Needs a runtime with time and net; cancel by closing the channel.
    pub async fn run(mut self, mut items: mpsc::Receiver<Item>, drain: Duration) {
        let mut flush = tokio::time::interval_at(Instant::now() + self.flush_interval, self.flush_interval);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline: Option<Instant> = None;
        loop {
            self.start_idle();
            if deadline.is_some() && self.queue.is_empty() {
                break;
            }
            tokio::select! {
                item = items.recv(), if deadline.is_none() => {
                    match item {
                        Some(item) => self.take(&item),
                        None => deadline = Some(self.begin_drain(drain)),
                    }
                }
                _ = flush.tick(), if deadline.is_none() => self.flush(),
                (place, sender, delivery) = any_done(&mut self.lanes) => self.settle(place, sender, delivery),
                () = until(deadline) => break,
            }
        }
        self.stop();
    }

    fn take(&mut self, item: &Item) {
        let payloads = self.encoder.item(item);
        self.enqueue(payloads);
    }

    fn flush(&mut self) {
        let payloads = self.encoder.flush(self.clock.now());
        self.enqueue(payloads);
    }

    fn begin_drain(&mut self, drain: Duration) -> Instant {
        self.flush();
        self.draining.send_replace(true);
        Instant::now() + drain
    }

    fn start_idle(&mut self) {
        for lane in &mut self.lanes {
            if !matches!(lane.state, State::Idle(_)) {
                continue;
            }
            let Some(request) = self.queue.next(lane.signal) else { continue };
            if let State::Idle(sender) = std::mem::replace(&mut lane.state, State::Closed) {
                lane.state = State::Busy(Box::pin(sender.deliver(request)));
            }
        }
    }
}

/// Encodes items as [`Exporter::run`] does, without queue and network: uncompressed requests by signal.
#[cfg(fuzzing)]
#[must_use]
pub fn encode(config: &Config, items: &[Item], now: model::time::Stamp) -> Vec<(Signal, Vec<u8>)> {
    let mut encoder = Encoder::new(config, &Ledger::default());
    let mut payloads: Vec<Payload> = items.iter().flat_map(|item| encoder.item(item)).collect();
    payloads.extend(encoder.flush(now));
    payloads.into_iter().map(|payload| (payload.signal, payload.bytes)).collect()
}

/// Reads a receiver's reply as both protocols do; the wait that `Retry-After` asks for.
#[cfg(fuzzing)]
pub fn read_reply(headers: &reqwest::header::HeaderMap, body: &[u8]) -> Option<Duration> {
    let encoding = headers.get("grpc-encoding").map(reqwest::header::HeaderValue::as_bytes);
    let message = reply::grpc_message(body, encoding);
    let status = reply::grpc_status(headers, message.as_deref());
    drop((reply::accepted(body), reply::rpc_status(body), status));
    retry::retry_after(headers.get("retry-after")?.to_str().ok()?, 1_700_000_000_000_000_000)
}

/// The first sender that has ended its request; waits for ever while none is on its way.
async fn any_done(lanes: &mut [Lane]) -> (usize, Sender, Delivery) {
    std::future::poll_fn(|cx| {
        for (place, lane) in lanes.iter_mut().enumerate() {
            if let State::Busy(future) = &mut lane.state
                && let Poll::Ready((sender, delivery)) = future.as_mut().poll(cx)
            {
                lane.state = State::Closed;
                return Poll::Ready((place, sender, delivery));
            }
        }
        Poll::Pending
    })
    .await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

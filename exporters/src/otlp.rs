//! OTLP: encode, queue, send. The queue holds finished requests, bounded in bytes.
//!
//! [`Exporter::run`] is one future: it encodes what arrives, and for each signal has at most one request on its way, so the
//! order of a signal is kept and nothing is spawned. Memory is the queue, one request in the making a signal, and the
//! prepared shapes of the scraped targets. Nothing leaves without an endpoint. Refuses OTLP/JSON, delta temporality and an
//! SDK's meters: what is shipped is what was observed. The agent's own spans and logs go another way.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use model::finding::Finding;
use model::ledger::Ledger;
use model::log::Receipt;
use model::record::Record;
use model::time::Clock;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use self::client::{Delivery, Sender};
use self::encode::Encoder;
use self::pack::Payload;
use self::queue::{Queue, Request};
use self::retry::Quiet;

pub use self::config::{Compression, Config, Destination, Endpoint, Headers, Protocol, Signal, Tls};
pub use self::env::{Problem, Variables};

mod client;
mod config;
mod edges;
mod encode;
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
    /// Items of the request on its way.
    items: u64,
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
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Losing the race against another part that installs the same provider is fine.
            rustls::crypto::ring::default_provider().install_default().ok();
        }
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
                items: 0,
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

    /// Compresses payloads into the queue and settles the receipts of their lines.
    fn enqueue(&mut self, payloads: Vec<Payload>) {
        for payload in payloads {
            if payload.bytes.is_empty() || self.append(&payload) {
                payload.receipts.iter().for_each(Receipt::take);
            } else {
                payload.receipts.iter().chain(&payload.partial).for_each(Receipt::lose);
            }
        }
        self.tell_size();
    }

    fn append(&mut self, payload: &Payload) -> bool {
        let Some(lane) = self.lanes.iter().find(|lane| lane.signal == payload.signal) else { return false };
        let body = match client::finish(lane.protocol, lane.compression, &payload.bytes) {
            Ok(body) => body,
            Err(error) => {
                warn!(%error, signal = payload.signal.name(), "otlp request cannot be compressed");
                count_dropped(&self.ledger, payload.signal, "compress", payload.items);
                return false;
            }
        };
        let (signal, items) = (payload.signal, payload.items);
        let outcome = self.queue.append(Request { signal, body, items, queued_at: self.clock.now() });
        let taken = outcome.is_ok();
        for dropped in outcome.unwrap_or_else(|refused| vec![refused]) {
            count_dropped(&self.ledger, dropped.signal, "queue_full", dropped.items);
        }
        taken
    }

    fn start_idle(&mut self) {
        for lane in &mut self.lanes {
            if !matches!(lane.state, State::Idle(_)) {
                continue;
            }
            let Some(request) = self.queue.next(lane.signal) else { continue };
            lane.items = request.items;
            if let State::Idle(sender) = std::mem::replace(&mut lane.state, State::Closed) {
                lane.state = State::Busy(Box::pin(sender.deliver(request)));
            }
        }
    }

    fn settle(&mut self, place: usize, sender: Sender, delivery: Delivery) {
        let now_ns = self.clock.now().mono_ns;
        let Some(lane) = self.lanes.get_mut(place) else { return };
        lane.state = State::Idle(Box::new(sender));
        self.queue.done(lane.signal);
        let (signal, items) = (lane.signal, lane.items);
        match delivery {
            Delivery::Accepted { rejected, message } => {
                let rejected = rejected.min(items);
                self.ledger.add("agent_otlp_sent_items_total", signal.name(), items - rejected);
                count_dropped(&self.ledger, signal, "rejected", rejected);
                debug!(signal = signal.name(), items, rejected, "otlp request sent");
                if !message.is_empty() && lane.quiet.speak(now_ns) {
                    warn!(signal = signal.name(), rejected, message, "otlp receiver has remarks");
                }
            }
            Delivery::Refused { code, message } => {
                count_dropped(&self.ledger, signal, "rejected", items);
                if lane.quiet.speak(now_ns) {
                    warn!(
                        signal = signal.name(),
                        code, message, items, "otlp receiver refuses data, dropped"
                    );
                }
            }
            Delivery::Expired => {
                count_dropped(&self.ledger, signal, "expired", items);
                if lane.quiet.speak(now_ns) {
                    warn!(
                        signal = signal.name(),
                        items, "otlp request could not be delivered in time, dropped"
                    );
                }
            }
        }
        self.tell_size();
    }

    fn tell_size(&self) {
        self.ledger.set("agent_otlp_queue_bytes", "", wire::wide(self.queue.bytes()));
    }

    fn stop(self) {
        for request in self.queue.into_rest() {
            count_dropped(&self.ledger, request.signal, "shutdown", request.items);
        }
        self.ledger.set("agent_otlp_queue_bytes", "", 0);
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
    drop((reply::accepted(body), reply::rpc_status(body), reply::grpc_status(headers, body)));
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

/// One loss, by reason and by signal.
fn count_dropped(ledger: &Ledger, signal: Signal, reason: &'static str, items: u64) {
    ledger.add("agent_otlp_dropped_items_total", reason, items);
    ledger.add("agent_otlp_dropped_items_by_signal_total", signal.name(), items);
}

#[cfg(test)]
mod tests;

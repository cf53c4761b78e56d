//! An OTLP receiver: gRPC and HTTP/protobuf, all four signals, gzip and zstd, and the faults of real backends.
//!
//! Owns what arrived and what is answered. It decodes with the same generated types as the world does and judges
//! nothing: what should have arrived is the test's affair.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use rustls::ServerConfig;
use tonic::Code;

use crate::{
    certs::{Certs, ClientAuth},
    listen::{Handler, Listener, Script},
    process::wait_until,
};

mod answer;
pub mod flat;
pub mod received;

// A story imports from one place.
pub use received::{Counts, Payload, Protocol, Received};

/// How the sink answers an export.
#[derive(Clone, Debug, Default)]
pub enum Reply {
    /// Takes it.
    #[default]
    Accept,
    /// Takes it but for `rejected` items.
    Partial {
        /// Spans, points, records or profiles.
        rejected: i64,
        /// Why.
        message: String,
    },
    /// Is overloaded: `UNAVAILABLE` with `RetryInfo`, 503 with `Retry-After` (whole seconds, rounded up).
    Unavailable {
        /// What the client is asked to wait; nothing is said where `None`.
        retry_after: Option<Duration>,
    },
    /// Refuses it.
    Refuse {
        /// Over gRPC.
        grpc: Code,
        /// Over HTTP.
        http: u16,
    },
    /// Takes it after a while. A client that has gone by then has delivered nothing.
    Slow(Duration),
    /// Reads the request and never answers.
    Hang,
    /// Answers 200 with bytes that are no protobuf.
    Garbage,
    /// Answers 200 with a body that never ends, as fast as it is read.
    Endless,
}

/// A running receiver; ends with its connections when dropped.
#[derive(Debug)]
pub struct Sink {
    shared: Arc<Shared>,
    addresses: [SocketAddr; 2],
    tls: Option<Arc<ServerConfig>>,
    listeners: Option<[Listener; 2]>,
}

#[derive(Debug)]
struct Shared {
    script: Script<Reply>,
    arrived: Mutex<received::Arrived>,
    /// Largest request after decompression.
    decoded_bytes_max: AtomicUsize,
}

impl Sink {
    /// Listens on two free loopback ports.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use harness::sink::{Reply, Sink};
    /// let sink = Sink::start()?;
    /// sink.queue([Reply::Unavailable { retry_after: Some(Duration::from_secs(1)) }]);
    /// println!("OTEL_EXPORTER_OTLP_ENDPOINT={}", sink.grpc_endpoint());
    /// sink.wait_for("metrics", Duration::from_secs(20), |total| total.metric_points > 0)?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn start() -> Result<Sink> {
        Sink::with(None)
    }

    /// The same over TLS with the server certificate of `certs`.
    pub fn start_with_tls(certs: &Certs, auth: ClientAuth) -> Result<Sink> {
        Sink::with(Some(certs.server_config(auth)?))
    }

    fn with(tls: Option<Arc<ServerConfig>>) -> Result<Sink> {
        let shared = Arc::new(Shared {
            script: Script::new(Reply::Accept),
            arrived: Mutex::default(),
            decoded_bytes_max: AtomicUsize::new(answer::DECODED_BYTES_MAX),
        });
        let start = || Listener::start(0, tls.clone(), handler(&shared));
        let listeners = [start()?, start()?];
        let addresses = listeners.each_ref().map(Listener::address);
        Ok(Sink { shared, addresses, tls, listeners: Some(listeners) })
    }

    /// For `OTEL_EXPORTER_OTLP_PROTOCOL=grpc`.
    pub fn grpc_endpoint(&self) -> String {
        let [grpc, _] = self.addresses;
        format!("{}://{grpc}", self.scheme())
    }

    /// For `http/protobuf`: the base, to which clients add `/v1/metrics` and so on.
    pub fn http_endpoint(&self) -> String {
        let [_, http] = self.addresses;
        format!("{}://{http}", self.scheme())
    }

    /// Address of [`Sink::http_endpoint`].
    pub fn http_address(&self) -> SocketAddr {
        let [_, http] = self.addresses;
        http
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// What is answered from now on, once the queue is empty.
    pub fn respond(&self, reply: Reply) {
        self.shared.script.stand(reply);
    }

    /// Answers for the next exports, one each.
    pub fn queue(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.script.queue(replies);
    }

    /// Takes requests of at most so many bytes from now on, decompressed ones too: over gRPC by the server's own limit, over
    /// HTTP with a 413.
    pub fn limit(&self, bytes: usize) {
        self.shared.decoded_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Closes the ports with all connections: clients are refused until [`Sink::up`].
    pub fn down(&mut self) {
        self.listeners = None;
    }

    /// Listens again on the same ports.
    pub fn up(&mut self) -> Result<()> {
        if self.listeners.is_none() {
            let start = |address: SocketAddr| {
                Listener::start(address.port(), self.tls.clone(), handler(&self.shared))
            };
            let [grpc, http] = self.addresses.map(start);
            self.listeners = Some([grpc?, http?]);
        }
        Ok(())
    }

    /// What was taken, oldest first; the oldest are forgotten beyond [`received::KEPT_BYTES_MAX`].
    pub fn received(&self) -> Vec<Arc<Received>> {
        self.shared.arrived().kept()
    }

    /// Everything that was taken.
    pub fn total(&self) -> Counts {
        self.counts(|_| true)
    }

    /// What was taken from services that `wanted` names by their `service.name` (empty where none was sent).
    pub fn counts(&self, wanted: impl Fn(&str) -> bool) -> Counts {
        self.shared.arrived().counts(wanted)
    }

    /// Exports that were not taken: refused, unreadable, or answered with a fault.
    pub fn refused(&self) -> u64 {
        self.shared.arrived().refused
    }

    /// Waits until the totals satisfy `enough`.
    pub fn wait_for(&self, what: &str, limit: Duration, enough: impl Fn(Counts) -> bool) -> Result<Counts> {
        wait_until(&format!("{what} at the sink"), limit, || {
            let total = self.total();
            Ok(enough(total).then_some(total))
        })
    }
}

impl Shared {
    fn arrived(&self) -> std::sync::MutexGuard<'_, received::Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, received: Received) {
        self.arrived().add(received);
    }

    fn decoded_bytes_max(&self) -> usize {
        self.decoded_bytes_max.load(Ordering::Relaxed)
    }

    fn refuse(&self) {
        self.arrived().refused += 1;
    }
}

fn handler(shared: &Arc<Shared>) -> Handler {
    let shared = Arc::clone(shared);
    Arc::new(move |request| Box::pin(answer::answer(Arc::clone(&shared), request)))
}

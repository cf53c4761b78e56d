//! A signal's destination for who speaks gRPC by itself: a channel that follows the certificates, and the headers.
//!
//! Owns nothing but the way, as [`super::Direct`] does. The channel balances over one endpoint, which is replaced under its
//! key: a client that cannot be given another channel gets a new connection all the same.

use std::time::Duration;

use model::ledger::Ledger;
use model::time::Clock;
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::StartError;
use super::client::Link;
use super::config::{Compression, Config, Protocol, Signal};

/// Endpoints that wait for the channel to look, which it does at each call: two, of a failed call and of new certificates.
const CHANGES_MAX: usize = 8;

/// The way of one signal over gRPC.
#[derive(Debug)]
pub struct Dial {
    link: Link,
    channel: Channel,
    endpoints: mpsc::Sender<Change<(), Endpoint>>,
    timeout: Duration,
    compression: Compression,
}

impl Dial {
    /// Reads certificates and prepares the connection, on the runtime it is called within. `None` when the signal goes
    /// nowhere, by HTTP, or uncompressed: opentelemetry-otlp cannot be told not to compress, it would ask the environment.
    ///
    /// # Errors
    /// [`StartError`]: an endpoint, header or file that cannot work.
    pub fn new(
        config: &Config,
        signal: Signal,
        clock: &Clock,
        ledger: &Ledger,
    ) -> Result<Option<Dial>, StartError> {
        let destination = config.destination(signal);
        let (timeout, compression) = (destination.timeout, destination.compression);
        if destination.protocol != Protocol::Grpc || compression == Compression::None {
            return Ok(None);
        }
        let Some(link) = Link::new(config, signal, (clock, ledger))? else { return Ok(None) };
        let (channel, endpoints) = Channel::balance_channel(CHANGES_MAX);
        let dial = Dial { link, channel, endpoints, timeout, compression };
        dial.renew();
        Ok(Some(dial))
    }

    /// For the client.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Of the body; never [`Compression::None`].
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Of one export, connection included.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Puts our headers in place of whatever the client has gathered by itself.
    pub fn interceptor(&self) -> impl Interceptor + Clone + Send + Sync + 'static {
        let headers = self.link.grpc().map(|client| client.headers().clone()).unwrap_or_default();
        let headers = MetadataMap::from_headers(headers);
        move |mut request: Request<()>| -> Result<Request<()>, Status> {
            request.metadata_mut().clone_from(&headers);
            Ok(request)
        }
    }

    /// Before an export: a new connection when a certificate file has changed.
    pub fn refresh(&mut self) {
        if self.link.refresh() {
            self.renew();
        }
    }

    /// After one that failed: a connection that swallowed a request would swallow the next one too.
    pub fn renew(&self) {
        if let Some(client) = self.link.grpc() {
            // Full only if the channel's task has ended with its runtime, and then nothing is sent any more.
            self.endpoints.try_send(Change::Insert((), client.endpoint().clone())).ok();
        }
    }
}

//! A signal's destination for who brings whole requests of its own: the agent's own spans and logs.
//!
//! Owns nothing but the way: endpoint, protocol, headers, compression, TLS and timeout are those of the exporter. Refuses to
//! queue and to try again.

use std::time::Duration;

use model::ledger::Ledger;
use model::time::Clock;

use super::StartError;
use super::client::Link;
use super::config::{Config, Signal};
use super::reply::Reply;

/// The way of one signal.
#[derive(Debug)]
pub struct Direct {
    link: Link,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The receiver has it.
    Taken,
    /// Another attempt may succeed, after this long where the receiver said so.
    Later(Option<Duration>),
    /// It would end the same way again.
    Refused,
}

impl Direct {
    /// Reads certificates and prepares the connection; `None` when the signal goes nowhere.
    ///
    /// # Errors
    /// [`StartError`]: an endpoint, header or file that cannot work.
    pub fn new(
        config: &Config,
        signal: Signal,
        clock: &Clock,
        ledger: &Ledger,
    ) -> Result<Option<Direct>, StartError> {
        Ok(Link::new(config, signal, (clock, ledger))?.map(|link| Direct { link }))
    }

    /// Sends one export request, uncompressed protobuf. Needs a runtime with time and net.
    pub async fn send(&mut self, payload: &[u8]) -> Sent {
        let Ok(body) = self.link.finish(payload) else { return Sent::Refused };
        match self.link.attempt(body).await {
            Reply::Accepted { .. } => Sent::Taken,
            Reply::Later { after, .. } => Sent::Later(after),
            Reply::Refused { .. } | Reply::TooLarge { .. } => Sent::Refused,
        }
    }
}

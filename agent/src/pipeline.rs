//! Sources, engine, sinks: the only place that spawns. One `JoinSet`; a part that ends early is an error.

use std::time::Duration;

use anyhow::{Result, anyhow};
use model::ledger::Ledger;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// What all parts of one run share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// Stops the sources; sinks end when their channels are closed and empty.
    pub(crate) cancel: CancellationToken,
    /// Where losses are written.
    pub(crate) ledger: Ledger,
}

/// A set of named tasks.
#[derive(Debug)]
pub(crate) struct Pipeline {
    shared: Shared,
    sources: JoinSet<&'static str>,
    sinks: JoinSet<&'static str>,
}

impl Pipeline {
    /// Nothing runs yet.
    pub(crate) fn new(shared: Shared) -> Pipeline {
        Pipeline { shared, sources: JoinSet::new(), sinks: JoinSet::new() }
    }

    /// Runs a source: it ends when the token is cancelled, and drops its inbox.
    pub(crate) fn source(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.sources.spawn(async move {
            part.await;
            name
        });
    }

    /// Runs the engine or a sink: it ends when its channel is closed and empty.
    pub(crate) fn sink(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.sinks.spawn(async move {
            part.await;
            name
        });
    }

    /// Waits for `stop` (or for a part that ends early), then stops the sources and drains the sinks within `grace`.
    ///
    /// # Errors
    /// A part ended before it was asked to, or did not end in time: the supervisor should start the agent anew.
    pub(crate) async fn run(mut self, stop: impl Future<Output = Stop>, grace: Duration) -> Result<Stop> {
        let stopped = tokio::select! {
            why = stop => Ok(why),
            Some(ended) = self.sources.join_next() => Err(early(ended)),
            Some(ended) = self.sinks.join_next() => Err(early(ended)),
        };
        match &stopped {
            Ok(why) => info!(?why, "stopping"),
            Err(error) => error!(%error, "draining"),
        }
        self.shared.cancel.cancel();
        let drained = timeout(grace, async {
            while self.sources.join_next().await.is_some() {}
            while self.sinks.join_next().await.is_some() {}
        });
        let late = drained.await.is_err();
        if late {
            self.shared.ledger.add("agent_shutdown_lost_total", "deadline", 1);
        }
        match stopped {
            Ok(_) if late => Err(anyhow!("not drained within {grace:?}")),
            stopped => stopped,
        }
    }
}

/// Why a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// SIGTERM or SIGINT: for good.
    Asked,
    /// SIGHUP or `POST /-/reload`: with the configuration read anew.
    Reload,
    /// Other members run on this node than when the run began.
    Members,
}

fn early(ended: Result<&'static str, JoinError>) -> anyhow::Error {
    match ended {
        Ok(name) => anyhow!("{name} ended by itself"),
        Err(error) => anyhow!("a part failed: {error}"),
    }
}

/// Resolves on SIGTERM, SIGINT or SIGHUP.
pub(crate) async fn signal() -> Stop {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut term), Ok(mut int), Ok(mut hup)] = kinds.map(signal) else {
        error!("signals cannot be received: stopping");
        return Stop::Asked;
    };
    tokio::select! {
        _ = term.recv() => Stop::Asked,
        _ = int.recv() => Stop::Asked,
        _ = hup.recv() => Stop::Reload,
    }
}

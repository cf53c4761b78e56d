//! Sources, engine, sinks: the only place that spawns. One `JoinSet`; a part that ends early is an error.

use std::time::Duration;

use anyhow::{Result, anyhow};
use model::ledger::Ledger;
use tokio::task::JoinSet;
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
    pub(crate) async fn run(
        mut self,
        stop: impl Future<Output = &'static str>,
        grace: Duration,
    ) -> Result<()> {
        let early = tokio::select! {
            why = stop => {
                info!(why, "stopping");
                None
            }
            ended = self.sources.join_next(), if !self.sources.is_empty() => ended,
            ended = self.sinks.join_next(), if !self.sinks.is_empty() => ended,
        };
        let early = early.map(|ended| match ended {
            Ok(name) => anyhow!("{name} ended by itself"),
            Err(error) => anyhow!("a part failed: {error}"),
        });
        if let Some(error) = &early {
            error!(%error, "draining");
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
        match early {
            Some(error) => Err(error),
            None if late => Err(anyhow!("not drained within {grace:?}")),
            None => Ok(()),
        }
    }
}

/// Resolves on SIGTERM or SIGINT.
pub(crate) async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (term, int) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut term), Ok(mut int)) = (term, int) else { return "signals cannot be received" };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

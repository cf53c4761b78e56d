//! `agent run` and `agent record FILE`: load, check, start the log, run.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use exporters::otlp::Signal;
use model::ledger::Ledger;
use profile::continuous::Processes;
use tracing::error;

use super::{Ended, Exit, Failure, Source, runtime, tell};
use crate::config::{Config, Loaded};
use crate::pipeline::Stop;
use crate::telemetry;

/// Arguments of `agent record`.
#[derive(Debug, Args)]
pub(super) struct Record {
    #[command(flatten)]
    pub(super) source: Source,
    /// The recording; it must not exist yet.
    pub(super) file: PathBuf,
}

/// Runs until SIGTERM or SIGINT.
pub(super) fn run(source: &Source, recording: Option<&Path>) -> Ended {
    let Loaded { config, problems, warnings, .. } = crate::config::load(source);
    for problem in &problems {
        tell(&problem.to_string());
    }
    if !problems.is_empty() {
        return Err(Failure::new(Exit::Config, anyhow!("{} problems in the configuration", problems.len())));
    }
    let ledger = Ledger::default();
    let own = telemetry::Config {
        level: config.logging.level.clone(),
        json: config.logging.json,
        otlp: config.otlp.clone(),
        node: config.node.clone(),
    };
    let telemetry = telemetry::init(&own, &collectors::clock::system(), &ledger)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    for warning in &warnings {
        tracing::warn!(place = %warning.place, "ignored: {}", warning.text);
    }
    let ended = again_and_again(source, config, recording, &ledger);
    telemetry.shutdown();
    ended
}

/// A reload and a change of members are a new run in the same process: the engine's state is saved and restored between
/// them. A wrong configuration is refused and the old one kept. A recording ends neither way: see [`crate::run::run`].
fn again_and_again(source: &Source, mut config: Config, recording: Option<&Path>, ledger: &Ledger) -> Ended {
    let (runtime, processes) = (runtime()?, Processes::default());
    loop {
        let lasting = (ledger.clone(), processes.clone());
        let stop = runtime.block_on(crate::run::run(config.clone(), recording, lasting))?;
        if stop == Stop::Asked {
            return Ok(Exit::Ok);
        }
        if stop == Stop::Reload {
            let loaded = crate::config::load(source);
            ledger.set("agent_config_last_reload_successful", "", u64::from(loaded.problems.is_empty()));
            for problem in &loaded.problems {
                error!(place = %problem.place, "configuration kept as it was: {}", problem.text);
            }
            if loaded.problems.is_empty() {
                told_where(&config, &loaded.config);
                config = loaded.config;
            }
        }
    }
}

/// The agent's own spans and log lines began before the first run: whoever moves the receiver is told that they stay.
fn told_where(before: &Config, after: &Config) {
    let moved = |signal| before.otlp.destination(signal) != after.otlp.destination(signal);
    if [Signal::Traces, Signal::Logs].into_iter().any(moved) {
        tracing::warn!(
            "otlp has changed: the agent's own spans and log lines go the old way until it is restarted"
        );
    }
}

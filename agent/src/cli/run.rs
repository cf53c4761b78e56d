//! `agent run` and `agent record FILE`: load, check, start the log, run.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;

use super::{Ended, Exit, Failure, Source, runtime, tell};
use crate::config::Loaded;
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
    let telemetry = telemetry::init(&telemetry::Config {
        level: config.logging.level.clone(),
        json: config.logging.json,
        endpoint: config.telemetry_endpoint(),
        node: config.node.clone(),
    })
    .map_err(|error| Failure::new(Exit::Config, error))?;
    for warning in &warnings {
        tracing::warn!(place = %warning.place, "ignored: {}", warning.text);
    }
    let ended = runtime()?.block_on(crate::run::run(config, recording));
    telemetry.shutdown();
    ended
}

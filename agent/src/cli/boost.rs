//! `agent boost`: asks the running agent for faster probes of its own members, for a limited time, over its admin socket.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::{Ended, Exit, Failure, verb};

/// Arguments of `agent boost`.
#[derive(Debug, Args)]
pub(super) struct Boost {
    /// All probe rates times this, at most 40; no kind of probe exceeds 20 a second and member.
    #[arg(long, default_value = "5", conflicts_with = "off")]
    factor: f64,
    /// How long, at most 15m; then the usual rates come back by themselves. A reload ends it too.
    #[arg(long = "for", value_name = "DURATION", default_value = "2m", conflicts_with = "off")]
    lasts: String,
    /// The usual rates at once.
    #[arg(long)]
    off: bool,
    /// The agent's admin socket; by default that of your own agent, else the system's.
    #[arg(long)]
    socket: Option<PathBuf>,
}

/// Sends the wish and prints the agent's answer.
pub(super) fn boost(boost: &Boost) -> Ended {
    let Boost { factor, lasts, off, socket } = boost;
    // Only letters, digits and a point may stand in a query as they are, and nothing else is a duration.
    if !lasts.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') {
        return Err(Failure::new(
            Exit::Data,
            anyhow!("--for must be a duration such as 90s or 2m, not {lasts}"),
        ));
    }
    let path = if *off {
        "/probe-rate?factor=1".to_owned()
    } else {
        format!("/probe-rate?factor={factor}&for={lasts}")
    };
    verb::ask(socket.as_deref(), &path, String::new(), "")
}

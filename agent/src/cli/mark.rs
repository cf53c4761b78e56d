//! `agent mark`: tells the running agent of a rollout, a restart or planned work, over its admin socket.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use super::{Ended, Exit, Failure, verb};

/// Arguments of `agent mark`.
#[derive(Debug, Args)]
pub(super) struct Mark {
    /// What was changed: a service's name as in its logs, or a member's name.
    #[arg(long)]
    target: String,
    /// What it was changed to: image, version, build id. A restart and planned work need none.
    #[arg(long)]
    revision: Option<String>,
    /// Why.
    #[arg(long, value_enum, default_value = "rollout")]
    kind: Kind,
    /// The revision that this rollout undoes.
    #[arg(long)]
    rollback_of: Option<String>,
    /// The agent's admin socket; by default that of your own agent, else the system's.
    #[arg(long)]
    socket: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Rollout,
    Restart,
    Planned,
}

/// Sends the mark and prints the agent's answer.
pub(super) fn mark(mark: &Mark) -> Ended {
    let kind = match mark.kind {
        Kind::Rollout if mark.revision.is_none() => {
            let error = anyhow!("a rollout must name what it puts in place: --revision REVISION");
            return Err(Failure::new(Exit::Usage, error));
        }
        Kind::Rollout => "rollout",
        Kind::Restart => "restart",
        Kind::Planned => "planned",
    };
    let body = serde_json::json!({
        "target": mark.target, "revision": mark.revision.as_deref().unwrap_or_default(), "kind": kind, "rollback_of": mark.rollback_of,
    });
    verb::ask(mark.socket.as_deref(), "/mark", body.to_string(), " the mark")
}

//! `agent mark`: tells the running agent of a rollout, a restart or planned work, over its admin socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use super::{Ended, Exit, Failure, again, runtime, say};
use crate::admin::client::{self, Address, ClientError};
use crate::config::Places;

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
    let socket = mark.socket.clone().unwrap_or_else(|| Places::ours().socket_to_ask());
    let answer = runtime()?
        .block_on(client::post(&Address::Unix(socket.clone()), "/mark", body.to_string()))
        .map_err(|error| unreachable(&socket, error))?;
    let text = answer.body;
    if !(200..300).contains(&answer.status) {
        return Err(Failure::new(Exit::Data, anyhow!("the agent refused the mark: {text}")));
    }
    say(text.trim_end());
    Ok(Exit::Ok)
}

/// Nobody listens there, or they do and the socket is not ours.
pub(super) fn unreachable(socket: &Path, error: ClientError) -> Failure {
    let place = socket.display();
    if let ClientError::Connect(cause) = &error
        && cause.kind() == ErrorKind::PermissionDenied
    {
        let asked: Vec<String> = std::env::args().collect();
        let command = again::words(&asked).join(" ");
        let error = anyhow!("the agent's socket {place} is another user's\nrun: sudo {command}");
        return Failure::new(Exit::Privilege, error);
    }
    let error = anyhow::Error::from(error).context(format!("reach the agent at {place} (is it running?)"));
    Failure::new(Exit::TargetDown, error)
}

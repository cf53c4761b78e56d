//! A verb for the running agent, sent over its admin socket, and the agent's answer told.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::anyhow;

use super::{Ended, Exit, Failure, again, runtime, say};
use crate::admin::client::{self, Address, ClientError};
use crate::config::Places;

/// Posts `body` to `path` at `socket`, else at that of the user's own agent, else at the system's, and prints the answer.
/// `what` follows "the agent refused".
pub(super) fn ask(socket: Option<&Path>, path: &str, body: String, what: &str) -> Ended {
    let socket = socket.map_or_else(|| Places::ours().socket_to_ask(), Path::to_owned);
    let answer = runtime()?
        .block_on(client::post(&Address::Unix(socket.clone()), path, body))
        .map_err(|error| unreachable(&socket, error))?;
    let text = answer.body;
    if !(200..300).contains(&answer.status) {
        return Err(Failure::new(Exit::Data, anyhow!("the agent refused{what}: {}", text.trim_end())));
    }
    say(text.trim_end());
    Ok(Exit::Ok)
}

/// Nobody listens there, or they do and the socket is not ours.
fn unreachable(socket: &Path, error: ClientError) -> Failure {
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

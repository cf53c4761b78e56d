//! Where the agent's files lie when nobody says otherwise: the system's places for root, the user's own for everybody else.
//!
//! Owns that choice alone; makes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Root's state.
const STATE_DIR: &str = "/var/lib/backburn";
/// Root's admin socket.
const SOCKET: &str = "/run/backburn/agent.sock";

/// The defaults of `state_dir` and `admin.socket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// State, journal, checkpoints and profiles.
    pub(crate) state_dir: PathBuf,
    /// The admin socket.
    pub(crate) socket: PathBuf,
}

impl Places {
    /// Those of the user who runs this process.
    pub(crate) fn ours() -> Places {
        let text = |name: &str| Some((name.to_owned(), std::env::var(name).ok()?));
        let variables = ["HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"].into_iter().filter_map(text).collect();
        Places::of(&variables)
    }

    /// Those of this process's user, with these variables.
    pub(super) fn of(variables: &BTreeMap<String, String>) -> Places {
        let is_root = fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
        if is_root { Places::of_root() } else { Places::of_user(variables) }
    }

    fn of_root() -> Places {
        Places { state_dir: PathBuf::from(STATE_DIR), socket: PathBuf::from(SOCKET) }
    }

    /// As the XDG base directories have it; without a home root's, which will be refused with their names.
    fn of_user(variables: &BTreeMap<String, String>) -> Places {
        // A relative path is to be ignored, says the specification.
        let folder = |name: &str| variables.get(name).map(Path::new).filter(|path| path.is_absolute());
        let home = || folder("HOME").map(|home| home.join(".local/state"));
        let Some(state) = folder("XDG_STATE_HOME").map(Path::to_owned).or_else(home) else {
            return Places::of_root();
        };
        let state_dir = state.join("backburn");
        let socket = match folder("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("backburn/agent.sock"),
            None => state_dir.join("agent.sock"),
        };
        Places { state_dir, socket }
    }

    /// The socket to ask: the user's own agent where there is one, else the system's.
    pub(crate) fn socket_to_ask(self) -> PathBuf {
        if self.socket.exists() { self.socket } else { PathBuf::from(SOCKET) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], state_dir: &str, socket: &str) {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let expected = Places { state_dir: PathBuf::from(state_dir), socket: PathBuf::from(socket) };
        assert_eq!(Places::of_user(&variables), expected, "{variables:?}");
    }

    #[test]
    fn a_users_files_lie_in_the_users_folders() {
        check(
            &[("HOME", "/home/op"), ("XDG_RUNTIME_DIR", "/run/user/1000")],
            "/home/op/.local/state/backburn",
            "/run/user/1000/backburn/agent.sock",
        );
        check(
            &[("HOME", "/home/op"), ("XDG_STATE_HOME", "/state")],
            "/state/backburn",
            "/state/backburn/agent.sock",
        );
        check(
            &[("HOME", "/home/op"), ("XDG_STATE_HOME", "here")],
            "/home/op/.local/state/backburn",
            "/home/op/.local/state/backburn/agent.sock",
        );
        check(&[], STATE_DIR, SOCKET);
    }

    #[test]
    fn the_systems_agent_is_asked_where_the_user_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { state_dir: dir.path().to_owned(), socket: dir.path().join("agent.sock") };
        assert_eq!(places.clone().socket_to_ask(), Path::new(SOCKET));
        std::fs::write(&places.socket, "").unwrap();
        assert_eq!(places.clone().socket_to_ask(), places.socket);
    }
}

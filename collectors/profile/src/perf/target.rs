//! Whose samples are wanted, and by what the kernel knows them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::refusal::Refusal;

/// Threads that are followed one by one. Each takes two descriptors on every CPU.
const TASKS_MAX: usize = 2048;

/// Whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everybody.
    Node,
    /// These processes with all their threads, and what they start.
    Pids(Vec<u32>),
    /// The tasks of the cgroup with this directory, and of those below it.
    Cgroup(PathBuf),
}

/// The threads that these processes have now. What they start later inherits the events.
pub(super) fn threads(pids: &[u32]) -> Vec<u32> {
    pids.iter().flat_map(|pid| threads_of(*pid)).take(TASKS_MAX).collect()
}

fn threads_of(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The kernel says better than a missing directory why it is not to be had.
    if tids.is_empty() { vec![pid] } else { tids }
}

/// The open directory of a cgroup.
pub(super) fn cgroup_directory(path: &Path) -> Result<File, Refusal> {
    let refused = |cause: String| Refusal::Cgroup { path: path.display().to_string(), cause };
    let directory = File::open(path).map_err(|error| refused(error.to_string()))?;
    let is_directory = directory.metadata().is_ok_and(|metadata| metadata.is_dir());
    if is_directory { Ok(directory) } else { Err(refused("not a directory".to_owned())) }
}

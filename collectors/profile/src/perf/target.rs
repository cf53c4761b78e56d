//! Whose samples are wanted, and by what the kernel knows them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::refusal::Refusal;

/// Threads that are followed one by one. Each takes two or three descriptors on every CPU.
const TASKS_MAX: usize = 2048;

/// Whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everybody.
    Node,
    /// These processes with all their threads, and what they start.
    Pids(Vec<u32>),
    /// The tasks of the cgroup with this directory, and of those below it; where waiting is measured, those that are in it
    /// when it begins and what they start.
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

/// Cgroups below one. A pod has a handful.
const CGROUPS_MAX: usize = 256;
/// Of a list of threads: more than are followed, with numbers of seven digits.
const LIST_BYTES_MAX: u64 = 64 << 10;

/// The threads that are in a cgroup and below it now.
pub(super) fn cgroup_threads(path: &Path) -> Result<Vec<u32>, Refusal> {
    drop(cgroup_directory(path)?);
    let refused = |cause: &str| Refusal::Cgroup { path: path.display().to_string(), cause: cause.to_owned() };
    let (mut waiting, mut tids, mut is_list_found) = (vec![path.to_owned()], Vec::new(), false);
    let mut seen = 0;
    while let Some(directory) = waiting.pop().filter(|_| seen < CGROUPS_MAX && tids.len() < TASKS_MAX) {
        seen += 1;
        // One hierarchy for all, or one of the old ones.
        let lists = ["cgroup.threads", "tasks"].map(|name| directory.join(name));
        if let Some(list) = lists.iter().find_map(|list| File::open(list).ok()) {
            let mut text = String::new();
            drop(list.take(LIST_BYTES_MAX).read_to_string(&mut text));
            is_list_found = true;
            // 0 is a task outside our pid namespace.
            tids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|tid| *tid != 0));
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        waiting.extend(below.map(|entry| entry.path()).take(CGROUPS_MAX));
    }
    tids.truncate(TASKS_MAX);
    match (is_list_found, tids.is_empty()) {
        (false, _) => Err(refused("not a cgroup")),
        (true, true) => Err(refused("nothing runs in it that could be followed")),
        (true, false) => Ok(tids),
    }
}

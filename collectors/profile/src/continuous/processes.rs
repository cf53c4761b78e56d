//! Which processes a member is and was: a restarted one has another number, and what it did before is its "before" all the
//! same.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::history::selection::Filter;

/// Processes of one member that are remembered: an upgrade restarts it once, a crash loop often.
const PIDS_MAX: usize = 16;

/// Shared: who finds members tells, who takes profiles asks.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    by_member: Arc<Mutex<BTreeMap<String, Vec<u32>>>>,
}

/// Whose samples belong to a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Who {
    /// The newest first.
    pub(super) pids: Vec<u32>,
    /// What the kernel calls the newest: who got the number of a former one is mostly called otherwise.
    pub(super) name: Option<String>,
    /// Whether no other member runs on this node, so that a process of the same name was this one's.
    pub(super) is_alone: bool,
}

impl Who {
    pub(super) fn filter(&self) -> Filter {
        Filter { pids: self.pids.clone(), process: self.name.clone(), ..Filter::default() }
    }
}

impl Processes {
    /// This member is this process now.
    pub fn seen(&self, member: &str, pid: u32) {
        let mut by_member = self.lock();
        let pids = by_member.entry(member.to_owned()).or_default();
        if pids.first() != Some(&pid) {
            pids.retain(|known| *known != pid);
            pids.insert(0, pid);
            pids.truncate(PIDS_MAX);
        }
    }

    /// The members' processes of now.
    pub(super) fn current(&self) -> Vec<u32> {
        self.lock().values().filter_map(|pids| pids.first().copied()).collect()
    }

    pub(super) fn of(&self, member: &str) -> Option<Who> {
        let by_member = self.lock();
        let pids = by_member.get(member)?.clone();
        let comm = pids.first().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        let name = comm.map(|comm| comm.trim_end_matches('\n').to_owned());
        Some(Who { pids, name, is_alone: by_member.len() == 1 })
    }

    /// The process that a member was when it was seen last.
    #[must_use]
    pub fn newest(&self, member: &str) -> Option<u32> {
        self.lock().get(member)?.first().copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u32>>> {
        // Nothing panics half-way through these.
        self.by_member.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{PIDS_MAX, Processes, Who};

    #[test]
    fn a_member_is_the_process_seen_last_and_was_those_before() {
        let processes = Processes::default();
        assert_eq!(processes.of("m1"), None);
        [u32::MAX, u32::MAX, 9, u32::MAX].into_iter().for_each(|pid| processes.seen("m1", pid));
        let who = Who { pids: vec![u32::MAX, 9], name: None, is_alone: true };
        assert_eq!(processes.of("m1"), Some(who), "a process that has gone has no name");
        (100..200).for_each(|pid| processes.seen("m2", pid));
        let second = processes.of("m2").unwrap();
        assert_eq!((second.pids.len(), second.pids[0], second.is_alone), (PIDS_MAX, 199, false));
        assert_eq!(processes.current(), [u32::MAX, 199]);
        processes.seen("us", std::process::id());
        assert!(processes.of("us").unwrap().name.is_some());
    }
}

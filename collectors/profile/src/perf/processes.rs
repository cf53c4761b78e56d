//! Who runs: each process with its name, its threads' names, its cgroup and what it has mapped, at the time of a sample.
//!
//! Owns the life of a process as the records tell it: fork inherits, exec replaces, exit ends after a while, a number that
//! comes again is another process. Refuses clocks: time is that of the records, given out in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use foldhash::HashMap;

use super::cgroup::{Cgroup, Cgroups};
use super::modules::{Mappings, Modules};
use super::record::{Birth, Meta, Mmap, Record};

/// Processes known at a time, the kernel's own default for pids.
pub const PROCESSES_MAX: usize = 32_768;
/// Bytes of what is known of them, shared parts counted for each that shares them.
const BYTES_MAX: usize = 24 << 20;
/// Threads with a name of their own, of one process.
const THREAD_NAMES_MAX: usize = 4096;
/// A process that has ended is kept so long: its last samples may still be named from /proc/PID/root of a sibling, and
/// a record of another CPU may come late.
const GRACE_NS: u64 = 10_000_000_000;
/// Longest name the kernel has.
const NAME_BYTES_MAX: usize = 15;
/// What one process takes beside its parts: table entries and the like, rounded up.
const PROCESS_BYTES: usize = 256;
const MAPPING_BYTES: usize = 40;
const THREAD_BYTES: usize = 64;

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// In our pid namespace.
    pub pid: u32,
    /// Tells it from others that had the number before it, and grows with each program it runs.
    pub generation: u64,
    /// What it runs.
    pub mappings: Arc<Mappings>,
    /// Where it belongs, when known.
    pub cgroup: Option<Arc<Cgroup>>,
    name: Arc<str>,
    threads: BTreeMap<u32, Arc<str>>,
    ended_ns: Option<u64>,
    /// Its first thread has ended while others ran on: each of them may be the last.
    is_headless: bool,
}

impl Process {
    /// As `ps` shows it.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The name of one of its threads; that of the process unless the thread has its own.
    #[must_use]
    pub fn thread_name(&self, tid: u32) -> &Arc<str> {
        self.threads.get(&tid).unwrap_or(&self.name)
    }

    /// When it ended.
    #[must_use]
    pub fn ended_ns(&self) -> Option<u64> {
        self.ended_ns
    }

    fn bytes(&self) -> usize {
        PROCESS_BYTES + self.mappings.len() * MAPPING_BYTES + self.threads.len() * THREAD_BYTES
    }

    fn rename(&mut self, tid: u32, name: Arc<str>) {
        if tid == self.pid {
            self.name = name;
        } else if name == self.name {
            self.threads.remove(&tid);
        } else if self.threads.len() < THREAD_NAMES_MAX {
            self.threads.insert(tid, name);
        }
    }
}

/// What did not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Processes that found no room.
    pub processes: u64,
    /// Ranges that found no room in their process, or whose file found none.
    pub mappings: u64,
}

/// What was found in /proc of a process that began before us.
#[derive(Debug, Default)]
pub struct Found<'a> {
    /// Its name.
    pub name: &'a str,
    /// Threads whose names differ.
    pub threads: Vec<(u32, String)>,
    /// Executable ranges, in order.
    pub mappings: Vec<Mmap<'a>>,
    /// Where it belongs.
    pub cgroup: Option<Arc<Cgroup>>,
}

/// All processes.
#[derive(Debug, Default)]
pub struct Processes {
    known: HashMap<u32, Process>,
    /// Those that have ended, oldest first, by what they were then.
    ended: VecDeque<(u64, u32, u64)>,
    modules: Modules,
    cgroups: Cgroups,
    last_generation: u64,
    bytes: usize,
    refused: Refused,
}

impl Processes {
    /// What has that number now.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.known.get(&pid)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Bytes held, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What did not fit.
    #[must_use]
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Cgroups by number.
    #[must_use]
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Says what a number in samples means, and that this process is in it.
    pub fn learn_cgroup(&mut self, id: Option<u64>, pid: u32, cgroup: &Arc<Cgroup>) {
        if let Some(id) = id {
            self.cgroups.put(id, Arc::clone(cgroup));
        }
        if let Some(process) = self.known.get_mut(&pid) {
            process.cgroup = Some(Arc::clone(cgroup));
        }
    }

    /// A process that began before us. One that is known already is left as the records say.
    pub fn found(&mut self, pid: u32, found: Found<'_>) {
        if self.known.get(&pid).is_some_and(|process| process.ended_ns.is_none()) {
            return;
        }
        let mut process = self.born(pid, found.name.into());
        process.cgroup = found.cgroup;
        let name = Arc::clone(&process.name);
        let others = found.threads.into_iter().filter(|(tid, own)| *tid != pid && own.as_str() != &*name);
        process.threads.extend(others.map(|(tid, own)| (tid, own.into())).take(THREAD_NAMES_MAX));
        let mut mappings = Mappings::default();
        for range in &found.mappings {
            self.refused.mappings += u64::from(!mappings.take(range, &mut self.modules));
        }
        process.mappings = Arc::new(mappings);
        self.keep(process);
    }

    /// A record, in its turn.
    pub fn apply(&mut self, meta: &Meta, record: &Record<'_>) {
        match record {
            Record::Fork(birth) => self.fork(birth),
            Record::Exit(death) => self.exit(death, meta.time_ns),
            Record::Comm { pid, tid, is_exec, name } => self.rename((*pid, *tid), *is_exec, name),
            Record::Mmap(range) => self.mapped(range),
            Record::Cgroup { id, path } => {
                self.cgroups.put(*id, Arc::new(Cgroup::new(&String::from_utf8_lossy(path))));
            }
            Record::Sample(_) => self.revive(meta),
            Record::Lost { .. }
            | Record::LostSamples { .. }
            | Record::Throttle { .. }
            | Record::Ksymbol { .. }
            | Record::Switch { .. }
            | Record::Other(_) => {}
        }
    }

    /// Forgets those that have ended long enough ago.
    pub fn expire(&mut self, now_ns: u64) {
        while self.ended.front().is_some_and(|(at, ..)| at.saturating_add(GRACE_NS) <= now_ns) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((at, pid, generation)) = self.ended.pop_front() else { return };
        let is_same = |known: &Process| known.generation == generation && known.ended_ns == Some(at);
        if self.known.get(&pid).is_some_and(is_same) {
            self.forget(pid);
        }
    }

    fn forget(&mut self, pid: u32) {
        if let Some(process) = self.known.remove(&pid) {
            self.bytes = self.bytes.saturating_sub(process.bytes());
        }
    }

    fn born(&mut self, pid: u32, name: Arc<str>) -> Process {
        self.last_generation += 1;
        Process {
            pid,
            generation: self.last_generation,
            mappings: Arc::default(),
            cgroup: None,
            name,
            threads: BTreeMap::new(),
            ended_ns: None,
            is_headless: false,
        }
    }

    /// Puts it in place of whatever had its number. The dead make room for the living.
    fn keep(&mut self, process: Process) {
        self.forget(process.pid);
        let bytes = process.bytes();
        while (self.known.len() >= PROCESSES_MAX || self.bytes + bytes > BYTES_MAX) && !self.ended.is_empty()
        {
            self.forget_oldest();
        }
        if self.known.len() >= PROCESSES_MAX || self.bytes + bytes > BYTES_MAX {
            self.refused.processes += 1;
            return;
        }
        self.bytes += bytes;
        self.known.insert(process.pid, process);
    }

    /// Changes one in place and keeps the account of bytes.
    fn change(&mut self, pid: u32, change: impl FnOnce(&mut Process, &mut Modules)) {
        let Some(process) = self.known.get_mut(&pid) else { return };
        let before = process.bytes();
        change(process, &mut self.modules);
        self.bytes = (self.bytes + process.bytes()).saturating_sub(before);
    }

    fn fork(&mut self, birth: &Birth) {
        if birth.pid == birth.parent_pid {
            // A thread: it has the name of the thread that made it until it says otherwise.
            self.change(birth.pid, |process, _| {
                let name = Arc::clone(process.thread_name(birth.parent_tid));
                process.rename(birth.tid, name);
            });
            return;
        }
        let parent = self.known.get(&birth.parent_pid);
        let name =
            parent.map_or_else(|| "".into(), |parent| Arc::clone(parent.thread_name(birth.parent_tid)));
        let inherited = parent.map(|parent| (Arc::clone(&parent.mappings), parent.cgroup.clone()));
        let mut child = self.born(birth.pid, name);
        (child.mappings, child.cgroup) = inherited.unwrap_or_default();
        self.keep(child);
    }

    fn exit(&mut self, death: &Birth, time_ns: u64) {
        if death.tid != death.pid {
            self.change(death.pid, |process, _| drop(process.threads.remove(&death.tid)));
        }
        if death.tid == death.pid || self.known.get(&death.pid).is_some_and(|process| process.is_headless) {
            self.end(death.pid, time_ns);
        }
    }

    fn end(&mut self, pid: u32, time_ns: u64) {
        let Some(process) = self.known.get_mut(&pid) else { return };
        process.ended_ns = Some(time_ns);
        self.ended.push_back((time_ns, process.pid, process.generation));
        if self.ended.len() > PROCESSES_MAX {
            self.forget_oldest();
        }
    }

    /// Ends those of which nothing is to be seen: when records were lost, some of them were exits.
    pub fn end_unless(&mut self, time_ns: u64, is_there: impl Fn(u32) -> bool) {
        let living = self.known.values().filter(|process| process.ended_ns.is_none());
        let gone: Vec<u32> = living.map(|process| process.pid).filter(|pid| !is_there(*pid)).collect();
        for pid in gone {
            self.end(pid, time_ns);
        }
    }

    /// The first thread may end before the others: a process that is sampled afterwards lives.
    fn revive(&mut self, meta: &Meta) {
        if meta.tid != meta.pid
            && let Some(process) = self.known.get_mut(&meta.pid)
        {
            process.is_headless |= process.ended_ns.take().is_some();
        }
    }

    fn rename(&mut self, (pid, tid): (u32, u32), is_exec: bool, name: &[u8]) {
        let name = name.get(..name.len().min(NAME_BYTES_MAX)).unwrap_or_default();
        let name: Arc<str> = String::from_utf8_lossy(name).into();
        if !is_exec {
            self.change(pid, |process, _| process.rename(tid, name));
            return;
        }
        // Another program: nothing of the old one is left but where it belongs. Exec ends all other threads, and the
        // one that called it takes the number of the process.
        let cgroup = self.known.get(&pid).and_then(|process| process.cgroup.clone());
        let mut process = self.born(pid, name);
        process.cgroup = cgroup;
        self.keep(process);
    }

    fn mapped(&mut self, range: &Mmap<'_>) {
        if !self.known.contains_key(&range.pid) {
            // Its beginning was lost; what it maps from here on is still true.
            let process = self.born(range.pid, "".into());
            self.keep(process);
        }
        let has_room = self.bytes + MAPPING_BYTES <= BYTES_MAX;
        let mut is_mapped = false;
        self.change(range.pid, |process, modules| {
            is_mapped = has_room && Arc::make_mut(&mut process.mappings).take(range, modules);
        });
        self.refused.mappings += u64::from(!is_mapped);
    }
}

#[cfg(test)]
mod tests;

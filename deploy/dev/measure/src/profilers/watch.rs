//! One process under watch: its CPU time to the microsecond, the memory that is its own, and what the kernel holds for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::daemon::Daemon;
use harness::process::{Process, Signal, wait_until};

use super::sys::{self, Ended};
use crate::usage;

/// A profiler that has been told to stop names and writes what it has; perf and samply go over all of it once more.
const END_MAX: Duration = Duration::from_secs(120);

/// What the mapping of a ring of perf events is called.
const RING: &str = "anon_inode:[perf_event]";

/// What was started.
#[derive(Debug)]
pub(super) enum Child {
    /// A command.
    Process(Process),
    /// The agent as a daemon.
    Daemon(Daemon),
}

impl Child {
    fn pid(&self) -> u32 {
        match self {
            Child::Process(process) => process.pid(),
            Child::Daemon(daemon) => daemon.agent.pid(),
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match self {
            Child::Process(process) => process.signal(signal),
            Child::Daemon(daemon) => daemon.agent.signal(signal),
        }
    }
}

/// It and what was seen of it.
#[derive(Debug)]
pub(super) struct Watched {
    child: Child,
    /// The most memory at any look, shared pages divided among those who share them.
    pub(super) pss_peak_mib: f64,
    /// The most that the kernel held for it at any look of [`Watched::weigh`].
    pub(super) held_peak_mib: f64,
    ended: Option<Ended>,
}

impl Watched {
    /// From its start.
    pub(super) fn new(child: Child) -> Watched {
        Watched { child, pss_peak_mib: 0.0, held_peak_mib: 0.0, ended: None }
    }

    /// What was started.
    pub(super) fn child(&self) -> &Child {
        &self.child
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.pid()))
    }

    /// A look at its memory, which may be gone.
    pub(super) fn look(&mut self) {
        let rollup = fs::read_to_string(self.file("smaps_rollup")).unwrap_or_default();
        self.pss_peak_mib = self.pss_peak_mib.max(mib(&rollup, "Pss:"));
    }

    /// A look at what the kernel holds for it: locked pages, rings of perf events, BPF maps and programs.
    pub(super) fn weigh(&mut self) {
        let read = |name: &str| fs::read_to_string(self.file(name)).unwrap_or_default();
        let held = mib(&read("status"), "VmLck:") + rings_mib(&read("maps")) + self.bpf_mib();
        self.held_peak_mib = self.held_peak_mib.max(held);
    }

    fn bpf_mib(&self) -> f64 {
        let entries = fs::read_dir(self.file("fdinfo")).into_iter().flatten().flatten();
        let infos = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        // Several descriptors may stand for one object.
        let objects: BTreeMap<String, u64> = infos.filter_map(|info| bpf_object(&info)).collect();
        objects.values().sum::<u64>() as f64 / f64::from(1 << 20)
    }

    /// Whether a ring of perf events is mapped: sampling has begun.
    pub(super) fn has_ring(&self) -> bool {
        fs::read_to_string(self.file("maps")).is_ok_and(|maps| maps.contains(RING))
    }

    /// CPU time so far; children that it waited for count once it has ended.
    pub(super) fn cpu(&self) -> Result<Duration> {
        match &self.ended {
            Some(ended) => Ok(ended.cpu),
            None => sys::cpu(self.child.pid()).context("the profiler's CPU clock"),
        }
    }

    /// Whether it has ended, and how. Reaped behind the back of whoever started it, for the sake of what it has used: std
    /// then finds no child of that number, and signals nobody.
    pub(super) fn ended(&mut self) -> Result<Option<Ended>> {
        if self.ended.is_none() {
            self.ended = sys::reap(self.child.pid()).context("reap the profiler")?;
        }
        Ok(self.ended)
    }

    /// Tells it to stop, where it has not ended by itself.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<()> {
        match self.ended()? {
            Some(_) => Ok(()),
            None => self.child.signal(signal),
        }
    }

    /// Waits for its end, and looks at its memory until then.
    pub(super) fn wait(&mut self) -> Result<Ended> {
        wait_until("the profiler to end", END_MAX, || {
            self.look();
            self.ended()
        })
    }
}

/// As in one of /proc's tables; 0 where it is missing, as all of a process that has gone is.
fn mib(text: &str, name: &str) -> f64 {
    usage::mib(text, name).unwrap_or(0.0)
}

fn rings_mib(maps: &str) -> f64 {
    let size = |line: &str| {
        let (begin, end) = line.split(' ').next()?.split_once('-')?;
        u64::from_str_radix(end, 16).ok()?.checked_sub(u64::from_str_radix(begin, 16).ok()?)
    };
    let bytes: u64 = maps.lines().filter(|line| line.ends_with(RING)).filter_map(size).sum();
    bytes as f64 / f64::from(1 << 20)
}

/// A BPF map or program with the bytes that are charged for it.
fn bpf_object(info: &str) -> Option<(String, u64)> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let bytes = field("memlock:")?.parse().ok()?;
    let id = field("map_id:").map(|id| format!("map {id}"));
    Some((id.or_else(|| field("prog_id:").map(|id| format!("program {id}")))?, bytes))
}

#[cfg(test)]
mod tests {
    use super::{bpf_object, mib, rings_mib};

    #[test]
    fn rings_are_the_mappings_of_events() {
        let maps = "7f0000000000-7f0000081000 rw-s 00000000 00:0f 9 anon_inode:[perf_event]\n\
            7f0000100000-7f0000181000 rw-s 00000000 00:0f 9 anon_inode:[perf_event]\n\
            7f0000200000-7f0000300000 rw-p 00000000 00:00 0 \n";
        assert_eq!(rings_mib(maps), 2.0 * 129.0 * 4.0 / 1_024.0);
    }

    #[test]
    fn an_object_of_bpf_is_a_map_or_a_program() {
        let map = "pos:\t0\nmap_type:\t1\nmemlock:\t8192\nmap_id:\t12\n";
        assert_eq!(bpf_object(map), Some(("map 12".to_owned(), 8_192)));
        assert_eq!(
            bpf_object("prog_type:\t7\nmemlock:\t4096\nprog_id:\t3\n"),
            Some(("program 3".to_owned(), 4_096))
        );
        assert_eq!(bpf_object("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn a_table_of_proc_is_in_kib() {
        assert_eq!(mib("VmLck:\t    2048 kB\n", "VmLck:"), 2.0);
        assert_eq!(mib("", "VmLck:"), 0.0);
    }
}

//! What was there before the events: processes read from /proc, as the records would have told them.
//!
//! Owns the bounds of that reading: bytes, threads, time, and how often it may be done in a round. Refuses to insist: a
//! process that ends while it is read is left out.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::cgroup::Cgroup;
use super::maps::mapping;
use super::modules::MAPPINGS_MAX;
use super::processes::{Found, PROCESSES_MAX, Processes};
use super::sys;

/// Of /proc/PID/maps: forty thousand lines. The rest of it is left out.
const MAPS_BYTES_MAX: u64 = 4 << 20;
/// Of any other file of /proc that is read here.
const TEXT_BYTES_MAX: u64 = 16 << 10;
/// Threads of a process whose names are read; each takes three system calls.
const THREADS_MAX: usize = 1024;
/// Reading everybody takes 0.1 ms a process. What is left after this is read when a sample of it comes.
const EVERYBODY_NS: u64 = 2_000_000_000;
/// Processes and cgroups that are read between two drains for a sample that nobody knows: 5 ms of them.
const READS_PER_ROUND_MAX: u32 = 32;

/// The way to /proc.
#[derive(Debug)]
pub(super) struct Proc {
    root: PathBuf,
    /// Whether there is one hierarchy of cgroups, the one that samples number.
    is_unified: bool,
    reads_left: u32,
    maps: Vec<u8>,
    text: Vec<u8>,
}

impl Proc {
    /// Of this machine, or of a test.
    pub(super) fn new(root: PathBuf) -> Proc {
        let own = fs::read_to_string(root.join("self/cgroup")).unwrap_or_default();
        let is_unified = own.lines().count() == 1 && own.starts_with("0::");
        let reads_left = READS_PER_ROUND_MAX;
        Proc { root, is_unified, reads_left, maps: Vec::new(), text: Vec::new() }
    }

    /// Whether the cgroup of a sample says all there is to say.
    pub(super) fn is_unified(&self) -> bool {
        self.is_unified
    }

    /// A new round: the allowance is whole again.
    pub(super) fn refill(&mut self) {
        self.reads_left = READS_PER_ROUND_MAX;
    }

    /// Takes one reading from the allowance of this round.
    pub(super) fn may_read(&mut self) -> bool {
        let may = self.reads_left > 0;
        self.reads_left = self.reads_left.saturating_sub(1);
        may
    }

    /// Every process that runs now.
    pub(super) fn everybody(&mut self, processes: &mut Processes) {
        let until_ns = sys::monotonic_ns() + EVERYBODY_NS;
        let mut cgroups = HashMap::new();
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for pid in pids.take(PROCESSES_MAX).take_while(|_| sys::monotonic_ns() < until_ns) {
            self.one(pid, &mut cgroups, processes);
        }
    }

    /// One process.
    pub(super) fn adopt(&mut self, pid: u32, processes: &mut Processes) {
        self.one(pid, &mut HashMap::new(), processes);
    }

    fn one(&mut self, pid: u32, cgroups: &mut HashMap<String, Arc<Cgroup>>, processes: &mut Processes) {
        let cgroup = self.cgroup(pid).map(|new| {
            // Hundreds of processes share a cgroup: one value for all of them.
            Arc::clone(cgroups.entry(new.path.clone()).or_insert_with(|| Arc::new(new)))
        });
        let Some(name) = self.name(&pid.to_string()) else { return };
        let file = File::open(self.root.join(pid.to_string()).join("maps"));
        self.maps.clear();
        // Threads of the kernel have none, and those of others may be hidden from us: the name is true all the same.
        let is_without = file.is_ok_and(|file| {
            let read = file.take(MAPS_BYTES_MAX).read_to_end(&mut self.maps);
            read.is_ok_and(|bytes| bytes == 0)
        });
        // They are half of what runs, and each is all that there is of it. A program whose first thread has ended has none
        // either, and others.
        let threads = if is_without && self.is_single(pid) { Vec::new() } else { self.threads(pid, &name) };
        let lines = self.maps.split(|byte| *byte == b'\n');
        let mappings = lines.filter_map(|line| mapping(pid, line)).take(MAPPINGS_MAX).collect();
        processes.found(pid, Found { name: &name, threads, mappings, cgroup });
    }

    /// Where a process belongs.
    pub(super) fn cgroup(&mut self, pid: u32) -> Option<Cgroup> {
        self.read(&format!("{pid}/cgroup")).and_then(Cgroup::of_process)
    }

    /// Whether a process still runs: one that only waits to be reaped does not.
    pub(super) fn is_alive(&mut self, pid: u32) -> bool {
        let Some(stat) = self.read(&format!("{pid}/stat")) else { return false };
        // The name may hold anything, so the fields are counted from its last parenthesis.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let is_zombie = matches!(fields.next(), Some("Z" | "X"));
        let threads = fields.nth(16).and_then(|threads| threads.parse().ok()).unwrap_or(0_u32);
        !is_zombie || threads > 1
    }

    /// Whether it is one thread: its folder of threads has a link for each, and two of its own.
    fn is_single(&self, pid: u32) -> bool {
        fs::metadata(self.root.join(format!("{pid}/task"))).is_ok_and(|folder| folder.nlink() <= 3)
    }

    fn threads(&mut self, pid: u32, name: &str) -> Vec<(u32, String)> {
        let entries = fs::read_dir(self.root.join(format!("{pid}/task"))).into_iter().flatten().flatten();
        let tids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let others = tids.take(THREADS_MAX).filter(|tid| *tid != pid);
        let named = others.filter_map(|tid| Some((tid, self.name(&format!("{pid}/task/{tid}"))?)));
        named.filter(|(_, own)| own != name).collect()
    }

    fn name(&mut self, of: &str) -> Option<String> {
        self.read(&format!("{of}/comm")).map(|name| name.trim_end_matches('\n').to_owned())
    }

    fn read(&mut self, name: &str) -> Option<&str> {
        self.text.clear();
        File::open(self.root.join(name)).ok()?.take(TEXT_BYTES_MAX).read_to_end(&mut self.text).ok()?;
        // A name may be cut within a character.
        let valid = self.text.utf8_chunks().next()?.valid().len();
        std::str::from_utf8(self.text.get(..valid)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::modules::Kind;
    use super::super::processes::Processes;
    use super::Proc;

    #[test]
    fn this_process_is_found_as_it_is() {
        let (mut proc, mut processes) = (Proc::new("/proc".into()), Processes::default());
        proc.everybody(&mut processes);
        let pid = std::process::id();
        let process = processes.get(pid).expect("ourselves");
        let here = u64::try_from(this_process_is_found_as_it_is as *const () as usize).unwrap();
        let place = process.mappings.locate(here).expect("our own code");
        assert_eq!(place.module.kind, Kind::File);
        assert_eq!(place.module.path, fs::read_link("/proc/self/exe").unwrap());
        assert!(process.mappings.iter().any(|mapping| mapping.module.kind == Kind::Vdso));
        assert!(processes.get(1).is_some() && processes.len() > 2);
        assert!(proc.is_alive(pid) && proc.is_alive(1) && !proc.is_alive(u32::MAX - 1));
        assert!(process.cgroup.is_some());
    }

    #[test]
    fn a_process_that_waits_to_be_reaped_is_not_alive() {
        let folder = std::env::temp_dir().join(format!("perf-proc-{}", std::process::id()));
        let check = |stat: &str, expected: bool| {
            fs::create_dir_all(folder.join("7")).unwrap();
            fs::write(folder.join("7/stat"), stat).unwrap();
            assert_eq!(Proc::new(folder.clone()).is_alive(7), expected, "{stat}");
        };
        let fields = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
        check(&format!("7 (a) b) S) S {fields} 1 0"), true);
        check(&format!("7 (a) Z {fields} 1 0"), false);
        check(&format!("7 (a) Z {fields} 3 0"), true);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_round_reads_only_so_much() {
        let mut proc = Proc::new("/proc".into());
        let first = (0..1000).filter(|_| proc.may_read()).count();
        assert_eq!(first, 32);
        proc.refill();
        assert!(proc.may_read());
    }
}

//! The files of one root, read with bounds. Owns which file is where; refuses to know what stands in it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use model::host::{Filesystem, HostFact, Pressure, Process};

use super::groups::Groups;
use super::{FILESYSTEMS_MAX, HostError, PROCESSES_MAX, Watched, parse, sys};

/// `/proc/stat` has a line a CPU and one of all interrupts: 100 KB on 256 CPUs; diskstats is smaller.
const NODE_BYTES_MAX: u64 = 1 << 20;
/// One line of numbers and a name of 15 bytes.
const PID_BYTES_MAX: u64 = 4096;
/// `/proc/PID/net/tcp` has 150 bytes a socket of the whole namespace: 50,000 sockets; beyond, connections are not told.
const NET_BYTES_MAX: u64 = 8 << 20;
/// More open files than this are told as this many.
const FDS_MAX: usize = 1 << 20;
/// Each costs a readlink of a microsecond or two; beyond, connections are not told.
const SOCKET_FDS_MAX: usize = 16_384;

/// Reads the files under one root.
#[derive(Debug)]
pub(super) struct Reader {
    root: PathBuf,
    filesystems: Vec<PathBuf>,
    groups: Groups,
    ticks_per_second: u64,
    page_bytes: u64,
}

impl Reader {
    pub(super) fn new(root: PathBuf, mut filesystems: Vec<PathBuf>) -> Reader {
        filesystems.truncate(FILESYSTEMS_MAX);
        Reader {
            groups: Groups::new(&root),
            root,
            filesystems,
            ticks_per_second: sys::ticks_per_second(),
            page_bytes: sys::page_bytes(),
        }
    }

    pub(super) fn read(&self, watched: &[Watched]) -> Result<HostFact, HostError> {
        let node = |path: &str| bounded(&self.root.join(path), NODE_BYTES_MAX);
        let stat = node("proc/stat").and_then(|text| parse::stat(&text, self.ticks_per_second));
        let (cpus, cpu) = stat.ok_or(HostError::NoStat)?;
        let memory = node("proc/meminfo").and_then(|text| parse::meminfo(&text));
        let (memory_total_bytes, memory_available_bytes) = memory.ok_or(HostError::NoMeminfo)?;
        let disks = node("proc/diskstats").map_or_else(Vec::new, |text| {
            // Partitions would count each request twice; only whole devices are in /sys/block.
            let block = self.root.join("sys/block");
            let known = block.is_dir();
            parse::diskstats(&text, |name| !known || block.join(name.replace('/', "!")).exists())
        });
        self.groups.retain(|pid| watched.iter().any(|one| one.pid == pid));
        Ok(HostFact {
            cpus,
            cpu,
            memory_total_bytes,
            memory_available_bytes,
            pressure: self.pressure(),
            disks,
            filesystems: self.filesystems.iter().filter_map(|path| self.filesystem(path)).collect(),
            processes: self.processes(watched),
            cgroup: self.groups.of_node().map(Box::new),
        })
    }

    fn pressure(&self) -> Option<Pressure> {
        let total = |name: &str| {
            let path = self.root.join("proc/pressure").join(name);
            bounded(&path, PID_BYTES_MAX).and_then(|text| parse::pressure(&text))
        };
        Some(Pressure { cpu_us: total("cpu")?, io_us: total("io")?, memory_us: total("memory")? })
    }

    fn filesystem(&self, path: &Path) -> Option<Filesystem> {
        let (total_bytes, available_bytes) =
            sys::filesystem(&self.root.join(path.strip_prefix("/").unwrap_or(path)))?;
        Some(Filesystem { path: path.to_string_lossy().into_owned(), total_bytes, available_bytes })
    }

    fn processes(&self, watched: &[Watched]) -> Vec<Process> {
        let mut networks = Networks::default();
        let watched = watched.iter().take(PROCESSES_MAX);
        watched.filter_map(|one| self.process(one, &mut networks)).collect()
    }

    /// `None` when the process is gone, or is no process.
    fn process(&self, watched: &Watched, networks: &mut Networks) -> Option<Process> {
        let dir = self.root.join("proc").join(watched.pid.to_string());
        let stat = parse::pid_stat(&bounded(&dir.join("stat"), PID_BYTES_MAX)?)?;
        let files = OpenFiles::read(&dir.join("fd"));
        Some(Process {
            pid: watched.pid,
            name: stat.name,
            role: watched.role.clone(),
            started_ticks: stat.started_ticks,
            cpu_ns: parse::ticks_ns(stat.cpu_ticks, self.ticks_per_second),
            rss_bytes: stat.rss_pages.saturating_mul(self.page_bytes),
            fds: files.as_ref().map(|files| files.count),
            threads: stat.threads,
            connections: files.and_then(|files| networks.connections(&dir, &files.sockets?)),
            cgroup: self.groups.of((watched.pid, stat.started_ticks)),
        })
    }
}

/// The descriptors of a process.
struct OpenFiles {
    count: u64,
    /// Inodes of sockets; `None` when there are too many descriptors to look at each.
    sockets: Option<HashSet<u64>>,
}

impl OpenFiles {
    /// `None` when not permitted.
    fn read(dir: &Path) -> Option<OpenFiles> {
        let entries: Vec<PathBuf> =
            fs::read_dir(dir).ok()?.take(FDS_MAX).filter_map(|entry| Some(entry.ok()?.path())).collect();
        let sockets = (entries.len() <= SOCKET_FDS_MAX).then(|| {
            let links = entries.iter().filter_map(|path| fs::read_link(path).ok());
            links.filter_map(|link| parse::socket_inode(link.to_str()?)).collect()
        });
        Some(OpenFiles { count: u64::try_from(entries.len()).unwrap_or(u64::MAX), sockets })
    }
}

/// The sockets of the network namespaces seen in one reading, each read once: the kernel walks its whole table of
/// connections for it, a quarter of a million buckets on a large node, however few there are.
#[derive(Default)]
struct Networks {
    tables: BTreeMap<PathBuf, Option<[String; 2]>>,
}

impl Networks {
    /// Established TCP connections of a process, both families.
    fn connections(&mut self, dir: &Path, sockets: &HashSet<u64>) -> Option<u64> {
        // Whose namespace is not told has one for itself.
        let namespace = fs::read_link(dir.join("ns/net")).unwrap_or_else(|_| dir.to_owned());
        let tables = self.tables.entry(namespace).or_insert_with(|| tables(dir));
        let established = tables.iter().flatten().map(|table| parse::established(table, sockets));
        tables.as_ref().map(|_| established.fold(0, u64::saturating_add))
    }
}

/// Both families; a kernel without IPv6 has no second file.
fn tables(dir: &Path) -> Option<[String; 2]> {
    let four = bounded(&dir.join("net/tcp"), NET_BYTES_MAX)?;
    let six = dir.join("net/tcp6");
    let six = if six.exists() { bounded(&six, NET_BYTES_MAX)? } else { String::new() };
    Some([four, six])
}

/// A whole text file; `None` when it is missing, not permitted or longer than `bytes_max`.
pub(super) fn bounded(path: &Path, bytes_max: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let read = File::open(path).ok()?.take(bytes_max + 1).read_to_end(&mut bytes).ok()?;
    if u64::try_from(read).unwrap_or(u64::MAX) > bytes_max {
        return None;
    }
    // A process may name itself with any bytes; the numbers beside the name are still good.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn ourselves() -> Watched {
        Watched { pid: std::process::id(), role: Some("m1".to_owned()) }
    }

    #[test]
    fn this_node_and_this_process_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _server = listener.accept().unwrap();
        let reader =
            Reader::new(PathBuf::from("/"), vec![PathBuf::from("/tmp"), PathBuf::from("/no/such/path")]);
        let gone = Watched { pid: u32::MAX, role: None };
        let fact = reader.read(&[ourselves(), gone]).unwrap();
        assert!(fact.cpus > 0 && fact.cpu.idle_ns > 0);
        assert!(fact.memory_available_bytes > 0 && fact.memory_available_bytes <= fact.memory_total_bytes);
        let [process] = fact.processes.as_slice() else { panic!("{:?}", fact.processes) };
        assert_eq!(process.role.as_deref(), Some("m1"));
        assert!(process.rss_bytes > 1 << 20 && process.threads > 0 && process.started_ticks > 0);
        assert!(process.fds.is_some_and(|fds| fds > 3));
        assert!(process.connections.is_some_and(|connections| connections >= 2), "{process:?}");
        // Whichever version this machine has, and wherever its trees are mounted: it accounts for memory or CPU.
        let group = process.cgroup.as_ref().expect("a group");
        assert!(group.path.starts_with('/') && (group.cpu.is_some() || group.memory.is_some()), "{group:?}");
        let [filesystem] = fact.filesystems.as_slice() else { panic!("{:?}", fact.filesystems) };
        assert!(filesystem.path == "/tmp" && filesystem.total_bytes >= filesystem.available_bytes);
    }

    #[test]
    fn a_network_is_read_once_for_all_processes_in_it() {
        let root = std::env::temp_dir().join(format!("backburn-networks-{}", std::process::id()));
        let line = |inode: u64| format!("0: 0:1 0:2 01 0:0 0:0 0 0 0 {inode} 1\n");
        for (pid, namespace, inode) in [("7", "net:[1]", 70), ("8", "net:[1]", 71), ("9", "net:[2]", 72)] {
            let dir = root.join(pid);
            fs::create_dir_all(dir.join("ns")).unwrap();
            fs::create_dir_all(dir.join("net")).unwrap();
            std::os::unix::fs::symlink(namespace, dir.join("ns/net")).unwrap();
            fs::write(dir.join("net/tcp"), format!("head\n{}", line(inode))).unwrap();
        }
        let mut networks = Networks::default();
        let mut count = |pid: &str, inodes: &[u64]| {
            networks.connections(&root.join(pid), &inodes.iter().copied().collect())
        };
        assert_eq!(count("7", &[70, 71]), Some(1));
        assert_eq!(count("8", &[70, 71]), Some(1), "what 7 was told of the same namespace");
        assert_eq!(count("9", &[70, 72]), Some(1), "another namespace");
        assert_eq!(count("9", &[70]), Some(0));
        assert_eq!(count("10", &[70]), None, "no such process");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_root_with_little_in_it_gives_little_and_one_without_stat_nothing() {
        let root = std::env::temp_dir().join(format!("backburn-host-{}", std::process::id()));
        fs::create_dir_all(root.join("proc/7/fd")).unwrap();
        fs::create_dir_all(root.join("sys/block/vda")).unwrap();
        let put = |path: &str, text: &str| fs::write(root.join(path), text).unwrap();
        let reader = Reader::new(root.clone(), Vec::new());
        assert_eq!(reader.read(&[]), Err(HostError::NoStat));
        put("proc/stat", "cpu 1 1 1 1\ncpu0 1 1 1 1\n");
        assert_eq!(reader.read(&[]), Err(HostError::NoMeminfo));
        put("proc/meminfo", "MemTotal: 2 kB\nMemAvailable: 1 kB\n");
        put("proc/diskstats", "1 0 vda 1 0 0 0 1 0 0 0 0 0 0\n1 1 vda1 1 0 0 0 1 0 0 0 0 0 0\n");
        put("proc/7/stat", "7 (etcd) S 1 1 1 0 -1 1 1 0 1 0 3 4 0 0 20 0 5 0 99 1 2 3\n");
        let watched = [Watched { pid: 7, role: None }];
        let fact = reader.read(&watched).unwrap();
        assert_eq!((fact.cpus, fact.memory_total_bytes, fact.pressure), (1, 2048, None));
        assert_eq!(fact.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["vda"]);
        let process = &fact.processes[0];
        assert_eq!((process.threads, process.started_ticks, process.fds), (5, 99, Some(0)));
        assert_eq!(process.connections, None, "no net/tcp");
        put("proc/7/stat", &"7".repeat(5000));
        assert!(reader.read(&watched).unwrap().processes.is_empty(), "too long for what it is");
        fs::remove_dir_all(&root).unwrap();
    }
}

//! The control groups of one root: where a process's group lies, and which of its ancestors sets the limit.
//!
//! Owns the way from a process to the files of its group, in version 2 and, where a machine still has it, version 1. A file
//! that is missing is a state: controllers are switched on one by one, and the node's own group has few of them.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use model::host::{Cgroup, CgroupCpu, CgroupIo, CgroupMemory};

use super::parse::cgroup as parse;
use super::read::bounded;

/// Files of a group are a few lines; `io.stat` has one a device.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Groups between one and the root: systemd and Kubernetes nest five to seven deep.
const DEPTH_MAX: usize = 16;

/// Groups looked at for one process whose path is told from within another namespace: a full node has some 1,500.
const SEEK_MAX: usize = 4_096;

/// One life of a process.
type Life = (u32, u64);

/// The groups below one root.
#[derive(Debug)]
pub(super) struct Groups {
    /// `proc` is here.
    root: PathBuf,
    /// `sys/fs/cgroup`.
    mount: PathBuf,
    /// Groups that had to be sought, by process; `None` is one that was not found.
    sought: Mutex<BTreeMap<Life, Option<PathBuf>>>,
}

impl Groups {
    pub(super) fn new(root: &Path) -> Groups {
        Groups { root: root.to_owned(), mount: root.join("sys/fs/cgroup"), sought: Mutex::default() }
    }

    /// The group that is the root of what is mounted.
    pub(super) fn of_node(&self) -> Option<Cgroup> {
        if self.is_unified() {
            return unified("/", &self.mount, &self.mount);
        }
        let root = Some("/".to_owned());
        let [cpu, cpuacct, memory, blkio] = [(); 4].map(|()| root.clone());
        self.version_1(&parse::Paths { unified: None, cpu, cpuacct, memory, blkio })
    }

    /// The group of a process; `None` where nothing of it can be read.
    pub(super) fn of(&self, life: Life) -> Option<Cgroup> {
        let file = self.root.join("proc").join(life.0.to_string()).join("cgroup");
        let paths = parse::paths(&bounded(&file, FILE_BYTES_MAX)?);
        if !self.is_unified() {
            return self.version_1(&paths);
        }
        let path = paths.unified?;
        let dir = if path.starts_with("/..") { self.seek(life, &path)? } else { below(&self.mount, &path) };
        unified(&path, &dir, &self.mount)
    }

    /// Forgets processes that are not watched any more.
    pub(super) fn retain(&self, watched: impl Fn(u32) -> bool) {
        self.sought.lock().unwrap_or_else(PoisonError::into_inner).retain(|(pid, _), _| watched(*pid));
    }

    fn is_unified(&self) -> bool {
        self.mount.join("cgroup.controllers").exists()
    }

    /// In a namespace of its own the agent is told paths from its own group on (`/../../kubepods.slice/…`), whose place in the
    /// tree it does not know. Where the host's tree is mounted, the group is the one that ends so and lists the process.
    fn seek(&self, life: Life, path: &str) -> Option<PathBuf> {
        let mut sought = self.sought.lock().unwrap_or_else(PoisonError::into_inner);
        sought.entry(life).or_insert_with(|| seek(&self.mount, path, life.0)).clone()
    }

    fn version_1(&self, paths: &parse::Paths) -> Option<Cgroup> {
        let group = |controller: &str, path: &Option<String>| {
            let mount = self.mount.join(controller);
            Some((below(&mount, path.as_deref()?), mount))
        };
        let cpu = group("cpu", &paths.cpu).and_then(|(own, mount)| {
            let limit = |dir: &Path| {
                parse::millicpus(&file(dir, "cpu.cfs_quota_us")?, &file(dir, "cpu.cfs_period_us")?)
            };
            let (dir, limit_millicpus) = nearest(&own, &mount, limit);
            let stat = parse::cpu_stat(&file(&dir, "cpu.stat")?);
            // The accounts lie in a hierarchy of the same shape, often in the same one.
            let accounts = self.mount.join("cpuacct").join(dir.strip_prefix(&mount).ok()?);
            let usage_ns = file(&accounts, "cpuacct.usage").and_then(|text| text.trim().parse().ok());
            Some(CgroupCpu { usage_ns, limit_millicpus, ..stat })
        });
        let memory = group("memory", &paths.memory).and_then(|(own, mount)| {
            let limit = |dir: &Path| parse::limit(&file(dir, "memory.limit_in_bytes")?);
            let (dir, limit_bytes) = nearest(&own, &mount, limit);
            Some(CgroupMemory {
                usage_bytes: file(&dir, "memory.usage_in_bytes")?.trim().parse().ok()?,
                limit_bytes,
                limit_hits: file(&dir, "memory.failcnt").and_then(|text| text.trim().parse().ok()),
                oom_kills: file(&dir, "memory.oom_control").and_then(|text| parse::value(&text, "oom_kill")),
            })
        });
        let io = group("blkio", &paths.blkio)
            .and_then(|(own, _)| Some(parse::blkio(&file(&own, "blkio.throttle.io_service_bytes")?)));
        let path = paths.cpu.as_ref().or(paths.memory.as_ref()).or(paths.blkio.as_ref())?;
        some(path, (cpu, memory, io))
    }
}

/// A group of version 2 in `own`, below `mount`.
fn unified(path: &str, own: &Path, mount: &Path) -> Option<Cgroup> {
    let (dir, limit_millicpus) = nearest(own, mount, |dir| parse::cpu_max(&file(dir, "cpu.max")?));
    let cpu = file(&dir, "cpu.stat").map(|text| CgroupCpu { limit_millicpus, ..parse::cpu_stat(&text) });
    let (dir, limit_bytes) = nearest(own, mount, |dir| parse::limit(&file(dir, "memory.max")?));
    let memory = file(&dir, "memory.current").and_then(|usage| {
        let events = file(&dir, "memory.events").unwrap_or_default();
        Some(CgroupMemory {
            usage_bytes: usage.trim().parse().ok()?,
            limit_bytes,
            limit_hits: parse::value(&events, "max"),
            oom_kills: parse::value(&events, "oom_kill"),
        })
    });
    let io = file(own, "io.stat").map(|text| parse::io_stat(&text));
    some(path, (cpu, memory, io))
}

fn some(
    path: &str,
    (cpu, memory, io): (Option<CgroupCpu>, Option<CgroupMemory>, Option<CgroupIo>),
) -> Option<Cgroup> {
    let any = cpu.is_some() || memory.is_some() || io.is_some();
    any.then(|| Cgroup { path: path.to_owned(), cpu, memory, io })
}

/// The nearest group that has such a limit, and the limit; without one, the group itself.
fn nearest(own: &Path, mount: &Path, limit: impl Fn(&Path) -> Option<u64>) -> (PathBuf, Option<u64>) {
    let up = own.ancestors().take(DEPTH_MAX).take_while(|dir| dir.starts_with(mount));
    let limited = up.filter_map(|dir| Some((dir.to_owned(), limit(dir)?))).next();
    limited.map_or_else(|| (own.to_owned(), None), |(dir, limit)| (dir, Some(limit)))
}

/// Breadth first, so that what lies near the root is found before a crowd of pods is walked.
fn seek(mount: &Path, path: &str, pid: u32) -> Option<PathBuf> {
    let tail: PathBuf =
        Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let line = pid.to_string();
    let mut dirs = VecDeque::from([mount.to_owned()]);
    for _ in 0..SEEK_MAX {
        let dir = dirs.pop_front()?;
        let candidate = dir.join(&tail);
        let lists = |text: String| text.lines().any(|known| known == line);
        if file(&candidate, "cgroup.procs").is_some_and(lists) {
            return Some(candidate);
        }
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.extend(groups.take(SEEK_MAX.saturating_sub(dirs.len())).map(|entry| entry.path()));
    }
    None
}

/// A path of the hierarchy under its mount; nothing in it leads out again.
fn below(mount: &Path, path: &str) -> PathBuf {
    let parts = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    parts.fold(mount.to_owned(), |dir, part| dir.join(part))
}

fn file(dir: &Path, name: &str) -> Option<String> {
    bounded(&dir.join(name), FILE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::fixture::Tree;

    const POD: &str = "sys/fs/cgroup/kubepods.slice/pod1";

    /// A node of version 2 with etcd (pid 42) in a container without a CPU limit, in a pod with one.
    fn pod(name: &str, told: &str) -> Tree {
        let tree = Tree::new(name);
        tree.file("sys/fs/cgroup/cgroup.controllers", "cpu io memory\n")
            .file("sys/fs/cgroup/cpu.stat", "usage_usec 900\n")
            .file("proc/42/cgroup", &format!("0::{told}\n"))
            .file(&format!("{POD}/cpu.max"), "50000 100000\n")
            .file(
                &format!("{POD}/cpu.stat"),
                "usage_usec 8\nnr_periods 10\nnr_throttled 4\nthrottled_usec 70\n",
            )
            .file(&format!("{POD}/etcd/cgroup.procs"), "41\n42\n")
            .file(&format!("{POD}/etcd/cpu.max"), "max 100000\n")
            .file(
                &format!("{POD}/etcd/cpu.stat"),
                "usage_usec 5\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
            )
            .file(&format!("{POD}/etcd/memory.max"), "2147483648\n")
            .file(&format!("{POD}/etcd/memory.current"), "1000\n")
            .file(&format!("{POD}/etcd/memory.events"), "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n")
            .file(&format!("{POD}/etcd/io.stat"), "8:0 rbytes=1 wbytes=2 rios=1 wios=1\n");
        tree
    }

    fn check(tree: &Tree) {
        let group = Groups::new(tree.root()).of((42, 7)).expect("a group");
        let cpu = CgroupCpu {
            usage_ns: Some(8_000),
            limit_millicpus: Some(500),
            periods: 10,
            throttled_periods: 4,
            throttled_ns: 70_000,
        };
        assert_eq!(group.cpu, Some(cpu), "the pod's: its limit throttles");
        let memory = CgroupMemory {
            usage_bytes: 1_000,
            limit_bytes: Some(2 << 30),
            limit_hits: Some(3),
            oom_kills: Some(1),
        };
        assert_eq!(group.memory, Some(memory));
        assert_eq!(group.io, Some(CgroupIo { read_bytes: 1, write_bytes: 2 }));
    }

    #[test]
    fn the_limit_that_throttles_may_be_an_ancestors() {
        check(&pod("cgroup-pod", "/kubepods.slice/pod1/etcd"));
    }

    #[test]
    fn a_group_told_from_another_namespace_is_sought_by_its_end_and_its_process() {
        let tree = pod("cgroup-namespace", "/../../pod1/etcd");
        // Of the same name, elsewhere, with others in it.
        tree.file("sys/fs/cgroup/a.slice/pod1/etcd/cgroup.procs", "4\n421\n");
        check(&tree);
        let groups = Groups::new(tree.root());
        assert!(groups.of((42, 7)).is_some());
        tree.file(&format!("{POD}/etcd/cgroup.procs"), "");
        assert!(groups.of((42, 7)).is_some(), "found once is found");
        assert!(groups.of((42, 8)).is_none(), "another life is sought anew");
        groups.retain(|_| false);
        assert!(groups.of((42, 7)).is_none());
    }

    #[test]
    fn version_1_has_a_tree_a_controller() {
        let tree = Tree::new("cgroup-1");
        tree.file("proc/42/cgroup", "3:memory:/app\n2:cpuacct:/x\n1:cpu:/app/etcd\n0::/\n")
            .file("sys/fs/cgroup/cpu/app/cpu.cfs_quota_us", "20000\n")
            .file("sys/fs/cgroup/cpu/app/cpu.cfs_period_us", "100000\n")
            .file("sys/fs/cgroup/cpu/app/cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 55\n")
            .file("sys/fs/cgroup/cpu/app/etcd/cpu.cfs_quota_us", "-1\n")
            .file("sys/fs/cgroup/cpu/app/etcd/cpu.cfs_period_us", "100000\n")
            .file("sys/fs/cgroup/cpuacct/app/cpuacct.usage", "1234\n")
            .file("sys/fs/cgroup/memory/app/memory.usage_in_bytes", "10\n")
            .file("sys/fs/cgroup/memory/app/memory.limit_in_bytes", "9223372036854771712\n")
            .file("sys/fs/cgroup/memory/app/memory.failcnt", "0\n")
            .file(
                "sys/fs/cgroup/memory/app/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            );
        let group = Groups::new(tree.root()).of((42, 7)).expect("a group");
        let cpu = CgroupCpu {
            usage_ns: Some(1_234),
            limit_millicpus: Some(200),
            periods: 9,
            throttled_periods: 3,
            throttled_ns: 55,
        };
        assert_eq!((group.path.as_str(), group.cpu), ("/app/etcd", Some(cpu)));
        let memory =
            CgroupMemory { usage_bytes: 10, limit_bytes: None, limit_hits: Some(0), oom_kills: Some(2) };
        assert_eq!((group.memory, group.io), (Some(memory), None));
    }

    #[test]
    fn what_is_missing_is_none_and_no_path_leads_out() {
        let tree = Tree::new("cgroup-none");
        let groups = Groups::new(tree.root());
        assert_eq!((groups.of((42, 7)), groups.of_node()), (None, None));
        tree.file("proc/42/cgroup", "0::/a/../../../etc\n1:cpu:/../../../etc\n");
        assert_eq!(groups.of((42, 7)), None);
        tree.file("sys/fs/cgroup/cgroup.controllers", "").file("sys/fs/cgroup/cpu.stat", "usage_usec 1\n");
        let node = groups.of_node().expect("the node's");
        assert_eq!(node.cpu.and_then(|cpu| cpu.usage_ns), Some(1_000));
        assert!(below(Path::new("/m"), "/../../etc/../x").starts_with("/m"));
    }
}

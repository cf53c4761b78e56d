//! From a cgroup's path to the container, the pod and the runtime it stands for.
//!
//! Owns the spellings of docker, containerd, cri-o, podman and the kubelet, and the table of cgroups by the number that
//! samples carry. Refuses to ask a runtime: the path is all there is, and it is enough.

use std::collections::HashMap;
use std::sync::Arc;

/// Cgroups known at a time: a node has a few hundred. When it is full those that no process is in go first.
const CGROUPS_MAX: usize = 8192;
/// Longest path kept, the kernel's own limit.
const PATH_BYTES_MAX: usize = 4096;
/// A container's id in hexadecimal.
const ID_DIGITS: usize = 64;

/// What started the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Containerd.
    Containerd,
    /// Cri-o.
    CriO,
    /// Podman.
    Podman,
    /// The path does not say.
    Unknown,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// What started it.
    pub runtime: Runtime,
    /// The uid of its pod, with dashes.
    pub pod_uid: Option<String>,
}

/// A cgroup.
#[derive(Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Below the root of its hierarchy.
    pub path: String,
    /// What it belongs to, if to a container.
    pub container: Option<Container>,
}

impl Cgroup {
    /// From a path.
    #[must_use]
    pub fn new(path: &str) -> Cgroup {
        let end = path.floor_char_boundary(PATH_BYTES_MAX);
        let path = path.get(..end).unwrap_or_default();
        Cgroup { path: path.to_owned(), container: container(path) }
    }

    /// From /proc/PID/cgroup: the line that names a container, else the one hierarchy of v2, else the first.
    #[must_use]
    pub fn of_process(text: &str) -> Option<Cgroup> {
        let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let contained = paths().find(|path| container(path).is_some());
        let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
        // On a mixed machine the second hierarchy often knows only its root.
        let unified = unified.filter(|path| *path != "/");
        contained.or(unified).or_else(|| paths().next()).map(Cgroup::new)
    }
}

/// The innermost container in a path.
fn container(path: &str) -> Option<Container> {
    let (id, runtime) = path.rsplit('/').find_map(|part| named(part, path))?;
    Some(Container { id: id.to_owned(), runtime, pod_uid: path.split('/').rev().find_map(pod_uid) })
}

/// The id in one part of a path: bare, or between what runtime and systemd write around it.
fn named<'p>(part: &'p str, path: &str) -> Option<(&'p str, Runtime)> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    // `slice:runtime:id`, where the runtime did not ask systemd.
    let part = part.rsplit_once(':').map_or(part, |(_, id)| id);
    let id = part.get(part.len().checked_sub(ID_DIGITS)?..)?;
    if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let runtime = match part.get(..part.len() - ID_DIGITS)? {
        "docker-" => Runtime::Docker,
        "cri-containerd-" | "containerd-" | "nerdctl-" => Runtime::Containerd,
        "crio-" => Runtime::CriO,
        "libpod-" => Runtime::Podman,
        "" => bare(path),
        // The monitor of a container is not in it: crio-conmon-, libpod-conmon-.
        _ => return None,
    };
    Some((id, runtime))
}

/// An id without a prefix: somebody else in the path says whose it is.
fn bare(path: &str) -> Runtime {
    let says = [
        ("docker", Runtime::Docker),
        ("cri-containerd", Runtime::Containerd),
        ("crio", Runtime::CriO),
        ("libpod", Runtime::Podman),
    ];
    let said = says.iter().find(|(word, _)| path.split(['/', ':']).any(|part| part.starts_with(word)));
    said.map_or(Runtime::Unknown, |(_, runtime)| *runtime)
}

/// `pod<uid>` of the kubelet, or `kubepods-…-pod<uid with underscores>.slice` of systemd.
fn pod_uid(part: &str) -> Option<String> {
    let part = part.split(':').next().unwrap_or(part);
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let (before, uid) = part.rsplit_once("pod")?;
    let is_pod = before.is_empty() || (before.starts_with("kubepods") && before.ends_with('-'));
    let uid = uid.replace('_', "-");
    // Static pods have the 32 digits of a hash instead.
    let is_uid = uid.len() == 36 && uid.bytes().filter(|byte| *byte == b'-').count() == 4;
    let is_hash = uid.len() == 32;
    let is_hex = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (is_pod && is_hex && (is_uid || is_hash)).then_some(uid)
}

/// Cgroups by the number that samples carry.
#[derive(Debug, Default)]
pub struct Cgroups {
    known: HashMap<u64, Arc<Cgroup>>,
}

impl Cgroups {
    /// What is known of one.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Arc<Cgroup>> {
        self.known.get(&id)
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

    /// One that was made, or found. A number comes again only after its cgroup has gone, so the newer one is right.
    pub fn put(&mut self, id: u64, cgroup: Arc<Cgroup>) {
        if self.known.len() >= CGROUPS_MAX {
            self.known.retain(|_, cgroup| Arc::strong_count(cgroup) > 1);
        }
        if self.known.len() < CGROUPS_MAX {
            self.known.insert(id, cgroup);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{CGROUPS_MAX, Cgroup, Cgroups, Runtime, container};

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn a_path_tells_container_pod_and_runtime() {
        let check = |path: &str, runtime: Runtime, pod: Option<&str>| {
            let path = path.replace("ID", ID).replace("POD_", &UID.replace('-', "_")).replace("POD", UID);
            let found = container(&path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((found.id.as_str(), found.runtime), (ID, runtime), "{path}");
            assert_eq!(found.pod_uid.as_deref(), pod, "{path}");
        };
        let pod = Some(UID);
        check("/docker/ID", Runtime::Docker, None);
        check("/system.slice/docker-ID.scope", Runtime::Docker, None);
        check("/system.slice/docker-ID.scope/init", Runtime::Docker, None);
        check(
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            Runtime::Podman,
            None,
        );
        check("/libpod_parent/libpod-ID/container", Runtime::Podman, None);
        check("/machine.slice/libpod-ID.scope/container", Runtime::Podman, None);
        check("/kubepods/burstable/podPOD/ID", Runtime::Unknown, pod);
        check("/kubepods/podPOD/crio-ID", Runtime::CriO, pod);
        let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice";
        check(&format!("{slice}/cri-containerd-ID.scope"), Runtime::Containerd, pod);
        check(&format!("{slice}/crio-ID.scope"), Runtime::CriO, pod);
        check(&format!("{slice}/docker-ID.scope"), Runtime::Docker, pod);
        check(
            "/system.slice/containerd.service/kubepods-besteffort-podPOD_.slice:cri-containerd:ID",
            Runtime::Containerd,
            pod,
        );
        check(
            "/kubepods/besteffort/pod0123456789abcdef0123456789abcdef/ID",
            Runtime::Unknown,
            Some(&ID[..32]),
        );
        check("/../../kubepods/podPOD/ID", Runtime::Unknown, pod);
        // In a container of a container the inner one counts.
        check(&format!("/docker/{}/docker/ID", "f".repeat(64)), Runtime::Docker, None);
    }

    #[test]
    fn what_is_no_container_is_none() {
        let check = |path: &str| assert_eq!(container(&path.replace("ID", ID)), None, "{path}");
        check("/");
        check("");
        check("/system.slice/etcd.service");
        check("/machine.slice/libpod-conmon-ID.scope");
        check("/kubepods.slice/crio-conmon-ID.scope");
        check("/system.slice/docker-0123.scope");
        check("/system.slice/xID");
        check("/ž0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde");
    }

    #[test]
    fn the_line_of_a_process_that_says_most_counts() {
        let path = |text: &str| Cgroup::of_process(&text.replace("ID", ID)).map(|cgroup| cgroup.path);
        assert_eq!(path("0::/system.slice/etcd.service\n"), Some("/system.slice/etcd.service".into()));
        let mixed = "9:name=systemd:/\n4:memory:/docker/ID\n0::/\n";
        assert_eq!(path(mixed), Some(format!("/docker/{ID}")));
        assert_eq!(path("4:memory:/a\n0::/b\n"), Some("/b".into()));
        assert_eq!(path("4:memory:/a\n0::/\n"), Some("/a".into()));
        assert_eq!(path(""), None);
    }

    #[test]
    fn cgroups_without_processes_make_room() {
        let mut cgroups = Cgroups::default();
        let held = Arc::new(Cgroup::new("/held"));
        cgroups.put(1, Arc::clone(&held));
        for id in 2..20_000 {
            cgroups.put(id, Arc::new(Cgroup::new("/gone")));
            assert!(cgroups.len() <= CGROUPS_MAX);
        }
        assert_eq!(cgroups.get(1), Some(&held));
        assert!(cgroups.get(19_999).is_some());
    }
}

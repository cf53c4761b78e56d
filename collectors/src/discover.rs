//! Finds the etcd members of this node without configuration; reads only. Looks at processes, then at the usual addresses and
//! certificates, and says where it looked, what it may not do and why. Refuses to guess names over DNS and to write anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::target::Target;

use url::Url;

pub(crate) mod certificates;
pub(crate) mod flags;
pub(crate) mod process;
mod reach;
pub(crate) mod url;

pub(crate) mod compose;
#[cfg(test)]
pub(crate) mod fixture;

pub use reach::probe_reachable;

/// Members taken from one node: a node runs one, a test machine three.
const TARGETS_MAX: usize = 16;

/// The node as discovery sees it; a test hands in a directory tree.
#[derive(Clone, Debug)]
pub struct Environment {
    /// What stands before `/proc` and `/etc`: `/`, or where a container has the host's root mounted.
    pub root: PathBuf,
    /// Environment variables (`ETCDCTL_*`).
    pub vars: BTreeMap<String, String>,
    /// The node's name.
    pub node: String,
}

impl Environment {
    /// This node, with the agent's own environment variables.
    #[must_use]
    pub fn system(node: &str) -> Environment {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        let vars = std::env::vars_os().filter_map(text).collect();
        Environment { root: PathBuf::from("/"), vars, node: node.to_owned() }
    }

    /// A path of the node, under the root.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// One place where discovery looked, and what it saw there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// A path, an address or a variable.
    pub where_: String,
    /// What was seen.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Members found by their processes, or answering at an address.
    pub targets: Vec<Target>,
    /// Members that may be there: addresses to try with [`probe_reachable`].
    pub candidates: Vec<Target>,
    /// Where it looked.
    pub looked_at: Vec<Looked>,
    /// What may not be done, and why.
    pub notes: Vec<String>,
}

impl Discovery {
    fn look(&mut self, where_: impl Into<String>, what: impl Into<String>) {
        self.looked_at.push(Looked { where_: where_.into(), what: what.into() });
    }

    /// Takes candidates that were reached before as they were then: nobody is asked again. Whether they still answer is
    /// what scrapes and probes say.
    #[must_use]
    pub fn remember(mut self, known: &[Target]) -> Discovery {
        for candidate in std::mem::take(&mut self.candidates) {
            let is_met = |met: &&Target| met.pid == candidate.pid && authority(met) == authority(&candidate);
            let met = known.iter().find(is_met);
            match met {
                Some(met) => compose::push(&mut self.targets, met.clone()),
                None => self.candidates.push(candidate),
            }
        }
        self
    }

    /// All of it, a line each, for people: members, limits, places.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.targets.iter().map(describe_target).collect();
        if lines.is_empty() {
            lines.push("no etcd member on this node".to_owned());
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines.extend(
            self.looked_at.iter().map(|looked| format!("looked at {}: {}", looked.where_, looked.what)),
        );
        lines
    }
}

/// Host and port that clients use.
fn authority(target: &Target) -> Option<String> {
    Some(Url::parse(target.client_url.as_deref()?)?.authority())
}

fn describe_target(target: &Target) -> String {
    let text = |value: &Option<String>, none: &str| value.clone().unwrap_or_else(|| none.to_owned());
    let path = |value: &Option<PathBuf>| {
        value.as_ref().map_or("unknown".to_owned(), |path| path.display().to_string())
    };
    let pid = target.pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
    let certificate = match &target.tls.cert {
        Some(cert) => format!(" with {}", cert.display()),
        None => String::new(),
    };
    format!(
        "member {}{pid}: client {}{certificate}, metrics {}, pprof {}, data {}, log {}",
        target.name,
        text(&target.client_url, "not asked"),
        text(&target.metrics_url, "not scraped"),
        text(&target.pprof_url, "off"),
        path(&target.data_dir),
        path(&target.log_file),
    )
}

/// Looks for the members of this node. Reads `/proc`, certificates' metadata and variables; asks nobody: what may answer at
/// the usual addresses is left in `candidates` for [`probe_reachable`].
#[must_use]
pub fn find(environment: &Environment) -> Discovery {
    let mut discovery = Discovery::default();
    let pairs = certificates::find(environment, &mut discovery);
    let found = process::members(environment, &mut discovery);
    let (apart, ours): (Vec<_>, Vec<_>) =
        found.iter().take(TARGETS_MAX).partition(|process| process::is_apart(&environment.root, process.pid));
    for process in ours {
        let target = compose::from_process(environment, process, &pairs, &mut discovery.notes);
        compose::push(&mut discovery.targets, target);
    }
    compose::candidates(environment, &pairs, &mut discovery);
    for process in apart {
        let target = compose::from_process(environment, process, &pairs, &mut Vec::new());
        elsewhere(target, &mut discovery);
    }
    discovery
}

/// A member with a network of its own, in a pod or a container: its address there may be somebody else's here. It is watched
/// where one answers that no member of ours has, as published ports do.
fn elsewhere(target: Target, discovery: &mut Discovery) {
    let (pid, address) = (target.pid.unwrap_or_default(), authority(&target));
    let is_taken = |known: &Target| authority(known) == address;
    let what = if address.is_none() || discovery.targets.iter().any(is_taken) {
        "not watched"
    } else {
        discovery.candidates.retain(|candidate| !is_taken(candidate));
        compose::push(&mut discovery.candidates, target);
        "watched only where its address answers from here"
    };
    discovery.notes.push(format!(
        "an etcd (pid {pid}) has a network of its own and is {what}; etcd.members names one that is meant"
    ));
}

#[cfg(test)]
mod tests {
    use super::fixture::Tree;
    use super::*;

    fn environment(tree: &Tree, vars: &[(&str, &str)]) -> Environment {
        let vars = vars.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Environment { root: tree.root().to_owned(), vars, node: "node-1".to_owned() }
    }

    fn only(discovery: &Discovery) -> &Target {
        assert_eq!(discovery.targets.len(), 1, "{:#?}", discovery.describe());
        &discovery.targets[0]
    }

    fn with_pki(tree: &Tree) {
        for file in ["ca.crt", "healthcheck-client.crt", "healthcheck-client.key"] {
            tree.file(&format!("/etc/kubernetes/pki/etcd/{file}"), "PEM");
        }
    }

    const KUBEADM: [&str; 14] = [
        "etcd",
        "--advertise-client-urls=https://10.0.0.5:2379",
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
        "--client-cert-auth=true",
        "--data-dir=/var/lib/etcd",
        "--experimental-initial-corrupt-check=true",
        "--key-file=/etc/kubernetes/pki/etcd/server.key",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.5:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=https://10.0.0.5:2380",
        "--name=cp-1",
        "--peer-client-cert-auth=true",
        "--snapshot-count=10000",
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
    ];

    #[test]
    fn kubeadm_is_found_with_the_certificate_made_for_probing() {
        let tree = Tree::new("kubeadm");
        with_pki(&tree);
        tree.process(1, &["/sbin/init"], &[], 1).process(812, &KUBEADM, &[], 99);
        let discovery = find(&environment(&tree, &[]));
        let target = only(&discovery);
        assert_eq!(target.name, "cp-1");
        assert_eq!(target.client_url.as_deref(), Some("https://127.0.0.1:2379"));
        assert_eq!(target.metrics_url.as_deref(), Some("http://127.0.0.1:2381/metrics"));
        assert_eq!(target.pprof_url, None);
        assert_eq!(target.pid, Some(812));
        assert!(target.local);
        let cert = target.tls.cert.as_ref().expect("a certificate");
        assert!(cert.ends_with("etc/kubernetes/pki/etcd/healthcheck-client.crt"), "{cert:?}");
        assert!(target.tls.ca.as_ref().is_some_and(|ca| ca.ends_with("pki/etcd/ca.crt")));
        let lines = discovery.describe().join("\n");
        assert!(lines.contains("cp-1") && lines.contains("--enable-pprof"), "{lines}");
    }

    #[test]
    fn without_a_readable_certificate_the_member_is_scraped_and_not_probed() {
        let tree = Tree::new("kubeadm-closed");
        tree.process(812, &KUBEADM, &[], 99);
        let discovery = find(&environment(&tree, &[]));
        let target = only(&discovery);
        assert_eq!(target.client_url, None);
        assert_eq!(target.metrics_url.as_deref(), Some("http://127.0.0.1:2381/metrics"));
        let lines = discovery.describe().join("\n");
        assert!(lines.contains("client certificate") && lines.contains("healthcheck-client.crt"), "{lines}");
    }

    #[test]
    fn k3s_with_its_own_etcd_is_found() {
        let tree = Tree::new("k3s");
        for file in ["server-ca.crt", "server-client.crt", "server-client.key"] {
            tree.file(&format!("/var/lib/rancher/k3s/server/tls/etcd/{file}"), "PEM");
        }
        tree.file("/var/lib/rancher/k3s/server/db/etcd/name", "k3s-1-0d2d\n");
        tree.process(700, &["/usr/local/bin/k3s server"], &[], 5);
        let discovery = find(&environment(&tree, &[]));
        let target = only(&discovery);
        assert_eq!(target.name, "k3s-1-0d2d");
        assert_eq!(target.client_url.as_deref(), Some("https://127.0.0.1:2379"));
        assert_eq!(target.metrics_url.as_deref(), Some("http://127.0.0.1:2381/metrics"));
        assert!(target.tls.cert.as_ref().is_some_and(|cert| cert.ends_with("tls/etcd/server-client.crt")));
    }

    #[test]
    fn k3s_on_another_store_is_no_member() {
        let tree = Tree::new("k3s-sqlite");
        tree.process(700, &["/usr/local/bin/k3s", "server"], &[], 5);
        let discovery = find(&environment(&tree, &[]));
        assert!(discovery.targets.is_empty());
        assert!(discovery.notes.iter().any(|note| note.contains("k3s")), "{:?}", discovery.notes);
    }

    #[test]
    fn a_plain_unit_is_found_by_flags_and_environment() {
        let tree = Tree::new("systemd");
        tree.process(
            42,
            &["/usr/bin/etcd", "--name", "m2", "--enable-pprof", "--log-outputs", "stderr,/var/log/etcd.log"],
            &[
                "ETCD_NAME=loses",
                "ETCD_DATA_DIR=/var/lib/etcd/default",
                "ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2479",
            ],
            7,
        );
        let discovery = find(&environment(&tree, &[]));
        let target = only(&discovery);
        assert_eq!(target.name, "m2");
        assert_eq!(target.client_url.as_deref(), Some("http://127.0.0.1:2479"));
        assert_eq!(target.metrics_url.as_deref(), Some("http://127.0.0.1:2479/metrics"));
        assert_eq!(target.pprof_url.as_deref(), Some("http://127.0.0.1:2479"));
        assert_eq!(target.data_dir.as_deref(), Some(Path::new("/var/lib/etcd/default")));
        assert_eq!(target.log_file.as_deref(), Some(Path::new("/var/log/etcd.log")));
    }

    #[test]
    fn an_environment_that_is_not_ours_to_read_is_sought_in_its_file() {
        let tree = Tree::new("environment-file");
        tree.file("proc/42/cmdline", "/usr/bin/etcd\0");
        let discovery = find(&environment(&tree, &[]));
        assert_eq!(only(&discovery).client_url.as_deref(), Some("http://127.0.0.1:2379"));
        assert!(discovery.notes.iter().any(|note| note.contains("not readable")), "{:?}", discovery.notes);
        tree.file(
            "etc/default/etcd",
            "# ETCD_NAME=no\nETCD_NAME=\"deb\"\nexport ETCD_LISTEN_CLIENT_URLS='http://10.9.8.7:1'\n",
        );
        let discovery = find(&environment(&tree, &[]));
        assert_eq!(only(&discovery).name, "deb");
        assert_eq!(only(&discovery).client_url.as_deref(), Some("http://10.9.8.7:1"));
        assert!(
            discovery.notes.iter().any(|note| note.contains("/etc/default/etcd")),
            "{:?}",
            discovery.notes
        );
    }

    #[test]
    fn three_members_on_one_machine_keep_their_names_apart() {
        let tree = Tree::new("three");
        for (pid, port) in [(10, "2379"), (11, "2479"), (12, "2579")] {
            let url = format!("http://127.0.0.1:{port}");
            tree.process(pid, &["etcd", "-listen-client-urls", &url], &[], 7);
            tree.link(&format!("proc/{pid}/fd/2"), &format!("{}/etcd-{port}.log", tree.root().display()));
            tree.file(&format!("etcd-{port}.log"), "{}");
        }
        let discovery = find(&environment(&tree, &[]));
        let names: Vec<&str> = discovery.targets.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(names, ["127.0.0.1:2379", "127.0.0.1:2479", "127.0.0.1:2579"]);
        assert!(discovery.targets.iter().all(|target| target.log_file.is_some()));
    }

    #[test]
    fn the_loopback_of_another_network_is_not_ours() {
        let tree = Tree::new("apart");
        let etcd = |pid: u32, port: &str, network: &str| {
            let url = format!("--listen-client-urls=http://0.0.0.0:{port}");
            tree.process(pid, &["etcd", &url, &format!("--name=m{pid}")], &[], 7);
            tree.link(&format!("proc/{pid}/ns/net"), network);
        };
        tree.link("proc/self/ns/net", "net:[1]");
        for (pid, port, network) in [(7, "2379", "net:[2]"), (8, "2379", "net:[1]"), (9, "2479", "net:[3]")] {
            etcd(pid, port, network);
        }
        let mut discovery = find(&environment(&tree, &[]));
        assert_eq!(only(&discovery).name, "m8");
        let pids = |targets: &[Target]| targets.iter().map(|target| target.pid).collect::<Vec<_>>();
        assert_eq!(pids(&discovery.candidates), [Some(9)], "2379 is that of m8");
        let told: Vec<&String> =
            discovery.notes.iter().filter(|note| note.contains("a network of its own")).collect();
        assert!(told.len() == 2 && told[0].contains("pid 7") && told[0].contains("not watched"), "{told:?}");
        let known = discovery.candidates.clone();
        discovery = discovery.remember(&known);
        assert_eq!(pids(&discovery.targets), [Some(8), Some(9)], "nobody knocks twice");
        assert!(discovery.candidates.is_empty());
    }

    #[test]
    fn nothing_is_found_where_nothing_is_and_it_says_where_it_looked() {
        let tree = Tree::new("nothing");
        tree.process(1, &["/sbin/init"], &[], 1).process(9, &["/opt/etcd-backup", "--name", "x"], &[], 1);
        let discovery = find(&environment(&tree, &[]));
        assert!(discovery.targets.is_empty());
        assert!(!discovery.candidates.is_empty());
        let lines = discovery.describe().join("\n");
        for place in
            ["/proc", "/etc/kubernetes/pki/etcd", "127.0.0.1:2379", "127.0.0.1:2381", "ETCDCTL_ENDPOINTS"]
        {
            assert!(lines.contains(place), "{place} in {lines}");
        }
    }

    #[test]
    fn an_etcdctl_shell_is_enough() {
        let tree = Tree::new("etcdctl");
        for file in ["ca.pem", "me.pem", "me.key"] {
            tree.file(&format!("/home/op/{file}"), "PEM");
        }
        let home = tree.root().join("home/op").display().to_string();
        let discovery = find(&environment(
            &tree,
            &[
                ("ETCDCTL_ENDPOINTS", "https://127.0.0.1:4001,203.0.113.9:2379,,not a url"),
                ("ETCDCTL_CACERT", &format!("{home}/ca.pem")),
                ("ETCDCTL_CERT", &format!("{home}/me.pem")),
                ("ETCDCTL_KEY", &format!("{home}/me.key")),
            ],
        ));
        let first = &discovery.candidates[0];
        assert_eq!(first.client_url.as_deref(), Some("https://127.0.0.1:4001"));
        assert!(first.local);
        assert!(first.tls.key.as_ref().is_some_and(|key| key.ends_with("home/op/me.key")));
        let second = &discovery.candidates[1];
        assert_eq!(second.client_url.as_deref(), Some("https://203.0.113.9:2379"));
        assert!(!second.local);
    }

    #[test]
    fn hostile_processes_do_no_harm() {
        let tree = Tree::new("hostile");
        let long = "x".repeat(1 << 20);
        tree.process(
            1,
            &["etcd", "--name", &long, "--listen-client-urls", "::::,http://,unix:///x,http://[::1"],
            &[],
            1,
        );
        tree.process(2, &["etcd", "--name"], &["ETCD_NAME", "=", "ETCD_DATA_DIR="], 1);
        tree.process(3, &[], &[], 1);
        tree.file("proc/4/cmdline", "etcd\0--config-file\0/nowhere\0");
        tree.file("proc/99999999999999999999/cmdline", "etcd\0");
        let discovery = find(&environment(&tree, &[]));
        assert!(discovery.targets.len() <= 3);
        assert!(discovery.describe().iter().all(|line| line.len() < 4_096));
    }
}

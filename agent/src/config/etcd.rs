//! Which etcd members the agent speaks to: named in the file, or found on the node.

use std::collections::BTreeMap;
use std::path::PathBuf;

use collectors::target::{Identity, Target};
use collectors::tls::TlsFiles;

use super::tree::{Map, Notes};

/// Members, and whether to look for more.
#[derive(Clone, Debug)]
pub(crate) struct Etcd {
    /// Members that were named.
    pub(crate) members: Vec<Target>,
    /// Look for members of this node.
    pub(crate) discovery: bool,
    /// Probe members of other hosts too.
    pub(crate) remote: bool,
    /// ETCDCTL_* and the like, for discovery.
    pub(crate) variables: BTreeMap<String, String>,
}

/// Reads `etcd`.
pub(super) fn read(
    root: &mut Map<'_>,
    variables: &BTreeMap<String, String>,
    notes: &Notes,
    node: &str,
) -> Etcd {
    let mut map = root.map("etcd");
    let members: Vec<Target> = map.maps("members").into_iter().filter_map(|map| member(map, node)).collect();
    let discovery = map.flag("discovery", members.is_empty());
    let remote = map.flag("remote", false);
    map.done();
    for name in variables.keys().filter(|name| name.starts_with("ETCDCTL_") && discovery) {
        let secret = name.contains("PASSWORD") || name.contains("USER");
        let value = variables.get(name).filter(|_| !secret).cloned().unwrap_or_else(|| "***".to_owned());
        notes.origin("etcd.discovery", value, name);
    }
    Etcd { members, discovery, remote, variables: variables.clone() }
}

fn member(mut map: Map<'_>, node: &str) -> Option<Target> {
    let client = map.text("client");
    let metrics = map.text("metrics");
    let pprof = map.text("pprof");
    let endpoint = client.clone().or_else(|| metrics.clone());
    let name = map.text("name").or_else(|| endpoint.as_deref().map(authority));
    let path = |text: Option<String>| text.map(PathBuf::from);
    let log_file = path(map.text("log"));
    let data_dir = path(map.text("data_dir"));
    let tls = TlsFiles { ca: path(map.text("ca")), cert: path(map.text("cert")), key: path(map.text("key")) };
    let local = map.flag("local", true);
    if endpoint.is_none() {
        map.reject(
            "client",
            "or `metrics` must be given: a URL of the member, e.g. `https://127.0.0.1:2379`",
        );
    }
    map.done();
    let (name, endpoint) = (name?, endpoint?);
    let identity = Identity::new(node, &name, &endpoint);
    Some(Target {
        name,
        client_url: client,
        metrics_url: metrics,
        pprof_url: pprof,
        tls,
        pid: None,
        data_dir,
        log_file,
        local,
        identity,
    })
}

/// `host:port` of a URL.
fn authority(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest).to_owned()
}

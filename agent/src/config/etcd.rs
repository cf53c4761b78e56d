//! Which etcd members the agent speaks to: named in the file, or found on the node.

use std::collections::BTreeMap;
use std::path::PathBuf;

use collectors::target::{Identity, Login, Target};
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
    /// ETCDCTL_* and the like, for discovery; without those that hold a password.
    pub(crate) variables: BTreeMap<String, String>,
    /// etcd's own user, for all members.
    pub(crate) login: Option<Login>,
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
    let login = login(&mut map, variables, notes);
    map.done();
    let open = |name: &str| !name.contains("PASSWORD") && !name.contains("USER");
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("ETCDCTL_") && discovery) {
        if open(name) {
            notes.origin("etcd.discovery", value.clone(), name);
        }
    }
    let variables = variables.iter().filter(|(name, _)| open(name));
    let variables = variables.map(|(name, value)| (name.clone(), value.clone())).collect();
    Etcd { members, discovery, remote, variables, login }
}

/// `user` and `password`, else `ETCDCTL_USER` as etcdctl takes it: `user:password`, or with `ETCDCTL_PASSWORD` beside it.
fn login(map: &mut Map<'_>, variables: &BTreeMap<String, String>, notes: &Notes) -> Option<Login> {
    let user = map.text("user");
    let password = map.secret("password");
    match (user, password) {
        (Some(user), Some(password)) => return Some(Login::new(&user, &password)),
        // A password that cannot be read has its problem already.
        (Some(_), None) if map.has("password") => return None,
        (Some(_), None) => {
            map.reject("user", "has no `password`: give it as `{ file: PATH }` or `{ env: NAME }`");
            return None;
        }
        (None, Some(_)) => {
            map.reject("password", "has no `user`: name the etcd user that it belongs to");
            return None;
        }
        (None, None) => {}
    }
    let given = variables.get("ETCDCTL_USER").filter(|given| !given.is_empty())?;
    let beside = variables.get("ETCDCTL_PASSWORD").filter(|password| !password.is_empty());
    let (user, password) = match (given.split_once(':'), beside) {
        // As etcdctl has it: with a password of its own, the whole value is the user.
        (_, Some(password)) => (given.as_str(), password.as_str()),
        (Some((user, password)), None) if !password.is_empty() => (user, password),
        _ => {
            notes.warn("ETCDCTL_USER", "has no password: `user:password`, or ETCDCTL_PASSWORD".to_owned());
            return None;
        }
    };
    notes.origin("etcd.user", user.to_owned(), "ETCDCTL_USER");
    notes.origin(
        "etcd.password",
        "***".to_owned(),
        if beside.is_some() { "ETCDCTL_PASSWORD" } else { "ETCDCTL_USER" },
    );
    Some(Login::new(user, password))
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
        login: None,
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

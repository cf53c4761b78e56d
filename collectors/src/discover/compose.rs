//! Puts a target together from what a process, a certificate or a variable says. Owns the choice of addresses and of what
//! is left out: what we may not do is not tried each second, it is said once.

use std::fs;
use std::path::{Path, PathBuf};

use super::certificates::Pair;
use super::process::{Member, visible};
use super::url::Url;
use super::{Discovery, Environment, TARGETS_MAX};
use crate::target::{Identity, Target};
use crate::tls::TlsFiles;

/// The client address that etcd listens on when told nothing.
const CLIENT: &str = "http://127.0.0.1:2379";

/// The metrics address of kubeadm and k3s.
const METRICS: &str = "http://127.0.0.1:2381";

/// The name of a member's state: `--name`, else the address it listens on.
fn name(member: &Member) -> String {
    match member.flags.get("name") {
        Some(name) => name.to_owned(),
        None => client_url(member).map_or_else(|| format!("pid-{}", member.pid), |url| url.authority()),
    }
}

/// Whether discovery calls this member so: by its name, or by its address where two have one name.
pub(crate) fn is_called(member: &Member, called: &str) -> bool {
    name(member) == called || client_url(member).is_some_and(|url| url.authority() == called)
}

fn client_url(member: &Member) -> Option<Url> {
    let listed = |flag| member.flags.get(flag).map(Url::list);
    let listen = listed("listen-client-urls").unwrap_or_else(|| Url::list(CLIENT));
    Url::best(&listen).or_else(|| Url::best(&listed("advertise-client-urls")?))
}

/// A member that runs here.
pub(super) fn from_process(
    environment: &Environment,
    member: &Member,
    pairs: &[Pair],
    notes: &mut Vec<String>,
) -> Target {
    let flags = &member.flags;
    let name = name(member);
    let asks_certificate = flags.is_on("client-cert-auth") || flags.get("trusted-ca-file").is_some();
    let tls = choose(pairs, flags.get("trusted-ca-file"));
    let usable = |url: &Url| !url.https || !asks_certificate || tls.cert.is_some();
    let client = client_url(member);
    let allowed = client.clone().filter(usable);
    if let (Some(url), None) = (&client, &allowed) {
        notes.push(format!(
            "{name} is not probed: {url} asks for a client certificate and none is readable (kubeadm's is \
             /etc/kubernetes/pki/etcd/healthcheck-client.crt; ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY name others)"
        ));
    }
    // With an address of its own for HTTP, etcd serves no HTTP at the client address.
    let http = flags.get("listen-client-http-urls").and_then(|list| Url::best(&Url::list(list)));
    let http = http.or_else(|| client.clone()).filter(usable);
    let metrics = flags.get("listen-metrics-urls").and_then(|list| Url::best(&Url::list(list)));
    let metrics = metrics.filter(usable).or_else(|| http.clone());
    if metrics.is_none() {
        notes.push(format!("{name} is not scraped: its metrics are behind the same certificate"));
    }
    let pprof_on =
        flags.is_on("enable-pprof") || flags.get("log-level") == Some("debug") || flags.is_on("debug");
    if !pprof_on {
        notes.push(format!("{name} serves no profiles: it was started without --enable-pprof"));
    }
    let client_url = allowed.map(|url| url.to_string());
    let metrics_url = metrics.map(|url| format!("{url}/metrics"));
    let endpoint = client.map(|url| url.to_string()).or_else(|| metrics_url.clone()).unwrap_or_default();
    Target {
        identity: Identity::new(&environment.node, &name, &endpoint),
        name,
        client_url,
        metrics_url,
        pprof_url: http.filter(|_| pprof_on).map(|url| url.to_string()),
        tls,
        login: None,
        pid: Some(member.pid),
        data_dir: flags.get("data-dir").map(|dir| data_dir(environment, member.pid, dir)),
        log_file: log_file(environment, member),
        local: true,
    }
}

/// The set whose authority the member trusts, else the first with a key, else the first authority.
fn choose(pairs: &[Pair], trusted: Option<&str>) -> TlsFiles {
    let same = pairs.iter().find(|pair| trusted == Some(pair.ca_path.as_str()) && pair.is_complete());
    let chosen = same.or_else(|| pairs.iter().find(|pair| pair.is_complete())).or_else(|| pairs.first());
    chosen.map(|pair| pair.files.clone()).unwrap_or_default()
}

/// A relative directory is relative to where the process runs.
fn data_dir(environment: &Environment, pid: u32, dir: &str) -> PathBuf {
    let dir = Path::new(dir);
    if dir.is_absolute() {
        return dir.to_owned();
    }
    let here = fs::read_link(environment.root.join(format!("proc/{pid}/cwd")));
    here.map_or_else(|_| dir.to_owned(), |here| here.join(dir))
}

/// A file among `--log-outputs`, else the file that standard error goes to.
fn log_file(environment: &Environment, member: &Member) -> Option<PathBuf> {
    let outputs = member.flags.get("log-outputs").or_else(|| member.flags.get("log-output")).unwrap_or("");
    if let Some(file) = outputs.split(',').find(|output| output.starts_with('/')) {
        return Some(PathBuf::from(file));
    }
    let link = fs::read_link(environment.root.join(format!("proc/{}/fd/2", member.pid))).ok()?;
    let text = link.to_str()?;
    let a_file = text.starts_with('/') && !text.starts_with("/dev/") && !text.ends_with(" (deleted)");
    (a_file && !member.rancher).then(|| {
        // The link is the process's view of the path.
        if link.exists() { link.clone() } else { visible(&environment.root, member.pid, &link) }
    })
}

/// Adds a target under a name of its own; a second one of the same name goes by its address.
pub(super) fn push(targets: &mut Vec<Target>, mut target: Target) {
    let taken = |targets: &[Target], name: &str| targets.iter().any(|other| other.name == name);
    if taken(targets, &target.name) {
        let origin = target.identity.origin();
        let endpoint = origin.member.as_ref().map_or(String::new(), |member| member.endpoint.clone());
        let address = Url::parse(&endpoint).map_or(endpoint.clone(), |url| url.authority());
        target.identity = Identity::new(&origin.node, &address, &endpoint);
        target.name = address;
    }
    if !taken(targets, &target.name) && targets.len() < TARGETS_MAX {
        targets.push(target);
    }
}

/// Addresses worth trying: those of `ETCDCTL_ENDPOINTS`, and the usual ones when no process was seen.
pub(super) fn candidates(environment: &Environment, pairs: &[Pair], discovery: &mut Discovery) {
    let tls = choose(pairs, None);
    let mut candidates = Vec::new();
    match environment.vars.get("ETCDCTL_ENDPOINTS").filter(|list| !list.trim().is_empty()) {
        None => discovery.look("ETCDCTL_ENDPOINTS", "not set"),
        Some(list) => {
            let urls: Vec<Url> = list.split(',').filter_map(|text| endpoint(text, &tls)).collect();
            discovery.look("ETCDCTL_ENDPOINTS", format!("{} addresses", urls.len()));
            let known = |url: &Url| {
                discovery.targets.iter().any(|target| target.client_url.as_deref() == Some(&url.to_string()))
            };
            for url in urls.iter().filter(|url| !known(url)).take(TARGETS_MAX) {
                push(&mut candidates, candidate(environment, url, format!("{url}/metrics"), &tls));
            }
        }
    }
    if discovery.targets.is_empty() && candidates.is_empty() {
        discovery.look("127.0.0.1:2379 and 127.0.0.1:2381", "the usual addresses, still to be tried");
        if let Some(url) = Url::parse(CLIENT) {
            candidates.push(candidate(environment, &url, format!("{METRICS}/metrics"), &tls));
        }
    }
    discovery.candidates = candidates;
}

/// An endpoint as etcdctl takes it: with or without a scheme.
fn endpoint(text: &str, tls: &TlsFiles) -> Option<Url> {
    let text = text.trim();
    if text.is_empty() || text.contains("://") {
        return Url::parse(text);
    }
    let scheme = if tls.ca.is_some() || tls.cert.is_some() { "https" } else { "http" };
    Url::parse(&format!("{scheme}://{text}"))
}

fn candidate(environment: &Environment, url: &Url, metrics_url: String, tls: &TlsFiles) -> Target {
    let name = url.authority();
    Target {
        identity: Identity::new(&environment.node, &name, &url.to_string()),
        name,
        client_url: Some(url.to_string()),
        metrics_url: Some(metrics_url),
        pprof_url: None,
        tls: tls.clone(),
        login: None,
        pid: None,
        data_dir: None,
        log_file: None,
        local: url.is_local(&environment.node),
    }
}

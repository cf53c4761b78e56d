//! Client certificates at the usual places. Owns which places those are and whether we may read them; reads no contents.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Discovery, Environment};
use crate::tls::TlsFiles;

/// One set of files, as far as it can be read.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// The authority's path as the node knows it, to compare with `--trusted-ca-file`.
    pub(crate) ca_path: String,
    pub(crate) files: TlsFiles,
}

impl Pair {
    pub(crate) fn is_complete(&self) -> bool {
        self.files.cert.is_some() && self.files.key.is_some()
    }
}

/// Which distribution puts what where: authority, certificate, key. `NODE` stands for the node's name.
const PLACES: [(&str, &str, &str); 5] = [
    // kubeadm makes this pair for exactly this purpose.
    (
        "/etc/kubernetes/pki/etcd/ca.crt",
        "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        "/etc/kubernetes/pki/etcd/healthcheck-client.key",
    ),
    (
        "/var/lib/rancher/k3s/server/tls/etcd/server-ca.crt",
        "/var/lib/rancher/k3s/server/tls/etcd/server-client.crt",
        "/var/lib/rancher/k3s/server/tls/etcd/server-client.key",
    ),
    (
        "/var/lib/rancher/rke2/server/tls/etcd/server-ca.crt",
        "/var/lib/rancher/rke2/server/tls/etcd/server-client.crt",
        "/var/lib/rancher/rke2/server/tls/etcd/server-client.key",
    ),
    // OpenShift, as its pods see it and as its nodes do.
    (
        "/etc/kubernetes/static-pod-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt",
        "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-NODE.crt",
        "/etc/kubernetes/static-pod-certs/secrets/etcd-all-certs/etcd-peer-NODE.key",
    ),
    (
        "/etc/kubernetes/static-pod-resources/etcd-certs/configmaps/etcd-all-bundles/server-ca-bundle.crt",
        "/etc/kubernetes/static-pod-resources/etcd-certs/secrets/etcd-all-certs/etcd-peer-NODE.crt",
        "/etc/kubernetes/static-pod-resources/etcd-certs/secrets/etcd-all-certs/etcd-peer-NODE.key",
    ),
];

/// The sets that can be read, those of `ETCDCTL_*` first.
pub(super) fn find(environment: &Environment, discovery: &mut Discovery) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let variable = |name: &str| environment.vars.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let named = ["ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"].map(variable);
    if named.iter().any(Option::is_some) {
        pairs.extend(look("ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY", named, discovery));
    } else {
        discovery.look("ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY", "not set");
    }
    for (ca, cert, key) in PLACES {
        let files = [ca, cert, key].map(|path| environment.path(path.replace("NODE", &environment.node)));
        let mut found = look(&cert.replace("NODE", &environment.node), files.map(Some), discovery);
        if let Some(pair) = &mut found {
            ca.clone_into(&mut pair.ca_path);
        }
        pairs.extend(found);
    }
    pairs
}

fn look(where_: &str, files: [Option<PathBuf>; 3], discovery: &mut Discovery) -> Option<Pair> {
    let mut problems = Vec::new();
    let [ca, cert, key] = files.map(|file| {
        let file = file?;
        match readable(&file) {
            Ok(()) => Some(file),
            Err(problem) => {
                problems.push(format!("{}: {problem}", file.display()));
                None
            }
        }
    });
    let none = ca.is_none() && cert.is_none();
    let all_missing = problems.iter().all(|problem| problem.ends_with(MISSING));
    let what = match problems.as_slice() {
        [] => "readable".to_owned(),
        _ if none && all_missing => MISSING.to_owned(),
        problems => problems.join(", "),
    };
    discovery.look(where_, what);
    let ca_path = ca.as_ref().map_or(String::new(), |ca| ca.display().to_string());
    // A certificate without its key is of no use, nor the other way round.
    let (cert, key) = cert.zip(key).unzip();
    (!none).then_some(Pair { ca_path, files: TlsFiles { ca, cert, key } })
}

const MISSING: &str = "not there";

fn readable(path: &Path) -> Result<(), String> {
    match File::open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(MISSING.to_owned()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err("permission denied".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

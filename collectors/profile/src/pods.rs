//! From a pod's uid to its namespace and name, by the directories that the kubelet makes for logs.
//!
//! Owns `/var/log/pods/NAMESPACE_NAME_UID` and when it is read again. Refuses to ask an API server: a node knows its own pods.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use model::time::{SECOND_NS, Stamp};

/// Where the kubelet keeps logs, below the root of the node.
const PODS: &str = "var/log/pods";
/// Directories looked at: a node runs a few hundred pods at most, and those that ended linger for a while.
const ENTRIES_MAX: usize = 8_192;
/// Pods kept: ten times what a node may run by default.
const PODS_MAX: usize = 1_024;
/// The longest name of a pod, and of a namespace, that Kubernetes allows.
const NAME_BYTES_MAX: usize = 253;
/// A uid: 36 letters with dashes; 32 without, for pods from files of the node.
const UID_BYTES_MAX: usize = 36;
/// Between two readings: a pod that was just started waits so long for its name.
const REFRESH_NS: u64 = 10 * SECOND_NS;

/// A pod's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Uid and names in the name of one directory. Neither namespaces nor names nor uids have a `_` in them.
#[must_use]
pub fn parse(directory: &str) -> Option<(String, Pod)> {
    let mut parts = directory.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let is_name = |name: &str| {
        let is_letter =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
        (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_letter)
    };
    let is_uid = (1..=UID_BYTES_MAX).contains(&uid.len())
        && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (parts.next().is_none() && is_name(namespace) && is_name(name) && is_uid)
        .then(|| (key(uid), Pod { namespace: namespace.to_owned(), name: name.to_owned() }))
}

/// A uid as it is looked up: cgroups of systemd spell it with `_`, those of static pods without dashes.
fn key(uid: &str) -> String {
    let digits = uid.chars().filter(char::is_ascii_hexdigit).take(UID_BYTES_MAX);
    digits.map(|digit| digit.to_ascii_lowercase()).collect()
}

/// The pods of this node.
#[derive(Debug)]
pub struct Pods {
    path: PathBuf,
    by_uid: BTreeMap<String, Pod>,
    /// When it was read last.
    read: Option<Stamp>,
}

impl Default for Pods {
    fn default() -> Pods {
        Pods::new(Path::new("/"))
    }
}

impl Pods {
    /// `root` is where the node's file system is, `/` or a mount of it.
    #[must_use]
    pub fn new(root: &Path) -> Pods {
        Pods { path: root.join(PODS), by_uid: BTreeMap::new(), read: None }
    }

    /// The pod with this uid. Reads the directory when it does not know it and ten seconds have passed.
    pub fn find(&mut self, uid: &str, now: Stamp) -> Option<&Pod> {
        let key = key(uid);
        let is_due = self.read.is_none_or(|read| now.since_ns(read) >= REFRESH_NS);
        if is_due && !self.by_uid.contains_key(&key) {
            self.read = Some(now);
            self.refresh();
        }
        self.by_uid.get(&key)
    }

    /// Those that are there replace those that were; a directory that cannot be read leaves what was known.
    fn refresh(&mut self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        let names = entries.take(ENTRIES_MAX).flatten();
        let pods = names.filter_map(|entry| parse(entry.file_name().to_str()?));
        self.by_uid = pods.take(PODS_MAX).collect();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use model::time::{SECOND_NS, Stamp};

    use super::{Pods, parse};

    fn check(directory: &str, expected: Option<(&str, &str, &str)>) {
        let parsed = parse(directory);
        let parsed =
            parsed.as_ref().map(|(uid, pod)| (uid.as_str(), pod.namespace.as_str(), pod.name.as_str()));
        assert_eq!(parsed, expected, "{directory}");
    }

    #[test]
    fn a_directory_names_a_pod() {
        let uid = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
        check(
            "kube-system_etcd-cp-1_0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            Some((uid, "kube-system", "etcd-cp-1")),
        );
        check("shop_cart-7d9f.x_0F1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", Some((uid, "shop", "cart-7d9f.x")));
        for other in
            ["", "_", "a_b", "a_b_", "a_b_c_d", "a_b_not-hex", "A_b_c0", "a__c0", "../x_b_c0", "lost+found"]
        {
            check(other, None);
        }
        check(&format!("a_{}_c0", "b".repeat(254)), None);
    }

    #[test]
    fn names_are_read_again_for_a_pod_that_is_new_but_not_at_once() {
        let root = tempfile::tempdir().unwrap();
        let add = |name: &str| fs::create_dir_all(root.path().join("var/log/pods").join(name)).unwrap();
        let at = |seconds: u64| Stamp::default().plus_ns(seconds * SECOND_NS);
        let mut pods = Pods::new(root.path());
        assert_eq!(pods.find("aa-01", at(0)), None);
        add("shop_cart_aa-01");
        assert_eq!(pods.find("aa-01", at(9)), None);
        assert_eq!(pods.find("aa-01", at(10)).unwrap().name, "cart");
        // As systemd spells it.
        assert_eq!(pods.find("aa_01", at(10)).unwrap().namespace, "shop");
        add("shop_till_bb-02");
        assert_eq!(pods.find("bb-02", at(19)), None);
        assert_eq!(pods.find("bb-02", at(20)).unwrap().name, "till");
        // The directory goes: what is known stays.
        fs::remove_dir_all(root.path().join("var/log/pods")).unwrap();
        assert_eq!(pods.find("cc-03", at(60)), None);
        assert_eq!(pods.find("aa-01", at(60)).unwrap().name, "cart");
    }
}

//! A node with one process, whose command line, environment, `stat` and configuration file are any bytes.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use collectors::discover::{Environment, find};
use libfuzzer_sys::fuzz_target;

/// Between the texts.
const NEXT: u8 = 0xff;

fuzz_target!(|data: &[u8]| {
    let root = Path::new("/dev/shm").join(format!("backburn-fuzz-node-{}", std::process::id()));
    let process = root.join("proc/17");
    fs::create_dir_all(&process).expect("memory is there");
    let mut texts = data.split(|byte| *byte == NEXT);
    let mut text = || texts.next().unwrap_or_default();
    let write = |name: &str, bytes: &[u8]| fs::write(process.join(name), bytes).expect("memory is there");
    write("cmdline", &[b"/usr/bin/etcd\0--config-file=/etcd.conf\0", text()].concat());
    write("environ", text());
    write("stat", text());
    fs::write(root.join("etcd.conf"), text()).expect("memory is there");
    let value = String::from_utf8_lossy(text()).into_owned();
    let vars: BTreeMap<String, String> =
        ["ETCDCTL_ENDPOINTS", "ETCDCTL_CACERT"].map(|name| (name.to_owned(), value.clone())).into();
    let found = find(&Environment { root, vars, node: "node-1".to_owned() });
    assert!(found.targets.len() <= 16);
    assert!(!found.describe().is_empty());
});

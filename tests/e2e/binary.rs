//! The binary as a person or a script meets it: what it answers, and with which exit code.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use anyhow::Result;
use harness::{
    agent::{Agent, Finished},
    etcd::{Cluster, Member, Options, Version},
};

/// For a command that ends by itself.
const SOON: Duration = Duration::from_secs(20);

/// A folder of its own for one story, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = env::temp_dir().join(format!("backburn-{name}-{}", process::id()));
        assert!(fs::create_dir_all(&dir).is_ok(), "cannot create {}", dir.display());
        Folder(dir)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        assert!(fs::write(&path, text).is_ok(), "cannot write {}", path.display());
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn code(finished: &Finished) -> Option<i32> {
    finished.status.code()
}

/// Names the members of a cluster and nothing else.
fn config_of(folder: &Folder, cluster: &Cluster) -> PathBuf {
    let members: String = cluster
        .members()
        .iter()
        .map(|member| {
            format!(
                "    - {{ client: {}, metrics: {}/metrics }}\n",
                member.client_url(),
                member.metrics_url()
            )
        })
        .collect();
    folder.write("agent.yaml", &format!("state_dir: {}\netcd:\n  members:\n{members}", folder.0.display()))
}

#[test]
fn usage_and_configuration_have_their_exit_codes() {
    let folder = Folder::new("codes");
    let unknown = folder.write("unknown.yaml", "scrape:\n  intervall: 1s\n");
    let missing = folder.0.join("missing.yaml");
    let (unknown, missing) = (unknown.to_str().unwrap(), missing.to_str().unwrap());
    let cases: [(&[&str], i32, &str); 5] = [
        (&["version"], 0, ""),
        (&["run", "--no-such-flag"], 2, "--no-such-flag"),
        (&["no-such-verb"], 2, "no-such-verb"),
        (&["validate", "--config", unknown], 78, "unknown.yaml:2:3"),
        (&["validate", "--config", missing], 78, "missing.yaml"),
    ];
    for (args, wanted, said) in cases {
        let finished = Agent::run(&folder.0, args, &[], SOON).unwrap();
        assert_eq!(code(&finished), Some(wanted), "{args:?}: {finished:?}");
        assert!(finished.stderr.contains(said), "{args:?}: {finished:?}");
    }
}

#[test]
fn the_shipped_configuration_is_valid_with_none_and_with_all_of_its_keys() {
    let folder = Folder::new("shipped");
    let shipped =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/agent.yaml")).unwrap();
    let secret = folder.write("secret", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    let headers = folder.write("headers", "authorization=Bearer x");
    let keys = shipped.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| {
        // `# ` with a word is prose, `#` with a key or with deeper blanks is a key that is switched off.
        !line.starts_with(' ') || line.starts_with("  ")
    });
    let all: Vec<&str> = keys.collect();
    let all = all
        .join("\n")
        .replace("/etc/backburn/deployer.secret", secret.to_str().unwrap())
        .replace("/etc/backburn/etcd.password", secret.to_str().unwrap())
        .replace("/etc/backburn/otlp.headers", headers.to_str().unwrap());
    for (name, text) in [("none.yaml", &shipped), ("all.yaml", &all)] {
        let path = folder.write(name, text);
        let variables = [("DEPLOYER_OLD_SECRET", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")];
        let finished =
            Agent::run(&folder.0, &["validate", "--config", path.to_str().unwrap()], &variables, SOON)
                .unwrap();
        assert_eq!(code(&finished), Some(0), "{name}: {}", finished.stderr);
        assert!(!finished.stdout.contains("whsec_"), "a secret is printed: {}", finished.stdout);
    }
}

fn check_tells_clusters_apart(version: Version) -> Result<()> {
    let folder = Folder::new(&format!("check-{version}"));
    let cluster = Cluster::start(version, 3, &Options::default())?;
    let config = config_of(&folder, &cluster);
    let check =
        || Agent::run(&folder.0, &["check".as_ref(), "--config".as_ref(), config.as_os_str()], &[], SOON);

    let whole = check()?;
    assert_eq!(code(&whole), Some(0), "{whole:?}");
    assert!(whole.stdout.contains(version.name()), "the version is not named: {}", whole.stdout);

    cluster.member(2)?.kill()?;
    cluster.leader()?;
    let broken = check()?;
    assert_eq!(code(&broken), Some(1), "one member down: {broken:?}");

    cluster.members().iter().try_for_each(Member::kill)?;
    let absent = check()?;
    assert_eq!(code(&absent), Some(69), "all members down: {absent:?}");
    Ok(())
}

#[test]
fn check_tells_whole_broken_and_absent_clusters_apart_on_3_4() {
    check_tells_clusters_apart(Version::V3_4).unwrap();
}

#[test]
fn check_tells_whole_broken_and_absent_clusters_apart_on_3_5() {
    check_tells_clusters_apart(Version::V3_5).unwrap();
}

#[test]
fn check_tells_whole_broken_and_absent_clusters_apart_on_3_6() {
    check_tells_clusters_apart(Version::V3_6).unwrap();
}

#[test]
fn check_tells_whole_broken_and_absent_clusters_apart_on_3_7() {
    check_tells_clusters_apart(Version::V3_7).unwrap();
}

#[test]
fn the_configuration_in_the_manifest_is_valid() {
    let manifest = include_str!("../../deploy/kubernetes/agent.yaml");
    let block = manifest.split("agent.yaml: |\n").nth(1).unwrap().split("---").next().unwrap();
    let text: String =
        block.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(""))).collect();
    assert!(text.contains("kill_switch:"), "{text}");
    let folder = Folder::new("manifest");
    let config = folder.write("agent.yaml", &text);
    let finished =
        Agent::run(&folder.0, &["validate", "--config", config.to_str().unwrap()], &[], SOON).unwrap();
    assert_eq!(code(&finished), Some(0), "{finished:?}");
    assert!(finished.stdout.contains("state_dir = /var/lib/backburn"), "{finished:?}");
}

//! Each release line as a real cluster of three: the ground on which every other story stands.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result};
use harness::{
    etcd::{Cluster, Logger, Options, Version, etcdctl},
    http::Peer,
};

/// For a member that starts, or an election, on a busy host.
const SOON: Duration = Duration::from_secs(30);

fn survives_what_stories_do(version: Version) -> Result<()> {
    let cluster = Cluster::start(version, 3, &Options { pprof: true, ..Options::default() })?;
    cluster.put("key", "before")?;

    let leader = cluster.leader()?;
    let follower =
        cluster.members().iter().find(|member| member.name() != leader.name()).context("no follower")?;
    cluster.move_leader(follower)?;
    assert_eq!(cluster.leader()?.name(), follower.name());

    follower.kill()?;
    assert_ne!(cluster.leader()?.name(), follower.name(), "the others elect one of them");
    cluster.put("key", "while one is down")?;
    follower.start()?;
    follower.wait_healthy(SOON)?;

    leader.pause()?;
    assert!(leader.is_healthy().is_err(), "a frozen member does not answer");
    leader.resume()?;
    leader.wait_healthy(SOON)?;

    assert_eq!(cluster.get("key")?.as_deref(), Some(&b"while one is down"[..]));
    assert_eq!(cluster.get("no such key")?, None);
    cluster.stop()
}

#[test]
fn a_cluster_of_3_4_survives_what_stories_do() {
    survives_what_stories_do(Version::V3_4).unwrap();
}

#[test]
fn a_cluster_of_3_5_survives_what_stories_do() {
    survives_what_stories_do(Version::V3_5).unwrap();
}

#[test]
fn a_cluster_of_3_6_survives_what_stories_do() {
    survives_what_stories_do(Version::V3_6).unwrap();
}

#[test]
fn a_cluster_of_3_7_survives_what_stories_do() {
    survives_what_stories_do(Version::V3_7).unwrap();
}

#[test]
fn a_member_upgrades_in_place_from_line_to_line() {
    let args = vec!["--snapshot-count=10".to_owned()];
    let cluster = Cluster::start(Version::V3_4, 1, &Options { args, ..Options::default() }).unwrap();
    for version in [Version::V3_5, Version::V3_6, Version::V3_7] {
        // Enough for a snapshot: a newer line does not understand every entry of an older one's log.
        (0..30).for_each(|_| cluster.put("key", "kept").unwrap());
        cluster.member(1).unwrap().restart_as(version, SOON).unwrap();
        assert_eq!(cluster.get("key").unwrap().unwrap(), b"kept", "{version}");
    }
}

#[test]
fn logs_are_what_the_version_writes() {
    let log_of = |version, logger| {
        let cluster = Cluster::start(version, 1, &Options { logger, ..Options::default() }).unwrap();
        std::fs::read_to_string(cluster.member(1).unwrap().log_path()).unwrap()
    };
    assert!(log_of(Version::V3_4, Logger::Shipped).contains(" I | etcdserver: "), "capnslog");
    assert!(log_of(Version::V3_4, Logger::Zap).starts_with("{\"level\":"), "zap");
    assert!(log_of(Version::V3_7, Logger::Shipped).starts_with("{\"level\":"), "zap");
}

#[test]
fn etcdctl_reads_what_the_gateway_wrote() {
    let cluster = Cluster::start(Version::V3_5_16, 1, &Options::default()).unwrap();
    cluster.put("key", "value").unwrap();
    let endpoint = cluster.endpoints().concat();
    let ran =
        Command::new(etcdctl().unwrap()).args(["--endpoints", &endpoint, "get", "key"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "key\nvalue\n");
}

#[test]
fn with_mutual_tls_only_a_client_with_a_certificate_gets_in() {
    for version in Version::LINES {
        let cluster =
            Cluster::start(version, 1, &Options { mutual_tls: true, ..Options::default() }).unwrap();
        cluster.put("key", "value").unwrap();
        assert_eq!(cluster.get("key").unwrap().unwrap(), b"value", "{version}");
        let plain = Peer::from(cluster.member(1).unwrap().client_address()).get("/version", SOON);
        assert!(plain.is_err_and(|error| !error.to_string().starts_with("connect")), "{version}");
    }
}

#[test]
fn a_failed_start_says_what_etcd_wrote() {
    let args = vec!["--no-such-flag".to_owned()];
    let error = Cluster::start(Version::V3_6, 1, &Options { args, ..Options::default() }).unwrap_err();
    assert!(format!("{error:#}").contains("no-such-flag"), "{error:#}");
}

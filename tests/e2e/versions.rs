//! What holds on every release line: three members are seen, asked and told of, over each protocol and compression.

use std::{collections::BTreeSet, time::Duration};

use harness::{
    daemon::{self, Seat},
    etcd::{Cluster, Options, Version},
    sink::{Payload, Protocol, Sink, flat},
};
use serde_json::Value;

/// A cluster and an agent on two cores that other stories use too.
const SOON: Duration = Duration::from_secs(30);

/// What a member is asked.
const PROBES: [&str; 5] = ["serializable_read", "linearizable_read", "status", "lease_grant", "put"];

/// Every kind of probe within five seconds, and at most two requests a second (a lease takes three).
const REST: &str = "node: story-node
member: { interval: 1s }
probe:
  { writes: true, serializable_read_hz: 0.4, linearizable_read_hz: 0.4, status_hz: 0.3, lease_hz: 0.2, put_hz: 0.2 }
";

struct Shipping {
    protocol: Protocol,
    compression: &'static str,
}

impl Shipping {
    fn config(&self, sink: &Sink) -> String {
        let (endpoint, protocol) = match self.protocol {
            Protocol::Grpc => (sink.grpc_endpoint(), "grpc"),
            Protocol::Http => (sink.http_endpoint(), "http/protobuf"),
        };
        let compression = self.compression;
        format!(
            "otlp: {{ endpoint: {endpoint}, protocol: {protocol}, compression: {compression}, flush: 500ms }}\n"
        )
    }
}

fn three_members_are_seen(version: Version, shipping: &Shipping) {
    let cluster = Cluster::start(version, 3, &Options::default()).unwrap();
    let sink = Sink::start().unwrap();
    let seat = Seat::new(&format!("versions-{version}")).unwrap();
    seat.configure(&format!("{}{}{REST}", daemon::named(&cluster, true), shipping.config(&sink))).unwrap();
    let agent = seat.start(&[]).unwrap();

    the_board_shows_all(&agent, &cluster, version);
    the_sink_has_all(&sink, &cluster, shipping);
    // Checked last: it probes twenty times as fast as the daemon.
    let config = seat.config();
    let check = ["check", "--config", config.to_str().unwrap(), "--output", "json"];
    let checked = seat.command(&check, &[]).unwrap();
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let checked: Value = serde_json::from_str(&checked.stdout).unwrap();
    let healthy = checked["members"].as_array().unwrap().iter().filter(|row| row["health"] == "ok");
    assert_eq!(healthy.count(), 3, "{checked:#}");
    let slos = checked["daemon"]["slos"].as_array().unwrap();
    assert!(slos.iter().any(|slo| slo["name"] == "availability" && slo["state"] == "ok"), "{slos:#?}");
    agent.stop().unwrap();
}

fn the_board_shows_all(agent: &daemon::Daemon, cluster: &Cluster, version: Version) {
    let leader = cluster.leader().unwrap().status().unwrap().member_id;
    let board = agent
        .wait_for("all members with state, page and latencies", SOON, |board| {
            let whole = |name: &str| {
                let member = daemon::member(board, name)?;
                let asked = PROBES
                    .iter()
                    .all(|kind| daemon::probes(board, name, kind).is_some_and(|(n, failed)| n > failed));
                (member["up"] == true && member["state"].is_object() && asked).then_some(())
            };
            (whole("m1").is_some() && whole("m2").is_some() && whole("m3").is_some()).then(|| board.clone())
        })
        .unwrap();
    for member in cluster {
        let seen = daemon::member(&board, member.name()).unwrap();
        let status = member.status().unwrap();
        assert!(seen["state"]["version"].as_str().unwrap().starts_with(version.name()), "{seen:#}");
        assert_eq!(seen["state"]["leader"].as_u64(), Some(leader), "{seen:#}");
        assert_eq!(seen["state"]["id"].as_u64(), Some(status.member_id), "{seen:#}");
        assert_eq!(seen["origin"]["cluster_id"].as_u64(), Some(status.cluster_id), "{seen:#}");
        let latencies = seen["latencies"].as_array().unwrap();
        let read = latencies.iter().find(|latency| latency["kind"] == "serializable_read").unwrap();
        // A percentile that rests on too few answers is left out, not guessed.
        let answered = read["n"].as_u64().unwrap() - read["failed"].as_u64().unwrap();
        assert_eq!(read["p50_s"].is_null(), answered < 2, "{read:#}");
        assert!(read["p99_s"].is_null(), "{read:#}");
    }
    assert!(daemon::decision(&board, "etcd").is_some_and(|decision| decision["state"] != "rollback"));
}

fn the_sink_has_all(sink: &Sink, cluster: &Cluster, shipping: &Shipping) {
    for member in cluster {
        let status = member.status().unwrap();
        let is_about = |series: &flat::Series| {
            let of = |key: &str| series.resource.get(key).map(String::as_str);
            of("service.name") == Some("etcd")
                && of("host.name") == Some("story-node")
                && of("etcd.cluster.id") == Some(&format!("{:x}", status.cluster_id))
                && of("etcd.member.id") == Some(&format!("{:x}", status.member_id))
                && of("etcd.member.name") == Some(member.name())
        };
        harness::process::wait_until(&format!("all metrics of {}", member.name()), SOON, || {
            let all = flat::metrics(&sink.received());
            let ours: Vec<_> = all.iter().filter(|series| is_about(series)).collect();
            let named = |name: &str| ours.iter().any(|series| series.name == name);
            let instance = |address: String| {
                ours.iter().any(|series| series.resource.get("service.instance.id") == Some(&address))
            };
            let outcomes = flat::outcomes(&sink.received(), member.name());
            let probed: BTreeSet<&str> = outcomes
                .keys()
                .filter(|(_, outcome)| outcome == "ok")
                .map(|(kind, _)| kind.as_str())
                .collect();
            let whole = named("etcd_disk_wal_fsync_duration_seconds")
                && named("up")
                && named("scrape_duration_seconds")
                && instance(member.metrics_url().trim_start_matches("http://").to_owned())
                && instance(member.client_address().to_string())
                && PROBES.iter().all(|kind| probed.contains(kind));
            let names: BTreeSet<&str> = ours.iter().map(|series| series.name.as_str()).collect();
            anyhow::ensure!(whole, "probed {probed:?}, {} names, of them up: {}", names.len(), named("up"));
            Ok(Some(()))
        })
        .unwrap();
    }
    let received = sink.received();
    let header = match shipping.protocol {
        Protocol::Grpc => "grpc-encoding",
        Protocol::Http => "content-encoding",
    };
    for one in received.iter().filter(|one| matches!(one.payload, Payload::Metrics(_))) {
        assert_eq!(one.protocol, shipping.protocol);
        assert_eq!(one.headers.get(header).unwrap(), shipping.compression);
    }
    assert_eq!(sink.refused(), 0);
}

#[test]
fn three_members_of_3_4_are_seen_asked_and_told_of_over_grpc_with_gzip() {
    three_members_are_seen(Version::V3_4, &Shipping { protocol: Protocol::Grpc, compression: "gzip" });
}

#[test]
fn three_members_of_3_5_are_seen_asked_and_told_of_over_http_with_zstd() {
    three_members_are_seen(Version::V3_5, &Shipping { protocol: Protocol::Http, compression: "zstd" });
}

#[test]
fn three_members_of_3_6_are_seen_asked_and_told_of_over_grpc_with_zstd() {
    three_members_are_seen(Version::V3_6, &Shipping { protocol: Protocol::Grpc, compression: "zstd" });
}

#[test]
fn three_members_of_3_7_are_seen_asked_and_told_of_over_http_with_gzip() {
    three_members_are_seen(Version::V3_7, &Shipping { protocol: Protocol::Http, compression: "gzip" });
}

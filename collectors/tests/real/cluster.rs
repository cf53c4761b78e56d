//! Three members: watch lag at each of them, a lost leader, a lost majority.

use std::collections::BTreeMap;
use std::time::Duration;

use collectors::member::{Config as MemberConfig, MemberWatch};
use collectors::probe::{Config, Prober, PutClock, Writes};
use model::ledger::Ledger;
use model::member::MemberFact;
use model::probe::ProbeKind;
use model::record::{Fact, Record};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::server::{Records, Server, clock};

/// Outcomes by member and kind, with their counts.
type Counts = BTreeMap<(String, ProbeKind), BTreeMap<String, usize>>;

fn counts(records: &[Record]) -> Counts {
    let mut counts = Counts::new();
    for record in records {
        if let Fact::Probe(probe) = &record.fact {
            let key = (record.origin.member_name().to_owned(), probe.kind);
            *counts.entry(key).or_default().entry(probe.outcome.name().to_owned()).or_default() += 1;
        }
    }
    counts
}

fn ok(counts: &Counts, member: &Server, kind: ProbeKind) -> usize {
    let outcomes = counts.get(&(member.name.clone(), kind));
    outcomes.and_then(|outcomes| outcomes.get("ok")).copied().unwrap_or(0)
}

async fn leader(servers: &[Server; 3]) -> usize {
    let mut ids = Vec::new();
    let mut leader = 0;
    for server in servers {
        let status = server.client().await.status().await.expect("status");
        ids.push(status.header().expect("a header").member_id());
        leader = status.leader();
    }
    ids.iter().position(|id| *id == leader).expect("a leader among them")
}

async fn loses_its_leader_and_its_majority(version: &str) {
    let mut servers = Server::start_three(version, "three").await;
    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (clock, puts) = (clock(), PutClock::default());
    let config = Config {
        serializable_read_hz: 5.0,
        linearizable_read_hz: 5.0,
        writes: Some(Writes { lease_hz: 5.0, put_hz: 1.0, ..Writes::default() }),
        ..Config::default()
    };
    let facts = MemberConfig { interval: Duration::from_secs(1), hash_kv: None };
    for server in &servers {
        let target = server.target();
        let prober =
            Prober::new(&target, config.clone(), clock.clone(), Ledger::default()).sharing(puts.clone());
        tasks.spawn(prober.run(inbox.clone(), cancel.clone()));
        let watch = MemberWatch::new(&target, facts.clone(), clock.clone(), Ledger::default());
        tasks.spawn(watch.run(inbox.clone(), cancel.clone()));
    }
    records.during(Duration::from_secs(1)).await;
    let quiet = counts(&records.during(Duration::from_secs(4)).await);
    println!("{version} quiet: {quiet:?}");
    let written: usize = servers.iter().map(|server| ok(&quiet, server, ProbeKind::Put)).sum();
    for server in &servers {
        let seen = ok(&quiet, server, ProbeKind::WatchLag);
        assert!(seen + 3 >= written && seen >= 8, "{version}: {} saw {seen} of {written} puts", server.name);
    }

    let lead = leader(&servers).await;
    servers.swap(0, lead);
    let [first, second, third] = &mut servers;
    first.kill();
    // What was answered while the leader was looked up.
    records.during(Duration::from_millis(200)).await;
    let lost = counts(&records.during(Duration::from_secs(4)).await);
    println!("{version} leader lost: {lost:?}");
    // One may have been answered at the last moment.
    assert!(ok(&lost, first, ProbeKind::SerializableRead) <= 1, "{version}");
    // An election takes one to two seconds, and more where the disk is shared.
    let mut settled = counts(&records.during(Duration::from_secs(2)).await);
    for _ in 0..10 {
        if [&*second, &*third].iter().all(|server| ok(&settled, server, ProbeKind::LeaseGrant) >= 8) {
            break;
        }
        settled = counts(&records.during(Duration::from_secs(2)).await);
    }
    for server in [&*second, &*third] {
        assert!(ok(&settled, server, ProbeKind::LinearizableRead) >= 8, "{version}: {settled:?}");
        assert!(ok(&settled, server, ProbeKind::LeaseGrant) >= 8, "{version}: {settled:?}");
    }

    second.kill();
    records.during(Duration::from_secs(3)).await;
    let records = records.during(Duration::from_secs(3)).await;
    let alone = counts(&records);
    println!("{version} alone: {alone:?}");
    assert!(ok(&alone, third, ProbeKind::SerializableRead) >= 12, "{version}: {alone:?}");
    for kind in [ProbeKind::LinearizableRead, ProbeKind::LeaseGrant, ProbeKind::Put, ProbeKind::WatchLag] {
        assert_eq!(ok(&alone, third, kind), 0, "{version}: {alone:?}");
    }
    let told = records.iter().rev().find_map(|record| match &record.fact {
        Fact::Member(MemberFact::Answered(state)) if record.origin.member_name() == third.name => Some(state),
        _ => None,
    });
    let state = told.expect("the last one still tells of itself");
    assert_eq!((state.leader, state.members.len()), (0, 3), "{version}: {state:?}");
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
}

#[tokio::test]
async fn etcd_3_4_loses_leader_and_majority() {
    loses_its_leader_and_its_majority("3.4").await;
}

#[tokio::test]
async fn etcd_3_5_loses_leader_and_majority() {
    loses_its_leader_and_its_majority("3.5").await;
}

#[tokio::test]
async fn etcd_3_6_loses_leader_and_majority() {
    loses_its_leader_and_its_majority("3.6").await;
}

#[tokio::test]
async fn etcd_3_7_loses_leader_and_majority() {
    loses_its_leader_and_its_majority("3.7").await;
}

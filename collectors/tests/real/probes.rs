//! Probes at a member that lives, stands still, dies and comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use collectors::member::{Config as MemberConfig, MemberWatch};
use collectors::probe::{Boost, Config, Prober, PutClock, Rates, Writes};
use model::ledger::Ledger;
use model::probe::{ProbeKind, ProbeOutcome};
use model::record::{Fact, Record};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::server::{Records, Server, clock};

/// The shipped rates with writes, so much faster that four seconds hold several of each kind.
fn fast() -> Config {
    let boost = Boost { factor: 10.0, lasts: Duration::from_secs(600) };
    Config { writes: Some(Writes::default()), boost: Some(boost), ..Config::default() }
}

fn probes(records: &[Record]) -> impl Iterator<Item = (ProbeKind, &ProbeOutcome, u64)> {
    records.iter().filter_map(|record| match &record.fact {
        Fact::Probe(probe) => Some((probe.kind, &probe.outcome, probe.latency_ns)),
        _ => None,
    })
}

fn table(title: &str, records: &[Record]) {
    let mut lines: BTreeMap<(ProbeKind, &str), Vec<u64>> = BTreeMap::new();
    for (kind, outcome, latency) in probes(records) {
        lines.entry((kind, outcome.name())).or_default().push(latency / 1_000);
    }
    for ((kind, outcome), mut us) in lines {
        us.sort_unstable();
        let n = us.len();
        let (p50, max) = (us.get(n / 2).unwrap_or(&0), us.last().unwrap_or(&0));
        println!("{title}: {} {outcome}: n {n}, p50 {p50} us, max {max} us", kind.name());
    }
}

fn outcomes(records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, outcome, _) in probes(records) {
        *counts.entry(outcome.name().to_owned()).or_default() += 1;
    }
    counts
}

async fn lives_stands_still_dies_and_comes_back(version: &str) {
    let mut server = Server::start(version, "probe", &[]).await;
    let before = server.revision().await.expect("a revision");
    let (inbox, mut records) = Records::new();
    let ledger = Ledger::default();
    let cancel = CancellationToken::new();
    let target = server.target();
    let prober = Prober::new(&target, fast(), clock(), ledger.clone()).sharing(PutClock::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(prober.run(inbox, cancel.clone()));

    let alive = records.during(Duration::from_secs(4)).await;
    table(version, &alive);
    let mut kinds: Vec<ProbeKind> = probes(&alive).map(|(kind, _, _)| kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 8, "{version}: each kind is measured: {kinds:?}");
    assert_eq!(outcomes(&alive).keys().collect::<Vec<_>>(), ["ok"], "{version}");
    let origin = target.identity.origin();
    assert!(origin.cluster_id.is_some() && origin.member.as_ref().is_some_and(|member| member.id.is_some()));

    // The write cycle grows nothing: the revision moved by the puts alone. One may be under way.
    let puts = probes(&alive).filter(|(kind, _, _)| *kind == ProbeKind::Put).count();
    let grown = server.revision().await.expect("a revision") - before;
    let grown = usize::try_from(grown).expect("growth");
    assert!((puts..=puts + 1).contains(&grown), "{version}: {grown} revisions for {puts} puts");

    server.signal("-STOP");
    records.during(Duration::from_millis(100)).await;
    let paused = records.during(Duration::from_millis(2_500)).await;
    table(&format!("{version} paused"), &paused);
    assert!(
        outcomes(&paused).keys().all(|outcome| outcome == "timed_out"),
        "{version}: {:?}",
        outcomes(&paused)
    );
    assert!(probes(&paused).count() >= 10, "{version}: the schedule went on");
    assert!(probes(&paused).all(|(_, _, ns)| (990_000_000..3_000_000_000).contains(&ns)), "{version}");
    server.signal("-CONT");
    records.during(Duration::from_millis(1_500)).await;
    let again = records.during(Duration::from_millis(1_500)).await;
    assert_eq!(outcomes(&again).keys().collect::<Vec<_>>(), ["ok"], "{version}: after the pause");

    // Standing still first, so that requests are surely under way when it dies.
    server.signal("-STOP");
    records.during(Duration::from_millis(500)).await;
    server.kill();
    let killed = records.during(Duration::from_millis(2_500)).await;
    table(&format!("{version} killed"), &killed);
    let seen = outcomes(&killed);
    assert!(seen.get("refused").is_some_and(|n| *n >= 10), "{version}: {seen:?}");
    assert!(seen.get("lost_in_flight").is_some_and(|n| *n >= 2), "{version}: {seen:?}");

    server.run().await;
    records.during(Duration::from_millis(1_500)).await;
    let back = records.during(Duration::from_secs(2)).await;
    table(&format!("{version} back"), &back);
    assert_eq!(outcomes(&back).keys().collect::<Vec<_>>(), ["ok"], "{version}: after the restart");

    cancel.cancel();
    while tasks.join_next().await.is_some() {}
    tokio::time::sleep(Duration::from_secs(1)).await;
    let leases = server.client().await.leases().await.expect("list leases").leases().len();
    // A grant that timed out while the member stood still was carried out later, unknown to us: ten seconds, then it goes.
    let unknown = probes(&paused).filter(|(kind, _, _)| *kind == ProbeKind::LeaseGrant).count() + 4;
    assert!(leases <= unknown, "{version}: {leases} leases");
    println!("{version}: leases left {leases}, ledger {:?}", ledger.lines());
}

async fn leaves_no_lease(version: &str) {
    let server = Server::start(version, "lease", &[]).await;
    let writes = Writes { lease_hz: 20.0, put_hz: 0.0, ..Writes::default() };
    let config = Config {
        serializable_read_hz: 0.0,
        linearizable_read_hz: 0.0,
        status_hz: 0.0,
        writes: Some(writes),
        ..Config::default()
    };
    let before = server.revision().await.expect("a revision");
    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(Prober::new(&server.target(), config, clock(), Ledger::default()).run(inbox, cancel.clone()));
    let cycles = records.during(Duration::from_secs(2)).await;
    assert!(probes(&cycles).count() > 90, "{version}: {} records", probes(&cycles).count());
    table(version, &cycles);
    // Let the last cycle end: a prober that is stopped between grant and revoke leaves its lease to the ten seconds.
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
    let leases = server.client().await.leases().await.expect("list leases").leases().len();
    assert!(leases <= 1, "{version}: {leases} leases after {} records", probes(&cycles).count());
    assert_eq!(server.revision().await, Some(before), "{version}: no key was written");
}

#[tokio::test]
async fn a_member_is_asked_less_than_twice_a_second() {
    let server = Server::start("3.5", "load", &[]).await;
    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let target = server.target();
    let config = Config { writes: Some(Writes::default()), ..Config::default() };
    tasks.spawn(Prober::new(&target, config, clock(), Ledger::default()).run(inbox.clone(), cancel.clone()));
    let watch = MemberWatch::new(&target, MemberConfig::default(), clock(), Ledger::default());
    tasks.spawn(watch.run(inbox, cancel.clone()));
    // The start costs the watcher's stream, a Status and the list; then the beat counts.
    records.during(Duration::from_secs(3)).await;
    let total = |calls: &[(String, f64)]| calls.iter().map(|(_, calls)| calls).sum::<f64>();
    let before = total(&server.calls().await);
    let told = records.during(Duration::from_secs(40)).await;
    let calls = server.calls().await;
    let per_second = (total(&calls) - before) / 40.0;
    let accounts = told.iter().filter(|record| matches!(record.fact, Fact::Member(_))).count();
    println!("{per_second:.3} requests/s, {accounts} accounts in 40 s, {calls:?}");
    // Forty seconds hold whole numbers of each kind: one of each may fall in beyond the rate.
    assert!((1.8..=2.05).contains(&per_second), "{per_second}");
    assert!((3..=5).contains(&accounts), "{accounts}");
}

#[tokio::test]
async fn a_boost_asks_more_often_for_its_time_and_then_as_before() {
    let server = Server::start("3.5", "boost", &[]).await;
    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (target, rates) = (server.target(), Rates::default());
    let prober = Prober::new(&target, Config::default(), clock(), Ledger::default()).following(rates.clone());
    tasks.spawn(prober.run(inbox, cancel.clone()));
    let mut asked_in = async |seconds: u64| {
        let total = async || server.calls().await.iter().map(|(_, calls)| calls).sum::<f64>();
        let before = total().await;
        records.during(Duration::from_secs(seconds)).await;
        total().await - before
    };
    asked_in(1).await;
    let usual = asked_in(8).await;
    rates.boost(Boost { factor: 10.0, lasts: Duration::from_secs(5) }).expect("within bounds");
    let boosted = asked_in(4).await;
    asked_in(2).await;
    let after = asked_in(8).await;
    println!("calls: usual {usual} in 8 s, boosted {boosted} in 4 s, after {after} in 8 s");
    // 1.1 a second, and ten times that; each kind may fall in once more or less, and a test that was held up skips some.
    assert!((5.0..=12.0).contains(&usual), "{usual}");
    assert!((25.0..=50.0).contains(&boosted), "{boosted}");
    assert!((5.0..=12.0).contains(&after), "{after}");
    assert_eq!(rates.running(), None);
}

macro_rules! versions {
    ($($name:ident $lease:ident $version:literal),*) => { $(
        #[tokio::test]
        async fn $name() {
            lives_stands_still_dies_and_comes_back($version).await;
        }
        #[tokio::test]
        async fn $lease() {
            leaves_no_lease($version).await;
        }
    )* };
}

versions!(
    etcd_3_4_lives_pauses_dies_returns etcd_3_4_keeps_no_lease "3.4",
    etcd_3_5_lives_pauses_dies_returns etcd_3_5_keeps_no_lease "3.5",
    etcd_3_6_lives_pauses_dies_returns etcd_3_6_keeps_no_lease "3.6",
    etcd_3_7_lives_pauses_dies_returns etcd_3_7_keeps_no_lease "3.7"
);

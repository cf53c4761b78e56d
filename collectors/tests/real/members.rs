//! A member's own account: identity, sizes, alarms, hash; and its silence.

use std::time::Duration;

use collectors::member::{Config, MemberWatch};
use model::ledger::Ledger;
use model::member::{MemberFact, MemberState};
use model::record::{Fact, Record};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::server::{Records, Server, clock};

fn states(records: &[Record]) -> Vec<&MemberState> {
    let facts = records.iter().filter_map(|record| match &record.fact {
        Fact::Member(MemberFact::Answered(state)) => Some(&**state),
        _ => None,
    });
    facts.collect()
}

fn silences(records: &[Record]) -> Vec<&str> {
    let facts = records.iter().filter_map(|record| match &record.fact {
        Fact::Member(MemberFact::Silent { reason, .. }) => Some(reason.as_str()),
        _ => None,
    });
    facts.collect()
}

async fn tells_of_itself(version: &str, tells_quota: bool) {
    let mut server = Server::start(version, "member", &["--quota-backend-bytes", "200000"]).await;
    let mut client = server.client().await;
    let mut full = false;
    // The quota is compared with what is committed, ten times a second: on a fast disk the first puts slip through.
    for round in 0..500_u32 {
        full = full || client.put(format!("key-{}", round % 50), vec![b'x'; 100_000], None).await.is_err();
        if full {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(full, "{version}: the quota holds");

    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let config = Config { interval: Duration::from_secs(1), hash_kv: Some(Duration::from_secs(2)) };
    let target = server.target();
    let watch = MemberWatch::new(&target, config, clock(), Ledger::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(watch.run(inbox, cancel.clone()));
    let told = records.during(Duration::from_millis(4_500)).await;
    let told = states(&told);
    let last = told.last().expect("an answer");
    println!("{version}: {last:?}");
    assert_eq!(last.leader, last.id, "{version}: a single member leads");
    assert!(last.version.starts_with(version), "{version}: {}", last.version);
    assert_eq!(last.members.len(), 1, "{version}");
    assert!(last.members.first().is_some_and(|member| member.name == server.name && member.id == last.id));
    assert_eq!(last.alarms, [("NOSPACE".to_owned(), last.id)], "{version}");
    assert_eq!(last.quota_bytes, tells_quota.then_some(200_000), "{version}");
    assert!(last.db_size_bytes >= last.db_in_use_bytes && last.db_in_use_bytes > 0, "{version}");
    assert_eq!(target.identity.origin().cluster_id, Some(last.cluster_id));
    let hashes: Vec<u32> = told.iter().filter_map(|state| state.hash).map(|hash| hash.hash).collect();
    assert!((1..=2).contains(&hashes.len()), "{version}: {hashes:?}");
    assert!(hashes.windows(2).all(|pair| pair.first() == pair.last()), "{version}: {hashes:?}");

    server.signal("-STOP");
    records.during(Duration::from_millis(1_500)).await;
    let paused = records.during(Duration::from_secs(3)).await;
    assert!(silences(&paused).contains(&"timed_out"), "{version}: {:?}", silences(&paused));
    server.kill();
    records.during(Duration::from_millis(500)).await;
    let gone = records.during(Duration::from_millis(2_500)).await;
    assert!(silences(&gone).iter().all(|reason| *reason == "refused"), "{version}: {:?}", silences(&gone));
    assert!(silences(&gone).len() >= 2, "{version}");
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
}

#[tokio::test]
async fn etcd_3_4_tells_of_itself() {
    tells_of_itself("3.4", false).await;
}

#[tokio::test]
async fn etcd_3_5_tells_of_itself() {
    tells_of_itself("3.5", false).await;
}

#[tokio::test]
async fn etcd_3_6_tells_of_itself() {
    tells_of_itself("3.6", true).await;
}

#[tokio::test]
async fn etcd_3_7_tells_of_itself() {
    tells_of_itself("3.7", true).await;
}

//! Members as this node's `/proc` shows them: found without configuration, seen to restart and to change their version.

use std::sync::Arc;
use std::time::Duration;

use collectors::discover::{Environment, find, probe_reachable};
use collectors::marks::{Config, Watch, Watched};
use model::ledger::Ledger;
use model::mark::{Mark, MarkKind, MarkSource};
use model::origin::Origin;
use model::record::{Fact, Record};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::server::{Records, Server, clock};

fn marks(records: &[Record]) -> Vec<&Mark> {
    let facts = records.iter().filter_map(|record| match &record.fact {
        Fact::Mark(mark) => Some(mark),
        _ => None,
    });
    facts.collect()
}

#[tokio::test]
async fn a_member_is_found_and_its_lives_are_told_apart() {
    let mut server = Server::start("3.5.16", "found", &["--enable-pprof"]).await;
    let discovery = find(&Environment::system("node-1"));
    let target =
        discovery.targets.iter().find(|target| target.name == server.name).expect("the member is found");
    assert_eq!(target.client_url.as_ref(), Some(&server.url));
    assert_eq!(target.pprof_url.as_ref(), Some(&server.url));
    assert!(target.pid.is_some() && target.local);
    assert!(target.data_dir.as_ref().is_some_and(|dir| dir.is_dir()));
    assert!(target.log_file.as_ref().is_some_and(|file| file.is_file()), "stderr goes to a file: {target:?}");

    let watched = vec![Watched::member(target).expect("it runs here")];
    let config = Config { interval: Duration::from_millis(200), watched, ..Config::default() };
    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let origin = Arc::new(Origin { node: "node-1".to_owned(), ..Origin::default() });
    tasks.spawn(Watch::new(config, clock(), Ledger::default()).run(origin, inbox, cancel.clone()));
    assert_eq!(marks(&records.during(Duration::from_secs(1)).await), Vec::<&Mark>::new());

    server.kill();
    records.during(Duration::from_millis(600)).await;
    server.run().await;
    let restarted = records.during(Duration::from_secs(1)).await;
    println!("{restarted:?}");
    let [mark] = marks(&restarted).try_into().expect("one mark");
    assert_eq!((mark.kind, mark.source), (MarkKind::Restart, MarkSource::Observed));
    assert_eq!(mark.target, server.name);
    let before = mark.revision.clone();

    server.kill();
    server.becomes("3.5");
    server.run().await;
    let upgraded = records.during(Duration::from_secs(1)).await;
    println!("{upgraded:?}");
    let [mark] = marks(&upgraded).try_into().expect("one mark");
    assert_eq!(mark.kind, MarkKind::Rollout);
    assert_ne!(mark.revision, before);
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
}

#[tokio::test]
async fn an_address_alone_is_enough() {
    let server = Server::start("3.4", "reach", &[]).await;
    let mut environment = Environment::system("node-1");
    environment.root = std::env::temp_dir().join("backburn-no-such-root");
    let address = server.url.trim_start_matches("http://").to_owned();
    environment.vars.insert("ETCDCTL_ENDPOINTS".to_owned(), address);
    let discovery = probe_reachable(find(&environment)).await;
    let [target] = discovery.targets.as_slice() else { unreachable!("{:?}", discovery.describe()) };
    assert_eq!(target.client_url.as_ref(), Some(&server.url));
    assert!(target.local);
}

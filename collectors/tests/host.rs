//! The host collector as the pipeline runs it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy sees only #[test] functions as tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use collectors::clock;
use collectors::host::{Config, Host, Watched};
use model::host::HostFact;
use model::inbox::{Envelope, Inbox};
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::Fact;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

async fn next(rx: &mut mpsc::Receiver<Envelope>) -> HostFact {
    match rx.recv().await.unwrap().record.fact {
        Fact::Host(fact) => fact,
        other => panic!("{other:?}"),
    }
}

fn host(root: &str, watched: watch::Receiver<Vec<Watched>>, ledger: &Ledger) -> Host {
    let config = Config { interval: Duration::from_millis(100), filesystems: vec![PathBuf::from("/")] };
    Host::new(PathBuf::from(root), config, watched, clock::system(), ledger.clone())
}

#[tokio::test]
async fn readings_follow_the_list_of_watched_processes_and_cpu_time_grows() {
    let (watch, watched) = watch::channel(Vec::new());
    let ledger = Ledger::default();
    let (inbox, mut rx) = Inbox::new(4, 1024);
    let cancel = CancellationToken::new();
    let engine = async {
        let first = next(&mut rx).await;
        assert!(first.processes.is_empty());
        watch.send(vec![Watched { pid: std::process::id(), role: None }]).unwrap();
        let _maybe_before_the_change = next(&mut rx).await;
        let third = next(&mut rx).await;
        assert_eq!(third.processes.len(), 1);
        assert_eq!(third.filesystems.len(), 1);
        let busy = |fact: &HostFact| fact.cpu.user_ns + fact.cpu.system_ns + fact.cpu.idle_ns;
        assert!(busy(&third) > busy(&first));
        cancel.cancel();
    };
    tokio::join!(host("/", watched, &ledger).run(Arc::new(Origin::default()), inbox, cancel.clone()), engine);
    assert!(ledger.get("agent_host_readings_total", "ok") >= 3);
}

#[tokio::test]
async fn a_node_that_cannot_be_read_is_counted_and_sends_nothing() {
    let (_watch, watched) = watch::channel(Vec::new());
    let ledger = Ledger::default();
    let (inbox, mut rx) = Inbox::new(4, 1024);
    let cancel = CancellationToken::new();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        cancel.cancel();
    };
    let host = host("/no/such/root", watched, &ledger);
    tokio::join!(host.run(Arc::new(Origin::default()), inbox, cancel.clone()), stop);
    assert!(rx.recv().await.is_none());
    assert!(ledger.get("agent_host_readings_total", "no_stat") >= 2);
}

//! Members that want to know who asks: client certificates, and etcd's own users.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use collectors::member::{Config as MemberConfig, MemberWatch};
use collectors::probe::{Config, Prober, Writes};
use collectors::target::{Login, Target};
use collectors::tls::TlsFiles;
use etcd_client::Permission;
use model::inbox::Inbox;
use model::ledger::Ledger;
use model::member::MemberFact;
use model::probe::{ProbeKind, ProbeOutcome};
use model::record::{Fact, Record};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::server::{Records, Server, clock};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
}

fn files(name: &str) -> TlsFiles {
    TlsFiles {
        ca: Some(file("ca.crt")),
        cert: Some(file(&format!("{name}.crt"))),
        key: Some(file(&format!("{name}.key"))),
    }
}

type Outcomes = Vec<(ProbeKind, String)>;

/// Five of each kind a second for two seconds: the outcomes as they came.
async fn asked(target: &Target) -> Outcomes {
    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    start(&mut tasks, target, inbox, &cancel);
    let outcomes =
        records.during(Duration::from_secs(2)).await.into_iter().filter_map(|record| match record.fact {
            Fact::Probe(probe) => Some((probe.kind, probe.outcome.name().to_owned())),
            _ => None,
        });
    let outcomes = outcomes.collect();
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
    outcomes
}

fn start(tasks: &mut JoinSet<()>, target: &Target, inbox: Inbox, cancel: &CancellationToken) {
    let config = Config {
        serializable_read_hz: 5.0,
        linearizable_read_hz: 5.0,
        status_hz: 5.0,
        writes: Some(Writes { lease_hz: 5.0, put_hz: 5.0, ..Writes::default() }),
        ..Config::default()
    };
    tasks.spawn(Prober::new(target, config, clock(), Ledger::default()).run(inbox, cancel.clone()));
}

/// Whether it ended so from the first such outcome on, for most of the two seconds.
fn all(outcomes: &Outcomes, expected: &str) -> bool {
    let mut from = outcomes.iter().skip_while(|(_, outcome)| outcome != expected);
    from.clone().count() >= 25 && from.all(|(_, outcome)| outcome == expected)
}

async fn wants_a_certificate(version: &str) {
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let [cert, key, ca] = [cert, key, ca].map(|path| path.display().to_string());
    let flags = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let server = Server::start_secured(version, "tls", &flags).await;
    let with = |tls: TlsFiles| Target { tls, ..server.target() };

    let outcomes = asked(&with(files("client"))).await;
    assert!(
        outcomes.iter().all(|(_, outcome)| outcome == "ok") && outcomes.len() > 40,
        "{version}: {outcomes:?}"
    );
    let without = TlsFiles { ca: Some(file("ca.crt")), ..TlsFiles::default() };
    let outcomes = asked(&with(without)).await;
    assert!(all(&outcomes, "not_permitted"), "{version}: without a certificate: {outcomes:?}");
    let outcomes = asked(&with(files("foreign"))).await;
    assert!(all(&outcomes, "not_permitted"), "{version}: with another's: {outcomes:?}");
    // We do not trust the member: no connection is made.
    let outcomes = asked(&with(TlsFiles { ca: Some(file("foreign.crt")), ..files("client") })).await;
    assert!(all(&outcomes, "refused"), "{version}: of an authority we do not trust: {outcomes:?}");

    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let watch = MemberWatch::new(&with(files("client")), MemberConfig::default(), clock(), Ledger::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(watch.run(inbox, cancel.clone()));
    let told: Vec<Record> = records.during(Duration::from_secs(1)).await;
    let answered = |record: &Record| matches!(&record.fact, Fact::Member(MemberFact::Answered(_)));
    assert!(told.iter().any(answered), "{version}: {told:?}");
    cancel.cancel();
}

#[tokio::test]
async fn etcd_3_4_wants_a_certificate() {
    wants_a_certificate("3.4").await;
}

#[tokio::test]
async fn etcd_3_5_wants_a_certificate() {
    wants_a_certificate("3.5").await;
}

#[tokio::test]
async fn etcd_3_7_wants_a_certificate() {
    wants_a_certificate("3.7").await;
}

#[tokio::test]
async fn a_rotated_certificate_is_taken_up() {
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let [cert, key, ca] = [cert, key, ca].map(|path| path.display().to_string());
    let flags = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let server = Server::start_secured("3.5", "rotate", &flags).await;
    let dir = std::env::temp_dir().join(format!("backburn-rotated-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("create the directory");
    let put = |from: &str| {
        for end in ["crt", "key"] {
            let new = dir.join(format!("new.{end}"));
            std::fs::copy(file(&format!("{from}.{end}")), &new).expect("copy");
            std::fs::rename(new, dir.join(format!("mine.{end}"))).expect("rename");
        }
    };
    put("client");
    let tls = TlsFiles {
        ca: Some(file("ca.crt")),
        cert: Some(dir.join("mine.crt")),
        key: Some(dir.join("mine.key")),
    };
    let target = Target { tls, ..server.target() };
    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    start(&mut tasks, &target, inbox, &cancel);
    let words = |records: Vec<Record>| {
        let mut words: Vec<String> = records
            .into_iter()
            .filter_map(|record| match record.fact {
                // A disk that stalls for a second is not a connection that broke.
                Fact::Probe(probe) if probe.outcome != ProbeOutcome::TimedOut => {
                    Some(probe.outcome.name().to_owned())
                }
                _ => None,
            })
            .collect();
        words.dedup();
        words
    };
    let mut first = Vec::new();
    for _ in 0..20 {
        first.extend(words(records.during(Duration::from_secs(1)).await));
        if !first.is_empty() {
            break;
        }
    }
    assert_eq!(first, ["ok"]);
    // Half a rotation: the old connection stays.
    std::fs::write(dir.join("mine.crt"), "half").expect("write");
    assert_eq!(words(records.during(Duration::from_secs(11)).await), ["ok"]);
    put("foreign");
    let rotated = words(records.during(Duration::from_secs(12)).await);
    assert_eq!(rotated.first().map(String::as_str), Some("ok"), "{rotated:?}");
    assert_eq!(rotated.last().map(String::as_str), Some("not_permitted"), "{rotated:?}");
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
    std::fs::remove_dir_all(&dir).ok();
}

async fn wants_a_user(version: &str) {
    let server = Server::start(version, "auth", &[]).await;
    let mut client = server.client().await;
    client.user_add("root", "secret", None).await.expect("add the user");
    client.role_add("root").await.expect("add the role");
    client.user_grant_role("root", "root").await.expect("grant the role");
    client.auth_enable().await.expect("enable auth");
    let mut outcomes: BTreeMap<ProbeKind, Vec<String>> = BTreeMap::new();
    for (kind, outcome) in asked(&server.target()).await {
        outcomes.entry(kind).or_default().push(outcome);
    }
    println!("{version}: {outcomes:?}");
    // Status and leases without keys need no user in every version.
    for open in [ProbeKind::Status, ProbeKind::LeaseGrant, ProbeKind::LeaseKeepAlive, ProbeKind::LeaseRevoke]
    {
        if let Some(found) = outcomes.remove(&open) {
            assert!(
                found.iter().all(|outcome| outcome == "ok" || outcome == "not_permitted"),
                "{version}: {found:?}"
            );
        }
    }
    let closed: Vec<&ProbeKind> = outcomes.keys().collect();
    assert_eq!(
        closed,
        [&ProbeKind::SerializableRead, &ProbeKind::LinearizableRead, &ProbeKind::Put],
        "{version}"
    );
    assert!(outcomes.values().flatten().all(|outcome| outcome == "not_permitted"), "{version}: {outcomes:?}");
}

#[tokio::test]
async fn etcd_3_4_wants_a_user() {
    wants_a_user("3.4").await;
}

#[tokio::test]
async fn etcd_3_5_wants_a_user() {
    wants_a_user("3.5").await;
}

#[tokio::test]
async fn etcd_3_7_wants_a_user() {
    wants_a_user("3.7").await;
}

/// Auth with root, and a user that may read the agent's key and no more.
async fn with_a_reader(server: &Server) {
    let mut client = server.client().await;
    client.user_add("root", "secret", None).await.expect("add the user");
    client.role_add("root").await.expect("add the role");
    client.user_grant_role("root", "root").await.expect("grant the role");
    client.user_add("reader", "of probes", None).await.expect("add the user");
    client.role_add("reader").await.expect("add the role");
    let keys = Permission::read("/backburn/probe/").with_prefix();
    client.role_grant_permission("reader", keys).await.expect("grant the permission");
    client.user_grant_role("reader", "reader").await.expect("grant the role");
    client.auth_enable().await.expect("enable auth");
}

type ByKind = BTreeMap<ProbeKind, Vec<String>>;

/// Asks until the outcomes are as they should be: where the disk is shared, a login or a read may take seconds.
async fn becomes(target: &Target, expected: impl Fn(&ByKind) -> bool) {
    let mut last = ByKind::new();
    for _ in 0..15 {
        last.clear();
        for (kind, outcome) in asked(target).await {
            last.entry(kind).or_default().push(outcome);
        }
        last.values_mut().for_each(|outcomes| outcomes.dedup());
        if expected(&last) {
            return;
        }
    }
    unreachable!("{}: {last:?}", target.name);
}

fn is(outcomes: &ByKind, kind: ProbeKind, expected: &str) -> bool {
    outcomes.get(&kind).is_some_and(|outcomes| *outcomes == [expected])
}

async fn knows_its_user(version: &str) {
    let mut server = Server::start(version, "user", &[]).await;
    with_a_reader(&server).await;
    let login = |user: &str, password: &str| {
        let login = Some(Login::new(user, password));
        Target { login, ..server.target() }
    };
    let good = |outcomes: &ByKind| outcomes.values().flatten().all(|outcome| outcome == "ok");
    becomes(&login("root", "secret"), |seen| seen.len() == 8 && good(seen)).await;
    let reader = login("reader", "of probes");
    let reads = [ProbeKind::SerializableRead, ProbeKind::LinearizableRead, ProbeKind::Status];
    becomes(&reader, |seen| {
        reads.iter().all(|read| is(seen, *read, "ok")) && is(seen, ProbeKind::Put, "not_permitted")
    })
    .await;
    becomes(&login("reader", "guessed"), |seen| is(seen, ProbeKind::LinearizableRead, "not_permitted")).await;

    // A restarted member knows no token of its last life: a new one is asked for, and no read is blamed for it.
    let (inbox, mut records) = Records::new();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    start(&mut tasks, &reader, inbox.clone(), &cancel);
    let watch = MemberWatch::new(&reader, MemberConfig::default(), clock(), Ledger::default());
    tasks.spawn(watch.run(inbox, cancel.clone()));
    let mut listed = 0;
    for _ in 0..30 {
        for record in records.during(Duration::from_secs(1)).await {
            if let Fact::Member(MemberFact::Answered(state)) = record.fact {
                listed = state.members.len();
            }
        }
        if listed > 0 {
            break;
        }
    }
    assert_eq!(listed, 1, "{version}: the list needs a user from 3.6 on");
    server.kill();
    records.during(Duration::from_millis(500)).await;
    server.spawn();
    let mut reads: Vec<String> = Vec::new();
    for _ in 0..60 {
        for record in records.during(Duration::from_secs(1)).await {
            if let Fact::Probe(probe) = record.fact
                && matches!(probe.kind, ProbeKind::SerializableRead | ProbeKind::LinearizableRead)
            {
                reads.push(probe.outcome.name().to_owned());
            }
        }
        if reads.iter().filter(|outcome| *outcome == "ok").count() >= 10 {
            break;
        }
    }
    assert!(reads.iter().filter(|outcome| *outcome == "ok").count() >= 10, "{version}: {reads:?}");
    assert!(!reads.contains(&"not_permitted".to_owned()), "{version}: {reads:?}");
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
}

#[tokio::test]
async fn etcd_3_4_knows_its_user() {
    knows_its_user("3.4").await;
}

#[tokio::test]
async fn etcd_3_5_knows_its_user() {
    knows_its_user("3.5").await;
}

#[tokio::test]
async fn etcd_3_7_knows_its_user() {
    knows_its_user("3.7").await;
}

#[tokio::test]
async fn a_user_that_nobody_asks_for_does_no_harm() {
    let server = Server::start("3.5", "open", &[]).await;
    let target = Target { login: Some(Login::new("root", "secret")), ..server.target() };
    becomes(&target, |seen| seen.len() == 8 && seen.values().flatten().all(|outcome| outcome == "ok")).await;
}

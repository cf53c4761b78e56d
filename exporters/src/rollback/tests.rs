//! The whole way from a decision to a scripted receiver on a real socket, through a real journal.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::finding::{Conclusion, Finding, ProfileDiff};
use model::inbox::{Envelope, Inbox};
use model::ledger::Ledger;
use model::origin::Origin;
use model::profile::{Baseline, ProfileKind};
use model::record::Fact;
use model::time::{Clock, SECOND_NS, Stamp};
use model::verdict::{Decision, Delivery, Done, Evidence, SignalEvent, State};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::signature::{Headers, Secret, verify};
use super::{Config, Decisions, Receiver, Rollback, StartError, Wires};

const BASE_NS: u64 = 1_795_230_000 * SECOND_NS;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What a scripted receiver does with one request.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Status(u16, &'static str),
    /// Reads the request and never answers.
    Hang,
    /// Reads the request and closes.
    Close,
    /// 200 and a body without end.
    Endless,
}

#[derive(Clone, Debug)]
struct Request {
    headers: BTreeMap<String, String>,
    body: String,
    at: Instant,
}

impl Request {
    fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A webhook that follows a script; its last line repeats.
struct Hook {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    _tasks: JoinSet<()>,
}

impl Hook {
    async fn start(script: Vec<Reply>) -> Hook {
        Hook::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    async fn start_at(address: SocketAddr, script: Vec<Reply>) -> Hook {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let log = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, log) = (script.clone(), Arc::clone(&log));
                connections.spawn(serve(stream, script, log));
            }
        });
        Hook { address, seen, _tasks: tasks }
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    async fn sees(&self, n: usize) {
        let wait = async {
            while self.seen().len() < n {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), wait).await.expect("the requests did not come");
    }

    fn receiver(&self, name: &str) -> Receiver {
        Receiver::Webhook {
            name: name.to_owned(),
            url: format!("http://{}/hook", self.address),
            allow_http: false,
            secrets: vec![Secret::parse(SECRET).unwrap()],
            timeout: Duration::from_millis(600),
            targets: Vec::new(),
        }
    }
}

async fn serve(mut stream: TcpStream, script: Vec<Reply>, log: Arc<Mutex<Vec<Request>>>) {
    let mut bytes = Vec::new();
    let (head, body_at) = loop {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.unwrap_or(0);
        if n == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..n]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break (String::from_utf8(bytes[..end].to_vec()).unwrap(), end + 4);
        }
    };
    let headers: BTreeMap<String, String> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().unwrap();
    while bytes.len() < body_at + length {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.unwrap();
        bytes.extend_from_slice(&chunk[..n]);
    }
    let body = String::from_utf8(bytes[body_at..].to_vec()).unwrap();
    let reply = {
        let mut log = log.lock().unwrap();
        log.push(Request { headers, body, at: Instant::now() });
        script[(log.len() - 1).min(script.len() - 1)]
    };
    match reply {
        Reply::Status(status, extra) => {
            let text =
                format!("HTTP/1.1 {status} X\r\n{extra}content-length: 0\r\nconnection: close\r\n\r\n");
            let _gone = stream.write_all(text.as_bytes()).await;
        }
        Reply::Hang => sleep(Duration::from_secs(60)).await,
        Reply::Close => {}
        Reply::Endless => {
            let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n").await;
            while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
        }
    }
}

/// A rollback task with all its wires.
struct Rig {
    folder: PathBuf,
    decisions: Option<watch::Sender<Decisions>>,
    findings: mpsc::Sender<Arc<Finding>>,
    done: mpsc::Receiver<Envelope>,
    _inbox: Inbox,
    tasks: JoinSet<()>,
    ledger: Ledger,
    wall_shift: Arc<AtomicU64>,
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("backburn-rollback-{}-{name}", std::process::id()));
    let _absent = fs::remove_dir_all(&folder);
    folder
}

fn open(
    folder: &Path,
    receivers: Vec<Receiver>,
    shift: &Arc<AtomicU64>,
) -> Result<(Rollback, Ledger), StartError> {
    let begun = Instant::now();
    let shift = Arc::clone(shift);
    let clock = Clock::new(move || {
        let mono_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap();
        Stamp { mono_ns, wall_ns: BASE_NS + mono_ns + shift.load(Ordering::Relaxed) }
    });
    let ledger = Ledger::default();
    let config = Config { journal_dir: folder.to_owned(), receivers };
    let mut rollback = Rollback::new(config, clock, ledger.clone())?;
    rollback.waits = [50, 60, 70, 80, 90].map(Duration::from_millis);
    Ok((rollback, ledger))
}

impl Rig {
    fn start(folder: PathBuf, receivers: Vec<Receiver>) -> Rig {
        let wall_shift = Arc::new(AtomicU64::new(0));
        let (rollback, ledger) = open(&folder, receivers, &wall_shift).unwrap();
        let (decisions, watched) = watch::channel(Arc::default());
        let (findings, heard) = mpsc::channel(16);
        let (inbox, done) = Inbox::new(64, 1024);
        let origin = Arc::new(Origin { cluster_id: Some(7), node: "n1".to_owned(), member: None });
        let wires = Wires {
            decisions: watched,
            findings: heard,
            inbox: inbox.downgrade(),
            origin,
            drain: Duration::from_millis(400),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(rollback.run(wires));
        Rig { folder, decisions: Some(decisions), findings, done, _inbox: inbox, tasks, ledger, wall_shift }
    }

    fn decide(&self, decision: Decision) {
        let map = BTreeMap::from([(decision.target.clone(), Arc::new(decision))]);
        self.decisions.as_ref().unwrap().send(Arc::new(map)).unwrap();
    }

    async fn done(&mut self) -> Done {
        let envelope =
            timeout(Duration::from_secs(10), self.done.recv()).await.expect("no Done came").unwrap();
        match envelope.record.fact {
            Fact::Done(done) => done,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the journal says so often that the engine was told.
    async fn told(&self, n: usize) {
        let journal = self.folder.join("journal.jsonl");
        let wait = async {
            while fs::read_to_string(&journal).unwrap().matches("{\"told\":").count() < n {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), wait).await.expect("the engine was not told");
    }

    /// Kill -9: the task goes, nothing is tidied.
    async fn kill(mut self) -> PathBuf {
        self.tasks.shutdown().await;
        self.folder.clone()
    }

    async fn stop(mut self) {
        self.decisions = None;
        timeout(Duration::from_secs(5), self.tasks.join_next())
            .await
            .expect("the drain is bounded")
            .unwrap()
            .unwrap();
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn decision(state: State, epoch: u64) -> Decision {
    Decision {
        target: "client".to_owned(),
        epoch,
        revision: if state == State::Pass { "v1b" } else { "v2" }.to_owned(),
        state,
        since: Stamp::default(),
        valid_until_ns: BASE_NS + 600 * SECOND_NS,
        dry_run: false,
        evidence: Evidence::assemble("writes burn".to_owned()),
    }
}

fn diff(target: &str) -> Arc<Finding> {
    let diff = ProfileDiff {
        request: 4,
        finding: 3,
        target: target.to_owned(),
        kind: ProfileKind::Cpu,
        engine: "perf".to_owned(),
        unit: "ns".to_owned(),
        baseline: Baseline::BeforeMarker,
        baseline_age_s: 60,
        before_total: 1.0,
        after_total: 2.0,
        before_samples: 100,
        after_samples: 200,
        before_windows: 0,
        after_windows: 0,
        before_per_request: None,
        after_per_request: None,
        functions: Vec::new(),
    };
    let conclusion = Conclusion::ProfileDiff(diff);
    Arc::new(Finding { id: 9, at: Stamp::default(), origin: Arc::default(), conclusion })
}

fn types(seen: &[Request]) -> Vec<String> {
    seen.iter().map(|request| request.event()["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_signal_is_sent_until_taken_with_one_id_and_one_body_and_resolved_once() {
    let script = vec![Reply::Status(500, ""), Reply::Close, Reply::Status(409, ""), Reply::Status(204, "")];
    let hook = Hook::start(script).await;
    let mut rig = Rig::start(folder("retry"), vec![hook.receiver("deployer")]);
    rig.decide(decision(State::Rollback, 1));
    let done = rig.done().await;
    assert_eq!(
        (done.event, done.outcome, done.receiver.as_str()),
        (SignalEvent::Rollback, Delivery::Delivered, "deployer")
    );
    let seen = hook.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|request| request.body == seen[0].body));
    let secret = Secret::parse(SECRET).unwrap();
    for request in &seen {
        let headers = Headers {
            id: &request.headers["webhook-id"],
            timestamp: &request.headers["webhook-timestamp"],
            signature: &request.headers["webhook-signature"],
        };
        assert_eq!(verify(&secret, headers, request.body.as_bytes(), BASE_NS / SECOND_NS), Ok(()));
        assert_eq!(request.event()["id"], headers.id);
        assert_eq!(request.headers["content-type"], "application/cloudevents+json; charset=utf-8");
    }
    let signal = seen[0].event()["data"]["signal_id"].as_str().unwrap().to_owned();
    assert!(rig.folder.join(format!("signals/{signal}.json")).exists());

    // Evidence of its members follows; the same diff twice is one event; then it passes, twice.
    rig.findings.send(diff("m1")).await.unwrap();
    assert_eq!(rig.done().await.event, SignalEvent::Evidence);
    rig.findings.send(diff("m1")).await.unwrap();
    rig.decide(decision(State::Pass, 2));
    assert_eq!(rig.done().await.event, SignalEvent::Resolved);
    rig.decide(decision(State::Pass, 3));
    rig.decide(decision(State::Rollback, 1));
    sleep(Duration::from_millis(300)).await;
    let seen = hook.seen();
    assert_eq!(
        types(&seen[3..]),
        [
            "dev.backburn.rollback.v1",
            "dev.backburn.rollback.evidence.v1",
            "dev.backburn.rollback.resolved.v1"
        ]
    );
    let ids: std::collections::BTreeSet<String> =
        seen.iter().map(|request| request.headers["webhook-id"].clone()).collect();
    assert_eq!(ids.len(), 3);
    assert!(seen.iter().all(|request| request.event()["signalid"] == signal.as_str()));
    assert_eq!(seen[5].event()["data"]["state"], "pass");
    rig.stop().await;
}

#[tokio::test]
async fn a_dry_run_sends_nothing_and_does_not_stand_in_the_way_of_the_real_one() {
    let hook = Hook::start(vec![Reply::Status(200, "")]).await;
    let mut rig = Rig::start(folder("dry"), vec![hook.receiver("deployer")]);
    rig.decide(Decision { dry_run: true, ..decision(State::Rollback, 1) });
    sleep(Duration::from_millis(200)).await;
    assert!(hook.seen().is_empty());
    assert_eq!(rig.ledger.get("agent_rollback_signals_total", "dry_run"), 1);
    let journal = fs::read_to_string(rig.folder.join("journal.jsonl")).unwrap();
    assert!(journal.contains("dry_run") && journal.contains("deployer"), "{journal}");
    rig.decide(decision(State::Rollback, 1));
    assert_eq!(rig.done().await.outcome, Delivery::Delivered);
    assert_eq!(hook.seen().len(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_crash_between_sending_and_acknowledgement_sends_the_same_id_again_and_an_acknowledged_one_never() {
    let first = Hook::start(vec![Reply::Hang]).await;
    let rig = Rig::start(folder("crash"), vec![first.receiver("deployer")]);
    rig.decide(decision(State::Rollback, 1));
    first.sees(1).await;
    let folder = rig.kill().await;

    // Nobody decides anything after the restart: the journal alone knows.
    let second = Hook::start(vec![Reply::Status(200, "")]).await;
    let mut rig = Rig::start(folder, vec![second.receiver("deployer")]);
    assert_eq!(rig.done().await.outcome, Delivery::Delivered);
    assert_eq!(second.seen()[0].body, first.seen()[0].body);
    assert_eq!(second.seen()[0].headers["webhook-id"], first.seen()[0].headers["webhook-id"]);
    rig.told(1).await;
    let folder = rig.kill().await;

    let mut rig = Rig::start(folder, vec![second.receiver("deployer")]);
    rig.decide(decision(State::Rollback, 1));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(second.seen().len(), 1);
    rig.decide(decision(State::Pass, 1));
    assert_eq!(rig.done().await.event, SignalEvent::Resolved);
    rig.told(2).await;
    let folder = rig.kill().await;

    let rig = Rig::start(folder, vec![second.receiver("deployer")]);
    rig.decide(decision(State::Pass, 1));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(second.seen().len(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_slow_receiver_and_one_that_refuses_delay_nobody() {
    let slow = Hook::start(vec![Reply::Hang]).await;
    let gone = Hook::start(vec![Reply::Status(410, "")]).await;
    let good = Hook::start(vec![Reply::Endless]).await;
    let receivers = vec![slow.receiver("slow"), gone.receiver("gone"), good.receiver("good")];
    let mut rig = Rig::start(folder("slow"), receivers);
    let begun = Instant::now();
    rig.decide(decision(State::Rollback, 1));
    let mut ends = BTreeMap::new();
    for _ in 0..2 {
        let done = rig.done().await;
        ends.insert(done.receiver, done.outcome);
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(ends["gone"], Delivery::Refused("status 410".to_owned()));
    assert_eq!(ends["good"], Delivery::Delivered);
    // It passes while the slow one has never answered: no more rollback for it, and it hears that it is over.
    rig.decide(decision(State::Pass, 1));
    let mut resolved = Vec::new();
    for _ in 0..2 {
        let done = rig.done().await;
        resolved.push((done.receiver, done.event, done.outcome));
    }
    assert!(
        resolved.contains(&("good".to_owned(), SignalEvent::Resolved, Delivery::Delivered)),
        "{resolved:?}"
    );
    assert!(
        resolved.contains(&("slow".to_owned(), SignalEvent::Rollback, Delivery::Expired)),
        "{resolved:?}"
    );
    sleep(Duration::from_millis(300)).await;
    assert_eq!(types(&slow.seen()).last().unwrap(), "dev.backburn.rollback.resolved.v1");
    assert_eq!(types(&gone.seen()), ["dev.backburn.rollback.v1"]);
    rig.stop().await;
}

#[tokio::test]
async fn nothing_is_sent_after_valid_until() {
    let hook = Hook::start(vec![Reply::Status(503, "")]).await;
    let mut rig = Rig::start(folder("expiry"), vec![hook.receiver("deployer")]);
    rig.decide(decision(State::Rollback, 1));
    hook.sees(3).await;
    rig.wall_shift.store(600 * SECOND_NS, Ordering::Relaxed);
    assert_eq!(rig.done().await.outcome, Delivery::Expired);
    let sent = hook.seen().len();
    sleep(Duration::from_millis(400)).await;
    assert_eq!(hook.seen().len(), sent);
    // A decision that is too old when it comes is never sent at all, and the engine hears so.
    rig.decide(decision(State::Rollback, 2));
    assert_eq!(rig.done().await.outcome, Delivery::Expired);
    assert_eq!(hook.seen().len(), sent);
    rig.stop().await;
}

#[tokio::test]
async fn retry_after_is_kept() {
    let hook = Hook::start(vec![Reply::Status(429, "retry-after: 1\r\n"), Reply::Status(200, "")]).await;
    let mut rig = Rig::start(folder("after"), vec![hook.receiver("deployer")]);
    rig.decide(decision(State::Rollback, 1));
    assert_eq!(rig.done().await.outcome, Delivery::Delivered);
    let seen = hook.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(990), "{:?}", seen[1].at - seen[0].at);
    rig.stop().await;
}

#[tokio::test]
async fn redirects_are_not_followed_and_filters_hold() {
    let other = Hook::start(vec![Reply::Status(200, "")]).await;
    let location: &'static str =
        Box::leak(format!("location: http://{}/\r\n", other.address).into_boxed_str());
    let hook = Hook::start(vec![Reply::Status(302, location), Reply::Status(200, "")]).await;
    let mut filtered = other.receiver("other");
    if let Receiver::Webhook { targets, .. } = &mut filtered {
        targets.push("somebody-else".to_owned());
    }
    let mut rig = Rig::start(folder("redirect"), vec![hook.receiver("deployer"), filtered]);
    rig.decide(decision(State::Rollback, 1));
    assert_eq!(rig.done().await.outcome, Delivery::Delivered);
    assert_eq!((hook.seen().len(), other.seen().len()), (2, 0));
    rig.stop().await;
}

#[tokio::test]
async fn a_file_a_command_and_nobody_at_all() {
    let at = folder("others");
    let (lines, mark) = (at.with_extension("jsonl"), at.with_extension("ran"));
    let receivers = vec![
        Receiver::File { name: "file".to_owned(), path: lines.clone(), targets: Vec::new() },
        Receiver::Command {
            name: "command".to_owned(),
            argv: ["/bin/sh", "-c", &format!("cat > {}", mark.display())].map(str::to_owned).to_vec(),
            timeout: Duration::from_secs(5),
            targets: vec!["client".to_owned()],
        },
    ];
    let mut rig = Rig::start(at, receivers);
    rig.decide(decision(State::Rollback, 1));
    for _ in 0..2 {
        assert_eq!(rig.done().await.outcome, Delivery::Delivered);
    }
    assert_eq!(fs::read_to_string(&mark).unwrap(), fs::read_to_string(&lines).unwrap().trim_end());
    rig.stop().await;
    for path in [lines, mark] {
        fs::remove_file(path).unwrap();
    }

    let mut rig = Rig::start(folder("nobody"), Vec::new());
    rig.decide(decision(State::Rollback, 1));
    let done = rig.done().await;
    assert!(matches!(done.outcome, Delivery::Refused(_)), "{done:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_new_rollout_that_is_bad_again_ends_the_old_signal_and_opens_a_new_one() {
    let hook = Hook::start(vec![Reply::Status(200, "")]).await;
    let mut rig = Rig::start(folder("epochs"), vec![hook.receiver("deployer")]);
    rig.decide(decision(State::Rollback, 1));
    rig.done().await;
    rig.decide(decision(State::Rollback, 2));
    let events = [rig.done().await, rig.done().await].map(|done| (done.epoch, done.event));
    assert!(
        events.contains(&(1, SignalEvent::Resolved)) && events.contains(&(2, SignalEvent::Rollback)),
        "{events:?}"
    );
    rig.stop().await;
}

#[tokio::test]
async fn what_nobody_took_yet_is_taken_back_by_a_later_rollout_or_a_dry_run() {
    let later = decision(State::Unknown, 2);
    let dry = Decision { dry_run: true, ..decision(State::Rollback, 1) };
    let held = decision(State::Hold, 1);
    for (name, changed) in [("later", later), ("dry-on", dry), ("held", held)] {
        let hook = Hook::start(vec![Reply::Status(503, "")]).await;
        let mut rig = Rig::start(folder(name), vec![hook.receiver("deployer")]);
        rig.decide(decision(State::Rollback, 1));
        hook.sees(2).await;
        rig.decide(changed);
        assert_eq!(rig.done().await.outcome, Delivery::Expired, "{name}");
        let sent = hook.seen().len();
        sleep(Duration::from_millis(250)).await;
        assert_eq!(hook.seen().len(), sent, "{name}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_restart_at_every_line_of_a_real_journal_leaves_one_effect_with_one_id() {
    let hook = Hook::start(vec![Reply::Status(500, ""), Reply::Status(200, "")]).await;
    let mut rig = Rig::start(folder("lines"), vec![hook.receiver("deployer")]);
    rig.decide(decision(State::Rollback, 1));
    rig.told(1).await;
    rig.findings.send(diff("m1")).await.unwrap();
    rig.told(2).await;
    rig.decide(decision(State::Pass, 1));
    rig.told(3).await;
    rig.done().await;
    let at = rig.kill().await;
    let journal = fs::read_to_string(at.join("journal.jsonl")).unwrap();
    let lines: Vec<&str> = journal.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 10, "{journal}");
    let first = hook.seen();
    let id = first[0].headers["webhook-id"].clone();
    let resolved = format!("{id}.resolved");
    for whole in 0..=lines.len() {
        let taken = |event: &str| {
            let end = format!("\"event\":\"{event}\"");
            lines[..whole].iter().any(|line| line.contains("delivered") && line.contains(&end))
        };
        fs::write(at.join("journal.jsonl"), lines[..whole].concat()).unwrap();
        let hook = Hook::start(vec![Reply::Status(200, "")]).await;
        let rig = Rig::start(at.clone(), vec![hook.receiver("deployer")]);
        // The engine, restored, goes through the same states again.
        rig.decide(decision(State::Rollback, 1));
        // With the resolved event in the journal the rollback was over, or it is sent now.
        hook.sees(usize::from(!taken(&id))).await;
        rig.decide(decision(State::Pass, 1));
        hook.sees(usize::from(!taken(&id)) + usize::from(!taken(&resolved))).await;
        sleep(Duration::from_millis(100)).await;
        let again = hook.seen();
        for event in [&id, &resolved] {
            let sent: Vec<_> =
                again.iter().filter(|request| request.headers["webhook-id"] == **event).collect();
            assert_eq!(sent.len(), usize::from(!taken(event)), "{event} after {whole} lines");
            // Once the intent is written, the bytes are the same too.
            let same =
                whole == 0 || event == &resolved || sent.iter().all(|request| request.body == first[0].body);
            assert!(same, "{event} after {whole} lines");
        }
        rig.kill().await;
    }
    fs::remove_dir_all(at).unwrap();
}

#[tokio::test]
async fn who_may_have_got_the_rollback_before_a_crash_hears_that_it_is_over() {
    let first = Hook::start(vec![Reply::Hang]).await;
    let receivers = || vec![first.receiver("deployer")];
    let rig = Rig::start(folder("maybe"), receivers());
    rig.decide(decision(State::Rollback, 1));
    first.sees(1).await;
    let at = rig.kill().await;
    let (receivers, address) = (receivers(), first.address);
    drop(first);
    // Nobody listens after the restart, and by then the target passes.
    let mut rig = Rig::start(at, receivers);
    rig.decide(decision(State::Pass, 1));
    let done = rig.done().await;
    assert_eq!((done.event, done.outcome), (SignalEvent::Rollback, Delivery::Expired));
    let second = Hook::start_at(address, vec![Reply::Status(200, "")]).await;
    assert_eq!(rig.done().await.event, SignalEvent::Resolved);
    assert_eq!(types(&second.seen()), ["dev.backburn.rollback.resolved.v1"]);
    rig.stop().await;
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let shift = Arc::default();
    let webhook = |url: &str, secrets: Vec<Secret>| Receiver::Webhook {
        name: "a".to_owned(),
        url: url.to_owned(),
        allow_http: false,
        secrets,
        timeout: Duration::from_secs(5),
        targets: Vec::new(),
    };
    let secret = || vec![Secret::parse(SECRET).unwrap()];
    let file =
        |name: &str| Receiver::File { name: name.to_owned(), path: PathBuf::from("/x"), targets: Vec::new() };
    for (receivers, expected) in [
        (vec![webhook("http://169.254.169.254/", secret())], "receiver a: 169.254.169.254 is a link-local"),
        (vec![webhook("http://deployer.example/", secret())], "receiver a: plain http leaves"),
        (vec![webhook("https://deployer.example/", Vec::new())], "receiver a: no secret"),
        (vec![file("a"), file("a")], "receiver name \"a\" is empty or used twice"),
        (vec![file("")], "receiver name \"\" is empty"),
        ((0..17).map(|n| file(&n.to_string())).collect(), "17 receivers"),
    ] {
        let error = open(&folder("refused"), receivers, &shift).unwrap_err();
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        let error = format!("{error}{cause}");
        assert!(error.starts_with(expected), "{error}");
    }
    let printed = format!("{:?}", webhook("https://deployer.example/", secret()));
    assert!(printed.contains("***") && !printed.contains("MfKQ"), "{printed}");
}

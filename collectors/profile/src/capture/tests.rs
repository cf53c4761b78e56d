//! The collector against a server that answers as a Go process does.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::inbox::{Envelope, Inbox};
use model::ledger::Ledger;
use model::origin::Origin;
use model::profile::{Baseline, CaptureOutcome, ProfileKind};
use model::record::Fact;
use model::request::{Ask, Request};
use model::time::{Clock, Stamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Capturer, Config, Pprof, ProfileTarget, refused, shot};
use crate::baselines::Shot;
use crate::binaries::Ids;
use crate::fetch;

type Answer = (&'static str, Vec<u8>);

/// Answers each GET by its path, one connection each, until the process ends.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut head = [0; 2_048];
                    let n = stream.read(&mut head).unwrap();
                    let head = String::from_utf8_lossy(&head[..n]).into_owned();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    log.lock().unwrap().push(path.clone());
                    let (status, body) = answer(&path);
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        body.len()
                    );
                    // A client that has gone is what some tests are about.
                    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)));
                });
            }
        });
        Server { url, seen }
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// What etcd would say to each path.
fn etcd(path: &str) -> Answer {
    let body: &[u8] = match path.split('?').next().unwrap() {
        "/debug/pprof/profile" => include_bytes!("../../testdata/etcd-3.5-cpu.pb.gz"),
        "/debug/pprof/heap" => include_bytes!("../../testdata/etcd-3.5-heap.pb.gz"),
        "/debug/pprof/goroutine" => include_bytes!("../../testdata/etcd-3.5-goroutine.pb.gz"),
        _ => return ("404 Not Found", Vec::new()),
    };
    ("200 OK", body.to_vec())
}

fn clock() -> Clock {
    let start = tokio::time::Instant::now();
    Clock::new(move || {
        Stamp { mono_ns: 1_000_000_000_000, wall_ns: 1_800_000_000_000_000_000 }
            .plus_ns(u64::try_from(start.elapsed().as_nanos()).unwrap())
    })
}

fn request(id: u64, target: &str) -> Request {
    let ask = Ask::Capture { target: target.to_owned(), finding: 1, before_mono_ns: None };
    Request { id, ask }
}

/// The collector and both ends of it.
struct Bench {
    requests: mpsc::Sender<Request>,
    marks: watch::Sender<Option<Stamp>>,
    records: mpsc::Receiver<Envelope>,
    cancel: CancellationToken,
    ledger: Ledger,
    clock: Clock,
}

impl Bench {
    fn start(url: &str, config: Config) -> (Bench, impl Future<Output = ()>) {
        let (ledger, clock, cancel) = (Ledger::default(), clock(), CancellationToken::new());
        let target = |name: &str| ProfileTarget {
            name: name.to_owned(),
            pprof: Some(Pprof { base_url: url.to_owned(), client: fetch::client(None).unwrap() }),
            identity: Arc::new(|| Arc::new(Origin { node: "n1".to_owned(), ..Origin::default() })),
        };
        let targets = vec![target("m1"), target("m2")];
        let capturer = Capturer::new(targets, config, clock.clone(), ledger.clone());
        let (requests, asked) = mpsc::channel(8);
        let (marks, marked) = watch::channel(None);
        let (inbox, records) = Inbox::new(16, 64 << 10);
        let run = capturer.run(asked, marked, inbox, cancel.clone());
        (Bench { requests, marks, records, cancel, ledger, clock }, run)
    }

    async fn ask(&mut self, id: u64, target: &str) -> CaptureOutcome {
        self.requests.send(request(id, target)).await.unwrap();
        self.end(id).await
    }

    async fn end(&mut self, id: u64) -> CaptureOutcome {
        let record = self.records.recv().await.unwrap().record;
        let Fact::Capture(result) = record.fact else { panic!("{record:?}") };
        assert_eq!(result.request, id);
        result.outcome
    }

    /// Until so many baselines have ended in this way.
    async fn baselines(&self, reason: &'static str, n: u64) {
        while self.ledger.get("agent_profile_baselines_total", reason) < n {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn config() -> Config {
    // Another length than a baseline's, so that the server tells the two apart.
    let kill_switch = PathBuf::from("/nonexistent/no-profiling");
    Config { cpu_seconds: Some(10), kill_switch, ..Config::default() }
}

fn reason(outcome: &CaptureOutcome) -> &str {
    match outcome {
        CaptureOutcome::Done { .. } => "done",
        CaptureOutcome::Refused { reason } | CaptureOutcome::Failed { reason, .. } => reason,
    }
}

/// Runs a story beside the collector; the collector must end when the story has ended.
async fn story(url: &str, config: Config, tell: impl AsyncFnOnce(&mut Bench)) {
    let (mut bench, run) = Bench::start(url, config);
    let tell = async {
        tell(&mut bench).await;
        bench.cancel.cancel();
    };
    let both = async { tokio::join!(run, tell) };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
}

#[test]
fn what_go_leaves_out_of_its_program_is_filled_in() {
    let cpu = include_bytes!("../../testdata/etcd-3.5-cpu.pb.gz").to_vec();
    let decode = |program: Option<(PathBuf, Ids)>| {
        let shot = Shot { bodies: vec![(ProfileKind::Cpu, cpu.clone())], program, ..Shot::default() };
        shot::decode(&shot, &Ledger::default()).unwrap().stacks[0].mappings[0].clone()
    };
    let plain = decode(None);
    assert_eq!(plain.htlhash, "");
    let ids = Ids { build_id: plain.build_id.clone(), go_build_id: "a/b".into(), htlhash: "5e".into() };
    let known = decode(Some((plain.path.clone().into(), ids.clone())));
    assert_eq!((known.htlhash.as_str(), known.go_build_id.as_str()), ("5e", "a/b"));
    // Another program, and another build.
    assert_eq!(decode(Some(("/usr/bin/other".into(), ids.clone()))), plain);
    let rebuilt = Ids { build_id: "77".into(), ..ids };
    let other = decode(Some((plain.path.clone().into(), rebuilt)));
    assert_eq!(other == plain, !plain.build_id.is_empty());
}

#[tokio::test]
async fn a_trigger_gets_a_capture_and_the_baseline_before_it() {
    let server = Server::start(etcd);
    story(&server.url, config(), async |bench| {
        bench.baselines("taken", 2).await;
        let outcome = bench.ask(7, "m2").await;
        let CaptureOutcome::Done { before: Some(before), baseline, after } = outcome else { panic!() };
        assert_eq!(baseline, Baseline::Young);
        assert!(before.at < after.at);
        let kinds: Vec<ProfileKind> = after.counts.iter().map(|counts| counts.kind).collect();
        assert_eq!(kinds, [ProfileKind::Cpu, ProfileKind::Heap, ProfileKind::Goroutine]);
        assert_eq!(after.stacks[0].pprof, etcd("/debug/pprof/profile").1);
        assert_eq!(reason(&bench.ask(8, "m2").await), "cool_down");
        assert_eq!(reason(&bench.ask(9, "m1").await), "done");
        assert_eq!(reason(&bench.ask(10, "m9").await), "unknown_target");
    })
    .await;
    let lengths: Vec<String> = server.paths().into_iter().filter(|path| path.contains("seconds")).collect();
    assert_eq!(lengths, [5, 5, 10, 10].map(|n| format!("/debug/pprof/profile?seconds={n}")));
}

#[tokio::test]
async fn the_budget_holds_over_all_targets() {
    let server = Server::start(etcd);
    let config = Config { captures_per_hour: 2, cool_down: Duration::ZERO, ..config() };
    story(&server.url, config, async |bench| {
        assert_eq!(reason(&bench.ask(1, "m1").await), "done");
        assert_eq!(reason(&bench.ask(2, "m2").await), "done");
        assert_eq!(reason(&bench.ask(3, "m1").await), "budget");
    })
    .await;
}

#[tokio::test]
async fn refusals_of_the_target_have_their_words_and_cost_nothing() {
    for (status, expected) in [
        ("404 Not Found", "no_endpoint"),
        ("403 Forbidden", "not_permitted"),
        ("503 Service Unavailable", "status"),
        ("200 OK", "bad_profile"),
    ] {
        let server = Server::start(move |_| (status, b"<html>".to_vec()));
        story(&server.url, config(), async |bench| {
            assert_eq!(reason(&bench.ask(1, "m1").await), expected);
            let again = if matches!(expected, "status" | "bad_profile") { "cool_down" } else { expected };
            assert_eq!(reason(&bench.ask(2, "m1").await), again);
        })
        .await;
    }
}

#[tokio::test]
async fn another_profile_that_ends_is_waited_for() {
    let busy = Mutex::new(2);
    let server = Server::start(move |path| {
        let mut left = busy.lock().unwrap();
        if path.contains("seconds") && *left > 0 {
            *left -= 1;
            return ("500 Internal Server Error", b"cpu profiling already in use".to_vec());
        }
        etcd(path)
    });
    story(&server.url, config(), async |bench| assert_eq!(reason(&bench.ask(1, "m1").await), "done")).await;
}

#[tokio::test]
async fn a_request_does_not_wait_for_a_baseline() {
    let server = Server::start(|path| {
        if path.contains("seconds=5") {
            std::thread::sleep(Duration::from_secs(30));
        }
        etcd(path)
    });
    story(&server.url, config(), async |bench| {
        while server.paths().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let outcome = bench.ask(1, "m1").await;
        assert!(matches!(outcome, CaptureOutcome::Done { before: None, baseline: Baseline::Missing, .. }));
        assert_eq!(bench.ledger.get("agent_profile_baselines_total", "abandoned"), 1);
    })
    .await;
}

#[tokio::test]
async fn the_kill_switch_stops_captures_and_baselines() {
    let server = Server::start(etcd);
    // A directory that is certainly there.
    let config = Config { kill_switch: PathBuf::from("/"), ..config() };
    story(&server.url, config, async |bench| {
        bench.baselines("kill_switch", 2).await;
        assert_eq!(reason(&bench.ask(1, "m1").await), "kill_switch");
    })
    .await;
    assert_eq!(server.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn every_request_ends_once_on_shutdown_too() {
    let server = Server::start(|path| {
        std::thread::sleep(Duration::from_secs(30));
        etcd(path)
    });
    let (mut bench, run) = Bench::start(&server.url, config());
    let tell = async {
        for id in 1..=4 {
            bench.requests.send(request(id, "m1")).await.unwrap();
        }
        while server.paths().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bench.cancel.cancel();
        for id in 1..=4 {
            assert_eq!(reason(&bench.end(id).await), "shutdown");
        }
        assert!(bench.records.recv().await.is_none());
    };
    let both = async { tokio::join!(run, tell) };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
}

#[tokio::test]
async fn a_marker_brings_a_new_baseline_and_keeps_the_one_before() {
    let server = Server::start(etcd);
    let config = Config { after_marker: Duration::from_millis(200), ..config() };
    story(&server.url, config, async |bench| {
        bench.baselines("taken", 2).await;
        let mark = bench.clock.now();
        bench.marks.send(Some(mark)).unwrap();
        bench.baselines("taken", 4).await;
        let ask = Ask::Capture { target: "m1".to_owned(), finding: 1, before_mono_ns: Some(mark.mono_ns) };
        bench.requests.send(Request { id: 5, ask }).await.unwrap();
        let CaptureOutcome::Done { before: Some(before), baseline, .. } = bench.end(5).await else {
            panic!()
        };
        assert_eq!(baseline, Baseline::BeforeMarker);
        assert!(before.at < mark);
    })
    .await;
}

#[test]
fn a_full_slot_is_an_answer() {
    let record = refused(&request(3, "m1"), Arc::default(), Stamp::default(), "slot_full");
    let Fact::Capture(result) = record.fact else { panic!() };
    assert_eq!((result.request, reason(&result.outcome)), (3, "slot_full"));
}

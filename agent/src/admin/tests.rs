//! The door over real sockets.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use collectors::marks::Announced;
use collectors::probe::Rates;
use model::board::Board;
use model::inbox::{Envelope, Inbox};
use model::ledger::Ledger;
use model::mark::{MarkKind, MarkSource};
use model::record::Fact;
use model::time::{Clock, Stamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{self, Address};
use super::{Admin, BindError, Config, Wires, host_is_ours};

const NOW: Stamp = Stamp { mono_ns: 60_000_000_000, wall_ns: 1_700_000_000_000_000_000 };

struct Rig {
    tcp: SocketAddr,
    unix: PathBuf,
    board: watch::Sender<Arc<Board>>,
    inbox: Option<Inbox>,
    records: mpsc::Receiver<Envelope>,
    reloads: mpsc::Receiver<()>,
    ledger: Ledger,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

fn config(name: &str) -> Config {
    let folder = std::env::temp_dir().join(format!("backburn-admin-{}-{name}", std::process::id()));
    Config {
        tcp: Some("127.0.0.1:0".parse().unwrap()),
        allow_remote: false,
        unix: Some(folder.join("admin.sock")),
        hosts: vec!["node-1.example".to_owned()],
        profiling: false,
    }
}

impl Rig {
    async fn start(config: Config) -> Rig {
        let (board, watched) = watch::channel(Arc::new(Board { at: NOW, ..Board::default() }));
        let (inbox, records) = Inbox::new(2, 64);
        let (reload, reloads) = mpsc::channel(1);
        let ledger = Ledger::default();
        let wires = Wires {
            board: watched,
            ledger: ledger.clone(),
            inbox: inbox.downgrade(),
            clock: Clock::new(|| NOW),
            origin: Arc::default(),
            reload,
            announced: Announced::default(),
            rates: Rates::default(),
        };
        let unix = config.unix.clone().unwrap();
        let admin = Admin::bind(config, wires).await.unwrap();
        let tcp = admin.tcp_address().unwrap();
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(admin.serve(cancel.clone()));
        Rig { tcp, unix, board, inbox: Some(inbox), records, reloads, ledger, cancel, tasks }
    }

    fn door(&self) -> Address {
        Address::Unix(self.unix.clone())
    }

    /// Sends bytes as they are, returns all that comes back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        let _closed_early = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn status(&self, request: &str) -> u16 {
        let answer = self.raw(request.as_bytes()).await;
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
        assert!(!self.unix.exists(), "the socket's file stays behind");
        std::fs::remove_dir_all(self.unix.parent().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn tcp_answers_reads_alone() {
    let rig = Rig::start(config("reads")).await;
    let tcp = Address::Tcp(rig.tcp);
    for path in ["/", "/page.css", "/metrics", "/healthz", "/readyz", "/verdict"] {
        assert_eq!(client::get(&tcp, path).await.unwrap().status, 200, "{path}");
        assert_eq!(client::get(&rig.door(), path).await.unwrap().status, 200, "{path}");
    }
    let board: Board = serde_json::from_str(&client::get(&tcp, "/verdict").await.unwrap().body).unwrap();
    assert_eq!(board.at, NOW);
    for (request, expected) in [
        ("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /profile?seconds=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /heap HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("POST /mark HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", 405),
        ("POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        ("DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    ] {
        assert_eq!(rig.status(request).await, expected, "{request}");
    }
    let head = rig.raw(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(
        head.ends_with("\r\n\r\n") && head.contains("content-security-policy: default-src 'none'"),
        "{head}"
    );
    rig.stop().await;
}

#[tokio::test]
async fn a_foreign_host_is_turned_away() {
    let rig = Rig::start(config("hosts")).await;
    let port = rig.tcp.port();
    for (host, expected) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        ("Node-1.example:9090".to_owned(), 200),
        (format!("attacker.example:{port}"), 421),
        ("localhost.attacker.example".to_owned(), 421),
        ("127.0.0.1.attacker.example".to_owned(), 421),
        (String::new(), 421),
        ("localhost\r\nHost: attacker.example".to_owned(), 421),
    ] {
        let request = format!("GET /verdict HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(rig.status(&request).await, expected, "{host}");
    }
    assert_eq!(rig.status("GET /verdict HTTP/1.0\r\n\r\n").await, 421);
    let absolute = "GET http://attacker.example/verdict HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(rig.status(absolute).await, 421);
    rig.stop().await;
}

#[tokio::test]
async fn huge_torn_and_idle_requests_cost_nothing() {
    let rig = Rig::start(config("hostile")).await;
    let long = "x".repeat(200_000);
    let many: String = (0..500).map(|n| format!("h{n}: v\r\n")).collect();
    for request in [
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
    ] {
        // Either the answer, or the reset that follows it because we were still sending.
        let status = rig.status(&request).await;
        assert!([431, 414, 400, 0].contains(&status), "{status}");
    }
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let answer = rig.raw(garbage).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"),
            "{answer}"
        );
    }
    // More idle connections than there are places: the owner's socket still answers, and is told.
    let mut idle = Vec::new();
    for _ in 0..super::TCP_CONNECTIONS_MAX + 8 {
        idle.push(TcpStream::connect(rig.tcp).await.unwrap());
    }
    assert_eq!(client::get(&rig.door(), "/healthz").await.unwrap().status, 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.ledger.get("agent_admin_connections_refused_total", "too_many"), 8);
    drop(idle);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.status("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await, 200);
    rig.stop().await;
}

#[tokio::test]
async fn a_request_that_drips_is_cut_off() {
    let rig = Rig::start(config("drip")).await;
    let drip = async {
        let mut stream = TcpStream::connect(rig.tcp).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
        // One byte a second would keep a per-read timeout happy for ever.
        while stream.write_all(b"x").await.is_ok() {
            let mut answer = [0; 256];
            let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await;
            if let Ok(Ok(0) | Err(_)) = read {
                return;
            }
        }
    };
    let limit = super::HEAD_TIME_MAX + Duration::from_secs(3);
    tokio::time::timeout(limit, drip).await.expect("the connection is still open");
    rig.stop().await;
}

#[tokio::test]
async fn a_mark_becomes_a_record_with_the_stamp_that_is_answered() {
    let mut rig = Rig::start(config("mark")).await;
    assert_eq!(std::fs::metadata(&rig.unix).unwrap().permissions().mode() & 0o777, 0o600);
    let body = r#"{"target":"client","revision":"v1b","kind":"rollout","rollback_of":"v2"}"#;
    let answer = client::post(&rig.door(), "/mark", body).await.unwrap();
    assert_eq!(answer.status, 202);
    let stamp: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (stamp["wall_ns"].as_u64(), stamp["at"].as_str()),
        (Some(NOW.wall_ns), Some("2023-11-14T22:13:20Z"))
    );
    let record = rig.records.recv().await.unwrap().record;
    let Fact::Mark(mark) = record.fact else { panic!() };
    assert_eq!((record.at, mark.kind, mark.source), (NOW, MarkKind::Rollout, MarkSource::Operator));
    assert_eq!(mark.rollback_of.as_deref(), Some("v2"));

    let answer = client::post(&rig.door(), "/mark", "{").await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.body.starts_with("mark: EOF while parsing"), "{:?}", answer.body);
    let answer = client::post(&rig.door(), "/mark", vec![b' '; 100_000]).await.unwrap();
    assert_eq!(answer.status, 413);

    for _ in 0..2 {
        assert_eq!(client::post(&rig.door(), "/mark", body).await.unwrap().status, 202);
    }
    let answer = client::post(&rig.door(), "/mark", body).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (503, "the inbox is full: try again\n"));
    // The door does not keep the engine alive.
    rig.inbox = None;
    assert!(
        client::post(&rig.door(), "/mark", body).await.unwrap().body.starts_with("the agent is stopping")
    );
    rig.stop().await;
}

#[tokio::test]
async fn faster_probes_are_asked_for_on_the_socket_and_shown_on_the_board() {
    let rig = Rig::start(config("boost")).await;
    let warned = async || {
        let board: Board =
            serde_json::from_str(&client::get(&rig.door(), "/verdict").await.unwrap().body).unwrap();
        board.warnings.join(" ")
    };
    let post = async |path: &str| client::post(&rig.door(), path, "").await.unwrap().status;
    assert_eq!(post("/probe-rate?factor=50&for=2m").await, 400);
    assert_eq!(post("/probe-rate?factor=5&for=16m").await, 400);
    assert_eq!(warned().await, "");
    assert_eq!(post("/probe-rate?factor=5&for=2m").await, 202);
    assert!(warned().await.contains("5 times"));
    assert!(client::get(&rig.door(), "/").await.unwrap().body.contains("5 times"));
    assert_eq!(post("/probe-rate?factor=1").await, 202);
    assert_eq!(warned().await, "");
    assert_eq!(
        rig.status("POST /probe-rate?factor=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            .await,
        405
    );
    rig.stop().await;
}

#[tokio::test]
async fn reload_profile_and_health() {
    let mut rig = Rig::start(Config { profiling: true, ..config("verbs") }).await;
    for _ in 0..2 {
        assert_eq!(client::post(&rig.door(), "/-/reload", "").await.unwrap().status, 202);
    }
    assert_eq!(rig.reloads.recv().await, Some(()));
    assert!(rig.reloads.try_recv().is_err(), "two wishes are one");
    assert_eq!(client::post(&rig.door(), "/verdict", "").await.unwrap().status, 404);
    for query in ["seconds=0", "seconds=61", "seconds=x", "seconds=-1"] {
        let answer = client::get(&rig.door(), &format!("/profile?{query}")).await.unwrap();
        assert_eq!(answer.status, 400, "{query}");
    }
    let late = Stamp { mono_ns: NOW.mono_ns - 6_000_000_000, ..NOW };
    rig.board.send_replace(Arc::new(Board { at: late, ..Board::default() }));
    let answer = client::get(&rig.door(), "/healthz").await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (503, "the engine's last tick is 6 s old\n"));
    rig.board.send_replace(Arc::default());
    assert_eq!(client::get(&rig.door(), "/readyz").await.unwrap().status, 503);
    assert_eq!(client::get(&rig.door(), "/").await.unwrap().status, 200);
    rig.stop().await;

    let rig = Rig::start(config("no-profile")).await;
    for path in ["/profile", "/heap"] {
        assert_eq!(client::get(&rig.door(), path).await.unwrap().status, 403, "{path}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn only_this_host_and_only_one_agent() {
    let rig = Rig::start(config("bind")).await;
    let wires = || Wires {
        board: watch::channel(Arc::default()).1,
        ledger: Ledger::default(),
        inbox: Inbox::new(1, 1).0.downgrade(),
        clock: Clock::new(|| NOW),
        origin: Arc::default(),
        reload: mpsc::channel(1).0,
        announced: Announced::default(),
        rates: Rates::default(),
    };
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let config = Config { tcp: Some(address.parse().unwrap()), ..config("remote") };
        assert!(matches!(Admin::bind(config, wires()).await, Err(BindError::Remote(_))), "{address}");
    }
    let second = Config { tcp: None, ..config("bind") };
    assert!(matches!(Admin::bind(second.clone(), wires()).await, Err(BindError::InUse(_))));
    // A dead agent's file is in nobody's way.
    let (folder, unix) = (rig.unix.parent().unwrap().to_owned(), rig.unix.clone());
    rig.cancel.cancel();
    drop(rig);
    std::fs::create_dir_all(&folder).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&unix));
    let admin = Admin::bind(second, wires()).await.unwrap();
    drop(admin);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn names_of_this_host_are_recognised() {
    let names = ["node-1.example".to_owned()];
    for (host, expected) in [
        ("127.0.0.1", true),
        ("127.0.0.1:80", true),
        ("[::1]", true),
        ("[::1]:80", true),
        ("LOCALHOST:1", true),
        ("10.0.0.7:9090", true),
        ("node-1.example", true),
        ("node-1.example.evil", false),
        ("evil", false),
        ("", false),
        (":80", false),
        ("[", false),
        ("[::1", false),
        ("localhost:1:2", false),
        ("a@localhost", false),
    ] {
        assert_eq!(host_is_ours(host, &names), expected, "{host}");
    }
}

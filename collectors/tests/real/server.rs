//! One real etcd member on free loopback ports with a data directory of its own; both are gone with the value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use collectors::target::{Identity, Target};
use collectors::tls::TlsFiles;
use etcd_client::Client;
use model::inbox::{Envelope, Inbox};
use model::record::Record;
use model::time::{Clock, Stamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout};

/// A cold start takes 0.3 s; the rest is for a busy machine.
const READY: Duration = Duration::from_secs(20);

/// A member.
pub(crate) struct Server {
    child: Option<Child>,
    binary: PathBuf,
    arguments: Vec<String>,
    dir: PathBuf,
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Server {
    /// Starts a member and waits until it answers.
    pub(crate) async fn start(version: &str, story: &str, extra: &[&str]) -> Server {
        Server::start_at(version, story, "http", extra).await
    }

    /// Starts a member that serves clients over TLS, with the given certificates.
    pub(crate) async fn start_secured(version: &str, story: &str, extra: &[&str]) -> Server {
        Server::start_at(version, story, "https", extra).await
    }

    async fn start_at(version: &str, story: &str, scheme: &str, extra: &[&str]) -> Server {
        let peer = format!("http://127.0.0.1:{}", free_port());
        let name = format!("{story}-{version}");
        let mut server = Server::prepare(version, &name, scheme, (&peer, &format!("{name}={peer}")));
        server.arguments.extend(extra.iter().map(|word| (*word).to_owned()));
        server.run().await;
        server
    }

    /// Three members of one cluster.
    pub(crate) async fn start_three(version: &str, story: &str) -> [Server; 3] {
        let names = ["a", "b", "c"].map(|letter| format!("{story}-{version}-{letter}"));
        let peers = names.each_ref().map(|_| format!("http://127.0.0.1:{}", free_port()));
        let cluster: Vec<String> =
            names.iter().zip(&peers).map(|(name, peer)| format!("{name}={peer}")).collect();
        let cluster = cluster.join(",");
        let [a, b, c] = names;
        let [pa, pb, pc] = peers;
        let mut servers = [(a, pa), (b, pb), (c, pc)]
            .map(|(name, peer)| Server::prepare(version, &name, "http", (&peer, &cluster)));
        for server in &mut servers {
            server.spawn();
        }
        for server in &servers {
            server.wait().await;
        }
        servers
    }

    fn prepare(version: &str, name: &str, scheme: &str, (peer, cluster): (&str, &str)) -> Server {
        let dir = std::env::temp_dir().join(format!("backburn-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&dir).ok();
        std::fs::create_dir_all(&dir).expect("create the data directory");
        let url = format!("{scheme}://127.0.0.1:{}", free_port());
        let arguments: Vec<String> = [
            ("--name", name),
            ("--data-dir", &dir.join("data").display().to_string()),
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", cluster),
            ("--logger", "zap"),
        ]
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect();
        Server { child: None, binary: binary(version), arguments, dir, url, name: name.to_owned() }
    }

    /// Starts the process (again) and waits until it answers.
    pub(crate) async fn run(&mut self) {
        self.spawn();
        self.wait().await;
    }

    /// Starts the process; whoever may not ask it anything sees for himself when it answers.
    pub(crate) fn spawn(&mut self) {
        let log = std::fs::File::create(self.dir.join("log")).expect("create the log");
        // The kernel ends the member with the test, however the test ends; `setpriv` becomes etcd, so the pid is etcd's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.binary)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start setpriv (util-linux)");
        self.child = Some(child);
    }

    async fn wait(&self) {
        let started = Instant::now();
        while !self.is_ready().await {
            assert!(started.elapsed() < READY, "{} does not answer; see {}", self.name, self.dir.display());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether it answers; over TLS, whether it listens.
    async fn is_ready(&self) -> bool {
        match self.url.strip_prefix("https://") {
            Some(address) => tokio::net::TcpStream::connect(address).await.is_ok(),
            None => self.revision().await.is_some(),
        }
    }

    /// Another version's program from the next start on, over the same data.
    pub(crate) fn becomes(&mut self, version: &str) {
        self.binary = binary(version);
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.url.as_str()], None).await.expect("connect")
    }

    /// The key space's revision; `None` while nobody answers.
    pub(crate) async fn revision(&self) -> Option<i64> {
        let mut client = self.client().await;
        let answer = timeout(Duration::from_secs(1), client.get("any", None)).await.ok()?.ok()?;
        answer.header().map(|header| header.revision())
    }

    /// Calls that clients have started, by method, as the member counts them.
    pub(crate) async fn calls(&self) -> Vec<(String, f64)> {
        let address = self.url.trim_start_matches("http://");
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("ask");
        let mut page = String::new();
        stream.read_to_string(&mut page).await.expect("a page");
        let counters = page.lines().filter_map(|line| line.strip_prefix("grpc_server_started_total{"));
        let value = |line: &str| {
            let method = line.split("grpc_method=\"").nth(1)?.split('"').next()?.to_owned();
            Some((method, line.rsplit(' ').next()?.parse().ok()?))
        };
        counters.filter_map(value).filter(|(_, calls)| *calls > 0.0).collect()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("a running member").id().to_string();
        // The shell's own: a small system has no program of that name.
        let told = Command::new("sh").args(["-c", "kill $0 $1", signal, &pid]).status();
        assert!(told.expect("run a shell").success());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    pub(crate) fn target(&self) -> Target {
        Target {
            name: self.name.clone(),
            client_url: Some(self.url.clone()),
            metrics_url: None,
            pprof_url: None,
            tls: TlsFiles::default(),
            login: None,
            pid: None,
            data_dir: None,
            log_file: None,
            local: true,
            identity: Identity::new("node-1", &self.name, &self.url),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.dir).ok();
        }
    }
}

/// `$ETCD_3_4`, `$ETCD_3_5_16`, … where set, else the one in `.tools`.
fn binary(version: &str) -> PathBuf {
    let variable = format!("ETCD_{}", version.replace('.', "_"));
    if let Some(path) = std::env::var_os(&variable).filter(|path| !path.is_empty()).map(PathBuf::from) {
        assert!(path.is_file(), "{variable} is {}, which is not a file", path.display());
        return path;
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let path = workspace.join(".tools/etcd").join(version).join("etcd");
    assert!(path.is_file(), "{} is missing: run `make tools`, or set {variable}", path.display());
    path
}

/// Below the range that the kernel gives to outgoing connections: nobody takes it before the member has it.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const COUNT: u32 = 20_000;
    let start = std::process::id().wrapping_mul(977);
    let mut ports = (0..COUNT).map(|_| {
        let at = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        12_000 + u16::try_from(at).expect("below 20,000")
    });
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// Two clocks in step, from the runtime's own.
pub(crate) fn clock() -> Clock {
    let start = Instant::now();
    Clock::new(move || {
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Stamp { mono_ns: 1_000_000_000 + ns, wall_ns: 1_700_000_000_000_000_000 + ns }
    })
}

/// All that a source sends.
pub(crate) struct Records(Receiver<Envelope>);

impl Records {
    pub(crate) fn new() -> (Inbox, Records) {
        let (inbox, rx) = Inbox::new(4_096, 8_192);
        (inbox, Records(rx))
    }

    /// What comes within `span`.
    pub(crate) async fn during(&mut self, span: Duration) -> Vec<Record> {
        let end = Instant::now() + span;
        let mut records = Vec::new();
        while let Ok(Some(envelope)) = tokio::time::timeout_at(end, self.0.recv()).await {
            records.push(envelope.record);
        }
        records
    }
}

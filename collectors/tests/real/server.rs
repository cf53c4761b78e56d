//! One real etcd member on free loopback ports with a data directory of its own; both are gone with the value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use collectors::target::{Identity, Target};
use collectors::tls::TlsFiles;
use etcd_client::Client;
use model::inbox::{Envelope, Inbox};
use model::record::Record;
use model::time::{Clock, Stamp};
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
        let name = format!("{story}-{version}");
        let dir = std::env::temp_dir().join(format!("backburn-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&dir).ok();
        std::fs::create_dir_all(&dir).expect("create the data directory");
        let url = format!("http://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut arguments: Vec<String> = [
            ("--name", name.as_str()),
            ("--data-dir", &dir.join("data").display().to_string()),
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("{name}={peer}")),
            ("--logger", "zap"),
        ]
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect();
        arguments.extend(extra.iter().map(|word| (*word).to_owned()));
        let mut server = Server { child: None, binary: binary(version), arguments, dir, url, name };
        server.run().await;
        server
    }

    /// Starts the process (again) and waits until it answers.
    pub(crate) async fn run(&mut self) {
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
        let started = Instant::now();
        while self.revision().await.is_none() {
            assert!(started.elapsed() < READY, "{} does not answer; see {}", self.name, self.dir.display());
            sleep(Duration::from_millis(50)).await;
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

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("a running member").id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("run kill").success());
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

fn binary(version: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let path = workspace.join(".tools/etcd").join(version).join("etcd");
    assert!(path.is_file(), "{} is missing: run `make tools`", path.display());
    path
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port()
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

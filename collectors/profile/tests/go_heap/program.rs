//! Programs whose heap is read: one built here in many ways, and etcd under load.

use std::{
    env, fmt, fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::told;
use super::toolchain::{go, tools};

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How the program is built.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// Another version of Go than that of the set-up.
    pub(crate) version: Option<String>,
    pub(crate) is_pie: bool,
    pub(crate) has_c: bool,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (c, pie) = (if self.has_c { " with C" } else { "" }, if self.is_pie { " pie" } else { "" });
        write!(f, "go {}{c}{pie}", self.version.as_deref().unwrap_or("at hand"))
    }
}

impl Build {
    /// Stripped, as releases are.
    fn build(&self) -> PathBuf {
        let name = self.to_string().replace(' ', "-");
        // Tests of one run build the same at once: each has a file of its own.
        let thread = format!("{:?}", thread::current().id());
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("heap-{name}-{thread}"));
        let toolchain = self.version.as_ref().map_or("local".to_owned(), |version| format!("go{version}"));
        let status = Command::new(go())
            .args(["build", "-trimpath", "-ldflags=-s -w"])
            .args(self.is_pie.then_some("-buildmode=pie"))
            .arg("-o")
            .arg(&program)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/heap"))
            .env("GOTOOLCHAIN", toolchain)
            .env("GOENV", "off")
            .env_remove("GOFLAGS")
            .env("GOWORK", "off")
            .env("CGO_ENABLED", if self.has_c { "1" } else { "0" })
            .status()
            .expect("no Go: `make tools` brings one where there is none");
        assert!(status.success(), "the program does not build: {self}");
        program
    }
}

/// The program built here, running.
pub(crate) struct Program {
    running: Running,
    pub(crate) port: u16,
}

impl Program {
    pub(crate) fn start(build: &Build, environment: &[(&str, &str)]) -> Program {
        let mut command = Command::new(build.build());
        command.envs(environment.iter().copied()).stdout(Stdio::piped());
        let mut running = Running(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Program { running, port: line.trim().parse().unwrap() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.0.id()
    }
}

/// An etcd that is written to.
pub(crate) struct Etcd {
    running: Running,
    pub(crate) port: u16,
    folder: PathBuf,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Etcd {
    pub(crate) fn start(version: &str) -> Etcd {
        let named = env::var_os(format!("ETCD_{}", version.replace('.', "_"))).map(PathBuf::from);
        let etcd = named.unwrap_or_else(|| tools().join("etcd").join(version).join("etcd"));
        assert!(etcd.exists(), "{} is missing: `make tools` brings it", etcd.display());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("heap-etcd-{version}"));
        drop(fs::remove_dir_all(&folder));
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, peers] = ports.map(|listener| listener.local_addr().unwrap().port());
        let url = format!("http://127.0.0.1:{port}");
        let child = Command::new(etcd)
            .args(["--name", "heap", "--enable-pprof", "--log-level", "error", "--logger", "zap"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peers}")])
            .args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{peers}")])
            .args(["--initial-cluster", &format!("heap=http://127.0.0.1:{peers}")])
            .arg("--data-dir")
            .arg(&folder)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running(child);
        let mut left = 200;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(left > 0, "etcd {version} does not answer");
            left -= 1;
            thread::sleep(Duration::from_millis(100));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..2).map(|_| Arc::clone(&stop)).map(|stop| thread::spawn(move || write(port, &stop)));
        let writers = writers.collect();
        Etcd { running, port, folder, stop, writers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.0.id()
    }
}

/// Puts values of some KiB until told to stop, without haste: collections are to be some hundred milliseconds apart.
fn write(port: u16, stop: &AtomicBool) {
    let value = "QUJD".repeat(4_000);
    let body = format!("{{\"key\":\"aGVhcA==\",\"value\":\"{value}\"}}");
    while !stop.load(Ordering::Relaxed) {
        told::request(port, "POST /v3/kv/put", &body);
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            drop(writer.join());
        }
        drop(self.running.0.kill());
        drop(self.running.0.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

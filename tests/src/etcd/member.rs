//! One member: a process, its addresses and its files.
//!
//! Owns starting, stopping, freezing and asking one member. What concerns several is [`super::cluster`]'s.

use std::{
    fs::OpenOptions,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Logger, Options, Version};
use crate::{
    certs::Certs,
    http::Peer,
    process::{Process, Signal, wait_until},
};

/// SIGTERM takes etcd 3.5 about a second, more when its peers are gone and the leader cannot be moved.
const STOP_MAX: Duration = Duration::from_secs(15);

/// A healthy member answers in milliseconds; on a busy host it may wait for a core.
pub(super) const ASK_MAX: Duration = Duration::from_secs(5);

/// A story that expects no answer waits this long; one that expects health asks again.
const HEALTH_MAX: Duration = Duration::from_secs(2);

/// A member of a [`super::Cluster`]. All methods take `&self`: a story may act from several threads.
#[derive(Debug)]
pub struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
    dir: PathBuf,
    initial_cluster: String,
    options: Options,
    certs: Option<Certs>,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    version: Version,
    process: Option<Process>,
}

/// Three ports of one member.
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) peer: u16,
    pub(super) metrics: u16,
}

/// What a member says of itself, by its gRPC gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Of the cluster.
    pub cluster_id: u64,
    /// Of this member.
    pub member_id: u64,
    /// Member id of the leader; 0 while there is none.
    pub leader: u64,
    /// Of the key space.
    pub revision: u64,
    /// Of the last election this member knows.
    pub raft_term: u64,
}

impl Member {
    pub(super) fn new(name: &str, ports: &Ports, dir: &Path, version: Version) -> Member {
        let on_loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Member {
            name: name.to_owned(),
            client: on_loopback(ports.client),
            peer: on_loopback(ports.peer),
            metrics: on_loopback(ports.metrics),
            dir: dir.to_owned(),
            initial_cluster: String::new(),
            options: Options::default(),
            certs: None,
            running: Mutex::new(Running { version, process: None }),
        }
    }

    /// Told once, when the addresses of all members are known.
    pub(super) fn join(&mut self, initial_cluster: &str, options: &Options, certs: Option<&Certs>) {
        initial_cluster.clone_into(&mut self.initial_cluster);
        self.certs = certs.cloned();
        self.options = options.clone();
    }

    /// `m1`, `m2`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients connect (gRPC, the JSON gateway, `/health`, `/metrics`, `/debug/pprof` with [`Options::pprof`]).
    pub fn client_url(&self) -> String {
        let scheme = if self.certs.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.client)
    }

    /// Address of [`Member::client_url`].
    pub fn client_address(&self) -> SocketAddr {
        self.client
    }

    /// Whether [`Options::pprof`] is set.
    pub fn serves_profiles(&self) -> bool {
        self.options.pprof
    }

    /// Where its peers connect.
    pub fn peer_url(&self) -> String {
        format!("http://{}", self.peer)
    }

    /// `/metrics` and `/health` without gRPC beside them.
    pub fn metrics_url(&self) -> String {
        format!("http://{}", self.metrics)
    }

    /// Its log, appended to over restarts: zap's JSON lines or capnslog (see [`Options::logger`]).
    pub fn log_path(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    /// Its data folder; safe to change while it is down.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join(format!("{}.etcd", self.name))
    }

    /// The version that runs, or ran last.
    pub fn version(&self) -> Version {
        self.running().version
    }

    /// `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        self.running().process.as_ref().map(Process::pid)
    }

    /// Starts a member that is down, with its data, and returns at once: [`Member::wait_healthy`] waits.
    pub fn start(&self) -> Result<()> {
        let mut running = self.running();
        ensure!(running.process.is_none(), "{} runs already", self.name);
        let command = self.command(running.version)?;
        running.process = Some(Process::spawn(&self.name, command)?);
        Ok(())
    }

    /// SIGKILL: what was not fsynced is lost, connections are reset.
    pub fn kill(&self) -> Result<()> {
        match self.running().process.take() {
            Some(process) => process.kill(),
            None => Ok(()),
        }
    }

    /// SIGTERM, and waits for the exit.
    pub fn stop(&self) -> Result<()> {
        match self.running().process.take() {
            Some(process) => process.stop(STOP_MAX).map(drop),
            None => Ok(()),
        }
    }

    /// Freezes it (SIGSTOP): its sockets stay open, and nobody answers from the moment this returns.
    pub fn pause(&self) -> Result<()> {
        self.with_process(Process::freeze)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.with_process(|process| process.signal(Signal::Cont))
    }

    /// Stops it and starts it again with its data; waits until it is healthy for at most `limit`.
    pub fn restart(&self, limit: Duration) -> Result<()> {
        self.restart_as(self.version(), limit)
    }

    /// As [`Member::restart`], with another release: a step of a rolling upgrade.
    ///
    /// A newer line panics on entries of the log that only an older one understands (3.4's `/health` and 3.5's start
    /// leave such). Take `--snapshot-count` small and write that much before each step: what is in a snapshot is not
    /// replayed.
    pub fn restart_as(&self, version: Version, limit: Duration) -> Result<()> {
        self.stop()?;
        self.running().version = version;
        self.start()?;
        self.wait_healthy(limit)
    }

    /// Waits until a linearizable read through this member succeeds, which takes a quorum with a leader.
    pub fn wait_healthy(&self, limit: Duration) -> Result<()> {
        let waited = wait_until(&format!("{} to be healthy", self.name), limit, || match self.is_healthy() {
            Ok(healthy) => Ok(healthy.then_some(Ok(()))),
            // One that has exited will never be healthy.
            Err(error) if self.has_exited() => Ok(Some(Err(error))),
            Err(error) => Err(error),
        });
        waited.and_then(|healthy| healthy).with_context(|| format!("etcd {}", self.log_ends()))
    }

    /// Asks `/health` once, at the metrics address, which etcd answers by a linearizable read.
    pub fn is_healthy(&self) -> Result<bool> {
        let answer = Peer::from(self.metrics).get("/health", HEALTH_MAX)?;
        Ok(answer.status == 200 && answer.body.contains("\"true\""))
    }

    /// Its own view; a member without a leader answers too.
    pub fn status(&self) -> Result<Status> {
        let answer = self.call("/v3/maintenance/status", "{}")?;
        // The gateway writes 64-bit numbers as strings and leaves zeros out.
        let number = |value: Option<&Value>| value.and_then(Value::as_str).map_or(Ok(0), str::parse::<u64>);
        let header = answer.get("header").context("status without a header")?;
        Ok(Status {
            cluster_id: number(header.get("cluster_id"))?,
            member_id: number(header.get("member_id"))?,
            revision: number(header.get("revision"))?,
            raft_term: number(header.get("raft_term"))?,
            leader: number(answer.get("leader"))?,
        })
    }

    /// Calls the JSON gateway, for example `call("/v3/kv/put", …)`; the request and the answer are etcd's own JSON.
    pub fn call(&self, path: &str, request: &str) -> Result<Value> {
        let peer = match &self.certs {
            Some(certs) => Peer::with_tls(self.client, certs)?,
            None => Peer::from(self.client),
        };
        let answer = peer.post_json(path, request, ASK_MAX)?;
        if answer.status != 200 {
            bail!("{} answered {path} with {}: {}", self.name, answer.status, answer.body.trim());
        }
        serde_json::from_str(&answer.body).with_context(|| format!("answer of {path} is not JSON"))
    }

    pub(super) fn has_exited(&self) -> bool {
        match &self.running().process {
            Some(process) => !matches!(process.exit_status(), Ok(None)),
            None => true,
        }
    }

    /// What it wrote first and last, for an error message: a wrong flag is named first, a panic comes last.
    pub(super) fn log_ends(&self) -> String {
        const FIRST: usize = 2;
        const LAST: usize = 5;
        let text = [self.stderr_path(), self.log_path()]
            .iter()
            .filter_map(|path| std::fs::read(path).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect::<String>();
        let count = text.lines().count();
        let ends = text.lines().enumerate().filter(|(index, _)| *index < FIRST || index + LAST >= count);
        let lines: Vec<&str> = ends.map(|(_, line)| line).collect();
        format!("{} {} wrote:\n{}", self.version(), self.name, lines.join("\n"))
    }

    fn with_process(&self, act: impl FnOnce(&Process) -> Result<()>) -> Result<()> {
        match &self.running().process {
            Some(process) => act(process),
            None => bail!("{} is down", self.name),
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics of the Go runtime go here; with capnslog the log itself does.
    fn stderr_path(&self) -> PathBuf {
        self.dir.join(format!("{}.stderr", self.name))
    }

    fn command(&self, version: Version) -> Result<Command> {
        let zap = !version.has_capnslog() || self.options.logger == Logger::Zap;
        let stderr = if zap { self.stderr_path() } else { self.log_path() };
        let mut command = Command::new(version.binary()?);
        // ETCD_* variables of whoever runs the tests would be flags.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OpenOptions::new().create(true).append(true).open(stderr)?)
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data_dir().display()))
            .arg(format!("--listen-client-urls={}", self.client_url()))
            .arg(format!("--advertise-client-urls={}", self.client_url()))
            .arg(format!("--listen-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer_url()))
            .arg(format!("--initial-cluster={}", self.initial_cluster))
            .arg(format!("--initial-cluster-token={}", self.dir.display()))
            .arg(format!("--listen-metrics-urls={}", self.metrics_url()));
        if zap {
            command.arg("--logger=zap").arg(format!("--log-outputs={}", self.log_path().display()));
        }
        if self.options.pprof {
            command.arg("--enable-pprof");
        }
        if self.options.extensive_metrics {
            command.arg("--metrics=extensive");
        }
        if let Some(certs) = &self.certs {
            command
                .arg("--client-cert-auth")
                .arg(format!("--trusted-ca-file={}", certs.cacert.display()))
                .arg(format!("--cert-file={}", certs.server_cert.display()))
                .arg(format!("--key-file={}", certs.server_key.display()));
        }
        command.args(&self.options.args).envs(self.options.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

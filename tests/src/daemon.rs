//! The agent as a daemon: a folder of its own, a configuration that keeps it there, and its admin page.
//!
//! Owns where the daemon's files, port and socket lie, so that stories run side by side and nothing of the host is touched.
//! What is configured beyond that is the story's.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{Agent, Finished},
    etcd::{Cluster, Member, ports},
    http,
    process::wait_until,
};

/// The admin page answers from memory; on a busy host it may wait for a core.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// The agent is up after about half a second; discovery and a busy host take longer.
const START_MAX: Duration = Duration::from_secs(30);

/// The agent drains its sinks for at most ten seconds.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Commands that end by themselves.
const COMMAND_MAX: Duration = Duration::from_secs(20);

/// For a host that is busy for a while: nothing passes until it was calm for a minute.
pub const CALM: Duration = Duration::from_secs(180);

/// A folder for one story, removed at its end; one whose story failed stays for whoever looks, all do with `KEEP=1`.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    is_kept: bool,
}

impl Folder {
    /// Makes it; `name` must be the story's own.
    pub fn new(name: &str) -> Result<Folder> {
        let dir = env::temp_dir().join(format!("backburn-{name}-{}", process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Folder { dir, is_kept: false })
    }

    /// A folder that is there already and stays.
    pub fn kept(dir: &Path) -> Folder {
        Folder { dir: dir.to_owned(), is_kept: true }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Every file below `sub` with its permission bits and content.
    pub fn files(&self, sub: &str) -> Result<Vec<(PathBuf, u32, Vec<u8>)>> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.join(sub)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
                let entry = entry?;
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    folders.push(entry.path());
                } else if meta.is_file() {
                    found.push((entry.path(), meta.permissions().mode() & 0o777, fs::read(entry.path())?));
                }
            }
        }
        Ok(found)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_kept && !thread::panicking() && env::var_os("KEEP").is_none() {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

/// Where one daemon's files, port and socket lie, over its restarts.
#[derive(Debug)]
pub struct Seat {
    folder: Folder,
    admin: SocketAddr,
    shipped: Option<PathBuf>,
}

impl Seat {
    /// Takes a folder and a port.
    pub fn new(name: &str) -> Result<Seat> {
        Seat::over(Folder::new(name)?, None)
    }

    /// In a folder that stays; `shipped` is a configuration below that of the folder.
    pub fn kept(dir: &Path, shipped: &Path) -> Result<Seat> {
        Seat::over(Folder::kept(dir), Some(shipped.to_owned()))
    }

    fn over(folder: Folder, shipped: Option<PathBuf>) -> Result<Seat> {
        let port = ports::hold(1)?.release().first().copied().context("no port")?;
        Ok(Seat { folder, admin: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), shipped })
    }

    /// Its folder: `agent.yaml`, `state/`, `agent.sock`, the agent's output.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("agent.yaml")
    }

    /// Writes the configuration: the places, and `text` below them.
    pub fn configure(&self, text: &str) -> Result<()> {
        let dir = self.folder.path().display();
        let admin = self.admin;
        let places =
            format!("state_dir: {dir}/state\nadmin:\n  listen: {admin}\n  socket: {dir}/agent.sock\n");
        self.folder.write("agent.yaml", &format!("{places}{text}")).map(drop)
    }

    /// Starts `agent run` with the configuration and waits until it is ready.
    pub fn start(&self, variables: &[(&str, &str)]) -> Result<Daemon> {
        self.begin(&["run".as_ref()], variables)
    }

    /// Starts `agent record` into a file of the folder and waits until it is ready.
    pub fn record(&self, file: &str) -> Result<Daemon> {
        let file = self.folder.path().join(file);
        self.begin(&["record".as_ref(), file.as_os_str()], &[])
    }

    fn begin(&self, verb: &[&std::ffi::OsStr], variables: &[(&str, &str)]) -> Result<Daemon> {
        let config = self.config();
        let mut args = verb.to_vec();
        for config in self.shipped.iter().chain([&config]) {
            args.extend(["--config".as_ref(), config.as_os_str()]);
        }
        let agent = Agent::start(self.folder.path(), &args, variables)?;
        let daemon = Daemon { agent, admin: self.admin };
        let ready = wait_until("the agent to be ready", START_MAX, || {
            if let Some(status) = daemon.agent.exit_status()? {
                return Ok(Some(Err(anyhow::anyhow!("the agent ended with {status}"))));
            }
            Ok((http::get(self.admin, "/readyz", PAGE_MAX)?.status == 200).then_some(Ok(())))
        });
        ready.and_then(|ready| ready).with_context(|| format!("agent wrote: {}", daemon.agent.stderr()))?;
        Ok(daemon)
    }

    /// Runs another command of the agent to its end; its output does not mix with the daemon's.
    pub fn command(&self, args: &[&str], variables: &[(&str, &str)]) -> Result<Finished> {
        let dir = self.folder.path().join("command");
        fs::create_dir_all(&dir)?;
        Agent::run(&dir, args, variables, COMMAND_MAX)
    }

    /// `agent mark` with these arguments, which must succeed.
    pub fn mark(&self, args: &[&str]) -> Result<()> {
        let socket = self.folder.path().join("agent.sock");
        let mut all = vec!["mark", "--socket", socket.to_str().context("socket path")?];
        all.extend(args);
        let finished = self.command(&all, &[])?;
        ensure!(finished.status.success(), "agent mark: {finished:?}");
        Ok(())
    }
}

/// A running daemon; dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub agent: Agent,
    admin: SocketAddr,
}

impl Daemon {
    /// GETs a path of the admin page.
    pub fn get(&self, path: &str) -> Result<http::Answer> {
        http::get(self.admin, path, PAGE_MAX)
    }

    /// `/verdict`: the board.
    pub fn board(&self) -> Result<Value> {
        let answer = self.get("/verdict")?;
        ensure!(answer.status == 200, "/verdict answers {}", answer.status);
        serde_json::from_str(&answer.body).context("the board is not JSON")
    }

    /// Waits until the board satisfies `found`; the error shows what the agent said last.
    pub fn wait_for<T>(&self, what: &str, limit: Duration, found: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let waited = wait_until(&format!("{what} on the board"), limit, || Ok(found(&self.board()?)));
        waited.with_context(|| format!("the agent said last: {}", last(&self.agent.stderr())))
    }

    /// A series of `/metrics`; 0 where it is missing.
    pub fn metric(&self, name: &str, reason: &str) -> Result<f64> {
        let page = self.get("/metrics")?.body;
        let wanted = format!("reason=\"{reason}\"");
        let of_series = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (named, labels) = series.split_once('{').unwrap_or((series, ""));
            (named == name && (reason.is_empty() || labels.contains(&wanted)))
                .then(|| value.parse::<f64>().ok())?
        };
        Ok(page.lines().filter(|line| !line.starts_with('#')).filter_map(of_series).sum())
    }

    /// Most memory it has ever had resident, KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.agent.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// SIGTERM, and a clean end.
    pub fn stop(&self) -> Result<()> {
        self.agent.stop(STOP_MAX)
    }
}

fn last(text: &str) -> String {
    const LINES: usize = 15;
    let lines: Vec<&str> = text.lines().collect();
    lines.split_at(lines.len().saturating_sub(LINES)).1.join("\n")
}

/// The `etcd` part of a configuration: these members by name and nothing else, with their profiles where they serve any,
/// their logs followed on demand.
pub fn named(cluster: &Cluster, logs: bool) -> String {
    let entry = |member: &Member| {
        let log = if logs { format!(", log: {}", member.log_path().display()) } else { String::new() };
        let (name, client, metrics) = (member.name(), member.client_url(), member.metrics_url());
        let pprof = if member.serves_profiles() { format!(", pprof: \"{client}\"") } else { String::new() };
        format!("    - {{ name: {name}, client: {client}, metrics: {metrics}/metrics{pprof}{log} }}\n")
    };
    let members: String = cluster.into_iter().map(entry).collect();
    format!("etcd:\n  members:\n{members}")
}

/// One member of a board.
pub fn member<'a>(board: &'a Value, name: &str) -> Option<&'a Value> {
    let members = board.get("members")?.as_array()?;
    members.iter().find(|member| member.pointer("/origin/member/name").and_then(Value::as_str) == Some(name))
}

/// Probes of one kind at one member over the last five minutes: how many were sent, how many failed.
pub fn probes(board: &Value, name: &str, kind: &str) -> Option<(u64, u64)> {
    let latencies = member(board, name)?.get("latencies")?.as_array()?;
    let of_kind =
        latencies.iter().find(|latency| latency.get("kind").and_then(Value::as_str) == Some(kind))?;
    Some((of_kind.get("n")?.as_u64()?, of_kind.get("failed")?.as_u64()?))
}

/// Whether writes are fast: there are some, and at most one in five is slow.
///
/// Members that have just started are slow on a busy host. A rollout is judged against the time before it: were that all there
/// is, slow writes would be what is usual, and v1 be blamed for them.
pub fn writes_are_fast(board: &Value) -> Option<()> {
    const SOME: u64 = 6;
    const FAST_OF: u64 = 5;
    let write = board.get("slos")?.as_array()?.iter().find(|slo| slo["name"] == "write")?;
    let (bad, total) = (write["bad"].as_u64()?, write["total"].as_u64()?);
    (total >= SOME && bad * FAST_OF <= total).then_some(())
}

/// Whether a change of write latency can be told by now: from a baseline of a dozen probes at each of the three members.
pub fn has_baseline_of_writes(board: &Value) -> Option<()> {
    /// What the detector needs, and two.
    const LEARNT: u64 = 14;
    let enough = |name| probes(board, name, "lease_grant").is_some_and(|(n, _)| n >= LEARNT);
    ["m1", "m2", "m3"].into_iter().all(enough).then_some(())
}

/// The state of the decision about one target.
pub fn decision<'a>(board: &'a Value, target: &str) -> Option<&'a Value> {
    let decisions = board.get("decisions")?.as_array()?;
    decisions.iter().find(|decision| decision.get("target").and_then(Value::as_str) == Some(target))
}

/// All findings of a kind that are still on the board.
pub fn findings<'a>(board: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = board.get("findings").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(|finding| finding.pointer(&format!("/conclusion/{kind}"))).collect()
}

//! The parts' own maps: how each part's checked configuration is read from its keys.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use collectors::{host, logs, marks, member, probe, scrape};
use processors::{slo, verdict};

use super::services;
use super::tree::Map;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Profiles: whether, how, and where they are written.
#[derive(Clone, Debug)]
pub(crate) struct Profiling {
    /// Off: no baseline, no capture, requests are refused.
    pub(crate) enabled: bool,
    /// Artefacts for people.
    pub(crate) dir: PathBuf,
    /// The capturer's configuration.
    pub(crate) capture: profile::capture::Config,
    /// By what CPU time is taken.
    pub(crate) engine: Engine,
    /// Windows of the kernel's samples, for a "before".
    pub(crate) history: PathBuf,
}

/// By what the CPU time of members is profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// By the kernel's samples where it lets us, else by their endpoints.
    Auto,
    /// By the kernel's samples alone.
    Perf,
    /// By their endpoints alone: nobody is sampled.
    Pprof,
}

/// Health, metrics, board on loopback; verbs on a socket.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// `address:port`.
    pub(crate) listen: SocketAddr,
    /// The socket's path.
    pub(crate) socket: PathBuf,
    /// Other addresses than loopback are allowed.
    pub(crate) exposed: bool,
    /// Names by which it may be asked, beyond addresses and `localhost`.
    pub(crate) hosts: Vec<String>,
    /// The agent's own profiles, CPU and heap, may be taken on the socket.
    pub(crate) self_profile: bool,
}

/// The agent's own log.
#[derive(Clone, Debug)]
pub(crate) struct Logging {
    /// `error` to `trace`, or a filter of tracing-subscriber.
    pub(crate) level: String,
    /// JSON instead of text.
    pub(crate) json: bool,
}

/// Reads `scrape`.
pub(super) fn scrape(root: &mut Map<'_>) -> scrape::Config {
    let mut map = root.map("scrape");
    let default = scrape::Config::default();
    let interval = map.duration("interval", default.interval, (100 * MS, HOUR));
    let timeout = map.duration("timeout", default.timeout.min(interval * 9 / 10), (10 * MS, HOUR));
    if timeout >= interval {
        map.reject("timeout", "must be shorter than `scrape.interval`, so that scrapes never overlap");
    }
    let body = map.bytes("body_max", 16 << 20, (64 << 10, 1 << 30));
    let series_max = map.number("series_max", 100_000.0, (100.0, 10_000_000.0)) as usize;
    let encoding = match map.word("encoding", &["auto", "identity", "gzip"]) {
        "identity" => scrape::Encoding::Identity,
        "gzip" => scrape::Encoding::Gzip,
        _ => scrape::Encoding::Auto,
    };
    map.done();
    let body_bytes_max = usize::try_from(body).unwrap_or(usize::MAX);
    scrape::Config { interval, timeout, body_bytes_max, series_max, encoding }
}

/// Reads `probe`.
pub(super) fn probe(root: &mut Map<'_>) -> probe::Config {
    let mut map = root.map("probe");
    let default = probe::Config::default();
    let writing = probe::Writes::default();
    let rate = (0.0, 2.0);
    let deadline = map.duration("deadline", default.deadline, (10 * MS, 3 * SECOND));
    let serializable_read_hz = map.number("serializable_read_hz", default.serializable_read_hz, rate);
    let linearizable_read_hz = map.number("linearizable_read_hz", default.linearizable_read_hz, rate);
    let status_hz = map.number("status_hz", default.status_hz, rate);
    let read_key = map.text_or("key", &default.read_key);
    let lease_hz = map.number("lease_hz", writing.lease_hz, rate);
    let put_hz = map.number("put_hz", writing.put_hz, rate);
    let writes = map.flag("writes", false).then(|| probe::Writes { lease_hz, put_hz, key: read_key.clone() });
    let config = probe::Config {
        deadline,
        serializable_read_hz,
        linearizable_read_hz,
        status_hz,
        read_key,
        writes,
        boost: None,
    };
    if let Err(error) = config.check() {
        map.reject("linearizable_read_hz", &error.to_string());
    }
    map.done();
    config
}

/// Reads `member`.
pub(super) fn member(root: &mut Map<'_>) -> member::Config {
    let mut map = root.map("member");
    let interval = map.duration("interval", 10 * SECOND, (SECOND, HOUR));
    let hash_kv =
        map.flag("hash_kv", false).then(|| map.duration("hash_kv_interval", HOUR, (60 * SECOND, DAY)));
    if hash_kv.is_none() {
        map.duration("hash_kv_interval", HOUR, (60 * SECOND, DAY));
    }
    map.done();
    member::Config { interval, hash_kv }
}

/// Reads `host`.
pub(super) fn host(root: &mut Map<'_>, state_dir: &Path) -> host::Config {
    let mut map = root.map("host");
    let interval = map.duration("interval", 5 * SECOND, (SECOND, HOUR));
    let filesystems = map.texts("filesystems").into_iter().map(PathBuf::from).chain([state_dir.to_owned()]);
    let config = host::Config { interval, filesystems: filesystems.collect() };
    map.done();
    config
}

/// Reads `logs`.
pub(super) fn logs(root: &mut Map<'_>, state_dir: &Path) -> logs::Config {
    let mut map = root.map("logs");
    let files = map.texts("files").into_iter().map(PathBuf::from).collect();
    let ship_all = map.flag("ship_all", false);
    let line = map.bytes("line_max", 1 << 20, (1 << 10, 16 << 20));
    let start_at = match map.word("start_at", &["end", "beginning"]) {
        "beginning" => logs::StartAt::Beginning,
        _ => logs::StartAt::End,
    };
    map.done();
    logs::Config {
        files,
        ship_all,
        line_bytes_max: usize::try_from(line).unwrap_or(usize::MAX),
        checkpoint: Some(state_dir.join("logs.checkpoint")),
        start_at,
        ..logs::Config::default()
    }
}

/// Reads `marks`.
pub(super) fn marks(root: &mut Map<'_>) -> marks::Config {
    let mut map = root.map("marks");
    let default = marks::Config::default();
    let interval = map.duration("interval", default.interval, (SECOND, HOUR));
    let watched = services::read(&mut map);
    map.done();
    marks::Config { interval, watched, ..default }
}

/// Reads `profile`.
pub(super) fn profiling(root: &mut Map<'_>, state_dir: &Path) -> Profiling {
    let mut map = root.map("profile");
    let default = profile::capture::Config::default();
    let whole_seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let enabled = map.flag("enabled", true);
    let dir = PathBuf::from(map.text_or("dir", &state_dir.join("profiles").display().to_string()));
    let engine = match map.word("engine", &["auto", "perf", "pprof"]) {
        "perf" => Engine::Perf,
        "pprof" => Engine::Pprof,
        _ => Engine::Auto,
    };
    let history = PathBuf::from(map.text_or("history", &state_dir.join("history").display().to_string()));
    // Where nothing is said, each engine has its own; the one that is shown is that of the samples.
    let is_cpu_given = map.has("cpu");
    let cpu = map.duration("cpu", 30 * SECOND, (SECOND, 60 * SECOND));
    let cpu = is_cpu_given.then_some(cpu);
    let is_heap_read = map.flag("heap_from_memory", false);
    let baseline_cpu =
        map.duration("baseline_cpu", SECOND * default.baseline_cpu_seconds, (SECOND, 60 * SECOND));
    let refresh = map.duration("refresh", default.refresh, (60 * SECOND, DAY));
    let cool_down = map.duration("cool_down", default.cool_down, (SECOND, DAY));
    let captures_per_hour = map.number("captures_per_hour", 6.0, (1.0, 60.0)) as usize;
    let kill_switch = PathBuf::from(map.text_or("kill_switch", &default.kill_switch.display().to_string()));
    map.done();
    let capture = profile::capture::Config {
        cpu_seconds: cpu.map(whole_seconds),
        baseline_cpu_seconds: whole_seconds(baseline_cpu),
        is_cpu_pulled: engine != Engine::Perf,
        is_heap_read,
        captures_per_hour,
        cool_down,
        refresh,
        kill_switch,
        ..default
    };
    Profiling { enabled, dir, capture, engine, history }
}

/// Reads `slo` and `verdict`.
pub(super) fn engine(root: &mut Map<'_>) -> processors::Config {
    processors::Config { slo: slo(root), verdict: verdict(root), ..processors::Config::default() }
}

fn slo(root: &mut Map<'_>) -> slo::Config {
    let mut map = root.map("slo");
    let default = slo::Config::default();
    let mut objective = |name: &str, shipped: slo::Objective| {
        let percent = f64::from(shipped.target_ppm) / 10_000.0;
        let percent = map.number(&format!("{name}_percent"), percent, (93.1, 99.999));
        let limit = Duration::from_millis(u64::from(shipped.limit_ms));
        let limit = map.duration(&format!("{name}_limit"), limit, (MS, 60 * SECOND));
        slo::Objective {
            target_ppm: (percent * 10_000.0).round() as u32,
            limit_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        }
    };
    let config = slo::Config {
        availability: objective("availability", default.availability),
        linearizable_read: objective("read", default.linearizable_read),
        write: objective("write", default.write),
        wal_fsync: objective("fsync", default.wal_fsync),
    };
    for (name, cure) in config.problems() {
        let key = match name {
            "linearizable_read" => "read_limit",
            "write" => "write_limit",
            "wal_fsync" => "fsync_limit",
            _ => "availability_limit",
        };
        map.reject(key, &cure);
    }
    map.done();
    config
}

fn verdict(root: &mut Map<'_>) -> verdict::Config {
    let mut map = root.map("verdict");
    let default = verdict::Config::default();
    let seconds = |s: u64| Duration::from_secs(s);
    let enforce = map.flag("enforce", default.enforce);
    let onset_max = map.duration("onset_max", seconds(default.onset_max_s), (10 * SECOND, HOUR));
    let window = map.duration("window", seconds(default.window_s), (60 * SECOND, HOUR));
    let valid = map.duration("valid", seconds(default.valid_s), (10 * SECOND, HOUR));
    let cool_down = map.duration("cool_down", seconds(default.cool_down_s), (SECOND, DAY));
    map.done();
    verdict::Config {
        enforce,
        onset_max_s: onset_max.as_secs(),
        window_s: window.as_secs(),
        valid_s: valid.as_secs(),
        cool_down_s: cool_down.as_secs(),
    }
}

/// Reads `admin`.
pub(super) fn admin(root: &mut Map<'_>, socket: &Path) -> Admin {
    let mut map = root.map("admin");
    let listen = map.text_or("listen", "127.0.0.1:9464");
    let parsed = listen.parse();
    if parsed.is_err() {
        map.reject(
            "listen",
            &format!("must be an address and a port, e.g. `127.0.0.1:9464`, not `{listen}`"),
        );
    }
    let listen = parsed.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let socket = PathBuf::from(map.text_or("socket", &socket.to_string_lossy()));
    let exposed = map.flag("exposed", false);
    let hosts = map.texts("hosts");
    let is_name = |host: &String| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    if let Some(host) = hosts.iter().find(|host| !is_name(host)) {
        map.reject("hosts", &format!("must be whole names without scheme, port or `*`, not `{host}`"));
    }
    let self_profile = map.flag("self_profile", false);
    map.done();
    Admin { listen, socket, exposed, hosts, self_profile }
}

/// Reads `log`.
pub(super) fn logging(root: &mut Map<'_>) -> Logging {
    let mut map = root.map("log");
    let level = map.text_or("level", "info");
    let json = map.word("format", &["text", "json"]) == "json";
    map.done();
    Logging { level, json }
}

//! The agent as a daemon: the shipped configuration plus the keys that differ, each with its reason.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::agent::{Agent, binary};
use harness::etcd::{Cluster, Member};
use harness::process::wait_until;
use harness::sink::Sink;

use super::engine::Engine;

/// The configuration that is shipped; every key in it has its default.
const SHIPPED: &str = "deploy/agent.yaml";

/// The running agent.
pub(super) struct Daemon {
    agent: Agent,
    dir: PathBuf,
    /// Where it serves its board.
    pub(super) board: SocketAddr,
    started: Instant,
}

/// What it took.
pub(super) struct Cost {
    pub(super) cpu_percent: f64,
    pub(super) rss_peak_mib: f64,
}

impl Daemon {
    /// Writes the keys that differ, prints them, and starts the agent with a recorder.
    pub(super) fn start(
        dir: &Path,
        members: (&Cluster, Engine),
        sink: &Sink,
        signal_url: &str,
    ) -> Result<Daemon> {
        let board = free_address()?;
        let differing = differing(dir, members, sink, signal_url, board);
        println!("\nthe agent runs with {SHIPPED} and these keys:");
        let mut text = String::new();
        for (key, why) in &differing {
            println!("  # {why}\n  {}", key.replace('\n', "\n  "));
            text.push_str(key);
            text.push('\n');
        }
        println!();
        let file = dir.join("agent.yaml");
        fs::write(&file, text)?;
        let recording = dir.join("run.rec");
        let arguments = [
            "record".as_ref(),
            "--config".as_ref(),
            Path::new(SHIPPED).as_os_str(),
            "--config".as_ref(),
            file.as_os_str(),
            recording.as_os_str(),
        ];
        let agent = Agent::start(dir, &arguments, &[]).context("start the agent")?;
        let started = Instant::now();
        wait_until("the agent to be ready", Duration::from_secs(10), || {
            ensure!(agent.exit_status()?.is_none(), "the agent ended: {}", agent.stderr());
            let ready = harness::http::get(board, "/readyz", Duration::from_secs(1));
            Ok(ready.is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        Ok(Daemon { agent, dir: dir.to_owned(), board, started })
    }

    /// `agent mark`, as an operator does it.
    pub(super) fn mark(&self, target: &str, kind: &str) -> Result<()> {
        let socket = self.dir.join("agent.sock");
        let arguments = ["mark", "--target", target, "--revision", "same", "--kind", kind, "--socket"];
        let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).chain([socket.as_os_str()]).collect();
        let marked = Agent::run(&self.dir, &arguments, &[], Duration::from_secs(5))?;
        ensure!(marked.status.success(), "agent mark: {}", marked.stderr);
        Ok(())
    }

    /// CPU and memory of its life so far.
    pub(super) fn cost(&self) -> Result<Cost> {
        let proc_dir = Path::new("/proc").join(self.agent.pid().to_string());
        let stat = fs::read_to_string(proc_dir.join("stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
        // Fields 14 and 15 of proc(5), counted behind the name; a tick is 10 ms on every Linux we run on.
        let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        let status = fs::read_to_string(proc_dir.join("status"))?;
        let peak_kib: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
            .context("VmHWM")?;
        let cpu_s = ticks as f64 / 100.0;
        Ok(Cost {
            cpu_percent: cpu_s / self.started.elapsed().as_secs_f64() * 100.0,
            rss_peak_mib: peak_kib / 1_024.0,
        })
    }

    /// Where its profiles lie.
    pub(super) fn artefacts(&self) -> PathBuf {
        self.dir.join("profiles")
    }

    /// Ends it, so that its recording is whole.
    pub(super) fn stop(self) -> Result<()> {
        self.agent.stop(Duration::from_secs(15))
    }
}

fn differing(
    dir: &Path,
    (cluster, engine): (&Cluster, Engine),
    sink: &Sink,
    signal_url: &str,
    board: SocketAddr,
) -> Vec<(String, &'static str)> {
    let pprof = |member: &Member| match engine {
        Engine::Kernel => String::new(),
        Engine::Endpoint => format!(" pprof: \"{}\",", member.client_url()),
    };
    let members: String = cluster
        .members()
        .iter()
        .map(|member| {
            format!(
                "\n    - {{ name: {}, client: \"{}\", metrics: \"{}/metrics\",{} log: \"{}\" }}",
                member.name(),
                member.client_url(),
                member.metrics_url(),
                pprof(member),
                member.log_path().display()
            )
        })
        .collect();
    let dir = dir.display();
    vec![
        (
            format!("etcd:\n  discovery: false\n  members:{members}"),
            "only the members that the demo started are ever spoken to",
        ),
        ("probe:\n  writes: true".to_owned(), "the cluster is ours, so the write path may be measured"),
        (
            "slo:\n  write_limit: 32ms".to_owned(),
            "loopback and one disk: 256 ms would hide a tenfold slow-down",
        ),
        ("verdict:\n  enforce: true".to_owned(), "the shipped default is a dry run"),
        (
            format!(
                "rollback:\n  webhooks:\n    - {{ name: deployer, url: \"{signal_url}\", secret: {{ file: \"{dir}/secret\" }} }}"
            ),
            "the deployer listens here",
        ),
        (
            format!("otlp:\n  endpoint: \"{}\"\n  protocol: grpc", sink.grpc_endpoint()),
            "an OTLP receiver of the demo's own; over gRPC the agent's own spans and log lines leave too",
        ),
        (format!("logs:\n  files: [\"{dir}/orders.log\"]"), "the service's own structured log"),
        profiling(engine, &dir.to_string()),
        (format!("state_dir: \"{dir}/state\""), "the same"),
        (
            format!("admin:\n  listen: \"{board}\"\n  socket: \"{dir}/agent.sock\""),
            "a free port, and no root needed",
        ),
    ]
}

fn profiling(engine: Engine, dir: &str) -> (String, &'static str) {
    let places = format!("profile:\n  dir: \"{dir}/profiles\"");
    match engine {
        Engine::Kernel => (
            format!("{places}\n  cpu: 5s\n  heap_from_memory: true"),
            "all in one place; the incident is short; and the members' memory is ours to read",
        ),
        Engine::Endpoint => (places, "everything the demo makes lies in one place"),
    }
}

/// A loopback address nobody listens on.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Replays the recording behind an hour of its own quiet probes, and gives the first page of a shipped tier.
pub(super) fn page_s_shipped(recording: &Path, regression_at_ns: u64) -> Result<Option<f64>> {
    const LEAD_IN_S: u64 = 3_600;
    let replayed = std::process::Command::new(binary()?)
        .args(["replay", "--lead-in", "1h", "--no-put-back"])
        .arg(recording)
        .output()
        .context("replay")?;
    ensure!(replayed.status.success(), "replay: {}", String::from_utf8_lossy(&replayed.stderr));
    let text = String::from_utf8_lossy(&replayed.stdout);
    let later_ns = regression_at_ns + LEAD_IN_S * 1_000_000_000;
    let first = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|line| {
            let burn = &line["finding"]["conclusion"]["burn"];
            burn["firing"] == true
                && burn["lane"]["tier"]["name"].as_str().is_some_and(|name| name.starts_with("page"))
        })
        .filter_map(|line| line["finding"]["at"]["wall_ns"].as_u64())
        .find(|at_ns| *at_ns >= later_ns);
    Ok(first.map(|at_ns| super::seconds_between(later_ns, at_ns)))
}

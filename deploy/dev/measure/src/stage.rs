//! What everything is measured on: two CPUs, three members, a workload, a receiver, and a seat for the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use harness::daemon::{Daemon, Seat};
use harness::etcd::{Cluster, Member, Options, Version};
use harness::http;
use harness::process::confine;
use harness::service::Service;
use model::board::Board;

use crate::receiver::Receiver;
use crate::workload::Workload;

/// Where everything lies.
pub(crate) const DIR: &str = "target/measure";

/// The configuration that is shipped; every key in it has its default.
pub(crate) const SHIPPED: &str = "deploy/agent.yaml";

/// The agent, etcd and the workload share them, as on a small control plane.
pub(crate) const CPUS: usize = 2;

/// A page of a member on a busy host.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// The stage. What is first is dropped first: the workload before the members it works on.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The workload.
    pub(crate) workload: Workload,
    /// Exports and signals.
    pub(crate) receiver: Receiver,
    /// Where the agent starts.
    pub(crate) seat: Seat,
    /// The members.
    pub(crate) cluster: Arc<Cluster>,
    /// [`DIR`], absolute.
    pub(crate) dir: PathBuf,
    begun: Instant,
}

impl Stage {
    /// Builds it all but the agent, in what [`prepare`] gave.
    pub(crate) fn build(dir: PathBuf) -> Result<Stage> {
        let begun = Instant::now();
        let version: Version = std::env::var("ETCD_VERSION").unwrap_or_else(|_| "3.5".to_owned()).parse()?;
        let options = Options { pprof: true, dir: Some(dir.join("etcd")), ..Options::default() };
        let cluster = Arc::new(Cluster::start(version, 3, &options).context("start etcd")?);
        let orders = Service::new(&dir, "orders");
        let log = orders.log().to_owned();
        let workload = Workload::start(&cluster, orders)?;
        let receiver = Receiver::start()?;
        let seat = Seat::kept(&dir, Path::new(SHIPPED))?;
        seat.configure(&configuration(&dir, &cluster, &receiver, &log)?)?;
        println!("the agent runs with {SHIPPED} and {DIR}/agent.yaml");
        Ok(Stage { workload, receiver, seat, cluster, dir, begun })
    }

    /// Tells how far it is.
    pub(crate) fn say(&self, what: &str) {
        println!("{:6.1} min  {what}", self.begun.elapsed().as_secs_f64() / 60.0);
    }

    /// CPU seconds of all members since their start.
    pub(crate) fn etcd_cpu_s(&self) -> Result<f64> {
        let of_member = |member: &Member| {
            crate::usage::cpu_s(member.pid().with_context(|| format!("{} is down", member.name()))?)
        };
        self.cluster.members().iter().map(of_member).sum()
    }

    /// The metrics page of each member.
    pub(crate) fn pages(&self) -> Result<Vec<String>> {
        let page = |member: &Member| {
            let url = member.metrics_url();
            let address = url.trim_start_matches("http://").parse().context("metrics address")?;
            let answer = http::get(address, "/metrics", PAGE_MAX)?;
            ensure!(answer.status == 200, "{} answers {}", member.name(), answer.status);
            Ok(answer.body)
        };
        self.cluster.members().iter().map(page).collect()
    }

    /// Version of the members, as they report it.
    pub(crate) fn etcd_version(&self) -> Result<String> {
        let answer = http::get(self.cluster.member(1)?.client_address(), "/version", PAGE_MAX)?;
        let version: serde_json::Value = serde_json::from_str(&answer.body)?;
        let server = version.get("etcdserver").and_then(serde_json::Value::as_str);
        Ok(server.unwrap_or_default().to_owned())
    }
}

/// An empty [`DIR`], and from now on no more than [`CPUS`].
pub(crate) fn prepare() -> Result<PathBuf> {
    confine(CPUS)?;
    fresh()
}

/// The agent's board.
pub(crate) fn board(daemon: &Daemon) -> Result<Board> {
    serde_json::from_value(daemon.board()?).context("read the board")
}

fn fresh() -> Result<PathBuf> {
    let dir = std::env::current_dir()?.join(DIR);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// The keys that differ from what is shipped, each with its reason.
fn configuration(dir: &Path, cluster: &Cluster, receiver: &Receiver, log: &Path) -> Result<String> {
    let secret = dir.join("secret");
    // Nobody verifies it: what counts is that a signal would have somewhere to go.
    fs::write(&secret, format!("whsec_{}", BASE64_STANDARD.encode([7_u8; 32])))?;
    let member = |member: &Member| {
        let (name, client, metrics) = (member.name(), member.client_url(), member.metrics_url());
        let log = member.log_path();
        format!(
            "    - {{ name: {name}, client: \"{client}\", metrics: \"{metrics}/metrics\", pprof: \"{client}\", log: \"{}\" }}\n",
            log.display()
        )
    };
    let members: String = cluster.members().iter().map(member).collect();
    let (secret, log) = (secret.display(), log.display());
    let (endpoint, signal) = (receiver.endpoint(), receiver.signal_url());
    Ok(format!(
        "# Only members that were started here; all of them are probed and profiled.\n\
         etcd:\n  discovery: false\n  members:\n{members}\
         # The cluster is ours, so the write path may be measured.\n\
         probe:\n  writes: true\n\
         # A service's log: callers for the call trees without which no rollback is ever signalled.\n\
         logs:\n  files: [\"{log}\"]\n\
         # Not a dry run, and somewhere to signal to: that nothing is sent must mean something.\n\
         verdict:\n  enforce: true\n\
         rollback:\n  webhooks:\n    - {{ name: counted, url: \"{signal}\", secret: {{ file: \"{secret}\" }} }}\n\
         # Everything is shipped, and counted as it arrives.\n\
         otlp:\n  endpoint: \"{endpoint}\"\n"
    ))
}

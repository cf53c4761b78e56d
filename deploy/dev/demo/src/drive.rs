//! The story: a quiet part that must stay quiet, a real bug, and what the agent makes of it. Everything is watched from outside.

mod agent;
mod engine;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use etcd_client::{Client, Txn, TxnOp};
use harness::etcd::{Cluster, Options, Version};
use harness::http;
use harness::process::{Process, confine, wait_until};
use harness::sink::Sink;

use self::agent::Daemon;
use self::engine::Engine;
use self::watch::{Excuses, Seen, Story};
use crate::client::{ORDERS, key, value};
use crate::report::Report;

/// Where everything the demo makes lies.
const DIR: &str = "target/demo";
/// For everything, the members included.
const CPUS: usize = 2;
/// Baselines need this long before anything is changed.
const BASELINE: Duration = Duration::from_secs(20);
/// After each harmless event the agent is watched for so long.
const QUIET: Duration = Duration::from_secs(15);
/// From the first v2 request to the end of the story.
const INCIDENT_MAX: Duration = Duration::from_secs(75);
/// The head of the signal: its identity, and the beginning of its evidence.
const SIGNAL_LINES: usize = 16;
/// etcd's `--max-txn-ops` is 128.
const SEED_BATCH: usize = 128;

/// Tells the story; the exit code is 0 only if each step happened.
pub(crate) async fn run() -> Result<ExitCode> {
    // Everything the demo starts is confined with it.
    confine(CPUS)?;
    let dir = fresh()?;
    let version = version()?;
    say("", &format!("etcd {version:?}, three members on loopback, two CPUs for everything"));
    let engine = engine::choose(&dir)?;
    let pprof = engine == Engine::Endpoint;
    let options = Options { pprof, dir: Some(dir.join("etcd")), ..Options::default() };
    let cluster = Cluster::start(version, 3, &options).context("start etcd")?;
    seed(&cluster).await.context("write the orders")?;
    let sink = Sink::start().context("start the OTLP receiver")?;
    let begun = Instant::now();
    let stage = Stage { dir, engine, cluster, sink, begun };
    let report = tokio::task::spawn_blocking(move || stage.play()).await??;
    fs::write(Path::new(DIR).join("report.json"), serde_json::to_string_pretty(&report)?)?;
    println!("\n{}", report.table());
    let missing = report.missing();
    for what in &missing {
        println!("  NOT TRUE: {what}");
    }
    println!("  report: {DIR}/report.json");
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Stage {
    dir: PathBuf,
    engine: Engine,
    cluster: Cluster,
    sink: Sink,
    begun: Instant,
}

impl Stage {
    fn play(self) -> Result<Report> {
        let deployer = self.deployer()?;
        self.deploy(&deployer, "v1")?;
        self.say("service orders v1 is running; the agent starts");
        let daemon =
            Daemon::start(&self.dir, (&self.cluster, self.engine), &self.sink, &deployer.signal_url)?;
        sleep(BASELINE);
        let story = Story::new(&self.dir, daemon.board);
        let quiet_signals = self.quiet(&deployer, &daemon, &story)?;
        let mut seen = self.incident(&deployer, &story)?;
        let cost = daemon.cost()?;
        seen.artefacts = daemon.artefacts();
        daemon.stop()?;
        let report = self.report(&seen, quiet_signals, &cost)?;
        self.show(&seen);
        drop(deployer);
        Ok(report)
    }

    /// First what must stay quiet: a harmless rollout and one planned restart of a member.
    fn quiet(&self, deployer: &Deployer, daemon: &Daemon, story: &Story) -> Result<usize> {
        self.say("rollout v1 -> v1b, which changes nothing");
        self.deploy(deployer, "v1b")?;
        sleep(QUIET);
        let member = self.cluster.member(3)?;
        self.say(&format!("planned restart of {}", member.name()));
        daemon.mark(member.name(), "planned")?;
        member.restart(Duration::from_secs(20)).context("restart a member")?;
        let mut excuses = Excuses::new();
        let deadline = Instant::now() + QUIET;
        while Instant::now() < deadline {
            sleep(Duration::from_secs(1));
            story.excuses(&mut excuses)?;
        }
        let signals = story.signals()?;
        let blip = story.blip(member.name(), &excuses)?;
        self.say(&format!("the blip: {blip}"));
        self.say(&format!("signals that left: {} (quiet_signals: {})", signals.len(), signals.len()));
        Ok(signals.len())
    }

    /// Then v2. From here nothing is scripted on the agent's side.
    fn incident(&self, deployer: &Deployer, story: &Story) -> Result<Seen> {
        self.say("rollout v1b -> v2: each request now reads all orders");
        self.deploy(deployer, "v2")?;
        let regression_at_ns =
            wait_until("the first v2 request", Duration::from_secs(10), || story.first_request("v2"))?;
        let mut seen = Seen { regression_at_ns, ..Seen::default() };
        let deadline = Instant::now() + INCIDENT_MAX;
        while Instant::now() < deadline && !seen.complete() {
            for line in story.look(&mut seen)? {
                self.say(&line);
            }
            sleep(Duration::from_millis(200));
        }
        // Batches on their way to the receiver.
        sleep(Duration::from_secs(6));
        story.look(&mut seen)?;
        seen.recording = self.dir.join("run.rec");
        Ok(seen)
    }

    fn report(&self, seen: &Seen, quiet_signals: usize, cost: &agent::Cost) -> Result<Report> {
        let counts = self.sink.counts(|service| service != "backburn-agent");
        let after = |at_ns: Option<u64>| at_ns.map(|at_ns| seconds_between(seen.regression_at_ns, at_ns));
        Ok(Report {
            etcd_version: self.etcd_version()?,
            regression_at: told(seen.regression_at_ns),
            detected_s: after(seen.detected_ns),
            page_s: after(seen.burn_ns),
            signal_s: after(seen.signal_ns),
            profile_s: after(seen.diff_ns),
            heap_s: after(seen.heap_ns),
            put_back_s: after(seen.put_back_ns),
            resolved_s: after(seen.resolved_ns),
            artefacts: files(&seen.artefacts),
            recovered_s: after(seen.recovered_ns),
            page_s_shipped: agent::page_s_shipped(&seen.recording, seen.regression_at_ns)?,
            lane: seen.lane.clone(),
            quiet_signals,
            engine: seen.engine.clone(),
            diff_top: seen.diff_top.clone(),
            call_trees: watch::call_trees(&self.sink),
            otlp: crate::report::Otlp {
                metric_points: counts.metric_points,
                spans: counts.spans,
                log_records: counts.log_records,
                profiles: counts.profiles,
            },
            agent_cpu_percent_of_one_core: cost.cpu_percent,
            agent_rss_peak_mib: cost.rss_peak_mib,
        })
    }

    fn etcd_version(&self) -> Result<String> {
        let answer = http::get(self.cluster.member(1)?.client_address(), "/version", Duration::from_secs(2))?;
        let version: serde_json::Value = serde_json::from_str(&answer.body)?;
        Ok(version["etcdserver"].as_str().unwrap_or_default().to_owned())
    }

    fn show(&self, seen: &Seen) {
        println!("\nwhat changed in etcd's CPU time (share before -> after):");
        for changed in seen.diff_top.iter().take(8) {
            println!(
                "  {:>5.1} % -> {:>5.1} %  {}",
                changed.before * 100.0,
                changed.after * 100.0,
                changed.function
            );
        }
        println!("\none request of v2:");
        for line in watch::one_tree(&self.sink) {
            println!("  {line}");
        }
        println!("\nartefacts: {}", seen.artefacts.display());
        for path in files(&seen.artefacts) {
            println!("  {path}");
        }
        println!("signal:    {}", seen.signal_file.display());
        let signal = fs::read_to_string(&seen.signal_file).unwrap_or_default();
        for line in signal.lines().take(SIGNAL_LINES) {
            println!("  {line}");
        }
    }

    fn deployer(&self) -> Result<Deployer> {
        let secret = self.dir.join("secret");
        // A demo's key: random enough for loopback, fresh in each run.
        let key: Vec<u8> = crate::ids::Ids::new().trace().into_bytes();
        fs::write(&secret, format!("whsec_{}", BASE64_STANDARD.encode(key)))?;
        let listen = agent::free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([
                "deployer",
                "--listen",
                &listen.to_string(),
                "--endpoints",
                &self.cluster.endpoints().join(","),
            ])
            .arg("--secret")
            .arg(&secret)
            .arg("--agent")
            .arg(self.dir.join("agent.sock"))
            .arg("--service-log")
            .arg(self.dir.join("orders.log"))
            .arg("--events")
            .arg(self.dir.join("deployer.jsonl"))
            .stdin(Stdio::null());
        let process = Process::spawn("deployer", command)?;
        wait_until("the deployer", Duration::from_secs(5), || {
            Ok(std::net::TcpStream::connect(listen).is_ok().then_some(()))
        })?;
        Ok(Deployer { _process: process, listen, signal_url: format!("http://{listen}/signal") })
    }

    fn deploy(&self, deployer: &Deployer, revision: &str) -> Result<()> {
        let answer = http::post_json(deployer.listen, "/deploy", revision, Duration::from_secs(10))?;
        ensure!(answer.status == 200, "the deployer: {}", answer.body);
        Ok(())
    }

    fn say(&self, what: &str) {
        say(&format!("{:6.1} s", self.begun.elapsed().as_secs_f64()), what);
    }
}

struct Deployer {
    _process: Process,
    listen: std::net::SocketAddr,
    signal_url: String,
}

fn say(when: &str, what: &str) {
    println!("{when:>9}  {what}");
}

fn fresh() -> Result<PathBuf> {
    let dir = std::env::current_dir()?.join(DIR);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// `FOLDER/FILE` of all captures, sorted.
fn files(dir: &Path) -> Vec<String> {
    let inside = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<String> = inside(dir)
        .flat_map(|folder| inside(&folder.path()).map(move |file| (folder.file_name(), file.file_name())))
        .map(|(folder, file)| format!("{}/{}", folder.to_string_lossy(), file.to_string_lossy()))
        .collect();
    files.sort();
    files
}

fn version() -> Result<Version> {
    std::env::var("ETCD_VERSION").unwrap_or_else(|_| "3.5".to_owned()).parse()
}

async fn seed(cluster: &Cluster) -> Result<()> {
    let mut client = Client::connect(cluster.endpoints(), None).await?;
    let orders: Vec<usize> = (0..ORDERS).collect();
    for batch in orders.chunks(SEED_BATCH) {
        let puts: Vec<TxnOp> =
            batch.iter().map(|order| TxnOp::put(key(*order), value(*order), None)).collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    (i128::from(to_ns) - i128::from(from_ns)) as f64 / 1e9
}

fn told(at_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at_ns)).map(|at| format!("{at:.3}")).unwrap_or_default()
}

//! Assembles one run: the sources, the engine, the sinks, and what is told at start.

mod recorder;
pub(crate) mod sources;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use collectors::target::Target;
use collectors::{clock, marks, probe};
use model::board::Board;
use model::inbox::Inbox;
use model::ledger::Ledger;
use model::origin::Origin;
use model::record::{Fact, Record};
use model::time::Clock;
use profile::capture::Capturer;
use profile::continuous::{Continuous, Processes};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use crate::admin::{self, Admin};
use crate::cli::{Exit, Failure};
use crate::config::{Config, Engine};
use crate::engine_task::{Decisions, EngineTask, Outlets};
use crate::pipeline::{Pipeline, Shared, Stop, signal};
use crate::{artefacts, selfprofile, state};

/// Records between the sources and the engine: seconds of a busy node; pages are bounded by the room in bytes.
const INBOX_RECORDS: usize = 1_024;
/// KiB between the sources and the engine: some hundred metrics pages as columns, or a few captures.
const INBOX_KIB: u32 = 16 << 10;
/// Items between the engine and the OTLP encoder: seconds of everything.
const OUTBOX_ITEMS: usize = 2_048;
/// Findings between the engine and the rollback exporter: diffs come minutes apart.
const DIFFS: usize = 16;
/// Everything is drained within this time, or said to be lost.
const GRACE: Duration = Duration::from_secs(10);
/// What is left of it for sinks once the sources have ended.
const DRAIN: Duration = Duration::from_secs(5);

/// What every part of one run is given.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    clock: Clock,
    node: Arc<Origin>,
    shared: Shared,
    inbox: Inbox,
    /// What people announced, for the watch of processes.
    announced: marks::Announced,
    /// Faster probes that people ask for.
    rates: probe::Rates,
}

/// The ends of the engine's outlets.
struct Ends {
    otlp: Option<mpsc::Receiver<exporters::otlp::Item>>,
    recorder: Option<mpsc::Receiver<crate::engine_task::Applied>>,
    captures: mpsc::Receiver<Arc<Record>>,
    diffs: mpsc::Receiver<Arc<model::finding::Finding>>,
    requests: mpsc::Receiver<model::request::Request>,
    decisions: watch::Receiver<Decisions>,
    board: watch::Receiver<Arc<Board>>,
    marked: watch::Receiver<Option<model::time::Stamp>>,
}

/// Runs the agent until there is a reason to stop; with `recording`, writes down what it sees and says. What was counted and
/// which processes members were lasts over runs.
pub(crate) async fn run(
    config: Config,
    recording: Option<&Path>,
    lasting: (Ledger, Processes),
) -> Result<Stop, Failure> {
    let started = start(config, recording, lasting).instrument(info_span!("start")).await?;
    let Started { pipeline, reloads, changes } = started;
    let stop = why_stop(signal, (reloads, changes), recording.is_some());
    Ok(pipeline.run(stop, GRACE).await?)
}

/// All parts under way, and what may end them besides a signal.
struct Started {
    pipeline: Pipeline,
    reloads: mpsc::Receiver<()>,
    changes: mpsc::Receiver<()>,
}

async fn start(
    config: Config,
    recording: Option<&Path>,
    (ledger, processes): (Ledger, Processes),
) -> Result<Started, Failure> {
    let raw = clock::system();
    let restored = state::restore(&config.state_dir, &raw, config.engine.clone()).map_err(|error| {
        let text = format!("keep state in {}", config.state_dir.display());
        Failure::new(Exit::Privilege, anyhow::Error::from(error).context(text))
    })?;
    info!(dir = %config.state_dir.display(), "{}", restored.told);
    let shared = Shared { cancel: CancellationToken::new(), ledger };
    let node = Arc::new(Origin { node: config.node.clone(), ..Origin::default() });
    let (inbox, records) = Inbox::new(INBOX_RECORDS, INBOX_KIB);
    let base = Base {
        clock: restored.clock,
        node,
        shared: shared.clone(),
        inbox,
        announced: marks::Announced::default(),
        rates: probe::Rates::default(),
    };
    let found = sources::find(&config, &[]).await;
    sources::tell(&processes, &found.targets);
    let sampled = sources::sampled(&base, &config, &processes).await;
    describe(&config, &found, sampled.as_ref().is_some_and(Continuous::is_sampling));
    let targets = found.targets;
    let shipping = config.is_shipping();
    let (outlets, ends) = outlets(shipping, recording.is_some());
    let writer = recording.map(|path| recorder::create(path, &restored.engine)).transpose()?;
    let engine = EngineTask::new(
        restored.engine,
        outlets,
        Some(restored.state),
        Arc::clone(&base.node),
        shared.ledger.clone(),
    );
    let mut pipeline = Pipeline::new(shared);
    pipeline.sink("engine", engine.run(records));
    configure(&base, &config);
    let (reload, reloads) = mpsc::channel(1);
    let (change, changes) = mpsc::channel(1);
    admin_server(&mut pipeline, &base, &config, (ends.board.clone(), reload)).await?;
    let capturer = sources::capturer(&base, &config, &targets, (sampled, processes.clone()));
    sinks(&mut pipeline, &base, &config, (ends, writer), capturer)?;
    sources::spawn(&mut pipeline, &base, &config, (&targets, processes), change);
    // From here on the sources alone keep the engine alive.
    drop(base);
    Ok(Started { pipeline, reloads, changes })
}

/// Waits for a reason to stop. While a recording is written only SIGTERM and SIGINT are one: a new run would begin with
/// another state and could not go on in the same file.
async fn why_stop<S: Future<Output = Stop>>(
    signal: fn() -> S,
    (mut reloads, mut changes): (mpsc::Receiver<()>, mpsc::Receiver<()>),
    recording: bool,
) -> Stop {
    let (mut reload_told, mut members_told) = (false, false);
    loop {
        let why = tokio::select! {
            why = signal() => why,
            Some(()) = reloads.recv() => Stop::Reload,
            // Once told it stays unread: members are looked for every few seconds.
            Some(()) = changes.recv(), if !members_told => Stop::Members,
        };
        if !recording || why == Stop::Asked {
            return why;
        }
        let told = if why == Stop::Reload { &mut reload_told } else { &mut members_told };
        if !std::mem::replace(told, true) {
            warn!(?why, "ignored while a recording is written: it goes on as it began");
        }
    }
}

/// The first record: what the engine is to believe from here on.
fn configure(base: &Base, config: &Config) {
    let Ok(json) = serde_json::to_string(&config.engine) else { return };
    if let Ok(place) = base.inbox.reserve(json.len()) {
        place.send(Record { at: base.clock.now(), origin: Arc::clone(&base.node), fact: Fact::Config(json) });
    }
}

fn outlets(shipping: bool, recording: bool) -> (Outlets, Ends) {
    let (otlp, otlp_end) = shipping.then(|| mpsc::channel(OUTBOX_ITEMS)).unzip();
    let (recorder, recorder_end) = recording.then(|| mpsc::channel(recorder::QUEUE)).unzip();
    let (captures, captures_end) = mpsc::channel(artefacts::QUEUE);
    let (diffs, diffs_end) = mpsc::channel(DIFFS);
    // One slot: a second request while one waits is refused, not queued behind a capture of ten seconds.
    let (requests, requests_end) = mpsc::channel(1);
    let (decisions, decisions_end) = watch::channel(Arc::new(BTreeMap::new()));
    let (board, board_end) = watch::channel(Arc::new(Board::default()));
    let (marked, marked_end) = watch::channel(None);
    let outlets = Outlets { otlp, recorder, captures, diffs, requests, decisions, board, marked };
    let ends = Ends {
        otlp: otlp_end,
        recorder: recorder_end,
        captures: captures_end,
        diffs: diffs_end,
        requests: requests_end,
        decisions: decisions_end,
        board: board_end,
        marked: marked_end,
    };
    (outlets, ends)
}

async fn admin_server(
    pipeline: &mut Pipeline,
    base: &Base,
    config: &Config,
    (board, reload): (watch::Receiver<Arc<Board>>, mpsc::Sender<()>),
) -> Result<(), Failure> {
    let bound = Admin::bind(
        admin::Config {
            tcp: Some(config.admin.listen),
            allow_remote: config.admin.exposed,
            unix: Some(config.admin.socket.clone()),
            hosts: config.admin.hosts.clone(),
            profiling: config.admin.self_profile,
        },
        admin::Wires {
            board,
            ledger: base.shared.ledger.clone(),
            inbox: base.inbox.downgrade(),
            clock: base.clock.clone(),
            origin: Arc::clone(&base.node),
            reload,
            announced: base.announced.clone(),
            rates: base.rates.clone(),
        },
    );
    let admin = bound.await.context("open the admin ports")?;
    if !selfprofile::heap::allow(config.admin.self_profile) && config.admin.self_profile {
        warn!("the allocator has no profiler (MALLOC_CONF?): /heap will have none");
    }
    if let Some(address) = admin.tcp_address() {
        info!(%address, socket = %config.admin.socket.display(), "admin");
    }
    pipeline.source("admin", admin.serve(base.shared.cancel.clone()));
    Ok(())
}

fn sinks(
    pipeline: &mut Pipeline,
    base: &Base,
    config: &Config,
    (ends, writer): (Ends, Option<crate::recording::Writer>),
    capturer: Capturer,
) -> Result<(), Failure> {
    let ledger = &base.shared.ledger;
    if let Some(items) = ends.otlp {
        let exporter = exporters::otlp::Exporter::new(&config.otlp, base.clock.clone(), ledger.clone())
            .context("set up OTLP")
            .map_err(|error| Failure::new(Exit::Config, error))?;
        pipeline.sink("otlp", exporter.run(items, DRAIN));
    }
    if let (Some(applied), Some(writer)) = (ends.recorder, writer) {
        pipeline.sink("recorder", recorder::run(writer, applied, ledger.clone()));
    }
    let rollback =
        exporters::rollback::Rollback::new(config.rollback.clone(), base.clock.clone(), ledger.clone())
            .context("set up rollback signals")
            .map_err(|error| Failure::new(Exit::Config, error))?;
    let wires = exporters::rollback::Wires {
        decisions: ends.decisions,
        findings: ends.diffs,
        inbox: base.inbox.downgrade(),
        origin: Arc::clone(&base.node),
        drain: DRAIN,
    };
    pipeline.sink("rollback", rollback.run(wires));
    pipeline.sink("artefacts", artefacts::run(config.profiling.dir.clone(), ends.captures, ledger.clone()));
    let inbox = base.inbox.clone();
    let cancel = base.shared.cancel.clone();
    pipeline.source("profiler", capturer.run(ends.requests, ends.marked, inbox, cancel));
    Ok(())
}

/// What was found, what is sent to whom, what may not be done: said once, at start.
fn describe(config: &Config, found: &sources::Found, is_sampled: bool) {
    let sources::Found { targets, notes, looked } = found;
    for target in targets {
        let probed = target.client_url.is_some() && (target.local || config.etcd.remote);
        info!(
            member = %target.name, client = target.client_url, metrics = target.metrics_url, pprof = target.pprof_url,
            log = sources::log_now(target).map(|path| path.display().to_string()), probed, "watching"
        );
        info!(member = %target.name, "sent to it: {}", calls(config, target, (probed, is_sampled)).join("; "));
        if let Some(why) = target.log_file.as_deref().and_then(closed) {
            info!("{}'s log is not followed: {why}", target.name);
        }
    }
    // Where nobody was found they are among the places that were looked at.
    for note in notes.iter().filter(|_| !targets.is_empty()) {
        info!("{note}");
    }
    if targets.is_empty() {
        for line in looked {
            info!("{line}");
        }
        info!("no etcd member here: the agent stays up, watches the node and looks again");
    }
    if !config.verdict_enforced() {
        info!("dry run: decisions are shown and logged, receivers are not told");
    }
    if !config.is_shipping() {
        info!("no OTLP endpoint: nothing leaves this node");
    }
    if config.rollback.receivers.is_empty() && config.verdict_enforced() {
        warn!("verdict.enforce is on and rollback has no receivers: nobody would be told");
    }
}

/// Why a file that is there is not ours to read.
fn closed(path: &Path) -> Option<String> {
    // A pipe's other end would be waited for.
    let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    let error = file.and_then(|_| std::fs::File::open(path).err())?;
    Some(format!("{}: {error}", path.display()))
}

/// Every call that one member gets while nothing is wrong, with its rate.
fn calls(config: &Config, target: &Target, (probed, is_sampled): (bool, bool)) -> Vec<String> {
    let mut calls = Vec::new();
    if target.metrics_url.is_some() {
        calls.push(format!("its metrics page every {:?}", config.scrape.interval));
    }
    if target.client_url.is_some() {
        calls.push(format!("Status every {:?}, MemberList every third time", config.member.interval));
        if let Some(every) = config.member.hash_kv {
            calls.push(format!("HashKV every {every:?}"));
        }
    }
    if probed {
        let probe = &config.probe;
        let mut rates = vec![
            ("serializable reads", probe.serializable_read_hz),
            ("linearizable reads", probe.linearizable_read_hz),
            ("Status", probe.status_hz),
        ];
        if let Some(writes) = &probe.writes {
            rates.extend([("leases granted, kept and revoked", writes.lease_hz), ("puts", writes.put_hz)]);
        }
        let asked = rates.into_iter().filter(|(_, hz)| *hz > 0.0);
        calls.extend(asked.map(|(what, hz)| format!("{what}, {hz} a second")));
        if probe.writes.is_none() {
            calls.push("no writes".to_owned());
        }
    }
    if target.pprof_url.is_some() && config.profiling.enabled {
        let capture = &config.profiling.capture;
        let mut kinds = vec!["its heap", "its goroutines"];
        let cpu = format!("a CPU profile of {} s", capture.baseline_cpu_seconds);
        if !is_sampled && config.profiling.engine != Engine::Perf {
            kinds.insert(0, &cpu);
        }
        calls.push(format!("{} every {:?}", kinds.join(", "), capture.refresh));
    }
    if calls.is_empty() {
        calls.push("nothing".to_owned());
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::{Stop, mpsc, why_stop};

    /// SIGTERM comes when nothing else is to be heard: all else lies ready.
    async fn late_term() -> Stop {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        Stop::Asked
    }

    async fn check(reloads: usize, changes: usize, recording: bool, expected: Stop) {
        let ((reload, reloaded), (change, changed)) = (mpsc::channel(4), mpsc::channel(4));
        for _ in 0..reloads {
            reload.try_send(()).unwrap();
        }
        for _ in 0..changes {
            change.try_send(()).unwrap();
        }
        assert_eq!(why_stop(late_term, (reloaded, changed), recording).await, expected);
    }

    #[tokio::test]
    async fn a_recording_goes_on_over_reloads_and_new_members() {
        check(0, 0, false, Stop::Asked).await;
        check(1, 0, false, Stop::Reload).await;
        check(0, 1, false, Stop::Members).await;
        check(3, 3, true, Stop::Asked).await;
    }
}

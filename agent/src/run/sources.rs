//! The sources of one run: which members, and one collector each for what may be asked of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use collectors::discover::{self, Discovery, Environment};
use collectors::target::Target;
use collectors::{clock, host, logs, marks, member, probe, scrape, tls};
use profile::capture::{Capturer, Pprof, ProfileTarget};
use profile::continuous::{self, Continuous, Processes};
use profile::history::Limits;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Base;
use crate::config::{Config, Engine};
use crate::pipeline::Pipeline;

/// How often the processes of the members are looked for again: a restarted member has another pid.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Where the kubelet keeps the log of kubeadm's etcd; its pod is named after the node, and so is the member.
const POD_LOGS: &str = "/var/log/pods";

/// The members to watch, and what was seen while they were looked for.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that were named, and those that are found on this node.
    pub(crate) targets: Vec<Target>,
    /// What may not be done with those that were looked for, with the reason.
    pub(crate) notes: Vec<String>,
    /// Where members were looked for, a line each: for whoever found none.
    pub(crate) looked: Vec<String>,
}

/// Looks for the members. Those in `known` that were found by their address alone are not knocked at again: etcd logs each
/// plain-text request at a TLS port.
pub(crate) async fn find(config: &Config, known: &[Target]) -> Found {
    let found = discovered(config).await.remember(known);
    let mut targets = config.etcd.members.clone();
    for target in &mut targets {
        let mut seen = found.targets.iter().chain(&found.candidates);
        target.pid = seen.find(|other| is_same(other, target)).and_then(|other| other.pid);
    }
    let mut notes = Vec::new();
    let mut looked = vec!["no member was looked for: etcd.discovery is off".to_owned()];
    if config.etcd.discovery {
        let reached = discover::probe_reachable(found).await;
        looked = reached.describe();
        notes = reached.notes;
        for target in reached.targets {
            if !targets.iter().any(|known| is_same(known, &target)) {
                targets.push(target);
            }
        }
    }
    for target in &mut targets {
        target.login.clone_from(&config.etcd.login);
        let open = target.client_url.as_deref().is_some_and(|url| url.starts_with("http://"));
        if target.login.is_some() && open && !target.local {
            notes.push(format!("{} is sent the password over the network in plain text", target.name));
        }
    }
    Found { targets, notes, looked }
}

/// What /proc, certificates and variables tell; nobody is asked.
async fn discovered(config: &Config) -> Discovery {
    let environment =
        Environment { vars: config.etcd.variables.clone(), ..Environment::system(&config.node) };
    spawn_blocking(move || discover::find(&environment)).await.unwrap_or_default()
}

/// Names are not unique on a machine with two clusters; addresses are. A name counts where there is no address of the same
/// kind on both sides.
fn is_same(one: &Target, other: &Target) -> bool {
    let plain = |url: &String| url.trim_end_matches('/').to_owned();
    // A member that may not be asked has an address all the same.
    let client = |target: &Target| {
        let endpoint = || target.identity.origin().member.as_ref().map(|member| member.endpoint.clone());
        let known = target.client_url.clone().or_else(endpoint).as_ref().map(plain);
        known.filter(|known| target.metrics_url.as_ref().map(plain).as_ref() != Some(known))
    };
    let metrics = |target: &Target| target.metrics_url.as_ref().map(plain);
    let both = |kind: &dyn Fn(&Target) -> Option<String>| kind(one).zip(kind(other)).map(|(a, b)| a == b);
    let told = [both(&client), both(&metrics)];
    told.contains(&Some(true)) || !told.contains(&Some(false)) && one.name == other.name
}

/// Starts everything that sees.
pub(super) fn spawn(
    pipeline: &mut Pipeline,
    base: &Base,
    config: &Config,
    (targets, seen): (&[Target], Processes),
    change: mpsc::Sender<()>,
) {
    let cancel = || base.shared.cancel.clone();
    let ledger = || base.shared.ledger.clone();
    pipeline.source(
        "clock",
        clock::run(base.clock.clone(), Arc::clone(&base.node), base.inbox.clone(), cancel(), ledger()),
    );
    let puts = probe::PutClock::default();
    for target in targets {
        members(pipeline, base, config, (target, &puts));
    }
    let (watched, watched_end) = watch::channel(processes(targets));
    let mut reading = config.host.clone();
    reading.filesystems.extend(data_dirs(targets, &config.host.filesystems));
    let host = host::Host::new(PathBuf::from("/"), reading, watched_end, base.clock.clone(), ledger());
    pipeline.source("host", host.run(Arc::clone(&base.node), base.inbox.clone(), cancel()));
    pipeline.source(
        "members",
        follow_members((watched, seen), targets.to_vec(), config.clone(), (cancel(), change)),
    );
    let files: Vec<_> = targets
        .iter()
        .filter_map(|target| {
            Some((target.log_file.clone().or_else(|| pod_log(target))?, target.identity.clone()))
        })
        .collect();
    let follower =
        logs::Follower::new(config.logs.clone(), &base.node, files, (base.clock.clone(), ledger()));
    pipeline.source("logs", follower.run(base.inbox.clone(), cancel()));
    let mut marks = config.marks.clone();
    marks.watched.extend(targets.iter().filter_map(marks::Watched::member));
    let watch = marks::Watch::new(marks, base.clock.clone(), ledger()).knowing(base.announced.clone());
    pipeline.source("marks", watch.run(Arc::clone(&base.node), base.inbox.clone(), cancel()));
}

/// The disks that etcd itself writes to: theirs is the space that must not run out.
fn data_dirs(targets: &[Target], known: &[PathBuf]) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for dir in targets.iter().filter(|target| target.local).filter_map(|target| target.data_dir.clone()) {
        if !known.contains(&dir) && !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

/// The log of a member that runs as kubeadm's static pod, as a pattern; most members have none, and it matches nothing.
fn pod_log(target: &Target) -> Option<PathBuf> {
    let is_plain =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    let found_here = target.local && target.pid.is_some() && is_plain(&target.name);
    let pod = format!("kube-system_etcd-{}_*", target.name);
    found_here.then(|| PathBuf::from(POD_LOGS).join(pod).join("etcd/*.log"))
}

/// The file that a member writes its log to now: its own, else its pod's newest.
pub(crate) fn log_now(target: &Target) -> Option<PathBuf> {
    target.log_file.clone().or_else(|| logs::newest(&pod_log(target)?))
}

fn members(
    pipeline: &mut Pipeline,
    base: &Base,
    config: &Config,
    (target, puts): (&Target, &probe::PutClock),
) {
    let cancel = || base.shared.cancel.clone();
    let ledger = || base.shared.ledger.clone();
    if target.metrics_url.is_some() {
        match scrape::Scraper::new(target, config.scrape.clone(), base.clock.clone(), ledger()) {
            Ok(scraper) => pipeline.source("scrape", scraper.run(base.inbox.clone(), cancel())),
            Err(error) => warn!(member = %target.name, %error, "not scraped"),
        }
    }
    if target.client_url.is_some() {
        let watch = member::MemberWatch::new(target, config.member.clone(), base.clock.clone(), ledger());
        pipeline.source("member", watch.run(base.inbox.clone(), cancel()));
    }
    if target.client_url.is_some() && (target.local || config.etcd.remote) {
        let prober = probe::Prober::new(target, config.probe.clone(), base.clock.clone(), ledger());
        let prober = prober.sharing(puts.clone()).following(base.rates.clone());
        pipeline.source("probe", prober.run(base.inbox.clone(), cancel()));
    }
}

/// The kernel's samples, where they are wanted and allowed; why not is said once.
pub(super) async fn sampled(base: &Base, config: &Config, processes: &Processes) -> Option<Continuous> {
    let profiling = &config.profiling;
    if !profiling.enabled || profiling.engine == Engine::Pprof {
        return None;
    }
    let ring = continuous::Config {
        ring: profiling.history.clone(),
        limits: Limits::default(),
        kill_switch: profiling.capture.kill_switch.clone(),
    };
    let (members, clock, ledger) = (processes.clone(), base.clock.clone(), base.shared.ledger.clone());
    let started = spawn_blocking(move || Continuous::start(ring, members, clock, ledger)).await;
    match started {
        Ok(Ok(continuous)) => {
            info!(dir = %profiling.history.display(), "samples are kept for a day");
            Some(continuous)
        }
        Ok(Err(error)) => {
            base.shared.ledger.add("agent_profiler_refused_total", error.reason(), 1);
            let instead = match profiling.engine {
                Engine::Perf => "no CPU profiles are taken",
                Engine::Auto | Engine::Pprof => "CPU profiles come from members' endpoints alone",
            };
            warn!(%error, "who runs on this node cannot be sampled: {instead}");
            None
        }
        Err(error) => {
            warn!(%error, "who runs on this node cannot be sampled");
            None
        }
    }
}

/// The profiler of all members; it also answers for those that cannot be profiled.
pub(super) fn capturer(
    base: &Base,
    config: &Config,
    targets: &[Target],
    (sampled, processes): (Option<Continuous>, Processes),
) -> Capturer {
    let profiling = &config.profiling;
    let targets = targets.iter().filter(|_| profiling.enabled);
    let targets = targets.map(profiled).collect();
    let (clock, ledger) = (base.clock.clone(), base.shared.ledger.clone());
    let capturer = Capturer::new(targets, profiling.capture.clone(), clock, ledger).knowing(processes);
    match sampled {
        Some(sampled) => capturer.sampling(sampled),
        None => capturer,
    }
}

fn profiled(target: &Target) -> ProfileTarget {
    let identity = target.identity.clone();
    let identity = Arc::new(move || identity.origin());
    let pprof = target.pprof_url.clone().and_then(|url| pprof(target, url));
    ProfileTarget { name: target.name.clone(), pprof, identity }
}

fn pprof(target: &Target, base_url: String) -> Option<Pprof> {
    let tls = base_url.starts_with("https://").then(|| tls::client_config(&target.tls)).transpose();
    let client = tls
        .map_err(|error| error.to_string())
        .and_then(|tls| profile::fetch::client(tls).map_err(|error| error.to_string()));
    match client {
        Ok(client) => Some(Pprof { base_url, client }),
        Err(error) => {
            warn!(member = %target.name, %error, "its endpoint is not asked for profiles");
            None
        }
    }
}

/// Tells whose samples are whose.
pub(super) fn tell(processes: &Processes, targets: &[Target]) {
    for target in targets.iter().filter(|target| target.local) {
        if let Some(pid) = target.pid {
            processes.seen(&target.name, pid);
        }
    }
}

/// The members' processes, and the agent's own.
fn processes(targets: &[Target]) -> Vec<host::Watched> {
    let members = targets
        .iter()
        .filter_map(|target| Some(host::Watched { pid: target.pid?, role: Some(target.name.clone()) }));
    members.chain([host::Watched { pid: std::process::id(), role: None }]).collect()
}

/// Keeps the pids of the members fresh, and tells when other members run here than at start.
async fn follow_members(
    (watched, seen): (watch::Sender<Vec<host::Watched>>, Processes),
    started: Vec<Target>,
    config: Config,
    (cancel, change): (CancellationToken, mpsc::Sender<()>),
) {
    let mut look = tokio::time::interval(LOOK_AGAIN);
    look.tick().await;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = look.tick() => {}
        }
        let now = find(&config, &started).await.targets;
        let changed = now.iter().any(|target| !started.iter().any(|known| is_same(known, target)));
        if changed && change.try_send(()).is_ok() {
            info!(members = now.len(), "other members run here now");
        }
        tell(&seen, &now);
        watched.send_if_modified(|known| {
            let new = processes(&now);
            let changed = *known != new;
            *known = new;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, data_dir: Option<&str>) -> Target {
        let identity = collectors::target::Identity::new("n", name, "http://127.0.0.1:2379");
        Target {
            name: name.to_owned(),
            client_url: None,
            metrics_url: None,
            pprof_url: None,
            tls: Default::default(),
            login: None,
            pid: Some(1),
            data_dir: data_dir.map(PathBuf::from),
            log_file: None,
            local: true,
            identity,
        }
    }

    #[test]
    fn the_agent_watches_itself_beside_the_members() {
        let watched = processes(&[target("m1", None)]);
        let pids: Vec<(u32, Option<&str>)> =
            watched.iter().map(|one| (one.pid, one.role.as_deref())).collect();
        assert_eq!(pids, [(1, Some("m1")), (std::process::id(), None)]);
    }

    #[test]
    fn a_member_of_the_same_name_in_another_cluster_is_another() {
        let member = |endpoint: &str, client: Option<&str>, metrics: Option<&str>| Target {
            client_url: client.map(str::to_owned),
            metrics_url: metrics.map(str::to_owned),
            identity: collectors::target::Identity::new("n", "m1", endpoint),
            ..target("m1", None)
        };
        let (ours, metrics) = ("http://127.0.0.1:2379", "http://127.0.0.1:2381/metrics");
        let named = member(ours, Some("http://127.0.0.1:2379/"), None);
        assert!(is_same(&named, &member(ours, Some(ours), None)));
        assert!(
            !is_same(&named, &member("https://10.0.0.5:2379", None, None)),
            "its certificate is not readable"
        );
        let by_metrics = member(metrics, None, Some(metrics));
        assert!(is_same(&by_metrics, &member(ours, Some(ours), Some(metrics))));
        assert!(!is_same(&by_metrics, &member(ours, Some(ours), Some("http://127.0.0.1:9/metrics"))));
        assert!(is_same(&by_metrics, &named), "nothing but a name is known of both");
    }

    #[test]
    fn the_disks_of_local_members_are_watched_once_each() {
        let away = Target { local: false, ..target("m4", Some("/away")) };
        let targets =
            [target("m1", Some("/data")), target("m2", Some("/data")), target("m3", Some("/state")), away];
        assert_eq!(data_dirs(&targets, &[PathBuf::from("/state")]), [PathBuf::from("/data")]);
    }

    #[test]
    fn a_static_pods_log_belongs_to_the_member_of_that_name() {
        let check = |target: Target, expected: Option<&str>| {
            assert_eq!(pod_log(&target), expected.map(PathBuf::from), "{}", target.name);
        };
        check(target("cp-1.lan", None), Some("/var/log/pods/kube-system_etcd-cp-1.lan_*/etcd/*.log"));
        check(target("../*", None), None);
        check(target("127.0.0.1:2379", None), None);
        check(Target { pid: None, ..target("cp-1", None) }, None);
        check(Target { local: false, ..target("cp-1", None) }, None);
    }
}

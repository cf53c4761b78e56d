//! `agent check`: members, versions, health and latency by a few seconds of its own probes, and what the running daemon says of the SLOs.

mod table;

pub(super) use self::table::aligned;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use collectors::target::Target;
use collectors::{clock, member, probe};
use model::board::{Board, BoardMember};
use model::inbox::Inbox;
use model::ledger::Ledger;
use model::member::MemberState;
use model::time::Clock;
use processors::alarms::Alarms;
use processors::members::Members;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Ended, Exit, Failure, Source, runtime, say, tell};
use crate::admin::client::{self, Address};
use crate::config::{Config, Loaded};
use crate::run::sources;

/// How long the members are probed: enough for a median, few requests.
const LASTS: Duration = Duration::from_secs(3);
/// Shipped rates times this: ten reads of a kind a second and member, for three seconds.
const BOOST: f64 = 20.0;
/// Records of three seconds of a few members.
const INBOX_RECORDS: usize = 4_096;

/// Arguments of `agent check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    source: Source,
    /// A table for people, or JSON.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// The running agent's admin socket; from the configuration by default.
    #[arg(long)]
    socket: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// All that is printed.
#[derive(Debug, Serialize)]
struct Checked {
    schema_version: u32,
    members: Vec<Row>,
    /// What is wrong with the members taken together, as seen now or by the daemon.
    warnings: Vec<String>,
    /// The worst state of the daemon's objectives; `unknown` without a daemon.
    slo: String,
    /// The daemon's board; `None` where no daemon runs or it cannot be asked.
    daemon: Option<Board>,
    /// Why there is none.
    daemon_unknown: Option<String>,
}

/// One member.
#[derive(Debug, Serialize)]
struct Row {
    health: Health,
    /// What is wrong.
    why: Vec<String>,
    #[serde(flatten)]
    member: BoardMember,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Ok,
    Failing,
    Silent,
}

/// Exit code 0 when every member is well, 1 when some fail, 69 when none answers or none is there.
pub(super) fn check(check: &Check) -> Ended {
    let Loaded { config, problems, .. } = crate::config::load(&check.source);
    for problem in &problems {
        tell(&problem.to_string());
    }
    if !problems.is_empty() {
        return Err(Failure::new(Exit::Config, anyhow!("{} problems in the configuration", problems.len())));
    }
    let socket = check.socket.clone().unwrap_or_else(|| config.admin.socket.clone());
    let checked = runtime()?.block_on(all(&config, &socket))?;
    match check.output {
        Output::Table => table::print(&checked),
        Output::Json => say(&serde_json::to_string_pretty(&checked)?),
    }
    let answered = checked.members.iter().any(|row| row.health != Health::Silent);
    let well = checked.members.iter().all(|row| row.health == Health::Ok);
    Ok(match (answered, well) {
        (false, _) => Exit::TargetDown,
        (true, false) => Exit::Failed,
        (true, true) => Exit::Ok,
    })
}

async fn all(config: &Config, socket: &Path) -> Result<Checked, Failure> {
    let sources::Found { targets, looked, .. } = sources::find(config, &[]).await;
    if targets.is_empty() {
        for line in looked {
            tell(&line);
        }
        return Err(Failure::new(Exit::TargetDown, anyhow!("no etcd member found; name one with --config")));
    }
    let clock = clock::system();
    let ((seen, alarms), board) =
        tokio::join!(ask(config, &targets, clock.clone()), daemon(socket, config.admin.listen));
    let (daemon, daemon_unknown) = match board {
        Ok(board) => (Some(board), None),
        Err(why) => (None, Some(why)),
    };
    let warnings = warnings(alarms.warnings(), daemon.as_ref());
    let members = seen.board(clock.now()).into_iter().map(row).collect();
    let slo = worst(daemon.as_ref()).to_owned();
    Ok(Checked { schema_version: 1, members, warnings, slo, daemon, daemon_unknown })
}

/// One word for a script: what burns is worse than what nobody could judge, and that is worse than what is well.
fn worst(daemon: Option<&Board>) -> &str {
    let order = ["ok", "no_traffic", "no_data", "burning"];
    let rank = |state: &str| order.iter().position(|known| *known == state);
    let states = daemon.into_iter().flat_map(|board| &board.slos).map(|slo| slo.state.as_str());
    states.max_by_key(|state| rank(state)).unwrap_or("unknown")
}

/// Our own, and what the daemon alone knows: it hashes the data once in a while, a check never does.
fn warnings(mut seen: Vec<String>, daemon: Option<&Board>) -> Vec<String> {
    for warning in daemon.map(|board| board.warnings.as_slice()).unwrap_or_default() {
        if !seen.contains(warning) {
            seen.push(warning.clone());
        }
    }
    seen
}

/// Probes all members for a few seconds, reads only.
async fn ask(config: &Config, targets: &[Target], clock: Clock) -> (Members, Alarms) {
    let ledger = Ledger::default();
    let cancel = CancellationToken::new();
    let (inbox, mut records) = Inbox::new(INBOX_RECORDS, 16 << 10);
    let probing = probe::Config {
        writes: None,
        boost: Some(probe::Boost { factor: BOOST, lasts: LASTS }),
        ..config.probe.clone()
    };
    let mut sources = JoinSet::new();
    for target in targets {
        let watch = member::MemberWatch::new(target, config.member.clone(), clock.clone(), ledger.clone());
        sources.spawn(watch.run(inbox.clone(), cancel.clone()));
        let prober = probe::Prober::new(target, probing.clone(), clock.clone(), ledger.clone());
        sources.spawn(prober.run(inbox.clone(), cancel.clone()));
    }
    drop(inbox);
    let (mut members, mut alarms) = (Members::default(), Alarms::default());
    let end = tokio::time::sleep(LASTS + config.probe.deadline);
    tokio::pin!(end);
    loop {
        tokio::select! {
            envelope = records.recv() => match envelope {
                Some(envelope) => {
                    members.observe(&envelope.record);
                    alarms.observe(&envelope.record);
                }
                None => break,
            },
            () = &mut end => cancel.cancel(),
        }
    }
    sources.shutdown().await;
    (members, alarms)
}

fn row(member: BoardMember) -> Row {
    let failed: u64 = member.latencies.iter().map(|latency| latency.failed).sum();
    let n: u64 = member.latencies.iter().map(|latency| latency.n).sum();
    let mut why = member.state.as_ref().map(troubles).unwrap_or_default();
    if failed > 0 {
        why.push(format!("{failed} of {n} probes not answered"));
    }
    let health = match (&member.state, why.is_empty()) {
        (None, _) if failed == n => Health::Silent,
        (Some(_), true) => Health::Ok,
        _ => Health::Failing,
    };
    Row { health, why, member }
}

/// What a member's own account says is wrong.
fn troubles(state: &MemberState) -> Vec<String> {
    let mut troubles: Vec<String> =
        state.alarms.iter().map(|(alarm, of)| format!("alarm {alarm} of {of:x}")).collect();
    if state.leader == 0 {
        troubles.push("no leader".to_owned());
    }
    troubles.extend(state.errors.iter().cloned());
    troubles
}

/// The running agent's board: by its socket, or where that is not ours to open, by its port.
async fn daemon(socket: &Path, port: SocketAddr) -> Result<Board, String> {
    let by_socket = client::get(&Address::Unix(socket.to_owned()), "/verdict").await;
    let answer = match by_socket {
        Ok(answer) => answer,
        Err(error) => client::get(&Address::Tcp(port), "/verdict")
            .await
            .map_err(|_| format!("no agent at {}: {:#}", socket.display(), anyhow::Error::from(error)))?,
    };
    serde_json::from_str(&answer.body).map_err(|error| format!("the agent's answer is not a board: {error}"))
}

/// Shared by the table.
fn name(member: &BoardMember) -> Arc<str> {
    Arc::from(member.origin.member_name())
}

#[cfg(test)]
mod tests {
    use model::board::BoardSlo;

    use super::{Board, warnings, worst};

    #[test]
    fn the_worst_objective_is_the_one_word() {
        let check = |states: &[&str], expected: &str| {
            let slos =
                states.iter().map(|state| BoardSlo { state: (*state).to_owned(), ..BoardSlo::default() });
            let board = Board { slos: slos.collect(), ..Board::default() };
            assert_eq!(worst(Some(&board)), expected, "{states:?}");
        };
        check(&["ok", "burning", "no_data"], "burning");
        check(&["no_data", "ok", "no_traffic"], "no_data");
        check(&["ok", "ok"], "ok");
        check(&[], "unknown");
        assert_eq!(worst(None), "unknown");
    }

    #[test]
    fn a_warning_of_both_is_shown_once() {
        let told = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let board = Board { warnings: told(&["hashes differ", "alarm"]), ..Board::default() };
        assert_eq!(warnings(told(&["alarm"]), Some(&board)), told(&["alarm", "hashes differ"]));
        assert_eq!(warnings(told(&["alarm"]), None), told(&["alarm"]));
    }
}

//! The incident of a cluster that was well for an hour: history makes a rollback surer, never later.
//!
//! Owns the hour. It is not waited for: an engine of the agent's own kind is fed with it and put where the agent keeps its
//! state. Cluster, agent, rollout, slow writes and webhook are as real as in the other stories.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use harness::{
    daemon::{Daemon, Seat},
    etcd::Version,
};
use model::{
    board::Board,
    finding::{Conclusion, Finding, Lane},
    origin::Origin,
    probe::{Probe, ProbeKind, ProbeOutcome},
    record::{Fact, Record, Tick},
    time::{SECOND_NS, Stamp},
};
use processors::{Config, Engine};
use serde_json::Value;

use super::{SOON, Stage, WRITE_LIMIT_MS, body};

const HOUR_S: u64 = 3_600;

/// A probe of each kind at each member every other second, as the shipped rates have it for reads.
const EVERY_S: u64 = 2;

/// Writes that must be known of the last hour before anything is rolled out: more than half an hour of them.
const KNOWN_MIN: u64 = 3_000;

/// Kinds whose usual latency goes into the hour.
const KINDS: [ProbeKind; 4] =
    [ProbeKind::SerializableRead, ProbeKind::LinearizableRead, ProbeKind::LeaseGrant, ProbeKind::LeaseRevoke];

/// However busy the host is, the hour is clean: even the slowest answer made from this is within every limit.
const USUAL_MAX: Duration = Duration::from_millis(20);

/// The head of a state file: format, agent, boot, what its clock adds to the kernel's (ns), when it was written.
type Head = (u16, String, String, i64, Stamp);

/// What a member usually takes for one kind of probe.
struct Usual {
    member: Arc<Origin>,
    kind: ProbeKind,
    latency_ns: u64,
}

fn typed(board: &Value) -> Option<Board> {
    serde_json::from_value(board.clone()).ok()
}

/// What three members take on this host today; `None` until each kind was asked for twice at each.
fn usual(board: &Value) -> Option<Vec<Usual>> {
    let mut all = Vec::new();
    for member in typed(board)?.members {
        for kind in KINDS {
            let latency = member.latencies.iter().find(|latency| latency.kind == kind.name())?;
            let usual = Duration::from_secs_f64(latency.p50_s?).min(USUAL_MAX);
            let latency_ns = u64::try_from(usual.as_nanos()).ok()?;
            all.push(Usual { member: Arc::clone(&member.origin), kind, latency_ns });
        }
    }
    (all.len() == 3 * KINDS.len()).then_some(all)
}

/// An hour of probes, all answered within 60 to 160 % of what is usual, and its ticks. `from` is its first second.
fn apply_hour(engine: &mut Engine, usual: &[Usual], from: Stamp) -> Result<()> {
    let node = usual.first().map(|usual| usual.member.node.clone()).context("no member")?;
    let node = Arc::new(Origin { node, ..Origin::default() });
    let mut apply = |record: Record| {
        let said = engine.apply(&record).findings;
        ensure!(said.iter().all(is_harmless), "the hour is not clean: {said:#?}");
        Ok(())
    };
    for second in 0..HOUR_S {
        for (number, usual) in (0_u64..).zip(usual).filter(|(number, _)| (second + number) % EVERY_S == 0) {
            let latency_ns = usual.latency_ns * (60 + (second * 37 + number * 11) % 101) / 100;
            let fact = Fact::Probe(Probe { kind: usual.kind, latency_ns, outcome: ProbeOutcome::Ok });
            let at = from.plus_ns(second * SECOND_NS + number * SECOND_NS / 16);
            apply(Record { at, origin: Arc::clone(&usual.member), fact })?;
        }
        let at = from.plus_ns((second + 1) * SECOND_NS - 1);
        apply(Record { at, origin: Arc::clone(&node), fact: Fact::Tick(Tick::default()) })?;
    }
    Ok(())
}

fn is_harmless(finding: &Finding) -> bool {
    !matches!(finding.conclusion, Conclusion::Burn(_) | Conclusion::Regression(_))
}

/// Replaces the state of an agent that has stopped by one that has lived through the hour before it stopped. Its clock is
/// set forward by that hour, so that the hour has room even where the machine was started a minute ago.
fn put_before(seat: &Seat, usual: &[Usual]) -> Result<()> {
    let file = seat.folder().path().join("state/engine.state");
    let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let ((format, agent, boot, offset_ns, at), _): (Head, _) = postcard::take_from_bytes(&bytes)?;
    let hour_ns = HOUR_S * SECOND_NS;
    let mut config = Config::default();
    config.slo.write.limit_ms = WRITE_LIMIT_MS;
    let mut engine = Engine::new(config);
    apply_hour(&mut engine, usual, Stamp { wall_ns: at.wall_ns - hour_ns, ..at })?;
    let at = Stamp { mono_ns: at.mono_ns + hour_ns, ..at };
    let head: Head = (format, agent, boot, offset_ns + i64::try_from(hour_ns)?, at);
    let bytes = postcard::to_extend(&engine, postcard::to_stdvec(&head)?)?;
    fs::write(&file, bytes).with_context(|| format!("write {}", file.display()))
}

/// The agent goes on from that hour: it counts its writes, and none of them was too many.
fn is_remembered(agent: &Daemon) -> Result<()> {
    let write = agent.wait_for("an hour of writes", SOON, |board| {
        let slos = typed(board)?.slos;
        slos.into_iter().find(|slo| slo.name == "write" && slo.total >= KNOWN_MIN)
    })?;
    ensure!(write.firing.is_empty() && write.burn_1h.is_some_and(|burn| burn < 1.0), "not clean: {write:?}");
    Ok(())
}

/// The rollout's own window fired, and no tier: that would need minutes to move an hour's share.
fn fired_by_change(board: &Board) -> Result<()> {
    let burns = board.findings.iter().filter_map(|finding| match &finding.conclusion {
        Conclusion::Burn(burn) if burn.firing && burn.votes => Some(&burn.lane),
        _ => None,
    });
    let lanes: Vec<&Lane> = burns.collect();
    let v2 = Lane::Change { target: "orders".to_owned(), revision: "v2".to_owned() };
    ensure!(lanes.contains(&&v2), "the change window did not fire: {lanes:?}");
    ensure!(!lanes.iter().any(|lane| matches!(lane, Lane::Tier { .. })), "a tier fired: {lanes:?}");
    Ok(())
}

/// When the service began its first request of v2, by its own log: a line is written at the end of what it tells.
fn first_bad_request(stage: &Stage) -> Result<SystemTime> {
    for line in fs::read_to_string(stage.incident.orders.log())?.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["service.version"] == "v2" && line["msg"] == "handle order" {
            let end = Duration::from_nanos(line["time"].as_u64().context("time")?);
            let took = Duration::from_secs_f64(line["duration_ms"].as_f64().context("duration")? / 1e3);
            return Ok(SystemTime::UNIX_EPOCH + end - took);
        }
    }
    bail!("v2 logged nothing")
}

fn signal_after_an_hour(stage: &Stage) -> Result<Duration> {
    let calm = stage.start()?;
    let usual = calm.wait_for("usual latencies", SOON, usual)?;
    calm.stop()?;
    put_before(&stage.seat, &usual)?;

    let agent = stage.start()?;
    is_remembered(&agent)?;
    stage.roll_out(&agent)?;
    let received = stage.wait_for_event("rollback.v1", 1)?;
    let took = received.at.duration_since(first_bad_request(stage)?)?;
    let signal = body(&received);
    ensure!(signal["data"]["target"] == "orders" && signal["data"]["revision"] == "v2", "{signal:#}");
    ensure!(signal["data"]["state"] == "rollback" && signal["data"]["dry_run"] == false, "{signal:#}");
    fired_by_change(&typed(&agent.board()?).context("the board is not one of ours")?)?;
    agent.stop()?;
    Ok(took)
}

#[test]
fn a_bad_rollout_after_an_hour_of_clean_probes_is_signalled_as_soon_as_any() {
    let stage = Stage::set("rollback-hour", Version::V3_5, WRITE_LIMIT_MS).unwrap();
    let mut took = Duration::MAX;
    let played = stage.incident.play(|| {
        took = signal_after_an_hour(&stage)?;
        Ok(())
    });
    played.unwrap();
    // 30 s on an idle host. The bound here is that of waiting for it: a busy host is slower, a tier slower by far.
    println!("after an hour of clean probes: signal {:.1} s after the first bad request", took.as_secs_f64());
    assert!(took <= SOON, "signalled after {took:?}");
}

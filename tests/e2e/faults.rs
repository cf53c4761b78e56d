//! Members that are killed, frozen or deposed: each looks like what it is, and none of it costs a rollout its revision.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use harness::{
    daemon::{self, Daemon, Seat},
    etcd::{Cluster, Member, Options, Version},
    process::wait_until,
    sink::{Sink, flat},
};
use serde_json::Value;

/// A handful of probes of each kind at the rates below, on a busy host.
const SOON: Duration = Duration::from_secs(40);

/// Two requests a second: a lease takes three.
const RATES: &str = "member: { interval: 1s }
scrape: { interval: 2s }
probe: { writes: true, serializable_read_hz: 0.4, linearizable_read_hz: 0.4, status_hz: 0, lease_hz: 0.4, put_hz: 0 }
";

/// Probes of each kind with each ending that have to come before a story goes on.
const SOME: u64 = 2;

const READS_AND_LEASES: [&str; 3] = ["serializable_read", "linearizable_read", "lease_grant"];

struct Stage {
    cluster: Cluster,
    sink: Sink,
    seat: Seat,
    agent: Daemon,
}

impl Stage {
    /// A quiet cluster that has been watched for a while, with a rollout that could be blamed.
    fn set(name: &str, version: Version) -> Result<Stage> {
        let cluster = Cluster::start(version, 3, &Options::default())?;
        let sink = Sink::start()?;
        let seat = Seat::new(&format!("{name}-{version}"))?;
        let otlp = format!("otlp: {{ endpoint: {}, protocol: grpc, flush: 500ms }}\n", sink.grpc_endpoint());
        seat.configure(&format!("{}{otlp}{RATES}", daemon::named(&cluster, false)))?;
        let agent = seat.start(&[])?;
        let stage = Stage { cluster, sink, seat, agent };
        stage.see_more(&[(stage.all(), &READS_AND_LEASES, &["ok"])])?;
        stage.seat.mark(&["--target", "orders", "--revision", "v2"])?;
        Ok(stage)
    }

    fn outcomes(&self, member: &Member) -> BTreeMap<(String, String), u64> {
        flat::outcomes(&self.sink.received(), member.name())
    }

    /// Waits until at each of these members each of these kinds has ended in one of these ways [`SOME`] times more.
    fn see_more(&self, wanted: &[(Vec<&Member>, &[&str], &[&str])]) -> Result<()> {
        let count = |member: &Member, kinds: &[&str], endings: &[&str]| -> Vec<u64> {
            let outcomes = self.outcomes(member);
            let of = |kind: &&str| {
                let wanted = outcomes
                    .iter()
                    .filter(|((of, ending), _)| of == kind && endings.contains(&ending.as_str()));
                wanted.map(|(_, count)| count).sum()
            };
            kinds.iter().map(of).collect()
        };
        let mut waiting = Vec::new();
        for (members, kinds, endings) in wanted {
            waiting.extend(
                members.iter().map(|member| (*member, *kinds, *endings, count(member, kinds, endings))),
            );
        }
        wait_until("more probes", SOON, || {
            for (member, kinds, endings, before) in &waiting {
                let now = count(member, kinds, endings);
                let enough = before.iter().zip(&now).all(|(before, now)| *now >= before + SOME);
                let name = member.name();
                ensure!(enough, "{name}: {kinds:?} ended in {endings:?}: {before:?} then {now:?}");
            }
            Ok(Some(()))
        })
    }

    fn all(&self) -> Vec<&Member> {
        self.cluster.members().iter().collect()
    }

    /// Everything but `ok` so far.
    fn failures(&self, member: &Member, kind: &str) -> u64 {
        let outcomes = self.outcomes(member);
        outcomes.iter().filter(|((of, ending), _)| of == kind && ending != "ok").map(|(_, count)| count).sum()
    }

    fn others<'a>(&'a self, than: &'a Member) -> impl Iterator<Item = &'a Member> {
        self.cluster.members().iter().filter(move |member| member.name() != than.name())
    }

    /// One that does not lead: its loss costs no election.
    fn follower(&self) -> Result<&Member> {
        let leader = self.cluster.leader()?.name();
        self.cluster
            .members()
            .iter()
            .find(|member| member.name() != leader)
            .ok_or_else(|| anyhow::anyhow!("no follower"))
    }

    /// No trouble of etcd's own is ever a rollout's fault: nothing leads from "orders" here.
    fn nobody_is_rolled_back(&self) -> Result<Value> {
        let board = self.agent.board()?;
        for target in ["etcd", "orders"] {
            let decision = daemon::decision(&board, target);
            ensure!(
                decision.is_some_and(|decision| decision["state"] != "rollback"),
                "{target}: {decision:#?}"
            );
        }
        Ok(board)
    }
}

fn a_killed_member_then_no_majority(version: Version) -> Result<()> {
    let stage = Stage::set("killed", version)?;
    let victim = stage.follower()?;
    let before: u64 = stage.others(victim).map(|member| stage.failures(member, "lease_grant")).sum();
    victim.kill()?;
    stage.see_more(&[
        (vec![victim], &["serializable_read", "linearizable_read"], &["refused", "lost_in_flight"]),
        (stage.others(victim).collect(), &READS_AND_LEASES, &["ok"]),
    ])?;
    stage.cluster.put("/written/with/a/majority", "yes")?;
    let after: u64 = stage.others(victim).map(|member| stage.failures(member, "lease_grant")).sum();
    let how: Vec<_> = stage.others(victim).map(|member| stage.outcomes(member)).collect();
    ensure!(before == after, "writes failed with a majority: {before} then {after}: {how:?}");
    let board = stage.nobody_is_rolled_back()?;
    ensure!(daemon::member(&board, victim.name()).is_some_and(|member| member["up"] == false), "{board:#}");

    let survivor = stage.others(victim).next().ok_or_else(|| anyhow::anyhow!("no survivor"))?;
    for member in stage.others(victim).filter(|member| member.name() != survivor.name()) {
        member.kill()?;
    }
    let unanswered = ["timed_out", "leader_changed", "Unavailable", "DeadlineExceeded"];
    let stale = stage.failures(survivor, "serializable_read");
    stage.see_more(&[
        (vec![survivor], &["linearizable_read", "lease_grant"], &unanswered),
        (vec![survivor], &["serializable_read"], &["ok"]),
    ])?;
    let failed = stage.failures(survivor, "serializable_read") - stale;
    ensure!(
        failed == 0,
        "{failed} serializable reads failed without a majority: {:?}",
        stage.outcomes(survivor)
    );
    stage.agent.wait_for("a burning availability", SOON, |board| {
        let burns = daemon::findings(board, "burn");
        burns.iter().any(|burn| burn["slo"] == "availability" && burn["firing"] == true).then_some(())
    })?;
    stage.nobody_is_rolled_back()?;

    for member in stage.cluster.members().iter().filter(|member| member.pid().is_none()) {
        member.start()?;
    }
    stage.cluster.wait_healthy(SOON)?;
    stage.see_more(&[(stage.all(), &READS_AND_LEASES, &["ok"])])?;
    stage.nobody_is_rolled_back()?;
    stage.agent.stop()
}

fn a_frozen_member(version: Version) -> Result<()> {
    let stage = Stage::set("frozen", version)?;
    let victim = stage.follower()?;
    let refused = |stage: &Stage| -> u64 {
        let outcomes = stage.outcomes(victim);
        outcomes.iter().filter(|((_, ending), _)| ending == "refused").map(|(_, count)| count).sum()
    };
    victim.pause()?;
    stage.see_more(&[
        (vec![victim], &READS_AND_LEASES, &["timed_out"]),
        (stage.others(victim).collect(), &READS_AND_LEASES, &["ok"]),
    ])?;
    ensure!(refused(&stage) == 0, "a frozen member refuses nothing: {:?}", stage.outcomes(victim));
    stage.nobody_is_rolled_back()?;
    victim.resume()?;
    stage.see_more(&[(vec![victim], &READS_AND_LEASES, &["ok"])])?;
    stage.nobody_is_rolled_back()?;
    stage.agent.stop()
}

fn a_deposed_leader(version: Version) -> Result<()> {
    let stage = Stage::set("deposed", version)?;
    let heir = stage.follower()?;
    let id = heir.status()?.member_id;
    stage.cluster.move_leader(heir)?;
    stage.agent.wait_for("the new leader at all members", SOON, |board| {
        let led = |member: &Member| {
            let seen = daemon::member(board, member.name())?;
            (seen.pointer("/state/leader")?.as_u64()? == id).then_some(())
        };
        stage.cluster.members().iter().all(|member| led(member).is_some()).then_some(())
    })?;
    stage.see_more(&[(stage.all(), &READS_AND_LEASES, &["ok"])])?;
    let board = stage.nobody_is_rolled_back()?;
    for regression in daemon::findings(&board, "regression") {
        ensure!(regression["cause"].is_string(), "without a cause: {regression:#}");
    }
    for burn in daemon::findings(&board, "burn") {
        ensure!(burn["votes"] == false || burn["firing"] == false, "it votes: {burn:#}");
    }
    stage.agent.stop()
}

#[test]
fn a_killed_member_refuses_and_without_a_majority_only_stale_reads_answer_on_3_5() {
    a_killed_member_then_no_majority(Version::V3_5).unwrap();
}

#[test]
fn a_killed_member_refuses_and_without_a_majority_only_stale_reads_answer_on_3_7() {
    a_killed_member_then_no_majority(Version::V3_7).unwrap();
}

#[test]
fn a_frozen_member_times_out_and_the_others_answer_on_3_5() {
    a_frozen_member(Version::V3_5).unwrap();
}

#[test]
fn a_frozen_member_times_out_and_the_others_answer_on_3_4() {
    a_frozen_member(Version::V3_4).unwrap();
}

#[test]
fn a_leader_change_is_seen_and_costs_no_vote_on_3_5() {
    a_deposed_leader(Version::V3_5).unwrap();
}

#[test]
fn a_leader_change_is_seen_and_costs_no_vote_on_3_6() {
    a_deposed_leader(Version::V3_6).unwrap();
}

//! Stories of one rollout: what is put back, what is only stopped, and what is left alone.

use std::sync::Arc;

use model::finding::{
    Alarm, Burn, CallTree, Conclusion, Finding, FoundBy, Lane, Measured, NodeCheck, Regression, Shape, Span,
    Trouble,
};
use model::host::{CpuTimes, HostFact, Process};
use model::mark::{Mark, MarkKind, MarkSource};
use model::origin::Origin;
use model::probe::{Probe, ProbeKind, ProbeOutcome};
use model::record::{Fact, Record, Tick};
use model::time::{SECOND_NS, Stamp};
use model::verdict::{Confidence, Decision, Evidence, State};

use super::{CLUSTER, Config, Known, Verdict};
use crate::excuse::Excuses;
use crate::node::Node;
use crate::slo::{self, Slo};

/// The target of the stories.
const ORDERS: &str = "orders";

struct Story {
    verdict: Verdict,
    excuses: Excuses,
    node: Node,
    slo: Slo,
    now_s: u64,
    told: Vec<Arc<Decision>>,
}

impl Story {
    /// Enough probes have come for `pass`.
    fn begin() -> Story {
        let verdict = Verdict::new(Config { enforce: true, ..Config::default() });
        let (excuses, node) = (Excuses::default(), Node::default());
        let slo = Slo::new(&slo::Config::default());
        let mut story = Story { verdict, excuses, node, slo, now_s: 1_000, told: Vec::new() };
        story.run(30);
        story
    }

    fn at(&self) -> Stamp {
        Stamp { mono_ns: self.now_s * SECOND_NS, wall_ns: (1_700_000_000 + self.now_s) * SECOND_NS }
    }

    fn see(&mut self, fact: Fact, conclusions: Vec<Conclusion>) {
        let record = Record { at: self.at(), origin: Arc::new(Origin::default()), fact };
        let findings: Vec<Finding> = conclusions
            .into_iter()
            .map(|conclusion| Finding {
                id: 1,
                at: record.at,
                origin: Arc::clone(&record.origin),
                conclusion,
            })
            .collect();
        self.excuses.observe(&record);
        self.node.observe(&record);
        drop(self.slo.observe(&record, &self.excuses));
        let known = Known { excuses: &self.excuses, node: &self.node, slo: &self.slo };
        self.told.extend(self.verdict.observe(&record, &findings, known).decisions);
    }

    /// A probe and a tick each second.
    fn run(&mut self, seconds: u64) {
        self.run_at(seconds, 1);
    }

    /// The same, each probe of so many milliseconds.
    fn run_at(&mut self, seconds: u64, latency_ms: u64) {
        for _ in 0..seconds {
            self.now_s += 1;
            let latency_ns = latency_ms * 1_000_000;
            let probe = Probe { kind: ProbeKind::LeaseGrant, latency_ns, outcome: ProbeOutcome::Ok };
            self.see(Fact::Probe(probe), Vec::new());
            self.see(Fact::Tick(Tick::default()), Vec::new());
        }
    }

    fn rollout(&mut self, target: &str, revision: &str, rollback_of: Option<&str>) {
        let mark = Mark {
            target: target.to_owned(),
            revision: revision.to_owned(),
            kind: MarkKind::Rollout,
            rollback_of: rollback_of.map(str::to_owned),
            source: MarkSource::Operator,
        };
        self.see(Fact::Mark(mark), Vec::new());
    }

    fn conclude(&mut self, conclusion: Conclusion) {
        self.see(Fact::Tick(Tick::default()), vec![conclusion]);
    }

    fn regression(&mut self, open: bool, cause: Option<&str>) {
        let regression = Regression {
            metric: "probe lease_grant latency".to_owned(),
            unit: "s".to_owned(),
            shape: Shape::Step,
            open,
            onset: self.at(),
            before: Measured::default(),
            after: Measured::default(),
            score: 9.0,
            cause: cause.map(str::to_owned),
            ended: None,
            node: NodeCheck::NotChecked(String::new()),
        };
        self.conclude(Conclusion::Regression(regression));
    }

    fn burn(&mut self, revision: &str, firing: bool, votes: bool) {
        self.burn_in(
            Lane::Change { target: ORDERS.to_owned(), revision: revision.to_owned() },
            firing,
            votes,
        );
    }

    fn tier(&mut self, firing: bool) {
        self.burn_in(Lane::Tier { name: "page_fast".to_owned(), long_s: 3_600, short_s: 300 }, firing, true);
    }

    fn burn_in(&mut self, lane: Lane, firing: bool, votes: bool) {
        let burn = Burn {
            slo: "write".to_owned(),
            lane,
            firing,
            votes,
            excused: (!votes).then(|| "planned restart of m3".to_owned()),
            burn_long: 90.0,
            burn_short: 95.0,
            bad: 9,
            total: 10,
            coverage: 1.0,
            p_value: 1e-15,
            members: vec![("m1".to_owned(), 9, 10)],
            since: self.at(),
            server_side: false,
        };
        self.conclude(Conclusion::Burn(burn));
    }

    fn call_tree(&mut self, service: &str, revision: &str) {
        let span = |service: &str, parent: Option<[u8; 8]>| Span {
            span_id: [1; 8],
            parent,
            service: service.to_owned(),
            revision: Some(revision.to_owned()),
            name: "list".to_owned(),
            start_ns: 0,
            end_ns: 1,
            failed: false,
            found_by: FoundBy::Root,
            confidence: 100,
            slack_ns: 0,
            attributes: Vec::new(),
        };
        let spans = vec![span(service, None), span(CLUSTER, Some([1; 8]))];
        self.conclude(Conclusion::CallTree(CallTree {
            trace_id: [7; 16],
            derived: false,
            spans,
            missing: 0,
        }));
    }

    fn alarm(&mut self, holds: bool, raised: bool) {
        const MIB: u64 = 1 << 20;
        self.conclude(Conclusion::Alarm(Alarm {
            key: "7 NOSPACE 1".to_owned(),
            trouble: Trouble::NoSpace { db_size_bytes: Some(17 * MIB), quota_bytes: Some(16 * MIB) },
            raised,
            holds,
            since: self.at(),
            members: vec!["m1".to_owned()],
            sentence: "alarm NOSPACE of m1".to_owned(),
            ended: (!raised).then(|| "disarmed".to_owned()),
        }));
    }

    /// A reading of the node that `m1` and `m2` run on, with so much of its CPU time stolen so far.
    fn reading(&mut self, stolen_ms: u64) {
        let process = |name: &str| Process { role: Some(name.to_owned()), ..Process::default() };
        let idle_ns = (self.now_s * 1_000 - stolen_ms) * 1_000_000;
        let fact = HostFact {
            cpu: CpuTimes { idle_ns, steal_ns: stolen_ms * 1_000_000, ..CpuTimes::default() },
            memory_total_bytes: 10,
            memory_available_bytes: 5,
            processes: vec![process("m1"), process("m2")],
            ..HostFact::default()
        };
        self.see(Fact::Host(fact), Vec::new());
    }

    /// The evidence of the decision as it stands.
    fn evidence(&self) -> Evidence {
        let of_orders = |decision: &Arc<Decision>| decision.target == ORDERS;
        self.verdict.decisions().into_iter().find(of_orders).unwrap().evidence.clone()
    }

    /// The whole incident of a bad rollout, up to the burn.
    fn bad_rollout(&mut self, revision: &str) {
        self.rollout(ORDERS, revision, None);
        self.run(5);
        self.regression(true, None);
        self.call_tree(ORDERS, revision);
        self.burn(revision, true, true);
    }

    fn state(&self, target: &str) -> State {
        self.verdict.decisions().iter().find(|decision| decision.target == target).unwrap().state
    }

    fn rollbacks(&self) -> usize {
        let states: Vec<(String, State)> =
            self.told.iter().map(|decision| (decision.target.clone(), decision.state)).collect();
        let entered = |window: &[(String, State)]| window[0] != window[1] && window[1].1 == State::Rollback;
        let mut of_orders = states;
        of_orders.retain(|(target, _)| target != CLUSTER);
        of_orders.windows(2).filter(|window| entered(window)).count()
    }
}

#[test]
fn a_bad_rollout_is_put_back_and_passes_again() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    story.run(400);
    assert_eq!(story.state(ORDERS), State::Pass);
    story.bad_rollout("v2");
    assert_eq!(story.state(ORDERS), State::Rollback);
    let decision = story.told.last().unwrap();
    assert_eq!((decision.revision.as_str(), decision.epoch), ("v2", 2));
    assert!(decision.evidence.sentence.contains("put v1 back for v2"), "{}", decision.evidence.sentence);
    assert_eq!(decision.evidence.trace_ids.len(), 1);
    story.rollout(ORDERS, "v1", Some("v2"));
    story.run(5);
    assert_eq!(story.state(ORDERS), State::Rollback, "the burn goes on");
    story.burn("v2", false, true);
    story.regression(false, None);
    assert_eq!(story.state(ORDERS), State::Pass);
    let decision = story.verdict.decisions().into_iter().find(|one| one.target == ORDERS).unwrap();
    assert_eq!(
        (decision.revision.as_str(), decision.epoch),
        ("v2", 2),
        "it is v2's decision that is resolved"
    );
    assert_eq!(story.rollbacks(), 1);
}

#[test]
fn without_a_marker_nothing_is_put_back() {
    let mut story = Story::begin();
    story.regression(true, None);
    story.call_tree(ORDERS, "v2");
    story.burn("v2", true, true);
    story.run(5);
    assert_eq!(story.state(CLUSTER), State::Hold);
    assert_eq!(story.rollbacks(), 0);
}

#[test]
fn without_a_caller_that_leads_to_etcd_it_is_only_stopped() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v2", None);
    story.run(5);
    story.regression(true, None);
    story.call_tree("billing", "v9");
    story.burn("v2", true, true);
    assert_eq!(story.state(ORDERS), State::Hold);
    let decision = story.told.iter().rev().find(|one| one.target == ORDERS).unwrap();
    assert!(decision.evidence.sentence.contains("no caller"), "{}", decision.evidence.sentence);
}

#[test]
fn two_rollouts_that_fit_are_both_stopped() {
    let mut story = Story::begin();
    story.rollout("billing", "b7", None);
    story.run(5);
    story.bad_rollout("v2");
    assert_eq!(story.state(ORDERS), State::Hold);
    assert_eq!(story.state("billing"), State::Hold);
}

#[test]
fn trouble_that_began_before_the_rollout_is_not_its_fault() {
    let mut story = Story::begin();
    story.regression(true, None);
    story.run(5);
    story.rollout(ORDERS, "v2", None);
    story.call_tree(ORDERS, "v2");
    story.burn("v2", true, true);
    assert_eq!(story.state(ORDERS), State::Hold);
}

#[test]
fn trouble_that_begins_late_is_not_its_fault() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v2", None);
    story.run(301);
    story.regression(true, None);
    story.call_tree(ORDERS, "v2");
    story.burn("v2", true, true);
    assert_eq!(story.state(ORDERS), State::Hold);
}

#[test]
fn an_excused_burn_does_not_vote() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v2", None);
    story.run(25);
    story.call_tree(ORDERS, "v2");
    story.burn("v2", true, false);
    story.regression(true, Some("planned restart of m3"));
    story.run(2);
    assert_eq!(story.state(ORDERS), State::Pass);
}

#[test]
fn a_put_back_is_never_rolled_back() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    story.bad_rollout("v2");
    story.rollout(ORDERS, "v1", Some("v2"));
    story.burn("v2", false, true);
    story.regression(false, None);
    story.run(30);
    story.regression(true, None);
    story.call_tree(ORDERS, "v1");
    story.burn("v2", true, true);
    story.run(2);
    assert_eq!(story.state(ORDERS), State::Hold);
    assert_eq!(story.rollbacks(), 1);
}

#[test]
fn a_revision_has_one_signal_across_restarts_of_the_agent() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    story.bad_rollout("v2");
    story.burn("v2", false, true);
    story.regression(false, None);
    story.run(2_000);
    let state = postcard::to_stdvec(&story.verdict).unwrap();
    story.verdict = postcard::from_bytes(&state).unwrap();
    story.bad_rollout("v2");
    assert_eq!(story.state(ORDERS), State::Hold);
    assert_eq!(story.rollbacks(), 1);
}

#[test]
fn a_second_signal_for_a_target_waits_for_the_cool_down() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    story.bad_rollout("v2");
    story.rollout(ORDERS, "v1", Some("v2"));
    story.burn("v2", false, true);
    story.regression(false, None);
    story.run(60);
    story.bad_rollout("v3");
    assert_eq!(story.state(ORDERS), State::Hold);
    let decision = story.told.iter().rev().find(|one| one.target == ORDERS).unwrap();
    assert!(decision.evidence.cool_down.is_some());
    story.run(1_760);
    assert_eq!(story.state(ORDERS), State::Rollback, "v3 still burns, and its window is open");
}

#[test]
fn nobody_acts_on_a_signal_for_ever() {
    let mut story = Story::begin();
    story.bad_rollout("v2");
    assert_eq!(story.state(ORDERS), State::Rollback);
    story.run(601);
    assert_eq!(story.state(ORDERS), State::Hold);
}

#[test]
fn an_old_regression_does_not_clear_a_later_rollout() {
    let mut story = Story::begin();
    story.regression(true, None);
    story.run(700);
    story.rollout(ORDERS, "v2", None);
    story.run(5);
    story.call_tree(ORDERS, "v2");
    story.burn("v2", true, true);
    assert_eq!(story.state(ORDERS), State::Rollback);
}

#[test]
fn silence_is_not_a_pass() {
    let mut story = Story::begin();
    assert_eq!(story.state(CLUSTER), State::Pass);
    for _ in 0..61 {
        story.now_s += 1;
        story.see(Fact::Tick(Tick::default()), Vec::new());
    }
    assert_eq!(story.state(CLUSTER), State::Unknown);
    let refused =
        Probe { kind: ProbeKind::LinearizableRead, latency_ns: 1, outcome: ProbeOutcome::NotPermitted };
    story.see(Fact::Probe(refused), Vec::new());
    story.see(Fact::Tick(Tick::default()), Vec::new());
    assert_eq!(story.state(CLUSTER), State::Unknown, "not being permitted says nothing about etcd");
}

#[test]
fn a_page_tier_does_not_hold_a_recovery_back() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    story.bad_rollout("v2");
    story.tier(true);
    story.rollout(ORDERS, "v1", Some("v2"));
    story.burn("v2", false, true);
    story.regression(false, None);
    assert_eq!(story.state(ORDERS), State::Pass);
}

#[test]
fn a_dry_run_spends_nothing() {
    let mut story = Story::begin();
    story.verdict.configure(Config::default());
    story.rollout(ORDERS, "v1", None);
    story.bad_rollout("v2");
    assert_eq!(story.state(ORDERS), State::Rollback);
    story.burn("v2", false, true);
    story.regression(false, None);
    story.verdict.configure(Config { enforce: true, ..Config::default() });
    story.bad_rollout("v2");
    assert_eq!(story.state(ORDERS), State::Rollback);
}

#[test]
fn too_few_probes_are_not_a_pass() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v2", None);
    story.run(10);
    assert_eq!(story.state(ORDERS), State::Unknown);
    story.run(10);
    assert_eq!(story.state(ORDERS), State::Pass);
}

#[test]
fn an_alarm_holds_every_rollout_until_it_is_disarmed() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    story.run(400);
    story.alarm(true, true);
    assert_eq!((story.state(ORDERS), story.state(CLUSTER)), (State::Hold, State::Hold));
    let evidence = story.evidence();
    let sentence = "orders: start no further step, alarm NOSPACE of m1; its database has 17.0 MiB, its quota is 16.0 MiB";
    assert_eq!((evidence.sentence.as_str(), evidence.members), (sentence, vec!["m1".to_owned()]));
    assert_eq!(evidence.alarms.len(), 1);
    // Whatever a rollout does meanwhile, an older revision frees no space.
    story.bad_rollout("v2");
    assert_eq!((story.state(ORDERS), story.rollbacks()), (State::Hold, 0));
    story.alarm(true, false);
    assert_eq!((story.state(ORDERS), story.rollbacks()), (State::Rollback, 1), "v2 still burns");
    story.alarm(true, true);
    assert_eq!(story.state(ORDERS), State::Hold, "a signal that is out is taken back");
    story.burn("v2", false, true);
    story.regression(false, None);
    story.alarm(true, false);
    assert_eq!((story.state(ORDERS), story.state(CLUSTER)), (State::Unknown, State::Pass));
    story.run(20);
    assert_eq!(story.state(ORDERS), State::Pass);
}

#[test]
fn versions_one_release_apart_hold_nothing() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    story.run(30);
    story.alarm(false, true);
    assert_eq!(story.state(ORDERS), State::Pass);
    assert_eq!(story.evidence().alarms.len(), 1, "it is told all the same");
}

/// A bad rollout of members here and elsewhere; from its onset on the hypervisor takes so much of each second.
fn stolen(each_s_ms: u64) -> Evidence {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    let mut taken_ms = 0;
    for second in 0..60 {
        if second == 30 {
            story.bad_rollout("v2");
        }
        taken_ms += if second < 31 { 2 } else { each_s_ms };
        story.run(1);
        story.reading(taken_ms);
    }
    story.run(1);
    assert_eq!(story.state(ORDERS), State::Rollback, "the node explains, it does not vote");
    story.evidence()
}

#[test]
fn steal_that_comes_with_the_trouble_is_named_and_lowers_the_confidence() {
    let evidence = stolen(2);
    assert!(evidence.rivals.is_empty() && evidence.confidence == Confidence::High, "{evidence:#?}");
    assert!(evidence.excluded.contains(&"steal 0.2 % (0.2 % before)".to_owned()), "{evidence:#?}");
    let evidence = stolen(310);
    assert_eq!((evidence.confidence, evidence.rivals.len()), (Confidence::Low, 1), "{evidence:#?}");
    let rival = "steal 31 % (0.2 % before)";
    assert_eq!(evidence.rivals, [rival]);
    let told = format!("the node may be the cause as well: {rival}");
    assert!(evidence.sentence.ends_with(&told), "{}", evidence.sentence);
}

#[test]
fn members_of_other_nodes_are_not_checked() {
    let mut story = Story::begin();
    story.rollout(ORDERS, "v1", None);
    story.bad_rollout("v2");
    let evidence = story.evidence();
    assert_eq!(evidence.confidence, Confidence::Medium);
    assert!(
        evidence.unchecked.contains(&"the nodes of m1: not this one".to_owned()),
        "{:?}",
        evidence.unchecked
    );
}

/// The change window compares with what was before the rollout, and a target that was bad then is bad again when it is over.
#[test]
fn a_burn_that_is_over_is_no_recovery_while_the_objective_is_missed() {
    let mut story = Story::begin();
    story.bad_rollout("v2");
    story.run_at(10, 900);
    story.regression(false, None);
    story.burn("v2", false, true);
    assert_eq!((story.state(ORDERS), story.state(CLUSTER)), (State::Unknown, State::Unknown));
    assert!(story.evidence().sentence.contains("write is missed by far"), "{}", story.evidence().sentence);
    assert_eq!(story.evidence().missed, ["write"]);
    story.run(80);
    assert_eq!((story.state(ORDERS), story.state(CLUSTER)), (State::Pass, State::Pass));
}

/// A page about older trouble is no onset either: what begins a quarter of an hour after a rollout is not of it.
#[test]
fn a_page_about_older_trouble_dates_nothing_to_a_rollout() {
    let mut story = Story::begin();
    story.run_at(30, 900);
    story.rollout(ORDERS, "v2", None);
    story.run_at(10, 900);
    story.tier(true);
    assert!(story.evidence().sentence.ends_with("that was so before this rollout"));
    story.run_at(900, 900);
    story.call_tree(ORDERS, "v2");
    story.burn("v2", true, true);
    assert_eq!((story.state(ORDERS), story.rollbacks()), (State::Hold, 0));
}

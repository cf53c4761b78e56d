//! Conclusions from records: pure logic. No clock, no I/O, no tokio, no `Result` on the way of a record, no randomness; time is a record.
//!
//! [`Engine::apply`] is the whole machine: the processors are its fields, called in order in one function.

pub mod alarms;
pub mod binomial;
pub mod detect;
pub mod diff;
pub mod excuse;
pub mod members;
pub mod node;
pub mod slo;
pub mod stitch;
#[cfg(test)]
mod story;
pub mod topology;
pub mod verdict;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use model::board::{Board, FINDINGS_MAX};
use model::finding::{Burn, CallTree, Conclusion, Finding, Lane, Outcome, Regression, Shape};
use model::origin::Origin;
use model::record::{Fact, Record};
use model::request::{Ask, Request};
use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

/// Regressions that open within so long of each other, without a rollout in between, are one event: the first asks for a
/// profile, and a second one after it would show the cure.
const ONE_EVENT_NS: u64 = 60 * SECOND_NS;

/// What all processors may be told. Travels as JSON in [`Fact::Config`]; holds no secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Objectives and lanes.
    pub slo: slo::Config,
    /// Baselines.
    pub detect: detect::Config,
    /// Decisions.
    pub verdict: verdict::Config,
}

/// All state that conclusions rest on. Serialisable: a snapshot and the records since give the same conclusions again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    config: Config,
    excuses: excuse::Excuses,
    members: members::Members,
    alarms: alarms::Alarms,
    node: node::Node,
    detect: detect::Detect,
    slo: slo::Slo,
    stitch: stitch::Stitch,
    topology: topology::Topology,
    diff: diff::Diff,
    verdict: verdict::Verdict,
    recent: VecDeque<Finding>,
    skipped: BTreeMap<String, u64>,
    marked_mono_ns: Option<u64>,
    last_finding: u64,
    last_request: u64,
    asked_at: Option<Stamp>,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Engine {
        Engine {
            excuses: excuse::Excuses::default(),
            members: members::Members::default(),
            alarms: alarms::Alarms::default(),
            node: node::Node::default(),
            detect: detect::Detect::new(&config.detect),
            slo: slo::Slo::new(&config.slo),
            stitch: stitch::Stitch::default(),
            topology: topology::Topology::default(),
            diff: diff::Diff::default(),
            verdict: verdict::Verdict::new(config.verdict.clone()),
            recent: VecDeque::new(),
            skipped: BTreeMap::new(),
            marked_mono_ns: None,
            last_finding: 0,
            last_request: 0,
            asked_at: None,
            config,
        }
    }

    /// Takes one record and says all that follows from it.
    pub fn apply(&mut self, record: &Record) -> Outcome {
        let mut outcome = Outcome::default();
        let mut conclusions = self.learn(record);
        outcome.findings = self.about_members(record);
        conclusions.extend(self.slo.observe(record, &self.excuses));
        let closed = self.stitch.observe(record);
        let trees: Vec<&CallTree> = closed.iter().filter_map(as_tree).collect();
        let edges = self.topology.observe(&trees, record);
        conclusions.extend(closed);
        conclusions.extend(edges);
        conclusions.extend(self.diff.observe(record));
        for conclusion in conclusions {
            outcome.findings.push(self.number(record.at, &record.origin, conclusion));
        }
        // Before the verdict weighs them, so that the evidence says that a profile is on its way.
        for finding in &outcome.findings {
            outcome.requests.extend(self.ask(record, finding));
        }
        let known = verdict::Known { excuses: &self.excuses, node: &self.node, slo: &self.slo };
        let judgement = self.verdict.observe(record, &outcome.findings, known);
        for transition in judgement.transitions {
            outcome.findings.push(self.number(record.at, &record.origin, transition));
        }
        outcome.decisions = judgement.decisions;
        self.remember(&outcome.findings);
        outcome
    }

    /// What a person or a tool is shown at this tick. Losses are the ledger's and are added by the caller.
    #[must_use]
    pub fn board(&self, at: Stamp) -> Board {
        Board {
            at,
            members: self.members.board(at),
            warnings: self.alarms.warnings(),
            excused: self.excuses.recent(),
            slos: self.slo.board(),
            decisions: self.verdict.decisions(),
            findings: self.recent.iter().cloned().collect(),
            losses: Vec::new(),
        }
    }

    /// Records or parts of records that a bound or a broken invariant made the engine skip, by reason.
    #[must_use]
    pub fn skipped(&self) -> Vec<(&'static str, u64)> {
        let mut skipped = vec![
            ("bad_config_record", self.skipped.values().sum()),
            ("call_trees", self.stitch.dropped()),
            ("edges_unsure", self.topology.unsure()),
            ("edges_without_room", self.topology.overflow()),
            ("verdict_targets", self.verdict.skipped()),
            ("alarms_without_room", self.alarms.skipped()),
            ("regressions_without_data", self.detect.silenced()),
        ];
        skipped.retain(|(_, count)| *count > 0);
        skipped
    }

    /// The decisions as they stand, e.g. after a restore.
    #[must_use]
    pub fn decisions(&self) -> Vec<Arc<model::verdict::Decision>> {
        self.verdict.decisions()
    }

    /// What another configuration ends is a conclusion too.
    fn learn(&mut self, record: &Record) -> Vec<Conclusion> {
        self.excuses.observe(record);
        self.members.observe(record);
        self.node.observe(record);
        match &record.fact {
            Fact::Config(json) => return self.configure(json),
            Fact::Mark(mark) if mark.kind == model::mark::MarkKind::Rollout && mark.rollback_of.is_none() => {
                self.marked_mono_ns = Some(record.at.mono_ns);
            }
            _ => {}
        }
        Vec::new()
    }

    fn configure(&mut self, json: &str) -> Vec<Conclusion> {
        match serde_json::from_str::<Config>(json) {
            Ok(config) => {
                self.detect.configure(&config.detect);
                let stopped = self.slo.configure(&config.slo);
                self.verdict.configure(config.verdict.clone());
                self.config = config;
                stopped
            }
            Err(_) => {
                debug_assert!(false, "the agent writes this record itself");
                *self.skipped.entry("bad_config_record".to_owned()).or_insert(0) += 1;
                Vec::new()
            }
        }
    }

    /// What is concluded of a member, under its own name: a tick may end what its own records began.
    fn about_members(&mut self, record: &Record) -> Vec<Finding> {
        let mut findings = Vec::new();
        for said in self.alarms.observe(record) {
            findings.push(self.number(record.at, &said.origin, Conclusion::Alarm(said.alarm)));
        }
        for told in self.detect.observe(record, &self.excuses) {
            let mut regression = told.regression;
            regression.node = self.node.check(&told.member, regression.onset);
            let is_other = !told.member.is_empty() && told.member != record.origin.member_name();
            let other = is_other.then(|| self.members.origin(&told.member)).flatten();
            let origin = other.unwrap_or_else(|| Arc::clone(&record.origin));
            findings.push(self.number(record.at, &origin, Conclusion::Regression(regression)));
        }
        findings
    }

    fn number(&mut self, at: Stamp, origin: &Arc<Origin>, conclusion: Conclusion) -> Finding {
        self.last_finding += 1;
        Finding { id: self.last_finding, at, origin: Arc::clone(origin), conclusion }
    }

    /// Trouble without a harmless cause wants a profile of the member it is at, once an event.
    fn ask(&mut self, record: &Record, finding: &Finding) -> Option<Request> {
        let (target, before_mono_ns) = match &finding.conclusion {
            Conclusion::Regression(regression) if wants_profile(regression) => {
                let onset = regression.onset.mono_ns;
                (record.origin.member_name(), self.marked_mono_ns.filter(|marked| *marked <= onset))
            }
            // Soon after a start there is no baseline of latency yet, and a burn comes without a regression.
            Conclusion::Burn(burn) if burn.firing && burn.votes => {
                let since = burn.since.mono_ns;
                (worst_member(burn)?, self.marked_mono_ns.filter(|marked| *marked >= since))
            }
            _ => return None,
        };
        let asked = self.asked_at.is_some_and(|asked| {
            record.at.since_ns(asked) < ONE_EVENT_NS
                && rollout_of(finding, before_mono_ns).is_none_or(|marked| marked <= asked.mono_ns)
        });
        if target.is_empty() || asked {
            return None;
        }
        self.asked_at = Some(record.at);
        self.last_request += 1;
        let ask = Ask::Capture { target: target.to_owned(), finding: finding.id, before_mono_ns };
        let request = Request { id: self.last_request, ask };
        self.diff.asked(&request);
        self.verdict.asked(&request);
        Some(request)
    }

    fn remember(&mut self, findings: &[Finding]) {
        for finding in findings {
            if !matches!(finding.conclusion, Conclusion::CallTree(_) | Conclusion::Edge(_)) {
                if self.recent.len() >= FINDINGS_MAX {
                    self.recent.pop_front();
                }
                self.recent.push_back(finding.clone());
            }
        }
    }
}

fn as_tree(conclusion: &Conclusion) -> Option<&CallTree> {
    match conclusion {
        Conclusion::CallTree(tree) => Some(tree),
        _ => None,
    }
}

fn wants_profile(regression: &Regression) -> bool {
    regression.open && regression.cause.is_none() && regression.shape == Shape::Step
}

/// The marker of the rollout that what wants a profile may come of.
fn rollout_of(finding: &Finding, before_mono_ns: Option<u64>) -> Option<u64> {
    match &finding.conclusion {
        Conclusion::Burn(burn) => matches!(burn.lane, Lane::Change { .. }).then_some(burn.since.mono_ns),
        _ => before_mono_ns,
    }
}

/// The member with the most bad events.
fn worst_member(burn: &Burn) -> Option<&str> {
    let bad = burn.members.iter().filter(|(_, bad, _)| *bad > 0);
    bad.max_by_key(|(_, bad, _)| *bad).map(|(name, ..)| name.as_str())
}

#[cfg(test)]
mod tests {
    use model::finding::{Conclusion, Lane};
    use model::mark::MarkKind;
    use model::probe::{ProbeKind, ProbeOutcome};
    use model::request::Ask;
    use model::verdict::State;

    use super::{Config, Engine, Record, SECOND_NS};
    use crate::slo::Objective;
    use crate::story::{Noise, drive, mark, put_back, slow_call};

    #[test]
    fn an_incident_that_is_over_leaves_nothing_open_at_any_member() {
        for seed in 1..=6 {
            let mut engine = Engine::new(Config::default());
            let mut noise = Noise::new(seed * 31);
            let mut answer = |at: f64, _: &str, _: ProbeKind| {
                let factor = if (300.0..360.0).contains(&at) { 25.0 } else { 1.0 };
                (noise.around(4.0 * factor, 0.3), ProbeOutcome::Ok)
            };
            drive(0..900, &mut answer, &mut |record| drop(engine.apply(record)));
            let states: Vec<State> = engine.decisions().iter().map(|decision| decision.state).collect();
            assert_eq!(states, [State::Pass], "seed {seed}");
        }
    }

    /// The demo's cluster: an engine at the demo's write limit that may signal, after so much clean history.
    struct Demo {
        engine: Engine,
        noise: Noise,
        quiet_s: u32,
        /// (second, what fired by then) of each rollback that was decided for the shop.
        rollbacks: Vec<(f64, Vec<Lane>)>,
        fired: Vec<Lane>,
    }

    impl Demo {
        fn after(quiet_s: u32) -> Demo {
            let mut config = Config::default();
            config.slo.write = Objective { target_ppm: 990_000, limit_ms: 32 };
            config.verdict.enforce = true;
            let engine = Engine::new(config);
            Demo { engine, noise: Noise::new(7), quiet_s, rollbacks: Vec::new(), fired: Vec::new() }
        }

        fn apply(&mut self, record: &Record) {
            let outcome = self.engine.apply(record);
            for finding in &outcome.findings {
                if let Conclusion::Burn(burn) = &finding.conclusion
                    && burn.firing
                    && burn.votes
                {
                    self.fired.push(burn.lane.clone());
                }
            }
            let rolls_back =
                outcome.decisions.iter().any(|one| one.target == "shop" && one.state == State::Rollback);
            if rolls_back {
                self.rollbacks.push((crate::binomial::to_f64(record.at.mono_ns) / 1e9, self.fired.clone()));
            }
        }

        /// Healthy until two seconds after the rollout, then LeaseGrant and LeaseRevoke 153 ms, linearizable reads 112 ms.
        fn run(&mut self, seconds: std::ops::Range<u32>) {
            let onset = f64::from(self.quiet_s + 2);
            let mut noise = std::mem::replace(&mut self.noise, Noise::new(1));
            let mut answer = |at: f64, _: &str, kind: ProbeKind| {
                let writes = matches!(kind, ProbeKind::LeaseGrant | ProbeKind::LeaseRevoke);
                let median = match (at < onset, writes) {
                    (true, _) => 5.0,
                    (false, true) => 77.0,
                    (false, false) => 112.0,
                };
                (noise.around(median, 0.4), ProbeOutcome::Ok)
            };
            drive(seconds, &mut answer, &mut |record| self.apply(record));
            self.noise = noise;
        }
    }

    fn check_signal(quiet_s: u32) {
        let mut demo = Demo::after(quiet_s);
        demo.run(0..quiet_s);
        demo.apply(&mark(f64::from(quiet_s), "shop", "v2", MarkKind::Rollout));
        for (now, number) in (quiet_s..quiet_s + 40).zip(1..) {
            demo.run(now..now + 1);
            if now > quiet_s + 2 {
                demo.apply(&slow_call(f64::from(now) + 0.9995, "shop", "v2", number));
            }
        }
        let (at, fired) = demo.rollbacks.first().expect("a rollback");
        let after_s = at - f64::from(quiet_s + 2);
        assert!((0.0..=30.0).contains(&after_s), "after {quiet_s} s of history: signalled after {after_s} s");
        assert!(
            fired.iter().all(|lane| matches!(lane, Lane::Change { .. })),
            "an hour's tier is slower: {fired:?}"
        );
        println!("after {quiet_s} s of clean history: rollback {after_s:.1} s after the onset");
    }

    #[test]
    fn a_burn_before_any_latency_is_learnt_is_profiled_too() {
        let mut demo = Demo::after(8);
        let mut captures = Vec::new();
        demo.run(0..8);
        demo.apply(&mark(8.0, "shop", "v2", MarkKind::Rollout));
        let mut noise = Noise::new(3);
        let mut answer = |_: f64, member: &str, _: ProbeKind| {
            (noise.around(if member == "m2" { 200.0 } else { 5.0 }, 0.2), ProbeOutcome::Ok)
        };
        drive(8..60, &mut answer, &mut |record| {
            let outcome = demo.engine.apply(record);
            let is_learnt =
                outcome.findings.iter().any(|found| matches!(found.conclusion, Conclusion::Regression(_)));
            captures.extend(outcome.requests.into_iter().map(|request| (request.ask, is_learnt)));
        });
        let [(Ask::Capture { target, before_mono_ns, .. }, is_learnt)] = captures.as_slice() else {
            panic!("one capture: {captures:?}")
        };
        assert_eq!((target.as_str(), *is_learnt), ("m2", false), "the burn asked, of the member that is bad");
        assert_eq!(*before_mono_ns, Some(8_000_000_000), "compared with what was before the rollout");
    }

    /// Writes are slow everywhere for 14 s, and from 37 s on at m2; what happens at 35 s; (second, baseline before) of each
    /// capture that is asked for in a minute.
    fn captures_around(between: &Record) -> Vec<(u64, Option<u64>)> {
        let mut demo = Demo::after(8);
        let mut noise = Noise::new(3);
        let mut answer = |at: f64, member: &str, _: ProbeKind| {
            let is_bad = at < 14.0 || (member == "m2" && at >= 37.0);
            (noise.around(if is_bad { 200.0 } else { 5.0 }, 0.2), ProbeOutcome::Ok)
        };
        let mut captures = Vec::new();
        let mut feed = |record: &Record| {
            for request in demo.engine.apply(record).requests {
                let Ask::Capture { before_mono_ns, .. } = request.ask;
                let second = |ns: u64| ns / SECOND_NS;
                captures.push((second(record.at.mono_ns), before_mono_ns.map(second)));
            }
        };
        feed(&mark(0.5, "shop", "v1", MarkKind::Rollout));
        drive(1..35, &mut answer, &mut feed);
        feed(between);
        drive(35..60, &mut answer, &mut feed);
        captures
    }

    #[test]
    fn a_rollout_soon_after_other_trouble_is_an_event_of_its_own() {
        let captures = captures_around(&mark(35.0, "shop", "v2", MarkKind::Rollout));
        let [(first, _), (second, before)] = captures.as_slice() else {
            panic!("two captures: {captures:?}")
        };
        assert!((1..14).contains(first) && (37..60).contains(second), "{captures:?}");
        assert_eq!(*before, Some(35), "compared with what was before v2");
    }

    #[test]
    fn a_rollout_that_is_put_back_is_the_same_event() {
        let captures = captures_around(&put_back(35.0, "shop", "v0", "v1"));
        assert_eq!(captures.len(), 1, "{captures:?}");
    }

    /// States of the shop, as they are decided, while its v2 calls etcd and all answers are late where `bad` says so.
    fn shop_states(
        demo: &mut Demo,
        seconds: std::ops::Range<u32>,
        bad: impl Fn(f64) -> bool,
    ) -> Vec<(u64, State)> {
        let mut noise = Noise::new(5);
        let mut answer = |at: f64, _: &str, _: ProbeKind| {
            (noise.around(if bad(at) { 200.0 } else { 5.0 }, 0.2), ProbeOutcome::Ok)
        };
        let mut states = Vec::new();
        for (now, number) in seconds.zip((1..=u8::MAX).cycle()) {
            drive(now..now + 1, &mut answer, &mut |record| {
                let decisions = demo.engine.apply(record).decisions;
                let of_shop = decisions.iter().filter(|decision| decision.target == "shop");
                states.extend(of_shop.map(|decision| (record.at.mono_ns / SECOND_NS, decision.state)));
            });
            demo.apply(&slow_call(f64::from(now) + 0.9995, "shop", "v2", number));
        }
        states
    }

    #[test]
    fn a_rollout_into_trouble_that_was_there_neither_passes_nor_is_put_back() {
        let mut demo = Demo::after(0);
        shop_states(&mut demo, 1..240, |_| true);
        demo.apply(&mark(240.0, "shop", "v2", MarkKind::Rollout));
        let states = shop_states(&mut demo, 240..900, |_| true);
        let is_held = |(_, state): &(u64, State)| *state == State::Hold;
        let (unknown, held) = states.split_at(states.iter().position(is_held).expect("the page holds it"));
        assert!(unknown.iter().all(|(_, state)| *state == State::Unknown), "{states:?}");
        assert!(held.iter().all(is_held), "{states:?}");
        let decisions = demo.engine.decisions();
        let sentence = |target: &str| {
            let of = decisions.iter().find(|decision| decision.target == target);
            of.expect("a decision").evidence.sentence.clone()
        };
        assert!(sentence("shop").ends_with("that was so before this rollout"), "{}", sentence("shop"));
    }

    #[test]
    fn a_page_that_outlives_older_trouble_puts_nothing_back() {
        let mut demo = Demo::after(0);
        shop_states(&mut demo, 1..240, |_| true);
        demo.apply(&mark(240.0, "shop", "v2", MarkKind::Rollout));
        let states = shop_states(&mut demo, 240..1_200, |at| at < 560.0);
        assert!(states.iter().any(|(second, state)| *second > 560 && *state == State::Hold), "{states:?}");
        assert!(states.iter().all(|(_, state)| *state != State::Rollback), "{states:?}");
        assert!(states.last().is_some_and(|(_, state)| *state == State::Pass), "{states:?}");
    }

    #[test]
    fn a_clean_time_before_older_trouble_does_not_make_it_the_rollouts() {
        let mut demo = Demo::after(0);
        shop_states(&mut demo, 1..1_500, |at| at > 800.0);
        demo.apply(&mark(1_500.0, "shop", "v2", MarkKind::Rollout));
        let states = shop_states(&mut demo, 1_500..1_900, |_| true);
        assert!(states.iter().all(|(_, state)| *state == State::Hold), "{states:?}");
    }

    #[test]
    fn what_was_put_back_passes_once_it_is_calm_and_not_before() {
        let mut demo = Demo::after(0);
        shop_states(&mut demo, 1..60, |_| false);
        demo.apply(&mark(60.0, "shop", "v2", MarkKind::Rollout));
        let states = shop_states(&mut demo, 60..80, |at| at > 62.0);
        assert!(states.iter().any(|(_, state)| *state == State::Rollback), "{states:?}");
        demo.apply(&put_back(80.0, "shop", "v1", "v2"));
        let states = shop_states(&mut demo, 80..180, |at| at < 110.0);
        let passed = states.iter().find(|(_, state)| *state == State::Pass).expect("recovered");
        assert!((125..=145).contains(&passed.0), "{states:?}");
        // And where the put-back ends it, as soon as its window says so: nothing is unknown in between.
        demo.apply(&mark(180.0, "shop", "v3", MarkKind::Rollout));
        shop_states(&mut demo, 180..220, |at| at > 182.0);
        demo.apply(&put_back(220.0, "shop", "v1", "v3"));
        let states = shop_states(&mut demo, 220..280, |_| false);
        assert!(states.iter().all(|(_, state)| *state != State::Unknown), "{states:?}");
        let passed = states.iter().find(|(_, state)| *state == State::Pass).expect("recovered");
        assert!((235..=245).contains(&passed.0), "{states:?}");
    }

    #[test]
    fn the_demos_incident_is_signalled_in_seconds_after_a_minute_and_after_an_hour_of_clean_history() {
        check_signal(60);
        check_signal(3_600);
    }
}

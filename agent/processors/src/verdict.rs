//! One decision a target: burn and regressions weighed against the rollout that may explain them.
//!
//! Owns the state machine and the only place where [`Evidence`] is assembled. Refuses to decide on less than it names:
//! what is missing makes `unknown`, what is not linked to the target makes `hold`, and only a rollout marker that fits in
//! time, place and caller makes `rollback`. While an alarm of the members stands there is only `hold`: an older revision
//! frees no space and mends no data. The profile diff explains; it does not vote.

mod blame;
mod evidence;
mod notes;
mod rivals;
mod target;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use model::finding::{Alarm, Burn, Conclusion, Finding, Regression, Shape, Verdict as Transition};
use model::mark::{Mark, MarkKind};
use model::record::{Fact, Record};
use model::request::{Ask, Request};
use model::time::{SECOND_NS, Stamp};
use model::verdict::{Decision, ProfileState, State};
use serde::{Deserialize, Serialize};

use self::target::Judged;
use crate::excuse::Excuses;
use crate::node::Node;
use crate::slo::{self, Missed, Slo};

/// Target of the decision about the cluster as a whole, which no marker can arm.
pub const CLUSTER: &str = "etcd";

/// Targets judged at once: a node has a handful of rollouts in half an hour, and each costs a few kilobytes.
const TARGETS_MAX: usize = 64;
/// Call trees remembered as links from callers to etcd: a minute of the stitcher's full rate.
const LINKS_MAX: usize = 512;
/// (target, revision) pairs that have had their one signal; far more than rollouts in a month.
const SIGNALLED_MAX: usize = 1_024;
/// Probes since the marker below which `pass` would be a guess.
const PROBES_ENOUGH: u64 = 20;
/// Without an answer or a failure for so long, nothing is known any more.
const SILENT_NS: u64 = 60 * SECOND_NS;

/// What the verdict may be told. Seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Whether receivers may act. Off: decisions are written down and told, never sent as effects.
    pub enforce: bool,
    /// A rollout explains trouble that begins at most this long after it.
    pub onset_max_s: u64,
    /// A rollout is judged for this long.
    pub window_s: u64,
    /// A rollback decision may be acted upon for this long.
    pub valid_s: u64,
    /// After a rollback signal for a target, the next one for the same target waits this long.
    pub cool_down_s: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config { enforce: false, onset_max_s: 300, window_s: 1_800, valid_s: 600, cool_down_s: 1_800 }
    }
}

/// The weighing state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    config: Config,
    targets: BTreeMap<String, Judged>,
    burning: BTreeMap<String, Firing>,
    regressed: BTreeMap<String, Opened>,
    /// Alarms that stand, by their key.
    alarms: BTreeMap<String, Alarm>,
    links: VecDeque<Link>,
    profiles: BTreeMap<String, ProfileState>,
    captures: BTreeMap<u64, String>,
    signalled: VecDeque<Signalled>,
    probes: u64,
    last_probe: Option<Stamp>,
    harmless: Option<String>,
    /// Objectives that are missed by far; looked up at each tick.
    #[serde(skip)]
    missed: Vec<Missed>,
    /// Members that run on the agent's own node.
    here: BTreeSet<String>,
    skipped: u64,
}

/// A burn that fires, and since when.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Firing {
    burn: Burn,
    at: Stamp,
    /// Since when its objective was missed by far while it fired.
    missed_since: Option<Stamp>,
}

/// An open regression and the member it was seen at.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Opened {
    regression: Regression,
    member: String,
}

/// A call tree that leads from a service to etcd.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Link {
    at: Stamp,
    service: String,
    revision: Option<String>,
    trace_id: String,
    duration_ns: u64,
}

/// One spent signal: at most one a (target, revision), across restarts of the agent too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Signalled {
    target: String,
    revision: String,
    at_wall_ns: u64,
}

/// What else is known at a record, all of which must have seen it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Harmless causes.
    pub excuses: &'a Excuses,
    /// The agent's own node.
    pub node: &'a Node,
    /// The objectives.
    pub slo: &'a Slo,
}

/// What one record did to the decisions.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Decisions whose state, revision, evidence or validity changed.
    pub decisions: Vec<Arc<Decision>>,
    /// Changes of state, as conclusions.
    pub transitions: Vec<Conclusion>,
}

impl Verdict {
    /// Nothing known yet.
    #[must_use]
    pub fn new(config: Config) -> Verdict {
        Verdict { config, ..Verdict::default() }
    }

    /// Takes a new configuration; what was decided stands.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
    }

    /// The decisions as they stand.
    #[must_use]
    pub fn decisions(&self) -> Vec<Arc<Decision>> {
        self.targets.values().filter_map(|judged| judged.decision.clone()).collect()
    }

    /// Records that could not be weighed because a bound was reached.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Notes a capture that was asked for, so that its diff finds the way back to the evidence.
    pub fn asked(&mut self, request: &Request) {
        let Ask::Capture { target, .. } = &request.ask;
        self.captures.insert(request.id, target.clone());
        self.profiles.insert(target.clone(), ProfileState::Running);
        while self.captures.len() > TARGETS_MAX {
            self.captures.pop_first();
        }
    }

    /// Weighs one record and what was concluded from it; judges on ticks.
    pub fn observe(&mut self, record: &Record, findings: &[Finding], known: Known<'_>) -> Judgement {
        match &record.fact {
            Fact::Mark(mark) => self.mark(mark, record.at),
            Fact::Probe(probe) if slo::is_data(&probe.outcome) => self.probe(record.at),
            _ => {}
        }
        for finding in findings {
            self.note(finding);
        }
        match record.fact {
            Fact::Tick(_) => {
                self.harmless = known.excuses.cause(record.at);
                self.missed = known.slo.missed().collect();
                self.date_burns();
                self.targets.entry(CLUSTER.to_owned()).or_default();
                self.look_at(known.node, record.at);
                self.judge(record.at)
            }
            _ => Judgement::default(),
        }
    }

    fn probe(&mut self, at: Stamp) {
        self.last_probe = Some(at);
        self.probes = self.probes.saturating_add(1);
        for judged in self.targets.values_mut() {
            judged.probes = judged.probes.saturating_add(1);
        }
    }

    fn mark(&mut self, mark: &Mark, at: Stamp) {
        if mark.kind != MarkKind::Rollout {
            return;
        }
        if self.targets.len() >= TARGETS_MAX && !self.targets.contains_key(&mark.target) {
            self.skipped += 1;
            return;
        }
        if mark.rollback_of.is_none() {
            // What was profiled before explains nothing that comes from here on.
            self.profiles.clear();
        }
        let judged = self.targets.entry(mark.target.clone()).or_default();
        judged.mark(mark, at);
    }

    fn judge(&mut self, now: Stamp) -> Judgement {
        let fitting = self.fitting(now);
        let names: Vec<String> = self.targets.keys().cloned().collect();
        let mut judgement = Judgement::default();
        for name in names {
            let state = self.weigh(&name, &fitting, now);
            self.settle(&name, state, now, &mut judgement);
        }
        judgement
    }

    fn is_silent(&self, now: Stamp) -> bool {
        self.last_probe.is_none_or(|last| now.since_ns(last) > SILENT_NS)
    }

    fn voting_burns(&self) -> impl Iterator<Item = &Firing> {
        self.burning.values().filter(|firing| firing.burn.votes)
    }

    fn voting_regressions(&self) -> impl Iterator<Item = &Opened> {
        self.regressed
            .values()
            .filter(|opened| opened.regression.cause.is_none() && opened.regression.shape == Shape::Step)
    }

    /// Alarms that let nothing begin.
    fn holding(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.values().filter(|alarm| alarm.holds)
    }

    fn weigh(&self, name: &str, fitting: &[String], now: Stamp) -> State {
        let Some(judged) = self.targets.get(name) else { return State::Unknown };
        // A signal that is out is taken back too: what it asks for cannot help while the cluster refuses writes or differs.
        if self.holding().next().is_some() {
            return State::Hold;
        }
        if name == CLUSTER {
            return self.weigh_cluster(now);
        }
        if judged.state == State::Rollback {
            return self.weigh_signalled(name, judged, now);
        }
        let burns = self.burns_against(name, judged);
        // Only an armed target can fit.
        let fits = fitting.iter().any(|fit| fit == name);
        if fits && burns.iter().any(|firing| !Verdict::is_older(firing, judged)) {
            let linked = !self.links_from(name, judged).is_empty();
            let alone = fitting.len() == 1;
            let free = !self.spent(name, &judged.revision) && self.cooling(name, now).is_none();
            return if linked && alone && free { State::Rollback } else { State::Hold };
        }
        if !burns.is_empty() || self.voting_regressions().next().is_some() {
            return State::Hold;
        }
        if self.is_silent(now) || !self.missed.is_empty() {
            return State::Unknown;
        }
        // What has passed stays so until something is wrong: a put-back alone is no reason to know less.
        if judged.probes >= PROBES_ENOUGH || judged.state == State::Pass {
            State::Pass
        } else {
            State::Unknown
        }
    }

    fn weigh_cluster(&self, now: Stamp) -> State {
        if self.voting_burns().next().is_some() || self.voting_regressions().next().is_some() {
            State::Hold
        } else if self.probes >= PROBES_ENOUGH && !self.is_silent(now) && self.missed.is_empty() {
            State::Pass
        } else {
            State::Unknown
        }
    }

    /// A sent rollback stands until the burn that caused it has stopped, or nobody acted on it in time.
    fn weigh_signalled(&self, name: &str, judged: &Judged, now: Stamp) -> State {
        if self.burns_against(name, judged).is_empty() {
            if self.missed.is_empty() { State::Pass } else { State::Unknown }
        } else if now.since_ns(judged.since) > self.config.valid_s * SECOND_NS {
            State::Hold
        } else {
            State::Rollback
        }
    }

    fn spent(&self, name: &str, revision: &str) -> bool {
        self.signalled.iter().any(|spent| spent.target == name && spent.revision == revision)
    }

    fn cooling(&self, name: &str, now: Stamp) -> Option<u64> {
        let cool_down_ns = self.config.cool_down_s * SECOND_NS;
        self.signalled
            .iter()
            .filter(|spent| spent.target == name)
            .map(|spent| spent.at_wall_ns.saturating_add(cool_down_ns))
            .filter(|until| *until > now.wall_ns)
            .max()
            .map(|until| (until - now.wall_ns) / SECOND_NS)
    }

    /// Writes the state down and tells of it when anything that matters has changed.
    fn settle(&mut self, name: &str, state: State, now: Stamp, judgement: &mut Judgement) {
        let Some(judged) = self.targets.get(name) else { return };
        let before = judged.decision.clone();
        let moved = before.as_ref().is_none_or(|decision| decision.state != state);
        let since = if moved { now } else { judged.since };
        let decision = self.decide(name, state, since, now);
        if before.as_ref().is_some_and(|known| same(known, &decision)) {
            return;
        }
        let decision = Arc::new(decision);
        // A dry run spends nothing: the first real signal must still leave.
        if moved && state == State::Rollback && self.config.enforce {
            self.spend(name, now);
        }
        if let Some(judged) = self.targets.get_mut(name) {
            judged.state = state;
            judged.since = since;
            judged.decision = Some(Arc::clone(&decision));
        }
        if moved {
            let from = before.map(|decision| decision.state);
            let transition = Transition { from, decision: Arc::clone(&decision) };
            judgement.transitions.push(Conclusion::Verdict(transition));
        }
        judgement.decisions.push(decision);
    }

    fn spend(&mut self, name: &str, now: Stamp) {
        let Some(judged) = self.targets.get(name) else { return };
        if self.signalled.len() >= SIGNALLED_MAX {
            self.signalled.pop_front();
        }
        self.signalled.push_back(Signalled {
            target: name.to_owned(),
            revision: judged.revision.clone(),
            at_wall_ns: now.wall_ns,
        });
    }
}

/// Equal but for counts that move on while the state stands: those alone are not worth a new decision.
fn same(known: &Decision, new: &Decision) -> bool {
    known.state == new.state
        && known.epoch == new.epoch
        && known.revision == new.revision
        && known.dry_run == new.dry_run
        && known.evidence.profile == new.evidence.profile
        && known.evidence.burn.len() == new.evidence.burn.len()
        && known.evidence.regressions.len() == new.evidence.regressions.len()
        && known.evidence.alarms.len() == new.evidence.alarms.len()
        && known.evidence.confidence == new.evidence.confidence
        // Their figures settle within a few readings of the onset.
        && known.evidence.rivals == new.evidence.rivals
        && (known.evidence.trace_ids.is_empty() == new.evidence.trace_ids.is_empty())
        && known.evidence.missed == new.evidence.missed
}

#[cfg(test)]
mod tests;

//! The change window: from a rollout's marker, at most 30 minutes, a test that needs no hour of history.
//!
//! Owns which rollouts are open, when their lane fires and when it is over. One window a target, so that two rollouts
//! at once are both heard. A put-back arms nothing: it ends the window of what it replaces.

use std::collections::BTreeMap;

use model::finding::{Burn, Conclusion, Lane};
use model::mark::{Mark, MarkKind};
use serde::{Deserialize, Serialize};

use super::burn::{P_MAX, Phase};
use super::series::{Context, Series};
use super::window::Counts;
use super::{Name, Slo};
use crate::binomial;
use crate::excuse::Excuses;

/// A rollout is no explanation for what begins later.
const WINDOW_S: u64 = 1800;

/// A lane that fired is watched on for so long, over the hour that is kept by seconds.
const WATCHED_S: u64 = 3600;

/// What was usual before a rollout is told by the hour before it.
const HOUR_S: u64 = 3600;

/// Bad events below this are an accident.
pub(super) const BAD_MIN: u64 = 5;

/// Burn since the marker and over its last third.
const FACTOR: f64 = 14.4;

/// Probes after a put-back before anything can pass again.
const PROBES_MIN: u64 = 20;

/// None failing the test for so long after a put-back.
pub(super) const CALM_S: u64 = 15;

/// Without a put-back nobody says that the cause is gone: the lane waits longer.
pub(super) const CALM_ALONE_S: u64 = 60;

/// While the lane waits for calm, so little evidence of badness is enough to wait on.
const P_RESTLESS: f64 = 1e-2;

/// Windows open at once; more rollouts in half an hour than this close the oldest.
const CHANGES_MAX: usize = 4;

/// One rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) target: String,
    pub(super) revision: String,
    since: u64,
    put_back: Option<u64>,
    lanes: BTreeMap<Name, ChangeLane>,
}

/// One objective in one rollout's window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct ChangeLane {
    phase: Phase,
    /// The hour before the marker, or what of it was missed by far up to that.
    before: Counts,
    /// First second since which nothing failed.
    calm_since: Option<u64>,
}

impl Change {
    pub(super) fn phase(&self, name: Name) -> Phase {
        self.lanes.get(&name).map_or(Phase::Off, |lane| lane.phase)
    }

    fn fires(&self) -> bool {
        self.lanes.values().any(|lane| lane.phase.fires())
    }

    fn lane(&self) -> Lane {
        Lane::Change { target: self.target.clone(), revision: self.revision.clone() }
    }
}

impl Slo {
    /// Opens, or ends, a change window.
    pub(super) fn mark(&mut self, second: u64, mark: &Mark) -> Vec<Conclusion> {
        if mark.kind != MarkKind::Rollout {
            return Vec::new();
        }
        if mark.rollback_of.is_some() {
            for change in self.changes.iter_mut().filter(|change| change.target == mark.target) {
                change.put_back.get_or_insert(second);
                let blamed = |series: &&mut Series| change.phase(series.name).fires();
                self.series.iter_mut().filter(blamed).for_each(|series| series.miss.put_back(second));
            }
            self.changes.retain(|change| change.put_back.is_none() || change.fires());
            return Vec::new();
        }
        let again = |change: &Change| {
            change.target == mark.target && change.revision == mark.revision && change.put_back.is_none()
        };
        if self.changes.iter().any(again) {
            return Vec::new();
        }
        let mut stopped = self.close(|change| change.target == mark.target);
        if self.changes.len() >= CHANGES_MAX {
            let oldest = self.changes.iter().map(|change| change.since).min();
            stopped.extend(self.close(|change| Some(change.since) == oldest));
        }
        let hour = second.saturating_sub(HOUR_S);
        let lane = |series: &Series| {
            // What is missed by far already is compared with what it is since then, not with the good time before.
            let from = series.miss.since.map_or(hour, |since| since.max(hour));
            (series.name, ChangeLane { before: series.history.sum(from, second), ..ChangeLane::default() })
        };
        self.changes.push(Change {
            target: mark.target.clone(),
            revision: mark.revision.clone(),
            since: second,
            put_back: None,
            lanes: self.series.iter().map(lane).collect(),
        });
        stopped
    }

    /// Ends windows, and says so where they fired.
    fn close(&mut self, which: impl Fn(&Change) -> bool) -> Vec<Conclusion> {
        let mut stopped = Vec::new();
        for change in self.changes.iter().filter(|change| which(change)) {
            for series in self.series.iter().filter(|series| change.phase(series.name).fires()) {
                stopped.push(self.stop(change, series));
            }
        }
        self.changes.retain(|change| !which(change));
        stopped
    }

    fn stop(&self, change: &Change, series: &Series) -> Conclusion {
        let to = self.now + 1;
        let length = to.saturating_sub(change.since);
        let weighed = series.weigh_plainly((length, length, to));
        Conclusion::Burn(series.burn(change.lane(), Phase::Off, &weighed, &self.timeline))
    }

    /// Begins the lanes of some objectives anew in every window, and says so where they fired.
    pub(super) fn stop_lanes(&mut self, names: &[Name]) -> Vec<Conclusion> {
        let mut stopped = Vec::new();
        for change in &self.changes {
            let fires = |series: &&Series| names.contains(&series.name) && change.phase(series.name).fires();
            stopped.extend(self.series.iter().filter(fires).map(|series| self.stop(change, series)));
        }
        for change in &mut self.changes {
            for (_, lane) in change.lanes.iter_mut().filter(|(name, _)| names.contains(name)) {
                *lane = ChangeLane::default();
            }
        }
        stopped
    }

    /// Judges each objective in each open window.
    pub(super) fn judge_changes(&mut self, judged: &[Name], excuses: &Excuses) -> Vec<Conclusion> {
        let now = self.now;
        let context = Context { timeline: &self.timeline, excuses };
        let mut conclusions = Vec::new();
        for change in &mut self.changes {
            let probes = self
                .series
                .iter()
                .find(|series| series.name == Name::Availability)
                .map_or(0, |series| series.history.sum(change.put_back.unwrap_or(now), now + 1).total);
            let scope = Scope {
                lane: change.lane(),
                since: change.since.max((now + 1).saturating_sub(WATCHED_S)),
                open: change.put_back.is_none() && now.saturating_sub(change.since) <= WINDOW_S,
                put_back: change.put_back,
                probes,
                now,
            };
            for series in &mut self.series {
                let Some(lane) = change.lanes.get_mut(&series.name) else { continue };
                let is_judged = judged.contains(&series.name);
                let burn = lane.judge(series, &scope, is_judged, context);
                conclusions.extend(burn.map(Conclusion::Burn));
            }
        }
        self.changes.retain(|change| {
            change.fires() || (change.put_back.is_none() && now.saturating_sub(change.since) <= WINDOW_S)
        });
        conclusions
    }
}

/// What all objectives of one window share.
struct Scope {
    lane: Lane,
    since: u64,
    /// The lane may start to fire.
    open: bool,
    put_back: Option<u64>,
    probes: u64,
    now: u64,
}

impl ChangeLane {
    fn judge(
        &mut self,
        series: &mut Series,
        scope: &Scope,
        judged: bool,
        context: Context<'_>,
    ) -> Option<Burn> {
        let to = scope.now + 1;
        let before = self.phase;
        if !before.fires() && (!judged || !scope.open || series.history.sum(scope.since, to).bad < BAD_MIN) {
            return None;
        }
        let length = to.saturating_sub(scope.since);
        let weighed = series.weigh((length, (length / 3).max(1), to), context);
        let budget = series.objective.budget();
        let allowed = budget.max(self.before.ratio().unwrap_or(0.0));
        let found = if scope.open && judged {
            Phase::of(&weighed, |long, short| fires(budget, allowed, long, short))
        } else {
            Phase::Off
        };
        let restless = self.is_restless(series, scope, allowed, context);
        self.phase = match (before, found) {
            _ if !judged => Phase::Off,
            // What fired stays until it is calm, but what turns out excused stops voting at once.
            (_, Phase::On | Phase::Excused) => found,
            (Phase::On | Phase::Excused, Phase::Off) if restless => before,
            (_, Phase::Off) => Phase::Off,
        };
        (self.phase != before)
            .then(|| series.burn(scope.lane.clone(), self.phase, &weighed, context.timeline))
    }

    /// Whether a lane that fired must go on: something failed lately, or too little was asked since the put-back.
    fn is_restless(
        &mut self,
        series: &mut Series,
        scope: &Scope,
        allowed: f64,
        context: Context<'_>,
    ) -> bool {
        let from = (scope.now + 1).saturating_sub(CALM_S).max(scope.put_back.unwrap_or(0));
        if series.is_failing((from, scope.now + 1), allowed, context) != Some(false) {
            self.calm_since = None;
            return true;
        }
        let calm = scope.now - *self.calm_since.get_or_insert(scope.now);
        match scope.put_back {
            Some(_) => calm < CALM_S || scope.probes < PROBES_MIN,
            None => calm < CALM_ALONE_S,
        }
    }
}

impl Series {
    /// Whether something failed, by more than chance would have it; `None` where nothing was asked.
    pub(super) fn is_failing(
        &mut self,
        (from, to): (u64, u64),
        allowed: f64,
        context: Context<'_>,
    ) -> Option<bool> {
        let counts = self.history.sum(from, to);
        let voting = counts.without(self.excused_in(from, to, context));
        let is_failing = voting.bad > 0 && binomial::tail(voting.total, voting.bad, allowed) <= P_RESTLESS;
        (counts.total > 0).then_some(is_failing)
    }
}

/// Enough, much more than the budget, still going on, and not by chance.
pub(super) fn fires(budget: f64, allowed: f64, long: Counts, short: Counts) -> bool {
    let (Some(long_ratio), Some(short_ratio)) = (long.ratio(), short.ratio()) else { return false };
    long.bad >= BAD_MIN
        && long_ratio / budget > FACTOR
        && short_ratio / budget > FACTOR
        && binomial::tail(long.total, long.bad, allowed) <= P_MAX
}

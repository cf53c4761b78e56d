//! Puts the evidence of one decision together: the sentence, the scope, what was excluded, what was not checked.

use model::finding::{Burn, Lane, Regression};
use model::time::{SECOND_NS, Stamp};
use model::verdict::{Decision, Evidence, ProfileState, State};

use super::target::Judged;
use super::{CLUSTER, PROBES_ENOUGH, SILENT_NS, Verdict};
use crate::alarms::figures;

/// Regressions, burns and alarms quoted in one piece of evidence: a person reads a handful.
const QUOTED_MAX: usize = 8;
/// Trace ids quoted.
const TRACES_MAX: usize = 5;

impl Verdict {
    /// The decision for one target, with its evidence.
    pub(super) fn decide(&self, name: &str, state: State, since: Stamp, now: Stamp) -> Decision {
        let fallback = Judged::default();
        let judged = self.targets.get(name).unwrap_or(&fallback);
        let valid_ns = self.config.valid_s * SECOND_NS;
        Decision {
            target: name.to_owned(),
            epoch: judged.epoch,
            revision: judged.revision.clone(),
            state,
            since,
            valid_until_ns: since.wall_ns.saturating_add(valid_ns),
            dry_run: !self.config.enforce,
            evidence: self.evidence(name, judged, state, now),
        }
    }

    fn evidence(&self, name: &str, judged: &Judged, state: State, now: Stamp) -> Evidence {
        let burns: Vec<Burn> = self
            .burning
            .values()
            .filter(|firing| name == CLUSTER || concerns(&firing.burn, name))
            .map(|firing| firing.burn.clone())
            .take(QUOTED_MAX)
            .collect();
        let regressions: Vec<Regression> =
            self.regressed.values().map(|opened| opened.regression.clone()).take(QUOTED_MAX).collect();
        let links = self.links_from(name, judged);
        let mut evidence = Evidence::assemble(self.sentence(name, judged, (state, now), &burns));
        let alarmed = self.holding().flat_map(|alarm| alarm.members.iter().map(String::as_str));
        let regressed = self.regressed.values().map(|opened| opened.member.as_str());
        evidence.members = members(&burns, regressed.chain(alarmed));
        if !links.is_empty() {
            evidence.callers.push(name.to_owned());
        }
        evidence.trace_ids = links.iter().rev().take(TRACES_MAX).map(|link| link.trace_id.clone()).collect();
        evidence.request_share = burns
            .iter()
            .filter(|burn| burn.total > 0)
            .map(|burn| share(burn.bad, burn.total))
            .max_by(f64::total_cmp);
        evidence.marked_at = judged.marked_at;
        evidence.onset = self.onset(judged);
        evidence.profile = self.profile(&evidence.members);
        evidence.cool_down = self
            .cooling(name, now)
            .map(|left_s| format!("a rollback of {name} was signalled; the next waits {left_s} s more"));
        evidence.excluded = self.excluded(&burns);
        evidence.unchecked = self.unchecked(name, judged, links.is_empty());
        if matches!(state, State::Hold | State::Rollback) {
            self.name_rivals(judged, &mut evidence);
        }
        evidence.missed = self.missed.iter().map(|missed| missed.slo.to_owned()).collect();
        evidence.alarms = self.alarms.values().take(QUOTED_MAX).cloned().collect();
        evidence.burn = burns;
        evidence.regressions = regressions;
        evidence
    }

    fn sentence(&self, name: &str, judged: &Judged, (state, now): (State, Stamp), burns: &[Burn]) -> String {
        let revision = &judged.revision;
        match state {
            State::Unknown if self.last_probe.is_some() && self.is_silent(now) => {
                format!("{name}: no probe was answered or failed for {} s", SILENT_NS / SECOND_NS)
            }
            State::Unknown if let Some(missed) = self.missed.first() => format!(
                "{name}: nothing passes while {} is missed by far, {} of {} bad in the last minute",
                missed.slo, missed.bad, missed.total
            ),
            State::Unknown => format!(
                "{name}: too little is known yet, {} of {PROBES_ENOUGH} probes have come",
                if name == CLUSTER { self.probes } else { judged.probes }.min(PROBES_ENOUGH)
            ),
            State::Pass => judged.put_back.as_ref().map_or_else(
                || format!("{name}: enough data and nothing wrong"),
                |back| format!("{name}: recovered since {} was put back for {revision}", back.to),
            ),
            State::Hold => {
                let why = self.alarmed().or_else(|| {
                    worst(burns).map(|burn| format!("{}{}", told(burn), self.held_by(name, judged)))
                });
                let why = why.unwrap_or_else(|| "a regression is open".to_owned());
                format!("{name}: start no further step, {why}")
            }
            State::Rollback => {
                let previous = judged.previous.as_deref().unwrap_or("the revision before");
                let since = burns.first().map_or_else(String::new, |burn| format!(": {}", told(burn)));
                format!("{name}: put {previous} back for {revision}{since}")
            }
        }
    }

    /// The alarm that holds, with its figures, and how many more there are.
    fn alarmed(&self) -> Option<String> {
        let mut holding = self.holding();
        let first = holding.next()?;
        let figures = figures(&first.trouble).map_or_else(String::new, |figures| format!("; {figures}"));
        let more = match holding.count() {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Some(format!("{}{figures}{more}", first.sentence))
    }

    fn held_by(&self, name: &str, judged: &Judged) -> &'static str {
        if judged.marked_at.is_none() || name == CLUSTER {
            "; no rollout marker fits, so nothing is rolled back"
        } else if judged.put_back.is_some() {
            "; what serves now was put back, and a put-back is never rolled back"
        } else if self.spent(name, &judged.revision) {
            "; this revision has had its one rollback signal"
        } else if self.burns_against(name, judged).iter().all(|firing| Verdict::is_older(firing, judged)) {
            "; that was so before this rollout"
        } else if self.links_from(name, judged).is_empty() {
            "; no caller or log line leads from it to etcd"
        } else {
            ""
        }
    }

    fn profile(&self, members: &[String]) -> ProfileState {
        members
            .iter()
            .filter_map(|member| self.profiles.get(member))
            .chain(self.profiles.values())
            .max_by_key(|state| match state {
                ProfileState::None => 0,
                ProfileState::Failed(_) => 1,
                ProfileState::Running => 2,
                ProfileState::Diff(_) => 3,
            })
            .cloned()
            .unwrap_or(ProfileState::None)
    }

    fn excluded(&self, burns: &[Burn]) -> Vec<String> {
        let mut excluded = Vec::new();
        if self.harmless.is_none() {
            excluded.push(
                "leader move, defragmentation, compaction, snapshot, restart: none that explains it"
                    .to_owned(),
            );
        }
        excluded.extend(burns.iter().filter_map(|burn| burn.excused.clone()));
        excluded
    }

    fn unchecked(&self, name: &str, judged: &Judged, unlinked: bool) -> Vec<String> {
        let mut unchecked = Vec::new();
        if let Some(cause) = &self.harmless {
            unchecked.push(format!("what would be left without this: {cause}"));
        }
        if name != CLUSTER && unlinked {
            unchecked.push(format!("no call tree leads from {name} to etcd"));
        }
        if judged.marked_at.is_none() {
            unchecked.push("no rollout was marked".to_owned());
        }
        unchecked
    }
}

fn concerns(burn: &Burn, name: &str) -> bool {
    match &burn.lane {
        Lane::Change { target, .. } => target == name,
        Lane::Tier { .. } => true,
    }
}

fn worst(burns: &[Burn]) -> Option<&Burn> {
    burns.iter().filter(|burn| burn.votes).max_by(|a, b| a.burn_long.total_cmp(&b.burn_long))
}

fn told(burn: &Burn) -> String {
    let lane = match &burn.lane {
        Lane::Tier { name, .. } => name.clone(),
        Lane::Change { revision, .. } => format!("since the rollout of {revision}"),
    };
    format!(
        "{} burns {:.0} times its budget ({lane}): {} of {} bad, p = {:.1e}",
        burn.slo, burn.burn_long, burn.bad, burn.total, burn.p_value
    )
}

fn members<'a>(burns: &[Burn], regressed: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut members: Vec<String> = burns
        .iter()
        .flat_map(|burn| burn.members.iter())
        .filter(|(_, bad, _)| *bad > 0)
        .map(|(name, _, _)| name.clone())
        .chain(regressed.map(str::to_owned))
        .filter(|name| !name.is_empty())
        .collect();
    members.sort();
    members.dedup();
    members
}

fn share(bad: u64, total: u64) -> f64 {
    bad as f64 / total as f64
}

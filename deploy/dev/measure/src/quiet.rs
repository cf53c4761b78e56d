//! What the agent said while nothing was wrong, held against what was done to the cluster.
//!
//! Owns which finding followed which piece of work, and what may not be. A Regression counts once, by the finding that
//! opens it, or, where its harmless cause was known, by the one that tells of it when it is over; the end of an opened one is
//! listed as a closing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use anyhow::{Context, Result};
use harness::daemon::Daemon;
use model::finding::{Burn, Conclusion, Finding, Regression, Verdict};
use model::verdict::State;
use serde::Serialize;

use crate::page::by_reason;
use crate::stage::{Stage, board};

/// Clocks of a scrape a second and probes every other: what began by itself just before a call is not told apart from it.
const BEFORE_NS: u64 = 2_000_000_000;

/// An election, a compaction's wake, refilled caches: over by then. What begins later has another cause.
const WAKE_NS: u64 = 30_000_000_000;

/// One piece of work that was done.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// What.
    pub(crate) what: String,
    began_ns: u64,
    ended_ns: u64,
}

/// Everything seen on the board so far, each finding once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// What was done, in order.
    pub(crate) events: Vec<Event>,
    findings: BTreeMap<u64, Finding>,
    states: BTreeSet<(String, &'static str)>,
    rolled_out_ns: u64,
}

/// The report of the quiet part.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Quiet {
    /// How long it took.
    pub(crate) minutes: f64,
    /// When the rollout that changes nothing was marked.
    pub(crate) rollout_marked_at: String,
    /// What was done, with the Regressions that followed.
    pub(crate) events: Vec<Done>,
    /// Each Regression.
    pub(crate) regressions: Vec<Told>,
    /// Ends of opened Regressions.
    pub(crate) closings: usize,
    /// Regressions that followed nothing: false ones.
    pub(crate) regressions_without_event: usize,
    /// Burns that began.
    pub(crate) burns: Vec<Burned>,
    /// Changes of decisions.
    pub(crate) decisions: Vec<Decided>,
    /// How many of them went to each state.
    pub(crate) decisions_by_state: BTreeMap<String, usize>,
    /// Must be 0.
    pub(crate) rollback_decisions: usize,
    /// Requests that arrived at the webhook: must be 0.
    pub(crate) signals_sent: u64,
    /// All findings by kind, as the agent counts them.
    pub(crate) findings_by_kind: BTreeMap<String, u64>,
    /// Findings that the agent counted and nobody saw on its board: must be 0, or this report is not whole.
    pub(crate) findings_missed: u64,
    /// Requests of the workload that failed.
    pub(crate) workload_failed: u64,
}

/// A piece of work.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Done {
    /// What.
    pub(crate) what: String,
    /// When it began.
    pub(crate) at: String,
    /// How long it took.
    pub(crate) took_s: f64,
    /// Regressions that followed it: at most 1.
    pub(crate) regressions: usize,
}

/// A Regression.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Told {
    /// When it was concluded.
    pub(crate) at: String,
    /// When the change began, as the agent says.
    pub(crate) onset: String,
    /// At whom it was seen.
    pub(crate) member: String,
    /// What was watched.
    pub(crate) metric: String,
    /// Usual value and the one since, in its unit.
    pub(crate) values: (f64, f64, String),
    /// The harmless cause, where the agent knew one; then it was never open.
    pub(crate) cause: Option<String>,
    /// The piece of work it followed.
    pub(crate) event: Option<String>,
    /// From the beginning of that work to the onset.
    pub(crate) onset_after_s: Option<f64>,
}

/// A burn.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Burned {
    /// When.
    pub(crate) at: String,
    /// Of which objective, by which lane.
    pub(crate) what: String,
    /// Bad and all.
    pub(crate) counts: (u64, u64),
    /// Whether it may vote.
    pub(crate) votes: bool,
    /// Why not.
    pub(crate) excused: Option<String>,
}

/// A change of a decision.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Decided {
    /// When.
    pub(crate) at: String,
    /// About what.
    pub(crate) target: String,
    /// The new state.
    pub(crate) state: String,
    /// Why.
    pub(crate) sentence: String,
}

impl Event {
    /// Does something and notes when.
    pub(crate) fn of(act: impl FnOnce() -> Result<String>) -> Result<Event> {
        let began_ns = now_ns();
        let what = act()?;
        Ok(Event { what, began_ns, ended_ns: now_ns() })
    }
}

impl Seen {
    /// The rollout has been marked.
    pub(crate) fn rolled_out(&mut self) {
        self.rolled_out_ns = now_ns();
    }

    /// Adds what is on the board.
    pub(crate) fn look(&mut self, daemon: &Daemon) -> Result<()> {
        let board = board(daemon)?;
        let states = board.decisions.iter().map(|decision| (decision.target.clone(), decision.state.name()));
        self.states.extend(states);
        self.findings.extend(board.findings.into_iter().map(|finding| (finding.id, finding)));
        Ok(())
    }

    /// How much so far, for a line of progress.
    pub(crate) fn told(&self) -> String {
        let count = |wanted: &str| {
            self.findings.values().filter(|finding| finding.conclusion.kind() == wanted).count()
        };
        format!(
            "findings: {} regression, {} burn, {} verdict",
            count("regression"),
            count("burn"),
            count("verdict")
        )
    }

    /// Holds it all against what was done.
    pub(crate) fn conclude(&self, stage: &Stage, daemon: &Daemon, minutes: f64) -> Result<Quiet> {
        let page = daemon.get("/metrics").context("the agent's page")?.body;
        let mut quiet = self.weigh();
        quiet.minutes = minutes;
        quiet.rollout_marked_at = told(self.rolled_out_ns);
        quiet.signals_sent = stage.receiver.signals();
        quiet.findings_by_kind = by_reason(&page, "agent_findings_total");
        quiet.findings_missed = self.missed(&quiet.findings_by_kind);
        quiet.workload_failed = stage.workload.failed();
        Ok(quiet)
    }

    /// What the agent counted but its board never showed; call trees and edges are not shown at all.
    fn missed(&self, counted: &BTreeMap<String, u64>) -> u64 {
        let shown = counted.iter().filter(|(kind, _)| !matches!(kind.as_str(), "call_tree" | "edge"));
        let counted: u64 = shown.map(|(_, count)| count).sum();
        counted.saturating_sub(self.findings.len() as u64)
    }

    fn weigh(&self) -> Quiet {
        let mut quiet = Quiet { events: self.events.iter().map(Done::of).collect(), ..Quiet::default() };
        for finding in self.findings.values() {
            match &finding.conclusion {
                Conclusion::Regression(regression) if regression.open || regression.cause.is_some() => {
                    let place = self.followed(regression.onset.wall_ns);
                    if let Some(done) = place.and_then(|place| quiet.events.get_mut(place)) {
                        done.regressions += 1;
                    }
                    let event = place.and_then(|place| self.events.get(place));
                    quiet.regressions.push(Told::of(finding, regression, event));
                }
                Conclusion::Regression(_) => quiet.closings += 1,
                Conclusion::Burn(burn) if burn.firing => quiet.burns.push(Burned::of(finding, burn)),
                Conclusion::Verdict(verdict) => quiet.decisions.push(Decided::of(finding, verdict)),
                _ => {}
            }
        }
        quiet.regressions_without_event =
            quiet.regressions.iter().filter(|told| told.event.is_none()).count();
        for decided in &quiet.decisions {
            *quiet.decisions_by_state.entry(decided.state.clone()).or_default() += 1;
        }
        let rollback = State::Rollback.name();
        let shown = self.states.iter().filter(|(_, state)| *state == rollback).count();
        quiet.rollback_decisions = shown.max(quiet.decisions_by_state.get(rollback).copied().unwrap_or(0));
        quiet
    }

    /// The latest piece of work that an onset follows.
    fn followed(&self, onset_ns: u64) -> Option<usize> {
        self.events.iter().rposition(|event| {
            event.began_ns.saturating_sub(BEFORE_NS) <= onset_ns && onset_ns <= event.ended_ns + WAKE_NS
        })
    }
}

impl Quiet {
    /// What may not be; empty when the half hour was quiet.
    pub(crate) fn failures(&self) -> Vec<String> {
        let crowded = self.events.iter().filter(|done| done.regressions > 1);
        let mut failures: Vec<String> = crowded
            .map(|done| {
                format!("at most one Regression an event: {} followed the {}", done.regressions, done.what)
            })
            .collect();
        for (what, count) in [
            ("each Regression follows an event", self.regressions_without_event as u64),
            ("no rollback was decided", self.rollback_decisions as u64),
            ("no signal was sent", self.signals_sent),
            ("each finding was seen on the board", self.findings_missed),
        ] {
            if count > 0 {
                failures.push(format!("{what}: {count}"));
            }
        }
        failures
    }
}

impl Done {
    fn of(event: &Event) -> Done {
        Done {
            what: event.what.clone(),
            at: told(event.began_ns),
            took_s: seconds_between(event.began_ns, event.ended_ns),
            regressions: 0,
        }
    }
}

impl Told {
    fn of(finding: &Finding, regression: &Regression, event: Option<&Event>) -> Told {
        let onset_ns = regression.onset.wall_ns;
        Told {
            at: told(finding.at.wall_ns),
            onset: told(onset_ns),
            member: finding.origin.member_name().to_owned(),
            metric: regression.metric.clone(),
            values: (regression.before.value, regression.after.value, regression.unit.clone()),
            cause: regression.cause.clone(),
            event: event.map(|event| event.what.clone()),
            onset_after_s: event.map(|event| seconds_between(event.began_ns, onset_ns)),
        }
    }
}

impl Burned {
    fn of(finding: &Finding, burn: &Burn) -> Burned {
        Burned {
            at: told(finding.at.wall_ns),
            what: format!("{}, {:?}", burn.slo, burn.lane),
            counts: (burn.bad, burn.total),
            votes: burn.votes,
            excused: burn.excused.clone(),
        }
    }
}

impl Decided {
    fn of(finding: &Finding, verdict: &Verdict) -> Decided {
        Decided {
            at: told(finding.at.wall_ns),
            target: verdict.decision.target.clone(),
            state: verdict.decision.state.name().to_owned(),
            sentence: verdict.decision.evidence.sentence.clone(),
        }
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    (i128::from(to_ns) - i128::from(from_ns)) as f64 / 1e9
}

/// RFC 3339, UTC.
pub(crate) fn told(at_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at_ns)).map(|at| format!("{at:.3}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::finding::{Conclusion, Finding, Measured, NodeCheck, Regression, Shape};
    use model::time::Stamp;

    use super::{Event, Quiet, Seen};

    const SECOND_NS: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Stamp {
        Stamp::default().plus_ns(seconds * SECOND_NS)
    }

    /// Two pieces of work, of a second each, at 100 s and 400 s; onsets with whether they opened and what they were put down to.
    fn quiet(onsets: &[(u64, bool, Option<&str>)]) -> Quiet {
        let event = |what: &str, began: u64| Event {
            what: what.to_owned(),
            began_ns: began * SECOND_NS,
            ended_ns: (began + 1) * SECOND_NS,
        };
        let mut seen =
            Seen { events: vec![event("leader move", 100), event("compaction", 400)], ..Seen::default() };
        for (id, (onset, open, cause)) in (1..).zip(onsets) {
            let conclusion = Conclusion::Regression(Regression {
                metric: "probe put latency".to_owned(),
                unit: "s".to_owned(),
                shape: Shape::Step,
                open: *open,
                onset: at(*onset),
                before: Measured::default(),
                after: Measured::default(),
                score: 20.0,
                cause: cause.map(str::to_owned),
                ended: None,
                node: NodeCheck::NotChecked(String::new()),
            });
            let finding = Finding { id, at: at(onset + 5), origin: Default::default(), conclusion };
            seen.findings.insert(id, finding);
        }
        seen.weigh()
    }

    fn followers(quiet: &Quiet) -> Vec<usize> {
        quiet.events.iter().map(|done| done.regressions).collect()
    }

    #[test]
    fn one_regression_an_event_is_quiet() {
        let quiet = quiet(&[(101, false, Some("leader move")), (425, true, None), (425, false, None)]);
        assert_eq!((followers(&quiet), quiet.closings), (vec![1, 1], 1));
        assert_eq!(quiet.failures(), Vec::<String>::new());
        assert_eq!(quiet.regressions[1].onset_after_s, Some(25.0));
    }

    #[test]
    fn two_regressions_after_one_event_are_too_many() {
        let quiet = quiet(&[(99, true, None), (110, true, None)]);
        assert_eq!(followers(&quiet), [2, 0]);
        assert_eq!(quiet.failures(), ["at most one Regression an event: 2 followed the leader move"]);
    }

    #[test]
    fn a_regression_that_follows_nothing_is_a_false_one() {
        for onset in [97, 132, 397, 432] {
            let quiet = quiet(&[(onset, true, None)]);
            assert_eq!(followers(&quiet), [0, 0], "{onset}");
            assert_eq!(quiet.failures(), ["each Regression follows an event: 1"], "{onset}");
        }
    }

    #[test]
    fn a_rollback_a_signal_and_a_finding_nobody_saw_are_told() {
        let quiet = Quiet { rollback_decisions: 1, signals_sent: 2, findings_missed: 3, ..Quiet::default() };
        assert_eq!(quiet.failures().len(), 3);
        let counted: BTreeMap<String, u64> =
            [("regression", 2), ("call_tree", 900)].map(|(kind, count)| (kind.to_owned(), count)).into();
        assert_eq!(Seen::default().missed(&counted), 2);
    }
}

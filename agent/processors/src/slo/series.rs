//! One objective: its counts, what was excused of them, and the finding it makes.
//!
//! Owns the counts. When they amount to a burn is decided in `burn` (tiers) and `change` (after a rollout).

use model::finding::{Burn, Lane};
use serde::{Deserialize, Serialize};

use super::burn::{self, Phase};
use super::missed::Miss;
use super::timeline::Timeline;
use super::window::{Counts, History};
use super::{Name, Objective};
use crate::excuse::Excuses;

/// Without a result for so long an SLO has no data; three times the usual interval where that is longer.
const NO_DATA_S: u64 = 15;

/// Longest interval between results that is taken as usual: a longer one is an outage of the agent.
const INTERVAL_MAX_S: u64 = 60;

/// A member away for 30 s is judged after that; what it excuses is settled a minute later.
const SETTLED_S: u64 = 60;

/// Seconds settled in one go after the agent was away; older ones are excused by nothing.
const SETTLE_MAX_S: u64 = 1800;

/// One objective with its counts and what fires.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) name: Name,
    pub(super) objective: Objective,
    pub(super) history: History,
    /// Bad events that do not vote, as far as settled.
    pub(super) excused: History,
    pub(super) settled: u64,
    pub(super) last_excuse: Option<String>,
    /// Usual seconds between results.
    pub(super) interval_s: u64,
    pub(super) tiers: [Phase; 4],
    pub(super) miss: Miss,
}

/// What judging looks up: seconds to stamps, and who is excused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) timeline: &'a Timeline,
    pub(super) excuses: &'a Excuses,
}

/// The counts a lane rests on, over the seconds `[from, to)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weighed {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) long: Counts,
    pub(super) short: Counts,
    pub(super) excused_long: u64,
    pub(super) excused_short: u64,
    pub(super) coverage: f64,
}

impl Series {
    pub(super) fn new(name: Name, objective: Objective) -> Series {
        Series {
            name,
            objective,
            history: History::default(),
            excused: History::default(),
            settled: 0,
            last_excuse: None,
            interval_s: 0,
            tiers: [Phase::Off; 4],
            miss: Miss::default(),
        }
    }

    pub(super) fn add(&mut self, second: u64, member: &str, counts: Counts) {
        if let Some(last) = self.history.last_seen()
            && second > last
        {
            let seen = (second - last).min(INTERVAL_MAX_S);
            self.interval_s = seen.max(self.interval_s.saturating_sub(1));
        }
        self.history.add(second, member, counts);
    }

    pub(super) fn has_no_data(&self, now: u64) -> bool {
        let patience = NO_DATA_S.max(3 * self.interval_s);
        self.history.last_seen().is_none_or(|last| last.saturating_add(patience) < now)
    }

    /// Books what excuses hold a minute after the fact: by then a restart has ended, or was none.
    pub(super) fn settle(&mut self, now: u64, context: Context<'_>) {
        let to = now.saturating_sub(SETTLED_S);
        let from = self.settled.max(to.saturating_sub(SETTLE_MAX_S));
        if from >= to {
            return;
        }
        let pardoned: Vec<(u64, u64, String)> = self.pardoned(from, to, context).collect();
        for (second, bad, why) in pardoned {
            self.excused.add(second, "", Counts { bad, total: bad });
            self.last_excuse = Some(why);
        }
        self.settled = to;
    }

    fn pardoned<'a>(
        &'a self,
        from: u64,
        to: u64,
        context: Context<'a>,
    ) -> impl Iterator<Item = (u64, u64, String)> + 'a {
        self.history.bad_seconds(from, to).filter_map(move |(second, member, bad)| {
            let why = context.excuses.excuse(member, context.timeline.stamp(second))?;
            Some((second, bad, why))
        })
    }

    /// Bad events of `[from, to)` that do not vote, and why.
    pub(super) fn excused_in(&mut self, from: u64, to: u64, context: Context<'_>) -> u64 {
        let settled = if from < self.settled { self.excused.sum(from, self.settled.min(to)).bad } else { 0 };
        let mut recent = 0;
        let mut last = None;
        for (_, bad, why) in self.pardoned(from.max(self.settled), to, context) {
            recent += bad;
            last = Some(why);
        }
        if last.is_some() {
            self.last_excuse = last;
        }
        settled + recent
    }

    pub(super) fn weigh(&mut self, (length, short, to): (u64, u64, u64), context: Context<'_>) -> Weighed {
        let (from, middle) = (to.saturating_sub(length), to.saturating_sub(short));
        Weighed {
            from,
            to,
            long: self.history.sum(from, to),
            short: self.history.sum(middle, to),
            excused_long: self.excused_in(from, to, context),
            excused_short: self.excused_in(middle, to, context),
            coverage: self.history.coverage(length, to),
        }
    }

    /// As [`Series::weigh`], for an end that no excuse can change.
    pub(super) fn weigh_plainly(&self, (length, short, to): (u64, u64, u64)) -> Weighed {
        let (from, middle) = (to.saturating_sub(length), to.saturating_sub(short));
        Weighed {
            from,
            to,
            long: self.history.sum(from, to),
            short: self.history.sum(middle, to),
            excused_long: 0,
            excused_short: 0,
            coverage: self.history.coverage(length, to),
        }
    }

    /// The finding, whichever lane it comes from.
    pub(super) fn burn(&self, lane: Lane, phase: Phase, weighed: &Weighed, timeline: &Timeline) -> Burn {
        let budget = self.objective.budget();
        let votes = phase == Phase::On && !burn::is_ticket(&lane);
        let over = |counts: Counts| counts.ratio().map_or(0.0, |ratio| ratio / budget);
        Burn {
            slo: self.name.as_str().to_owned(),
            lane,
            firing: phase.fires(),
            votes,
            excused: if phase == Phase::Excused { self.last_excuse.clone() } else { None },
            burn_long: over(weighed.long),
            burn_short: over(weighed.short),
            bad: weighed.long.bad,
            total: weighed.long.total,
            coverage: weighed.coverage,
            p_value: crate::binomial::tail(weighed.long.total, weighed.long.bad, budget),
            members: self
                .history
                .by_member(weighed.from, weighed.to)
                .into_iter()
                .filter(|(_, counts)| counts.bad > 0)
                .map(|(name, counts)| (name, counts.bad, counts.total))
                .collect(),
            since: timeline.stamp(weighed.from),
            server_side: self.name == Name::WalFsync,
        }
    }
}

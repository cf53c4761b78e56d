//! Whether an objective is missed by far at present, whatever a tier or a rollout makes of it: nothing passes meanwhile.
//!
//! Owns when that begins and when it is over. Refuses to accuse: a page waits until enough of a month's budget is spent, and
//! a change window asks for more than there was before the rollout, but neither makes it a good moment for the next step.

use model::time::Stamp;
use serde::{Deserialize, Serialize};

use super::change::{BAD_MIN, CALM_ALONE_S, CALM_S, fires};
use super::series::{Context, Series};
use super::window::Counts;
use super::{Name, Slo};
use crate::excuse::Excuses;

/// It begins within so long: what is older has its tiers.
const LATELY_S: u64 = 60;

/// By then it is known whether a restart is to blame for how it began.
const EXCUSED_WITHIN_S: u64 = 300;

/// Where nothing was asked for so long, what was bad before tells nothing of now.
const UNASKED_S: u64 = 300;

/// Whether one objective is missed by far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Miss {
    /// The second by which enough was bad.
    pub(super) since: Option<u64>,
    /// First second since which nothing is known to have failed.
    calm_since: Option<u64>,
    /// When the rollout that its change window blames was put back.
    put_back: Option<u64>,
    /// When the last one was over: what lies before is done with.
    over: u64,
}

impl Miss {
    /// What is blamed for it was put back.
    pub(super) fn put_back(&mut self, second: u64) {
        self.put_back.get_or_insert(second);
    }

    /// The agent was away: nobody saw whether it was calm.
    pub(super) fn unseen(&mut self) {
        self.calm_since = None;
    }
}

/// An objective that is missed by far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    /// The objective.
    pub(crate) slo: &'static str,
    /// When enough was bad.
    pub(crate) since: Stamp,
    /// Bad events of the last minute.
    pub(crate) bad: u64,
    /// All of them.
    pub(crate) total: u64,
}

impl Slo {
    /// The objectives that are missed by far.
    pub(crate) fn missed(&self) -> impl Iterator<Item = Missed> {
        let to = self.now + 1;
        self.series.iter().filter_map(move |series| {
            let counts = series.history.sum(to.saturating_sub(LATELY_S), to);
            Some(Missed {
                slo: series.name.as_str(),
                since: self.timeline.stamp(series.miss.since?),
                bad: counts.bad,
                total: counts.total,
            })
        })
    }

    /// Looks at each objective.
    pub(super) fn watch_misses(&mut self, judged: &[Name], excuses: &Excuses) {
        let context = Context { timeline: &self.timeline, excuses };
        for series in &mut self.series {
            series.miss = if judged.contains(&series.name) {
                series.look_for_a_miss(self.now, context)
            } else {
                Miss::default()
            };
        }
    }
}

impl Series {
    fn look_for_a_miss(&mut self, now: u64, context: Context<'_>) -> Miss {
        let (to, budget) = (now + 1, self.objective.budget());
        let mut miss = self.miss;
        let Some(since) = miss.since else {
            let from = to.saturating_sub(LATELY_S).max(miss.over);
            // A budget that is whole asks for no excuses: most objectives, most of the time.
            let is_missed = self.history.sum(from, to).bad >= BAD_MIN && {
                let voting = self.voting((from, to), context);
                fires(budget, budget, voting, voting)
            };
            if is_missed {
                miss = Miss {
                    since: self.enough_bad_by((from, to), context),
                    over: miss.over,
                    ..Miss::default()
                };
            }
            return miss;
        };
        let from = to.saturating_sub(CALM_S).max(miss.put_back.unwrap_or(0));
        match self.is_failing((from, to), budget, context) {
            Some(true) => miss.calm_since = None,
            // Where little is asked, a while without an answer is no news.
            Some(false) | None => _ = miss.calm_since.get_or_insert(now),
        }
        let is_calm = miss.calm_since.is_some_and(|calm_since| {
            // As for a lane: what was put back takes its cause along; else nobody says that it is gone.
            let enough = if miss.put_back.is_some() { CALM_S } else { CALM_ALONE_S };
            now - calm_since >= enough && self.history.sum(calm_since, to).total > 0
        });
        if is_calm || self.is_past((since, now), miss.over, context) {
            Miss { over: to, ..Miss::default() }
        } else {
            miss
        }
    }

    /// Whether what began at `since` turned out to be excused, or nothing was asked for so long that it tells nothing of now.
    fn is_past(&mut self, (since, now): (u64, u64), over: u64, context: Context<'_>) -> bool {
        let to = now + 1;
        if now.saturating_sub(since) > EXCUSED_WITHIN_S {
            return self.history.sum(to.saturating_sub(UNASKED_S), to).total == 0;
        }
        let from = (since + 1).saturating_sub(LATELY_S).max(over);
        self.voting((from, since + 1), context).bad < BAD_MIN
    }

    /// The second by which enough was bad.
    fn enough_bad_by(&mut self, (from, to): (u64, u64), context: Context<'_>) -> Option<u64> {
        let mut bad = 0;
        (from..to).find(|second| {
            bad += self.voting((*second, second + 1), context).bad;
            bad >= BAD_MIN
        })
    }

    fn voting(&mut self, (from, to): (u64, u64), context: Context<'_>) -> Counts {
        self.history.sum(from, to).without(self.excused_in(from, to, context))
    }
}

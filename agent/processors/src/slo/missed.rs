//! Whether an objective is missed by far at present, whatever a tier or a rollout makes of it: nothing passes meanwhile.
//!
//! Owns when that begins and when it is over. Refuses to accuse: a page waits until enough of a month's budget is spent, and
//! a change window asks for more than there was before the rollout, but neither makes it a good moment for the next step.

use model::time::Stamp;
use serde::{Deserialize, Serialize};

use super::change::{BAD_MIN, CALM_ALONE_S, CALM_S, fires};
use super::series::{Context, Series};
use super::{Name, Slo};
use crate::excuse::Excuses;

/// It begins within so long: what is older has its tiers.
const LATELY_S: u64 = 60;

/// By then it is known whether a restart is to blame for how it began.
const SETTLED_S: u64 = 300;

/// Whether one objective is missed by far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Miss {
    /// The first bad second of it.
    since: Option<u64>,
    /// First second since which nothing failed.
    calm_since: Option<u64>,
    /// When the last one was over: what lies before is done with.
    over: u64,
}

/// An objective that is missed by far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    /// The objective.
    pub(crate) slo: &'static str,
    /// The first bad second of it.
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
                series.look_for_a_miss((self.now, self.put_back), context)
            } else {
                Miss::default()
            };
        }
    }
}

impl Series {
    fn look_for_a_miss(&mut self, (now, put_back): (u64, u64), context: Context<'_>) -> Miss {
        let (to, budget) = (now + 1, self.objective.budget());
        let mut miss = self.miss;
        let over = Miss { over: to, ..Miss::default() };
        let Some(since) = miss.since else {
            let from = to.saturating_sub(LATELY_S).max(miss.over);
            let counts = self.history.sum(from, to);
            // A budget that is whole asks for no excuses: most objectives, most of the time.
            if counts.bad >= BAD_MIN {
                let voting = counts.without(self.excused_in(from, to, context));
                if fires(budget, budget, voting, voting) {
                    miss.since = self.history.bad_seconds(from, to).map(|(second, ..)| second).min();
                }
            }
            return miss;
        };
        if now.saturating_sub(since) <= SETTLED_S {
            let until = to.min(since.saturating_add(LATELY_S));
            let voting = self.history.sum(since, until).without(self.excused_in(since, until, context));
            // What turns out excused is over at once.
            if voting.bad < BAD_MIN {
                return over;
            }
        }
        // As for a lane: where something was put back, the cause is gone; else nobody says so.
        let enough = if put_back >= since { CALM_S } else { CALM_ALONE_S };
        let calm = self.calm(&mut miss.calm_since, (to.saturating_sub(CALM_S), now), budget, context);
        if calm.is_some_and(|calm| calm >= enough) { over } else { miss }
    }
}

//! The shipped tiers: a long and a short window above the same factor, and an exact test against the budget.
//!
//! Owns when a tier fires. Refuses to decide on too little: a young history must have spent the tier's share of the
//! whole period's budget, and no traffic in a window leaves a tier as it is.

use model::finding::{Burn, Lane};
use serde::{Deserialize, Serialize};

use super::series::{Context, Series, Weighed};
use super::timeline::Timeline;
use super::window::Counts;

/// Bad counts that would come by chance this often, while the budget is kept, do not count.
pub(super) const P_MAX: f64 = 1e-4;

/// From this share of the long window on, what was seen speaks for the whole of it.
const COVERAGE_MIN: f64 = 0.5;

/// One pair of windows. The factors spend 2 % of a 30 days' budget in 1 h, 5 % in 6 h, 10 % in 1 d and in 3 d.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tier {
    pub(super) name: &'static str,
    pub(super) long_s: u64,
    pub(super) short_s: u64,
    pub(super) factor: f64,
}

impl Tier {
    fn lane(&self) -> Lane {
        Lane::Tier { name: self.name.to_owned(), long_s: self.long_s, short_s: self.short_s }
    }
}

/// The tiers as shipped; the last two open a ticket and never vote.
pub(super) const TIERS: [Tier; 4] = [
    Tier { name: "page_fast", long_s: 3600, short_s: 300, factor: 14.4 },
    Tier { name: "page_slow", long_s: 21_600, short_s: 1800, factor: 6.0 },
    Tier { name: "ticket_fast", long_s: 86_400, short_s: 7200, factor: 3.0 },
    Tier { name: "ticket_slow", long_s: 259_200, short_s: 21_600, factor: 1.0 },
];

/// Whether a lane fires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// It does not.
    #[default]
    Off,
    /// It does, but only by events that are excused.
    Excused,
    /// It does.
    On,
}

impl Phase {
    pub(super) fn fires(self) -> bool {
        self != Phase::Off
    }

    /// `On` when what votes is enough, `Excused` when only all together is.
    pub(super) fn of(weighed: &Weighed, fires: impl Fn(Counts, Counts) -> bool) -> Phase {
        let votes =
            fires(weighed.long.without(weighed.excused_long), weighed.short.without(weighed.excused_short));
        if votes {
            Phase::On
        } else if fires(weighed.long, weighed.short) {
            Phase::Excused
        } else {
            Phase::Off
        }
    }
}

/// Tickets inform; they never vote.
pub(super) fn is_ticket(lane: &Lane) -> bool {
    matches!(lane, Lane::Tier { name, .. } if name.starts_with("ticket"))
}

impl Series {
    /// Judges one tier; a finding when it starts, stops, or turns out excused (or not).
    pub(super) fn tier(
        &mut self,
        index: usize,
        now: u64,
        judged: bool,
        context: Context<'_>,
    ) -> Option<Burn> {
        let tier = TIERS.get(index)?;
        let to = now + 1;
        let before = self.tiers.get(index).copied()?;
        if !judged && !before.fires() {
            return None;
        }
        // A budget that is whole costs no sums: most objectives, most of the time.
        if !before.fires() && self.history.sum(to.saturating_sub(tier.short_s), to).bad == 0 {
            return None;
        }
        let weighed = self.weigh((tier.long_s, tier.short_s, to), context);
        let phase = if !judged {
            Phase::Off
        } else if weighed.short.total == 0 {
            before
        } else {
            Phase::of(&weighed, |long, short| {
                fires(tier, self.objective.budget(), weighed.coverage, (long, short))
            })
        };
        *self.tiers.get_mut(index)? = phase;
        (phase != before).then(|| self.burn(tier.lane(), phase, &weighed, context.timeline))
    }

    /// The ends of all tiers that fire, for a series that is about to be given up.
    pub(super) fn stop_tiers(&self, now: u64, timeline: &Timeline) -> Vec<Burn> {
        let firing = TIERS.iter().zip(&self.tiers).filter(|(_, phase)| phase.fires());
        firing
            .map(|(tier, _)| {
                let to = now + 1;
                let weighed = self.weigh_plainly((tier.long_s, tier.short_s, to));
                self.burn(tier.lane(), Phase::Off, &weighed, timeline)
            })
            .collect()
    }
}

/// Both windows above the factor, and not by chance.
///
/// Over less than half of the long window the ratio is not taken for the whole: there the tier asks for the absolute
/// share of the budget that it stands for, which is the burn times the coverage.
fn fires(tier: &Tier, budget: f64, coverage: f64, (long, short): (Counts, Counts)) -> bool {
    let (Some(long_ratio), Some(short_ratio)) = (long.ratio(), short.ratio()) else { return false };
    let seen = if coverage >= COVERAGE_MIN { 1.0 } else { coverage };
    long_ratio / budget * seen > tier.factor
        && short_ratio / budget > tier.factor
        && crate::binomial::tail(long.total, long.bad, budget) <= P_MAX
}

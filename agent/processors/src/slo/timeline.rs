//! One running count of seconds over restarts of the agent and of the machine.
//!
//! Owns the mapping from stamps to seconds. The monotonic clock rules; only where it began anew (a reboot) does the
//! wall clock say how long the machine was away.

use model::time::{SECOND_NS, Stamp};
use serde::{Deserialize, Serialize};

/// A stamp so far behind the newest is no late record (the longest probe deadline is seconds) but another boot.
const REBOOT_NS: u64 = 60 * SECOND_NS;

/// Time away beyond the longest window empties every window; more need not be believed.
const AWAY_MAX_NS: u64 = 4 * 86_400 * SECOND_NS;

/// Maps stamps to seconds that never run backwards by more than a late record does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Timeline {
    offset_ns: i64,
    newest: Option<Stamp>,
}

impl Timeline {
    /// Takes note of a stamp and tells its second.
    pub(super) fn see(&mut self, at: Stamp) -> u64 {
        if let Some(newest) = self.newest
            && at.mono_ns.saturating_add(REBOOT_NS) < newest.mono_ns
        {
            let away = at.wall_ns.saturating_sub(newest.wall_ns).min(AWAY_MAX_NS);
            self.offset_ns = self
                .offset_ns
                .saturating_add(signed(newest.mono_ns.saturating_add(away)) - signed(at.mono_ns));
            self.newest = Some(at);
        }
        if self.newest.is_none_or(|newest| newest.mono_ns < at.mono_ns) {
            self.newest = Some(at);
        }
        self.second(at)
    }

    /// The second a stamp of this boot belongs to.
    #[must_use]
    pub(super) fn second(&self, at: Stamp) -> u64 {
        let ns = signed(at.mono_ns).saturating_add(self.offset_ns).max(0);
        u64::try_from(ns).unwrap_or(0) / SECOND_NS
    }

    /// The stamp of a second's beginning; before this boot its monotonic part is 0.
    #[must_use]
    pub(super) fn stamp(&self, second: u64) -> Stamp {
        let mono = signed(second.saturating_mul(SECOND_NS)).saturating_sub(self.offset_ns).max(0);
        let mono_ns = u64::try_from(mono).unwrap_or(0);
        Stamp { mono_ns, wall_ns: self.newest.unwrap_or_default().wall_at(mono_ns) }
    }
}

/// Nanoseconds as a signed number; 292 years fit.
fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use model::time::{SECOND_NS, Stamp};

    use super::Timeline;

    fn at(mono_s: u64, wall_s: u64) -> Stamp {
        Stamp { mono_ns: mono_s * SECOND_NS, wall_ns: wall_s * SECOND_NS }
    }

    #[test]
    fn a_reboot_goes_on_where_the_wall_clock_says() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.see(at(5000, 1_000_000)), 5000);
        assert_eq!(timeline.see(at(4995, 999_995)), 4995, "a late record");
        assert_eq!(timeline.see(at(20, 1_000_300)), 5300, "away for 300 s");
        assert_eq!(timeline.see(at(21, 1_000_301)), 5301);
        assert_eq!(timeline.stamp(5301), at(21, 1_000_301));
    }

    #[test]
    fn a_wall_clock_that_went_back_over_a_reboot_is_not_believed() {
        let mut timeline = Timeline::default();
        timeline.see(at(5000, 1_000_000));
        assert_eq!(timeline.see(at(20, 500)), 5000);
        assert_eq!(timeline.see(at(30, 510)), 5010);
    }
}

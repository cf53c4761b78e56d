//! Which part of the ring is the "before" of a trigger.
//!
//! Owns the same rule as [`crate::baselines`], for windows: the last before the marker, else old enough, else as old as can
//! be, else none. Refuses to take windows by the wall clock alone where the monotonic one knows.

use model::profile::Baseline;
use model::time::{SECOND_NS, Stamp};

use super::Boot;
use super::directory::age_ns;
use super::reader::{Placed, Reader};
use super::selection::{Gap, Range};
use crate::baselines::AGED_NS;

/// Length of a baseline: 30 windows, from which a share's own unrest can be told.
pub const LENGTH_NS: u64 = 5 * 60 * SECOND_NS;

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// How good it is.
    pub label: Baseline,
    /// Which windows; none when it is missing.
    pub range: Option<Range>,
    /// From the end of its last window to the trigger; by the wall clock across a reboot.
    pub age_ns: u64,
    /// Nanoseconds that its windows cover: less than [`LENGTH_NS`] where some are missing.
    pub covered_ns: u64,
    /// Times without windows inside it.
    pub gaps: Vec<Gap>,
}

impl Reader {
    /// The "before" for a trigger in this boot: up to five minutes of windows that end before the marker; without a marker
    /// those that end five minutes before the trigger, or the last before that; else the oldest there are, called young.
    /// With a marker and nothing before it, there is none.
    #[must_use]
    pub fn choose_baseline(&self, trigger: Stamp, boot: Boot, mark_mono_ns: Option<u64>) -> Before {
        let age = |window: &Placed| age_ns((window.boot, window.end()), (boot, trigger));
        // What is written while we look, or a trigger told late, is after the trigger: never a "before".
        let is_after = |window: &Placed| window.boot == boot && window.end().mono_ns > trigger.mono_ns;
        if let Some(mark) = mark_mono_ns {
            let is_before = |window: &&Placed| window.boot != boot || window.end().mono_ns <= mark;
            let last = self.windows().iter().rfind(|window| is_before(window) && !is_after(window));
            return self.before(last, Baseline::BeforeMarker, age);
        }
        let aged = self.windows().iter().rfind(|window| age(window) >= AGED_NS && !is_after(window));
        if aged.is_some() {
            return self.before(aged, Baseline::Aged, age);
        }
        // The oldest of the young are the likeliest to lie before the change.
        let Some(first) = self.windows().iter().find(|window| !is_after(window)) else {
            return self.before(None, Baseline::Missing, age);
        };
        let last = self.windows().iter().rfind(|window| {
            !is_after(window) && window.boot == first.boot && window.end().since_ns(first.at) <= LENGTH_NS
        });
        self.before(last.or(Some(first)), Baseline::Young, age)
    }

    fn before(&self, last: Option<&Placed>, label: Baseline, age: impl Fn(&Placed) -> u64) -> Before {
        let found = last.and_then(|last| Some((last, self.until(last, LENGTH_NS)?)));
        let Some((last, range)) = found else {
            return Before {
                label: Baseline::Missing,
                range: None,
                age_ns: 0,
                covered_ns: 0,
                gaps: Vec::new(),
            };
        };
        let inside = |sequence: u64| matches!(range, Range::Windows { first, last } if (first..last).contains(&sequence));
        let windows = self.windows().iter().filter(|window| range.contains(window));
        Before {
            label,
            range: Some(range),
            age_ns: age(last),
            covered_ns: windows.map(|window| window.duration_ns).sum(),
            gaps: self.gaps().into_iter().filter(|gap| inside(gap.after)).collect(),
        }
    }
}

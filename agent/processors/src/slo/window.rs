//! Counts of bad and all events in slots of time: what every burn rate is computed from.
//!
//! Owns integers and their place in time. Refuses rates, extrapolation and zeros that stand for "nothing seen": a slot
//! that saw nothing does not exist.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Seconds kept a second apart: the change window (30 minutes) and a minute for what settles late.
const SECONDS: u32 = 1860;

/// Seconds kept over all members: one hour, exact, and the hour before a marker. With coarser slots the fast page flaps
/// where its long window stands at the factor.
const HOUR: u32 = 3660;

/// Slots of a minute: six hours.
const MINUTES: u32 = 366;

/// Slots of five minutes: three days, and the hour in which a late record may still come.
const FIVES: u32 = 876;

/// Members counted apart; etcd clusters have at most 7, further ones share one name.
const MEMBERS_MAX: usize = 16;

/// The name under which members beyond the bound are counted.
const OTHERS: &str = "others";

/// Bad and all events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Events that missed the objective.
    pub(super) bad: u64,
    /// All events.
    pub(super) total: u64,
}

impl Counts {
    /// Share of bad events; `None` without traffic: never 0, never NaN.
    #[must_use]
    pub(super) fn ratio(self) -> Option<f64> {
        (self.total > 0).then(|| crate::binomial::to_f64(self.bad) / crate::binomial::to_f64(self.total))
    }

    /// Without `excused` bad events, as if they had not been sent.
    #[must_use]
    pub(super) fn without(self, excused: u64) -> Counts {
        let excused = excused.min(self.bad);
        Counts { bad: self.bad - excused, total: self.total.saturating_sub(excused) }
    }

    fn add(&mut self, other: Counts) {
        self.bad = self.bad.saturating_add(other.bad);
        self.total = self.total.saturating_add(other.total);
    }
}

/// Slots of one width, oldest first, only those that saw something. 12 bytes a slot: at most 60 kB for all windows and
/// 22 kB for each member, a quarter of that at the default probe rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ring {
    width_s: u32,
    slots_max: u32,
    slots: VecDeque<Slot>,
}

/// One slot; written as three numbers, since snapshots hold thousands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
struct Slot {
    index: u32,
    bad: u32,
    total: u32,
}

impl From<(u32, u32, u32)> for Slot {
    fn from((index, bad, total): (u32, u32, u32)) -> Slot {
        Slot { index, bad, total }
    }
}

impl From<Slot> for (u32, u32, u32) {
    fn from(slot: Slot) -> (u32, u32, u32) {
        (slot.index, slot.bad, slot.total)
    }
}

impl Slot {
    fn counts(self) -> Counts {
        Counts { bad: u64::from(self.bad), total: u64::from(self.total) }
    }
}

impl Ring {
    fn new(width_s: u32, slots_max: u32) -> Ring {
        Ring { width_s, slots_max, slots: VecDeque::new() }
    }

    fn add(&mut self, second: u64, counts: Counts) {
        let index = narrow(second / u64::from(self.width_s));
        let (bad, total) = (narrow(counts.bad), narrow(counts.total));
        let newest = self.slots.back().map_or(0, |slot| slot.index);
        if index.saturating_add(self.slots_max) <= newest {
            return;
        }
        let place = self.slots.partition_point(|slot| slot.index < index);
        match self.slots.get_mut(place) {
            Some(slot) if slot.index == index => {
                slot.bad = slot.bad.saturating_add(bad);
                slot.total = slot.total.saturating_add(total);
            }
            _ => self.slots.insert(place, Slot { index, bad, total }),
        }
        let newest = newest.max(index);
        while self.slots.front().is_some_and(|slot| slot.index.saturating_add(self.slots_max) <= newest) {
            self.slots.pop_front();
        }
    }

    /// Slots that overlap `[from, to)`, and how many of them there are.
    fn sum(&self, from: u64, to: u64) -> (Counts, u64) {
        let mut sum = Counts::default();
        let mut seen = 0;
        for slot in self.range(from, to) {
            sum.add(slot.counts());
            seen += 1;
        }
        (sum, seen)
    }

    fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &Slot> {
        let width = u64::from(self.width_s);
        let first = self.slots.partition_point(|slot| (u64::from(slot.index) + 1) * width <= from);
        self.slots.iter().skip(first).take_while(move |slot| u64::from(slot.index) * width < to)
    }
}

/// Seconds and counts of one slot fit 32 bits: 136 years, four billion events.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The counts of one objective over three days.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    members: BTreeMap<String, Ring>,
    hour: Ring,
    minutes: Ring,
    fives: Ring,
}

impl Default for History {
    fn default() -> History {
        History {
            members: BTreeMap::new(),
            hour: Ring::new(1, HOUR),
            minutes: Ring::new(60, MINUTES),
            fives: Ring::new(300, FIVES),
        }
    }
}

impl History {
    /// Adds events that belong to `second`. Zero events say "looked, and nobody asked": no traffic, but data.
    pub(super) fn add(&mut self, second: u64, member: &str, counts: Counts) {
        let known = self.members.contains_key(member);
        let name = if known || self.members.len() < MEMBERS_MAX { member } else { OTHERS };
        match self.members.get_mut(name) {
            Some(ring) => ring.add(second, counts),
            None => {
                let mut ring = Ring::new(1, SECONDS);
                ring.add(second, counts);
                self.members.insert(name.to_owned(), ring);
            }
        }
        self.hour.add(second, counts);
        self.minutes.add(second, counts);
        self.fives.add(second, counts);
    }

    /// Events in the seconds `[from, to)`: exact up to an hour, to one slot beyond.
    #[must_use]
    pub(super) fn sum(&self, from: u64, to: u64) -> Counts {
        match to.saturating_sub(from) {
            0..=3600 => self.hour.sum(from, to).0,
            3601..=21_600 => self.minutes.sum(from, to).0,
            _ => self.fives.sum(from, to).0,
        }
    }

    /// Share of the `length` seconds before `to` that was observed, by minutes (five minutes beyond six hours), 0 to 1.
    #[must_use]
    pub(super) fn coverage(&self, length: u64, to: u64) -> f64 {
        let from = to.saturating_sub(length);
        let ring = if length <= 21_600 { &self.minutes } else { &self.fives };
        let seen = ring.sum(from, to).1 * u64::from(ring.width_s);
        (crate::binomial::to_f64(seen) / crate::binomial::to_f64(length.max(1))).min(1.0)
    }

    /// Counts by member in `[from, to)`, at most the last 30 minutes, members without events left out.
    #[must_use]
    pub(super) fn by_member(&self, from: u64, to: u64) -> Vec<(String, Counts)> {
        let from = from.max(to.saturating_sub(u64::from(SECONDS)));
        self.members
            .iter()
            .map(|(name, ring)| (name.clone(), ring.sum(from, to).0))
            .filter(|(_, counts)| counts.total > 0)
            .collect()
    }

    /// Seconds of `[from, to)` with bad events: (second, member, bad).
    pub(super) fn bad_seconds(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &str, u64)> {
        self.members.iter().flat_map(move |(name, ring)| {
            ring.range(from, to)
                .filter(|slot| slot.bad > 0)
                .map(move |slot| (u64::from(slot.index), name.as_str(), u64::from(slot.bad)))
        })
    }

    /// Seconds in which a member saw something, newest last; `None` before the first.
    #[must_use]
    pub(super) fn last_seen(&self) -> Option<u64> {
        self.members.values().filter_map(|ring| ring.slots.back()).map(|slot| u64::from(slot.index)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, History};

    const ONE_BAD: Counts = Counts { bad: 1, total: 1 };
    const ONE_GOOD: Counts = Counts { bad: 0, total: 1 };

    #[test]
    fn windows_count_what_lies_in_them_and_nothing_else() {
        let mut history = History::default();
        for second in 1000..2000 {
            history.add(second, "m1", if second < 1100 { ONE_BAD } else { ONE_GOOD });
        }
        assert_eq!(history.sum(1000, 2000), Counts { bad: 100, total: 1000 });
        assert_eq!(history.sum(1099, 1101), Counts { bad: 1, total: 2 });
        assert_eq!(history.sum(0, 1000), Counts::default());
        assert_eq!(history.sum(1500, 1500), Counts::default());
    }

    #[test]
    fn a_late_event_goes_to_its_own_second() {
        let mut history = History::default();
        history.add(50, "m1", ONE_GOOD);
        history.add(60, "m1", ONE_GOOD);
        history.add(55, "m1", ONE_BAD);
        assert_eq!(history.sum(55, 56), ONE_BAD);
        assert_eq!(history.sum(50, 61), Counts { bad: 1, total: 3 });
    }

    #[test]
    fn memory_is_bounded_over_a_month_and_over_many_members() {
        let mut history = History::default();
        for second in (0..30 * 86_400).step_by(7) {
            history.add(second, &format!("m{}", second % 40), ONE_GOOD);
        }
        assert!(history.members.len() <= 17);
        assert!(history.members.values().all(|ring| ring.slots.len() <= 1860));
        assert!(history.hour.slots.len() + history.minutes.slots.len() + history.fives.slots.len() <= 4902);
    }

    #[test]
    fn what_was_not_seen_lowers_the_coverage() {
        let mut history = History::default();
        for second in (0..1800).chain(2700..3600) {
            history.add(second, "m1", ONE_GOOD);
        }
        assert!((history.coverage(3600, 3600) - 0.75).abs() < 1e-9);
        assert_eq!(Counts::default().ratio(), None);
    }
}

//! When each kind of probe is due. Pure arithmetic on the time since the start; refuses to wait for an answer.

use std::time::Duration;

use model::probe::ProbeKind;

/// One kind of work with a schedule of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    SerializableRead,
    LinearizableRead,
    Status,
    LeaseCycle,
    Put,
}

impl Lane {
    pub(super) const COUNT: usize = 5;

    pub(super) fn index(self) -> usize {
        match self {
            Lane::SerializableRead => 0,
            Lane::LinearizableRead => 1,
            Lane::Status => 2,
            Lane::LeaseCycle => 3,
            Lane::Put => 4,
        }
    }

    /// The kind of its first (or only) request.
    pub(super) fn kind(self) -> ProbeKind {
        match self {
            Lane::SerializableRead => ProbeKind::SerializableRead,
            Lane::LinearizableRead => ProbeKind::LinearizableRead,
            Lane::Status => ProbeKind::Status,
            Lane::LeaseCycle => ProbeKind::LeaseGrant,
            Lane::Put => ProbeKind::Put,
        }
    }
}

/// One probe that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) lane: Lane,
    /// Since the start.
    pub(super) at: Duration,
}

/// The next due time of each lane.
#[derive(Debug)]
pub(super) struct Schedule {
    lanes: Vec<(Lane, Duration, Duration)>,
}

impl Schedule {
    /// Lanes by rate per second; one of rate 0 has no due time. The phase comes from the member's name, so that the
    /// probers of one node, and the lanes of one prober, do not ask in the same instant.
    pub(super) fn new(member: &str, rates: &[(Lane, f64)], from: Duration) -> Schedule {
        let lanes = rates
            .iter()
            .filter_map(|(lane, hz)| {
                let period = Duration::try_from_secs_f64(1.0 / hz).ok().filter(|period| !period.is_zero())?;
                let share = spread(member, lane.kind().name());
                Some((*lane, period, from + period.mul_f64(share)))
            })
            .collect();
        Schedule { lanes }
    }

    /// The earliest due time.
    pub(super) fn next(&self) -> Option<Duration> {
        self.lanes.iter().map(|(_, _, next)| *next).min()
    }

    /// All that is due by `now`, in order, and how many due times lie more than `late_max` back and are given up.
    pub(super) fn pop(&mut self, now: Duration, late_max: Duration) -> (Vec<Due>, u64) {
        let mut due = Vec::new();
        let mut late = 0_u64;
        let earliest = now.saturating_sub(late_max);
        for (lane, period, next) in &mut self.lanes {
            if *next < earliest {
                let (behind, step) = ((earliest - *next).as_nanos(), period.as_nanos().max(1));
                late = late.saturating_add(u64::try_from(behind.div_ceil(step)).unwrap_or(u64::MAX));
                // Stays on its own beat: the first multiple of the period that is not given up.
                let ahead = (step - behind % step) % step;
                *next = earliest + Duration::from_nanos(u64::try_from(ahead).unwrap_or(u64::MAX));
            }
            // At most late_max / period rounds, as the earlier ones were given up.
            while *next <= now {
                due.push(Due { lane: *lane, at: *next });
                *next += *period;
            }
        }
        due.sort_by_key(|due| due.at);
        (due, late)
    }
}

/// A share in [0, 1) from two names (FNV-1a, then a 64-bit mix: short names differ in their last bits only).
fn spread(member: &str, lane: &str) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in member.bytes().chain([0]).chain(lane.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    let high = u32::try_from(hash >> 32).unwrap_or(0);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(1);

    fn reads(hz: f64) -> Schedule {
        Schedule::new("m1", &[(Lane::SerializableRead, hz)], Duration::ZERO)
    }

    #[test]
    fn a_lane_keeps_its_period_whatever_happens_in_between() {
        let mut schedule = reads(0.5);
        let first = schedule.next().expect("a due time");
        for round in 0..5_u32 {
            let at = first + Duration::from_secs(2) * round;
            assert_eq!(schedule.next(), Some(at));
            let (due, late) = schedule.pop(at + Duration::from_millis(700), DEADLINE);
            assert_eq!((due, late), (vec![Due { lane: Lane::SerializableRead, at }], 0));
        }
    }

    #[test]
    fn due_times_that_the_agent_slept_through_are_counted_not_sent() {
        let mut schedule = reads(10.0);
        let first = schedule.next().expect("a due time");
        let (due, late) = schedule.pop(first + Duration::from_secs(5), DEADLINE);
        assert_eq!((due.len(), late), (11, 40));
        let years = Duration::from_secs(100 * 365 * 86_400);
        assert!((10..=11).contains(&schedule.pop(years, DEADLINE).0.len()));
    }

    #[test]
    fn rates_that_are_no_rates_have_no_due_time() {
        for hz in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(reads(hz).next(), None, "{hz}");
        }
    }

    #[test]
    fn members_and_lanes_are_spread() {
        let mut shares: Vec<f64> = Vec::new();
        for member in ["m1", "m2", "m3"] {
            for lane in ["serializable_read", "linearizable_read", "status"] {
                shares.push(spread(member, lane));
            }
        }
        shares.sort_by(f64::total_cmp);
        assert!(shares.iter().all(|share| (0.0..1.0).contains(share)), "{shares:?}");
        assert!(shares.windows(2).all(|pair| pair[1] - pair[0] > 0.001), "{shares:?}");
    }
}

//! When to try again, and when to speak of it: exponential back-off with jitter, what a receiver asked for, quiet logs.
//!
//! Owns the delays and the reading of `Retry-After`. The jitter comes from a seed that is handed in, so a test sees the same
//! delays twice; agents get different seeds, so a receiver that comes back is not hit by all at once. Refuses to read a clock.

use std::time::Duration;

/// After this many attempts the delay has long reached its maximum.
const DOUBLINGS_MAX: u32 = 16;

/// One warning a minute and signal: a receiver that refuses everything must not fill our own log.
const WARN_INTERVAL_NS: u64 = 60_000_000_000;

/// Back-off of one signal.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    state: u64,
}

impl Backoff {
    pub(crate) fn new(initial: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff { initial, max, state: seed }
    }

    /// The delay before attempt `attempt` + 1 (1 = the first one failed): half to all of the doubled interval.
    pub(crate) fn delay(&mut self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(DOUBLINGS_MAX);
        let whole = self.initial.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(0.5 + 0.5 * self.share())
    }

    /// What a receiver asked for: at most ten times our own maximum, and a tenth more at random.
    pub(crate) fn asked(&mut self, delay: Duration) -> Duration {
        delay.min(self.max.saturating_mul(10)).mul_f64(1.0 + 0.1 * self.share())
    }

    /// SplitMix64, as a share of one.
    #[expect(clippy::cast_precision_loss, reason = "53 random bits are exactly what a float holds")]
    fn share(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Says something at most once in [`WARN_INTERVAL_NS`].
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    spoke_ns: Option<u64>,
}

impl Quiet {
    pub(crate) fn speak(&mut self, now_ns: u64) -> bool {
        let may = self.spoke_ns.is_none_or(|spoke| now_ns.saturating_sub(spoke) >= WARN_INTERVAL_NS);
        if may {
            self.spoke_ns = Some(now_ns);
        }
        may
    }
}

/// `Retry-After`: seconds, or an HTTP date against the wall clock. A date in the past asks for no delay.
pub(crate) fn retry_after(value: &str, now_wall_ns: u64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let at_ns = u128::try_from(date.as_nanosecond()).unwrap_or(0);
    let wait_ns = at_ns.saturating_sub(u128::from(now_wall_ns));
    Some(Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_maximum_and_keep_half_of_it() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 30 * second, 7);
        for (attempt, whole) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (7, 30), (u32::MAX, 30)] {
            let delay = backoff.delay(attempt);
            assert!(delay >= second * whole / 2 && delay <= second * whole, "{attempt}: {delay:?}");
        }
    }

    #[test]
    fn one_seed_gives_one_sequence_and_another_seed_another() {
        let sequence = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30), seed);
            (1..10).map(|attempt| backoff.delay(attempt)).collect::<Vec<_>>()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
    }

    #[test]
    fn an_outage_is_told_once_a_minute() {
        let mut quiet = Quiet::default();
        let said: Vec<bool> =
            [0, 1, 59, 60, 61, 120].map(|second| quiet.speak(second * 1_000_000_000)).to_vec();
        assert_eq!(said, [true, false, false, true, false, true]);
    }

    #[test]
    fn a_wish_is_granted_up_to_a_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30), 7);
        let granted = backoff.asked(Duration::from_secs(100));
        assert!(granted >= Duration::from_secs(100) && granted <= Duration::from_secs(110), "{granted:?}");
        assert!(backoff.asked(Duration::MAX) <= Duration::from_secs(330));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = 1_700_000_000_000_000_000; // Tue, 14 Nov 2023 22:13:20 GMT
        let check = |value: &str, expected: Option<u64>| {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        };
        check("120", Some(120));
        check(" 0 ", Some(0));
        check("Tue, 14 Nov 2023 22:14:20 GMT", Some(60));
        check("Tue, 14 Nov 2023 22:00:00 GMT", Some(0));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(0));
        check("-1", None);
        check("soon", None);
        check("", None);
        check("99999999999999999999", None);
    }
}

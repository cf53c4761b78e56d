//! Times and durations as loggers write them. Owns the arithmetic; refuses to guess a time zone (a time without one is UTC
//! until the reader says otherwise).

use model::time::SECOND_NS;

const DAY_S: i64 = 86_400;
/// Years outside this range do not fit into 64 bits of nanoseconds, or are a broken clock.
const YEARS: std::ops::RangeInclusive<i64> = 1970..=2200;

/// A time of day with or without a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Nanoseconds since the epoch, read as UTC where no zone was written.
    pub ns: u64,
    /// Whether a zone was written.
    pub zoned: bool,
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl Scanner<'_> {
    fn digits(&mut self, n: usize) -> Option<i64> {
        let mut value = 0;
        for _ in 0..n {
            let (&byte, rest) = self.rest.split_first()?;
            if !byte.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i64::from(byte - b'0');
            self.rest = rest;
        }
        Some(value)
    }

    fn one_of(&mut self, wanted: &[u8]) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        if !wanted.contains(&byte) {
            return None;
        }
        self.rest = rest;
        Some(byte)
    }

    /// Digits after the point as nanoseconds; more than nine are read and forgotten.
    fn fraction_ns(&mut self) -> i64 {
        if self.one_of(b".,").is_none() {
            return 0;
        }
        let (mut ns, mut unit) = (0, 100_000_000);
        while let Some(digit) = self.digits(1) {
            ns += digit * unit;
            unit /= 10;
        }
        ns
    }

    /// `Z`, `+0800`, `+08:00`, `-03` as seconds east of UTC; `None` where nothing of the kind follows.
    fn zone_s(&mut self) -> Option<i64> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours = self.digits(2)?;
        if self.rest.first() == Some(&b':') {
            self.one_of(b":")?;
        }
        let minutes = if self.rest.first().is_some_and(u8::is_ascii_digit) { self.digits(2)? } else { 0 };
        Some(sign * (hours * 3600 + minutes * 60))
    }
}

/// Days since the epoch of a civil date (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `2026-11-21T03:00:00.123456Z` in all its forms: `T` or a space, `-` or `/`, any number of fractional digits, a zone or
/// none. Returns the time and how many bytes it took.
#[must_use]
pub(super) fn civil(text: &[u8]) -> Option<(Written, usize)> {
    let mut scan = Scanner { rest: text };
    let year = scan.digits(4)?;
    let dash = scan.one_of(b"-/")?;
    let month = scan.digits(2)?;
    scan.one_of(&[dash])?;
    let day = scan.digits(2)?;
    scan.one_of(b"T ")?;
    let hour = scan.digits(2)?;
    scan.one_of(b":")?;
    let minute = scan.digits(2)?;
    scan.one_of(b":")?;
    let second = scan.digits(2)?;
    let possible = YEARS.contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !possible {
        return None;
    }
    let fraction = scan.fraction_ns();
    let zone = scan.zone_s();
    let seconds = days(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - zone.unwrap_or(0);
    let ns =
        u64::try_from(seconds).ok()?.checked_mul(SECOND_NS)?.checked_add(u64::try_from(fraction).ok()?)?;
    Some((Written { ns, zoned: zone.is_some() }, text.len() - scan.rest.len()))
}

/// A civil time that fills the whole text.
#[must_use]
pub(super) fn civil_whole(text: &str) -> Option<Written> {
    civil(text.as_bytes()).filter(|(_, taken)| *taken == text.len()).map(|(written, _)| written)
}

/// Nanoseconds of an epoch number whose unit shows in its size: seconds, milli-, micro- or nanoseconds (they do not overlap
/// between 2001 and 2286).
#[must_use]
pub(super) fn epoch(value: f64) -> Option<u64> {
    let scale = match value {
        v if (1e9..1e10).contains(&v) => 1e9,
        v if (1e12..1e13).contains(&v) => 1e6,
        v if (1e15..1e16).contains(&v) => 1e3,
        v if (1e18..1e19).contains(&v) => 1.0,
        _ => return None,
    };
    whole_ns(value * scale)
}

/// The same of a whole number, to the nanosecond: a float has only 53 bits, which is 256 ns in our days.
#[must_use]
pub(super) fn epoch_whole(value: i64) -> Option<u64> {
    let scale = match u64::try_from(value).ok()?.checked_ilog10()? {
        9 => SECOND_NS,
        12 => 1_000_000,
        15 => 1_000,
        18 => 1,
        _ => return None,
    };
    u64::try_from(value).ok()?.checked_mul(scale)
}

/// A duration as Go prints it: `318.774µs`, `1m2.5s`, `0s`. Also what others write alike: `12 ms`, `3us`.
#[must_use]
pub(super) fn go_duration(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    let mut parts = 0;
    while !rest.is_empty() && parts < 8 {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(number_end)?;
        let tail = tail.trim_start();
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at_checked(unit_end)?;
        total += number.parse::<f64>().ok()? * unit_ns(unit.trim_end())?;
        rest = next;
        parts += 1;
    }
    if parts == 0 { None } else { whole_ns(total) }
}

/// Nanoseconds in a unit's name.
#[must_use]
pub(super) fn unit_ns(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" | "sec" | "seconds" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3_600e9,
        _ => return None,
    })
}

/// A float as whole nanoseconds; `None` when negative, not a number, or longer than 100 years.
#[must_use]
pub(super) fn whole_ns(value: f64) -> Option<u64> {
    if !(0.0..1e19).contains(&value) {
        return None;
    }
    // In range by the check above; the fraction of a nanosecond is of no interest.
    Some(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_795_176_000 * SECOND_NS; // 2026-11-20T12:00:00Z

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(civil_whole(text).map(|written| written.ns), expected, "{text}");
    }

    #[test]
    fn all_forms_of_a_time_are_read() {
        check("2026-11-20T12:00:00Z", Some(NOON));
        check("2026-11-20T12:00:00.307Z", Some(NOON + 307_000_000));
        check("2026-11-20T12:00:00.999999Z", Some(NOON + 999_999_000));
        check("2026-11-20T12:00:00.99Z", Some(NOON + 990_000_000));
        check("2026-11-20T20:00:00.1+0800", Some(NOON + 100_000_000));
        check("2026-11-20T06:30:00-05:30", Some(NOON));
        check("2026-11-20 12:00:00.769904", Some(NOON + 769_904_000));
        check("2026/11/20 12:00:00", Some(NOON));
        check("1970-01-01T00:00:00Z", Some(0));
        check("2024-02-29T00:00:00Z", Some(1_709_164_800 * SECOND_NS));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        check("2026-13-20T12:00:00Z", None);
        check("2026-11-20T12:00", None);
        check("9999-11-20T12:00:00Z", None);
        check("", None);
        check("2026-11-20T12:00:00Zjunk", None);
    }

    #[test]
    fn go_durations_are_read() {
        let check = |text: &str, expected| assert_eq!(go_duration(text), expected, "{text}");
        check("318.774µs", Some(318_774));
        check("1m2.5s", Some(62_500_000_000));
        check("97ns", Some(97));
        check("2.494477436s", Some(2_494_477_436));
        check("0s", Some(0));
        check("12 ms", Some(12_000_000));
        check("", None);
        check("12", None);
        check("5 parsecs", None);
        check("-3ms", None);
    }

    #[test]
    fn the_unit_of_an_epoch_shows_in_its_size() {
        assert_eq!(epoch(1_795_176_000.5), Some(NOON + 500_000_000));
        assert_eq!(epoch(1_795_176_000_500.0), Some(NOON + 500_000_000));
        assert_eq!(epoch(-6.8e18), None);
        assert_eq!(epoch_whole(1_795_176_000), Some(NOON));
        assert_eq!(epoch_whole(1_795_176_000_123), Some(NOON + 123_000_000));
        assert_eq!(epoch_whole(1_795_176_000_123_456), Some(NOON + 123_456_000));
        assert_eq!(epoch_whole(1_795_176_000_123_456_789), Some(NOON + 123_456_789));
        for nothing in [i64::MIN, -1, 0, 12, 99_999_999_999, 100_000_000_000_000] {
            assert_eq!(epoch_whole(nothing), None, "{nothing}");
        }
        assert_eq!(epoch(f64::NAN), None);
    }
}

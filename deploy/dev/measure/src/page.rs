//! Pages in Prometheus' text format, as far as is needed here: series by name, and histograms as exact bucket counts.

use std::collections::BTreeMap;

use serde::Serialize;

/// One line of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Series<'a> {
    /// Name.
    pub(crate) name: &'a str,
    labels: &'a str,
    /// Value.
    pub(crate) value: f64,
}

impl<'a> Series<'a> {
    /// A label's value; empty where it is missing. Values with quotes in them are not read here.
    pub(crate) fn label(&self, name: &str) -> &'a str {
        let start = format!("{name}=\"");
        let found = self.labels.split(',').find_map(|label| label.strip_prefix(start.as_str()));
        found.map_or("", |value| value.trim_end_matches('"'))
    }
}

/// All series of a page; comments and what cannot be read are left out.
pub(crate) fn series(page: &str) -> impl Iterator<Item = Series<'_>> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some(Series { name, labels: labels.trim_end_matches('}'), value: value.parse().ok()? })
    })
}

/// Counts of one name by the `reason` label, those that are not 0.
pub(crate) fn by_reason(page: &str, name: &str) -> BTreeMap<String, u64> {
    series(page)
        .filter(|series| series.name == name && series.value > 0.0)
        .map(|series| (series.label("reason").to_owned(), series.value as u64))
        .collect()
}

/// A histogram of seconds: how many observations at most so long, by the bound. Bounds are kept as microseconds: all of
/// etcd's are whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Histogram {
    /// Upper bound in microseconds (`u64::MAX` for all) with the cumulative count.
    pub(crate) up_to_us: BTreeMap<u64, u64>,
}

/// A quantile, and what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Quantile {
    /// Interpolated within its bucket, milliseconds.
    pub(crate) ms: f64,
    /// The bucket's bounds: the quantile lies between these, whatever the interpolation says.
    pub(crate) bucket_ms: (f64, f64),
    /// Observations.
    pub(crate) n: u64,
}

impl Histogram {
    /// Reads one family without labels of its own.
    pub(crate) fn of(page: &str, family: &str) -> Histogram {
        let name = format!("{family}_bucket");
        let up_to_us = series(page)
            .filter(|series| series.name == name)
            .filter_map(|series| {
                let bound = match series.label("le") {
                    "+Inf" => u64::MAX,
                    seconds => (seconds.parse::<f64>().ok()? * 1e6).round() as u64,
                };
                Some((bound, series.value as u64))
            })
            .collect();
        Histogram { up_to_us }
    }

    /// What was observed since `before`, which is of the same process.
    pub(crate) fn since(&self, before: &Histogram) -> Histogram {
        let delta = |(bound, count): (&u64, &u64)| {
            (*bound, count.saturating_sub(before.up_to_us.get(bound).copied().unwrap_or(0)))
        };
        Histogram { up_to_us: self.up_to_us.iter().map(delta).collect() }
    }

    /// Adds observations with the same bounds.
    pub(crate) fn add(&mut self, other: &Histogram) {
        for (bound, count) in &other.up_to_us {
            *self.up_to_us.entry(*bound).or_default() += count;
        }
    }

    /// Observations.
    pub(crate) fn n(&self) -> u64 {
        self.up_to_us.last_key_value().map_or(0, |(_, count)| *count)
    }

    /// Linear within the bucket, as Prometheus does it; `None` without observations. Beyond the last bound there is
    /// nothing to interpolate to: the bound itself is given.
    pub(crate) fn quantile(&self, q: f64) -> Option<Quantile> {
        let n = self.n();
        let rank = q * n as f64;
        let (mut low_us, mut below) = (0_u64, 0_u64);
        for (&bound_us, &count) in self.up_to_us.iter().filter(|_| n > 0) {
            if count as f64 >= rank && count > below {
                let high_us = if bound_us == u64::MAX { low_us } else { bound_us };
                let share = (rank - below as f64) / (count - below) as f64;
                let us = low_us as f64 + (high_us - low_us) as f64 * share;
                let bucket_ms = (low_us as f64 / 1e3, high_us as f64 / 1e3);
                return Some(Quantile { ms: us / 1e3, bucket_ms, n });
            }
            (low_us, below) = (bound_us, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Histogram, Quantile, by_reason, series};

    const PAGE: &str = "# HELP f_seconds x\n\
        f_seconds_bucket{le=\"0.001\"} 10\nf_seconds_bucket{le=\"0.002\"} 90\nf_seconds_bucket{le=\"0.004\"} 100\n\
        f_seconds_bucket{le=\"+Inf\"} 100\nf_seconds_count 100\nbroken\n\
        a_total{reason=\"scrape\"} 7\na_total{reason=\"none\"} 0\na_total 2\n";

    fn quantile(page: &str, q: f64) -> Option<(f64, (f64, f64), u64)> {
        let found = Histogram::of(page, "f_seconds").quantile(q);
        found.map(|Quantile { ms, bucket_ms, n }| (ms, bucket_ms, n))
    }

    #[test]
    fn lines_are_taken_apart() {
        assert_eq!(series(PAGE).filter(|series| series.name == "a_total").count(), 3);
        assert_eq!(
            by_reason(PAGE, "a_total").into_iter().collect::<Vec<_>>(),
            [(String::new(), 2), ("scrape".to_owned(), 7)]
        );
    }

    #[test]
    fn quantiles_are_interpolated_and_name_their_bucket() {
        assert_eq!(quantile(PAGE, 0.5), Some((1.5, (1.0, 2.0), 100)));
        assert_eq!(quantile(PAGE, 0.95), Some((3.0, (2.0, 4.0), 100)));
        assert_eq!(quantile(PAGE, 0.05), Some((0.5, (0.0, 1.0), 100)));
        assert_eq!(quantile("", 0.5), None);
        let empty = PAGE.replace(" 100", " 0").replace(" 90", " 0").replace(" 10\n", " 0\n");
        assert_eq!(quantile(&empty, 0.5), None);
    }

    #[test]
    fn what_lies_beyond_the_last_bound_is_at_least_that() {
        let page = "f_seconds_bucket{le=\"0.001\"} 1\nf_seconds_bucket{le=\"+Inf\"} 2\n";
        assert_eq!(quantile(page, 0.99), Some((1.0, (1.0, 1.0), 2)));
    }

    #[test]
    fn deltas_of_several_members_add_up() {
        let (early, late) = (
            Histogram::of("f_seconds_bucket{le=\"0.001\"} 5\nf_seconds_bucket{le=\"+Inf\"} 6\n", "f_seconds"),
            Histogram::of(
                "f_seconds_bucket{le=\"0.001\"} 8\nf_seconds_bucket{le=\"+Inf\"} 10\n",
                "f_seconds",
            ),
        );
        let mut sum = late.since(&early);
        assert_eq!((sum.n(), sum.up_to_us.get(&1_000)), (4, Some(&3)));
        sum.add(&late.since(&early));
        assert_eq!(sum.n(), 8);
    }
}

//! What two metrics pages of a member say of the time between them. Owns the names of etcd's families; refuses to give a
//! figure for what a version does not have, or when the member restarted in between.

use model::scrape::{PointShape, Scrape, ScrapeOutcome};

use super::decide::P99;

/// Two pages of one process, the earlier one first.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    before: Option<&'a Scrape>,
    after: Option<&'a Scrape>,
}

impl<'a> Pages<'a> {
    /// A page that did not come is none; neither is the earlier one of a process that is gone.
    pub(super) fn new(before: Option<&'a Scrape>, after: Option<&'a Scrape>) -> Pages<'a> {
        let up = |page: &&Scrape| page.outcome == ScrapeOutcome::Up;
        let (before, after) = (before.filter(up), after.filter(up));
        let restarted = after.is_some_and(|page| page.restarted);
        Pages { before: before.filter(|_| !restarted), after: after.or(before) }
    }

    /// The sum of a family's values now.
    pub(super) fn now(&self, family: &str) -> Option<f64> {
        sum(self.after?, family)
    }

    /// How much a counter grew.
    pub(super) fn grown(&self, family: &str) -> Option<f64> {
        Some((sum(self.after?, family)? - sum(self.before?, family)?).max(0.0))
    }

    /// How many observations, and the sum of their values, a histogram or summary gained.
    pub(super) fn gained(&self, family: &str) -> Option<(f64, f64)> {
        let (count, total) = count_and_sum(self.after?, family)?;
        let (count_before, total_before) = count_and_sum(self.before?, family)?;
        Some(((count - count_before).max(0.0), (total - total_before).max(0.0)))
    }

    /// The 99th percentile of what a histogram gained, linear within its bucket as Prometheus' `histogram_quantile` has it.
    /// `None` without an observation.
    pub(super) fn p99(&self, family: &str) -> Option<P99> {
        let (after, before) = (buckets(self.after?, family)?, buckets(self.before?, family)?);
        let gained: Vec<(f64, f64)> = after
            .iter()
            .map(|(le, value)| {
                let same = before.iter().find(|(known, _)| known.total_cmp(le).is_eq());
                (*le, value - same.map_or(0.0, |(_, value)| *value))
            })
            .collect();
        quantile(&gained, 0.99)
    }

    /// The value of a label of a family that is always 1, such as a version.
    pub(super) fn label(&self, family: &str, label: &str) -> Option<String> {
        let point = self.after?.layout.find(family, &[])?;
        point.labels.iter().find(|(name, _)| name == label).map(|(_, value)| value.clone())
    }
}

/// Cumulative buckets, ascending.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<P99> {
    let (_, total) = buckets.last().filter(|(_, total)| *total >= 1.0)?;
    let rank = q * total;
    let at = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (lower, below) = at.checked_sub(1).and_then(|at| buckets.get(at)).copied().unwrap_or((0.0, 0.0));
    let (upper, count) = *buckets.get(at)?;
    let n = total.round() as u64;
    if upper.is_infinite() {
        return Some(P99 { seconds: lower, beyond: true, n });
    }
    let within = if count > below { (rank - below) / (count - below) } else { 1.0 };
    Some(P99 { seconds: lower + (upper - lower) * within, beyond: false, n })
}

fn points<'a>(page: &'a Scrape, family: &str) -> impl Iterator<Item = &'a PointShape> {
    let index = page.layout.families.iter().position(|known| known.name == family);
    let index = index.and_then(|index| u32::try_from(index).ok());
    page.layout.points.iter().filter(move |point| Some(point.family) == index).map(|point| &point.shape)
}

fn sum(page: &Scrape, family: &str) -> Option<f64> {
    let values: Vec<f64> = points(page, family)
        .filter_map(|shape| match shape {
            PointShape::Value { series } => page.value(*series),
            PointShape::Histogram { .. } | PointShape::Summary { .. } => None,
        })
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn count_and_sum(page: &Scrape, family: &str) -> Option<(f64, f64)> {
    points(page, family).find_map(|shape| match shape {
        PointShape::Histogram { count, sum, .. } | PointShape::Summary { count, sum, .. } => {
            Some((page.value((*count)?)?, page.value((*sum)?)?))
        }
        PointShape::Value { .. } => None,
    })
}

fn buckets(page: &Scrape, family: &str) -> Option<Vec<(f64, f64)>> {
    points(page, family).find_map(|shape| match shape {
        PointShape::Histogram { buckets, .. } => {
            Some(buckets.iter().filter_map(|(le, series)| Some((*le, page.value(*series)?))).collect())
        }
        PointShape::Value { .. } | PointShape::Summary { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(buckets: &[(f64, f64)], expected: Option<(f64, bool, u64)>) {
        let seen = quantile(buckets, 0.99).map(|p99| ((p99.seconds * 1e6).round() / 1e6, p99.beyond, p99.n));
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_percentile_is_linear_within_its_bucket() {
        check(&[(0.001, 0.0), (0.002, 100.0), (f64::INFINITY, 100.0)], Some((0.001_99, false, 100)));
        check(&[(0.001, 99.0), (0.002, 100.0), (f64::INFINITY, 100.0)], Some((0.001, false, 100)));
        check(&[(0.001, 1.0), (8.192, 1.0), (f64::INFINITY, 10.0)], Some((8.192, true, 10)));
    }

    #[test]
    fn nothing_observed_is_no_percentile() {
        check(&[(0.001, 0.0), (f64::INFINITY, 0.0)], None);
        check(&[], None);
    }
}

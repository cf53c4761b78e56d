//! Builds a [`Layout`] from the series of a page: families, points, histograms grouped by their labels.
//!
//! Owns the slow path, taken once a generation. Refuses series that contradict their family, one at a time: a bad
//! histogram never sinks the page.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use model::scrape::{Family, Layout, MetricKind, Point, PointShape};

use super::exposition::Reject;
use super::exposition::key::Key;

/// What the scraper says of the scrape itself, after Prometheus; last in each layout, in this order.
pub(super) const SYNTHETIC: [(&str, &str); 5] = [
    ("up", "1 if the page came, 0 if not."),
    ("scrape_duration_seconds", "Request sent to body read."),
    ("scrape_samples_scraped", "Samples on the page."),
    (
        "scrape_samples_post_metric_relabeling",
        "Samples kept: duplicates, rejects and those beyond a limit are not.",
    ),
    ("scrape_series_added", "Series on this page that were not on the one before."),
];

/// What is known of a family before its first sample.
#[derive(Debug, Default)]
struct Meta {
    kind: Option<MetricKind>,
    help: Option<String>,
}

/// A layout in the making. Series get their ids in the order in which they are added.
#[derive(Debug, Default)]
pub(super) struct Builder {
    meta: HashMap<String, Meta>,
    families: Vec<Family>,
    family_by_name: HashMap<String, u32>,
    points: Vec<Point>,
    point_by_labels: HashMap<(u32, Vec<(String, String)>), u32>,
    // (point, bits of the bound): a hostile histogram of a million buckets must not cost a square of them.
    bounds: HashSet<(u32, u64)>,
    series: u32,
}

/// Which part of a family's point a sample is.
#[derive(Clone, Copy, Debug)]
enum Part {
    Value,
    Bucket(f64),
    Quantile(f64),
    Count,
    Sum,
}

impl Builder {
    /// TYPE of a family; the first one counts.
    pub(super) fn kind(&mut self, family: String, kind: MetricKind) -> Result<(), Reject> {
        let known = self.meta.entry(family).or_default().kind.get_or_insert(kind);
        if *known == kind { Ok(()) } else { Err(Reject::TypeConflict) }
    }

    /// HELP of a family; the first one counts.
    pub(super) fn help(&mut self, family: String, text: String) {
        self.meta.entry(family).or_default().help.get_or_insert(text);
    }

    /// How many series there are so far.
    pub(super) fn len(&self) -> u32 {
        self.series
    }

    /// Adds a series and gives its id, which is [`Builder::len`] before the call.
    pub(super) fn series(&mut self, key: Key) -> Result<u32, Reject> {
        if SYNTHETIC.iter().any(|(name, _)| *name == key.name) {
            return Err(Reject::Reserved);
        }
        let Key { name, mut labels } = key;
        let (family, kind, part) = self.place(name, &mut labels)?;
        let family = self.family(family, kind);
        let id = self.series;
        let point = match self.point_by_labels.entry((family, labels)) {
            Entry::Occupied(known) => {
                let point = self.points.get_mut(index(*known.get())).ok_or(Reject::Duplicate)?;
                unique(&mut self.bounds, *known.get(), part)?;
                fill(&mut point.shape, part, id)?;
                None
            }
            Entry::Vacant(free) => {
                let mut shape = empty(kind, id);
                fill(&mut shape, part, id)?;
                let labels = free.key().1.clone();
                let point = count(self.points.len());
                unique(&mut self.bounds, point, part)?;
                free.insert(point);
                Some(Point { family, labels, shape })
            }
        };
        self.points.extend(point);
        self.series += 1;
        Ok(id)
    }

    /// Which family a sample belongs to, of what kind it is, and which part; takes `le` and `quantile` out of `labels`.
    fn place(
        &self,
        mut name: String,
        labels: &mut Vec<(String, String)>,
    ) -> Result<(String, MetricKind, Part), Reject> {
        match self.declared(&name) {
            Some(MetricKind::Histogram) => return Err(Reject::BadSuffix),
            Some(MetricKind::Summary) => {
                let quantile = take_bound(labels, "quantile")?;
                return Ok((name, MetricKind::Summary, Part::Quantile(quantile)));
            }
            Some(kind) => return Ok((name, kind, Part::Value)),
            None => {}
        }
        for suffix in ["_bucket", "_count", "_sum", "_total"] {
            let Some(base) = name.strip_suffix(suffix) else { continue };
            let (kind, part) = match (self.declared(base), suffix) {
                (Some(MetricKind::Histogram), "_bucket") => {
                    (MetricKind::Histogram, Part::Bucket(take_bound(labels, "le")?))
                }
                (Some(kind @ (MetricKind::Histogram | MetricKind::Summary)), "_count") => (kind, Part::Count),
                (Some(kind @ (MetricKind::Histogram | MetricKind::Summary)), "_sum") => (kind, Part::Sum),
                // OpenMetrics declares `x` and samples `x_total`; the sample's name is the one that people query.
                (Some(MetricKind::Counter), "_total") => return Ok((name, MetricKind::Counter, Part::Value)),
                _ => continue,
            };
            name.truncate(base.len());
            return Ok((name, kind, part));
        }
        Ok((name, MetricKind::Unknown, Part::Value))
    }

    fn declared(&self, family: &str) -> Option<MetricKind> {
        self.meta.get(family)?.kind
    }

    fn family(&mut self, name: String, kind: MetricKind) -> u32 {
        if let Some(known) = self.family_by_name.get(&name) {
            return *known;
        }
        let meta = self.meta.get(&name).or_else(|| self.meta.get(name.strip_suffix("_total")?));
        let help = meta.and_then(|meta| meta.help.clone()).unwrap_or_default();
        let id = count(self.families.len());
        self.families.push(Family { name: name.clone(), kind, help });
        self.family_by_name.insert(name, id);
        id
    }

    /// Adds the synthetic series, sorts buckets and quantiles, and gives the layout.
    pub(super) fn finish(mut self, generation: u64) -> Layout {
        for (name, help) in SYNTHETIC {
            let family = count(self.families.len());
            let kind = MetricKind::Gauge;
            self.families.push(Family { name: name.to_owned(), kind, help: help.to_owned() });
            let shape = PointShape::Value { series: self.series };
            self.points.push(Point { family, labels: Vec::new(), shape });
            self.series += 1;
        }
        for point in &mut self.points {
            match &mut point.shape {
                PointShape::Histogram { buckets: bounds, .. }
                | PointShape::Summary { quantiles: bounds, .. } => {
                    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
                }
                PointShape::Value { .. } => {}
            }
        }
        let Builder { families, points, series, .. } = self;
        Layout { generation, families, points, series }
    }
}

/// Removes a label and reads it as a number.
fn take_bound(labels: &mut Vec<(String, String)>, name: &str) -> Result<f64, Reject> {
    let at = labels.iter().position(|(label, _)| label == name).ok_or(Reject::BadBound)?;
    let (_, text) = labels.remove(at);
    let bound = super::exposition::value(text.as_bytes()).ok_or(Reject::BadBound)?;
    if bound.is_nan() { Err(Reject::BadBound) } else { Ok(bound) }
}

fn empty(kind: MetricKind, id: u32) -> PointShape {
    match kind {
        MetricKind::Histogram => PointShape::Histogram { buckets: Vec::new(), count: None, sum: None },
        MetricKind::Summary => PointShape::Summary { quantiles: Vec::new(), count: None, sum: None },
        MetricKind::Counter | MetricKind::Gauge | MetricKind::Unknown => PointShape::Value { series: id },
    }
}

/// Puts a series into its place of a point; a place that is taken is a duplicate, whatever its spelling on the page.
fn fill(shape: &mut PointShape, part: Part, id: u32) -> Result<(), Reject> {
    let (bounds, count, sum) = match shape {
        PointShape::Histogram { buckets, count, sum } => (buckets, count, sum),
        PointShape::Summary { quantiles, count, sum } => (quantiles, count, sum),
        PointShape::Value { series } => return if *series == id { Ok(()) } else { Err(Reject::Duplicate) },
    };
    match part {
        Part::Bucket(bound) | Part::Quantile(bound) => bounds.push((bound, id)),
        Part::Count => claim(count, id)?,
        Part::Sum => claim(sum, id)?,
        Part::Value => return Err(Reject::BadSuffix),
    }
    Ok(())
}

/// Refuses a bound that the point has already: `1` and `1.0` are one.
fn unique(bounds: &mut HashSet<(u32, u64)>, point: u32, part: Part) -> Result<(), Reject> {
    match part {
        Part::Bucket(bound) | Part::Quantile(bound) if !bounds.insert((point, bound.to_bits())) => {
            Err(Reject::Duplicate)
        }
        _ => Ok(()),
    }
}

fn claim(place: &mut Option<u32>, id: u32) -> Result<(), Reject> {
    if place.is_some() {
        return Err(Reject::Duplicate);
    }
    *place = Some(id);
    Ok(())
}

/// An id as a place in a vector.
pub(super) fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// A length as an id; the limits on series keep it far below the end of the range.
pub(super) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::exposition::key;
    use super::*;

    fn build(kinds: &[(&str, MetricKind)], series: &[&str]) -> (Layout, Vec<Reject>) {
        let mut builder = Builder::default();
        for (name, kind) in kinds {
            builder.kind((*name).to_owned(), *kind).unwrap();
        }
        let rejects = series
            .iter()
            .filter_map(|raw| builder.series(key::split(raw.as_bytes()).unwrap()).err())
            .collect();
        (builder.finish(1), rejects)
    }

    #[test]
    fn a_histogram_is_one_point_a_label_set_with_ascending_bounds() {
        let (layout, rejects) = build(
            &[("h", MetricKind::Histogram)],
            &[
                "h_bucket{le=\"+Inf\",a=\"1\"}",
                "h_bucket{a=\"1\",le=\"1e-3\"}",
                "h_bucket{a=\"1\",le=\"0.5\"}",
                "h_sum{a=\"1\"}",
                "h_count{a=\"1\"}",
                "h_count{a=\"2\"}",
            ],
        );
        assert!(rejects.is_empty());
        assert_eq!(layout.families.len(), 1 + SYNTHETIC.len());
        let shape = &layout.find("h", &[("a", "1")]).unwrap().shape;
        let buckets = vec![(0.001, 1), (0.5, 2), (f64::INFINITY, 0)];
        assert_eq!(*shape, PointShape::Histogram { buckets, sum: Some(3), count: Some(4) });
        let lonely = &layout.find("h", &[("a", "2")]).unwrap().shape;
        assert_eq!(*lonely, PointShape::Histogram { buckets: vec![], sum: None, count: Some(5) });
    }

    #[test]
    fn a_summary_keeps_its_quantiles_and_needs_none() {
        let kinds = [("s", MetricKind::Summary), ("t", MetricKind::Summary)];
        let (layout, rejects) =
            build(&kinds, &["s{quantile=\"1\"}", "s{quantile=\"0\"}", "s_sum", "t_count"]);
        assert!(rejects.is_empty());
        let quantiles = vec![(0.0, 1), (1.0, 0)];
        assert_eq!(
            layout.find("s", &[]).unwrap().shape,
            PointShape::Summary { quantiles, count: None, sum: Some(2) }
        );
        assert_eq!(
            layout.find("t", &[]).unwrap().shape,
            PointShape::Summary { quantiles: vec![], count: Some(3), sum: None }
        );
    }

    #[test]
    fn a_name_that_only_ends_like_a_histogram_is_a_family_of_its_own() {
        let kinds = [("a_count", MetricKind::Gauge), ("c", MetricKind::Counter)];
        let (layout, rejects) = build(&kinds, &["a_count", "b_sum", "c_total"]);
        assert!(rejects.is_empty());
        let kinds: Vec<_> = layout.families.iter().take(3).map(|f| (f.name.as_str(), f.kind)).collect();
        let expected = [
            ("a_count", MetricKind::Gauge),
            ("b_sum", MetricKind::Unknown),
            ("c_total", MetricKind::Counter),
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn what_contradicts_its_family_is_refused_alone() {
        let (layout, rejects) = build(
            &[("h", MetricKind::Histogram), ("s", MetricKind::Summary)],
            &[
                "h",
                "h_bucket",
                "h_bucket{le=\"x\"}",
                "h_bucket{le=\"NaN\"}",
                "h_bucket{le=\"1\"}",
                "h_bucket{le=\"1.0\"}",
                "s",
                "g{a=\"1\",b=\"2\"}",
                "g{b=\"2\",a=\"1\"}",
                "up",
                "h_count",
            ],
        );
        let expected = [
            Reject::BadSuffix,
            Reject::BadBound,
            Reject::BadBound,
            Reject::BadBound,
            Reject::Duplicate,
            Reject::BadBound,
            Reject::Duplicate,
            Reject::Reserved,
        ];
        assert_eq!(rejects, expected);
        assert_eq!(layout.series, 3 + 5);
        assert_eq!(layout.points.len(), 2 + 5);
    }

    #[test]
    fn synthetic_series_come_last_and_the_first_type_counts() {
        let mut builder = Builder::default();
        builder.kind("a".to_owned(), MetricKind::Gauge).unwrap();
        assert_eq!(builder.kind("a".to_owned(), MetricKind::Gauge), Ok(()));
        assert_eq!(builder.kind("a".to_owned(), MetricKind::Counter), Err(Reject::TypeConflict));
        builder.series(key::split(b"a").unwrap()).unwrap();
        let layout = builder.finish(7);
        assert_eq!((layout.generation, layout.series), (7, 6));
        let last = layout.points.last().unwrap();
        assert_eq!(layout.families[index(last.family)].name, "scrape_series_added");
        assert_eq!(last.shape, PointShape::Value { series: 5 });
    }
}

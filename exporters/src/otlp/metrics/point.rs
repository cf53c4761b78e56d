//! One data point: whether it stands on a page, and its bytes.
//!
//! Owns the arithmetic of histograms and what counts as a lie (a count that is none). Sizes are known before writing where
//! it is cheap, so that the most frequent point, a single value, is three copies.

use model::scrape::{PointShape, is_absent, is_stale};

use crate::otlp::wire::{Value, Writer};

/// `DataPointFlags`: the series has ended.
const NO_RECORDED_VALUE: u64 = 1;

#[derive(Debug)]
pub(super) struct PointPart {
    pub(super) attributes: Vec<u8>,
    pub(super) series: Series,
}

#[derive(Debug)]
pub(super) enum Series {
    Value(u32),
    Histogram { bounds: Vec<u8>, buckets: Vec<u32>, infinite: bool, count: Option<u32>, sum: Option<u32> },
    Summary { quantiles: Vec<(f64, u32)>, count: Option<u32>, sum: Option<u32> },
}

/// What is the same for all points of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    pub(super) values: &'a [f64],
    pub(super) time_ns: u64,
    pub(super) start_ns: u64,
}

/// Whether a point stands on a page.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown {
    Yes(State),
    /// Not on the page, and its end was told.
    No,
    /// On the page, but what we would say of it is not true.
    Lies(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Here,
    Ended,
}

impl PointPart {
    pub(super) fn new(labels: &[(String, String)], shape: &PointShape) -> PointPart {
        let histogram = matches!(shape, PointShape::Histogram { .. });
        let mut attributes = Writer::default();
        for (name, value) in labels {
            attributes.attribute(if histogram { 9 } else { 7 }, name, Value::Str(value));
        }
        let series = match shape {
            PointShape::Value { series } => Series::Value(*series),
            PointShape::Histogram { buckets, count, sum } => {
                let mut finite: Vec<(f64, u32)> = Vec::with_capacity(buckets.len());
                for (bound, series) in buckets.iter().filter(|(bound, _)| bound.is_finite()) {
                    if finite.last().is_none_or(|(last, _)| last < bound) {
                        finite.push((*bound, *series));
                    }
                }
                let mut bounds = Writer::default();
                if !finite.is_empty() {
                    bounds.length(7, 8 * finite.len());
                }
                finite.iter().for_each(|(bound, _)| bounds.raw(&bound.to_le_bytes()));
                Series::Histogram {
                    bounds: bounds.into_bytes(),
                    buckets: finite.iter().map(|(_, series)| *series).collect(),
                    infinite: buckets.iter().any(|(bound, _)| *bound == f64::INFINITY),
                    count: *count,
                    sum: *sum,
                }
            }
            PointShape::Summary { quantiles, count, sum } => {
                Series::Summary { quantiles: quantiles.clone(), count: *count, sum: *sum }
            }
        };
        PointPart { attributes: attributes.into_bytes(), series }
    }

    pub(super) fn check(&self, page: &Page<'_>) -> Shown {
        match &self.series {
            Series::Value(series) => match page.raw(*series) {
                None => Shown::No,
                Some(value) if is_stale(value) => Shown::Yes(State::Ended),
                Some(_) => Shown::Yes(State::Here),
            },
            Series::Histogram { buckets, count, sum, .. } => {
                let all = buckets.iter().chain(count).chain(sum).copied();
                page.presence(all, *count, buckets)
            }
            Series::Summary { quantiles, count, sum } => {
                let all = quantiles.iter().map(|(_, series)| *series).chain(*count).chain(*sum);
                page.presence(all, *count, &[])
            }
        }
    }

    pub(super) fn write(&self, page: &Page<'_>, state: State, writer: &mut Writer) {
        let start = if page.start_ns > 0 { 9 } else { 0 };
        let common = self.attributes.len() + start + 9;
        match &self.series {
            Series::Value(series) => {
                writer.length(1, common + if state == State::Here { 9 } else { 2 });
                self.common(page, writer);
                match state {
                    State::Here => writer.double(4, page.raw(*series).unwrap_or_default()),
                    State::Ended => writer.uint(8, NO_RECORDED_VALUE),
                }
            }
            Series::Histogram { bounds, buckets, infinite, count, sum } => {
                let mark = writer.open(1);
                self.common(page, writer);
                if state == State::Ended {
                    writer.uint(10, NO_RECORDED_VALUE);
                } else {
                    let count = page.count(*count).unwrap_or_default();
                    writer.fixed64(4, count);
                    if let Some(sum) = page.value(*sum) {
                        writer.double(5, sum);
                    }
                    if !buckets.is_empty() || *infinite {
                        page.bucket_counts(buckets, count, writer);
                    }
                    writer.raw(bounds);
                }
                writer.close(mark);
            }
            Series::Summary { quantiles, count, sum } => {
                let mark = writer.open(1);
                self.common(page, writer);
                if state == State::Ended {
                    writer.uint(8, NO_RECORDED_VALUE);
                } else {
                    writer.fixed64(4, page.count(*count).unwrap_or_default());
                    writer.double(5, page.value(*sum).unwrap_or(0.0));
                    for (quantile, series) in quantiles {
                        if let Some(value) = page.value(Some(*series)) {
                            writer.length(6, 18);
                            writer.double(1, *quantile);
                            writer.double(2, value);
                        }
                    }
                }
                writer.close(mark);
            }
        }
    }

    pub(super) fn common(&self, page: &Page<'_>, writer: &mut Writer) {
        writer.raw(&self.attributes);
        if page.start_ns > 0 {
            writer.fixed64(2, page.start_ns);
        }
        writer.fixed64(3, page.time_ns);
    }
}

impl Page<'_> {
    /// The value as the page has it, the staleness marker included; `None` when absent.
    pub(super) fn raw(&self, series: u32) -> Option<f64> {
        let value = *self.values.get(usize::try_from(series).ok()?)?;
        (!is_absent(value)).then_some(value)
    }

    pub(super) fn value(&self, series: Option<u32>) -> Option<f64> {
        self.raw(series?).filter(|value| !is_stale(*value))
    }

    /// A value that can be a count: finite and not negative.
    pub(super) fn count(&self, series: Option<u32>) -> Option<u64> {
        self.value(series).and_then(as_count)
    }

    pub(super) fn presence(
        &self,
        all: impl Iterator<Item = u32>,
        count: Option<u32>,
        buckets: &[u32],
    ) -> Shown {
        let (mut here, mut ended) = (false, false);
        for value in all.filter_map(|series| self.raw(series)) {
            if is_stale(value) { ended = true } else { here = true }
        }
        match (here, ended) {
            (false, false) => Shown::No,
            (false, true) => Shown::Yes(State::Ended),
            _ if self.value(count).is_none() => Shown::Lies("no_count"),
            _ if self.count(count).is_none() => Shown::Lies("bad_count"),
            _ if buckets.iter().any(|series| self.count(Some(*series)).is_none()) => {
                Shown::Lies("bad_bucket")
            }
            _ => Shown::Yes(State::Here),
        }
    }

    /// Differences of cumulative counts. A page that was torn while it was written can run backwards or beyond its
    /// `_count`: such a bucket is held between its neighbours, so that the buckets always add up to the count.
    pub(super) fn bucket_counts(&self, buckets: &[u32], count: u64, writer: &mut Writer) {
        writer.length(6, 8 * (buckets.len() + 1));
        let mut below = 0;
        for series in buckets {
            let cumulative = self.count(Some(*series)).unwrap_or(below).clamp(below, count);
            writer.raw(&(cumulative - below).to_le_bytes());
            below = cumulative;
        }
        writer.raw(&(count - below).to_le_bytes());
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be finite and not negative; a float beyond u64 saturates"
)]
pub(super) fn as_count(value: f64) -> Option<u64> {
    (value.is_finite() && value >= 0.0).then(|| value.round() as u64)
}

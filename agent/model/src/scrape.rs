//! A scrape as columns: a layout made once a generation, and one value a series.
//!
//! Owns the shape; parsing is `collectors::scrape`, encoding is `exporters::otlp`. In the steady state a scrape is a
//! clone of an `Arc` and a vector of floats: no strings.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Prometheus' staleness marker: the series was on the last page and is not on this one. Exported once, as "no recorded value".
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;
/// The series is in the layout but not on this page, and its end was already told. Not exported.
pub const ABSENT_BITS: u64 = 0x7ff0_0000_0000_0003;

/// Whether `value` is the staleness marker (an ordinary NaN is a value).
#[must_use]
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// Whether the series is not on this page.
#[must_use]
pub fn is_absent(value: f64) -> bool {
    value.to_bits() == ABSENT_BITS
}

/// One page of one target, or the failure to get it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scrape {
    /// The URL that was asked, without credentials.
    pub target: Arc<str>,
    /// What the page looks like; shared by all scrapes of one generation. Recordings store it once a generation.
    #[serde(skip)]
    pub layout: Arc<Layout>,
    /// `layout.generation`, kept beside it for recordings.
    pub generation: u64,
    /// One value for each series of the layout; see [`is_stale`], [`is_absent`]. Empty when the scrape failed and nothing was known before.
    pub values: Arc<[f64]>,
    /// Whether the page came.
    pub outcome: ScrapeOutcome,
    /// Request sent to body read, nanoseconds.
    pub duration_ns: u64,
    /// Bytes of the body after decompression.
    pub body_bytes: u64,
    /// Samples on the page (synthetic series not counted).
    pub samples: u64,
    /// `process_start_time_seconds` of the page, in nanoseconds since the epoch.
    pub process_start_ns: Option<u64>,
    /// The target's counters began anew since the last good scrape (by value or by start time).
    pub restarted: bool,
}

/// How a scrape ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScrapeOutcome {
    /// `up` = 1.
    Up,
    /// `up` = 0; the reason is the label of the counter (e.g. `refused`, `timeout`, `body_too_large`, `status`).
    Down {
        /// A fixed word, see above.
        reason: String,
        /// What was seen, for a person.
        detail: String,
    },
}

/// The shape of a page. Series ids are indexes into [`Scrape::values`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// Grows with each change of shape; never given twice while the agent runs, to whatever target, reloads included.
    pub generation: u64,
    /// Families in page order, synthetic ones (`up`, `scrape_*`) last.
    pub families: Vec<Family>,
    /// Data points in page order; every series id is used by exactly one.
    pub points: Vec<Point>,
    /// Number of series, the length of `values`.
    pub series: u32,
}

/// One metric family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// The name as on the page, `_total` and units untouched.
    pub name: String,
    /// TYPE, `Unknown` when absent.
    pub kind: MetricKind,
    /// HELP, unescaped.
    pub help: String,
}

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetricKind {
    /// Monotonic cumulative.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Classic histogram.
    Histogram,
    /// Quantiles with count and sum.
    Summary,
    /// No TYPE line.
    Unknown,
}

/// One data point: a value, or the series of a histogram or summary that share their labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Index into [`Layout::families`].
    pub family: u32,
    /// Labels but `le` and `quantile`, sorted by name, no empty values.
    pub labels: Vec<(String, String)>,
    /// Which series make it up.
    pub shape: PointShape,
}

/// The series ids of a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PointShape {
    /// One value.
    Value {
        /// Series id.
        series: u32,
    },
    /// Classic histogram, buckets ascending by bound, cumulative as on the page.
    Histogram {
        /// (upper bound `le`, series id); +Inf included when on the page.
        buckets: Vec<(f64, u32)>,
        /// `_count`.
        count: Option<u32>,
        /// `_sum`.
        sum: Option<u32>,
    },
    /// Summary.
    Summary {
        /// (quantile 0 to 1, series id).
        quantiles: Vec<(f64, u32)>,
        /// `_count`.
        count: Option<u32>,
        /// `_sum`.
        sum: Option<u32>,
    },
}

impl Layout {
    /// The first point of a family whose labels contain all of `labels`. Linear: resolve once a generation, not once a scrape.
    #[must_use]
    pub fn find(&self, family: &str, labels: &[(&str, &str)]) -> Option<&Point> {
        let family = self.families.iter().position(|known| known.name == family)?;
        self.points.iter().find(|point| {
            usize::try_from(point.family).is_ok_and(|index| index == family)
                && labels
                    .iter()
                    .all(|(name, value)| point.labels.iter().any(|(n, v)| n == name && v == value))
        })
    }
}

impl Scrape {
    /// The value of a series; `None` when it is not on this page or just ended.
    #[must_use]
    pub fn value(&self, series: u32) -> Option<f64> {
        let value = *self.values.get(usize::try_from(series).ok()?)?;
        (!is_stale(value) && !is_absent(value)).then_some(value)
    }
}

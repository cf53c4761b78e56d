//! What the writer writes is read by the generated types, and compared with a construction that shares no code with it.

use model::origin::{MemberRef, Origin};
use model::record::Fact;
use model::scrape::{ABSENT_BITS, Family, Layout, Point, PointShape, STALE_BITS};
use model::time::Stamp;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum, Summary, SummaryDataPoint, metric,
    number_data_point,
};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use prost::Message;

use super::super::config::Signal;
use super::*;

const SECOND: u64 = 1_000_000_000;

fn member() -> Arc<Origin> {
    Arc::new(Origin {
        cluster_id: Some(0xcafe),
        node: "n1".to_owned(),
        member: Some(MemberRef {
            id: Some(0xbeef),
            name: "m1".to_owned(),
            endpoint: "https://10.0.0.1:2379".to_owned(),
        }),
    })
}

fn scrape(layout: &Layout, values: &[f64]) -> Scrape {
    Scrape {
        target: Arc::from("https://10.0.0.1:2379/metrics"),
        layout: Arc::new(layout.clone()),
        generation: layout.generation,
        values: Arc::from(values),
        outcome: ScrapeOutcome::Up,
        duration_ns: SECOND / 4,
        body_bytes: 0,
        samples: 0,
        process_start_ns: None,
        restarted: false,
    }
}

struct Bench {
    encoder: ScrapeEncoder,
    pack: Pack,
    ledger: Ledger,
    now_s: u64,
}

impl Bench {
    fn new(bytes_max: usize) -> Bench {
        let ledger = Ledger::default();
        let config = Config {
            resource: vec![
                ("k8s.node.name".to_owned(), "k".to_owned()),
                ("service.name".to_owned(), "x".to_owned()),
            ],
            ..Config::default()
        };
        let encoder = ScrapeEncoder::new(&config, ledger.clone());
        Bench { encoder, pack: Pack::new(Signal::Metrics, bytes_max), ledger, now_s: 100 }
    }

    /// One page a second.
    fn page(&mut self, scrape: &Scrape) -> Vec<ExportMetricsServiceRequest> {
        self.now_s += 1;
        let at = Stamp { mono_ns: self.now_s * SECOND, wall_ns: self.now_s * SECOND };
        let record = Record { at, origin: member(), fact: Fact::Scrape(scrape.clone()) };
        self.encoder.encode(&record, scrape, &mut self.pack);
        self.pack.cut();
        let decode = |payload: super::super::pack::Payload| {
            ExportMetricsServiceRequest::decode(payload.bytes.as_slice()).unwrap()
        };
        self.pack.take_done().into_iter().map(decode).collect()
    }

    fn metrics(&mut self, scrape: &Scrape) -> Vec<Metric> {
        all_metrics(&self.page(scrape))
    }
}

fn all_metrics(requests: &[ExportMetricsServiceRequest]) -> Vec<Metric> {
    let scopes =
        requests.iter().flat_map(|request| &request.resource_metrics).flat_map(|of| &of.scope_metrics);
    scopes.flat_map(|scope| scope.metrics.clone()).collect()
}

fn family(name: &str, kind: MetricKind) -> Family {
    Family { name: name.to_owned(), kind, help: format!("help of {name}") }
}

fn point(family: u32, labels: &[(&str, &str)], shape: PointShape) -> Point {
    let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Point { family, labels, shape }
}

fn layout(families: Vec<Family>, points: Vec<Point>) -> Layout {
    Layout { generation: 1, families, points, series: 0 }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, key_strindex: 0 }
}

fn one_histogram(buckets: &[f64]) -> Layout {
    let buckets: Vec<_> = buckets.iter().zip(2..).map(|(bound, series)| (*bound, series)).collect();
    let shape = PointShape::Histogram { buckets, count: Some(0), sum: Some(1) };
    layout(vec![family("h", MetricKind::Histogram)], vec![point(0, &[], shape)])
}

fn histogram_point(metrics: &[Metric]) -> Option<HistogramDataPoint> {
    match metrics.first()?.data.as_ref()? {
        metric::Data::Histogram(histogram) => histogram.data_points.first().cloned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_types_and_help_are_taken_as_they_are() {
    let value = |family, series| point(family, &[("a", "1")], PointShape::Value { series });
    let layout = layout(
        vec![
            family("etcd_x_total", MetricKind::Counter),
            family("etcd_y", MetricKind::Gauge),
            family("z", MetricKind::Unknown),
        ],
        vec![value(0, 0), value(1, 1), value(2, 2)],
    );
    let metrics = Bench::new(1 << 20).metrics(&scrape(&layout, &[1.0, 2.0, f64::NAN]));
    let seen: Vec<_> = metrics.iter().map(|metric| (metric.name.as_str(), &metric.metadata)).collect();
    let kinds = [
        [text("prometheus.type", "counter")],
        [text("prometheus.type", "gauge")],
        [text("prometheus.type", "unknown")],
    ];
    assert_eq!(
        seen,
        [("etcd_x_total", &kinds[0].to_vec()), ("etcd_y", &kinds[1].to_vec()), ("z", &kinds[2].to_vec())]
    );
    assert_eq!(metrics[0].description, "help of etcd_x_total");
    assert_eq!(metrics[0].unit, "");
    let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!() };
    assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
    assert_eq!(sum.data_points[0].attributes, [text("a", "1")]);
    assert_eq!(
        (sum.data_points[0].start_time_unix_nano, sum.data_points[0].time_unix_nano),
        (0, 101 * SECOND)
    );
    let Some(metric::Data::Gauge(gauge)) = &metrics[2].data else { panic!() };
    let Some(number_data_point::Value::AsDouble(nan)) = gauge.data_points[0].value else { panic!() };
    assert!(nan.is_nan(), "an ordinary NaN is a value");
}

#[test]
fn the_resource_names_member_target_and_node_once() {
    let layout = layout(
        vec![family("up", MetricKind::Gauge), family("target_info", MetricKind::Gauge)],
        vec![
            point(0, &[], PointShape::Value { series: 0 }),
            point(1, &[("job", "j"), ("zone", "z1")], PointShape::Value { series: 1 }),
        ],
    );
    let requests = Bench::new(1 << 20).page(&scrape(&layout, &[1.0, 1.0]));
    let of = &requests[0].resource_metrics[0];
    let seen: Vec<_> = of
        .resource
        .as_ref()
        .unwrap()
        .attributes
        .iter()
        .map(|pair| {
            let value = match pair.value.clone().unwrap().value.unwrap() {
                any_value::Value::StringValue(text) => text,
                any_value::Value::IntValue(number) => format!("int {number}"),
                other => panic!("{other:?}"),
            };
            (pair.key.clone(), value)
        })
        .collect();
    let expected = [
        ("service.name", "etcd"),
        ("service.instance.id", "10.0.0.1:2379"),
        ("server.address", "10.0.0.1"),
        ("server.port", "int 2379"),
        ("url.scheme", "https"),
        ("host.name", "n1"),
        ("etcd.cluster.id", "cafe"),
        ("etcd.member.id", "beef"),
        ("etcd.member.name", "m1"),
        ("zone", "z1"),
        ("k8s.node.name", "k"),
    ];
    assert_eq!(seen, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let scope = of.scope_metrics[0].scope.as_ref().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("backburn", env!("CARGO_PKG_VERSION")));
    assert_eq!(all_metrics(&requests).len(), 1, "target_info is no metric");
}

#[test]
fn scope_labels_make_scopes() {
    let value = |labels: &[(&str, &str)], series| point(0, labels, PointShape::Value { series });
    let layout = layout(
        vec![family("c", MetricKind::Counter)],
        vec![
            value(&[("a", "1")], 0),
            value(
                &[
                    ("a", "1"),
                    ("otel_scope_name", "lib"),
                    ("otel_scope_version", "2"),
                    ("otel_scope_color", "red"),
                ],
                1,
            ),
        ],
    );
    let requests = Bench::new(1 << 20).page(&scrape(&layout, &[1.0, 2.0]));
    let scopes = &requests[0].resource_metrics[0].scope_metrics;
    assert_eq!(scopes.len(), 2);
    let scope = scopes[1].scope.as_ref().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("lib", "2"));
    assert_eq!(scope.attributes, [text("color", "red")]);
    let Some(metric::Data::Sum(sum)) = &scopes[1].metrics[0].data else { panic!() };
    assert_eq!(sum.data_points[0].attributes, [text("a", "1")]);
}

#[test]
fn a_vanished_series_is_told_once_and_an_absent_one_never() {
    let shape =
        PointShape::Histogram { buckets: vec![(1.0, 1), (f64::INFINITY, 2)], count: Some(3), sum: Some(4) };
    let layout = layout(
        vec![family("c", MetricKind::Counter), family("h", MetricKind::Histogram)],
        vec![point(0, &[], PointShape::Value { series: 0 }), point(1, &[], shape)],
    );
    let stale = f64::from_bits(STALE_BITS);
    let mut bench = Bench::new(1 << 20);
    let metrics = bench.metrics(&scrape(&layout, &[stale; 5]));
    let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!() };
    assert_eq!((sum.data_points[0].flags, &sum.data_points[0].value), (1, &None));
    let point = match &metrics[1].data {
        Some(metric::Data::Histogram(histogram)) => &histogram.data_points[0],
        other => panic!("{other:?}"),
    };
    assert_eq!((point.flags, point.count, point.bucket_counts.len()), (1, 0, 0));
    assert!(bench.page(&scrape(&layout, &[f64::from_bits(ABSENT_BITS); 5])).is_empty(), "no empty envelopes");
}

#[test]
fn buckets_are_differences_and_a_torn_page_never_wraps() {
    let layout = one_histogram(&[0.1, 1.0, 10.0, f64::INFINITY]);
    let mut bench = Bench::new(1 << 20);
    let mut check = |values: &[f64], expected: &[u64]| {
        let point = histogram_point(&bench.metrics(&scrape(&layout, values))).unwrap();
        assert_eq!(point.bucket_counts, expected, "{values:?}");
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
        assert_eq!(point.explicit_bounds, [0.1, 1.0, 10.0]);
    };
    check(&[9.0, 3.5, 2.0, 5.0, 5.0, 9.0], &[2, 3, 0, 4]);
    check(&[9.0, 3.5, 5.0, 2.0, 7.0, 9.0], &[5, 0, 2, 2]);
    check(&[4.0, 3.5, 2.0, 5.0, 7.0, 9.0], &[2, 2, 0, 0]);
    check(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], &[0, 0, 0, 0]);
}

#[test]
fn a_histogram_that_would_lie_is_dropped_and_counted_alone() {
    let layout = one_histogram(&[1.0, f64::INFINITY]);
    let mut bench = Bench::new(1 << 20);
    let absent = f64::from_bits(ABSENT_BITS);
    for (values, reason) in [
        ([absent, 1.0, 1.0, 1.0], "no_count"),
        ([f64::NAN, 1.0, 1.0, 1.0], "bad_count"),
        ([-1.0, 1.0, 1.0, 1.0], "bad_count"),
        ([1.0, 1.0, f64::NAN, 1.0], "bad_bucket"),
        ([1.0, 1.0, absent, 1.0], "bad_bucket"),
    ] {
        let before = bench.ledger.get(SKIPPED, reason);
        assert!(bench.page(&scrape(&layout, &values)).is_empty(), "{values:?}");
        assert_eq!(bench.ledger.get(SKIPPED, reason), before + 1, "{values:?}");
    }
    let point = histogram_point(&bench.metrics(&scrape(&layout, &[1.0, absent, 1.0, 1.0]))).unwrap();
    assert_eq!(point.sum, None, "a missing sum is unset, not zero");
}

#[test]
fn a_start_time_is_set_only_after_a_reset_that_was_seen() {
    let layout = layout(
        vec![family("c", MetricKind::Counter), family("g", MetricKind::Gauge)],
        vec![point(0, &[], PointShape::Value { series: 0 }), point(1, &[], PointShape::Value { series: 1 })],
    );
    let mut bench = Bench::new(1 << 20);
    let mut check = |restarted: bool, process_start_s: Option<u64>, expected_s: u64| {
        let process_start_ns = process_start_s.map(|s| s * SECOND);
        let page = Scrape { restarted, process_start_ns, ..scrape(&layout, &[5.0, 5.0]) };
        let metrics = bench.metrics(&page);
        let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!() };
        assert_eq!(sum.data_points[0].start_time_unix_nano, expected_s * SECOND);
        let Some(metric::Data::Gauge(gauge)) = &metrics[1].data else { panic!() };
        assert_eq!(gauge.data_points[0].start_time_unix_nano, 0);
    };
    check(true, Some(50), 0); // 101: nothing is known of before
    check(false, Some(50), 0); // 102
    check(true, Some(103), 103); // 103: began between the pages
    check(false, Some(103), 103); // 104
    check(true, Some(50), 104); // 105: counters fell, but the process is old
    check(true, None, 105); // 106
}

#[test]
fn a_target_that_never_answered_still_says_that_it_is_down() {
    let down = ScrapeOutcome::Down { reason: "refused".to_owned(), detail: String::new() };
    let page = Scrape { outcome: down, ..scrape(&Layout::default(), &[]) };
    let mut bench = Bench::new(1 << 20);
    let metrics = bench.metrics(&page);
    let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names, ["up", "scrape_duration_seconds"]);
    let Some(metric::Data::Gauge(gauge)) = &metrics[0].data else { panic!() };
    assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(0.0)));
    let later =
        layout(vec![family("c", MetricKind::Counter)], vec![point(0, &[], PointShape::Value { series: 0 })]);
    let later = Layout { generation: 0, ..later };
    assert_eq!(bench.metrics(&scrape(&later, &[1.0]))[0].name, "c", "the empty shape was not kept");
}

#[test]
fn a_large_page_is_split_and_loses_nothing() {
    let points: Vec<Point> = (0..500)
        .map(|series| point(series / 400, &[("n", &series.to_string())], PointShape::Value { series }))
        .collect();
    let layout = layout(vec![family("a", MetricKind::Counter), family("b", MetricKind::Gauge)], points);
    let values: Vec<f64> = (0..500).map(f64::from).collect();
    let requests = Bench::new(2000).page(&scrape(&layout, &values));
    assert!(requests.len() > 5 && requests.iter().all(|request| request.encoded_len() <= 2000));
    assert!(requests.iter().all(|request| request.resource_metrics[0].resource.is_some()));
    let points: usize = all_metrics(&requests)
        .iter()
        .map(|metric| match &metric.data {
            Some(metric::Data::Sum(sum)) => sum.data_points.len(),
            Some(metric::Data::Gauge(gauge)) => gauge.data_points.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(points, 500);
}

#[test]
fn a_lost_layout_index_is_skipped_not_fatal() {
    let layout = layout(
        vec![family("c", MetricKind::Counter), family("h", MetricKind::Histogram)],
        vec![
            point(9, &[], PointShape::Value { series: 0 }),
            point(0, &[], PointShape::Value { series: 99 }),
            point(1, &[], PointShape::Value { series: 0 }),
        ],
    );
    let mut bench = Bench::new(1 << 20);
    assert!(bench.page(&scrape(&layout, &[1.0])).is_empty());
    assert_eq!(bench.ledger.get(SKIPPED, "no_family") + bench.ledger.get(SKIPPED, "type_mismatch"), 2);
}

#[test]
fn shapes_are_kept_for_a_bounded_number_of_targets() {
    let layout =
        layout(vec![family("c", MetricKind::Counter)], vec![point(0, &[], PointShape::Value { series: 0 })]);
    let mut bench = Bench::new(1 << 20);
    for number in 0..200 {
        let page =
            Scrape { target: Arc::from(format!("http://h:{number}/metrics")), ..scrape(&layout, &[1.0]) };
        assert_eq!(bench.metrics(&page).len(), 1);
    }
    assert_eq!(bench.encoder.targets.len(), TARGETS_MAX);
}

/// The straightforward construction: one metric a family, generated types, no shared code.
fn naive(layout: &Layout, values: &[f64], time: u64) -> Vec<Metric> {
    let naive = Naive { values, time };
    let mut metrics = Vec::new();
    for (index, family) in layout.families.iter().enumerate() {
        let points: Vec<&Point> =
            layout.points.iter().filter(|point| point.family as usize == index).collect();
        let numbers: Vec<_> = points.iter().filter_map(|point| naive.number_point(point)).collect();
        let histograms: Vec<_> = points.iter().filter_map(|point| naive.histogram_point(point)).collect();
        let summaries: Vec<_> = points.iter().filter_map(|point| naive.summary_point(point)).collect();
        if numbers.is_empty() && histograms.is_empty() && summaries.is_empty() {
            continue;
        }
        let (word, data) = match family.kind {
            MetricKind::Counter => {
                let sum = Sum { data_points: numbers, aggregation_temporality: 2, is_monotonic: true };
                ("counter", metric::Data::Sum(sum))
            }
            MetricKind::Gauge => ("gauge", metric::Data::Gauge(Gauge { data_points: numbers })),
            MetricKind::Unknown => ("unknown", metric::Data::Gauge(Gauge { data_points: numbers })),
            MetricKind::Histogram => {
                let histogram = Histogram { data_points: histograms, aggregation_temporality: 2 };
                ("histogram", metric::Data::Histogram(histogram))
            }
            MetricKind::Summary => ("summary", metric::Data::Summary(Summary { data_points: summaries })),
        };
        metrics.push(Metric {
            name: family.name.clone(),
            description: family.help.clone(),
            unit: String::new(),
            metadata: vec![text("prometheus.type", word)],
            data: Some(data),
        });
    }
    metrics
}

/// What a point says, read the slow way.
enum Told {
    Ended,
    Here,
}

struct Naive<'a> {
    values: &'a [f64],
    time: u64,
}

impl Naive<'_> {
    fn on_page(&self, series: u32) -> Option<f64> {
        self.values.get(series as usize).copied().filter(|value| value.to_bits() != ABSENT_BITS)
    }

    fn number(&self, series: Option<u32>) -> Option<f64> {
        series.and_then(|series| self.on_page(series)).filter(|value| value.to_bits() != STALE_BITS)
    }

    fn counted(&self, series: Option<u32>) -> Option<u64> {
        self.number(series).filter(|v| v.is_finite() && *v >= 0.0).map(|v| v.round() as u64)
    }

    fn told(&self, all: &[u32], good: bool) -> Option<Told> {
        let seen: Vec<f64> = all.iter().filter_map(|series| self.on_page(*series)).collect();
        match seen.iter().all(|value| value.to_bits() == STALE_BITS) {
            _ if seen.is_empty() => None,
            true => Some(Told::Ended),
            false => good.then_some(Told::Here),
        }
    }

    fn number_point(&self, point: &Point) -> Option<NumberDataPoint> {
        let PointShape::Value { series } = point.shape else { return None };
        let value = self.on_page(series)?;
        let stale = value.to_bits() == STALE_BITS;
        Some(NumberDataPoint {
            attributes: attributes(point),
            time_unix_nano: self.time,
            flags: u32::from(stale),
            value: (!stale).then_some(number_data_point::Value::AsDouble(value)),
            ..NumberDataPoint::default()
        })
    }

    fn histogram_point(&self, point: &Point) -> Option<HistogramDataPoint> {
        let PointShape::Histogram { buckets, count, sum } = &point.shape else { return None };
        let finite: Vec<_> = buckets.iter().filter(|(bound, _)| bound.is_finite()).collect();
        let all: Vec<u32> = finite.iter().map(|(_, id)| *id).chain(*count).chain(*sum).collect();
        let whole = finite.iter().all(|(_, id)| self.counted(Some(*id)).is_some());
        let told = self.told(&all, whole && self.counted(*count).is_some())?;
        let ended = HistogramDataPoint {
            attributes: attributes(point),
            time_unix_nano: self.time,
            flags: 1,
            ..HistogramDataPoint::default()
        };
        if matches!(told, Told::Ended) {
            return Some(ended);
        }
        let total = self.counted(*count).unwrap();
        let mut highest = 0;
        let mut counts = Vec::new();
        for (_, id) in &finite {
            let cumulative = self.counted(Some(*id)).unwrap().min(total).max(highest);
            counts.push(cumulative - highest);
            highest = cumulative;
        }
        counts.push(total - highest);
        Some(HistogramDataPoint {
            flags: 0,
            count: total,
            sum: self.number(*sum),
            bucket_counts: if buckets.is_empty() { Vec::new() } else { counts },
            explicit_bounds: finite.iter().map(|(bound, _)| *bound).collect(),
            ..ended
        })
    }

    fn summary_point(&self, point: &Point) -> Option<SummaryDataPoint> {
        let PointShape::Summary { quantiles, count, sum } = &point.shape else { return None };
        let all: Vec<u32> = quantiles.iter().map(|(_, id)| *id).chain(*count).chain(*sum).collect();
        let told = self.told(&all, self.counted(*count).is_some())?;
        let ended = SummaryDataPoint {
            attributes: attributes(point),
            time_unix_nano: self.time,
            flags: 1,
            ..SummaryDataPoint::default()
        };
        if matches!(told, Told::Ended) {
            return Some(ended);
        }
        let quantile = |(quantile, id): &(f64, u32)| {
            self.number(Some(*id)).map(|value| ValueAtQuantile { quantile: *quantile, value })
        };
        Some(SummaryDataPoint {
            flags: 0,
            count: self.counted(*count).unwrap(),
            sum: self.number(*sum).unwrap_or(0.0),
            quantile_values: quantiles.iter().filter_map(quantile).collect(),
            ..ended
        })
    }
}

fn attributes(point: &Point) -> Vec<KeyValue> {
    point.labels.iter().map(|(name, value)| text(name, value)).collect()
}

/// Like equality, but a NaN equals itself: `Debug` shows all fields.
fn same(left: &[Metric], right: &[Metric]) -> bool {
    format!("{left:?}") == format!("{right:?}")
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0_u32..50).prop_map(f64::from),
        2 => any::<f64>(),
        1 => Just(f64::from_bits(STALE_BITS)),
        1 => Just(f64::from_bits(ABSENT_BITS)),
        1 => Just(f64::NAN),
    ]
}

/// Families with points of their own shape; series ids may point beyond the values.
fn layouts() -> impl Strategy<Value = Layout> {
    let kind = prop_oneof![
        Just(MetricKind::Counter),
        Just(MetricKind::Gauge),
        Just(MetricKind::Unknown),
        Just(MetricKind::Histogram),
        Just(MetricKind::Summary),
    ];
    let labels = prop::collection::vec(("[a-z]{1,3}", "\\PC{1,6}"), 0..3);
    let shape = (
        prop::collection::vec(0_u32..40, 0..5),
        any::<bool>(),
        prop::option::of(0_u32..40),
        prop::option::of(0_u32..40),
    );
    let family = ("[a-z_]{1,8}", "\\PC{0,12}", kind, prop::collection::vec((labels, shape), 0..4));
    prop::collection::vec(family, 1..5).prop_map(|families| {
        let mut layout = Layout { generation: 3, ..Layout::default() };
        for (index, (name, help, kind, points)) in families.into_iter().enumerate() {
            layout.families.push(Family { name, kind, help });
            for (labels, (ids, infinite, count, sum)) in points {
                let mut bounds: Vec<(f64, u32)> =
                    ids.iter().zip(1..).map(|(id, n)| (f64::from(n) / 8.0, *id)).collect();
                let shape = match kind {
                    MetricKind::Histogram => {
                        if infinite {
                            bounds.push((f64::INFINITY, 0));
                        }
                        PointShape::Histogram { buckets: bounds, count, sum }
                    }
                    MetricKind::Summary => PointShape::Summary { quantiles: bounds, count, sum },
                    _ => PointShape::Value { series: count.unwrap_or(0) },
                };
                layout.points.push(Point { family: index as u32, labels, shape });
            }
        }
        layout
    })
}

proptest! {
    #[test]
    fn the_writer_and_the_naive_construction_agree(layout in layouts(), values in prop::collection::vec(value(), 1..40)) {
        let mut bench = Bench::new(1 << 20);
        let page = scrape(&layout, &values);
        let expected = naive(&layout, &values, 102 * SECOND);
        bench.page(&page);
        let seen = bench.metrics(&page); // the second page comes from prepared bytes
        if !layout.points.is_empty() {
            prop_assert_eq!(same(&seen, &expected), true, "{:#?}\n{:#?}", seen, expected);
        }
    }
}

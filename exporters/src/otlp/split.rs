//! A request in two, for a receiver that finds it too large.
//!
//! Works on encoded bytes, so it needs no copy of what was encoded from. Owns where each signal's items lie; the envelopes
//! around them, and a profile's dictionary, stand in both halves. Refuses to split an item.

use super::config::Signal;
use super::wire::{Field, Fields, Writer};

/// The fields to go through from a request to its items. A metric's points lie in one of five fields.
type Levels = &'static [&'static [u32]];

/// One half.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Half {
    pub(crate) bytes: Vec<u8>,
    pub(crate) items: u64,
}

/// Both halves of an uncompressed request, about equal in bytes; `None` when it holds a single item.
pub(crate) fn halves(signal: Signal, request: &[u8]) -> Option<[Half; 2]> {
    let levels: Levels = match signal {
        Signal::Metrics => &[&[1], &[2], &[2], &[5, 7, 9, 10, 11], &[1]],
        Signal::Logs | Signal::Traces | Signal::Profiles => &[&[1], &[2], &[2]],
    };
    let halves = split(request, levels)?;
    Some(halves.map(|bytes| Half { items: count(&bytes, levels), bytes }))
}

/// A field of the level that is split.
struct Child<'a> {
    number: u32,
    inner: &'a [u8],
    raw: &'a [u8],
}

/// The children of a message, and all that is not one of them.
fn children<'a>(message: &'a [u8], level: &[u32]) -> Option<(Vec<Child<'a>>, Vec<u8>)> {
    let (mut children, mut envelope) = (Vec::new(), Vec::new());
    let mut fields = Fields::new(message);
    while let Some((field, raw)) = fields.next_raw() {
        match field {
            Field::Bytes(number, inner) if level.contains(&number) => {
                children.push(Child { number, inner, raw });
            }
            _ => envelope.extend_from_slice(raw),
        }
    }
    (!fields.torn).then_some((children, envelope))
}

fn split(message: &[u8], levels: &[&[u32]]) -> Option<[Vec<u8>; 2]> {
    let (level, deeper) = levels.split_first()?;
    let (children, envelope) = children(message, level)?;
    if let [only] = children.as_slice() {
        return Some(split(only.inner, deeper)?.map(|inner| {
            let mut writer = Writer::default();
            writer.raw(&envelope);
            writer.bytes(only.number, &inner);
            writer.into_bytes()
        }));
    }
    let half = children.iter().map(|child| child.raw.len()).sum::<usize>() / 2;
    let mut before = 0;
    let fits = children.iter().take_while(|child| {
        before += child.raw.len();
        before <= half
    });
    let place = fits.count().max(1);
    let (first, second) = children.split_at_checked(place).filter(|(_, second)| !second.is_empty())?;
    let joined = |part: &[Child<'_>]| {
        let raw = part.iter().flat_map(|child| child.raw);
        envelope.iter().chain(raw).copied().collect()
    };
    Some([joined(first), joined(second)])
}

fn count(message: &[u8], levels: &[&[u32]]) -> u64 {
    let Some((level, deeper)) = levels.split_first() else { return 1 };
    let found = children(message, level).map(|(children, _)| children).unwrap_or_default();
    found.iter().map(|child| count(child.inner, deeper)).sum()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, any_value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message;

    use super::*;

    fn logs(shape: &[&[usize]]) -> ExportLogsServiceRequest {
        let mut number = 0;
        let resource_logs = shape.iter().map(|scopes| ResourceLogs {
            resource: Some(Resource { dropped_attributes_count: 7, ..Resource::default() }),
            scope_logs: scopes
                .iter()
                .map(|records| ScopeLogs {
                    scope: Some(InstrumentationScope { name: "s".to_owned(), ..Default::default() }),
                    log_records: (0..*records)
                        .map(|_| {
                            number += 1;
                            let value = Some(any_value::Value::IntValue(number));
                            LogRecord {
                                time_unix_nano: 5,
                                body: Some(AnyValue { value }),
                                ..LogRecord::default()
                            }
                        })
                        .collect(),
                    schema_url: "scope".to_owned(),
                })
                .collect(),
            schema_url: "resource".to_owned(),
        });
        ExportLogsServiceRequest { resource_logs: resource_logs.collect() }
    }

    /// Every record with what stands around it, in order.
    fn told(request: &ExportLogsServiceRequest) -> Vec<String> {
        let mut all = Vec::new();
        for of in &request.resource_logs {
            for scope in &of.scope_logs {
                for record in &scope.log_records {
                    let around = (&of.resource, &of.schema_url, &scope.scope, &scope.schema_url);
                    all.push(format!("{around:?} {record:?}"));
                }
            }
        }
        all
    }

    #[test]
    fn halves_hold_every_item_once_in_order_down_to_single_ones() {
        for shape in [&[&[5_usize][..]][..], &[&[1], &[1]], &[&[1, 2, 3], &[4], &[1, 1]], &[&[1]]] {
            let whole = logs(shape);
            let (mut waiting, mut single) = (vec![whole.encode_to_vec()], Vec::new());
            while let Some(bytes) = waiting.pop() {
                match halves(Signal::Logs, &bytes) {
                    Some(two) => {
                        assert!(two.iter().all(|half| half.items > 0 && half.bytes.len() < bytes.len()));
                        let [first, second] = two.map(|half| half.bytes);
                        waiting.extend([second, first]);
                    }
                    None => single.push(ExportLogsServiceRequest::decode(bytes.as_slice()).unwrap()),
                }
            }
            let items: Vec<String> = single.iter().flat_map(told).collect();
            assert_eq!((items.len(), items), (single.len(), told(&whole)));
        }
    }

    #[test]
    fn the_points_of_one_metric_are_split_under_its_head() {
        let point = |at| NumberDataPoint { time_unix_nano: at, ..NumberDataPoint::default() };
        let gauge = metric::Data::Gauge(Gauge { data_points: (1..=4).map(point).collect() });
        let metric = Metric { name: "up".to_owned(), data: Some(gauge), ..Metric::default() };
        let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
        let of = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
        let whole = ExportMetricsServiceRequest { resource_metrics: vec![of] };
        let two = halves(Signal::Metrics, &whole.encode_to_vec()).unwrap();
        assert_eq!(two.each_ref().map(|half| half.items), [2, 2]);
        for half in two {
            let half = ExportMetricsServiceRequest::decode(half.bytes.as_slice()).unwrap();
            assert_eq!(half.resource_metrics[0].scope_metrics[0].metrics[0].name, "up");
        }
    }

    #[test]
    fn what_is_no_request_is_not_split() {
        for bytes in [&b""[..], b"\xff\xff", b"\x0a\x7fabc", b"\x12\x01a"] {
            assert_eq!(halves(Signal::Logs, bytes), None);
        }
    }
}

//! Log lines and findings as log records.
//!
//! Lines keep their own time, severity and trace ids, under the resource of the service that wrote them. A finding is an
//! event `backburn.<kind>` of the agent whose body is the finding, structured as it is in `/verdict`. Owns that mapping and
//! its severities. Refuses lines that the tailer did not mark for shipping.

use std::collections::BTreeMap;

use model::finding::{Conclusion, Finding, Trouble};
use model::log::{LogBatch, LogEvent, Meaning, Severity, Work};
use model::record::Record;
use model::verdict::State;
use serde_json::Value as Json;

use super::pack::{Nest, Pack};
use super::resource::Identity;
use super::wire::{Value, Writer};

/// Nesting of a finding's body; deeper parts are left out. Ours reach nine.
const DEPTH_MAX: u8 = 16;

/// Encodes the lines that are to be shipped; the batch's receipt goes with them.
pub(crate) fn batch(identity: &Identity, record: &Record, batch: &LogBatch, pack: &mut Pack) {
    pack.begin(&batch.receipt);
    let mut services: BTreeMap<(&str, Option<&str>), Vec<&LogEvent>> = BTreeMap::new();
    for event in batch.events.iter().filter(|event| event.ship) {
        services.entry((&event.service, event.revision.as_deref())).or_default().push(event);
    }
    for ((service, revision), events) in services {
        let resource = identity.service(&record.origin, service, revision);
        let mut nest = Nest::new(pack);
        nest.enter(1, &resource);
        nest.enter(2, identity.scope());
        for event in events {
            nest.put(1, &|writer| line(event, &batch.file, record.at.wall_ns, writer));
        }
    }
    pack.end();
    batch.receipt.encoded();
}

fn line(event: &LogEvent, file: &str, read_ns: u64, writer: &mut Writer) {
    let record = writer.open(2);
    writer.fixed64(1, event.time_ns);
    writer.fixed64(11, read_ns);
    severity(event.severity, writer);
    body(&event.message, writer);
    writer.attribute(6, "log.file.path", Value::Str(file));
    for (key, value) in &event.attributes {
        writer.attribute(6, key, Value::Str(value));
    }
    if let Some(parent) = event.parent_span_id {
        writer.attribute(6, "parent_span_id", Value::Str(&model::hex::text(&parent)));
    }
    meaning(&event.meaning, writer);
    if let Some(id) = event.trace_id {
        writer.bytes(9, &id);
    }
    if let Some(id) = event.span_id {
        writer.bytes(10, &id);
    }
    writer.close(record);
}

fn meaning(meaning: &Meaning, writer: &mut Writer) {
    match meaning {
        Meaning::Plain => {}
        Meaning::Work(done) => work(done, writer),
        Meaning::EtcdTrace { number, work: done, steps } => {
            work(done, writer);
            writer.attribute(6, "etcd.trace.number", Value::Int(i64::from(*number)));
            writer.attribute(6, "etcd.trace.steps", Value::Int(signed(super::wire::wide(steps.len()))));
        }
        Meaning::EtcdSlowApply { work: done, expected_ns } => {
            work(done, writer);
            writer.attribute(6, "etcd.apply.expected_ns", Value::Int(signed(*expected_ns)));
        }
        Meaning::EtcdRequest { work: done, remote, response_count, response_bytes } => {
            work(done, writer);
            writer.attribute(6, "client.address", Value::Str(remote));
            writer.attribute(6, "etcd.response.count", Value::Int(*response_count));
            writer.attribute(6, "etcd.response.bytes", Value::Int(*response_bytes));
        }
    }
}

fn work(work: &Work, writer: &mut Writer) {
    writer.attribute(6, "work.operation", Value::Str(&work.operation));
    writer.attribute(6, "work.duration_ns", Value::Int(signed(work.duration_ns)));
    if work.failed {
        writer.attribute(6, "work.failed", Value::Bool(true));
    }
}

/// Encodes a finding as an event; trees, edges and others have their own signals.
pub(crate) fn finding(identity: &Identity, finding: &Finding, pack: &mut Pack) {
    let Some(severity_of) = importance(&finding.conclusion) else { return };
    // A finding without a JSON form would be a bug of the model; its kind and origin are told all the same.
    let json = serde_json::to_value(&finding.conclusion).unwrap_or_default();
    let inner = match &json {
        Json::Object(map) => map.values().next().unwrap_or(&json),
        other => other,
    };
    let resource = identity.agent(&finding.origin);
    let mut nest = Nest::new(pack);
    nest.enter(1, &resource);
    nest.enter(2, identity.scope());
    nest.put(1, &|writer| event(finding, severity_of, inner, writer));
}

fn event(finding: &Finding, importance: Severity, content: &Json, writer: &mut Writer) {
    let record = writer.open(2);
    writer.fixed64(1, finding.at.wall_ns);
    writer.fixed64(11, finding.at.wall_ns);
    severity(importance, writer);
    let body = writer.open(5);
    any(content, DEPTH_MAX, writer);
    writer.close(body);
    writer.attribute(6, "backburn.finding.id", Value::Int(signed(finding.id)));
    let origin = &finding.origin;
    if let Some(id) = origin.cluster_id {
        writer.attribute(6, "etcd.cluster.id", Value::Str(&format!("{id:x}")));
    }
    if let Some(member) = &origin.member {
        writer.attribute(6, "etcd.member.name", Value::Str(&member.name));
        if let Some(id) = member.id {
            writer.attribute(6, "etcd.member.id", Value::Str(&format!("{id:x}")));
        }
    }
    writer.string(12, &format!("backburn.{}", finding.conclusion.kind()));
    writer.close(record);
}

/// How loud a finding is; `None` when it is not an event.
fn importance(conclusion: &Conclusion) -> Option<Severity> {
    match conclusion {
        Conclusion::Regression(found) if found.open && found.cause.is_none() => Some(Severity::Warn),
        Conclusion::Regression(_) | Conclusion::ProfileDiff(_) => Some(Severity::Info),
        Conclusion::Burn(burn) if burn.firing && burn.votes => Some(Severity::Error),
        Conclusion::Burn(burn) if burn.firing => Some(Severity::Warn),
        Conclusion::Burn(_) => Some(Severity::Info),
        Conclusion::CaptureFailed(_) => Some(Severity::Warn),
        Conclusion::Verdict(verdict) => Some(match verdict.decision.state {
            State::Rollback => Severity::Error,
            State::Hold => Severity::Warn,
            State::Unknown | State::Pass => Severity::Info,
        }),
        Conclusion::Alarm(alarm) => Some(match alarm.trouble {
            _ if !alarm.raised => Severity::Info,
            Trouble::VersionSkew { .. } if !alarm.holds => Severity::Info,
            Trouble::VersionSkew { .. } => Severity::Warn,
            _ => Severity::Error,
        }),
        Conclusion::CallTree(_) | Conclusion::Edge(_) => None,
    }
}

fn severity(severity: Severity, writer: &mut Writer) {
    let (number, text) = match severity {
        Severity::Trace => (1, "TRACE"),
        Severity::Debug => (5, "DEBUG"),
        Severity::Info => (9, "INFO"),
        Severity::Warn => (13, "WARN"),
        Severity::Error => (17, "ERROR"),
        Severity::Fatal => (21, "FATAL"),
    };
    writer.uint(2, number);
    writer.string(3, text);
}

fn body(text: &str, writer: &mut Writer) {
    let body = writer.open(5);
    writer.any(Value::Str(text));
    writer.close(body);
}

/// JSON as the inside of an `AnyValue`; null is an empty one.
fn any(json: &Json, depth: u8, writer: &mut Writer) {
    match json {
        Json::Null => {}
        Json::Bool(yes) => writer.any(Value::Bool(*yes)),
        Json::String(text) => writer.any(Value::Str(text)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => writer.any(Value::Int(whole)),
            (None, Some(float)) => writer.any(Value::Double(float)),
            (None, None) => {}
        },
        Json::Array(_) | Json::Object(_) if depth == 0 => {}
        Json::Array(items) => {
            let list = writer.open(5);
            for item in items {
                let value = writer.open(1);
                any(item, depth - 1, writer);
                writer.close(value);
            }
            writer.close(list);
        }
        Json::Object(pairs) => {
            let list = writer.open(6);
            for (key, item) in pairs {
                let pair = writer.open(1);
                writer.bytes(1, key.as_bytes());
                let value = writer.open(2);
                any(item, depth - 1, writer);
                writer.close(value);
                writer.close(pair);
            }
            writer.close(list);
        }
    }
}

/// An unsigned number as OTLP's signed one.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

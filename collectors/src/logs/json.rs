//! Any service's JSON lines: the trace ids, service, revision and interval of work they carry, under the names that loggers
//! use. Owns the lists of names; refuses to invent a service or an interval that the line does not tell.

use model::log::{LogEvent, Meaning, Severity, Work};

use crate::logs::flat::{Fields, Value};
use crate::logs::line::{self, Context};
use crate::logs::{ids, redact, time};

const TRACE: [&str; 11] = [
    "trace_id",
    "traceId",
    "traceID",
    "trace.id",
    "TraceId",
    "otelTraceID",
    "dd.trace_id",
    "logging.googleapis.com/trace",
    "xray_trace_id",
    "span.trace_id",
    "fields.trace_id",
];
const SPAN: [&str; 9] = [
    "span_id",
    "spanId",
    "spanID",
    "span.id",
    "SpanId",
    "otelSpanID",
    "logging.googleapis.com/spanId",
    "span.span_id",
    "fields.span_id",
];
const PARENT: [&str; 7] = [
    "parent_span_id",
    "parentSpanId",
    "parent_id",
    "parentId",
    "parent.id",
    "parentSpanID",
    "fields.parent_span_id",
];
const SERVICE: [&str; 10] = [
    "service.name",
    "service",
    "service_name",
    "serviceName",
    "resource.service.name",
    "otelServiceName",
    "dd.service",
    "app",
    "application",
    "logger",
];
const REVISION: [&str; 7] = [
    "service.version",
    "service_version",
    "resource.service.version",
    "dd.version",
    "version",
    "revision",
    "build",
];
const TIME: [&str; 6] = ["time", "ts", "timestamp", "@timestamp", "t", "date"];
const MESSAGE: [&str; 6] = ["msg", "message", "fields.message", "body", "event", "log"];
const LEVEL: [&str; 6] = ["level", "severity", "lvl", "log.level", "severityText", "levelname"];
const OPERATION: [&str; 7] =
    ["operation", "op", "rpc.method", "db.operation", "span.name", "span_name", "name"];
/// Whom the writer called. Not `remote`: a server logs its caller under that name.
const PEER: [&str; 9] = [
    "peer",
    "net.peer.name",
    "server.address",
    "peer.service",
    "endpoint",
    "target",
    "upstream",
    "url",
    "http.url",
];
const START: [&str; 5] = ["start", "start_time", "startTime", "event.start", "started_at"];
const END: [&str; 5] = ["end", "end_time", "endTime", "event.end", "finished_at"];
/// Names that tell the unit.
const DURATIONS: [(&str, f64); 16] = [
    ("duration_ms", 1e6),
    ("durationMs", 1e6),
    ("elapsed_ms", 1e6),
    ("latency_ms", 1e6),
    ("took_ms", 1e6),
    ("responseTime", 1e6),
    ("duration_ns", 1.0),
    ("durationNs", 1.0),
    ("elapsed_ns", 1.0),
    ("event.duration", 1.0),
    ("duration_us", 1e3),
    ("elapsed_us", 1e3),
    ("latency_us", 1e3),
    ("duration_s", 1e9),
    ("duration_seconds", 1e9),
    ("elapsed_seconds", 1e9),
];
/// Names that do not: a text carries its unit; a fraction is seconds (zap's default), a whole number nanoseconds (slog's).
const BARE_DURATIONS: [&str; 6] = ["duration", "elapsed", "latency", "took", "time_spent", "request_time"];

/// One line. Without a trace id it is plain.
#[must_use]
pub(super) fn event(raw: &[u8], fields: &Fields<'_>, context: &Context<'_>) -> LogEvent {
    let given = fields.text(&TRACE).and_then(ids::trace);
    // A traceparent is what the caller sent: its span id is our parent. Anywhere in the line, so fields first.
    let inbound =
        if given.is_some() && fields.text(&["traceparent"]).is_none() { None } else { ids::traceparent(raw) };
    let trace_id = given.or(inbound.map(|(trace, _)| trace));
    let inbound = inbound.filter(|(trace, _)| Some(*trace) == trace_id);
    let span_id = trace_id.and(fields.text(&SPAN).and_then(ids::span));
    let parent_span_id = trace_id
        .and_then(|_| fields.text(&PARENT).and_then(ids::span).or(inbound.map(|(_, parent)| parent)))
        .filter(|parent| Some(*parent) != span_id);
    let time_ns = written(fields, &TIME, context).unwrap_or(context.now_ns);
    let severity = severity(fields);
    let kept = trace_id.is_some() || context.ship_all;
    let message = fields.text(&MESSAGE).unwrap_or("");
    let meaning = trace_id.and_then(|_| work(fields, time_ns, context)).map_or(Meaning::Plain, |mut work| {
        work.failed = failed(fields, severity);
        Meaning::Work(work)
    });
    LogEvent {
        time_ns,
        severity,
        service: line::cut_attribute(fields.text(&SERVICE).unwrap_or(context.service)).to_owned(),
        revision: fields.text(&REVISION).map(|revision| line::cut_attribute(revision).to_owned()),
        message: if kept { line::cut(message).to_owned() } else { String::new() },
        trace_id,
        span_id,
        parent_span_id,
        attributes: if kept { attributes(fields, &meaning) } else { Vec::new() },
        meaning,
        ship: kept,
    }
}

fn written(fields: &Fields<'_>, names: &[&str], context: &Context<'_>) -> Option<u64> {
    names.iter().find_map(|name| match fields.get(name)? {
        Value::Text(text) => time::civil_whole(text).map(|written| context.wall_ns(written)),
        Value::Int(value) => time::epoch_whole(*value),
        Value::Float(value) => time::epoch(*value),
        _ => None,
    })
}

fn severity(fields: &Fields<'_>) -> Severity {
    if let Some(word) = fields.text(&LEVEL) {
        return line::severity(word).unwrap_or(Severity::Info);
    }
    // bunyan and pino number their levels in tens.
    match fields.number(&LEVEL) {
        Some(n) if n >= 60.0 => Severity::Fatal,
        Some(n) if n >= 50.0 => Severity::Error,
        Some(n) if n >= 40.0 => Severity::Warn,
        Some(n) if (1.0..20.0).contains(&n) => Severity::Trace,
        Some(n) if (20.0..30.0).contains(&n) => Severity::Debug,
        _ => Severity::Info,
    }
}

/// The interval that a line tells: start and duration, start and end, or a duration alone. A line with a duration alone is
/// taken to stand at the *end* of the work, as loggers write it: start = time − duration.
fn work(fields: &Fields<'_>, time_ns: u64, context: &Context<'_>) -> Option<Work> {
    let start = written(fields, &START, context);
    let end = written(fields, &END, context);
    let (start_ns, duration_ns) = match (start, duration(fields), end) {
        (Some(start), Some(duration), _) => (start, duration),
        (Some(start), None, Some(end)) => (start, end.saturating_sub(start)),
        (None, Some(duration), Some(end)) => (end.saturating_sub(duration), duration),
        (None, Some(duration), None) => (time_ns.saturating_sub(duration), duration),
        _ => return None,
    };
    let operation = fields.text(&OPERATION).or_else(|| fields.text(&MESSAGE)).unwrap_or("work");
    // A server logs the path it was asked for as `url`: only a whole one names a peer.
    let peer = fields.text(&PEER).filter(|peer| !peer.starts_with('/')).map(|peer| {
        match fields.int("net.peer.port").or(fields.int("server.port")) {
            Some(port) if !peer.contains(':') => format!("{peer}:{port}"),
            _ => peer.to_owned(),
        }
    });
    Some(Work {
        operation: line::cut_attribute(operation).to_owned(),
        start_ns,
        duration_ns,
        peer: peer.map(|peer| line::cut_attribute(&peer).to_owned()),
        failed: false,
        key: key(fields),
    })
}

fn duration(fields: &Fields<'_>) -> Option<u64> {
    let told = DURATIONS.iter().find_map(|(name, unit)| time::whole_ns(fields.number(&[name])? * unit));
    told.or_else(|| {
        BARE_DURATIONS.iter().find_map(|name| match fields.get(name)? {
            Value::Text(text) => time::go_duration(text),
            Value::Float(seconds) => time::whole_ns(seconds * 1e9),
            Value::Int(ns) => u64::try_from(*ns).ok(),
            _ => None,
        })
    })
}

/// The key range a client names: `key` and `range_end`, or `prefix`.
fn key(fields: &Fields<'_>) -> Option<String> {
    if let Some(prefix) = fields.text(&["prefix", "key_prefix"]) {
        return redact::range(prefix.as_bytes(), &redact::prefix_end(prefix.as_bytes()));
    }
    let end = fields.text(&["range_end", "rangeEnd"]).unwrap_or("");
    redact::range(fields.text(&["key"])?.as_bytes(), end.as_bytes())
}

fn failed(fields: &Fields<'_>, severity: Severity) -> bool {
    let status = fields.number(&["status", "status_code", "http.status_code", "http.response.status_code"]);
    severity >= Severity::Error
        || fields.text(&["error", "err", "error.message", "exception"]).is_some()
        || fields.get("error") == Some(&Value::Bool(true))
        || status.is_some_and(|status| status >= 500.0)
        || fields.text(&["status", "otel.status_code"]).is_some_and(|word| {
            ["error", "failed", "failure"].iter().any(|bad| word.eq_ignore_ascii_case(bad))
        })
}

/// Fields that have no place of their own. A client's keys are etcd's keys: they leave as length and hash.
fn attributes(fields: &Fields<'_>, meaning: &Meaning) -> Vec<(String, String)> {
    let placed: [&[&str]; 8] = [&TRACE, &SPAN, &PARENT, &SERVICE, &REVISION, &TIME, &MESSAGE, &LEVEL];
    let calls_etcd = matches!(meaning, Meaning::Work(work) if work.key.is_some());
    fields
        .iter()
        .filter(|(name, _)| !placed.iter().any(|names| names.contains(name)))
        .take(line::ATTRIBUTES_MAX)
        .map(|(name, value)| {
            let text = value.to_string();
            let secret = calls_etcd
                && matches!(name, "key" | "range_end" | "rangeEnd" | "prefix" | "key_prefix" | "value");
            let text = if secret { redact::bytes(text.as_bytes()) } else { text };
            (line::cut_attribute(name).to_owned(), line::cut_attribute(&text).to_owned())
        })
        .collect()
}

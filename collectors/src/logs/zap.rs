//! etcd's zap lines: JSON (all versions with `--logger=zap`) and 3.6's console form. Owns level, time and message; what a line
//! means is `etcd`'s.

use model::log::{LogEvent, Meaning, Severity};

use crate::logs::flat::{Fields, Value};
use crate::logs::line::{self, Context};
use crate::logs::{etcd, ids, time};

/// Whether these fields are a line of etcd's zap logger: always in a member's file, by its slow lines' shape in other files
/// (k3s writes etcd's lines into its own log).
#[must_use]
pub(super) fn is_etcd(fields: &Fields<'_>, context: &Context<'_>) -> bool {
    let shaped =
        fields.text(&["level"]).is_some() && fields.get("ts").is_some() && fields.get("msg").is_some();
    if !shaped || context.member {
        return shaped;
    }
    let message = fields.text(&["msg"]).unwrap_or("");
    let caller = fields.text(&["caller"]).unwrap_or("");
    let caller_is_etcd =
        ["traceutil/", "etcdserver/", "v3rpc/", "txn/util.go", "mvcc/", "embed/", "rafthttp/"]
            .iter()
            .any(|prefix| caller.starts_with(prefix));
    caller_is_etcd
        || (message == "apply request took too long" && fields.get("took").is_some())
        || (message == "request stats" && fields.get("time spent").is_some())
}

/// One zap line. A time that nobody can read is the read time.
#[must_use]
pub(super) fn event(fields: &Fields<'_>, context: &Context<'_>) -> LogEvent {
    let time_ns = match fields.get("ts") {
        Some(Value::Text(text)) => time::civil_whole(text).map(|written| context.wall_ns(written)),
        Some(Value::Float(value)) => time::epoch(*value),
        Some(Value::Int(value)) => time::epoch_whole(*value),
        _ => None,
    }
    .unwrap_or(context.now_ns);
    let message = fields.text(&["msg"]).unwrap_or("");
    let meaning = etcd::meaning(message, fields, time_ns);
    let severity = fields.text(&["level"]).and_then(line::severity).unwrap_or(Severity::Info);
    let slow = meaning != Meaning::Plain;
    let kept = severity >= Severity::Warn || slow || context.ship_all;
    // Only lines that go on are worth their text.
    let text = if kept { text(message, &meaning) } else { String::new() };
    let attributes = if kept { attributes(fields) } else { Vec::new() };
    // etcd itself never writes a W3C id; a request's own traceparent metadata may be quoted by a proxy's field.
    let trace_id = fields.text(&["trace_id", "traceID"]).and_then(ids::trace);
    LogEvent {
        time_ns,
        severity,
        service: "etcd".to_owned(),
        revision: None,
        message: text,
        trace_id,
        span_id: trace_id.and(fields.text(&["span_id", "spanID"]).and_then(ids::span)),
        parent_span_id: None,
        meaning,
        attributes,
        ship: kept,
    }
}

/// `trace[N] range` becomes `trace range`: one message for all versions, the number is in the meaning.
fn text(message: &str, meaning: &Meaning) -> String {
    match meaning {
        Meaning::EtcdTrace { work, .. } => line::cut(&format!("trace {}", work.operation)).to_owned(),
        _ if etcd::names_a_key(message) => line::cut(&crate::logs::redact::quotes(message)).to_owned(),
        _ => line::cut(message).to_owned(),
    }
}

fn attributes(fields: &Fields<'_>) -> Vec<(String, String)> {
    fields
        .iter()
        .filter(|(name, _)| !matches!(*name, "level" | "ts" | "msg" | "step_count" | "stacktrace"))
        .take(line::ATTRIBUTES_MAX)
        .map(|(name, value)| (name.to_owned(), line::cut_attribute(&etcd::redacted(name, value)).to_owned()))
        .collect()
}

/// 3.6's `--log-format=console`: `TIME\tLEVEL\tCALLER\tMESSAGE\t{"fields":…}`, as the JSON form would be.
#[must_use]
pub(super) fn console(line: &str, context: &Context<'_>) -> Option<LogEvent> {
    let mut parts = line.split('\t');
    let written = time::civil_whole(parts.next()?)?;
    let severity = line::severity(parts.next()?)?;
    let caller = parts.next()?;
    let message = parts.next()?;
    let fields = Fields::read(parts.next().unwrap_or("{}").as_bytes())?;
    let time_ns = context.wall_ns(written);
    let meaning = etcd::meaning(message, &fields, time_ns);
    let kept = severity >= Severity::Warn || meaning != Meaning::Plain || context.ship_all;
    let mut all = vec![("caller".to_owned(), line::cut_attribute(caller).to_owned())];
    all.extend(attributes(&fields));
    all.truncate(line::ATTRIBUTES_MAX);
    Some(LogEvent {
        time_ns,
        severity,
        service: "etcd".to_owned(),
        revision: None,
        message: text(message, &meaning),
        trace_id: None,
        span_id: None,
        parent_span_id: None,
        meaning,
        attributes: if kept { all } else { Vec::new() },
        ship: kept,
    })
}

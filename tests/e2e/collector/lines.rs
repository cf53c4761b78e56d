//! Logs and traces: what was written against the lines the service logged.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use harness::collector::written::{Item, Written, list, text, whole};
use serde_json::Value;

/// What the service logged, as it should arrive.
pub(super) struct Said {
    line: Value,
    trace: String,
    span: String,
}

pub(super) fn service_log(path: &Path) -> Result<Vec<Said>> {
    let text_of = fs::read_to_string(path)?;
    let said = |line: &str| {
        let line: Value = serde_json::from_str(line)?;
        let (trace, span) = (text(&line, "trace_id").to_owned(), text(&line, "span_id").to_owned());
        Ok(Said { line, trace, span })
    };
    text_of.lines().map(said).collect()
}

/// Each line of the service is one record, with its own time, severity, body and ids.
pub(super) fn lines_arrived_once(said: &[Said], written: &Written) -> Result<()> {
    let mut by_span: BTreeMap<(&str, &str), Vec<&Item>> = BTreeMap::new();
    for record in written.logs.iter().filter(|record| record.service() == "orders") {
        by_span.entry((record.text("traceId"), record.text("spanId"))).or_default().push(record);
    }
    for Said { line, trace, span } in said {
        let records = by_span.get(&(trace.as_str(), span.as_str())).map_or(&[][..], Vec::as_slice);
        let &[record] = records else { bail!("{} records of {line}", records.len()) };
        ensure!(record.number("timeUnixNano") == whole(line.get("time")), "{line}: {}", record.value);
        ensure!(record.number("observedTimeUnixNano") >= record.number("timeUnixNano"), "{}", record.value);
        ensure!(
            record.number("severityNumber") == 9 && record.text("severityText") == "INFO",
            "{}",
            record.value
        );
        let body = record.value.pointer("/body/stringValue").and_then(Value::as_str);
        ensure!(body == Some(text(line, "msg")), "{line}: {}", record.value);
        let parent = record.attributes().get("parent_span_id").cloned();
        ensure!(parent.as_deref() == line.get("parent_span_id").and_then(Value::as_str), "{}", record.value);
        let revision = record.resource.get("service.version").map(String::as_str);
        ensure!(revision == Some(text(line, "service.version")), "{line}: {:?}", record.resource);
    }
    Ok(())
}

/// Findings are records of the agent, with a structured body.
pub(super) fn findings_arrived(written: &Written) -> Result<()> {
    // What the capture was for is a regression or, where a busy host hides it among its own unrest, the burn alone.
    for events in
        [&["backburn.regression", "backburn.burn"][..], &["backburn.profile_diff"], &["backburn.verdict"]]
    {
        let found = written.logs.iter().find(|record| events.contains(&record.text("eventName")));
        let found = found.with_context(|| format!("none of {events:?}"))?;
        let event = found.text("eventName");
        ensure!(found.service() == "backburn", "{event} of {}", found.service());
        ensure!(!list(found.value.pointer("/body/kvlistValue/values")).is_empty(), "{}", found.value);
    }
    Ok(())
}

/// A tree from the service into etcd, with the ids, times and kinds of the lines it was made from.
pub(super) fn tree_arrived(said: &[Said], written: &Written) -> Result<()> {
    let spans: BTreeMap<(&str, &str), &Item> =
        written.spans.iter().map(|span| ((span.text("traceId"), span.text("spanId")), span)).collect();
    let mut trees = 0;
    for Said { line, trace, span: id } in said.iter().filter(|said| said.line.get("parent_span_id").is_some())
    {
        let Some(call) = spans.get(&(trace.as_str(), id.as_str())) else { continue };
        ensure!(call.service() == "orders" && call.text("name") == "put", "{}", call.value);
        let parent = text(line, "parent_span_id");
        ensure!(call.text("parentSpanId") == parent, "{line}: {}", call.value);
        let root = spans.get(&(trace.as_str(), parent)).context("a call without its caller")?;
        ensure!(
            root.text("parentSpanId").is_empty() && root.text("name") == "handle order",
            "{}",
            root.value
        );
        let (start, end) = (call.number("startTimeUnixNano"), call.number("endTimeUnixNano"));
        let took_ms = line.get("duration_ms").and_then(Value::as_f64).context("no duration")?;
        ensure!(end == whole(line.get("time")), "{line} ends at {end}");
        ensure!(((end - start) as f64 / 1e6 - took_ms).abs() < 0.01, "{line}: {}", call.value);
        let below = |span: &&&Item| span.text("traceId") == trace && span.text("parentSpanId") == id;
        if let Some(server) = spans.values().find(below) {
            ensure!(server.service() == "etcd" && is_within(server, call), "{}", server.value);
            // CLIENT and SERVER: what a backend's service map is made of.
            ensure!(
                (call.number("kind"), server.number("kind")) == (3, 2),
                "{} {}",
                call.value,
                server.value
            );
            ensure!(server.attributes().contains_key("stitch.confidence"), "{}", server.value);
            trees += 1;
        }
    }
    ensure!(trees > 0, "no tree leads into etcd; {} spans", written.spans.len());
    Ok(())
}

fn is_within(inner: &Item, outer: &Item) -> bool {
    outer.number("startTimeUnixNano") <= inner.number("startTimeUnixNano")
        && inner.number("endTimeUnixNano") <= outer.number("endTimeUnixNano")
}

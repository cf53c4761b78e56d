//! What can be seen from outside: the agent's board, the deployer's journal, the service's log, the OTLP receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::http;
use harness::sink::{Payload, Sink};
use serde_json::Value;

use super::{seconds_between, told};
use crate::report::Changed;

/// Where to look.
pub(super) struct Story {
    dir: PathBuf,
    board: SocketAddr,
}

/// What was excused, by the reason.
pub(super) type Excuses = BTreeMap<String, BTreeSet<String>>;

/// What has been seen since v2's first request. Times are wall nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) regression_at_ns: u64,
    pub(super) detected_ns: Option<u64>,
    pub(super) burn_ns: Option<u64>,
    pub(super) lane: String,
    pub(super) signal_ns: Option<u64>,
    pub(super) put_back_ns: Option<u64>,
    pub(super) diff_ns: Option<u64>,
    pub(super) diff_top: Vec<Changed>,
    pub(super) engine: String,
    pub(super) heap_ns: Option<u64>,
    pub(super) recovered_ns: Option<u64>,
    pub(super) resolved_ns: Option<u64>,
    pub(super) artefacts: PathBuf,
    pub(super) signal_file: PathBuf,
    pub(super) recording: PathBuf,
}

impl Seen {
    /// Every step of the story has happened.
    pub(super) fn complete(&self) -> bool {
        self.detected_ns.is_some()
            && self.burn_ns.is_some()
            && self.signal_ns.is_some()
            && self.put_back_ns.is_some()
            && self.diff_ns.is_some()
            && self.heap_ns.is_some()
            && self.recovered_ns.is_some()
            && self.resolved_ns.is_some()
    }
}

impl Story {
    /// Watches that directory and that board.
    pub(super) fn new(dir: &Path, board: SocketAddr) -> Story {
        Story { dir: dir.to_owned(), board }
    }

    /// Looks once and tells what is new.
    pub(super) fn look(&self, seen: &mut Seen) -> Result<Vec<String>> {
        let mut told = Vec::new();
        let board = self.board()?;
        for finding in board["findings"].as_array().into_iter().flatten() {
            self.finding(finding, seen, &mut told);
        }
        self.decision(&board, seen, &mut told);
        self.deployer(seen, &mut told)?;
        Ok(told)
    }

    fn finding(&self, finding: &Value, seen: &mut Seen, said: &mut Vec<String>) {
        let at_ns = finding["at"]["wall_ns"].as_u64().unwrap_or(0);
        if at_ns < seen.regression_at_ns {
            return;
        }
        let after = seconds_between(seen.regression_at_ns, at_ns);
        let conclusion = &finding["conclusion"];
        let regression = &conclusion["regression"];
        if seen.detected_ns.is_none() && regression["open"] == true && regression["cause"].is_null() {
            seen.detected_ns = Some(at_ns);
            said.push(format!(
                "regression, {after:.1} s after v2's first request: {} {:.4} -> {:.4} {} (n = {}, {})",
                text(&regression["metric"]),
                number(&regression["before"]["value"]),
                number(&regression["after"]["value"]),
                text(&regression["unit"]),
                regression["before"]["n"],
                regression["after"]["n"]
            ));
        }
        let burn = &conclusion["burn"];
        if seen.burn_ns.is_none() && burn["firing"] == true {
            seen.burn_ns = Some(at_ns);
            seen.lane =
                burn["lane"].as_object().and_then(|lane| lane.keys().next().cloned()).unwrap_or_default();
            said.push(format!(
                "{} burns {:.0} times its budget, {after:.1} s after: {} of {} bad, p = {:.1e} (lane: {})",
                text(&burn["slo"]),
                number(&burn["burn_long"]),
                burn["bad"],
                burn["total"],
                number(&burn["p_value"]),
                seen.lane
            ));
        }
        let diff = &conclusion["profile_diff"];
        if seen.diff_ns.is_none() && diff["kind"] == "cpu" {
            seen.diff_ns = Some(at_ns);
            seen.engine = text(&diff["engine"]);
            seen.diff_top = diff["functions"].as_array().into_iter().flatten().map(changed).collect();
            said.push(format!(
                "profile diff, {after:.1} s after: {} functions changed beyond noise ({} and {} samples by {}, baseline {})",
                seen.diff_top.len(),
                diff["before_samples"],
                diff["after_samples"],
                seen.engine,
                text(&diff["baseline"])
            ));
        }
        if seen.heap_ns.is_none() && diff["kind"] == "heap" {
            seen.heap_ns = Some(at_ns);
            let functions = diff["functions"].as_array().map_or(0, Vec::len);
            said.push(format!("heap diff, {after:.1} s after: {functions} functions changed beyond noise"));
        }
    }

    fn decision(&self, board: &Value, seen: &mut Seen, said: &mut Vec<String>) {
        let decisions = board["decisions"].as_array().into_iter().flatten();
        for decision in decisions.filter(|decision| decision["target"] == "orders") {
            let since_ns = decision["since"]["wall_ns"].as_u64().unwrap_or(0);
            if seen.recovered_ns.is_none()
                && seen.signal_ns.is_some_and(|at| since_ns > at)
                && decision["state"] == "pass"
            {
                seen.recovered_ns = Some(since_ns);
                said.push(format!(
                    "recovered, {:.1} s after: {}",
                    seconds_between(seen.regression_at_ns, since_ns),
                    text(&decision["evidence"]["sentence"])
                ));
            }
        }
    }

    fn deployer(&self, seen: &mut Seen, said: &mut Vec<String>) -> Result<()> {
        for event in self.events()? {
            let at_ns = event["at_ns"].as_u64().unwrap_or(0);
            if at_ns < seen.regression_at_ns {
                continue;
            }
            let after = seconds_between(seen.regression_at_ns, at_ns);
            let kind = text(&event["type"]);
            if event["event"] == "signal" && kind.contains(".rollback.") && seen.signal_ns.is_none() {
                seen.signal_ns = Some(at_ns);
                seen.signal_file = self.dir.join("signal.json");
                fs::write(&seen.signal_file, serde_json::to_string_pretty(&event["body"])?)?;
                said.push(format!(
                    "the deployer has a signed rollback signal, {after:.1} s after: {}",
                    text(&event["body"]["data"]["evidence"]["sentence"])
                ));
            }
            if event["event"] == "deployed" && !event["rollback_of"].is_null() && seen.put_back_ns.is_none() {
                seen.put_back_ns = Some(at_ns);
                said.push(format!("the deployer puts {} back, {after:.1} s after", text(&event["revision"])));
            }
            if event["event"] == "signal" && kind.contains(".resolved.") && seen.resolved_ns.is_none() {
                seen.resolved_ns = Some(at_ns);
                said.push(format!("the deployer has the resolved event, {after:.1} s after"));
            }
        }
        Ok(())
    }

    /// Rollback signals the deployer has received so far.
    pub(super) fn signals(&self) -> Result<Vec<Value>> {
        let signals = self.events()?.into_iter();
        Ok(signals.filter(|event| text(&event["type"]).contains(".rollback.")).collect())
    }

    /// Adds what the agent excuses now, by the reason it gives: the board keeps the latest findings alone, so it is asked often.
    pub(super) fn excuses(&self, excuses: &mut Excuses) -> Result<()> {
        let board = self.board()?;
        for finding in board["findings"].as_array().into_iter().flatten() {
            let (regression, burn) = (&finding["conclusion"]["regression"], &finding["conclusion"]["burn"]);
            if let Some(cause) = regression["cause"].as_str() {
                excuses.entry(cause.to_owned()).or_default().insert(text(&regression["metric"]));
            }
            if let Some(excused) = burn["excused"].as_str() {
                excuses
                    .entry(excused.to_owned())
                    .or_default()
                    .insert(format!("burn of {}", text(&burn["slo"])));
            }
        }
        Ok(())
    }

    /// What the agent made of the planned restart.
    pub(super) fn blip(&self, member: &str, excuses: &Excuses) -> Result<String> {
        /// Named of what one reason excuses; the rest is a number.
        const NAMED_MAX: usize = 3;
        let board = self.board()?;
        let lines: Vec<String> = excuses
            .iter()
            .map(|(reason, what)| {
                let named: Vec<&str> = what.iter().take(NAMED_MAX).map(String::as_str).collect();
                let more = match what.len().saturating_sub(NAMED_MAX) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("excused, {reason}: {}{more}", named.join(", "))
            })
            .collect();
        let failed: u64 = board["members"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|shown| shown["origin"]["member"]["name"] == member)
            .flat_map(|shown| shown["latencies"].as_array().cloned().unwrap_or_default())
            .filter_map(|latency| latency["failed"].as_u64())
            .sum();
        let known: Vec<String> = board["excused"].as_array().into_iter().flatten().map(text).collect();
        let known = if known.is_empty() {
            "excused nothing".to_owned()
        } else {
            format!("excused as {}", known.join(", "))
        };
        let worth =
            if lines.is_empty() { "none of it was worth a finding".to_owned() } else { lines.join("; ") };
        Ok(format!("{failed} probes of {member} failed, {known}; {worth}"))
    }

    /// Start of the first request of a revision, by its own log.
    pub(super) fn first_request(&self, revision: &str) -> Result<Option<u64>> {
        let log = fs::read_to_string(self.dir.join("orders.log")).unwrap_or_default();
        let first = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["service.version"] == revision)
            .filter_map(|line| {
                let ended: jiff::Timestamp = line["time"].as_str()?.parse().ok()?;
                let took_ns = (line["duration_ms"].as_f64()? * 1e6) as i128;
                u64::try_from(ended.as_nanosecond() - took_ns).ok()
            })
            .min();
        Ok(first)
    }

    fn board(&self) -> Result<Value> {
        let answer = http::get(self.board, "/verdict", Duration::from_secs(2)).context("ask the agent")?;
        serde_json::from_str(&answer.body).context("read the board")
    }

    fn events(&self) -> Result<Vec<Value>> {
        let text =
            fs::read_to_string(self.dir.join("deployer.jsonl")).context("read the deployer's events")?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

fn changed(function: &Value) -> Changed {
    Changed {
        function: text(&function["name"]),
        before: number(&function["before"]),
        after: number(&function["after"]),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// A span as it arrived: (trace, id, parent, service, version, name, start, end).
struct Arrived {
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    service: String,
    version: String,
    name: String,
    start_ns: u64,
    end_ns: u64,
}

fn spans(sink: &Sink) -> Vec<Arrived> {
    let mut spans = Vec::new();
    for received in sink.received() {
        let Payload::Traces(request) = &received.payload else { continue };
        for resource in &request.resource_spans {
            let attributes =
                resource.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default();
            let named = |key: &str| {
                attributes
                    .iter()
                    .find(|attribute| attribute.key == key)
                    .and_then(|attribute| attribute.value.as_ref())
                    .and_then(|value| match &value.value {
                        Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text)) => {
                            Some(text.clone())
                        }
                        _ => None,
                    })
                    .unwrap_or_default()
            };
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(Arrived {
                    trace: span.trace_id.clone(),
                    id: span.span_id.clone(),
                    parent: span.parent_span_id.clone(),
                    service: named("service.name"),
                    version: named("service.version"),
                    name: span.name.clone(),
                    start_ns: span.start_time_unix_nano,
                    end_ns: span.end_time_unix_nano,
                });
            }
        }
    }
    spans
}

/// Traces that have a root of v2 and a span of etcd.
pub(super) fn call_trees(sink: &Sink) -> usize {
    let spans = spans(sink);
    let mut traces: Vec<&Vec<u8>> = spans
        .iter()
        .filter(|span| span.service == "orders" && span.version == "v2" && span.parent.is_empty())
        .map(|span| &span.trace)
        .collect();
    traces.sort();
    traces.dedup();
    traces.retain(|trace| spans.iter().any(|span| span.trace == **trace && span.service == "etcd"));
    traces.len()
}

/// The tree of one v2 request, indented, as it arrived.
pub(super) fn one_tree(sink: &Sink) -> Vec<String> {
    let spans = spans(sink);
    let roots = spans
        .iter()
        .filter(|span| span.service == "orders" && span.version == "v2" && span.parent.is_empty());
    let deepest = roots.max_by_key(|root| {
        spans.iter().filter(|span| span.trace == root.trace && span.service == "etcd").count()
    });
    let Some(root) = deepest else { return vec!["none arrived".to_owned()] };
    let mut lines = vec![format!("trace {} at {}", hex(&root.trace), told(root.start_ns))];
    branch(&spans, root, 0, &mut lines);
    lines
}

fn branch(spans: &[Arrived], span: &Arrived, depth: usize, lines: &mut Vec<String>) {
    /// Deeper than any tree of the demo: a loop in the parents must not hang it.
    const DEPTH_MAX: usize = 16;
    let took_ms = span.end_ns.saturating_sub(span.start_ns) as f64 / 1e6;
    lines.push(format!("{:indent$}{} {} {took_ms:.1} ms", "", span.service, span.name, indent = depth * 2));
    if depth < DEPTH_MAX {
        for child in spans.iter().filter(|child| child.trace == span.trace && child.parent == span.id) {
            branch(spans, child, depth + 1, lines);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! What etcd's slow lines mean: `trace[N] op` (3.4 to 3.6), `trace` (3.7), `apply request took too long`, `request stats`.
//! Owns their shapes; refuses to take etcd's numeric trace id for a W3C id, and to pass on a key.

use model::log::{Meaning, Step, Work};

use crate::logs::flat::{Fields, Value};
use crate::logs::{redact, time};

/// Steps of one line: etcd's longest traces have nine.
const STEPS_MAX: usize = 64;

/// What a line with this message and these fields means; `time_ns` is the line's own time.
#[must_use]
pub(super) fn meaning(message: &str, fields: &Fields<'_>, time_ns: u64) -> Meaning {
    let found = match message {
        "apply request took too long" => slow_apply(fields, time_ns),
        "request stats" => request(fields, time_ns),
        _ => trace(message, fields, time_ns),
    };
    found.unwrap_or(Meaning::Plain)
}

/// The number and operation of a trace line: `trace[543112779] range`, or `trace` with both as fields.
#[must_use]
pub(super) fn trace_name<'a>(message: &'a str, fields: &'a Fields<'_>) -> Option<(u32, &'a str)> {
    if message == "trace" {
        let number = fields.int("trace_id").and_then(|number| u32::try_from(number).ok())?;
        return Some((number, fields.text(&["operation"])?));
    }
    let (number, operation) = message.strip_prefix("trace[")?.split_once("] ")?;
    Some((number.parse().ok()?, operation))
}

fn trace(message: &str, fields: &Fields<'_>, time_ns: u64) -> Option<Meaning> {
    let (number, operation) = trace_name(message, fields)?;
    let duration_ns = fields.text(&["duration"]).and_then(time::go_duration)?;
    let start_ns = fields
        .text(&["start"])
        .and_then(time::civil_whole)
        .map_or_else(|| time_ns.saturating_sub(duration_ns), |start| start.ns);
    let key = fields.text(&["detail"]).and_then(|detail| redact::detail(detail).1);
    let steps = match fields.get("steps") {
        Some(Value::List(texts)) => texts.iter().take(STEPS_MAX).filter_map(|text| step(text)).collect(),
        _ => Vec::new(),
    };
    let operation = operation.to_owned();
    let work = Work { operation, start_ns, duration_ns, peer: None, failed: false, key };
    Some(Meaning::EtcdTrace { number, work, steps })
}

/// `trace[N] 'range keys from bolt db' {k:v; } (duration: 49.173222ms)`, or without the prefix (3.7).
fn step(text: &str) -> Option<Step> {
    let (_, named) = text.split_once('\'')?;
    let (name, _) = named.split_once('\'')?;
    let (_, duration) = text.rsplit_once("(duration: ")?;
    let duration_ns = time::go_duration(duration.trim_end_matches(')'))?;
    Some(Step { name: name.to_owned(), duration_ns })
}

fn slow_apply(fields: &Fields<'_>, time_ns: u64) -> Option<Meaning> {
    let took_ns = fields.text(&["took"]).and_then(time::go_duration)?;
    let expected_ns = fields.text(&["expected-duration"]).and_then(time::go_duration).unwrap_or(0);
    let prefix = fields.text(&["prefix"]).unwrap_or("");
    let request = fields.text(&["request"]).unwrap_or("");
    Some(slow_apply_from(Apply {
        prefix,
        request,
        took_ns,
        expected_ns,
        end_ns: time_ns,
        failed: fields.text(&["error"]).is_some(),
    }))
}

/// The parts of an `apply … took too long` line in either log format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Apply<'a> {
    /// `read-only range `, `read-only txn ` or nothing.
    pub prefix: &'a str,
    /// The request's text, not yet redacted.
    pub request: &'a str,
    /// How long it took, nanoseconds.
    pub took_ns: u64,
    /// The limit, nanoseconds; 0 where the line does not tell.
    pub expected_ns: u64,
    /// The line's time.
    pub end_ns: u64,
    /// Whether the line tells an error.
    pub failed: bool,
}

/// The meaning of an `apply … took too long` line.
#[must_use]
pub(super) fn slow_apply_from(apply: Apply<'_>) -> Meaning {
    let work = Work {
        operation: apply_operation(apply.prefix, apply.request).to_owned(),
        start_ns: apply.end_ns.saturating_sub(apply.took_ns),
        duration_ns: apply.took_ns,
        peer: None,
        failed: apply.failed,
        key: redact::request_range(apply.request),
    };
    Meaning::EtcdSlowApply { work, expected_ns: apply.expected_ns }
}

fn apply_operation<'a>(prefix: &str, request: &'a str) -> &'a str {
    if prefix.contains("range") {
        return "range";
    }
    if prefix.contains("txn") {
        return "txn";
    }
    // `header:<ID:… > put:<key:…`, with braces in some lines of 3.7: the field after the header is the operation.
    let body = match request.split_once("header:") {
        Some((_, header)) => header.split_once(['>', '}']).map_or("", |(_, body)| body),
        None => request,
    };
    let name = body.trim_start().split([':', '<', '{', ' ']).next().unwrap_or("");
    // A read that failed before it had a prefix is printed bare.
    match name {
        "key" | "limit" | "range_end" | "serializable" => "range",
        "" => "apply",
        other if other.len() <= 32 && other.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
            other
        }
        _ => "apply",
    }
}

fn request(fields: &Fields<'_>, time_ns: u64) -> Option<Meaning> {
    let duration_ns = fields.text(&["time spent"]).and_then(time::go_duration)?;
    let start_ns = fields
        .text(&["start time"])
        .and_then(time::civil_whole)
        .map_or_else(|| time_ns.saturating_sub(duration_ns), |start| start.ns);
    let work = Work {
        operation: fields.text(&["response type"]).unwrap_or("unknown").to_owned(),
        start_ns,
        duration_ns,
        peer: None,
        failed: false,
        key: fields.text(&["request content"]).and_then(redact::request_range),
    };
    Some(Meaning::EtcdRequest {
        work,
        remote: fields.text(&["remote"]).unwrap_or("").to_owned(),
        response_count: fields.int("response count").unwrap_or(-1),
        response_bytes: fields.int("response size").unwrap_or(-1),
    })
}

/// A field's text without key and value bytes.
#[must_use]
pub(super) fn redacted(name: &str, value: &Value<'_>) -> String {
    match name {
        "detail" => redact::detail(&value.to_string()).0,
        // Keys stand bare in these, whoever wrote them.
        "key" | "range_end" | "range-end" | "value" | "range_begin" | "start-key" | "end-key" => {
            redact::bytes(value.to_string().as_bytes())
        }
        "steps" => match value {
            Value::List(texts) => {
                texts.iter().filter_map(|text| step(text)).fold(String::new(), |mut all, step| {
                    if !all.is_empty() {
                        all.push_str("; ");
                    }
                    all.push_str(&format!("{} {}ns", step.name, step.duration_ns));
                    all
                })
            }
            _ => String::new(),
        },
        "prefix" if value.to_string().starts_with("read-only ") || *value == Value::Text("".into()) => {
            value.to_string()
        }
        "prefix" => redact::bytes(value.to_string().as_bytes()),
        "request" | "request content" | "response" => redact::quotes(&value.to_string()).into_owned(),
        _ => {
            let text = value.to_string();
            if names_a_key(&text) { redact::quotes(&text).into_owned() } else { text }
        }
    }
}

/// Whether a free text quotes a request: `key:"…"`, `range_end:"…"`, `value:"…"`, `prefix:"…"`.
#[must_use]
pub(super) fn names_a_key(text: &str) -> bool {
    ["key:\"", "range_end:\"", "value:\"", "prefix:\"", "key \"", "lease_grant:<"]
        .iter()
        .any(|name| text.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Meaning {
        let fields = Fields::read(line.as_bytes()).unwrap();
        let message = fields.text(&["msg"]).unwrap();
        meaning(message, &fields, 1_795_231_463_000_000_000)
    }

    const STEPS_OLD: &str = r#"["trace[77] 'agreement among raft nodes before linearized reading'  (duration: 46ms)","trace[77] 'range keys from bolt db' {key:q; } (duration: 214.5ms)"]"#;
    const STEPS_NEW: &str = r#"["'agreement among raft nodes before linearized reading'  (duration: 46ms)","'range keys from bolt db'  (duration: 214.5ms)"]"#;

    fn check_trace(head: &str, steps: &str) {
        let line = format!(
            r#"{{"level":"info","ts":"2026-11-21T01:24:25.453Z",{head},"detail":"{{range_begin:/a/; range_end:/a0; response_count:3; }}","duration":"289.5ms","start":"2026-11-21T01:24:25.164Z","end":"2026-11-21T01:24:25.453Z","steps":{steps}}}"#
        );
        let Meaning::EtcdTrace { number, work, steps } = read(&line) else { panic!("{line}") };
        assert_eq!(number, 77);
        assert_eq!(work.operation, "range");
        assert_eq!(work.duration_ns, 289_500_000);
        assert_eq!(work.key, redact::range(b"/a/", b"/a0"));
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[1], Step { name: "range keys from bolt db".into(), duration_ns: 214_500_000 });
    }

    #[test]
    fn a_trace_of_every_version_means_the_same() {
        check_trace(r#""msg":"trace[77] range""#, STEPS_OLD); // 3.4 to 3.6
        check_trace(r#""msg":"trace","trace_id":77,"operation":"range""#, STEPS_NEW); // 3.7
    }

    #[test]
    fn the_operation_of_an_apply_is_found() {
        let check = |prefix: &str, request: &str, expected: &str| {
            assert_eq!(apply_operation(prefix, request), expected, "{prefix}|{request}");
        };
        check("read-only range ", "key:\"a\" ", "range");
        check("read-only txn ", "compare:<> ", "txn");
        check("", "header:<ID:475 > put:<key:\"a\" value_size:1 >", "put");
        check("", "header:<ID:475> txn:<compare:<> success:<>>", "txn");
        check(
            "",
            "header:<ID:475 username:\"u\" auth_revision:1 > lease_grant:<ttl:60-second id:41f2>",
            "lease_grant",
        );
        check("", "header:<ID:475 > compaction:<revision:7 > ", "compaction");
        check("", "header:{ID:57}  compaction:{revision:432  physical:true}", "compaction");
        check("", "ID:47 Method:\"PUT\" Path:\"/0/members\"", "apply");
        check("", "", "apply");
        check("", "header:<", "apply");
    }

    #[test]
    fn an_apply_ends_where_its_line_stands() {
        let line = r#"{"msg":"apply request took too long","took":"402.5ms","expected-duration":"100ms","prefix":"","request":"header:<ID:1 > put:<key:\"k\" value_size:1 >","response":"","error":"etcdserver: no space"}"#;
        let Meaning::EtcdSlowApply { work, expected_ns } = read(line) else { panic!() };
        assert_eq!(expected_ns, 100_000_000);
        assert_eq!(work.start_ns + work.duration_ns, 1_795_231_463_000_000_000);
        assert!(work.failed);
        assert_eq!(work.key, redact::range(b"k", b""));
    }

    #[test]
    fn request_stats_name_the_peer() {
        let line = r#"{"msg":"request stats","start time":"2026-11-21T01:24:25.154927Z","time spent":"473.9ms","remote":"127.0.0.1:50608","response type":"/etcdserverpb.KV/Range","request count":0,"request size":14,"response count":30000,"response size":6784832,"request content":"key:\"/a/\"  range_end:\"/a0\""}"#;
        let Meaning::EtcdRequest { work, remote, response_count, response_bytes } = read(line) else {
            panic!()
        };
        assert_eq!((remote.as_str(), response_count, response_bytes), ("127.0.0.1:50608", 30000, 6_784_832));
        assert_eq!(work.key, redact::range(b"/a/", b"/a0"));
        assert_eq!(work.operation, "/etcdserverpb.KV/Range");
    }

    #[test]
    fn a_torn_shape_is_plain() {
        assert_eq!(
            read(r#"{"msg":"trace","trace_id":"77","operation":"range","duration":"1ms"}"#),
            Meaning::Plain
        );
        assert_eq!(read(r#"{"msg":"trace[x] range","duration":"1ms"}"#), Meaning::Plain);
        assert_eq!(read(r#"{"msg":"request stats","time spent":"soon"}"#), Meaning::Plain);
    }
}

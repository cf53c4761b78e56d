//! One line of bytes to one event: chooses the format. Owns the bounds on text and the reasons for rejects; refuses to fail.

use std::borrow::Cow;

use model::log::{LogEvent, Meaning, Severity};

use crate::logs::flat::Fields;
use crate::logs::{capnslog, container, ids, json, time, zap};

/// Further fields of one event, as [`LogEvent`] promises.
pub(super) const ATTRIBUTES_MAX: usize = 32;
/// Bytes of a message that are kept: an etcd txn of 128 puts quotes 8 KB of request.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of one attribute, name, service or revision.
const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// What a parser must know of the file that a line stands in.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Service to name where the line does not: the file's stem.
    pub service: &'a str,
    /// Whether the file is a member's own log.
    pub member: bool,
    /// When the line was read.
    pub now_ns: u64,
    /// What to add to a time that was written without a zone, to have UTC; nanoseconds.
    pub zone_ns: i64,
    /// Keep and ship every line.
    pub ship_all: bool,
}

impl Context<'_> {
    /// A written time as nanoseconds since the epoch.
    #[must_use]
    pub(super) fn wall_ns(&self, written: time::Written) -> u64 {
        if written.zoned { written.ns } else { written.ns.saturating_add_signed(self.zone_ns) }
    }
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// Worth a place in the batch.
    Event(Box<LogEvent>),
    /// Read, and neither shipped nor meaningful: only counted.
    Quiet,
    /// No parser could read it.
    Reject(Reject),
}

/// Why a line was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reject {
    /// Begins like JSON and is not: torn, or two writers.
    BadJson,
    /// Not UTF-8.
    NotText,
    /// In a member's log, and of none of etcd's formats (a stack trace, a panic).
    UnknownFormat,
    /// Longer than the limit: cut.
    TooLong,
}

impl Reject {
    /// The reason label.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Reject::BadJson => "bad_json",
            Reject::NotText => "not_text",
            Reject::UnknownFormat => "unknown_format",
            Reject::TooLong => "line_too_long",
        }
    }
}

/// Reads one line without its newline. Never fails as a whole.
#[must_use]
pub fn parse(raw: &[u8], context: &Context<'_>) -> Line {
    let raw = raw.trim_ascii();
    if raw.is_empty() {
        return Line::Quiet;
    }
    if let Some((inner, now_ns)) = container::cri(raw) {
        // A line without a time of its own has the runtime's.
        return bare(inner, &Context { now_ns, ..*context });
    }
    bare(raw, context)
}

fn bare(raw: &[u8], context: &Context<'_>) -> Line {
    if raw.first() == Some(&b'{') {
        let Some(fields) = Fields::read(raw) else { return Line::Reject(Reject::BadJson) };
        if let Some((inner, now_ns)) = container::docker(&fields) {
            let context = &Context { now_ns, ..*context };
            // One level only: a container's line that quotes a container's line is data.
            return match Fields::read(inner.as_bytes()) {
                Some(inner_fields) => fielded(inner.as_bytes(), &inner_fields, context),
                None => text(inner.trim_end(), context),
            };
        }
        return fielded(raw, &fields, context);
    }
    match std::str::from_utf8(raw) {
        Ok(plain) => text(plain, context),
        Err(_) => Line::Reject(Reject::NotText),
    }
}

fn fielded(raw: &[u8], fields: &Fields<'_>, context: &Context<'_>) -> Line {
    let event = if zap::is_etcd(fields, context) {
        zap::event(fields, context)
    } else {
        json::event(raw, fields, context)
    };
    keep(event)
}

fn text(line: &str, context: &Context<'_>) -> Line {
    let etcd = || capnslog::event(line, context).or_else(|| zap::console(line, context));
    if let Some(event) = context.member.then(etcd).flatten() {
        return keep(event);
    }
    let ids = ids::traceparent(line.as_bytes())
        .map(|(trace, parent)| (trace, None, Some(parent)))
        .or_else(|| ids::in_text(line).map(|(trace, span)| (trace, span, None)));
    let (trace_id, span_id, parent_span_id) = match ids {
        Some((trace, span, parent)) => (Some(trace), span, parent),
        None if context.member => return Line::Reject(Reject::UnknownFormat),
        None if context.ship_all => (None, None, None),
        None => return Line::Quiet,
    };
    let time_ns =
        time::civil(line.as_bytes()).map_or(context.now_ns, |(written, _)| context.wall_ns(written));
    keep(LogEvent {
        time_ns,
        severity: Severity::Info,
        service: context.service.to_owned(),
        revision: None,
        message: cut(line).to_owned(),
        trace_id,
        span_id,
        parent_span_id,
        meaning: Meaning::Plain,
        attributes: Vec::new(),
        ship: true,
    })
}

fn keep(event: LogEvent) -> Line {
    if event.ship || event.meaning != Meaning::Plain { Line::Event(Box::new(event)) } else { Line::Quiet }
}

/// A level's word in any case, abbreviated or not.
#[must_use]
pub(super) fn severity(word: &str) -> Option<Severity> {
    let lower: Cow<'_, str> = if word.bytes().any(|byte| byte.is_ascii_uppercase()) {
        word.to_ascii_lowercase().into()
    } else {
        word.into()
    };
    Some(match lower.as_ref() {
        "trace" | "verbose" => Severity::Trace,
        "debug" | "dbg" => Severity::Debug,
        "info" | "information" | "notice" | "default" => Severity::Info,
        "warn" | "warning" => Severity::Warn,
        "error" | "err" => Severity::Error,
        "fatal" | "panic" | "dpanic" | "critical" | "crit" | "alert" | "emergency" => Severity::Fatal,
        _ => return None,
    })
}

/// The message within its bound, cut at a character.
#[must_use]
pub(super) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MESSAGE_BYTES_MAX)).unwrap_or(text)
}

/// A name or value within its bound.
#[must_use]
pub(super) fn cut_attribute(text: &str) -> &str {
    text.get(..text.floor_char_boundary(ATTRIBUTE_BYTES_MAX)).unwrap_or(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use model::log::Work;
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    pub(crate) fn context(member: bool) -> Context<'static> {
        Context { service: "app", member, now_ns: 7, zone_ns: 0, ship_all: false }
    }

    fn event(line: &str, member: bool) -> LogEvent {
        match parse(line.as_bytes(), &context(member)) {
            Line::Event(event) => *event,
            other => panic!("{other:?}: {line}"),
        }
    }

    fn work(line: &str) -> (LogEvent, Work) {
        let event = event(line, false);
        let Meaning::Work(work) = event.meaning.clone() else { panic!("{line}") };
        (event, work)
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_request_line_tells_who_when_and_how_long() {
        let (event, work) = work(&format!(
            r#"{{"time":"2026-11-21T03:00:00.123456Z","level":"info","service.name":"orders","service.version":"v2","trace_id":"{TRACE}","span_id":"00f067aa0ba902b7","msg":"list orders","duration_ms":812.3}}"#
        ));
        assert_eq!((event.service.as_str(), event.revision.as_deref()), ("orders", Some("v2")));
        assert_eq!(work.operation, "list orders");
        assert_eq!(work.duration_ns, 812_300_000);
        assert_eq!(work.start_ns + work.duration_ns, event.time_ns);
        assert!(event.ship && event.trace_id.is_some() && event.span_id.is_some());
    }

    #[test]
    fn a_call_line_tells_parent_peer_and_operation() {
        let (event, work) = work(&format!(
            r#"{{"time":"2026-11-21T03:00:00.1Z","service.name":"orders","trace_id":"{TRACE}","parent_span_id":"00f067aa0ba902b7","span_id":"00f067aa0ba902b8","msg":"etcd range","operation":"range","peer":"127.0.0.1:23790","duration_ms":800.1,"prefix":"/orders/"}}"#
        ));
        assert_eq!(event.parent_span_id, ids::span("00f067aa0ba902b7"));
        assert_eq!((work.operation.as_str(), work.peer.as_deref()), ("range", Some("127.0.0.1:23790")));
        assert_eq!(work.key, crate::logs::redact::range(b"/orders/", b"/orders0"));
        assert!(
            event.attributes.iter().all(|(_, value)| !value.contains("/orders")),
            "{:?}",
            event.attributes
        );
    }

    #[test]
    fn a_peer_is_whom_the_writer_called() {
        let check = |fields: &str, expected: Option<&str>| {
            let (_, work) = work(&format!(r#"{{"msg":"x","trace_id":"{TRACE}","duration_ms":1,{fields}}}"#));
            assert_eq!(work.peer.as_deref(), expected, "{fields}");
        };
        check(r#""peer":"127.0.0.1:2379""#, Some("127.0.0.1:2379"));
        check(r#""server.address":"db","server.port":5432"#, Some("db:5432"));
        check(r#""url":"http://db:80/x""#, Some("http://db:80/x"));
        check(r#""url":"/orders/7""#, None);
        check(r#""remote":"10.0.0.9:555""#, None);
    }

    #[test]
    fn every_spelling_of_a_trace_id_is_one_trace() {
        for fields in [
            format!(r#""trace_id":"{TRACE}""#),
            format!(r#""traceId":"{}""#, TRACE.to_uppercase()),
            format!(r#""trace":{{"id":"{TRACE}"}}"#),
            format!(r#""trace.id":"{TRACE}""#),
            format!(r#""dd":{{"trace_id":"{TRACE}"}}"#),
            format!(r#""headers":"traceparent=00-{TRACE}-00f067aa0ba902b7-01""#),
            format!(r#""logging.googleapis.com/trace":"projects/p/traces/{TRACE}""#),
        ] {
            let event = event(&format!(r#"{{"msg":"x",{fields}}}"#), false);
            assert_eq!(event.trace_id, ids::trace(TRACE), "{fields}");
        }
    }

    #[test]
    fn durations_carry_or_imply_their_unit() {
        let check = |field: &str, expected: u64| {
            let (_, work) = work(&format!(r#"{{"msg":"x","trace_id":"{TRACE}",{field}}}"#));
            assert_eq!(work.duration_ns, expected, "{field}");
        };
        check(r#""duration_ms":12"#, 12_000_000);
        check(r#""elapsed":"1m2.5s""#, 62_500_000_000);
        check(r#""duration":0.25"#, 250_000_000);
        check(r#""duration":250000000"#, 250_000_000);
        check(r#""event":{"duration":77}"#, 77);
        check(r#""start":"2026-11-21T03:00:00Z","end":"2026-11-21T03:00:01Z""#, 1_000_000_000);
    }

    #[test]
    fn an_etcd_number_is_never_a_trace_id() {
        let line = r#"{"level":"info","ts":"2026-11-21T01:24:25.453968Z","caller":"traceutil/trace.go:195","msg":"trace","trace_id":840183203,"operation":"put","detail":"{key:/secret; req_size:6; }","duration":"289ms","start":"2026-11-21T01:24:25.164548Z","end":"2026-11-21T01:24:25.453889Z","steps":["'process raft request'  (duration: 280ms)"],"step_count":1}"#;
        for member in [true, false] {
            let event = event(line, member);
            assert_eq!(event.trace_id, None);
            assert_eq!(event.service, "etcd");
            assert!(event.ship);
            assert!(matches!(event.meaning, Meaning::EtcdTrace { number: 840_183_203, .. }));
            assert!(!format!("{event:?}").contains("secret"), "{event:?}");
        }
    }

    #[test]
    fn all_timestamp_forms_of_zap_are_read() {
        let check = |ts: &str, expected: u64| {
            let line = format!(r#"{{"level":"warn","ts":{ts},"caller":"x","msg":"m"}}"#);
            assert_eq!(event(&line, true).time_ns, expected, "{ts}");
        };
        check(r#""2026-11-20T12:00:00.307Z""#, 1_795_176_000_307_000_000);
        check(r#""2026-11-20T12:00:00.99Z""#, 1_795_176_000_990_000_000);
        check(r#""2026-11-20T20:00:00.000001+0800""#, 1_795_176_000_000_001_000);
        check("1795176000.5", 1_795_176_000_500_000_000);
        check(r#""yesterday""#, 7);
    }

    #[test]
    fn plain_lines_are_counted_not_kept() {
        let check = |line: &str, member: bool, expected: Line| {
            assert_eq!(parse(line.as_bytes(), &context(member)), expected, "{line}");
        };
        check(
            r#"{"level":"info","ts":"2026-11-20T12:00:00Z","caller":"c","msg":"started"}"#,
            true,
            Line::Quiet,
        );
        check("2026-11-20 23:52:04.769904 I | embed: heartbeat = 100ms", true, Line::Quiet);
        check(r#"{"msg":"no trace"}"#, false, Line::Quiet);
        check("free text", false, Line::Quiet);
        check("", true, Line::Quiet);
        check("goroutine 1 [running]:", true, Line::Reject(Reject::UnknownFormat));
        check(r#"{"level":"info","ts""#, true, Line::Reject(Reject::BadJson));
    }

    #[test]
    fn wrappers_of_container_runtimes_are_taken_off() {
        let inner = r#"{"level":"warn","ts":"2026-11-20T12:00:00Z","caller":"c","msg":"m"}"#;
        let cri = event(&format!("2026-11-21T03:00:00.123456789Z stderr F {inner}"), true);
        let quoted = serde_json::to_string(&format!("{inner}\n")).unwrap();
        let docker =
            event(&format!(r#"{{"log":{quoted},"stream":"stderr","time":"2026-11-21T03:00:00Z"}}"#), true);
        assert_eq!(cri, docker);
        assert_eq!(cri.message, "m");
    }

    #[test]
    fn the_console_form_means_the_same_as_json() {
        let fields = r#""took":"402ms","expected-duration":"100ms","prefix":"read-only range ","request":"key:\"k\" ","response":"size:1""#;
        let json = event(
            &format!(
                r#"{{"level":"warn","ts":"2026-11-20T12:00:00Z","caller":"c","msg":"apply request took too long",{fields}}}"#
            ),
            true,
        );
        let console =
            event(&format!("2026-11-20T12:00:00Z\twarn\tc\tapply request took too long\t{{{fields}}}"), true);
        assert_eq!(json, console);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(raw in prop::collection::vec(any::<u8>(), 0..400), member in any::<bool>()) {
            let _line = parse(&raw, &context(member));
        }

        #[test]
        fn no_mangled_line_panics(cut in 0usize..400, at in 0usize..400, byte in any::<u8>(), which in 0usize..6) {
            let lines = [
                r#"{"level":"info","ts":"2026-11-21T01:24:25.453Z","msg":"trace[9] range","detail":"{range_begin:/a; range_end:/b; }","duration":"2s","start":"2026-11-21T01:24:25.1Z","steps":["trace[9] 'x'  (duration: 1s)"]}"#,
                r#"{"level":"warn","ts":1.7e9,"msg":"apply request took too long","took":"4ms","expected-duration":"1ms","prefix":"","request":"header:<ID:1 > put:<key:\"\\000\" value_size:1 >"}"#,
                r#"{"level":"warn","ts":"2026-11-21T01:24:25.453Z","msg":"request stats","start time":"2026-11-21T01:24:25Z","time spent":"1s","request content":"key:\"a\" range_end:\"b\""}"#,
                r#"2026-11-20 23:52:10.498113 W | etcdserver: read-only range request "key:\"big/\" " with result "size:6" took too long (113.41192ms) to execute"#,
                "2026-11-21T03:00:00.1Z\twarn\tc\tapply request took too long\t{\"took\":\"1ms\"}",
                r#"{"time":"2026-11-21T03:00:00Z","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","duration_ms":1e300,"parent_id":"x","key":"a","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#,
            ];
            let mut raw = lines[which].as_bytes().to_vec();
            if let Some(place) = raw.get_mut(at) {
                *place = byte;
            }
            let whole = parse(&raw, &context(true));
            raw.truncate(cut);
            let torn = parse(&raw, &context(false));
            drop((whole, torn));
        }
    }
}

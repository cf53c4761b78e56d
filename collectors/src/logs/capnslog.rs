//! The text format that 3.4 writes by default, and raft's third format within it. Owns the two headers and the one slow line
//! that this format has.

use model::log::{LogEvent, Meaning, Severity};

use crate::logs::etcd::{self, Apply};
use crate::logs::line::{self, Context};
use crate::logs::{redact, time};

/// One line: `2026-11-20 23:52:10.498113 W | etcdserver: …` or `raft2026/11/20 23:52:07 INFO: …`. `None` where it is neither.
#[must_use]
pub(super) fn event(text: &str, context: &Context<'_>) -> Option<LogEvent> {
    let (written, severity, package, message) = match text.strip_prefix("raft") {
        Some(raft) => raft_header(raft)?,
        None => header(text)?,
    };
    let time_ns = context.wall_ns(written);
    let meaning = slow(message, time_ns);
    let kept = severity >= Severity::Warn || meaning != Meaning::Plain || context.ship_all;
    let message = if kept {
        line::cut(&redact::quotes_if(message, etcd::names_a_key)).to_owned()
    } else {
        String::new()
    };
    Some(LogEvent {
        time_ns,
        severity,
        service: "etcd".to_owned(),
        revision: None,
        message,
        trace_id: None,
        span_id: None,
        parent_span_id: None,
        meaning,
        attributes: vec![("package".to_owned(), line::cut_attribute(package).to_owned())],
        ship: kept,
    })
}

type Header<'a> = (time::Written, Severity, &'a str, &'a str);

fn header(text: &str) -> Option<Header<'_>> {
    let (written, taken) = time::civil(text.as_bytes())?;
    let rest = text.get(taken..)?.strip_prefix(' ')?;
    let (level, rest) = rest.split_once(" | ")?;
    let severity = match level {
        "C" => Severity::Fatal,
        "E" => Severity::Error,
        "W" => Severity::Warn,
        "N" | "I" => Severity::Info,
        "D" => Severity::Debug,
        "T" => Severity::Trace,
        _ => return None,
    };
    let (package, message) = rest.split_once(": ").unwrap_or(("", rest));
    Some((written, severity, package, message))
}

fn raft_header(text: &str) -> Option<Header<'_>> {
    let (written, taken) = time::civil(text.as_bytes())?;
    let (level, message) = text.get(taken..)?.strip_prefix(' ')?.split_once(": ")?;
    Some((written, line::severity(level)?, "raft", message))
}

/// `read-only range request "key:…" with result "…" took too long (113.41192ms) to execute`.
fn slow(message: &str, end_ns: u64) -> Meaning {
    let parts = || {
        let (prefix, _) = message.split_once("request \"")?;
        let request = redact::enclosed(message.get(prefix.len() + "request ".len()..)?, "\" with result ")?;
        let (_, took) = message.rsplit_once("took too long (")?;
        let (took, _) = took.split_once(')')?;
        let took_ns = time::go_duration(took)?;
        let failed = message.contains("with result \"error:");
        Some(Apply { prefix, request, took_ns, expected_ns: 0, end_ns, failed })
    };
    parts().map_or(Meaning::Plain, |apply| {
        // Inside the quotes the request's own quotes are escaped once more.
        let request = apply.request.replace("\\\"", "\"").replace("\\\\", "\\");
        etcd::slow_apply_from(Apply { request: &request, ..apply })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::line::tests::context;

    fn check(text: &str, severity: Severity, operation: Option<&str>) -> LogEvent {
        let event = event(text, &context(true)).unwrap();
        assert_eq!(event.severity, severity, "{text}");
        let work = match &event.meaning {
            Meaning::EtcdSlowApply { work, .. } => Some(work.operation.as_str()),
            _ => None,
        };
        assert_eq!(work, operation, "{text}");
        event
    }

    #[test]
    fn both_headers_are_read() {
        check("2026-11-20 23:52:04.769904 I | embed: heartbeat = 100ms", Severity::Info, None);
        check(
            "2026-11-20 23:52:24.676160 W | etcdserver: f failed (leader transfer took too long)",
            Severity::Warn,
            None,
        );
        check("raft2026/11/20 23:52:07 INFO: f4a4 became leader at term 2", Severity::Info, None);
        assert_eq!(event("goroutine 1 [running]:", &context(true)), None);
        assert_eq!(event("raft", &context(true)), None);
        assert_eq!(event("2026-11-20 23:52:04.769904 X | embed: x", &context(true)), None);
    }

    #[test]
    fn a_slow_read_is_an_apply_without_its_key() {
        let line = r#"2026-11-20 23:52:10.498113 W | etcdserver: read-only range request "key:\"big/\" range_end:\"big0\" " with result "range_response_count:60 size:60001316" took too long (113.41192ms) to execute"#;
        let event = check(line, Severity::Warn, Some("range"));
        let Meaning::EtcdSlowApply { work, .. } = &event.meaning else { panic!() };
        assert_eq!(work.key, redact::range(b"big/", b"big0"));
        assert_eq!(work.duration_ns, 113_411_920);
        assert_eq!(work.start_ns + work.duration_ns, event.time_ns);
        assert!(!event.message.contains("big"), "{}", event.message);
    }

    #[test]
    fn a_slow_write_names_its_operation() {
        let line = r#"2026-11-20 23:52:13.646710 W | etcdserver: request "header:<ID:47520 > lease_grant:<ttl:60-second id:41f2>" with result "size:38" took too long (402.069042ms) to execute"#;
        check(line, Severity::Warn, Some("lease_grant"));
    }
}

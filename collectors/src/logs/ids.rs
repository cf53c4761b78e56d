//! Trace and span ids in the spellings that loggers use. Owns what counts as an id; refuses numbers and all-zero ids: etcd's
//! own `trace_id` is a small random number and would join strangers.

/// A W3C trace id: 32 hex digits, not all zero. Also the 36 characters of an X-Ray id (`1-5759e988-bd862e3fe1be46a994272793`).
#[must_use]
pub(super) fn trace(text: &str) -> Option<[u8; 16]> {
    let x_ray = text.strip_prefix("1-").and_then(|rest| rest.split_once('-'));
    if let Some((epoch, random)) = x_ray.filter(|(epoch, random)| epoch.len() == 8 && random.len() == 24) {
        return hex::<16>(&format!("{epoch}{random}"));
    }
    // Cloud Logging writes `projects/P/traces/ID`.
    let text = text.rsplit_once("/traces/").map_or(text, |(_, id)| id);
    hex::<16>(text)
}

/// A span id: 16 hex digits, not all zero.
#[must_use]
pub(super) fn span(text: &str) -> Option<[u8; 8]> {
    hex::<8>(text)
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut id = [0; N];
    for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(*high)? * 16 + digit(*low)?;
    }
    (id != [0; N]).then_some(id)
}

/// The first valid W3C `traceparent` (`00-trace-parent-flags`) anywhere in a text: trace id and the *caller's* span id.
#[must_use]
pub(super) fn traceparent(text: &[u8]) -> Option<([u8; 16], [u8; 8])> {
    // `VV-` + 32 + `-` + 16 + `-FF`
    const LEN: usize = 55;
    for dash in memchr::memchr_iter(b'-', text) {
        let Some(window) = dash.checked_sub(2).and_then(|from| text.get(from..from + LEN)) else { continue };
        if window.get(35) != Some(&b'-') || window.get(52) != Some(&b'-') {
            continue;
        }
        let Ok(window) = std::str::from_utf8(window) else { continue };
        let version = window.get(..2).filter(|version| *version != "ff");
        if version.is_none_or(|version| !version.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            continue;
        }
        let ids = (window.get(3..35).and_then(trace), window.get(36..52).and_then(span));
        if let (Some(trace), Some(parent)) = ids {
            return Some((trace, parent));
        }
    }
    None
}

/// Ids in free text: `trace_id=…`, `TraceID: …`, `traceId="…"`, `span_id=…`.
#[must_use]
pub(super) fn in_text(text: &str) -> Option<([u8; 16], Option<[u8; 8]>)> {
    let trace = after_name(text, "trace").and_then(trace)?;
    Some((trace, after_name(text, "span").and_then(span)))
}

/// The hex word after `NAME_id=`, `NAMEID: ` and the like, letter case aside.
fn after_name<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let bytes = text.as_bytes();
    for (at, window) in bytes.windows(name.len()).enumerate() {
        if !window.eq_ignore_ascii_case(name.as_bytes()) {
            continue;
        }
        let Some(tail) = text.get(at + name.len()..) else { continue };
        let tail = tail.trim_start_matches(['_', '.', '-']);
        let Some(id) = tail.get(..2).filter(|id| id.eq_ignore_ascii_case("id")).and_then(|_| tail.get(2..))
        else {
            continue;
        };
        let id = id.trim_start_matches(['=', ':', ' ', '"']);
        let end = id.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(id.len());
        if end >= 16 {
            return id.get(..end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn only_whole_hex_ids_count() {
        assert!(trace(TRACE).is_some());
        assert!(trace(&TRACE.to_uppercase()).is_some());
        assert_eq!(trace("840183203"), None);
        assert_eq!(trace(&"0".repeat(32)), None);
        assert_eq!(trace("4bf92f3577b34da6a3ce929d0e0e473g"), None);
        assert_eq!(trace(&format!("projects/p/traces/{TRACE}")), trace(TRACE));
        assert_eq!(trace("1-4bf92f35-77b34da6a3ce929d0e0e4736"), trace(TRACE));
    }

    #[test]
    fn a_traceparent_is_found_anywhere() {
        let line = format!("GET /a-b-c traceparent: 00-{TRACE}-00f067aa0ba902b7-01 done");
        let (id, parent) = traceparent(line.as_bytes()).unwrap();
        assert_eq!(Some(id), trace(TRACE));
        assert_eq!(Some(parent), span("00f067aa0ba902b7"));
        assert_eq!(traceparent(format!("ff-{TRACE}-00f067aa0ba902b7-01").as_bytes()), None);
        assert_eq!(traceparent(b"-"), None);
        assert_eq!(traceparent(format!("00-{TRACE}-0000000000000000-01").as_bytes()), None);
    }

    #[test]
    fn ids_are_found_in_free_text() {
        let check = |line: String, span_too: bool| {
            let (id, span) = in_text(&line).unwrap();
            assert_eq!(Some(id), trace(TRACE), "{line}");
            assert_eq!(span.is_some(), span_too, "{line}");
        };
        check(format!("INFO TraceID: {TRACE} SpanID: 00f067aa0ba902b7 begin"), true);
        check(format!("trace_id={TRACE}"), false);
        check(format!("a trace of traceId=\"{TRACE}\""), false);
        assert_eq!(in_text("trace_id=840183203"), None);
    }
}

//! Replaces key and value bytes by their length and a short hash: equal bytes give equal text, so that lines about one range
//! can still be joined, and no key leaves the node. Owns the text form; refuses to keep what it does not understand.

use std::borrow::Cow;
use std::fmt::Write;

/// `<5 B #1a2b3c4d>`: length and 32 bits of FNV-1a.
#[must_use]
pub(super) fn bytes(raw: &[u8]) -> String {
    let hash = fnv64(raw);
    let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
    format!("<{} B #{folded:08x}>", raw.len())
}

/// A key range: one key, or `begin..end`. `None` without a key.
#[must_use]
pub(super) fn range(begin: &[u8], end: &[u8]) -> Option<String> {
    match (begin.is_empty(), end.is_empty()) {
        (true, true) => None,
        (_, true) => Some(bytes(begin)),
        _ => Some(format!("{}..{}", bytes(begin), bytes(end))),
    }
}

/// The end of the range that holds every key with this prefix: the prefix with its last byte raised (etcd's own rule).
#[must_use]
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn fnv64(raw: &[u8]) -> u64 {
    raw.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A quoted string inside a text: where it stands, and the bytes it means.
#[derive(Debug)]
pub(super) struct Quoted {
    /// Index of the opening quote.
    pub from: usize,
    /// Index after the closing quote, or the end of the text.
    pub to: usize,
    /// Content with Go's and protobuf's escapes undone.
    pub raw: Vec<u8>,
}

/// The first quoted string at or after `from`; one without an end reaches to the end of the text.
#[must_use]
pub(super) fn quoted(text: &str, from: usize) -> Option<Quoted> {
    let rest = text.get(from..)?;
    let open = from + rest.find('"')?;
    let mut raw = Vec::new();
    let mut bytes = text.as_bytes().iter().enumerate().skip(open + 1).peekable();
    while let Some((index, &byte)) = bytes.next() {
        match byte {
            b'"' => return Some(Quoted { from: open, to: index + 1, raw }),
            b'\\' => {
                let Some((_, &escaped)) = bytes.next() else { break };
                if (b'0'..=b'7').contains(&escaped) {
                    let mut value = u32::from(escaped - b'0');
                    for _ in 0..2 {
                        if let Some((_, digit)) = bytes.next_if(|(_, digit)| (b'0'..=b'7').contains(*digit)) {
                            value = value * 8 + u32::from(digit - b'0');
                        }
                    }
                    raw.push(u8::try_from(value & 0xff).unwrap_or(0));
                } else if escaped == b'x' {
                    let mut value = 0;
                    for _ in 0..2 {
                        if let Some((_, digit)) = bytes.next_if(|(_, digit)| digit.is_ascii_hexdigit()) {
                            value = value * 16 + char::from(*digit).to_digit(16).unwrap_or(0);
                        }
                    }
                    raw.push(u8::try_from(value & 0xff).unwrap_or(0));
                } else {
                    raw.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => other,
                    });
                }
            }
            other => raw.push(other),
        }
    }
    Some(Quoted { from: open, to: text.len(), raw })
}

/// The text with every quoted string replaced.
#[must_use]
pub(super) fn quotes(text: &str) -> Cow<'_, str> {
    if !text.contains('"') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = quoted(text, at) {
        out.push_str(text.get(at..found.from).unwrap_or(""));
        out.push_str(&bytes(&found.raw));
        at = found.to;
    }
    out.push_str(text.get(at..).unwrap_or(""));
    Cow::Owned(out)
}

/// The text with its quoted strings replaced where `wanted` says that it names a key; as it is otherwise.
#[must_use]
pub(super) fn quotes_if(text: &str, wanted: impl Fn(&str) -> bool) -> Cow<'_, str> {
    // One more level of escapes (capnslog quotes the whole request) hides the inner quotes from a search.
    if wanted(text) || text.contains("key:\\\"") { quotes(text) } else { Cow::Borrowed(text) }
}

/// What stands between an opening quote at the start and `close`, escapes untouched.
#[must_use]
pub(super) fn enclosed<'a>(text: &'a str, close: &str) -> Option<&'a str> {
    text.strip_prefix('"').and_then(|inner| inner.rsplit_once(close)).map(|(inner, _)| inner)
}

/// Key range that a request's text names first: `key:"…"` with the `range_end:"…"` that follows it directly.
#[must_use]
pub(super) fn request_range(text: &str) -> Option<String> {
    let key_at = text.find("key:\"")?;
    let key = quoted(text, key_at)?;
    let tail = text.get(key.to..).unwrap_or("");
    let end =
        tail.trim_start().strip_prefix("range_end:").and_then(|_| quoted(text, key.to)).map(|end| end.raw);
    range(&key.raw, &end.unwrap_or_default())
}

/// Fields of etcd's trace details that may be read as they are, because they are numbers or words of etcd.
const PLAIN_FIELDS: [&str; 9] = [
    "response_count",
    "response_revision",
    "req_size",
    "read_only",
    "number_of_response",
    "readStateIndex",
    "appliedIndex",
    "revision",
    "req_type",
];

/// An etcd trace detail `{range_begin:…; range_end:…; response_count:1; }`, redacted, and the range it names.
///
/// Keys stand in it without quotes; a value ends where `; name:` of a known field, or the end, follows.
#[must_use]
pub(super) fn detail(text: &str) -> (String, Option<String>) {
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}').trim_end();
    let mut out = String::from("{");
    let (mut begin, mut end) = (Vec::new(), Vec::new());
    let mut rest = inner;
    while let Some((name, tail)) = rest.split_once(':') {
        let name = name.trim_start_matches([';', ' ']);
        let (value, next) = split_value(tail);
        if PLAIN_FIELDS.contains(&name) && plain(value) {
            write!(out, "{name}:{value}; ").unwrap_or_default();
        } else if matches!(name, "range_begin" | "range_end" | "key") {
            write!(out, "{name}:{}; ", bytes(value.as_bytes())).unwrap_or_default();
            match name {
                "range_end" => end = value.as_bytes().to_vec(),
                _ => begin = value.as_bytes().to_vec(),
            }
        } else {
            write!(out, "other:{}; ", bytes(format!("{name}:{value}").as_bytes())).unwrap_or_default();
        }
        rest = next;
    }
    out.push('}');
    (out, range(&begin, &end))
}

fn plain(value: &str) -> bool {
    value.len() <= 24 && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The value up to the `; ` before the next known field, or all of it.
fn split_value(tail: &str) -> (&str, &str) {
    let mut from = 0;
    while let Some(found) = tail.get(from..).and_then(|rest| rest.find(';')) {
        let at = from + found;
        let after = tail.get(at + 1..).unwrap_or("").trim_start();
        let name = after.split(':').next().unwrap_or("");
        let known = matches!(name, "range_end" | "range_begin" | "key") || PLAIN_FIELDS.contains(&name);
        if after.is_empty() || (known && after.len() > name.len()) {
            return (tail.get(..at).unwrap_or(""), after);
        }
        from = at + 1;
    }
    (tail, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_reads_alike_in_every_kind_of_line() {
        let (text, from_trace) = detail("{range_begin:/reg/; range_end:/reg0; response_count:30000; }");
        let from_request = request_range("key:\"/reg/\"  range_end:\"/reg0\"");
        assert_eq!(from_trace, from_request);
        assert_eq!(from_trace, range(b"/reg/", &prefix_end(b"/reg/")));
        assert!(!text.contains("/reg"), "{text}");
        assert!(text.contains("response_count:30000"), "{text}");
    }

    #[test]
    fn no_key_byte_survives() {
        let check = |text: &str| {
            let redacted = quotes(text);
            assert!(!redacted.contains("secret"), "{redacted}");
        };
        check("header:<ID:1 > put:<key:\"secret\" value:\"a\\\"secret\" value_size:1 >");
        check("key:\"secret without an end");
        check("key:\"\\\\\" \"secret\"");
        let (text, _) = detail("{key:secret; with semicolons; secret:secret; req_size:6; }");
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("req_size:6"), "{text}");
    }

    #[test]
    fn escapes_mean_bytes() {
        assert_eq!(request_range("key:\"\\000\" range_end:\"\\000\" keys_only:true"), range(&[0], &[0]));
        assert_eq!(request_range("key:\"\\x41\\t\""), range(b"A\t", b""));
        assert_eq!(request_range("limit:1 keys_only:true "), None);
    }
}

//! The part of the grammar that makes strings: a series taken apart into name and labels, names and texts unescaped.
//!
//! Owns [`Key`]. Runs once for a series that was never seen, never for a sample.

use super::{LABELS_MAX, Reject, is_name, is_name_byte, quoted_end};

/// A series, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Metric name.
    pub name: String,
    /// Labels sorted by name, unescaped, none with an empty value.
    pub labels: Vec<(String, String)>,
}

/// Takes the raw bytes of a series apart; the only place that makes strings.
///
/// # Errors
/// Why the series is refused.
pub fn split(raw: &[u8]) -> Result<Key, Reject> {
    let raw = std::str::from_utf8(raw).map_err(|_| Reject::NotUtf8)?;
    let Some((name, inside)) = raw.split_once('{') else {
        return if is_name(raw.as_bytes()) {
            Ok(Key { name: raw.to_owned(), labels: Vec::new() })
        } else {
            Err(Reject::BadLine)
        };
    };
    let inside = inside.strip_suffix('}').ok_or(Reject::BadLabels)?;
    let name = name.trim_end_matches([' ', '\t']);
    let mut key = Key { name: name.to_owned(), labels: Vec::new() };
    if !name.is_empty() && !is_name(name.as_bytes()) {
        return Err(Reject::BadLine);
    }
    labels(inside, &mut key)?;
    if key.name.is_empty() {
        return Err(Reject::BadLine);
    }
    key.labels.sort();
    if key.labels.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0)) {
        return Err(Reject::BadLabels);
    }
    key.labels.retain(|(_, value)| !value.is_empty());
    Ok(key)
}

/// Reads `a="x",b="y",` and, where no name stood before the brace, a quoted metric name among them.
fn labels(mut inside: &str, key: &mut Key) -> Result<(), Reject> {
    loop {
        inside = trim(inside);
        if inside.is_empty() {
            return Ok(());
        }
        if key.labels.len() >= LABELS_MAX {
            return Err(Reject::TooManyLabels);
        }
        let (name, quoted, rest) = label_name(inside)?;
        let rest = trim(rest);
        if let Some(rest) = rest.strip_prefix('=') {
            let (value, rest) = quoted_str(trim(rest)).ok_or(Reject::BadLabels)?;
            key.labels.push((name, value));
            inside = rest;
        } else if quoted && key.name.is_empty() && !name.is_empty() {
            key.name = name;
            inside = rest;
        } else {
            return Err(Reject::BadLabels);
        }
        inside = trim(inside);
        if !inside.is_empty() {
            inside = inside.strip_prefix(',').ok_or(Reject::BadLabels)?;
        }
    }
}

/// A label name, whether it was quoted, and what follows.
fn label_name(text: &str) -> Result<(String, bool, &str), Reject> {
    if text.starts_with('"') {
        let (name, rest) = quoted_str(text).ok_or(Reject::BadLabels)?;
        return Ok((name, true, rest));
    }
    let len = text.bytes().take_while(|byte| is_name_byte(*byte)).count();
    let (name, rest) = text.split_at_checked(len).ok_or(Reject::BadLabels)?;
    if !is_name(name.as_bytes()) {
        return Err(Reject::BadLabels);
    }
    Ok((name.to_owned(), false, rest))
}

/// A string in quotes, unescaped, and what follows.
fn quoted_str(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('"')?;
    let end = quoted_end(inside.as_bytes())?;
    let (value, rest) = inside.split_at_checked(end)?;
    Some((unescape(value, true), rest.strip_prefix('"')?))
}

/// A family name of a comment, unquoted.
pub(in crate::scrape) fn family(raw: &[u8]) -> Result<String, Reject> {
    let text = std::str::from_utf8(raw).map_err(|_| Reject::NotUtf8)?;
    if text.starts_with('"') {
        return quoted_str(text).map(|(name, _)| name).ok_or(Reject::BadComment);
    }
    Ok(text.to_owned())
}

/// A help text, unescaped.
pub(in crate::scrape) fn help(raw: &[u8]) -> Result<String, Reject> {
    std::str::from_utf8(raw).map(|text| unescape(text, false)).map_err(|_| Reject::NotUtf8)
}

fn unescape(text: &str, quotes: bool) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('\\') => out.push('\\'),
            Some('"') if quotes => out.push('"'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

fn trim(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_key(text: &str, name: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(split(text.as_bytes()), Ok(Key { name: name.to_owned(), labels }), "{text}");
    }

    #[test]
    fn keys_are_taken_apart_sorted_and_unescaped() {
        check_key("a", "a", &[]);
        check_key("a{}", "a", &[]);
        check_key("a {z=\"1\", b = \"2\" ,}", "a", &[("b", "2"), ("z", "1")]);
        check_key("a{b=\"\\\\ \\\" \\n \\q , } {\"}", "a", &[("b", "\\ \" \n \\q , } {")]);
        check_key("a{b=\"\",c=\"1\"}", "a", &[("c", "1")]);
        check_key("{\"a.b\",x=\"y\"}", "a.b", &[("x", "y")]);
        check_key("{x=\"y\",\"a.b\"}", "a.b", &[("x", "y")]);
        check_key("a{\"x.y\"=\"größe\"}", "a", &[("x.y", "größe")]);
    }

    #[test]
    fn bad_keys_are_refused_with_a_reason() {
        let check = |raw: &[u8], reject| assert_eq!(split(raw), Err(reject));
        check(b"a{b=\"\xff\"}", Reject::NotUtf8);
        check(b"a{b=\"1\",b=\"2\"}", Reject::BadLabels);
        check(b"a{b=\"1\" c=\"2\"}", Reject::BadLabels);
        check(b"a{b}", Reject::BadLabels);
        check(b"a{\"b\"}", Reject::BadLabels);
        check(b"a{9=\"1\"}", Reject::BadLabels);
        check(b"a{,}", Reject::BadLabels);
        check(b"{x=\"y\"}", Reject::BadLine);
        check(b"{\"\"}", Reject::BadLabels);
        check(b"", Reject::BadLine);
        let many: String = (0..=LABELS_MAX).map(|n| format!("l{n}=\"v\",")).collect();
        check(format!("a{{{many}}}").as_bytes(), Reject::TooManyLabels);
    }
}

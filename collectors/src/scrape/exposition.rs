//! The Prometheus text format 0.0.4 (and what of 1.0.0 and OpenMetrics looks the same), line by line.
//!
//! Owns the grammar of lines, keys and values over bytes. Refuses I/O, state and allocation on the way of a sample:
//! [`parse`] yields borrowed lines, and only [`key::split`] makes strings, for a series that was never seen. One bad line costs
//! one line. Decisions where the format leaves room:
//! - a sample on a last line without a newline is refused as torn: `12` may have been `123`;
//! - a sample's own timestamp and an OpenMetrics exemplar are recognised, reported and otherwise ignored;
//! - `# EOF` is a comment; unknown types are [`MetricKind::Unknown`]; an unknown escape stays as it is.

use memchr::{memchr, memchr2};
use model::scrape::MetricKind;

pub mod key;

/// Longest line that is read; etcd's longest is 200 bytes, and a label value beyond this is a mistake, not data.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most labels of a series; etcd uses five, Prometheus' own advice is below ten.
pub const LABELS_MAX: usize = 64;

/// Why a line, or the series on it, is not taken. One bad line never costs another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reject {
    /// Neither comment nor sample: no metric name where one must be.
    BadLine,
    /// The label list is not one.
    BadLabels,
    /// The value is no number.
    BadValue,
    /// Something after the value that is no timestamp.
    BadTimestamp,
    /// HELP or TYPE without a name, TYPE without a type.
    BadComment,
    /// The last line of the page has no newline: it may be half a line.
    Torn,
    /// Longer than [`LINE_BYTES_MAX`].
    LineTooLong,
    /// A name, label or help text that is not UTF-8.
    NotUtf8,
    /// More than [`LABELS_MAX`].
    TooManyLabels,
    /// The same series a second time on one page; the first one stays.
    Duplicate,
    /// A bucket without a numeric `le`, or a quantile that is no number.
    BadBound,
    /// A sample of a histogram that is neither bucket, sum nor count.
    BadSuffix,
    /// A second TYPE for one family; the first one stays.
    TypeConflict,
    /// A name that the scraper itself writes (`up`, `scrape_…`).
    Reserved,
    /// More series than configured; the first ones stay.
    SeriesLimit,
    /// New on a large page whose layout was built a moment ago; it is taken with the next layout.
    TooSoon,
}

impl Reject {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Reject; 16] = [
        Reject::BadLine,
        Reject::BadLabels,
        Reject::BadValue,
        Reject::BadTimestamp,
        Reject::BadComment,
        Reject::Torn,
        Reject::LineTooLong,
        Reject::NotUtf8,
        Reject::TooManyLabels,
        Reject::Duplicate,
        Reject::BadBound,
        Reject::BadSuffix,
        Reject::TypeConflict,
        Reject::Reserved,
        Reject::SeriesLimit,
        Reject::TooSoon,
    ];

    /// The label of `agent_scrape_rejects_total`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Reject::BadLine => "bad_line",
            Reject::BadLabels => "bad_labels",
            Reject::BadValue => "bad_value",
            Reject::BadTimestamp => "bad_timestamp",
            Reject::BadComment => "bad_comment",
            Reject::Torn => "torn",
            Reject::LineTooLong => "line_too_long",
            Reject::NotUtf8 => "not_utf8",
            Reject::TooManyLabels => "too_many_labels",
            Reject::Duplicate => "duplicate",
            Reject::BadBound => "bad_bound",
            Reject::BadSuffix => "bad_suffix",
            Reject::TypeConflict => "type_conflict",
            Reject::Reserved => "reserved",
            Reject::SeriesLimit => "series_limit",
            Reject::TooSoon => "too_soon",
        }
    }
}

/// One line of a page, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Line<'a> {
    /// Nothing, a comment that says nothing to us, or `# EOF`.
    Blank,
    /// `# HELP`; both parts as on the page, still escaped or quoted.
    Help {
        /// Family name.
        name: &'a [u8],
        /// The text.
        text: &'a [u8],
    },
    /// `# TYPE`.
    Type {
        /// Family name, still quoted where it was.
        name: &'a [u8],
        /// What it is.
        kind: MetricKind,
    },
    /// A value.
    Sample(Sample<'a>),
}

/// One value and the bytes that name its series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// `name{labels}` exactly as on the page: the same bytes are the same series. [`key::split`] takes it apart.
    pub key: &'a [u8],
    /// The value; what comes after it is reported and ignored.
    pub tail: Tail,
}

/// What follows a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// The value.
    pub value: f64,
    /// A timestamp followed; ignored, the scrape's own stamp counts.
    pub timestamp: bool,
    /// An OpenMetrics exemplar followed; ignored.
    pub exemplar: bool,
}

/// The lines of a page, each with its raw bytes (without the line end): `(raw, what it is or why it is refused)`.
///
/// Never panics, never allocates, ends for every finite page.
pub fn parse(page: &[u8]) -> Lines<'_> {
    Lines { rest: page }
}

/// Iterator of [`parse`].
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = (&'a [u8], Result<Line<'a>, Reject>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (raw, rest, whole) = split_line(self.rest);
        self.rest = rest;
        Some((raw, if whole { line(raw) } else { unfinished(raw) }))
    }
}

/// The first line without its end, what follows, and whether the line had an end.
pub(super) fn split_line(page: &[u8]) -> (&[u8], &[u8], bool) {
    match memchr(b'\n', page).and_then(|end| page.split_at_checked(end)) {
        Some((raw, rest)) => {
            (raw.strip_suffix(b"\r").unwrap_or(raw), rest.get(1..).unwrap_or_default(), true)
        }
        None => (page, &[], false),
    }
}

/// A line that the page ended in the middle of, or `# EOF` and its like.
pub(super) fn unfinished(raw: &[u8]) -> Result<Line<'_>, Reject> {
    match line(raw) {
        Ok(Line::Sample(_)) | Err(_) => Err(Reject::Torn),
        other => other,
    }
}

/// Reads one line, given without its end.
///
/// # Errors
/// Why it is refused.
pub fn line(raw: &[u8]) -> Result<Line<'_>, Reject> {
    if raw.len() > LINE_BYTES_MAX {
        return Err(Reject::LineTooLong);
    }
    let text = skip_blank(raw);
    match text.first() {
        None => Ok(Line::Blank),
        Some(b'#') => comment(text),
        Some(_) => {
            let (key, rest) = split_key(text)?;
            Ok(Line::Sample(Sample { key, tail: tail(rest)? }))
        }
    }
}

fn comment(text: &[u8]) -> Result<Line<'_>, Reject> {
    let text = skip_blank(text.get(1..).unwrap_or_default());
    let (word, text) = split_word(text);
    if word != b"HELP" && word != b"TYPE" {
        return Ok(Line::Blank);
    }
    let (name, text) = split_family(text).ok_or(Reject::BadComment)?;
    if word == b"HELP" {
        return Ok(Line::Help { name, text });
    }
    let (kind, rest) = split_word(text);
    if kind.is_empty() || !rest.is_empty() {
        return Err(Reject::BadComment);
    }
    let kind = match kind {
        b"counter" => MetricKind::Counter,
        b"gauge" => MetricKind::Gauge,
        b"histogram" => MetricKind::Histogram,
        b"summary" => MetricKind::Summary,
        _ => MetricKind::Unknown,
    };
    Ok(Line::Type { name, kind })
}

/// The family name of a comment, bare or in quotes, and the text after it.
fn split_family(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.first() == Some(&b'"') {
        let inside = text.get(1..)?;
        let (name, rest) = text.split_at_checked(1 + quoted_end(inside)? + 1)?;
        return (name.len() > 2).then(|| (name, skip_blank(rest)));
    }
    let (name, rest) = split_word(text);
    is_name(name).then_some((name, rest))
}

/// Splits a sample line behind `name`, `name{…}` or `{…}`.
fn split_key(text: &[u8]) -> Result<(&[u8], &[u8]), Reject> {
    let name_len = text.iter().take_while(|byte| is_name_byte(**byte)).count();
    let (name, rest) = text.split_at_checked(name_len).ok_or(Reject::BadLine)?;
    let labels = skip_blank(rest);
    let Some(inside) = labels.strip_prefix(b"{") else {
        let blank = rest.first().is_some_and(|byte| is_blank(*byte));
        return if is_name(name) && blank { Ok((name, rest)) } else { Err(Reject::BadLine) };
    };
    if !name.is_empty() && !is_name(name) {
        return Err(Reject::BadLine);
    }
    let closing = closing_brace(inside).ok_or(Reject::BadLabels)?;
    text.split_at_checked(text.len() - inside.len() + closing + 1).ok_or(Reject::BadLabels)
}

/// Where the `}` is that ends a label list, quotes respected.
fn closing_brace(mut inside: &[u8]) -> Option<usize> {
    let len = inside.len();
    loop {
        let at = memchr2(b'"', b'}', inside)?;
        let found = *inside.get(at)?;
        if found == b'}' {
            return Some(len - inside.len() + at);
        }
        inside = inside.get(at + 1..)?;
        inside = inside.get(quoted_end(inside)? + 1..)?;
    }
}

/// Where the closing quote is, escapes respected; `inside` begins behind the opening one.
fn quoted_end(inside: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', inside.get(at..)?)?;
        if *inside.get(at)? == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Reads what follows a key up to the end of its line: blanks, a value, perhaps a timestamp, perhaps an exemplar.
///
/// # Errors
/// [`Reject::BadValue`], [`Reject::BadTimestamp`].
pub fn tail(rest: &[u8]) -> Result<Tail, Reject> {
    let (word, rest) = split_word(skip_blank(rest));
    let value = value(word).ok_or(Reject::BadValue)?;
    let mut tail = Tail { value, timestamp: false, exemplar: false };
    if rest.is_empty() {
        return Ok(tail);
    }
    let rest = if rest.first() == Some(&b'#') {
        rest
    } else {
        let (word, rest) = split_word(rest);
        if fast_float2::parse::<f64, _>(word).is_err() {
            return Err(Reject::BadTimestamp);
        }
        tail.timestamp = true;
        rest
    };
    match rest.first() {
        None => Ok(tail),
        Some(b'#') => {
            tail.exemplar = true;
            Ok(tail)
        }
        Some(_) => Err(Reject::BadTimestamp),
    }
}

/// A float as Go writes it: decimal, exponent, `NaN`, `+Inf`, `-Inf`.
pub(super) fn value(word: &[u8]) -> Option<f64> {
    /// All integers of so many digits are exact in an f64.
    const EXACT_DIGITS: usize = 15;
    if (1..=EXACT_DIGITS).contains(&word.len()) {
        let mut whole: u32 = 0;
        let mut low: u32 = 0;
        // Two halves of at most eight digits: an f64 holds both, and their sum, exactly.
        for (place, byte) in word.iter().enumerate() {
            let digit = u32::from(byte.wrapping_sub(b'0'));
            if digit > 9 {
                return fast_float2::parse(word).ok();
            }
            let half = if place < 8 { &mut whole } else { &mut low };
            *half = *half * 10 + digit;
        }
        const SCALE: [f64; 8] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];
        let scale = SCALE.get(word.len().saturating_sub(8)).copied().unwrap_or(1.0);
        return Some(f64::from(whole) * scale + f64::from(low));
    }
    fast_float2::parse(word).ok()
}

fn is_name(name: &[u8]) -> bool {
    name.first().is_some_and(|byte| !byte.is_ascii_digit()) && name.iter().all(|byte| is_name_byte(*byte))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

pub(super) fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn skip_blank(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| is_blank(**byte)).count();
    text.get(blanks..).unwrap_or_default()
}

/// The bytes up to the next blank, and what follows after all blanks.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let len = text.iter().take_while(|byte| !is_blank(**byte)).count();
    let (word, rest) = text.split_at_checked(len).unwrap_or((text, &[]));
    (word, skip_blank(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_sample(text: &str, key: &str, value: f64) {
        match line(text.as_bytes()) {
            Ok(Line::Sample(sample)) => {
                assert_eq!(sample.key, key.as_bytes(), "{text}");
                let same = sample.tail.value == value || (value.is_nan() && sample.tail.value.is_nan());
                assert!(same, "{text}: {} is not {value}", sample.tail.value);
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    fn check_reject(text: &[u8], reject: Reject) {
        assert_eq!(line(text), Err(reject), "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn samples_are_split_behind_the_key() {
        check_sample("a 1", "a", 1.0);
        check_sample("  a{}\t2", "a{}", 2.0);
        check_sample("a{b=\"c\"}3", "a{b=\"c\"}", 3.0);
        check_sample("a {b=\"}\\\"\"} 4", "a {b=\"}\\\"\"}", 4.0);
        check_sample("{\"a.b\",x=\"y\"} 5 ", "{\"a.b\",x=\"y\"}", 5.0);
        check_sample("a:b_c9 6", "a:b_c9", 6.0);
    }

    #[test]
    fn values_are_read_as_go_writes_them() {
        for (text, value) in [
            ("0", 0.0),
            ("193", 193.0),
            ("12345678", 12_345_678.0),
            ("123456789", 123_456_789.0),
            ("999999999999999", 999_999_999_999_999.0),
            ("1.7954217984e+10", 1.795_421_798_4e10),
            ("-1e-3", -0.001),
            ("1e3", 1000.0),
            ("+1", 1.0),
            ("+Inf", f64::INFINITY),
            ("-Inf", f64::NEG_INFINITY),
            ("NaN", f64::NAN),
            ("9007199254740993", 9_007_199_254_740_992.0),
        ] {
            check_sample(&format!("a {text}"), "a", value);
        }
        for text in ["a", "a ", "a x", "a 1x", "a 0x10", "a -", "a 1,5"] {
            assert!(line(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn timestamps_and_exemplars_are_seen_and_ignored() {
        let tail = |text: &str| match line(text.as_bytes()) {
            Ok(Line::Sample(sample)) => (sample.tail.timestamp, sample.tail.exemplar),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(tail("a 1"), (false, false));
        assert_eq!(tail("a 1 1700000000000"), (true, false));
        assert_eq!(tail("a 1 1700000000.123 # {trace_id=\"x\"} 0.5"), (true, true));
        assert_eq!(tail("a_bucket{le=\"1\"} 1 # {} 0.5"), (false, true));
        check_reject(b"a 1 soon", Reject::BadTimestamp);
        check_reject(b"a 1 2 3", Reject::BadTimestamp);
    }

    #[test]
    fn bad_lines_are_refused_with_a_reason() {
        check_reject(b"<html>", Reject::BadLine);
        check_reject(b"1a 1", Reject::BadLine);
        check_reject(b"a\x001", Reject::BadLine);
        check_reject("größe 1".as_bytes(), Reject::BadLine);
        check_reject(b"a{b=\"c} 1", Reject::BadLabels);
        check_reject(b"a{b=\"c\" 1", Reject::BadLabels);
        check_reject(b"a one", Reject::BadValue);
        check_reject(b"# TYPE a", Reject::BadComment);
        check_reject(b"# TYPE a counter gauge", Reject::BadComment);
        check_reject(b"# HELP", Reject::BadComment);
        check_reject(&vec![b'x'; 1_000_000], Reject::LineTooLong);
        assert_eq!(line(b"# EOF"), Ok(Line::Blank));
        assert_eq!(line(b"#TYPES are nice"), Ok(Line::Blank));
        assert_eq!(line(b"\t "), Ok(Line::Blank));
    }

    #[test]
    fn comments_name_families_bare_or_quoted() {
        let typed = |text: &'static [u8]| match line(text) {
            Ok(Line::Type { name, kind }) => (key::family(name).unwrap(), kind),
            other => panic!("{other:?}"),
        };
        assert_eq!(typed(b"# TYPE a_total counter"), ("a_total".to_owned(), MetricKind::Counter));
        assert_eq!(typed(b"#\tTYPE \"a.b\\\"c\" gauge "), ("a.b\"c".to_owned(), MetricKind::Gauge));
        assert_eq!(typed(b"# TYPE a untyped"), ("a".to_owned(), MetricKind::Unknown));
        assert_eq!(typed(b"# TYPE a stateset"), ("a".to_owned(), MetricKind::Unknown));
        let Ok(Line::Help { name, text }) = line(b"# HELP a One\\nline, \\\\ and \\q \"q\".") else {
            panic!("no help")
        };
        assert_eq!(name, b"a");
        assert_eq!(key::help(text).unwrap(), "One\nline, \\ and \\q \"q\".");
        assert_eq!(line(b"# HELP a"), Ok(Line::Help { name: b"a", text: b"" }));
    }

    #[test]
    fn half_a_last_line_is_torn_but_eof_needs_no_newline() {
        let lines: Vec<_> = parse(b"a 1\r\n\nb 12").map(|(_, line)| line).collect();
        assert!(matches!(lines.as_slice(), [Ok(Line::Sample(_)), Ok(Line::Blank), Err(Reject::Torn)]));
        let lines: Vec<_> = parse(b"# EOF").map(|(_, line)| line).collect();
        assert_eq!(lines, [Ok(Line::Blank)]);
    }

    #[test]
    fn each_reason_has_its_own_word_and_place() {
        for (place, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reject as usize, place);
            assert_eq!(Reject::ALL.iter().filter(|other| other.reason() == reject.reason()).count(), 1);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_lines_or_rejects(page in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for (_, line) in parse(&page) {
                if let Ok(Line::Sample(sample)) = line {
                    let _kept = key::split(sample.key).is_ok();
                }
            }
        }

        #[test]
        fn bytes_of_the_format_are_lines_or_rejects(page in "[a1_ \\t{}\",=\\\\#\\nHELPTY.+-]{0,300}") {
            for (_, line) in parse(page.as_bytes()) {
                if let Ok(Line::Sample(sample)) = line {
                    let _kept = key::split(sample.key).is_ok();
                }
            }
        }

        #[test]
        fn integers_are_read_exactly(n in 0_u64..1_000_000_000_000_000) {
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let expected = n as f64;
            prop_assert_eq!(value(n.to_string().as_bytes()), Some(expected));
        }

        #[test]
        fn floats_round_trip(x in any::<f64>()) {
            let read = value(format!("{x}").as_bytes()).unwrap();
            prop_assert!(read == x || (read.is_nan() && x.is_nan()));
        }

        #[test]
        fn labels_round_trip(value in "\\PC{1,40}", other in "[\\\\\"\n,}{=]{1,20}") {
            let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let text = format!("m{{a=\"{}\",b=\"{}\"}} 7", escape(&value), escape(&other));
            let Ok(Line::Sample(sample)) = line(text.as_bytes()) else { panic!("{text}") };
            let key = key::split(sample.key).unwrap();
            prop_assert_eq!(key.labels, vec![("a".to_owned(), value), ("b".to_owned(), other)]);
        }
    }
}

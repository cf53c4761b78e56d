//! What a receiver answered: taken, taken in part, never, or later.
//!
//! Owns the reading of replies, which are hostile until proven otherwise: bodies are capped by the callers, messages are cut,
//! and nothing here fails. `tonic::Status::from_header_map` is not used because it panics on a
//! `grpc-status-details-bin` that is not base64.

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use reqwest::header::HeaderMap;

use super::env::decode;
use super::wire::{Field, Fields};

/// Bytes of a reply that are read. A reply is a few bytes; exporters that read without a bound were attacked through it.
pub(crate) const REPLY_BYTES_MAX: usize = 4 << 20;

/// A zstd frame may ask for more memory than its content: with this window, for as much as a reply may have.
const ZSTD_WINDOW_LOG_MAX: u32 = REPLY_BYTES_MAX.ilog2();

/// Characters of a receiver's message that are logged.
const MESSAGE_CHARS_MAX: usize = 300;

/// The end of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Taken, but for `rejected` items.
    Accepted { rejected: u64, message: String },
    /// Not now.
    Later { code: &'static str, after: Option<Duration>, message: String },
    /// Never: sending it again would end the same way.
    Refused { code: &'static str, message: String },
    /// Not in one piece.
    TooLarge { message: String },
}

impl Reply {
    pub(crate) fn later(code: &'static str, message: &str) -> Reply {
        Reply::Later { code, after: None, message: cut(message) }
    }

    pub(crate) fn refused(code: &'static str, message: &str) -> Reply {
        Reply::Refused { code, message: cut(message) }
    }
}

/// The first characters of a message, without control characters.
pub(crate) fn cut(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_CHARS_MAX).collect()
}

/// `ExportXServiceResponse`: the same fields for all signals. What cannot be read was still accepted.
pub(crate) fn accepted(body: &[u8]) -> Reply {
    let (mut rejected, mut message) = (0, String::new());
    let mut fields = Fields::new(body);
    for field in fields.by_ref() {
        let Field::Bytes(1, partial) = field else { continue };
        for field in Fields::new(partial) {
            match field {
                // A negative count is nonsense, not a number of items.
                Field::Number(1, number) => rejected = u64::try_from(number.cast_signed()).unwrap_or(0),
                Field::Bytes(2, text) => message = cut(&String::from_utf8_lossy(text)),
                _ => {}
            }
        }
    }
    if fields.torn {
        message = "the receiver's answer is not protobuf".to_owned();
    }
    Reply::Accepted { rejected, message }
}

/// `message` and `RetryInfo.retry_delay` of a `google.rpc.Status`.
pub(crate) fn rpc_status(body: &[u8]) -> (String, Option<Duration>) {
    let (mut message, mut after) = (String::new(), None);
    for field in Fields::new(body) {
        match field {
            Field::Bytes(2, text) => message = cut(&String::from_utf8_lossy(text)),
            Field::Bytes(3, any) => after = retry_info(any).or(after),
            _ => {}
        }
    }
    (message, after)
}

fn retry_info(any: &[u8]) -> Option<Duration> {
    let (mut found, mut value) = (false, None);
    for field in Fields::new(any) {
        match field {
            Field::Bytes(1, url) => found = url.ends_with(b"google.rpc.RetryInfo"),
            Field::Bytes(2, bytes) => value = Some(bytes),
            _ => {}
        }
    }
    if !found {
        return None;
    }
    let mut delay = Duration::ZERO;
    for field in Fields::new(value.unwrap_or_default()) {
        let Field::Bytes(1, duration) = field else { continue };
        for field in Fields::new(duration) {
            match field {
                Field::Number(1, seconds) => {
                    delay = Duration::from_secs(u64::try_from(seconds.cast_signed()).unwrap_or(0));
                }
                Field::Number(2, nanos) => {
                    let nanos = u32::try_from(nanos).unwrap_or(0).min(999_999_999);
                    delay = delay.saturating_add(Duration::from_nanos(u64::from(nanos)));
                }
                _ => {}
            }
        }
    }
    Some(delay)
}

/// The names of the gRPC codes, as counters show them.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// The verdict of gRPC headers or trailers on a reply with this message, `None` where it could not be read; `None` when
/// they carry no status.
pub(crate) fn grpc_status(headers: &HeaderMap, message: Option<&[u8]>) -> Option<Reply> {
    let status = headers.get("grpc-status")?;
    let code = status.to_str().ok().and_then(|text| text.parse::<usize>().ok());
    let code = code.and_then(|code| CODES.get(code)).copied().unwrap_or("unknown");
    if code == "ok" {
        return Some(accepted(message.unwrap_or(b"\xff")));
    }
    let text =
        headers.get("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let message = text.map(|text| cut(&decode(&text).unwrap_or(text))).unwrap_or_default();
    let after = headers.get("grpc-status-details-bin").and_then(|value| details(value.as_bytes()));
    Some(match code {
        "out_of_range" | "resource_exhausted" if is_about_size(&message) => Reply::TooLarge { message },
        "cancelled" | "deadline_exceeded" | "aborted" | "out_of_range" | "unavailable" | "data_loss" => {
            Reply::Later { code, after, message }
        }
        "resource_exhausted" if after.is_some() => Reply::Later { code, after, message },
        _ => Reply::Refused { code, message },
    })
}

/// How gRPC's libraries speak of a request above the server's limit. There is no code for it: most answer RESOURCE_EXHAUSTED,
/// tonic OUT_OF_RANGE, both of which mean other things too.
const TOO_LARGE: [&str; 4] = [
    // Go, C++ and what is built on it: "received message larger than max (5000000 vs. 4194304)", also "after decompression".
    "larger than max",
    // Rust: "decoded message length too large: found 5 bytes, the limit is: 4 bytes".
    "message length too large",
    // Rust: "Error decompressing: size limit, of 4 bytes, exceeded while decompressing message".
    "exceeded while decompressing",
    // Java: "gRPC message exceeds maximum size 4194304: 5000000"; .NET: "message exceeds the maximum configured message size".
    "message exceeds",
];

fn is_about_size(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    TOO_LARGE.iter().any(|words| message.contains(words))
}

fn details(value: &[u8]) -> Option<Duration> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    rpc_status(&engine.decode(value).ok()?).1
}

/// The message of a unary reply, in the encoding that its headers name. We never announce one, but servers written in Go,
/// the Collector among them, answer in the encoding of the request.
pub(crate) fn grpc_message(body: &[u8], encoding: Option<&[u8]>) -> Option<Vec<u8>> {
    if body.is_empty() {
        return Some(Vec::new());
    }
    let (head, rest) = body.split_at_checked(5)?;
    let (flag, len) = head.split_first()?;
    let message = rest.get(..usize::try_from(u32::from_be_bytes(len.try_into().ok()?)).ok()?)?;
    match (flag, encoding) {
        (0, _) => Some(message.to_vec()),
        (1, Some(b"gzip")) => inflated(flate2::read::GzDecoder::new(message)),
        (1, Some(b"zstd")) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(message).ok()?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).ok()?;
            inflated(decoder)
        }
        _ => None,
    }
}

/// All that a decoder gives, unless it is more than a reply may have.
fn inflated(decoder: impl Read) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    decoder.take(super::wire::wide(REPLY_BYTES_MAX) + 1).read_to_end(&mut plain).ok()?;
    (plain.len() <= REPLY_BYTES_MAX).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::super::wire::Writer;
    use super::*;

    fn partial(rejected: i64, message: &str) -> Vec<u8> {
        let mut writer = Writer::default();
        let mark = writer.open(1);
        writer.uint(1, rejected.cast_unsigned());
        writer.string(2, message);
        writer.close(mark);
        writer.into_bytes()
    }

    fn retry_details(seconds: u64, nanos: u64) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.uint(1, 8);
        writer.string(2, "slow down");
        let any = writer.open(3);
        writer.string(1, "type.googleapis.com/google.rpc.RetryInfo");
        let value = writer.open(2);
        let delay = writer.open(1);
        writer.uint(1, seconds);
        writer.uint(2, nanos);
        writer.close(delay);
        writer.close(value);
        writer.close(any);
        writer.into_bytes()
    }

    fn headers(pairs: &[(&'static str, String)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn status(code: u32) -> Vec<(&'static str, String)> {
        vec![("grpc-status", code.to_string()), ("grpc-message", "a%20b".to_owned())]
    }

    #[test]
    fn partial_success_is_read_and_garbage_is_not_an_error() {
        let check = |body: &[u8], rejected, part: &str| match accepted(body) {
            Reply::Accepted { rejected: found, message } => {
                assert_eq!(found, rejected);
                assert!(message.contains(part), "{message}");
            }
            other => panic!("{other:?}"),
        };
        check(b"", 0, "");
        check(&partial(3, "too old"), 3, "too old");
        check(&partial(0, "warning"), 0, "warning");
        check(&partial(-5, ""), 0, "");
        check(b"<html>\xff", 0, "not protobuf");
    }

    #[test]
    fn exactly_the_codes_of_the_specification_are_tried_again() {
        for code in 0..20 {
            let reply = grpc_status(&headers(&status(code)), None).unwrap();
            let later = matches!(reply, Reply::Later { after: None, .. });
            assert_eq!(later, [1, 4, 10, 11, 14, 15].contains(&code), "{code}: {reply:?}");
        }
        assert_eq!(grpc_status(&HeaderMap::new(), None), None);
        assert!(matches!(
            grpc_status(&headers(&[("grpc-status", "x".to_owned())]), None).unwrap(),
            Reply::Refused { code: "unknown", .. }
        ));
    }

    #[test]
    fn resource_exhausted_is_tried_again_only_with_retry_info() {
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let mut pairs = status(8);
        pairs.push(("grpc-status-details-bin", encode(&retry_details(2, 500_000_000))));
        let Some(Reply::Later { after, message, .. }) = grpc_status(&headers(&pairs), None) else { panic!() };
        assert_eq!((after, message.as_str()), (Some(Duration::from_millis(2500)), "a b"));
        for bad in ["%%%", "AAAA", ""] {
            pairs[2].1 = bad.to_owned();
            let reply = grpc_status(&headers(&pairs), None).unwrap();
            assert!(matches!(reply, Reply::Refused { code: "resource_exhausted", .. }), "{reply:?}");
        }
    }

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag], &len[..], message].concat()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_request_above_the_limit_is_known_by_the_words_of_each_library() {
        let check = |code: u32, words: &str, expected: bool| {
            let words = words.replace(' ', "%20");
            let pairs = [("grpc-status", code.to_string()), ("grpc-message", words.clone())];
            let reply = grpc_status(&headers(&pairs), None).unwrap();
            assert_eq!(matches!(reply, Reply::TooLarge { .. }), expected, "{words}: {reply:?}");
        };
        check(8, "grpc: received message larger than max (5000000 vs. 4194304)", true);
        check(8, "grpc: received message after decompression larger than max 4194304", true);
        check(8, "Received message larger than max (5000000 vs. 4194304)", true);
        check(11, "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes", true);
        check(8, "Error decompressing: size limit, of 4 bytes, exceeded while decompressing message", true);
        check(8, "gRPC message exceeds maximum size 4194304: 5000000", true);
        check(8, "Received message exceeds the maximum configured message size.", true);
        check(8, "too many requests", false);
        check(11, "seek beyond the end", false);
        check(13, "grpc: received message larger than max (5000000 vs. 4194304)", false);
    }

    #[test]
    fn a_message_is_read_in_the_encoding_of_the_request() {
        let plain = partial(3, "too old");
        let check = |flag, message: &[u8], encoding: Option<&str>, expected: Option<&[u8]>| {
            let read = grpc_message(&framed(flag, message), encoding.map(str::as_bytes));
            assert_eq!(read.as_deref(), expected, "{flag} {encoding:?}");
        };
        check(0, &plain, None, Some(&plain));
        check(0, &plain, Some("gzip"), Some(&plain));
        check(1, &gzip(&plain), Some("gzip"), Some(&plain));
        check(1, &zstd::bulk::compress(&plain, 1).unwrap(), Some("zstd"), Some(&plain));
        check(1, &plain, None, None);
        check(1, &plain, Some("gzip"), None);
        check(1, &plain, Some("zstd"), None);
        check(1, &plain, Some("snappy"), None);
        check(2, &plain, Some("gzip"), None);
        assert_eq!(grpc_message(b"", Some(b"gzip")), Some(Vec::new()));
        assert_eq!(grpc_message(b"\0\0\0\0\x05ab", None), None);
        assert_eq!(grpc_message(b"abc", None), None);
    }

    #[test]
    fn a_reply_that_inflates_without_end_is_not_read() {
        let most = vec![0; REPLY_BYTES_MAX];
        let more = vec![0; REPLY_BYTES_MAX + 1];
        for (encoding, compress) in [
            ("gzip", &gzip as &dyn Fn(&[u8]) -> Vec<u8>),
            ("zstd", &|plain| zstd::bulk::compress(plain, 1).unwrap()),
        ] {
            let read = |plain: &[u8]| grpc_message(&framed(1, &compress(plain)), Some(encoding.as_bytes()));
            assert_eq!(read(&most).map(|read| read.len()), Some(most.len()), "{encoding}");
            assert_eq!(read(&more), None, "{encoding}");
        }
    }

    #[test]
    fn what_was_answered_with_a_message_nobody_can_read_was_accepted_all_the_same() {
        let ok = headers(&[("grpc-status", "0".to_owned())]);
        let reply = grpc_status(&ok, None).unwrap();
        assert!(matches!(reply, Reply::Accepted { rejected: 0, .. }), "{reply:?}");
    }

    #[test]
    fn a_message_is_cut_and_cleaned() {
        let long = "x\n\u{7}".repeat(1000);
        assert_eq!(cut(&long).chars().count(), MESSAGE_CHARS_MAX);
        assert!(!cut(&long).contains('\n'));
    }
}

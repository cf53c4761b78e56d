//! What an OTLP receiver answers: bodies, gRPC messages, and the headers that say when to come back.
#![no_main]

use exporters::otlp::read_reply;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

/// Read by us, each from one line of the input; the rest is the body.
const NAMES: [&str; 4] = ["grpc-status", "grpc-message", "grpc-status-details-bin", "retry-after"];

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(NAMES.len() + 1, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in NAMES {
        if let Ok(value) = HeaderValue::from_bytes(parts.next().unwrap_or_default()) {
            headers.insert(name, value);
        }
    }
    let _wait = read_reply(&headers, parts.next().unwrap_or_default());
});

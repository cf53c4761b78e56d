//! Log lines: etcd's zap JSON, capnslog, console; container envelopes; anybody's JSON. The first byte says what is known of the file.
#![no_main]

use collectors::logs::{Context, Line, parse};
use libfuzzer_sys::fuzz_target;

/// Longest text of an event: the parser's bound on a message.
const TEXT_BYTES_MAX: usize = 8 * 1024;

fuzz_target!(|data: &[u8]| {
    let (known, lines) = data.split_first().unwrap_or((&0, &[]));
    let zone_ns = match known >> 4 {
        0 => i64::MIN,
        1 => i64::MAX,
        hours => i64::from(hours) * 3_600_000_000_000,
    };
    let context =
        Context { service: "app", member: known & 1 != 0, now_ns: 7, zone_ns, ship_all: known & 2 != 0 };
    for line in lines.split(|byte| *byte == b'\n') {
        let Line::Event(event) = parse(line, &context) else { continue };
        assert!(event.message.len() <= TEXT_BYTES_MAX && event.attributes.len() <= 32);
        assert!(event.attributes.iter().all(|(name, value)| name.len() + value.len() <= TEXT_BYTES_MAX));
        assert_eq!(parse(line, &context), Line::Event(event));
    }
});

//! Short texts from outside: `OTEL_*` variables, webhook secrets and signatures, the body of a mark.
#![no_main]

use exporters::otlp::{self, Config, Signal};
use exporters::rollback::signature::{Headers, Secret, verify};
use libfuzzer_sys::fuzz_target;

/// The variables of the specification that are not a single word.
const NAMES: [&str; 12] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "OTEL_SDK_DISABLED",
    "K8S_POD_NAME",
];

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let env =
        NAMES.iter().map(|name| ((*name).to_owned(), lines.next().unwrap_or_default().to_owned())).collect();
    let (config, problems) = Config::from_env(&env, Config::default());
    drop(problems);
    for signal in Signal::ALL {
        drop(config.destination(signal).url(signal));
    }
    drop((otlp::Protocol::parse(text), otlp::Compression::parse(text)));
    drop(Secret::parse(text));
    let secret = Secret::parse("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE").expect("a secret");
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let headers = Headers { id: line(), timestamp: line(), signature: line() };
    assert!(verify(&secret, headers, line().as_bytes(), 1_700_000_000).is_err(), "forged");
    let _is_mark = agent::fuzzing::mark(text.as_bytes());
});

//! The `OTEL_*` variables, with the meaning the specification gives them.
//!
//! Owns their syntax and precedence (a signal's own variable over the common one, an empty value is no value, what cannot
//! be parsed is reported and ignored). `OTEL_SERVICE_NAME` and a `service.*` key of `OTEL_RESOURCE_ATTRIBUTES` name the
//! agent's own telemetry, not what it observes, so they are not applied here. Refuses to print a value of a header.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::config::{Compression, Config, Destination, Endpoint, Headers, Protocol, Signal};

/// The variables, by name.
pub type Variables = BTreeMap<String, String>;

/// One variable that was not obeyed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its name.
    pub variable: String,
    /// What is wrong, without the value of a secret.
    pub message: String,
}

/// Variables of the Kubernetes downward API, as the shipped DaemonSet sets them, and the attribute each becomes. The first
/// holds for everything on the node, the others for the agent's own pod.
const DOWNWARD: [(&str, &str, bool); 5] = [
    ("K8S_NODE_NAME", "k8s.node.name", true),
    ("K8S_CLUSTER_NAME", "k8s.cluster.name", true),
    ("K8S_NAMESPACE_NAME", "k8s.namespace.name", false),
    ("K8S_POD_NAME", "k8s.pod.name", false),
    ("K8S_POD_UID", "k8s.pod.uid", false),
];

struct Reader<'a> {
    env: &'a Variables,
    problems: Vec<Problem>,
}

impl Config {
    /// `base` with the variables over it, and what could not be obeyed. Apply keys of a file afterwards: they win.
    #[must_use]
    pub fn from_env(env: &Variables, base: Config) -> (Config, Vec<Problem>) {
        let mut reader = Reader { env, problems: Vec::new() };
        let mut config = base;
        for signal in Signal::ALL {
            reader.destination(signal, config.destination_mut(signal));
        }
        reader.resource(&mut config);
        reader.unsupported();
        reader.switches(&mut config);
        (config, reader.problems)
    }
}

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<String> {
        let value = self.env.get(name)?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn problem(&mut self, variable: &str, message: impl Into<String>) {
        let problem = Problem { variable: variable.to_owned(), message: message.into() };
        // A common variable is read once for each signal and reported once.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The signal's own variable, else the common one; one that cannot be parsed counts as unset.
    fn either<T>(
        &mut self,
        signal: Signal,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.name().to_ascii_uppercase());
        for variable in [own, format!("OTEL_EXPORTER_OTLP_{name}")] {
            match self.value(&variable).map(|value| parse(&value)) {
                Some(Ok(value)) => return Some(value),
                Some(Err(message)) => self.problem(&variable, message),
                None => {}
            }
        }
        None
    }

    fn destination(&mut self, signal: Signal, to: &mut Destination) {
        if let Some(protocol) = self.either(signal, "PROTOCOL", Protocol::parse) {
            to.protocol = protocol;
        }
        if let Some(compression) = self.either(signal, "COMPRESSION", Compression::parse) {
            to.compression = compression;
        }
        if let Some(timeout) = self.either(signal, "TIMEOUT", milliseconds) {
            to.timeout = timeout;
        }
        if let Some(insecure) = self.either(signal, "INSECURE", boolean) {
            to.tls.insecure = insecure;
        }
        if let Some(headers) = self.either(signal, "HEADERS", headers) {
            to.headers = headers;
        }
        let file = |value: &str| Ok(PathBuf::from(value));
        to.tls.ca = self.either(signal, "CERTIFICATE", file).or(to.tls.ca.take());
        to.tls.client_key = self.either(signal, "CLIENT_KEY", file).or(to.tls.client_key.take());
        to.tls.client_certificate =
            self.either(signal, "CLIENT_CERTIFICATE", file).or(to.tls.client_certificate.take());
        self.endpoint(signal, to);
    }

    fn endpoint(&mut self, signal: Signal, to: &mut Destination) {
        let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name().to_ascii_uppercase());
        let found = [
            self.value(&own).map(|url| (own, Endpoint::Exact(url))),
            self.value("OTEL_EXPORTER_OTLP_ENDPOINT")
                .map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), Endpoint::Base(url))),
        ];
        for (variable, endpoint) in found.into_iter().flatten() {
            let trial = Destination { endpoint, ..to.clone() };
            match trial.url(signal) {
                Ok(_) => {
                    to.endpoint = trial.endpoint;
                    return;
                }
                Err(message) => self.problem(&variable, message),
            }
        }
    }

    fn resource(&mut self, config: &mut Config) {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        if let Some(value) = self.value(NAME) {
            // One bad pair discards the whole value, as the specification asks.
            match pairs(&value) {
                Ok(pairs) => {
                    config.resource.extend(pairs.into_iter().filter(|(key, _)| !key.starts_with("service.")));
                }
                Err(message) => self.problem(NAME, message),
            }
        }
        for (variable, attribute, everywhere) in DOWNWARD {
            if let Some(value) = self.value(variable) {
                let to = if everywhere { &mut config.resource } else { &mut config.agent_resource };
                to.push((attribute.to_owned(), value));
            }
        }
    }

    /// Variables whose wish cannot be met: said, not silently ignored.
    fn unsupported(&mut self) {
        for (name, only) in [
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative"),
            ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram"),
        ] {
            if self.value(name).is_some_and(|value| !value.eq_ignore_ascii_case(only)) {
                self.problem(name, format!("only {only} is sent: scraped values are passed on as they are"));
            }
        }
        for name in ["OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"] {
            if self.value(name).is_some() {
                self.problem(name, "not supported: the other OTEL_* variables stay in force");
            }
        }
    }

    fn switches(&mut self, config: &mut Config) {
        if let Some(value) = self.value("OTEL_SDK_DISABLED") {
            match boolean(&value) {
                Ok(true) => config.each(|destination| destination.endpoint = Endpoint::Nowhere),
                Ok(false) => {}
                Err(message) => self.problem("OTEL_SDK_DISABLED", message),
            }
        }
        for signal in [Signal::Metrics, Signal::Logs, Signal::Traces] {
            let name = format!("OTEL_{}_EXPORTER", signal.name().to_ascii_uppercase());
            let Some(value) = self.value(&name) else { continue };
            let wanted: Vec<&str> = value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
            if wanted.contains(&"none") || !wanted.contains(&"otlp") {
                config.destination_mut(signal).endpoint = Endpoint::Nowhere;
            }
            for other in wanted.iter().filter(|word| !matches!(**word, "none" | "otlp")) {
                self.problem(&name, format!("exporter {other:?} is not supported: only otlp and none"));
            }
        }
    }
}

fn milliseconds(value: &str) -> Result<Duration, String> {
    let number: u64 = value.parse().map_err(|_| "not a whole number of milliseconds".to_owned())?;
    // Zero means "no limit" in the specification; an hour is a limit that never matters and keeps the sender alive.
    Ok(if number == 0 { Duration::from_secs(3600) } else { Duration::from_millis(number) })
}

fn boolean(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("neither true nor false: taken as false".to_owned()),
    }
}

fn headers(value: &str) -> Result<Headers, String> {
    let pairs = pairs(value)?;
    for (name, value) in &pairs {
        let good = reqwest::header::HeaderName::try_from(name.as_str()).is_ok()
            && reqwest::header::HeaderValue::try_from(value.as_str()).is_ok();
        if !good {
            return Err(format!("{name:?} or its value cannot stand in a header"));
        }
    }
    Ok(Headers(pairs))
}

/// `key=value,key=value` with percent-encoded values: W3C baggage without metadata.
fn pairs(value: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for (index, pair) in value.split(',').map(str::trim).enumerate() {
        if pair.is_empty() {
            continue;
        }
        let place = index + 1;
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("pair {place} has no ="))?;
        let key = decode(key.trim()).ok_or_else(|| format!("the key of pair {place} is badly encoded"))?;
        let value =
            decode(value.trim()).ok_or_else(|| format!("the value of pair {place} is badly encoded"))?;
        if key.is_empty() {
            return Err(format!("pair {place} has no key"));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Percent-decoding; `None` for a torn escape or bytes that are not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let (high, low) = (rest.next()?, rest.next()?);
            let digit = |byte: u8| char::from(byte).to_digit(16);
            bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Config, Vec<Problem>) {
        let env = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::from_env(&env, Config::default())
    }

    /// The URL of a signal, and the variables that were not obeyed.
    fn check(pairs: &[(&str, &str)], signal: Signal, expected: Option<&str>, problems: &[&str]) {
        let (config, found) = read(pairs);
        let url = config.destination(signal).url(signal).unwrap().map(String::from);
        assert_eq!(url.as_deref(), expected, "{pairs:?}");
        let found: Vec<&str> = found.iter().map(|problem| problem.variable.as_str()).collect();
        assert_eq!(found, problems, "{pairs:?}");
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318/x");

    #[test]
    fn nothing_is_sent_without_an_endpoint() {
        check(&[], Signal::Metrics, None, &[]);
        check(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], Signal::Metrics, None, &[]);
        assert!(!read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).0.sends());
    }

    #[test]
    fn the_base_endpoint_gets_a_path_and_a_signals_own_does_not() {
        check(&[BASE], Signal::Metrics, Some("http://h:4318/x/v1/metrics"), &[]);
        check(&[BASE], Signal::Logs, Some("http://h:4318/x/v1/logs"), &[]);
        check(&[BASE], Signal::Traces, Some("http://h:4318/x/v1/traces"), &[]);
        check(&[BASE], Signal::Profiles, Some("http://h:4318/x/v1development/profiles"), &[]);
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/in");
        check(&[BASE, own], Signal::Traces, Some("https://t/in"), &[]);
        check(&[BASE, own], Signal::Logs, Some("http://h:4318/x/v1/logs"), &[]);
        check(&[own], Signal::Logs, None, &[]);
        let bad = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "t:1");
        check(&[BASE, bad], Signal::Traces, Some("http://h:4318/x/v1/traces"), &[bad.0]);
    }

    #[test]
    fn a_scheme_wins_and_insecure_decides_without_one() {
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE");
        let bare = ("OTEL_EXPORTER_OTLP_ENDPOINT", "h:4317");
        let https = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://h:4317");
        check(&[grpc, insecure, bare], Signal::Logs, Some("http://h:4317/"), &[]);
        check(&[grpc, bare], Signal::Logs, Some("https://h:4317/"), &[]);
        check(&[grpc, insecure, https], Signal::Logs, Some("https://h:4317/"), &[]);
        let own = ("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "false");
        check(&[grpc, insecure, own, bare], Signal::Logs, Some("https://h:4317/"), &[]);
        check(
            &[grpc, ("OTEL_EXPORTER_OTLP_INSECURE", "1"), bare],
            Signal::Logs,
            Some("https://h:4317/"),
            &[insecure.0],
        );
        check(&[bare], Signal::Logs, None, &[bare.0]);
    }

    #[test]
    fn protocols_and_compressions_are_read_and_json_is_refused_with_a_reason() {
        let (config, problems) = read(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_PROFILES_COMPRESSION", "brotli"),
        ]);
        assert_eq!(config.metrics.protocol, Protocol::Grpc, "the unparsable one is ignored");
        assert_eq!(config.logs.protocol, Protocol::HttpProtobuf);
        assert_eq!(config.traces.compression, Compression::None);
        assert_eq!(config.profiles.compression, Compression::Zstd);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].message.contains("http/protobuf"), "{problems:?}");
    }

    #[test]
    fn headers_are_percent_decoded_and_their_values_never_told() {
        let (config, problems) = read(&[
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret%2C1, x-scope = a=b"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x=%zz"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "bad name=s3cret"),
        ]);
        let expected = Headers(vec![
            ("authorization".to_owned(), "Bearer s3cret,1".to_owned()),
            ("x-scope".to_owned(), "a=b".to_owned()),
        ]);
        assert_eq!(config.metrics.headers, expected);
        assert_eq!(config.logs.headers, expected, "the unparsable one is ignored");
        assert_eq!(problems.len(), 2);
        assert!(!format!("{problems:?}{config:?}").contains("s3cret"));
    }

    #[test]
    fn timeouts_are_milliseconds() {
        let (config, problems) = read(&[
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "300"),
        ]);
        assert_eq!(config.metrics.timeout, Duration::from_millis(2500));
        assert_eq!(config.logs.timeout, Duration::from_millis(2500));
        assert_eq!(config.traces.timeout, Duration::from_millis(300));
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn files_are_taken_for_each_signal() {
        let (config, _) = read(&[
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k.pem"),
            ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/logs.pem"),
        ]);
        assert_eq!(config.metrics.tls.ca, Some(PathBuf::from("/ca.pem")));
        assert_eq!(config.logs.tls.ca, Some(PathBuf::from("/logs.pem")));
        assert_eq!(config.logs.tls.client_key, Some(PathBuf::from("/k.pem")));
        assert_eq!(config.logs.tls.client_certificate, Some(PathBuf::from("/c.pem")));
    }

    #[test]
    fn none_and_disabled_send_nothing() {
        check(&[BASE, ("OTEL_METRICS_EXPORTER", "none")], Signal::Metrics, None, &[]);
        check(&[BASE, ("OTEL_METRICS_EXPORTER", "none")], Signal::Logs, Some("http://h:4318/x/v1/logs"), &[]);
        check(&[BASE, ("OTEL_LOGS_EXPORTER", "otlp")], Signal::Logs, Some("http://h:4318/x/v1/logs"), &[]);
        check(&[BASE, ("OTEL_LOGS_EXPORTER", "console")], Signal::Logs, None, &["OTEL_LOGS_EXPORTER"]);
        check(&[BASE, ("OTEL_SDK_DISABLED", "True")], Signal::Profiles, None, &[]);
        check(&[BASE, ("OTEL_SDK_DISABLED", "false")], Signal::Logs, Some("http://h:4318/x/v1/logs"), &[]);
        let odd = ("OTEL_SDK_DISABLED", "1");
        check(&[BASE, odd], Signal::Logs, Some("http://h:4318/x/v1/logs"), &[odd.0]);
    }

    #[test]
    fn resource_attributes_leave_the_service_alone() {
        let (config, problems) = read(&[
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod%20eu,service.name=x"),
            ("OTEL_SERVICE_NAME", "y"),
            ("K8S_NODE_NAME", "n1"),
            ("K8S_POD_NAME", "agent-1"),
        ]);
        assert!(problems.is_empty());
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            config.resource,
            [pair("deployment.environment.name", "prod eu"), pair("k8s.node.name", "n1")]
        );
        assert_eq!(config.agent_resource, [pair("k8s.pod.name", "agent-1")]);
        assert_eq!(read(&[("OTEL_RESOURCE_ATTRIBUTES", "a=b,c")]).0.resource, []);
    }

    #[test]
    fn a_wish_that_cannot_be_met_is_told() {
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        assert_eq!(read(&[(name, "delta")]).1[0].variable, name);
        assert!(read(&[(name, "Cumulative")]).1.is_empty());
        assert_eq!(read(&[("OTEL_CONFIG_FILE", "/otel.yaml")]).1.len(), 1);
    }
}

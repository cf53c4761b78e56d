//! Where things are sent: rollback receivers and the OTLP receiver.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use exporters::otlp::{self, Compression, Destination, Endpoint, Protocol};
use exporters::rollback::signature::Secret;
use exporters::rollback::{self, Receiver};

use super::tree::{Map, Notes};

/// Reads `rollback`.
pub(super) fn rollback(root: &mut Map<'_>, state_dir: &Path) -> rollback::Config {
    let mut map = root.map("rollback");
    let default = state_dir.join("rollback").display().to_string();
    let journal_dir = PathBuf::from(map.text_or("journal", &default));
    let mut receivers: Vec<Receiver> = map.maps("webhooks").into_iter().filter_map(webhook).collect();
    receivers.extend(map.maps("commands").into_iter().filter_map(command));
    receivers.extend(map.maps("files").into_iter().filter_map(file));
    map.done();
    rollback::Config { journal_dir, receivers }
}

fn webhook(mut map: Map<'_>) -> Option<Receiver> {
    let name = required(&mut map, "name", "a unique word, e.g. `deployer`");
    let url = required(&mut map, "url", "where signals are posted, e.g. `https://deployer.example/signal`");
    let secrets: Vec<Secret> =
        ["secret", "old_secret"].into_iter().filter_map(|key| secret(&mut map, key)).collect();
    if secrets.is_empty() {
        map.reject("secret", "must be given: `{ file: PATH }` or `{ env: NAME }` with `whsec_` and base64");
    }
    let allow_http = map.flag("allow_http", false);
    let timeout = timeout(&mut map);
    let targets = map.texts("targets");
    map.done();
    Some(Receiver::Webhook { name: name?, url: url?, allow_http, secrets, timeout, targets })
}

fn secret(map: &mut Map<'_>, key: &str) -> Option<Secret> {
    let text = map.secret(key)?;
    match Secret::parse(&text) {
        Ok(secret) => Some(secret),
        Err(error) => {
            map.reject(key, &error.to_string());
            None
        }
    }
}

fn command(mut map: Map<'_>) -> Option<Receiver> {
    let name = required(&mut map, "name", "a unique word");
    let argv = map.texts("argv");
    if argv.is_empty() {
        map.reject("argv", "must name a program and its arguments, e.g. `[/usr/local/bin/undo, orders]`");
    }
    let timeout = timeout(&mut map);
    let targets = map.texts("targets");
    map.done();
    Some(Receiver::Command { name: name?, argv, timeout, targets })
}

fn file(mut map: Map<'_>) -> Option<Receiver> {
    let name = required(&mut map, "name", "a unique word");
    let path = required(&mut map, "path", "the file that gets one JSON line a signal");
    let targets = map.texts("targets");
    map.done();
    Some(Receiver::File { name: name?, path: PathBuf::from(path?), targets })
}

fn timeout(map: &mut Map<'_>) -> Duration {
    map.duration("timeout", Duration::from_secs(10), (Duration::from_millis(100), Duration::from_secs(60)))
}

fn required(map: &mut Map<'_>, key: &str, what: &str) -> Option<String> {
    let text = map.text(key);
    if text.is_none() {
        map.reject(key, &format!("must be given: {what}"));
    }
    text
}

/// Reads `otlp`, over the OTEL_* variables, over the defaults.
pub(super) fn otlp(
    root: &mut Map<'_>,
    variables: &BTreeMap<String, String>,
    notes: &Notes,
    node: &str,
) -> otlp::Config {
    let (mut config, problems) = otlp::Config::from_env(variables, otlp::Config::default());
    for problem in problems {
        notes.warn(&problem.variable, problem.message);
    }
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("OTEL_")) {
        let shown = if name.contains("HEADERS") { "***".to_owned() } else { value.clone() };
        notes.origin("otlp", shown, name);
    }
    config.resource.push(("host.name".to_owned(), node.to_owned()));
    config.seed = seed(node, std::process::id());
    let mut map = root.map("otlp");
    if map.has("endpoint") {
        let endpoint = map.text_or("endpoint", "");
        each(&mut config, |to| to.endpoint = Endpoint::Base(endpoint.clone()));
    } else {
        map.text("endpoint");
    }
    if map.has("protocol") {
        let protocol = match map.word("protocol", &["http/protobuf", "grpc"]) {
            "grpc" => Protocol::Grpc,
            _ => Protocol::HttpProtobuf,
        };
        each(&mut config, |to| to.protocol = protocol);
    } else {
        map.word("protocol", &["http/protobuf", "grpc"]);
    }
    if map.has("compression") {
        let compression = match map.word("compression", &["gzip", "zstd", "none"]) {
            "zstd" => Compression::Zstd,
            "none" => Compression::None,
            _ => Compression::Gzip,
        };
        each(&mut config, |to| to.compression = compression);
    } else {
        map.word("compression", &["gzip", "zstd", "none"]);
    }
    if let Some(headers) = map.secret("headers") {
        let headers = otlp::Headers(pairs(&headers));
        each(&mut config, |to| to.headers = headers.clone());
    }
    tls(&mut map, &mut config);
    config.flush_interval =
        map.duration("flush", config.flush_interval, (Duration::from_millis(200), Duration::from_secs(60)));
    let queue = map.bytes("queue", 32 << 20, (1 << 20, 256 << 20));
    config.queue_bytes_max = usize::try_from(queue).unwrap_or(usize::MAX);
    map.done();
    config
}

fn tls(map: &mut Map<'_>, config: &mut otlp::Config) {
    for key in ["ca", "cert", "key"] {
        let Some(path) = map.text(key).map(PathBuf::from) else { continue };
        each(config, |to| match key {
            "ca" => to.tls.ca = Some(path.clone()),
            "cert" => to.tls.client_certificate = Some(path.clone()),
            _ => to.tls.client_key = Some(path.clone()),
        });
    }
}

fn each(config: &mut otlp::Config, change: impl Fn(&mut Destination)) {
    for to in [&mut config.metrics, &mut config.logs, &mut config.traces, &mut config.profiles] {
        change(to);
    }
}

/// `name=value` lines.
fn pairs(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// Another number for each node and start, so that a fleet does not come back to its receiver in step (FNV-1a, 64 bits).
fn seed(node: &str, pid: u32) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    node.bytes()
        .chain(pid.to_le_bytes())
        .fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// A value as people may see it: a URL in it without user, password and query, where tokens stand.
pub(super) fn shown(value: &str) -> String {
    let words = value.split(' ').map(|word| {
        let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
        let rest = rest.split('?').next().unwrap_or("");
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let host = authority.rsplit('@').next().unwrap_or("");
        format!("{scheme}://{host}{path}")
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_differ_in_their_seed() {
        assert_ne!(seed("n1", 7), seed("n2", 7));
        assert_ne!(seed("n1", 7), seed("n1", 8));
        assert_eq!(seed("n1", 7), seed("n1", 7));
    }

    #[test]
    fn urls_are_shown_without_what_lets_somebody_in() {
        let check = |value, expected| assert_eq!(shown(value), expected);
        check("https://otlp.example:4318/v1", "https://otlp.example:4318/v1");
        check("https://user:pass@otlp.example/v1?token=t", "https://otlp.example/v1");
        check("https://a@b:p@host?k=1,2", "https://host");
        check("http://u@one:1, http://u@two:2/x", "http://one:1, http://two:2/x");
        check("/var/lib/backburn", "/var/lib/backburn");
        check("what? a@b", "what? a@b");
        check("://?", "://");
    }
}

//! Resources and scopes as bytes: who telemetry is about, encoded once and copied afterwards.
//!
//! Three kinds: a member (`service.name` = `etcd`), another service seen in logs, and the agent itself (`backburn`), which is
//! where findings come from. Owns attribute names and precedence: ours, then the configured ones; the first word stands.

use model::origin::Origin;
use reqwest::Url;

use super::config::Config;
use super::wire::{Value, Writer};

/// Name of our instrumentation scope.
const SCOPE: &str = "backburn";

/// `service.name` of the agent's own conclusions.
pub(crate) const AGENT: &str = "backburn";

/// `service.name` of a member.
pub(crate) const ETCD: &str = "etcd";

/// Attributes in the making; the first value of a key stands.
#[derive(Debug, Default)]
struct Attributes {
    pairs: Vec<(String, Text)>,
}

#[derive(Debug)]
enum Text {
    Str(String),
    Int(i64),
}

impl Attributes {
    fn text(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.add(key, Text::Str(value));
        }
    }

    fn add(&mut self, key: &str, value: Text) {
        if !self.pairs.iter().any(|(known, _)| known == key) {
            self.pairs.push((key.to_owned(), value));
        }
    }

    /// Host, cluster and member.
    fn origin(&mut self, origin: &Origin) {
        self.text("host.name", &origin.node);
        if let Some(id) = origin.cluster_id {
            self.text("etcd.cluster.id", format!("{id:x}"));
        }
        if let Some(member) = &origin.member {
            if let Some(id) = member.id {
                self.text("etcd.member.id", format!("{id:x}"));
            }
            self.text("etcd.member.name", &member.name);
        }
    }

    /// `service.instance.id`, `server.address`, `server.port`, `url.scheme` of a URL.
    fn server(&mut self, url: &str) {
        let Ok(url) = Url::parse(url) else {
            self.text("service.instance.id", url);
            return;
        };
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default();
        self.text("service.instance.id", port.map_or(host.to_owned(), |port| format!("{host}:{port}")));
        self.text("server.address", host.trim_start_matches('[').trim_end_matches(']'));
        if let Some(port) = port {
            self.add("server.port", Text::Int(i64::from(port)));
        }
        self.text("url.scheme", url.scheme());
    }

    fn extend(&mut self, pairs: &[(String, String)]) {
        for (key, value) in pairs {
            self.text(key, value);
        }
    }

    /// Field 1 of a `ResourceX`: the resource.
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let mark = writer.open(1);
        for (key, value) in &self.pairs {
            let value = match value {
                Text::Str(text) => Value::Str(text),
                Text::Int(number) => Value::Int(*number),
            };
            writer.attribute(1, key, value);
        }
        writer.close(mark);
        writer.into_bytes()
    }
}

/// The configured part of every resource.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    extra: Vec<(String, String)>,
    agent_extra: Vec<(String, String)>,
    scope: Vec<u8>,
}

impl Identity {
    pub(crate) fn new(config: &Config) -> Identity {
        let scope = scope(SCOPE, env!("CARGO_PKG_VERSION"), "", &[]);
        Identity { extra: config.resource.clone(), agent_extra: config.agent_resource.clone(), scope }
    }

    /// Field 1 of a `ScopeX`: our own scope.
    pub(crate) fn scope(&self) -> &[u8] {
        &self.scope
    }

    /// A scraped target. A page that is about no member is the agent's own.
    pub(crate) fn target(&self, origin: &Origin, url: &str, info: &[(String, String)]) -> Vec<u8> {
        let mut attributes = Attributes::default();
        attributes.text("service.name", if origin.member.is_some() { ETCD } else { AGENT });
        attributes.server(url);
        attributes.origin(origin);
        attributes.extend(info);
        self.finish(attributes)
    }

    /// The member as its client URL shows it.
    pub(crate) fn member(&self, origin: &Origin) -> Vec<u8> {
        self.target(origin, origin.member.as_ref().map_or("", |member| member.endpoint.as_str()), &[])
    }

    /// The node.
    pub(crate) fn host(&self, origin: &Origin) -> Vec<u8> {
        let mut attributes = Attributes::default();
        attributes.text("service.name", AGENT);
        attributes.text("host.name", &origin.node);
        self.finish(attributes)
    }

    /// A watched process on the node.
    pub(crate) fn process(&self, origin: &Origin, name: &str, pid: u32, role: Option<&str>) -> Vec<u8> {
        let mut attributes = Attributes::default();
        attributes.text("service.name", name);
        attributes.text("service.instance.id", format!("{}:{pid}", origin.node));
        attributes.text("host.name", &origin.node);
        attributes.text("process.executable.name", name);
        attributes.add("process.pid", Text::Int(i64::from(pid)));
        attributes.text("backburn.process.role", role.unwrap_or_default());
        self.finish(attributes)
    }

    /// A service that wrote lines: etcd's are the member's.
    pub(crate) fn service(&self, origin: &Origin, service: &str, revision: Option<&str>) -> Vec<u8> {
        let mut attributes = Attributes::default();
        attributes.text("service.name", service);
        attributes.text("service.version", revision.unwrap_or_default());
        if service == ETCD {
            if let Some(member) = &origin.member {
                attributes.server(&member.endpoint);
            }
            attributes.origin(origin);
        } else {
            attributes.text("host.name", &origin.node);
        }
        self.finish(attributes)
    }

    /// The agent, for what it concludes.
    pub(crate) fn agent(&self, origin: &Origin) -> Vec<u8> {
        let mut attributes = Attributes::default();
        attributes.text("service.name", AGENT);
        attributes.text("service.version", env!("CARGO_PKG_VERSION"));
        attributes.text("service.instance.id", &origin.node);
        attributes.text("host.name", &origin.node);
        attributes.extend(&self.agent_extra);
        self.finish(attributes)
    }

    fn finish(&self, mut attributes: Attributes) -> Vec<u8> {
        attributes.extend(&self.extra);
        attributes.encode()
    }
}

/// Fields 1 (scope) and 3 (schema URL) of a `ScopeX`.
pub(crate) fn scope(name: &str, version: &str, schema: &str, attributes: &[(String, String)]) -> Vec<u8> {
    let mut writer = Writer::default();
    let mark = writer.open(1);
    writer.string(1, name);
    writer.string(2, version);
    for (key, value) in attributes {
        writer.attribute(3, key, Value::Str(value));
    }
    writer.close(mark);
    writer.string(3, schema);
    writer.into_bytes()
}

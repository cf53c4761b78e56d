//! Configuration: one YAML file (or several, later ones win), then variables, then defaults; all problems in one run.
//!
//! Owns composing the parts' checked configurations and saying where each value came from. No part sees another's.

mod depth;
mod etcd;
mod parts;
mod places;
mod services;
mod signals;
mod tree;
mod units;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use collectors::{host, logs, marks, member, probe, scrape};
use exporters::otlp::{Endpoint, Signal};

use crate::cli::Source;
pub(crate) use etcd::Etcd;
pub(crate) use parts::{Admin, Engine, Logging, Profiling};
pub(crate) use places::Places;
use tree::{FILE_BYTES_MAX, Map, Node, Notes, read_text};
pub(crate) use tree::{Problem, Provenance};
pub(crate) use units::parse_duration;

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// This node's name.
    pub(crate) node: String,
    /// State, journal, checkpoints and artefacts lie here.
    pub(crate) state_dir: PathBuf,
    /// Which members.
    pub(crate) etcd: Etcd,
    /// Metrics pages.
    pub(crate) scrape: scrape::Config,
    /// Probes.
    pub(crate) probe: probe::Config,
    /// Members' own accounts.
    pub(crate) member: member::Config,
    /// The node.
    pub(crate) host: host::Config,
    /// Log files.
    pub(crate) logs: logs::Config,
    /// Changes seen on the node.
    pub(crate) marks: marks::Config,
    /// Profiles.
    pub(crate) profiling: Profiling,
    /// What the engine is told.
    pub(crate) engine: processors::Config,
    /// Rollback signals.
    pub(crate) rollback: exporters::rollback::Config,
    /// OTLP.
    pub(crate) otlp: exporters::otlp::Config,
    /// Health, metrics, board, verbs.
    pub(crate) admin: Admin,
    /// The agent's own log.
    pub(crate) logging: Logging,
}

impl Config {
    /// Whether anything leaves the node over OTLP.
    pub(crate) fn is_shipping(&self) -> bool {
        Signal::ALL.iter().any(|signal| self.otlp.destination(*signal).endpoint != Endpoint::Nowhere)
    }

    /// Whether receivers may act.
    pub(crate) fn verdict_enforced(&self) -> bool {
        self.engine.verdict.enforce
    }
}

/// What loading gave.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The configuration; only to be used when there are no problems.
    pub(crate) config: Config,
    /// Every problem, with its place.
    pub(crate) problems: Vec<Problem>,
    /// Variables that could not be obeyed and are ignored.
    pub(crate) warnings: Vec<Problem>,
    /// Every value with where it came from.
    pub(crate) origins: Vec<Provenance>,
}

/// Reads the files and the variables of this process.
pub(crate) fn load(source: &Source) -> Loaded {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let notes = Notes::default();
    let files: Vec<(String, String)> = source.files.iter().filter_map(|path| read(path, &notes)).collect();
    compose(&files, &variables, notes)
}

fn read(path: &Path, notes: &Notes) -> Option<(String, String)> {
    let name = path.display().to_string();
    let readable = read_text(path, FILE_BYTES_MAX).map_err(|error| format!("cannot be read: {error}"));
    readable.map_err(|why| notes.problem(&name, why)).ok().map(|text| (name, text))
}

/// The same from texts in memory.
#[cfg(fuzzing)]
pub(crate) fn composed(files: &[(String, String)], variables: &BTreeMap<String, String>) -> Loaded {
    compose(files, variables, Notes::default())
}

/// Walks the files' trees, part by part.
fn compose(files: &[(String, String)], variables: &BTreeMap<String, String>, notes: Notes) -> Loaded {
    let documents: Vec<_> =
        files.iter().filter_map(|(name, text)| Some((name, tree::load(name, text, &notes)?))).collect();
    let nodes = documents.iter().map(|(name, yaml)| Node { file: name, yaml }).collect();
    let mut root = Map::root(nodes, &notes);
    let node = node(&mut root, variables, &notes);
    let places = Places::of(variables);
    let state_dir = PathBuf::from(root.text_or("state_dir", &places.state_dir.to_string_lossy()));
    let config = Config {
        etcd: etcd::read(&mut root, variables, &notes, &node),
        scrape: parts::scrape(&mut root),
        probe: parts::probe(&mut root),
        member: parts::member(&mut root),
        host: parts::host(&mut root, &state_dir),
        logs: parts::logs(&mut root, &state_dir),
        marks: parts::marks(&mut root),
        profiling: parts::profiling(&mut root, &state_dir),
        engine: parts::engine(&mut root),
        rollback: signals::rollback(&mut root, &state_dir),
        otlp: signals::otlp(&mut root, variables, &notes, &node),
        admin: parts::admin(&mut root, &places.socket),
        logging: parts::logging(&mut root),
        node,
        state_dir,
    };
    root.done();
    let (problems, warnings, origins) = notes.into_parts();
    Loaded { config, problems, warnings, origins }
}

/// `node`, else `NODE_NAME` (the downward API), else the kernel's host name.
fn node(root: &mut Map<'_>, variables: &BTreeMap<String, String>, notes: &Notes) -> String {
    if root.has("node") {
        return root.text_or("node", "");
    }
    if let Some(name) = variables.get("NODE_NAME").filter(|name| !name.is_empty()) {
        notes.origin("node", name.clone(), "NODE_NAME");
        return name.clone();
    }
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    root.text_or("node", if name.is_empty() { "localhost" } else { &name })
}

#[cfg(test)]
mod tests {
    use collectors::target::Login;

    use super::*;

    fn composed(text: &str, variables: &[(&str, &str)]) -> Loaded {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        compose(&[("agent.yaml".to_owned(), text.to_owned())], &variables, Notes::default())
    }

    #[test]
    fn the_shipped_file_is_all_defaults() {
        let shipped = include_str!("../../deploy/agent.yaml");
        let (with, without) = (composed(shipped, &[]), composed("", &[]));
        assert_eq!(with.problems, Vec::new());
        assert_eq!(format!("{:?}", with.config), format!("{:?}", without.config));
    }

    #[test]
    fn every_key_is_in_the_shipped_file() {
        let shipped = include_str!("../../deploy/agent.yaml");
        let loaded = composed(shipped, &[]);
        for origin in loaded.origins {
            let key = origin.key.rsplit('.').next().unwrap_or_default().to_owned();
            assert!(shipped.contains(&format!("{key}:")), "{} is not in deploy/agent.yaml", origin.key);
        }
    }

    #[test]
    fn every_key_of_the_shipped_file_is_read_when_it_is_not_a_comment() {
        // `# key:` is prose unless it is `#key:`: the shipped file writes keys so that removing one `#` switches them on.
        let shipped = include_str!("../../deploy/agent.yaml");
        let switched_on: String = shipped
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key)
                    if !key.starts_with(' ')
                        || key.starts_with("  ") && !key.trim_start().starts_with('#') =>
                {
                    key
                }
                _ => "",
            })
            .fold(String::new(), |text, line| text + line + "\n");
        let loaded = composed(&switched_on, &[]);
        let unknown: Vec<_> =
            loaded.problems.iter().filter(|problem| problem.text.contains("is not a key")).collect();
        assert_eq!(unknown, Vec::<&Problem>::new());
    }

    #[test]
    fn the_file_wins_over_variables_and_they_over_defaults() {
        let env = [("NODE_NAME", "from-env"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318")];
        assert_eq!(composed("", &env).config.node, "from-env");
        assert_eq!(composed("node: from-file\n", &env).config.node, "from-file");
        let check = |text: &str, expected: &str| {
            let endpoint = format!("{:?}", composed(text, &env).config.otlp.metrics.endpoint);
            assert!(endpoint.contains(expected), "{endpoint}");
        };
        check("", "http://env:4318");
        check("otlp: { endpoint: \"http://file:4318\" }\n", "http://file:4318");
    }

    #[test]
    fn services_are_named_by_their_command_or_their_pid_file() {
        let text = "marks:\n  services:\n    - { target: orders, command: /opt/orders --shard=eu -v }\n    \
                    - { target: pay, pid_file: /run/pay.pid, version_flag: --build, version_variable: TAG }\n";
        let loaded = composed(text, &[]);
        assert_eq!(loaded.problems, Vec::new());
        let [orders, pay] = loaded.config.marks.watched.as_slice() else {
            panic!("{:?}", loaded.config.marks)
        };
        let words = ["--shard=eu", "-v"].map(str::to_owned).to_vec();
        assert_eq!(orders.find, marks::Find::Command { program: "orders".to_owned(), contains: words });
        assert_eq!(orders.version_flags, ["revision", "version"]);
        assert_eq!(pay.find, marks::Find::PidFile(PathBuf::from("/run/pay.pid")));
        assert_eq!(
            (pay.version_flags.join(","), pay.version_variables.join(",")),
            ("build".into(), "TAG".into())
        );
    }

    #[test]
    fn a_service_that_cannot_be_watched_is_a_problem_with_its_place() {
        let check = |entry: &str, place: &str, why: &str| {
            let text = format!(
                "marks:\n  services:\n    - {{ target: known, command: known }}\n    - {{ {entry} }}\n"
            );
            let told: Vec<String> = composed(&text, &[]).problems.iter().map(ToString::to_string).collect();
            assert!(
                told.len() == 1 && told[0].starts_with(place) && told[0].contains(why),
                "{entry}: {told:?}"
            );
        };
        check("command: orders", "agent.yaml:4:7:", "`marks.services[1].target` must be given");
        check("target: orders", "agent.yaml:4:7:", "or `pid_file` must be given");
        check("target: known, command: x", "agent.yaml:4:17:", "is given twice");
        check("target: ' x', command: x", "agent.yaml:4:17:", "without blanks");
        check("target: x, pid_file: run/x.pid", "agent.yaml:4:30:", "must be a whole path");
        check("target: x, command: x, pid_file: /x", "agent.yaml:4:42:", "cannot stand beside");
        check("target: x, command: '/ -v'", "agent.yaml:4:29:", "must begin with a program");
        check("target: x, command: x, commnad: x", "agent.yaml:4:32:", "did you mean `command`?");
    }

    #[test]
    fn the_user_of_etcd_comes_from_the_file_or_as_etcdctl_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "from-file\n").unwrap();
        let named = format!("etcd: {{ user: agent, password: {{ file: \"{}\" }} }}\n", file.display());
        let check = |text: &str, env: &[(&str, &str)], expected: Option<(&str, &str)>| {
            let loaded = composed(text, env);
            assert_eq!(loaded.problems, Vec::new(), "{env:?}");
            let expected = expected.map(|(user, password)| Login::new(user, password));
            assert_eq!(loaded.config.etcd.login, expected, "{env:?}");
            let told = format!("{:?} {:?}", loaded.config, loaded.origins);
            assert!(!told.contains("from-file") && !told.contains("s3cret"), "{told}");
        };
        check("", &[], None);
        check(&named, &[("ETCDCTL_USER", "other:s3cret")], Some(("agent", "from-file")));
        check("", &[("ETCDCTL_USER", "root:s3cret:x")], Some(("root", "s3cret:x")));
        check("", &[("ETCDCTL_USER", "root"), ("ETCDCTL_PASSWORD", "s3cret")], Some(("root", "s3cret")));
        check("", &[("ETCDCTL_USER", "root")], None);
        assert_eq!(composed("", &[("ETCDCTL_USER", "root")]).warnings.len(), 1);
    }

    #[test]
    fn a_user_without_a_password_is_a_problem_with_its_place() {
        let check = |text: &str, expected: &str| {
            let told: Vec<String> = composed(text, &[]).problems.iter().map(ToString::to_string).collect();
            assert!(told.iter().any(|problem| problem.starts_with(expected)), "{told:?}");
        };
        check("etcd: { user: agent }\n", "agent.yaml:1:15: `etcd.user` has no `password`");
        check("etcd: { password: { env: PATH } }\n", "agent.yaml:1:19: `etcd.password` has no `user`");
        check(
            "etcd: { user: agent, password: s3cret }\n",
            "agent.yaml:1:32: `etcd.password` must name where",
        );
    }

    #[test]
    fn names_of_the_admin_page_are_plain_host_names() {
        let hosts = |list: &str| composed(&format!("admin: {{ hosts: [{list}] }}\n"), &[]);
        let good = hosts("backburn-agent.backburn.svc, node-1");
        assert_eq!(good.problems, Vec::new());
        assert_eq!(good.config.admin.hosts, ["backburn-agent.backburn.svc", "node-1"]);
        for bad in ["'http://x'", "'x:9464'", "'*.example'", "''"] {
            let told = hosts(bad).problems;
            assert!(told.len() == 1 && told[0].text.contains("admin.hosts"), "{bad}: {told:?}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let text = format!(
            "rollback: {{ webhooks: [ {{ name: d, url: \"http://127.0.0.1:1/\", secret: {{ file: \"{}\" }} }} ] }}\n",
            file.display()
        );
        let loaded = composed(&text, &[]);
        assert_eq!(loaded.problems, Vec::new());
        let told = format!("{:?} {:?}", loaded.config, loaded.origins);
        assert!(!told.contains("MfKQ9r8"), "{told}");
    }
}

//! The configuration file as a tree that knows its lines, walked by us: each problem is noted with its place and the walk goes on.
//!
//! Owns reading, units and "did you mean"; refuses to know any key. Each part reads its own map and says when it is done,
//! so that a key nobody asked for is an error.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use super::depth::{DEPTH_MAX, too_deep};
use super::units::{join, nearest, parse_bytes, parse_duration, tell_duration};
use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

/// Largest file that is read: a configuration is pages, not megabytes.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest file of a secret; keys are tens of bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Problems reported in one run; a file with more has the wrong format.
const PROBLEMS_MAX: usize = 100;

/// One problem: where, what, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `file:line:col`, or the variable's name.
    pub(crate) place: String,
    /// What is wrong and the cure.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Where one value came from, for `agent validate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// Dotted key.
    pub(crate) key: String,
    /// The value as it is used; secrets are shown as `***`.
    pub(crate) value: String,
    /// `file:line`, a variable's name, or `default`.
    pub(crate) from: String,
}

/// What the walk has found so far; shared by all maps of one file.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    origins: RefCell<Vec<Provenance>>,
}

impl Notes {
    /// Notes a problem that has no place in the file.
    pub(crate) fn problem(&self, place: &str, text: String) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS_MAX {
            problems.push(Problem { place: place.to_owned(), text });
        }
    }

    /// Notes what could not be obeyed and is ignored, as the specification of OTEL_* variables wants it.
    pub(crate) fn warn(&self, place: &str, text: String) {
        self.warnings.borrow_mut().push(Problem { place: place.to_owned(), text });
    }

    /// Notes where a value came from that was not read through a [`Map`].
    pub(crate) fn origin(&self, key: &str, value: String, from: &str) {
        self.origins.borrow_mut().push(Provenance { key: key.to_owned(), value, from: from.to_owned() });
    }

    /// All that was noted: problems, warnings, origins.
    pub(crate) fn into_parts(self) -> (Vec<Problem>, Vec<Problem>, Vec<Provenance>) {
        let mut origins = self.origins.into_inner();
        for origin in &mut origins {
            origin.value = super::signals::shown(&origin.value);
        }
        (self.problems.into_inner(), self.warnings.into_inner(), origins)
    }

    fn at(&self, node: Node<'_>, text: String) {
        let mark = node.yaml.span.start;
        self.problem(&format!("{}:{}:{}", node.file, mark.line(), mark.col() + 1), text);
    }
}

/// The text of a file of at most `bytes_max`, whatever its length is said to be: a device has none and never ends.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= bytes_max) {
        Ok(text)
    } else {
        Err(io::Error::other(format!("is larger than {bytes_max} bytes")))
    }
}

/// Parses the text; syntax errors are noted and give an empty document.
pub(crate) fn load<'y>(file: &str, text: &'y str, notes: &Notes) -> Option<MarkedYaml<'y>> {
    if let Some(place) = too_deep(text) {
        notes.problem(&format!("{file}:{place}"), format!("is nested more than {DEPTH_MAX} levels deep"));
        return None;
    }
    match MarkedYaml::load_from_str(text) {
        Ok(documents) if documents.len() > 1 => {
            let text = "a second document begins here; keep one, without `---`".to_owned();
            notes.at(Node { file, yaml: documents.get(1)? }, text);
            None
        }
        Ok(documents) => documents.into_iter().next(),
        Err(error) => {
            let mark = error.marker();
            let place = format!("{file}:{}:{}", mark.line(), mark.col() + 1);
            notes.problem(&place, format!("is not YAML: {}", error.info()));
            None
        }
    }
}

/// A node of one of the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'y> {
    /// The file's name.
    pub(crate) file: &'y str,
    /// The node.
    pub(crate) yaml: &'y MarkedYaml<'y>,
}

impl Node<'_> {
    fn line(self) -> String {
        format!("{}:{}", self.file, self.yaml.span.start.line())
    }
}

/// One mapping, as all files together give it (a later file's key wins), or one that is not there (then every key has its default).
#[derive(Debug)]
pub(crate) struct Map<'y> {
    nodes: Vec<Node<'y>>,
    path: String,
    notes: &'y Notes,
    asked: BTreeSet<String>,
}

impl<'y> Map<'y> {
    /// The top of the documents, in the order of the files.
    pub(crate) fn root(documents: Vec<Node<'y>>, notes: &'y Notes) -> Map<'y> {
        Map::over(documents, String::new(), notes)
    }

    fn over(nodes: Vec<Node<'y>>, path: String, notes: &'y Notes) -> Map<'y> {
        let (maps, others): (Vec<Node<'y>>, Vec<Node<'y>>) =
            nodes.into_iter().partition(|node| matches!(node.yaml.data, YamlData::Mapping(_)));
        for other in others.into_iter().filter(|other| !is_null(other.yaml)) {
            let what = if path.is_empty() { "the file".to_owned() } else { format!("`{path}`") };
            notes.at(other, format!("{what} must be a map of keys, e.g. `key: value`"));
        }
        Map { nodes: maps, path, notes, asked: BTreeSet::new() }
    }

    /// Whether the key stands in the file with a value.
    pub(crate) fn has(&mut self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The map under `key`.
    pub(crate) fn map(&mut self, key: &str) -> Map<'y> {
        self.asked.insert(key.to_owned());
        let nodes = self.nodes.iter().filter_map(|node| child(*node, key)).collect();
        Map::over(nodes, self.path_to(key), self.notes)
    }

    /// The maps in the list under `key`.
    pub(crate) fn maps(&mut self, key: &str) -> Vec<Map<'y>> {
        let path = self.path_to(key);
        self.items(key)
            .into_iter()
            .enumerate()
            .map(|(index, item)| Map::over(vec![item], format!("{path}[{index}]"), self.notes))
            .collect()
    }

    /// The strings in the list under `key`.
    pub(crate) fn texts(&mut self, key: &str) -> Vec<String> {
        let items = self.items(key);
        let texts: Vec<String> = items.into_iter().filter_map(|item| self.string(item, key)).collect();
        self.note(key, &texts.join(", "), texts.is_empty());
        texts
    }

    /// A string, if there is one.
    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        let node = self.find(key);
        let text = node.and_then(|node| self.string(node, key));
        self.note(key, text.as_deref().unwrap_or("-"), text.is_none());
        text
    }

    /// A string, or the default.
    pub(crate) fn text_or(&mut self, key: &str, default: &str) -> String {
        let found = self.find(key).and_then(|node| self.string(node, key));
        let value = found.clone().unwrap_or_else(|| default.to_owned());
        self.note(key, &value, found.is_none());
        value
    }

    /// One of a closed set of words, or the first.
    pub(crate) fn word(&mut self, key: &str, words: &[&'static str]) -> &'static str {
        let default = words.first().copied().unwrap_or("");
        let Some(node) = self.find(key) else {
            self.note(key, default, true);
            return default;
        };
        let text = self.string(node, key).unwrap_or_default();
        if let Some(word) = words.iter().find(|word| **word == text) {
            self.note(key, word, false);
            return word;
        }
        self.at(node, key, &format!("must be one of {}, not `{text}`", words.join(", ")));
        default
    }

    /// `true` or `false`, or the default.
    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        let found = self.find(key).and_then(|node| match scalar(node.yaml) {
            Some(Scalar::Boolean(flag)) => Some(*flag),
            _ => {
                self.at(node, key, "must be `true` or `false`");
                None
            }
        });
        let value = found.unwrap_or(default);
        self.note(key, if value { "true" } else { "false" }, found.is_none());
        value
    }

    /// A number within bounds, or the default.
    pub(crate) fn number(&mut self, key: &str, default: f64, bounds: (f64, f64)) -> f64 {
        let found = self.find(key).and_then(|node| {
            let number = match scalar(node.yaml) {
                Some(Scalar::Integer(integer)) => Some(*integer as f64),
                Some(Scalar::FloatingPoint(float)) => Some(float.into_inner()),
                _ => None,
            };
            let within = number.filter(|number| (bounds.0..=bounds.1).contains(number));
            if within.is_none() {
                self.at(node, key, &format!("must be a number from {} to {}", bounds.0, bounds.1));
            }
            within
        });
        let value = found.unwrap_or(default);
        self.note(key, &value.to_string(), found.is_none());
        value
    }

    /// A duration such as `900ms`, `10s`, `5m`, `1h`, within bounds, or the default.
    pub(crate) fn duration(
        &mut self,
        key: &str,
        default: Duration,
        bounds: (Duration, Duration),
    ) -> Duration {
        let found = self.find(key).and_then(|node| {
            let text = self.string(node, key).unwrap_or_default();
            let within = parse_duration(&text).filter(|found| (bounds.0..=bounds.1).contains(found));
            if within.is_none() {
                let (least, most) = (tell_duration(bounds.0), tell_duration(bounds.1));
                self.at(
                    node,
                    key,
                    &format!("must be a duration from {least} to {most}, e.g. `10s`, not `{text}`"),
                );
            }
            within
        });
        let value = found.unwrap_or(default);
        self.note(key, &tell_duration(value), found.is_none());
        value
    }

    /// A size such as `32MiB`, `64KiB` or a number of bytes, within bounds, or the default.
    pub(crate) fn bytes(&mut self, key: &str, default: u64, bounds: (u64, u64)) -> u64 {
        let found = self.find(key).and_then(|node| {
            let text = match scalar(node.yaml) {
                Some(Scalar::Integer(integer)) => integer.to_string(),
                _ => self.string(node, key).unwrap_or_default(),
            };
            let within = parse_bytes(&text).filter(|found| (bounds.0..=bounds.1).contains(found));
            if within.is_none() {
                let (least, most) = bounds;
                self.at(
                    node,
                    key,
                    &format!("must be a size from {least} to {most} bytes, e.g. `32MiB`, not `{text}`"),
                );
            }
            within
        });
        let value = found.unwrap_or(default);
        self.note(key, &value.to_string(), found.is_none());
        value
    }

    /// A secret: given as `{ file: PATH }` or `{ env: NAME }`, read here, never printed.
    pub(crate) fn secret(&mut self, key: &str) -> Option<String> {
        let node = self.find(key)?;
        if !matches!(node.yaml.data, YamlData::Mapping(_)) {
            self.at(
                node,
                key,
                "must name where the secret is: `{ file: PATH }` or `{ env: NAME }`, never the secret itself",
            );
            return None;
        }
        let mut from = Map::over(vec![node], self.path_to(key), self.notes);
        let secret = match (from.text("file"), from.text("env")) {
            (Some(file), None) => read_text(Path::new(&file), SECRET_BYTES_MAX)
                .map(|text| text.trim_end().to_owned())
                .map_err(|error| format!("cannot be read from {file}: {error}")),
            (None, Some(name)) => {
                std::env::var(&name).map_err(|error| format!("cannot be read from ${name}: {error}"))
            }
            _ => Err("must name either `file` or `env`".to_owned()),
        };
        from.done();
        self.note(key, "***", false);
        secret.map_err(|why| self.at(node, key, &why)).ok().filter(|secret| !secret.is_empty())
    }

    /// Notes a problem at `key` (or at the map itself when the key is not there).
    pub(crate) fn reject(&mut self, key: &str, why: &str) {
        match self.find(key).or_else(|| self.nodes.last().copied()) {
            Some(node) => self.at(node, key, why),
            None => self.notes.problem("configuration", format!("`{}` {why}", self.path_to(key))),
        }
    }

    /// Ends the reading of this map: keys that nobody asked for are problems.
    pub(crate) fn done(self) {
        for node in &self.nodes {
            let YamlData::Mapping(pairs) = &node.yaml.data else { continue };
            for (key, _) in pairs {
                self.known(Node { file: node.file, yaml: key });
            }
        }
    }

    fn known(&self, key: Node<'_>) {
        let Some(name) = key.yaml.data.as_str() else {
            self.notes.at(key, "keys must be words".to_owned());
            return;
        };
        if !self.asked.contains(name) {
            let path = self.path_to(name);
            let cure = match nearest(name, &self.asked) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", join(&self.asked)),
            };
            self.notes.at(key, format!("`{path}` is not a key; {cure}"));
        }
    }

    fn find(&mut self, key: &str) -> Option<Node<'y>> {
        self.asked.insert(key.to_owned());
        self.nodes.iter().rev().find_map(|node| child(*node, key))
    }

    fn items(&mut self, key: &str) -> Vec<Node<'y>> {
        let Some(node) = self.find(key) else { return Vec::new() };
        match &node.yaml.data {
            YamlData::Sequence(items) => {
                items.iter().map(|item| Node { file: node.file, yaml: item }).collect()
            }
            _ => {
                self.at(node, key, "must be a list, e.g. `[one, two]`");
                Vec::new()
            }
        }
    }

    fn string(&self, node: Node<'_>, key: &str) -> Option<String> {
        match scalar(node.yaml) {
            Some(Scalar::String(text)) => Some(text.to_string()),
            Some(Scalar::Integer(integer)) => Some(integer.to_string()),
            Some(Scalar::FloatingPoint(float)) => Some(float.to_string()),
            _ => {
                self.at(node, key, "must be text; put it in quotes");
                None
            }
        }
    }

    fn at(&self, node: Node<'_>, key: &str, why: &str) {
        self.notes.at(node, format!("`{}` {why}", self.path_to(key)));
    }

    fn note(&mut self, key: &str, value: &str, default: bool) {
        let from = match self.find(key) {
            Some(node) if !default => node.line(),
            _ => "default".to_owned(),
        };
        self.notes.origin(&self.path_to(key), value.to_owned(), &from);
    }

    fn path_to(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The value under `key` of one mapping, unless it is null.
fn child<'y>(node: Node<'y>, key: &str) -> Option<Node<'y>> {
    let yaml = node.yaml.data.as_mapping_get(key)?;
    (!is_null(yaml)).then_some(Node { file: node.file, yaml })
}

fn scalar<'n>(node: &'n MarkedYaml<'_>) -> Option<&'n Scalar<'n>> {
    match &node.data {
        YamlData::Value(scalar) => Some(scalar),
        _ => None,
    }
}

fn is_null(node: &MarkedYaml<'_>) -> bool {
    matches!(scalar(node), Some(Scalar::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let notes = Notes::default();
        {
            let document = load("agent.yaml", text, &notes);
            let nodes = document.iter().map(|yaml| Node { file: "agent.yaml", yaml }).collect();
            let mut root = Map::root(nodes, &notes);
            let mut scrape = root.map("scrape");
            scrape.duration(
                "interval",
                Duration::from_secs(1),
                (Duration::from_millis(100), Duration::from_secs(60)),
            );
            scrape.bytes("body_max", 1 << 24, (1 << 10, 1 << 30));
            scrape.done();
            root.flag("enforce", false);
            root.word("compression", &["zstd", "gzip", "none"]);
            root.number("target", 0.99, (0.5, 0.999_99));
            root.texts("files");
            root.done();
        }
        notes.into_parts().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_place() {
        let text = "scrape:\n  intervall: 1s\n  body_max: lots\nenforce: yes please\ncompression: lz4\ntarget: 2\nfiles: one\nextra: 1\n";
        let told = problems(text);
        let check =
            |expected: &str| assert!(told.iter().any(|problem| problem == expected), "{expected}\n{told:#?}");
        check("agent.yaml:2:3: `scrape.intervall` is not a key; did you mean `interval`?");
        check(
            "agent.yaml:3:13: `scrape.body_max` must be a size from 1024 to 1073741824 bytes, e.g. `32MiB`, not `lots`",
        );
        check("agent.yaml:4:10: `enforce` must be `true` or `false`");
        check("agent.yaml:5:14: `compression` must be one of zstd, gzip, none, not `lz4`");
        check("agent.yaml:6:9: `target` must be a number from 0.5 to 0.99999");
        check("agent.yaml:7:8: `files` must be a list, e.g. `[one, two]`");
        check(
            "agent.yaml:8:1: `extra` is not a key; known here: compression, enforce, files, scrape, target",
        );
        assert_eq!(told.len(), 7);
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        for text in ["", "# nothing\n", "scrape:\n", "scrape: {}\n"] {
            assert_eq!(problems(text), Vec::<String>::new(), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_yaml_is_one_problem() {
        let check = |text: &str, expected: &str| {
            let told = problems(text);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with(expected), "{told:?}");
        };
        check("scrape: [1,\n", "agent.yaml:2:1: is not YAML: ");
        check("scrape:\n  interval: 1s\n body_max: 1\n", "agent.yaml:3:2: is not YAML: ");
        check("enforce: true\n---\nenforce: false\n", "agent.yaml:3:1: a second document begins here");
    }

    /// The first one overflowed the stack of the loader; of the second, the loader has a bound of its own.
    #[test]
    fn what_would_exhaust_the_loader_is_one_problem() {
        let deep = "- ".repeat(200_000);
        assert_eq!(problems(&deep), ["agent.yaml:1:65: is nested more than 32 levels deep"]);
        let doubled: String = (1..64).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)).collect();
        let laughs = problems(&format!("a0: &a0 [ha, ha]\n{doubled}"));
        assert!(laughs.len() == 1 && laughs[0].contains("alias expansion"), "{laughs:?}");
    }

    #[test]
    fn a_file_that_never_ends_is_refused() {
        let refused = read_text(Path::new("/dev/zero"), 1_000).unwrap_err();
        assert_eq!(refused.to_string(), "is larger than 1000 bytes");
    }
}

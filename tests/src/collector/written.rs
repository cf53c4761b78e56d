//! What a Collector wrote: OTLP JSON, one export request a line, read while it grows.
//!
//! Owns the JSON of OTLP as the specification has it (64-bit numbers as text, ids in hex, dictionary references of profiles
//! resolved). Reads it with nothing but a JSON parser: the generated types would read what they wrote. Judges nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Kind;

/// Attributes as text.
pub type Attributes = BTreeMap<String, String>;

/// A metric, a span, a log record or a profile, with what stands above it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Who it is about.
    pub resource: Arc<Attributes>,
    /// Name of the instrumentation scope.
    pub scope: Arc<str>,
    /// The thing itself.
    pub value: Value,
    /// What a profile's references point to; null for other signals.
    pub dictionary: Arc<Value>,
}

/// All that was written so far.
#[derive(Debug)]
pub struct Written {
    path: PathBuf,
    offset: u64,
    /// The beginning of a line whose end is not there yet.
    torn: Vec<u8>,
    /// In the order of arrival.
    pub metrics: Vec<Item>,
    /// Likewise.
    pub logs: Vec<Item>,
    /// Likewise.
    pub spans: Vec<Item>,
    /// Likewise.
    pub profiles: Vec<Item>,
}

impl Item {
    /// A field as text; empty where it is missing.
    pub fn text(&self, field: &str) -> &str {
        text(&self.value, field)
    }

    /// A number; protobuf's JSON leaves zeros out.
    pub fn number(&self, field: &str) -> u64 {
        whole(self.value.get(field))
    }

    /// Attributes of the thing itself, those of a profile by its dictionary.
    pub fn attributes(&self) -> Attributes {
        let own = attributes(self.value.get("attributes"), &self.dictionary);
        let table = list(self.dictionary.get("attributeTable"));
        let referred = list(self.value.get("attributeIndices")).iter();
        let referred = referred.filter_map(|at| table.get(usize::try_from(whole(Some(at))).ok()?));
        own.into_iter().chain(referred.filter_map(|pair| attribute(pair, &self.dictionary))).collect()
    }

    /// The service it is about.
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }

    /// Points of a metric, with the name of what they are (`gauge`, `sum`, `histogram`, `summary`).
    pub fn points(&self) -> (&'static str, &[Value]) {
        let kinds = ["gauge", "sum", "histogram", "exponentialHistogram", "summary"];
        let found = kinds.into_iter().find_map(|kind| Some((kind, self.value.get(kind)?)));
        found.map_or(("", &[]), |(kind, data)| (kind, list(data.get("dataPoints"))))
    }

    /// A word of a profile's dictionary.
    pub fn word(&self, at: Option<&Value>) -> &str {
        let table = list(self.dictionary.get("stringTable"));
        let at = usize::try_from(whole(at)).ok();
        at.and_then(|at| table.get(at)?.as_str()).unwrap_or_default()
    }

    /// Samples of a profile: values by stack, as names of functions from the leaf on.
    pub fn stacks(&self) -> BTreeMap<Vec<String>, i64> {
        let of = |table: &str, at: u64| {
            usize::try_from(at)
                .ok()
                .and_then(|at| list(self.dictionary.get(table)).get(at))
                .unwrap_or(&Value::Null)
        };
        let mut all = BTreeMap::new();
        for sample in list(self.value.get("samples")) {
            let stack = of("stackTable", whole(sample.get("stackIndex")));
            let mut names = Vec::new();
            for location in list(stack.get("locationIndices")) {
                for line in list(of("locationTable", whole(Some(location))).get("lines")) {
                    let function = of("functionTable", whole(line.get("functionIndex")));
                    names.push(self.word(function.get("nameStrindex")).to_owned());
                }
            }
            let value: u64 = list(sample.get("values")).iter().map(|value| whole(Some(value))).sum();
            *all.entry(names).or_default() += i64::try_from(value).unwrap_or(i64::MAX);
        }
        all
    }
}

impl Written {
    /// Reads from the beginning of `path`, which need not be there yet.
    pub fn new(path: PathBuf) -> Written {
        let (metrics, logs, spans, profiles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Written { path, offset: 0, torn: Vec::new(), metrics, logs, spans, profiles }
    }

    /// Reads what has come since the last time.
    pub fn update(&mut self) -> Result<&mut Written> {
        let new = tail(&self.path, self.offset)?;
        self.offset += new.len() as u64;
        self.torn.extend(new);
        let whole = self.torn.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.torn.split_off(whole);
        let lines = std::mem::replace(&mut self.torn, rest);
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let request = serde_json::from_slice(line)
                .with_context(|| format!("no JSON: {}", String::from_utf8_lossy(line)))?;
            self.add(request);
        }
        Ok(self)
    }

    fn add(&mut self, mut request: Value) {
        let dictionary = Arc::new(request.get_mut("dictionary").map(Value::take).unwrap_or_default());
        let signals = [
            ("resourceMetrics", "scopeMetrics", "metrics", &mut self.metrics),
            ("resourceLogs", "scopeLogs", "logRecords", &mut self.logs),
            ("resourceSpans", "scopeSpans", "spans", &mut self.spans),
            ("resourceProfiles", "scopeProfiles", "profiles", &mut self.profiles),
        ];
        for (by_resource, by_scope, things, to) in signals {
            for of_resource in list_mut(request.get_mut(by_resource)) {
                let resource = of_resource.pointer("/resource/attributes");
                let resource = Arc::new(attributes(resource, &dictionary));
                for of_scope in list_mut(of_resource.get_mut(by_scope)) {
                    let scope: Arc<str> =
                        of_scope.get("scope").map_or("", |scope| text(scope, "name")).into();
                    to.extend(list_mut(of_scope.get_mut(things)).iter_mut().map(|thing| Item {
                        resource: Arc::clone(&resource),
                        scope: Arc::clone(&scope),
                        value: thing.take(),
                        dictionary: Arc::clone(&dictionary),
                    }));
                }
            }
        }
    }

    /// Items of one kind as the receiver counts them, of the services that `wanted` names.
    pub fn count(&self, kind: Kind, wanted: impl Fn(&str) -> bool) -> u64 {
        let (items, size): (&[Item], fn(&Item) -> usize) = match kind {
            Kind::MetricPoints => (&self.metrics, |metric| metric.points().1.len()),
            Kind::LogRecords => (&self.logs, |_| 1),
            Kind::Spans => (&self.spans, |_| 1),
            Kind::ProfileSamples => (&self.profiles, |profile| list(profile.value.get("samples")).len()),
        };
        items.iter().filter(|item| wanted(item.service())).map(|item| size(item) as u64).sum()
    }
}

fn tail(path: &Path, offset: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Until the first thing is written there may be no file.
    if let Ok(mut file) = File::open(path) {
        file.seek(SeekFrom::Start(offset))?;
        file.read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    }
    Ok(bytes)
}

/// The items of a list; none where there is no list.
pub fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn list_mut(value: Option<&mut Value>) -> &mut [Value] {
    value.and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// A field as text; empty where it is missing.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number, in digits or as text; 0 where it is missing.
pub fn whole(value: Option<&Value>) -> u64 {
    value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok())).unwrap_or_default()
}

/// A float, or the text that stands for one which JSON cannot say.
pub fn float(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// Attributes of a resource, a point, a record, a span.
pub fn attributes(pairs: Option<&Value>, dictionary: &Value) -> Attributes {
    list(pairs).iter().filter_map(|pair| attribute(pair, dictionary)).collect()
}

/// Keys and values of profiles may be references to the dictionary.
fn attribute(pair: &Value, dictionary: &Value) -> Option<(String, String)> {
    let word = |at: &Value| {
        list(dictionary.get("stringTable")).get(usize::try_from(whole(Some(at))).ok()?)?.as_str()
    };
    let key = pair.get("key").and_then(Value::as_str).or_else(|| word(pair.get("keyStrindex")?))?;
    let value = pair.get("value")?;
    let plain =
        ["stringValue", "intValue", "doubleValue", "boolValue"].into_iter().find_map(|kind| value.get(kind));
    let shown = match (plain, value.get("stringValueStrindex")) {
        (Some(Value::String(text)), _) => text.clone(),
        (Some(other), _) => other.to_string(),
        (None, Some(at)) => word(at)?.to_owned(),
        (None, None) => return None,
    };
    Some((key.to_owned(), shown))
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::{Kind, Written, whole};

    #[test]
    fn a_file_is_read_as_it_grows_and_references_are_resolved() {
        let path = env::temp_dir().join(format!("backburn-written-{}", process::id()));
        let mut written = Written::new(path.clone());
        assert_eq!(written.update().unwrap().count(Kind::Spans, |_| true), 0);
        let span = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"etcd"}}]},
"scopeSpans":[{"scope":{"name":"s"},"spans":[{"name":"range","startTimeUnixNano":"18446744073709551615"}]}]}]}"#;
        let profile = r#"{"resourceProfiles":[{"resource":{"attributes":[{"keyStrindex":1,"value":{"stringValueStrindex":2}}]},
"scopeProfiles":[{"profiles":[{"samples":[{"stackIndex":1,"values":["3"]},{"stackIndex":1,"values":[4]}]}]}]}],
"dictionary":{"stringTable":["","service.name","etcd","leaf","root"],"functionTable":[{},{"nameStrindex":3},{"nameStrindex":4}],
"locationTable":[{},{"lines":[{"functionIndex":1},{"functionIndex":2}]}],"stackTable":[{},{"locationIndices":[1]}]}}"#;
        let (span, profile) = (span.replace('\n', ""), profile.replace('\n', ""));
        fs::write(&path, format!("{span}\n{}", &profile[..30])).unwrap();
        assert_eq!(written.update().unwrap().count(Kind::Spans, |service| service == "etcd"), 1);
        assert!(written.profiles.is_empty());
        assert_eq!(written.spans[0].number("startTimeUnixNano"), u64::MAX);
        fs::write(&path, format!("{span}\n{profile}\n")).unwrap();
        written.update().unwrap();
        fs::remove_file(&path).unwrap();
        let taken = &written.profiles[0];
        assert_eq!((taken.service(), written.count(Kind::ProfileSamples, |_| true)), ("etcd", 2));
        assert_eq!(taken.stacks(), [(vec!["leaf".to_owned(), "root".to_owned()], 7)].into());
        assert_eq!(whole(None), 0);
    }
}

//! The tables that the samples of one request refer to.
//!
//! Owns their rules: each begins with the zero element, and no two entries of a table are the same. Owns the attributes of
//! samples, mappings and locations, and the merging of inlined frames into one location.

use std::collections::{BTreeMap, HashMap};

use model::profile::{Frame, FrameKind, Mapping as Module, Owner, Stacks};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, ProfilesDictionary, Stack, ValueType,
};
use prost::Message;

/// The dictionary in the making, and where in it what is.
#[derive(Debug)]
pub(super) struct Dictionary<'a> {
    stacks: &'a Stacks,
    strings: Vec<String>,
    string_places: HashMap<String, i32>,
    mappings: Table<Mapping>,
    locations: Table<Location>,
    functions: Table<Function>,
    attributes: Table<KeyValueAndUnit>,
    stack_table: Table<Stack>,
    /// Places of what the profile numbers: found once each.
    by_frames: HashMap<Vec<u32>, i32>,
    by_owner: BTreeMap<u32, Vec<i32>>,
}

/// A table without duplicates, which begins with the zero element.
#[derive(Debug)]
struct Table<T> {
    items: Vec<T>,
    /// By its encoding; the zero element's is empty.
    places: HashMap<Vec<u8>, i32>,
}

impl<T: Message + Default> Table<T> {
    fn new() -> Table<T> {
        Table { items: vec![T::default()], places: HashMap::from([(Vec::new(), 0)]) }
    }

    fn place(&mut self, item: T) -> i32 {
        let next = i32::try_from(self.items.len()).unwrap_or(i32::MAX);
        *self.places.entry(item.encode_to_vec()).or_insert_with(|| {
            self.items.push(item);
            next
        })
    }
}

fn entry<T>(table: &[T], index: u32) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}

impl<'a> Dictionary<'a> {
    pub(super) fn new(stacks: &'a Stacks) -> Dictionary<'a> {
        Dictionary {
            stacks,
            strings: vec![String::new()],
            string_places: HashMap::from([(String::new(), 0)]),
            mappings: Table::new(),
            locations: Table::new(),
            functions: Table::new(),
            attributes: Table::new(),
            stack_table: Table::new(),
            by_frames: HashMap::new(),
            by_owner: BTreeMap::new(),
        }
    }

    /// The profile that it is made for.
    pub(super) fn stacks(&self) -> &'a Stacks {
        self.stacks
    }

    pub(super) fn into_message(self) -> ProfilesDictionary {
        ProfilesDictionary {
            mapping_table: self.mappings.items,
            location_table: self.locations.items,
            function_table: self.functions.items,
            link_table: vec![Link { trace_id: vec![0; 16], span_id: vec![0; 8] }],
            string_table: self.strings,
            attribute_table: self.attributes.items,
            stack_table: self.stack_table.items,
        }
    }

    /// A stack, leaf first.
    pub(super) fn stack(&mut self, frames: &[u32]) -> i32 {
        let mut location_indices = Vec::with_capacity(frames.len());
        let mut together: Vec<u32> = Vec::new();
        for index in frames {
            let Some(frame) = entry(&self.stacks.frames, *index) else { continue };
            together.push(*index);
            if !frame.inlined {
                location_indices.push(self.location(std::mem::take(&mut together)));
            }
        }
        if !together.is_empty() {
            location_indices.push(self.location(together));
        }
        self.stack_table.place(Stack { location_indices })
    }

    /// The attributes of a sample, in one order for all; none where its owner is not known.
    pub(super) fn owner(&mut self, index: u32) -> Vec<i32> {
        let Some(owner) = entry(&self.stacks.owners, index) else { return Vec::new() };
        if let Some(known) = self.by_owner.get(&index) {
            return known.clone();
        }
        let places: Vec<i32> =
            told(owner).into_iter().map(|(key, value)| self.attribute(key, value)).collect();
        self.by_owner.insert(index, places.clone());
        places
    }

    /// One address: the inlined frames and the one they are in, leaf first.
    fn location(&mut self, frames: Vec<u32>) -> i32 {
        if let Some(known) = self.by_frames.get(&frames) {
            return *known;
        }
        let known: Vec<Frame> =
            frames.iter().filter_map(|index| entry(&self.stacks.frames, *index).copied()).collect();
        let outer = known.last().copied().unwrap_or_default();
        let lines = known
            .iter()
            .map(|frame| Line { function_index: self.function(frame.function), line: frame.line, column: 0 })
            .collect();
        let kind = match outer.kind {
            FrameKind::Unknown => None,
            FrameKind::Native => Some("native"),
            FrameKind::Go => Some("go"),
            FrameKind::Kernel => Some("kernel"),
        };
        let attribute_indices =
            kind.into_iter().map(|kind| self.text("profile.frame.type", kind.to_owned())).collect();
        let mapping_index = self.mapping(outer.mapping);
        let location = Location { mapping_index, address: outer.address, lines, attribute_indices };
        let place = self.locations.place(location);
        self.by_frames.insert(frames, place);
        place
    }

    fn function(&mut self, index: u32) -> i32 {
        let Some(function) = entry(&self.stacks.functions, index) else { return 0 };
        let name = self.string(&function.name);
        let filename_strindex = self.string(&function.file);
        let start_line = function.start_line;
        let item =
            Function { name_strindex: name, system_name_strindex: name, filename_strindex, start_line };
        self.functions.place(item)
    }

    fn mapping(&mut self, index: u32) -> i32 {
        let Some(module) = entry(&self.stacks.mappings, index) else { return 0 };
        let attribute_indices = ids(module).map(|(key, id)| self.text(key, id.to_owned())).collect();
        let item = Mapping {
            memory_start: module.start,
            memory_limit: module.end,
            file_offset: module.offset,
            filename_strindex: self.string(&module.path),
            attribute_indices,
        };
        self.mappings.place(item)
    }

    pub(super) fn value_type(&mut self, (kind, unit): (&str, &str)) -> ValueType {
        ValueType { type_strindex: self.string(kind), unit_strindex: self.string(unit) }
    }

    fn text(&mut self, key: &str, value: String) -> i32 {
        self.attribute(key, Value::StringValue(value))
    }

    pub(super) fn attribute(&mut self, key: &str, value: Value) -> i32 {
        let key_strindex = self.string(key);
        let value = Some(AnyValue { value: Some(value) });
        self.attributes.place(KeyValueAndUnit { key_strindex, value, unit_strindex: 0 })
    }

    fn string(&mut self, text: &str) -> i32 {
        if let Some(known) = self.string_places.get(text) {
            return *known;
        }
        let place = i32::try_from(self.strings.len()).unwrap_or(i32::MAX);
        self.strings.push(text.to_owned());
        self.string_places.insert(text.to_owned(), place);
        place
    }
}

/// What a module is known by (specification, profiles/mappings.md).
fn ids(module: &Module) -> impl Iterator<Item = (&'static str, &str)> {
    let all = [
        ("process.executable.build_id.gnu", module.build_id.as_str()),
        ("process.executable.build_id.go", module.go_build_id.as_str()),
        ("process.executable.build_id.htlhash", module.htlhash.as_str()),
    ];
    all.into_iter().filter(|(_, id)| !id.is_empty())
}

/// What is known of whose a sample is.
fn told(owner: &Owner) -> Vec<(&'static str, Value)> {
    let pod = if is_uid(&owner.pod) { "k8s.pod.uid" } else { "k8s.pod.name" };
    let texts = [
        ("process.executable.name", &owner.process),
        ("thread.name", &owner.thread),
        ("container.id", &owner.container),
        (pod, &owner.pod),
        ("k8s.namespace.name", &owner.namespace),
    ];
    let numbers =
        [("process.pid", Some(owner.pid).filter(|pid| *pid > 0)), ("cpu.logical_number", owner.cpu)];
    let numbers = numbers.into_iter().filter_map(|(key, n)| Some((key, Value::IntValue(i64::from(n?)))));
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    numbers.chain(texts.map(|(key, text)| (key, Value::StringValue(text.clone())))).collect()
}

/// A UUID, as Kubernetes gives to each pod; its names may not look like one by chance.
fn is_uid(pod: &str) -> bool {
    let parts: Vec<&str> = pod.split('-').collect();
    let is_hex = |part: &&str| part.chars().all(|c| c.is_ascii_hexdigit());
    parts.iter().all(is_hex) && parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
}

#[cfg(test)]
mod tests {
    use super::is_uid;

    #[test]
    fn a_pod_is_named_or_numbered() {
        assert!(is_uid("0f2c9a3e-1b7d-4c55-9e21-6d8a7b3c4d5e"));
        assert!(!is_uid("etcd-0") && !is_uid("") && !is_uid("0f2c9a3e1b7d4c559e216d8a7b3c4d5e"));
    }
}

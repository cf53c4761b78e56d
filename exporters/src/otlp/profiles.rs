//! Captures as OTLP profiles, in the v1development layout of protocol 1.10 (sample values in field 4).
//!
//! One request a profile, with a dictionary of its own whose tables begin with the zero element. Owns the merging of inlined
//! frames into locations, and the profile id: a hash of whom, what and when, so that a baseline sent twice is one profile.
//! Captures are rare, so this goes through the generated types. Refuses to send pprof bytes beside the decoded profile.

use std::collections::BTreeMap;

use model::profile::{CaptureOutcome, CaptureResult, Frame, ProfileKind, ProfileSet, StackSample, Stacks};
use model::record::Record;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, Profile, ProfilesDictionary, Sample, Stack,
    ValueType,
};
use prost::Message;
use sha2::{Digest, Sha256};

use super::pack::Pack;
use super::resource::Identity;
use super::wire::Writer;

/// Halvings of a profile that does not fit into a request: 2^8 parts of 4 MiB are beyond what a capture can hold.
const SPLITS_MAX: u32 = 8;

/// Encodes the profiles of one capture.
pub(crate) fn capture(identity: &Identity, record: &Record, result: &CaptureResult, pack: &mut Pack) {
    let CaptureOutcome::Done { before, after, .. } = &result.outcome else { return };
    let resource = identity.member(&record.origin);
    let sets = before.iter().map(|set| ("before", set)).chain([("after", after)]);
    for (role, set) in sets {
        for stacks in set.stacks.iter() {
            let about = About { identity, resource: &resource, result, role, set };
            put(&about, stacks, &stacks.samples, SPLITS_MAX, pack);
        }
    }
}

/// What all parts of a profile share.
#[derive(Clone, Copy, Debug)]
struct About<'a> {
    identity: &'a Identity,
    resource: &'a [u8],
    result: &'a CaptureResult,
    role: &'static str,
    set: &'a ProfileSet,
}

fn put(about: &About<'_>, stacks: &Stacks, samples: &[StackSample], splits: u32, pack: &mut Pack) {
    if samples.is_empty() {
        return;
    }
    let bytes = encode(about, stacks, samples);
    let last = splits == 0 || samples.len() < 2;
    if bytes.len() <= if last { pack.bytes_max() } else { pack.wanted_max() } {
        pack.whole(bytes, 1);
    } else if last {
        pack.count_too_large(1);
    } else {
        let (left, right) = samples.split_at(samples.len() / 2);
        put(about, stacks, left, splits - 1, pack);
        put(about, stacks, right, splits - 1, pack);
    }
}

fn encode(about: &About<'_>, stacks: &Stacks, samples: &[StackSample]) -> Vec<u8> {
    let mut tables = Tables::new();
    let profile = tables.profile(about, stacks, samples);
    let mut writer = Writer::default();
    let of_resource = writer.open(1);
    writer.raw(about.resource);
    let of_scope = writer.open(2);
    writer.raw(about.identity.scope());
    writer.bytes(2, &profile.encode_to_vec());
    writer.close(of_scope);
    writer.close(of_resource);
    writer.bytes(2, &tables.dictionary.encode_to_vec());
    writer.into_bytes()
}

/// The dictionary in the making, and what is already in it.
#[derive(Debug)]
struct Tables {
    dictionary: ProfilesDictionary,
    strings: BTreeMap<String, i32>,
    functions: BTreeMap<u32, i32>,
    mappings: BTreeMap<u32, i32>,
    locations: BTreeMap<Vec<u32>, i32>,
    stacks: BTreeMap<Vec<i32>, i32>,
}

/// Appends, and gives the place.
fn add<T>(table: &mut Vec<T>, item: T) -> i32 {
    table.push(item);
    i32::try_from(table.len() - 1).unwrap_or(i32::MAX)
}

fn entry<T>(table: &[T], index: u32) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}

impl Tables {
    fn new() -> Tables {
        Tables {
            dictionary: ProfilesDictionary {
                mapping_table: vec![Mapping::default()],
                location_table: vec![Location::default()],
                function_table: vec![Function::default()],
                link_table: vec![Link { trace_id: vec![0; 16], span_id: vec![0; 8] }],
                string_table: vec![String::new()],
                attribute_table: vec![KeyValueAndUnit::default()],
                stack_table: vec![Stack::default()],
            },
            strings: BTreeMap::from([(String::new(), 0)]),
            functions: BTreeMap::new(),
            mappings: BTreeMap::new(),
            locations: BTreeMap::new(),
            stacks: BTreeMap::from([(Vec::new(), 0)]),
        }
    }

    fn profile(&mut self, about: &About<'_>, stacks: &Stacks, samples: &[StackSample]) -> Profile {
        let mut merged: BTreeMap<i32, i64> = BTreeMap::new();
        for sample in samples {
            let stack = self.stack(stacks, sample);
            let value = merged.entry(stack).or_insert(0);
            *value = value.saturating_add(sample.value);
        }
        let (sample_type, period_type) = match stacks.kind {
            ProfileKind::Cpu => (("cpu", "nanoseconds"), ("cpu", "nanoseconds")),
            ProfileKind::Heap => (("inuse_space", "bytes"), ("space", "bytes")),
            ProfileKind::Goroutine => (("goroutine", "count"), ("goroutine", "count")),
            ProfileKind::OffCpu => (("off_cpu", "nanoseconds"), ("off_cpu", "nanoseconds")),
            ProfileKind::Alloc => (("alloc_space", "bytes"), ("space", "bytes")),
        };
        let attributes = [
            ("backburn.capture.role", about.role.to_owned()),
            ("backburn.capture.request", about.result.request.to_string()),
            ("backburn.capture.target", about.result.target.clone()),
            ("backburn.capture.engine", about.set.engine.clone()),
        ];
        Profile {
            sample_type: Some(self.value_type(sample_type)),
            samples: merged
                .into_iter()
                .map(|(stack_index, value)| Sample { stack_index, values: vec![value], ..Sample::default() })
                .collect(),
            time_unix_nano: stacks.at.wall_ns,
            duration_nano: stacks.duration_ns,
            period_type: Some(self.value_type(period_type)),
            // Zero would be read as "no period", and some backends refuse that.
            period: i64::try_from(stacks.period).unwrap_or(i64::MAX).max(1),
            profile_id: profile_id(about, stacks, samples),
            attribute_indices: attributes
                .into_iter()
                .map(|(key, value)| self.attribute(key, value))
                .collect(),
            ..Profile::default()
        }
    }

    fn stack(&mut self, stacks: &Stacks, sample: &StackSample) -> i32 {
        let mut locations = Vec::with_capacity(sample.frames.len());
        let mut together: Vec<u32> = Vec::new();
        for index in &sample.frames {
            let Some(frame) = entry(&stacks.frames, *index) else { continue };
            together.push(*index);
            if !frame.inlined {
                locations.push(self.location(stacks, std::mem::take(&mut together)));
            }
        }
        if !together.is_empty() {
            locations.push(self.location(stacks, together));
        }
        if let Some(known) = self.stacks.get(&locations) {
            return *known;
        }
        let place = add(&mut self.dictionary.stack_table, Stack { location_indices: locations.clone() });
        self.stacks.insert(locations, place);
        place
    }

    /// One address: the inlined frames and the one they are in, leaf first.
    fn location(&mut self, stacks: &Stacks, frames: Vec<u32>) -> i32 {
        if let Some(known) = self.locations.get(&frames) {
            return *known;
        }
        let known: Vec<Frame> =
            frames.iter().filter_map(|index| entry(&stacks.frames, *index).copied()).collect();
        let outer = known.last().copied().unwrap_or_default();
        let lines = known
            .iter()
            .map(|frame| Line {
                function_index: self.function(stacks, frame.function),
                line: frame.line,
                column: 0,
            })
            .collect();
        let mapping_index = if known.is_empty() { 0 } else { self.mapping(stacks, outer.mapping) };
        let location =
            Location { mapping_index, address: outer.address, lines, attribute_indices: Vec::new() };
        let place = add(&mut self.dictionary.location_table, location);
        self.locations.insert(frames, place);
        place
    }

    fn function(&mut self, stacks: &Stacks, index: u32) -> i32 {
        if let Some(known) = self.functions.get(&index) {
            return *known;
        }
        let Some(function) = entry(&stacks.functions, index) else { return 0 };
        let name = self.string(&function.name);
        let filename_strindex = self.string(&function.file);
        let start_line = function.start_line;
        let item =
            Function { name_strindex: name, system_name_strindex: name, filename_strindex, start_line };
        let place = add(&mut self.dictionary.function_table, item);
        self.functions.insert(index, place);
        place
    }

    fn mapping(&mut self, stacks: &Stacks, index: u32) -> i32 {
        if let Some(known) = self.mappings.get(&index) {
            return *known;
        }
        let Some(mapping) = entry(&stacks.mappings, index) else { return 0 };
        let mut attribute_indices = Vec::new();
        if !mapping.build_id.is_empty() {
            // Go's build id is four parts with slashes; a GNU one is hex.
            let go = mapping.build_id.contains('/');
            let key = if go { "process.executable.build_id.go" } else { "process.executable.build_id.gnu" };
            attribute_indices.push(self.attribute(key, mapping.build_id.clone()));
        }
        let item = Mapping {
            memory_start: mapping.start,
            memory_limit: mapping.end,
            file_offset: mapping.offset,
            filename_strindex: self.string(&mapping.path),
            attribute_indices,
        };
        let place = add(&mut self.dictionary.mapping_table, item);
        self.mappings.insert(index, place);
        place
    }

    fn value_type(&mut self, (kind, unit): (&str, &str)) -> ValueType {
        ValueType { type_strindex: self.string(kind), unit_strindex: self.string(unit) }
    }

    fn attribute(&mut self, key: &str, value: String) -> i32 {
        let key_strindex = self.string(key);
        let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
        add(&mut self.dictionary.attribute_table, KeyValueAndUnit { key_strindex, value, unit_strindex: 0 })
    }

    fn string(&mut self, text: &str) -> i32 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let place = add(&mut self.dictionary.string_table, text.to_owned());
        self.strings.insert(text.to_owned(), place);
        place
    }
}

/// The same profile has the same id whenever it is sent; a part of a split one has its own.
fn profile_id(about: &About<'_>, stacks: &Stacks, samples: &[StackSample]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(about.resource);
    hash.update(about.result.target.as_bytes());
    hash.update([0, u8::try_from(stacks.kind as isize).unwrap_or(u8::MAX)]);
    hash.update(stacks.at.wall_ns.to_le_bytes());
    if samples.len() < stacks.samples.len() {
        for sample in samples {
            sample.frames.iter().for_each(|frame| hash.update(frame.to_le_bytes()));
            hash.update(sample.value.to_le_bytes());
        }
    }
    hash.finalize().iter().take(16).copied().collect()
}

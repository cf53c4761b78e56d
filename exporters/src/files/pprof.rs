//! Stacks as a gzipped pprof profile, as `go tool pprof` reads it.
//!
//! Field numbers are those of `perftools.profiles.Profile` (google/pprof, `proto/profile.proto`). Whose a sample is stands
//! in its labels (`pid`, `process`, `thread`, `container_id`, `pod`, `namespace`, `cpu`), what was lost in comments. Bytes
//! that were received go out unchanged: they hold labels and comments that we do not keep.

use std::io::Write;

use flate2::{Compression, GzBuilder};
use foldhash::HashMap;
use model::profile::{Losses, Mapping as Module, Owner, ProfileKind, Stacks};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
    #[prost(int64, tag = "3")]
    number: i64,
    /// Without one a reader takes a number that is 0 for no label at all.
    #[prost(int64, tag = "4")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
    /// Names are in the profile: a reader need not look for the binary.
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
    #[prost(int64, tag = "5")]
    start_line: i64,
}

/// A gzipped pprof profile: the received bytes where there are some (gzipped by us where they came plain), else our own.
#[must_use]
pub fn encode(stacks: &Stacks) -> Vec<u8> {
    if stacks.pprof.starts_with(&[0x1f, 0x8b]) {
        return stacks.pprof.clone();
    }
    if stacks.pprof.is_empty() { gzip(&profile(stacks).encode_to_vec()) } else { gzip(&stacks.pprof) }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    // A capture has to be cheap more than small: the default took 6.9 ms of one where this takes 2.1.
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::fast());
    // Writing to memory cannot fail.
    gzip.write_all(plain).and_then(|()| gzip.finish()).unwrap_or_default()
}

fn profile(stacks: &Stacks) -> Profile {
    let mut strings = Strings::default();
    strings.id("");
    let Types { sample_type, period_type } = types(stacks.kind, &mut strings);
    let labels: Vec<Vec<Label>> = stacks.owners.iter().map(|owner| labels(owner, &mut strings)).collect();
    let mut places = Places { stacks, locations: Vec::new(), by_frames: HashMap::default() };
    let sample = stacks
        .samples
        .iter()
        .map(|sample| Sample {
            location_id: places.stack(&sample.frames),
            value: match stacks.kind {
                ProfileKind::Goroutine => vec![sample.value],
                ProfileKind::Cpu | ProfileKind::Heap | ProfileKind::OffCpu | ProfileKind::Alloc => {
                    vec![sample.count, sample.value]
                }
            },
            label: usize::try_from(sample.owner)
                .ok()
                .and_then(|at| labels.get(at))
                .cloned()
                .unwrap_or_default(),
        })
        .collect();
    Profile {
        default_sample_type: sample_type.last().map_or(0, |last| last.kind),
        sample_type,
        sample,
        mapping: (1..).zip(&stacks.mappings).map(|(id, module)| mapping(id, module, &mut strings)).collect(),
        location: places.locations,
        function: (1..)
            .zip(&stacks.functions)
            .map(|(id, function)| Function {
                id,
                name: strings.id(&function.name),
                system_name: strings.id(&function.name),
                filename: strings.id(&function.file),
                start_line: function.start_line,
            })
            .collect(),
        comment: comments(stacks.losses).iter().map(|text| strings.id(text)).collect(),
        string_table: strings.list,
        time_nanos: signed(stacks.at.wall_ns),
        duration_nanos: signed(stacks.duration_ns),
        period_type: Some(period_type),
        period: signed(stacks.period),
    }
}

/// What a sample's values are, the one that tools show first in the last place; and what the period counts.
struct Types {
    sample_type: Vec<ValueType>,
    period_type: ValueType,
}

fn types(kind: ProfileKind, strings: &mut Strings) -> Types {
    let mut value_type = |kind, unit| ValueType { kind: strings.id(kind), unit: strings.id(unit) };
    let (sample_type, period_type) = match kind {
        ProfileKind::Cpu => {
            let cpu = value_type("cpu", "nanoseconds");
            (vec![value_type("samples", "count"), cpu], cpu)
        }
        ProfileKind::Heap => {
            let types = vec![value_type("inuse_objects", "count"), value_type("inuse_space", "bytes")];
            (types, value_type("space", "bytes"))
        }
        ProfileKind::Goroutine => (vec![value_type("goroutine", "count")], value_type("goroutine", "count")),
        ProfileKind::OffCpu => {
            let waits = value_type("off_cpu", "nanoseconds");
            (vec![value_type("waits", "count"), waits], waits)
        }
        ProfileKind::Alloc => {
            let types = vec![value_type("alloc_objects", "count"), value_type("alloc_space", "bytes")];
            (types, value_type("space", "bytes"))
        }
    };
    Types { sample_type, period_type }
}

/// What is known of whose a sample is; what is not known has no label.
fn labels(owner: &Owner, strings: &mut Strings) -> Vec<Label> {
    let texts = [
        ("process", &owner.process),
        ("thread", &owner.thread),
        ("container_id", &owner.container),
        ("pod", &owner.pod),
        ("namespace", &owner.namespace),
    ];
    let numbers = [("pid", Some(owner.pid).filter(|pid| *pid > 0)), ("cpu", owner.cpu)];
    let mut labels = Vec::new();
    for (key, number) in numbers {
        let Some(number) = number else { continue };
        let key = strings.id(key);
        labels.push(Label { key, text: 0, number: i64::from(number), unit: strings.id("id") });
    }
    for (key, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        labels.push(Label { key: strings.id(key), text: strings.id(text), number: 0, unit: 0 });
    }
    labels
}

/// What `go tool pprof -comments` shows, and our own reader understands.
fn comments(losses: Losses) -> Vec<String> {
    let lines = [("lost samples", losses.lost), ("truncated stacks", losses.truncated)];
    lines.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what}: {n}")).collect()
}

fn mapping(id: u64, module: &Module, strings: &mut Strings) -> Mapping {
    Mapping {
        id,
        memory_start: module.start,
        memory_limit: module.end,
        file_offset: module.offset,
        filename: strings.id(&module.path),
        build_id: strings.id(if module.build_id.is_empty() { &module.go_build_id } else { &module.build_id }),
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
        has_inline_frames: true,
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The string table; index 0 is the empty string.
#[derive(Default)]
struct Strings {
    list: Vec<String>,
    ids: HashMap<String, i64>,
}

impl Strings {
    fn id(&mut self, text: &str) -> i64 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = i64::try_from(self.list.len()).unwrap_or(0);
        self.list.push(text.to_owned());
        self.ids.insert(text.to_owned(), id);
        id
    }
}

/// Locations: a frame and the calls that were inlined into it.
struct Places<'a> {
    stacks: &'a Stacks,
    locations: Vec<Location>,
    by_frames: HashMap<Vec<u32>, u64>,
}

impl Places<'_> {
    fn stack(&mut self, frames: &[u32]) -> Vec<u64> {
        let mut ids = Vec::new();
        let mut group = Vec::new();
        for (position, at) in frames.iter().enumerate() {
            group.push(*at);
            let inlined = self.frame(*at).is_some_and(|frame| frame.inlined);
            if !inlined || position + 1 == frames.len() {
                ids.push(self.location(std::mem::take(&mut group)));
            }
        }
        ids
    }

    fn frame(&self, at: u32) -> Option<model::profile::Frame> {
        self.stacks.frames.get(usize::try_from(at).ok()?).copied()
    }

    fn location(&mut self, frames: Vec<u32>) -> u64 {
        if let Some(id) = self.by_frames.get(&frames) {
            return *id;
        }
        let id = u64::try_from(self.locations.len()).unwrap_or(u64::MAX).saturating_add(1);
        let known: Vec<_> = frames.iter().filter_map(|at| self.frame(*at)).collect();
        let outer = known.last().copied().unwrap_or_default();
        let mappings = u32::try_from(self.stacks.mappings.len()).unwrap_or(u32::MAX);
        self.locations.push(Location {
            id,
            mapping_id: if outer.mapping < mappings { u64::from(outer.mapping) + 1 } else { 0 },
            address: outer.address,
            line: known
                .iter()
                .map(|frame| Line { function_id: u64::from(frame.function) + 1, line: frame.line })
                .collect(),
        });
        self.by_frames.insert(frames, id);
        id
    }
}

//! Go's pprof format, decoded into whole stacks.
//!
//! Owns the wire format and every bound on it: the top level is walked by a reader that counts before it keeps, and only
//! messages of bounded length reach the generated decoder. Refuses to trust the sender: a hostile profile ends in a
//! [`DecodeError`] or in counted rejects, within a few tens of MiB.

mod wire;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use model::profile::{Frame, Function, Mapping, ProfileKind, StackSample, Stacks};
use model::time::Stamp;
use prost::Message;

use wire::{RawFunction, RawLocation, RawMapping, RawSample, RawValueType, Sections};

/// An etcd member under load answers with 30 to 300 KiB inflated; fifty times that is not a profile we can use.
pub const INFLATED_BYTES_MAX: usize = 16 << 20;
/// Go stops at 128 frames, the kernel at 127; inlining multiplies that by two or three.
pub const DEPTH_MAX: usize = 1_024;
/// References from samples to frames, over the whole profile: 4 MiB of memory.
pub const FRAME_REFERENCES_MAX: usize = 1_000_000;
/// Frames (a location has one for each inlined call): 5 MiB of memory.
pub const FRAMES_MAX: usize = 150_000;
/// Bytes of one name or path; longer ones are cut. Go's longest generic names stay below 2 KiB.
pub const NAME_BYTES_MAX: usize = 4_096;
/// Bytes of all names and paths together, so that many functions cannot share one long string into gigabytes.
pub const NAMES_BYTES_MAX: usize = 8 << 20;

/// Why a profile could not be read at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not gzip although it began like it, or torn.
    #[error("compressed data is damaged")]
    Gzip,
    /// More bytes, messages, names or frames than the bounds of this module allow.
    #[error("larger than the bound on {0}")]
    TooLarge(&'static str),
    /// The top level is not protobuf.
    #[error("not a pprof profile")]
    NotPprof,
    /// The wanted sample type is not among the profile's.
    #[error("no sample type for this kind of profile")]
    NoSampleType,
}

impl DecodeError {
    /// The label of counters.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            DecodeError::Gzip => "gzip",
            DecodeError::TooLarge(_) => "too_large",
            DecodeError::NotPprof => "not_pprof",
            DecodeError::NoSampleType => "no_sample_type",
        }
    }
}

/// What was left out of a profile that could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejects {
    /// Samples that were malformed or referred to nothing.
    pub bad_samples: u64,
    /// Samples with a negative value: a profile of differences, which is not a profile.
    pub negative: u64,
    /// Locations and functions that were malformed.
    pub bad_entries: u64,
    /// Stacks cut at [`DEPTH_MAX`], at the root's end.
    pub cut_stacks: u64,
}

impl Rejects {
    /// All of them, by reason.
    #[must_use]
    pub fn lines(&self) -> [(&'static str, u64); 4] {
        [
            ("bad_sample", self.bad_samples),
            ("negative_value", self.negative),
            ("bad_entry", self.bad_entries),
            ("cut_stack", self.cut_stacks),
        ]
    }
}

/// Decodes one profile, gzipped or plain, and keeps `body` in [`Stacks::pprof`].
///
/// `at` is when the capture began by our clock; the profile's own time is not trusted.
///
/// # Errors
/// [`DecodeError`], when nothing in it can be used.
pub fn decode(body: &[u8], kind: ProfileKind, at: Stamp) -> Result<(Stacks, Rejects), DecodeError> {
    let plain = inflate(body)?;
    let sections = Sections::read(&plain)?;
    let wanted = Wanted::find(&sections, kind)?;
    let mut rejects = Rejects::default();
    let mut names = Names { sections: &sections, left: NAMES_BYTES_MAX };
    let (mappings, mapping_ids) = mappings(&sections, &mut names, &mut rejects)?;
    let (mut functions, function_ids) = functions(&sections, &mut names, &mut rejects)?;
    let names_left = names.left;
    let mut places = Places { frames: Vec::new(), by_id: HashMap::new(), mappings: &mappings, names_left };
    for raw in &sections.locations {
        match RawLocation::decode(*raw) {
            Ok(location) => {
                let mapping = mapping_ids.get(&location.mapping_id).copied().unwrap_or(u32::MAX);
                places.add(&location, mapping, &function_ids, &mut functions)?;
            }
            Err(_) => rejects.bad_entries += 1,
        }
    }
    let samples = samples(&sections, wanted, &places, &mut rejects)?;
    let frames = places.frames;
    Ok((
        Stacks {
            kind,
            at,
            duration_ns: u64::try_from(sections.duration_ns).unwrap_or(0),
            period: u64::try_from(sections.period).unwrap_or(0),
            mappings,
            functions,
            frames,
            owners: Vec::new(),
            samples,
            pprof: body.to_vec(),
        },
        rejects,
    ))
}

/// The bytes without compression; plain input is borrowed.
fn inflate(body: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
    if !body.starts_with(&[0x1f, 0x8b]) {
        if body.len() > INFLATED_BYTES_MAX {
            return Err(DecodeError::TooLarge("bytes"));
        }
        return Ok(Cow::Borrowed(body));
    }
    let mut plain = Vec::new();
    let limit = u64::try_from(INFLATED_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(body).take(limit).read_to_end(&mut plain).map_err(|_| DecodeError::Gzip)?;
    if plain.len() > INFLATED_BYTES_MAX {
        return Err(DecodeError::TooLarge("bytes"));
    }
    Ok(Cow::Owned(plain))
}

/// Which of a sample's values we read.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    value: usize,
    /// Where the number of samples (objects, for a heap) stands; the value itself for goroutines.
    count: Option<usize>,
}

impl Wanted {
    fn find(sections: &Sections<'_>, kind: ProfileKind) -> Result<Wanted, DecodeError> {
        let mut types = Vec::new();
        for raw in &sections.sample_types {
            let Ok(value_type) = RawValueType::decode(*raw) else { return Err(DecodeError::NotPprof) };
            types.push((sections.text(value_type.kind), sections.text(value_type.unit)));
        }
        let position = |name: &str, unit: &str| types.iter().position(|(n, u)| n == name && u == unit);
        let (value, count) = match kind {
            ProfileKind::Cpu => (position("cpu", "nanoseconds"), position("samples", "count")),
            ProfileKind::Heap => (position("inuse_space", "bytes"), position("inuse_objects", "count")),
            ProfileKind::Alloc => (position("alloc_space", "bytes"), position("alloc_objects", "count")),
            // Go says how often and how long something blocked, not when a thread was off its CPU.
            ProfileKind::OffCpu => (None, None),
            ProfileKind::Goroutine => {
                (position("goroutine", "count").or_else(|| position("goroutines", "count")), None)
            }
        };
        value.map(|value| Wanted { value, count }).ok_or(DecodeError::NoSampleType)
    }
}

/// Names, cut and counted against one budget.
struct Names<'a> {
    sections: &'a Sections<'a>,
    left: usize,
}

impl Names<'_> {
    fn take(&mut self, index: i64) -> Result<String, DecodeError> {
        let text = self.sections.text(index);
        let text = cut(&text, NAME_BYTES_MAX);
        self.left = self.left.checked_sub(text.len()).ok_or(DecodeError::TooLarge("names"))?;
        Ok(text.to_owned())
    }
}

fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

type Indexed<T> = (Vec<T>, HashMap<u64, u32>);

fn mappings(
    sections: &Sections<'_>,
    names: &mut Names<'_>,
    rejects: &mut Rejects,
) -> Result<Indexed<Mapping>, DecodeError> {
    let mut list = Vec::with_capacity(sections.mappings.len());
    let mut ids = HashMap::with_capacity(sections.mappings.len());
    for raw in &sections.mappings {
        let Ok(raw) = RawMapping::decode(*raw) else {
            rejects.bad_entries += 1;
            continue;
        };
        ids.insert(raw.id, index(list.len()));
        list.push(Mapping {
            path: names.take(raw.filename)?,
            build_id: names.take(raw.build_id)?,
            start: raw.start,
            end: raw.limit,
            offset: raw.offset,
        });
    }
    Ok((list, ids))
}

fn functions(
    sections: &Sections<'_>,
    names: &mut Names<'_>,
    rejects: &mut Rejects,
) -> Result<Indexed<Function>, DecodeError> {
    let mut list = Vec::with_capacity(sections.functions.len());
    let mut ids = HashMap::with_capacity(sections.functions.len());
    for raw in &sections.functions {
        let Ok(raw) = RawFunction::decode(*raw) else {
            rejects.bad_entries += 1;
            continue;
        };
        let mut name = names.take(raw.name)?;
        if name.is_empty() {
            name = names.take(raw.system_name)?;
        }
        if name.is_empty() {
            name = format!("[function {}]", raw.id);
        }
        ids.insert(raw.id, index(list.len()));
        list.push(Function { name, file: names.take(raw.filename)?, start_line: raw.start_line.max(0) });
    }
    Ok((list, ids))
}

/// Frames by location id.
struct Places<'a> {
    frames: Vec<Frame>,
    by_id: HashMap<u64, (u32, u32)>,
    mappings: &'a [Mapping],
    /// What is left of [`NAMES_BYTES_MAX`] for names made up from addresses.
    names_left: usize,
}

impl Places<'_> {
    fn add(
        &mut self,
        location: &RawLocation,
        mapping: u32,
        function_ids: &HashMap<u64, u32>,
        functions: &mut Vec<Function>,
    ) -> Result<(), DecodeError> {
        let start = self.frames.len();
        if start + location.line.len().max(1) > FRAMES_MAX {
            return Err(DecodeError::TooLarge("frames"));
        }
        let frame =
            |function, line, inlined| Frame { function, mapping, address: location.address, line, inlined };
        let last = location.line.len().saturating_sub(1);
        for (position, line) in location.line.iter().enumerate() {
            // An unknown function id keeps its place in the stack, as an address.
            let function = match function_ids.get(&line.function_id) {
                Some(function) => *function,
                None => self.unnamed(location.address, mapping, functions)?,
            };
            self.frames.push(frame(function, line.line.max(0), position < last));
        }
        if location.line.is_empty() {
            let function = self.unnamed(location.address, mapping, functions)?;
            self.frames.push(frame(function, 0, false));
        }
        let length = self.frames.len() - start;
        self.by_id.insert(location.id, (index(start), index(length)));
        Ok(())
    }

    /// `[module+0x…]`: the file's own address where the mapping is known, never a guess at a name.
    fn unnamed(
        &mut self,
        address: u64,
        mapping: u32,
        functions: &mut Vec<Function>,
    ) -> Result<u32, DecodeError> {
        let mapping = usize::try_from(mapping).ok().and_then(|at| self.mappings.get(at));
        let name = match mapping {
            Some(mapping) => {
                let module = mapping.path.rsplit('/').next().unwrap_or("");
                let module = if module.is_empty() { "unknown" } else { cut(module, 255) };
                let offset = address.wrapping_sub(mapping.start).wrapping_add(mapping.offset);
                format!("[{module}+0x{offset:x}]")
            }
            None => format!("[unknown+0x{address:x}]"),
        };
        self.names_left = self.names_left.checked_sub(name.len()).ok_or(DecodeError::TooLarge("names"))?;
        functions.push(Function { name, file: String::new(), start_line: 0 });
        Ok(index(functions.len() - 1))
    }
}

fn samples(
    sections: &Sections<'_>,
    wanted: Wanted,
    places: &Places<'_>,
    rejects: &mut Rejects,
) -> Result<Vec<StackSample>, DecodeError> {
    let mut list = Vec::new();
    let mut left = FRAME_REFERENCES_MAX;
    for raw in &sections.samples {
        let Some((raw, value)) = RawSample::decode(*raw)
            .ok()
            .and_then(|raw| raw.value.get(wanted.value).copied().map(|v| (raw, v)))
        else {
            rejects.bad_samples += 1;
            continue;
        };
        let count = wanted.count.map_or(value, |at| raw.value.get(at).copied().unwrap_or(0));
        if value < 0 || count < 0 {
            rejects.negative += 1;
            continue;
        }
        if value == 0 {
            // A heap lists what was freed too: allocated, not in use.
            continue;
        }
        let Some(frames) = stack(&raw.location_id, places, rejects) else {
            rejects.bad_samples += 1;
            continue;
        };
        left = left.checked_sub(frames.len()).ok_or(DecodeError::TooLarge("frame references"))?;
        list.push(StackSample { frames, value, count, owner: 0 });
    }
    Ok(list)
}

/// Locations to frames, leaf first; `None` when a location is unknown.
///
/// Go lists a goroutine that is about to start without a stack: it counts towards the total all the same.
fn stack(locations: &[u64], places: &Places<'_>, rejects: &mut Rejects) -> Option<Vec<u32>> {
    let mut frames = Vec::with_capacity(locations.len().min(DEPTH_MAX));
    for id in locations {
        let (start, length) = *places.by_id.get(id)?;
        for frame in start..start.saturating_add(length) {
            if frames.len() == DEPTH_MAX {
                rejects.cut_stacks += 1;
                return Some(frames);
            }
            frames.push(frame);
        }
    }
    Some(frames)
}

/// Indexes are bounded by the section counts, far below `u32::MAX`.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

//! Go's pprof format, decoded into whole stacks: what an endpoint answers, and files of any origin.
//!
//! Owns the wire format and every bound on it: the top level is walked by a reader that counts before it keeps, and only
//! messages of bounded length reach the generated decoder. Refuses to trust the sender: a hostile profile ends in a
//! [`DecodeError`] or in counted rejects, within a few tens of MiB.

mod owners;
mod places;
mod values;
mod wire;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use model::profile::{Function, Mapping, ProfileKind, StackSample, Stacks};
use model::time::Stamp;
use prost::Message;

use owners::Owners;
use places::Places;
use values::Wanted;
use wire::{RawFunction, RawLocation, RawMapping, RawSample, Sections};

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

/// How much of a profile is taken in.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    inflated_bytes: usize,
    samples: usize,
    /// Locations, functions and strings, each.
    entries: usize,
    frames: usize,
    frame_references: usize,
    names_bytes: usize,
    owners: usize,
}

/// Of what a process answers that we did not choose to trust, in a daemon that must stay small.
const OF_ENDPOINTS: Bounds = Bounds {
    inflated_bytes: INFLATED_BYTES_MAX,
    // Distinct stacks, some hundreds for etcd.
    samples: 100_000,
    // etcd has 27,000 functions in all.
    entries: 100_000,
    frames: FRAMES_MAX,
    frame_references: FRAME_REFERENCES_MAX,
    names_bytes: NAMES_BYTES_MAX,
    // An endpoint speaks for one process, and Go sets no such labels.
    owners: 4_096,
};

/// Of a file that a person asks us to read: all processes of a busy node over an hour, and some hundreds of MiB at most.
const OF_FILES: Bounds = Bounds {
    inflated_bytes: 128 << 20,
    samples: 1_000_000,
    entries: 1_000_000,
    frames: 1_500_000,
    frame_references: 16_000_000,
    names_bytes: 64 << 20,
    owners: 262_144,
};

/// Decodes one profile, gzipped or plain, and keeps `body` in [`Stacks::pprof`].
///
/// `at` is when the capture began by our clock; the profile's own time is not trusted.
///
/// # Errors
/// [`DecodeError`], when nothing in it can be used.
pub fn decode(body: &[u8], kind: ProfileKind, at: Stamp) -> Result<(Stacks, Rejects), DecodeError> {
    let plain = inflate(body, OF_ENDPOINTS.inflated_bytes)?;
    let sections = Sections::read(&plain, OF_ENDPOINTS)?;
    let wanted = Wanted::find(&sections, kind)?;
    let (mut stacks, rejects) = read(&sections, wanted, OF_ENDPOINTS)?;
    stacks.at = at;
    stacks.pprof = body.to_vec();
    Ok((stacks, rejects))
}

/// Decodes a file, gzipped or plain, of any origin: each kind of profile that it holds, with the file's own time.
///
/// What counts events instead of time (`samples`, perf's `cycles_sample`) is CPU with a period of 1. [`Stacks::pprof`] stays
/// empty: one file may hold several kinds.
///
/// # Errors
/// [`DecodeError`], when nothing in it can be used.
pub fn decode_file(body: &[u8]) -> Result<Vec<(Stacks, Rejects)>, DecodeError> {
    let plain = inflate(body, OF_FILES.inflated_bytes)?;
    let sections = Sections::read(&plain, OF_FILES)?;
    Wanted::all(&sections)?.into_iter().map(|wanted| read(&sections, wanted, OF_FILES)).collect()
}

fn read(sections: &Sections<'_>, wanted: Wanted, bounds: Bounds) -> Result<(Stacks, Rejects), DecodeError> {
    let mut rejects = Rejects::default();
    let mut names = Names { sections, left: bounds.names_bytes };
    let (mappings, mapping_ids) = mappings(sections, &mut names, &mut rejects)?;
    let (mut functions, function_ids) = functions(sections, &mut names, &mut rejects)?;
    let names_left = names.left;
    let mut places = Places::new(&mappings, bounds.frames, names_left);
    for raw in &sections.locations {
        match RawLocation::decode(*raw) {
            Ok(location) => {
                let mapping = mapping_ids.get(&location.mapping_id).copied().unwrap_or(u32::MAX);
                places.add(&location, mapping, &function_ids, &mut functions)?;
            }
            Err(_) => rejects.bad_entries += 1,
        }
    }
    let mut owners = Owners::new(bounds.owners);
    let samples =
        samples((sections, &places), &wanted, &mut owners, (bounds.frame_references, &mut rejects))?;
    let frames = places.frames;
    let at = Stamp { mono_ns: 0, wall_ns: u64::try_from(sections.time_ns).unwrap_or(0) };
    let stacks = Stacks {
        kind: wanted.kind,
        at,
        duration_ns: u64::try_from(sections.duration_ns).unwrap_or(0),
        period: wanted.period,
        mappings,
        functions,
        frames,
        owners: owners.into_list(),
        samples,
        losses: sections.losses(),
        pprof: Vec::new(),
    };
    Ok((stacks, rejects))
}

/// The bytes without compression; plain input is borrowed.
fn inflate(body: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>, DecodeError> {
    if !body.starts_with(&[0x1f, 0x8b]) {
        if body.len() > bytes_max {
            return Err(DecodeError::TooLarge("bytes"));
        }
        return Ok(Cow::Borrowed(body));
    }
    let mut plain = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(body).take(limit).read_to_end(&mut plain).map_err(|_| DecodeError::Gzip)?;
    if plain.len() > bytes_max {
        return Err(DecodeError::TooLarge("bytes"));
    }
    Ok(Cow::Owned(plain))
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
        let path = names.take(raw.filename)?;
        // Go's build id is four parts with slashes; a linker's is hex.
        let id = names.take(raw.build_id)?;
        let (build_id, go_build_id) =
            if id.contains('/') { (String::new(), id) } else { (id, String::new()) };
        let (start, end, offset) = (raw.start, raw.limit, raw.offset);
        list.push(Mapping { path, build_id, go_build_id, start, end, offset, ..Mapping::default() });
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

fn samples(
    (sections, places): (&Sections<'_>, &Places<'_>),
    wanted: &Wanted,
    owners: &mut Owners,
    (references_max, rejects): (usize, &mut Rejects),
) -> Result<Vec<StackSample>, DecodeError> {
    let mut list = Vec::new();
    let mut left = references_max;
    for raw in &sections.samples {
        let Some((raw, value)) =
            RawSample::decode(*raw).ok().and_then(|raw| wanted.value(&raw.value).map(|value| (raw, value)))
        else {
            rejects.bad_samples += 1;
            continue;
        };
        let count = wanted.count(&raw.value, value);
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
        list.push(StackSample { frames, value, count, owner: owners.of(&raw.label, sections) });
    }
    Ok(list)
}

/// Locations to frames, leaf first; `None` when a location is unknown.
///
/// Go lists a goroutine that is about to start without a stack: it counts towards the total all the same.
fn stack(locations: &[u64], places: &Places<'_>, rejects: &mut Rejects) -> Option<Vec<u32>> {
    let mut frames = Vec::with_capacity(locations.len().min(DEPTH_MAX));
    for id in locations {
        let (start, length) = places.of(*id)?;
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

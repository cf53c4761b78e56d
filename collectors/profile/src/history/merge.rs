//! Windows of any segments, added up into one profile.
//!
//! Owns the numbers of the whole and the bounds on it. What a segment calls by one number is looked up once and remembered
//! as long as that segment is read.

use model::profile::{Frame, FrameKind, Function, Losses, Mapping, Owner, ProfileKind, StackSample, Stacks};

use super::dictionary::NONE;
use super::interner::{Interner, Slots};
use super::reader::Placed;
use super::sample::{Row, Samples};
use super::selection::{Filter, Gap, Loss, Part, Selection, Share};
use super::tables::Tables;
use crate::gopprof::FRAME_REFERENCES_MAX;

/// Shares of windows in samples: 24 MiB. Ten minutes of 64 busy cores have 300,000.
const SHARES_MAX: usize = 1 << 20;
/// Not looked up yet.
const UNSET: u32 = u32::MAX;
/// An owner that is not asked for.
const SKIPPED: u32 = u32::MAX - 1;

type FrameKey = (u32, u32, u64, i64, bool, FrameKind);

/// The whole, and what of a segment has been looked up.
#[derive(Debug)]
pub(super) struct Merge<'f> {
    filter: &'f Filter,
    functions: Vec<Function>,
    function_slots: Slots,
    mappings: Vec<Mapping>,
    mapping_slots: Slots,
    owners: Vec<Owner>,
    owner_slots: Slots,
    frames: Interner<FrameKey>,
    paths: Vec<Box<[u32]>>,
    path_slots: Slots,
    samples: Interner<(u32, u32)>,
    sums: Vec<(i64, i64)>,
    local: Local,
    references: usize,
    shares: usize,
    left_out: u64,
    parts: Vec<Part>,
}

/// From a segment's numbers to those of the whole.
#[derive(Debug, Default)]
struct Local {
    functions: Vec<u32>,
    mappings: Vec<u32>,
    frames: Vec<u32>,
    owners: Vec<u32>,
    paths: Vec<u32>,
}

impl<'f> Merge<'f> {
    pub(super) fn new(filter: &'f Filter) -> Merge<'f> {
        Merge {
            filter,
            functions: Vec::new(),
            function_slots: Slots::default(),
            mappings: Vec::new(),
            mapping_slots: Slots::default(),
            owners: Vec::new(),
            owner_slots: Slots::default(),
            frames: Interner::default(),
            paths: Vec::new(),
            path_slots: Slots::default(),
            samples: Interner::default(),
            sums: Vec::new(),
            local: Local::default(),
            references: 0,
            shares: 0,
            left_out: 0,
            parts: Vec::new(),
        }
    }

    /// Another segment begins: its numbers mean something else.
    pub(super) fn segment(&mut self) {
        self.local = Local::default();
    }

    /// Adds a window; false when the whole is too large for it.
    pub(super) fn add(&mut self, tables: &Tables, window: Placed, samples: &Samples) -> bool {
        if self.shares + samples.rows.len() > SHARES_MAX {
            return false;
        }
        let mut shares = Vec::with_capacity(samples.rows.len());
        for row in &samples.rows {
            shares.extend(self.row(tables, row));
        }
        // Two numbers of a segment may stand for one stack here, when a file was made by somebody else.
        shares.sort_unstable_by_key(|share| share.sample);
        shares.dedup_by(|next, kept| {
            let is_same = next.sample == kept.sample;
            if is_same {
                kept.count = kept.count.saturating_add(next.count);
                kept.value = kept.value.saturating_add(next.value);
            }
            is_same
        });
        self.shares += shares.len();
        let Samples { period, lost, left_out, .. } = *samples;
        self.parts.push(Part { window, period, lost, left_out, shares });
        true
    }

    fn row(&mut self, tables: &Tables, row: &Row) -> Option<Share> {
        let owner = self.owner(tables, row.owner)?;
        let path = self.path(tables, row.stack);
        let length = path.and_then(|path| self.paths.get(place(path))).map_or(0, |path| path.len());
        let known = self.samples.len();
        let room = FRAME_REFERENCES_MAX.saturating_sub(self.references);
        let sample = match path {
            Some(path) if length <= room => self.samples.id((path, owner)),
            _ => {
                self.left_out = self.left_out.saturating_add(u64::try_from(row.count).unwrap_or(0));
                return None;
            }
        };
        if self.samples.len() > known {
            self.references += length;
            self.sums.push((0, 0));
        }
        let (count, value) = self.sums.get_mut(place(sample))?;
        *count = count.saturating_add(row.count);
        *value = value.saturating_add(row.value);
        Some(Share { sample, count: row.count, value: row.value })
    }

    /// `None`: not asked for.
    fn owner(&mut self, tables: &Tables, at: u32) -> Option<u32> {
        if at == NONE {
            return self.filter.is_open().then_some(NONE);
        }
        if let Some(known) = known(&self.local.owners, at) {
            return Some(known).filter(|known| *known != SKIPPED);
        }
        let row = tables.owners.get(place(at))?;
        let [process, thread, container, pod, namespace] = row.texts.map(|text| tables.text(text).to_owned());
        let owner = Owner { pid: row.pid, process, thread, container, pod, namespace, cpu: row.cpu };
        let id = if self.filter.takes(&owner) {
            number(&mut self.owners, &mut self.owner_slots, owner)
        } else {
            SKIPPED
        };
        learn(&mut self.local.owners, at, id, tables.owners.len());
        Some(id).filter(|id| *id != SKIPPED)
    }

    fn path(&mut self, tables: &Tables, stack: u32) -> Option<u32> {
        if let Some(known) = known(&self.local.paths, stack) {
            return Some(known);
        }
        // A stack that no writer of ours made may be as long as all nodes: it is not walked past what there is room for.
        let room = FRAME_REFERENCES_MAX.saturating_sub(self.references);
        let mut frames = Vec::new();
        for frame in tables.walk(stack).take(room + 1) {
            frames.push(self.frame(tables, frame)?);
        }
        if frames.len() > room {
            return None;
        }
        let hash = self.path_slots.hash(frames.as_slice());
        let is_equal = |id: u32| self.paths.get(place(id)).is_some_and(|path| **path == *frames);
        let id = match self.path_slots.find(hash, is_equal) {
            Some(id) => id,
            None => {
                let id = u32::try_from(self.paths.len()).ok()?;
                self.paths.push(frames.into());
                let paths = &self.paths;
                self.path_slots.add(id, hash, |hasher, id| {
                    use std::hash::BuildHasher;
                    paths.get(place(id)).map_or(0, |path| hasher.hash_one(&**path))
                });
                id
            }
        };
        learn(&mut self.local.paths, stack, id, tables.stacks() + 1);
        Some(id)
    }

    fn frame(&mut self, tables: &Tables, at: u32) -> Option<u32> {
        if let Some(known) = known(&self.local.frames, at) {
            return Some(known);
        }
        let row = tables.frames.get(place(at))?;
        let function = self.function(tables, row.function)?;
        let mapping = if row.mapping == NONE { NONE } else { self.mapping(tables, row.mapping)? };
        let id = self.frames.id((function, mapping, row.address, row.line, row.is_inlined, row.kind));
        learn(&mut self.local.frames, at, id, tables.frames.len());
        Some(id)
    }

    fn function(&mut self, tables: &Tables, at: u32) -> Option<u32> {
        if let Some(known) = known(&self.local.functions, at) {
            return Some(known);
        }
        let row = tables.functions.get(place(at))?;
        let (name, file) = (tables.text(row.name).to_owned(), tables.text(row.file).to_owned());
        let function = Function { name, file, start_line: row.start_line };
        let id = number(&mut self.functions, &mut self.function_slots, function);
        learn(&mut self.local.functions, at, id, tables.functions.len());
        Some(id)
    }

    fn mapping(&mut self, tables: &Tables, at: u32) -> Option<u32> {
        if let Some(known) = known(&self.local.mappings, at) {
            return Some(known);
        }
        let row = tables.mappings.get(place(at))?;
        let path = tables.text(row.path).to_owned();
        let [build_id, go_build_id, htlhash] = row.ids.map(|id| tables.text(id).to_owned());
        let (start, end, offset) = (row.start, row.end, row.offset);
        let mapping = Mapping { path, build_id, go_build_id, htlhash, start, end, offset };
        let id = number(&mut self.mappings, &mut self.mapping_slots, mapping);
        learn(&mut self.local.mappings, at, id, tables.mappings.len());
        Some(id)
    }

    /// The whole.
    pub(super) fn finish(self, gaps: Vec<Gap>, loss: Loss) -> Selection {
        let periods: Vec<u64> = self.parts.iter().map(|part| part.period).collect();
        let period = match periods.split_first() {
            Some((first, rest)) if rest.iter().all(|period| period == first) => *first,
            _ => 0,
        };
        let lost = self.parts.iter().fold(0, |sum, part| part.lost.saturating_add(sum));
        let sample = |((path, owner), (count, value)): (&(u32, u32), &(i64, i64))| StackSample {
            frames: self.paths.get(place(*path)).map(|path| path.to_vec()).unwrap_or_default(),
            value: *value,
            count: *count,
            owner: *owner,
        };
        let frame = |&(function, mapping, address, line, inlined, kind): &FrameKey| Frame {
            function,
            mapping,
            address,
            line,
            inlined,
            kind,
        };
        let stacks = Stacks {
            kind: ProfileKind::Cpu,
            at: self.parts.first().map(|part| part.window.at).unwrap_or_default(),
            duration_ns: self.parts.iter().fold(0, |sum, part| part.window.duration_ns.saturating_add(sum)),
            period,
            samples: self.samples.since(0).iter().zip(&self.sums).map(sample).collect(),
            frames: self.frames.since(0).iter().map(frame).collect(),
            mappings: self.mappings,
            functions: self.functions,
            owners: self.owners,
            losses: Losses { lost, truncated: 0 },
            pprof: Vec::new(),
        };
        Selection { stacks, parts: self.parts, gaps, loss, left_out: self.left_out }
    }
}

/// What can be numbered by what is in it.
trait Content: Eq {
    fn hash(&self, hasher: &std::hash::RandomState) -> u64;
}

impl Content for Function {
    fn hash(&self, hasher: &std::hash::RandomState) -> u64 {
        use std::hash::BuildHasher;
        hasher.hash_one((&self.name, &self.file, self.start_line))
    }
}

impl Content for Mapping {
    fn hash(&self, hasher: &std::hash::RandomState) -> u64 {
        use std::hash::BuildHasher;
        hasher.hash_one((&self.path, &self.build_id, self.start, self.end, self.offset))
    }
}

impl Content for Owner {
    fn hash(&self, hasher: &std::hash::RandomState) -> u64 {
        use std::hash::BuildHasher;
        hasher.hash_one(self)
    }
}

fn number<T: Content>(list: &mut Vec<T>, slots: &mut Slots, value: T) -> u32 {
    let hash = value.hash(slots.hasher());
    if let Some(id) = slots.find(hash, |id| list.get(place(id)) == Some(&value)) {
        return id;
    }
    let id = u32::try_from(list.len()).unwrap_or(NONE);
    list.push(value);
    slots.add(id, hash, |hasher, id| list.get(place(id)).map_or(0, |value| value.hash(hasher)));
    id
}

fn place(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn known(ids: &[u32], at: u32) -> Option<u32> {
    ids.get(place(at)).copied().filter(|id| *id != UNSET)
}

/// `length`: of the segment's list so far; it grows from block to block.
fn learn(ids: &mut Vec<u32>, at: u32, id: u32, length: usize) {
    if ids.len() < length {
        ids.resize(length, UNSET);
    }
    if let Some(slot) = ids.get_mut(place(at)) {
        *slot = id;
    }
}

//! A profile as it grows: each function, frame, mapping and owner once.

use std::sync::Arc;

use foldhash::HashMap;
use model::profile::{self, FrameKind, Function, Losses, Mapping, ProfileKind, StackSample, Stacks};

use crate::binaries::Binary;
use crate::perf::modules::Module;
use crate::perf::record::Identity;
use crate::perf::stacks::{Frame, Stack};
use crate::symbols::identity;

use super::Capture;
use super::known::{Called, Ends};

/// Frames of one stack, inlined calls included: as many as are read from a profile of Go's.
const DEPTH_MAX: usize = 1_024;
/// References from samples to frames, over the whole profile: 16 MiB of memory.
const REFERENCES_MAX: usize = 4 << 20;
/// Frames: 20 MiB of memory with their functions, twenty times what an hour of a busy node shows.
const FRAMES_MAX: usize = 1 << 18;

/// Frames at the leaf by which a stack may have been taken: an allocator with its profiler has a dozen.
const OWN_MAX: usize = 16;

/// How a place was come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct How {
    /// A call returns there; else that instruction is next.
    pub(super) is_return: bool,
    /// What it calls is a panic.
    pub(super) is_panic: bool,
}

/// A place, named: where its frames are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    first: u32,
    count: u32,
    pub(super) is_named: bool,
    pub(super) is_panic: bool,
    pub(super) ends: Ends,
}

/// The parts of a profile.
#[derive(Debug, Default)]
pub(super) struct Output {
    places: HashMap<(Frame, How), Named>,
    mappings: Vec<Mapping>,
    mapping_ids: HashMap<(u32, u64), u32>,
    functions: Vec<Function>,
    /// By where the function is in memory, which nobody lets go of meanwhile.
    shared: HashMap<usize, (u32, Arc<Function>)>,
    by_name: HashMap<String, u32>,
    frames: Vec<profile::Frame>,
    /// Frames that are functions and no more.
    placeless: HashMap<(u32, FrameKind), u32>,
    /// Frames of the kernel's addresses, and whether they have a name.
    kernel: HashMap<u64, (u32, bool)>,
    owners: Vec<profile::Owner>,
    owner_ids: HashMap<profile::Owner, u32>,
    samples: Vec<StackSample>,
    stack: Vec<u32>,
    references: usize,
    is_cut: bool,
    cut: u64,
}

impl Output {
    pub(super) fn begin(&mut self) {
        self.stack.clear();
        self.is_cut = false;
    }

    /// A place that was named in this capture before.
    pub(super) fn again(&self, frame: Frame, how: How) -> Option<Named> {
        self.places.get(&(frame, how)).copied()
    }

    /// Puts its frames at the end of the stack. False when there is no more room.
    pub(super) fn push(&mut self, named: Named) -> bool {
        let count = usize::try_from(named.count).unwrap_or(usize::MAX);
        let length = self.stack.len().saturating_add(count);
        if length > DEPTH_MAX || self.references.saturating_add(length) > REFERENCES_MAX {
            self.is_cut = true;
            return false;
        }
        self.stack.extend(named.first..named.first.saturating_add(named.count));
        true
    }

    /// Functions that are known.
    pub(super) fn named(&mut self, place: (Frame, How), known: &[Called], at: (u32, u64)) -> Named {
        let (mapping, address) = at;
        let first = self.frames.len();
        let mut is_panic = place.1.is_panic;
        for called in known {
            // As runtime.tracebackPCs does it.
            let is_shown = !called.is_wrapper || is_panic;
            is_panic = called.is_panic;
            if is_shown && self.frames.len() < FRAMES_MAX {
                let function = self.shared(&called.function);
                self.frames.push(profile::Frame {
                    function,
                    mapping,
                    address,
                    line: called.line,
                    inlined: called.is_inlined,
                    kind: called.kind,
                });
            }
        }
        // Where the function with the code is a wrapper that is not shown, the last one shown is in nobody's code.
        if let Some(last) = self.frames.get_mut(first..).and_then(<[_]>::last_mut) {
            last.inlined = false;
        }
        let ends = known.last().map(|called| called.ends).unwrap_or_default();
        let named = Named { is_named: true, is_panic, ends, ..self.since(first) };
        self.places.insert(place, named);
        named
    }

    /// A place without a name.
    pub(super) fn nameless(&mut self, place: (Frame, How), name: &str, mapping: Option<u32>) -> Named {
        let first = self.frames.len();
        if first < FRAMES_MAX {
            let function = self.by_name(name);
            // The offset in the file is the address of a mapping that begins at 0.
            let address = mapping.map_or(0, |_| place.0.offset);
            let mapping = mapping.unwrap_or(u32::MAX);
            self.frames.push(profile::Frame { function, mapping, address, ..profile::Frame::default() });
        }
        let named = self.since(first);
        self.places.insert(place, named);
        named
    }

    fn since(&self, first: usize) -> Named {
        let count = u32::try_from(self.frames.len() - first).unwrap_or(0);
        let first = u32::try_from(first).unwrap_or(0);
        Named { first, count, is_named: false, is_panic: false, ends: Ends::Call }
    }
}

impl Output {
    /// A frame of the kernel, whose name is asked for when its address is met first; whether it has one. Neighbours
    /// without a name are one.
    pub(super) fn kernel(&mut self, address: u64, name: impl FnOnce() -> Option<String>) -> bool {
        let known = self.kernel.get(&address).copied();
        let (first, is_named) = known.unwrap_or_else(|| {
            let name = name();
            let frame = self.frame_of(name.as_deref().unwrap_or("[kernel]"), FrameKind::Kernel);
            self.kernel.insert(address, (frame, name.is_some()));
            (frame, name.is_some())
        });
        if is_named || self.stack.last() != Some(&first) {
            self.push(Named { first, count: 1, is_named: true, is_panic: false, ends: Ends::Call });
        }
        is_named
    }

    /// A function that was compiled at run time, if its name is known.
    pub(super) fn placeless(&mut self, name: Option<&str>) -> Named {
        let kind = if name.is_some() { FrameKind::Native } else { FrameKind::Unknown };
        let first = self.frame_of(name.unwrap_or("[anon]"), kind);
        Named { first, count: 1, is_named: name.is_some(), is_panic: false, ends: Ends::Call }
    }

    /// One frame for each such function, wherever it is.
    fn frame_of(&mut self, name: &str, kind: FrameKind) -> u32 {
        let function = self.by_name(name);
        let next = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let frame = *self.placeless.entry((function, kind)).or_insert(next);
        if frame == next {
            self.frames.push(profile::Frame {
                function,
                mapping: u32::MAX,
                kind,
                ..profile::Frame::default()
            });
        }
        frame
    }

    /// The mapping of a place: that of its segment, or of the whole file where that is not known.
    pub(super) fn mapping(
        &mut self,
        module: &Module,
        binary: Option<&Arc<Binary>>,
        offset: u64,
    ) -> Option<u32> {
        let segment = binary.and_then(|binary| binary.code_at(offset));
        let key = (module.id, segment.map_or(u64::MAX, |segment| segment.offset));
        if let Some(id) = self.mapping_ids.get(&key) {
            return Some(*id);
        }
        let id = u32::try_from(self.mappings.len()).ok()?;
        let told = match &module.identity {
            Identity::BuildId(length, bytes) => identity::hex(bytes.iter().take(usize::from(*length))),
            Identity::Inode { .. } => String::new(),
        };
        let (start, length, offset) =
            segment.map_or((0, u64::MAX, 0), |segment| (segment.address, segment.length, segment.offset));
        self.mappings.push(Mapping {
            path: module.path.to_string_lossy().into_owned(),
            build_id: binary.map_or(told, |binary| binary.ids.build_id.clone()),
            go_build_id: binary.map_or_else(String::new, |binary| binary.ids.go_build_id.clone()),
            htlhash: binary.map_or_else(String::new, |binary| binary.ids.htlhash.clone()),
            start,
            end: start.saturating_add(length),
            offset,
        });
        self.mapping_ids.insert(key, id);
        Some(id)
    }

    fn shared(&mut self, function: &Arc<Function>) -> u32 {
        let key = Arc::as_ptr(function).addr();
        if let Some((id, _)) = self.shared.get(&key) {
            return *id;
        }
        let id = u32::try_from(self.functions.len()).unwrap_or(u32::MAX);
        self.functions.push(Function::clone(function));
        self.shared.insert(key, (id, Arc::clone(function)));
        id
    }

    fn by_name(&mut self, name: &str) -> u32 {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = u32::try_from(self.functions.len()).unwrap_or(u32::MAX);
        self.functions.push(Function { name: name.to_owned(), ..Function::default() });
        self.by_name.insert(name.to_owned(), id);
        id
    }
}

impl Output {
    /// The stack is complete.
    pub(super) fn end(&mut self, stack: &Stack<'_>, capture: &Capture) {
        let owner = self.owner(stack);
        let value = match capture.kind {
            ProfileKind::Cpu => stack.count.saturating_mul(capture.period_ns),
            _ => stack.count,
        };
        let count = i64::try_from(stack.samples).unwrap_or(i64::MAX);
        self.sample(i64::try_from(value).unwrap_or(i64::MAX), count, owner);
    }

    /// Takes away what is at the stack's leaf, up to the last such function, unless nothing else is there.
    pub(super) fn leave_out(&mut self, is_own: impl Fn(&str) -> bool) {
        let name = |frame: &u32| {
            let frame = self.frames.get(usize::try_from(*frame).ok()?)?;
            self.functions.get(usize::try_from(frame.function).ok()?).map(|function| function.name.as_str())
        };
        let leaf = self.stack.get(..self.stack.len().min(OWN_MAX)).unwrap_or_default();
        let own = leaf.iter().rposition(|frame| name(frame).is_some_and(&is_own)).map_or(0, |at| at + 1);
        if own < self.stack.len() {
            self.stack.drain(..own);
        }
    }

    /// The stack is complete, and has this weight.
    pub(super) fn sample(&mut self, value: i64, count: i64, owner: u32) {
        self.cut += u64::from(self.is_cut);
        self.references = self.references.saturating_add(self.stack.len());
        self.samples.push(StackSample { frames: self.stack.clone(), value, count, owner });
    }

    fn owner(&mut self, stack: &Stack<'_>) -> u32 {
        let owner = profile::Owner {
            pid: stack.pid,
            process: stack.name.to_owned(),
            thread: stack.thread.to_owned(),
            container: stack.container.to_owned(),
            pod: stack.pod.to_owned(),
            namespace: String::new(),
            cpu: stack.cpu,
        };
        if let Some(id) = self.owner_ids.get(&owner) {
            return *id;
        }
        let id = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        self.owners.push(owner.clone());
        self.owner_ids.insert(owner, id);
        id
    }

    /// The current stack: names, and whether they are inlined.
    #[cfg(test)]
    pub(super) fn shown(&self) -> Vec<(String, bool)> {
        let at = |id: u32| usize::try_from(id).unwrap();
        let frames = self.stack.iter().map(|frame| self.frames[at(*frame)]);
        frames.map(|frame| (self.functions[at(frame.function)].name.clone(), frame.inlined)).collect()
    }

    pub(super) fn cut(&self) -> u64 {
        self.cut
    }

    pub(super) fn finish(self, capture: &Capture) -> Stacks {
        Stacks {
            kind: capture.kind,
            at: capture.at,
            duration_ns: capture.duration_ns,
            period: capture.period_ns,
            mappings: self.mappings,
            functions: self.functions,
            frames: self.frames,
            owners: self.owners,
            samples: self.samples,
            losses: Losses::default(),
            pprof: Vec::new(),
        }
    }
}

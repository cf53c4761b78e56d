//! What a segment being written has named so far: texts, modules, functions, frames, stacks, owners.
//!
//! Owns the numbers and the bytes in which new ones are written. A stack is a path in a tree whose nodes are frames, so that
//! the second of two stacks costs only what differs. Refuses to grow without end: its owner asks for the bytes in use.

use model::profile::{Frame, FrameKind, Function, Mapping, Owner, Stacks};

use super::interner::{Interner, Texts};
use super::wire::{put, put_signed, put_size};

/// What stands for none: a module that is not known, an owner that is not known.
pub(super) const NONE: u32 = u32::MAX;
/// Bytes of one text; longer ones are cut, as `gopprof` cuts them.
pub(super) const TEXT_BYTES_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct MappingKey {
    path: u32,
    /// The linker's, Go's, OpenTelemetry's.
    ids: [u32; 3],
    start: u64,
    end: u64,
    offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FunctionKey {
    name: u32,
    file: u32,
    start_line: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FrameKey {
    address: u64,
    line: i64,
    function: u32,
    mapping: u32,
    is_inlined: bool,
    kind: FrameKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct OwnerKey {
    pid: u32,
    process: u32,
    thread: u32,
    container: u32,
    pod: u32,
    namespace: u32,
    cpu: Option<u32>,
}

/// A frame and where the stack goes on towards the root: a node's number and one, 0 at the root itself.
type Node = (u32, u32);

/// How many of each kind have been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written {
    texts: usize,
    mappings: usize,
    functions: usize,
    frames: usize,
    nodes: usize,
    owners: usize,
}

/// The dictionaries of one segment.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    texts: Texts,
    mappings: Interner<MappingKey>,
    functions: Interner<FunctionKey>,
    frames: Interner<FrameKey>,
    nodes: Interner<Node>,
    owners: Interner<OwnerKey>,
    written: Written,
}

impl Dictionary {
    /// Bytes in use; what is allocated is at most twice that.
    pub(super) fn bytes(&self) -> usize {
        self.texts.bytes()
            + self.mappings.bytes()
            + self.functions.bytes()
            + self.frames.bytes()
            + self.nodes.bytes()
            + self.owners.bytes()
    }

    /// The frame at this place of `stacks`; `None` for a reference to nothing.
    pub(super) fn frame(&mut self, stacks: &Stacks, at: u32) -> Option<u32> {
        let Frame { function, mapping, address, line, inlined, kind } = *stacks.frames.get(place(at))?;
        let function = self.function(stacks.functions.get(place(function))?);
        let mapping = stacks.mappings.get(place(mapping)).map_or(NONE, |mapping| self.mapping(mapping));
        Some(self.frames.id(FrameKey { address, line, function, mapping, is_inlined: inlined, kind }))
    }

    fn function(&mut self, function: &Function) -> u32 {
        let (name, file) = (self.text(&function.name), self.text(&function.file));
        self.functions.id(FunctionKey { name, file, start_line: function.start_line })
    }

    fn mapping(&mut self, mapping: &Mapping) -> u32 {
        let path = self.text(&mapping.path);
        let ids = [&mapping.build_id, &mapping.go_build_id, &mapping.htlhash].map(|id| self.text(id));
        let Mapping { start, end, offset, .. } = *mapping;
        self.mappings.id(MappingKey { path, ids, start, end, offset })
    }

    pub(super) fn owner(&mut self, owner: &Owner) -> u32 {
        let key = OwnerKey {
            pid: owner.pid,
            process: self.text(&owner.process),
            thread: self.text(&owner.thread),
            container: self.text(&owner.container),
            pod: self.text(&owner.pod),
            namespace: self.text(&owner.namespace),
            cpu: owner.cpu,
        };
        self.owners.id(key)
    }

    fn text(&mut self, text: &str) -> u32 {
        self.texts.id(cut(text))
    }

    /// One frame further from the root; 0 is the empty stack, and what comes back is a stack again.
    pub(super) fn push(&mut self, stack: u32, frame: u32) -> u32 {
        self.nodes.id((stack, frame)).saturating_add(1)
    }

    /// Appends what has not been written yet, column by column: equal things beside each other pack better.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        let from = self.written;
        self.written = Written {
            texts: self.texts.len(),
            mappings: self.mappings.len(),
            functions: self.functions.len(),
            frames: self.frames.len(),
            nodes: self.nodes.len(),
            owners: self.owners.len(),
        };
        self.write_texts(out, from.texts);
        write_mappings(out, self.mappings.since(from.mappings));
        write_functions(out, self.functions.since(from.functions));
        write_frames(out, self.frames.since(from.frames));
        write_nodes(out, self.nodes.since(from.nodes), from.nodes);
        write_owners(out, self.owners.since(from.owners));
    }

    fn write_texts(&self, out: &mut Vec<u8>, from: usize) {
        put_size(out, self.texts.len() - from);
        let texts = || (from..self.texts.len()).filter_map(|at| self.texts.get(u32::try_from(at).ok()?));
        for text in texts() {
            put_size(out, text.len());
        }
        for text in texts() {
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// At most [`TEXT_BYTES_MAX`] of it.
pub(super) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}

fn place(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// A number and one, 0 for none.
fn put_optional(out: &mut Vec<u8>, value: u32) {
    put(out, if value == NONE { 0 } else { u64::from(value) + 1 });
}

/// From the number before: entries that follow each other are near each other.
fn put_delta(out: &mut Vec<u8>, before: &mut u64, value: u64) {
    put_signed(out, value.wrapping_sub(*before).cast_signed());
    *before = value;
}

fn write_mappings(out: &mut Vec<u8>, mappings: &[MappingKey]) {
    put_size(out, mappings.len());
    for mapping in mappings {
        put(out, mapping.path.into());
        for id in mapping.ids {
            put(out, id.into());
        }
        put(out, mapping.start);
        put_signed(out, mapping.end.wrapping_sub(mapping.start).cast_signed());
        put(out, mapping.offset);
    }
}

fn write_functions(out: &mut Vec<u8>, functions: &[FunctionKey]) {
    put_size(out, functions.len());
    let (mut names, mut files) = (0, 0);
    for function in functions {
        put_delta(out, &mut names, function.name.into());
    }
    for function in functions {
        put_delta(out, &mut files, function.file.into());
    }
    for function in functions {
        put_signed(out, function.start_line);
    }
}

fn write_frames(out: &mut Vec<u8>, frames: &[FrameKey]) {
    put_size(out, frames.len());
    let (mut functions, mut addresses) = (0, 0);
    for frame in frames {
        put_delta(out, &mut functions, frame.function.into());
    }
    for frame in frames {
        put_optional(out, frame.mapping);
    }
    for frame in frames {
        put_delta(out, &mut addresses, frame.address);
    }
    for frame in frames {
        put_signed(out, frame.line);
    }
    for frame in frames {
        put(out, u64::from(frame.is_inlined) + 2 * kind_number(frame.kind));
    }
}

fn kind_number(kind: FrameKind) -> u64 {
    match kind {
        FrameKind::Unknown => 0,
        FrameKind::Native => 1,
        FrameKind::Go => 2,
        FrameKind::Kernel => 3,
    }
}

fn write_nodes(out: &mut Vec<u8>, nodes: &[Node], first: usize) {
    put_size(out, nodes.len());
    for (own, (parent, _)) in (u64::try_from(first).unwrap_or(u64::MAX)..).zip(nodes) {
        // Mostly the node right before.
        put(out, own.saturating_sub(u64::from(*parent)));
    }
    let mut frames = 0;
    for (_, frame) in nodes {
        put_delta(out, &mut frames, u64::from(*frame));
    }
}

fn write_owners(out: &mut Vec<u8>, owners: &[OwnerKey]) {
    put_size(out, owners.len());
    let mut pids = 0;
    for owner in owners {
        put_delta(out, &mut pids, owner.pid.into());
        for text in [owner.process, owner.thread, owner.container, owner.pod, owner.namespace] {
            put(out, text.into());
        }
        put(out, owner.cpu.map_or(0, |cpu| u64::from(cpu) + 1));
    }
}

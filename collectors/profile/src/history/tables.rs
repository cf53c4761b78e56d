//! What a segment being read has named so far: the other end of `dictionary`.
//!
//! Owns the checks: each reference points to something that came before it, texts are UTF-8, and no list grows past its
//! bound. Refuses to go on after the first thing that is not so: what is numbered wrong would be a stack nobody ran.

use model::profile::FrameKind;

use super::dictionary::{NONE, TEXT_BYTES_MAX};
use super::interner::piece;
use super::wire::Cursor;

/// Bytes of all texts of a segment. The writer begins another segment long before.
const TEXTS_BYTES_MAX: usize = 8 << 20;
/// Entries of each kind: the same, sixteen bytes each at least.
const ENTRIES_MAX: usize = 1 << 20;

/// A module, texts by number.
#[derive(Clone, Copy, Debug)]
pub(super) struct MappingRow {
    pub(super) path: u32,
    /// The linker's, Go's, OpenTelemetry's.
    pub(super) ids: [u32; 3],
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) offset: u64,
}

/// A function, texts by number.
#[derive(Clone, Copy, Debug)]
pub(super) struct FunctionRow {
    pub(super) name: u32,
    pub(super) file: u32,
    pub(super) start_line: i64,
}

/// A frame, function and module by number.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameRow {
    pub(super) function: u32,
    pub(super) mapping: u32,
    pub(super) address: u64,
    pub(super) line: i64,
    pub(super) is_inlined: bool,
    pub(super) kind: FrameKind,
}

/// An owner, texts by number: process, thread, container, pod, namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnerRow {
    pub(super) pid: u32,
    pub(super) texts: [u32; 5],
    pub(super) cpu: Option<u32>,
}

/// Everything by its number.
#[derive(Debug, Default)]
pub(super) struct Tables {
    text: String,
    ends: Vec<u32>,
    pub(super) mappings: Vec<MappingRow>,
    pub(super) functions: Vec<FunctionRow>,
    pub(super) frames: Vec<FrameRow>,
    /// (stack towards the root, frame); a stack is a node's number and one.
    nodes: Vec<(u32, u32)>,
    pub(super) owners: Vec<OwnerRow>,
}

impl Tables {
    /// Adds the dictionary of one block. `None`: it is not one that we wrote, and nothing after it can be read.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<()> {
        let cursor = &mut Cursor::new(bytes);
        self.texts(cursor)?;
        self.mappings(cursor)?;
        self.functions(cursor)?;
        self.frames(cursor)?;
        self.nodes(cursor)?;
        self.owners(cursor)?;
        cursor.is_empty().then_some(())
    }

    pub(super) fn text(&self, id: u32) -> &str {
        piece(&self.text, &self.ends, id).unwrap_or_default()
    }

    pub(super) fn stacks(&self) -> usize {
        self.nodes.len()
    }

    /// Frames of a stack from the leaf on, each with the stack that is left.
    pub(super) fn walk(&self, stack: u32) -> impl Iterator<Item = u32> {
        let mut at = stack;
        std::iter::from_fn(move || {
            let (parent, frame) = *self.nodes.get(place(at.checked_sub(1)?))?;
            // Ever smaller, so it ends.
            at = parent;
            Some(frame)
        })
    }

    fn texts(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let count = room(self.ends.len(), cursor.count()?)?;
        let first = self.ends.len();
        let mut end = self.text.len();
        for _ in 0..count {
            let length = usize::try_from(cursor.unsigned()?).ok()?;
            end += Some(length).filter(|length| *length <= TEXT_BYTES_MAX)?;
            if end > TEXTS_BYTES_MAX {
                return None;
            }
            self.ends.push(u32::try_from(end).ok()?);
        }
        self.text.push_str(str::from_utf8(cursor.bytes(end - self.text.len())?).ok()?);
        // The whole may be UTF-8 and a piece not.
        let is_whole = |end: &u32| self.text.is_char_boundary(place(*end));
        self.ends.get(first..)?.iter().all(is_whole).then_some(())
    }

    fn mappings(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        for _ in 0..room(self.mappings.len(), cursor.count()?)? {
            let path = self.text_id(cursor)?;
            let ids = [self.text_id(cursor)?, self.text_id(cursor)?, self.text_id(cursor)?];
            let start = cursor.unsigned()?;
            let end = start.wrapping_add(cursor.signed()?.cast_unsigned());
            self.mappings.push(MappingRow { path, ids, start, end, offset: cursor.unsigned()? });
        }
        Some(())
    }

    fn functions(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let count = room(self.functions.len(), cursor.count()?)?;
        let first = self.functions.len();
        let (mut names, mut files) = (0, 0);
        for _ in 0..count {
            let name = delta(cursor, &mut names, self.ends.len())?;
            self.functions.push(FunctionRow { name, file: 0, start_line: 0 });
        }
        for function in self.functions.get_mut(first..)? {
            function.file = delta(cursor, &mut files, self.ends.len())?;
        }
        for function in self.functions.get_mut(first..)? {
            function.start_line = cursor.signed()?;
        }
        Some(())
    }

    fn frames(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let count = room(self.frames.len(), cursor.count()?)?;
        let first = self.frames.len();
        let (mut functions, mut address) = (0, 0_u64);
        for _ in 0..count {
            let function = delta(cursor, &mut functions, self.functions.len())?;
            let (mapping, kind) = (NONE, FrameKind::Unknown);
            self.frames.push(FrameRow { function, mapping, address: 0, line: 0, is_inlined: false, kind });
        }
        let new = self.frames.get_mut(first..)?;
        for frame in &mut *new {
            frame.mapping = match cursor.short()?.checked_sub(1) {
                None => NONE,
                Some(mapping) => Some(mapping).filter(|mapping| place(*mapping) < self.mappings.len())?,
            };
        }
        for frame in &mut *new {
            address = address.wrapping_add(cursor.signed()?.cast_unsigned());
            frame.address = address;
        }
        for frame in &mut *new {
            frame.line = cursor.signed()?;
        }
        for frame in new {
            let told = cursor.unsigned()?;
            frame.is_inlined = told % 2 == 1;
            frame.kind = match told / 2 {
                0 => FrameKind::Unknown,
                1 => FrameKind::Native,
                2 => FrameKind::Go,
                3 => FrameKind::Kernel,
                _ => return None,
            };
        }
        Some(())
    }

    fn nodes(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let count = room(self.nodes.len(), cursor.count()?)?;
        let first = self.nodes.len();
        for own in first..first + count {
            let back = usize::try_from(cursor.unsigned()?).ok()?;
            self.nodes.push((u32::try_from(own.checked_sub(back)?).ok()?, 0));
        }
        let mut frames = 0;
        for node in self.nodes.get_mut(first..)? {
            node.1 = delta(cursor, &mut frames, self.frames.len())?;
        }
        Some(())
    }

    fn owners(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let mut pids = 0;
        for _ in 0..room(self.owners.len(), cursor.count()?)? {
            let pid = delta(cursor, &mut pids, usize::MAX)?;
            let mut texts = [0; 5];
            for text in &mut texts {
                *text = self.text_id(cursor)?;
            }
            let cpu = cursor.unsigned()?.checked_sub(1).map(u32::try_from).transpose().ok()?;
            self.owners.push(OwnerRow { pid, texts, cpu });
        }
        Some(())
    }

    fn text_id(&self, cursor: &mut Cursor<'_>) -> Option<u32> {
        cursor.short().filter(|id| place(*id) < self.ends.len())
    }
}

fn place(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// So many more, if there may be.
fn room(have: usize, more: usize) -> Option<usize> {
    (have + more <= ENTRIES_MAX).then_some(more)
}

/// The next of a column of numbers below `end`.
fn delta(cursor: &mut Cursor<'_>, before: &mut u64, end: usize) -> Option<u32> {
    *before = before.wrapping_add(cursor.signed()?.cast_unsigned());
    let value = u32::try_from(*before).ok()?;
    (place(value) < end).then_some(value)
}

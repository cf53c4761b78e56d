//! The head of the table: where it is, which Go wrote it, and where its five parts are.

use super::{
    super::{
        elf::{Elf, Machine, Span},
        file::{ReadAt, ReadError, Windows, u32_at, u64_at},
        identity,
    },
    GoError, NAME_BYTES_MAX,
};

/// Functions in one program. An etcd has 27,000, the largest programs some 400,000.
const FUNCTIONS_MAX: u32 = 1 << 20;
/// The names linkers give the table; the second in position-independent programs.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Of a search: heads that are none. Random bytes do not look like one in the life of a disk.
const CANDIDATES_MAX: usize = 64;
/// Read at once in a search; a multiple of the head's alignment.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// Which layout: three in a dozen versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// Go 1.16 and 1.17: addresses.
    Go116,
    /// Go 1.18 and 1.19: offsets from the beginning of the code.
    Go118,
    /// Go 1.20 and newer: where functions begin in their files, and shorter trees.
    Go120,
}

impl Era {
    fn of(magic: u32) -> Option<Era> {
        match magic {
            0xffff_fffa => Some(Era::Go116),
            0xffff_fff0 => Some(Era::Go118),
            0xffff_fff1 => Some(Era::Go120),
            _ => None,
        }
    }

    /// Do records say how far a tree is from where all trees begin, or its address?
    pub(super) fn trees_are_relative(self) -> bool {
        self != Era::Go116
    }

    /// Bytes of an entry of the index.
    pub(super) fn entry_bytes(self) -> usize {
        if self == Era::Go116 { 16 } else { 8 }
    }
}

/// One part of the table, in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Part {
    /// The offset in the file of `length` bytes of it.
    pub(super) fn piece(&self, at: u64, length: u64) -> Option<u64> {
        at.checked_add(length).filter(|end| *end <= self.length)?;
        Some(self.offset + at)
    }

    /// The offset in the file of one of equal entries.
    pub(super) fn slot(&self, at: u32, size: u64) -> Option<u64> {
        self.piece(u64::from(at) * size, size)
    }

    /// Does a text begin there? One ends before it, unless it is the first.
    pub(super) fn begins<R: ReadAt>(&self, file: &mut Windows<R>, at: u32) -> Result<bool, ReadError> {
        let Some(before) = u64::from(at).checked_sub(1) else { return Ok(self.length > 0) };
        match self.piece(before, 2) {
            Some(offset) => Ok(file.bytes(offset, 1)?.first() == Some(&0)),
            None => Ok(false),
        }
    }

    /// The text that begins there.
    pub(super) fn text<R: ReadAt>(&self, file: &mut Windows<R>, at: u32) -> Result<String, GoError> {
        const DAMAGED: GoError = GoError::Damaged("a list of names is");
        if !self.begins(file, at)? {
            return Err(DAMAGED);
        }
        let here = usize::try_from(self.length - u64::from(at)).unwrap_or(usize::MAX);
        let text = file.text(self.offset + u64::from(at), here.min(NAME_BYTES_MAX))?;
        text.map(|text| text.into_owned()).ok_or(DAMAGED)
    }
}

/// The head, checked on its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) era: Era,
    /// The whole table; its end is that of its section or segment.
    pub(super) span: Span,
    /// An instruction's size, in which tables count.
    pub(super) quantum: u32,
    pub(super) functions: u32,
    /// Where the code begins, in the words of Go 1.18 to 1.25; else, and before relocation, 0.
    pub(super) text: u64,
    /// Names of functions.
    pub(super) names: Part,
    /// By compilation unit: where the files' paths are.
    pub(super) units: Part,
    /// Paths of files.
    pub(super) paths: Part,
    /// What changes along a function: line, file, stack pointer.
    pub(super) values: Part,
    /// The index, then a record a function.
    pub(super) records: Part,
}

impl Header {
    fn read<R: ReadAt>(
        file: &mut Windows<R>,
        machine: Machine,
        span: Span,
    ) -> Result<Option<Header>, ReadError> {
        let size = usize::try_from(span.length.min(72)).unwrap_or(0);
        let raw = file.bytes(span.offset, size)?;
        let Some(era) = Era::of(u32_at(raw, 0)) else { return Ok(None) };
        let words = if era == Era::Go116 { 7 } else { 8 };
        let quantum = quantum(machine);
        if raw.len() < 8 + 8 * words || raw.get(4..8) != Some(&[0, 0, quantum, 8]) {
            return Ok(None);
        }
        let Some(functions) =
            u32::try_from(u64_at(raw, 8)).ok().filter(|count| (1..=FUNCTIONS_MAX).contains(count))
        else {
            return Ok(None);
        };
        let text = if era == Era::Go116 { 0 } else { u64_at(raw, 24) };
        let begins: [u64; 5] = std::array::from_fn(|part| u64_at(raw, 8 * (words - 4 + part)));
        let part = |from: u64, to: u64| {
            Some(Part { offset: span.offset.checked_add(from)?, length: to.checked_sub(from)? })
        };
        let [names, units, paths, values, records] = begins;
        let found = [
            part(names, units),
            part(units, paths),
            part(paths, values),
            part(values, records),
            part(records, span.length),
        ];
        let [Some(names), Some(units), Some(paths), Some(values), Some(records)] = found else {
            return Ok(None);
        };
        let quantum = u32::from(quantum);
        Ok(Some(Header { era, span, quantum, functions, text, names, units, paths, values, records }))
    }

    /// The address of a part, as the module's own list of them has it.
    pub(super) fn address_of(&self, part: Part) -> Option<u64> {
        self.span.address.checked_add(part.offset.checked_sub(self.span.offset)?)
    }
}

fn quantum(machine: Machine) -> u8 {
    match machine {
        Machine::X86_64 => 1,
        Machine::Arm64 => 4,
    }
}

/// The table, by name or else by its first bytes.
pub(super) fn find<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<Header, GoError> {
    for section in SECTIONS.iter().filter_map(|name| elf.section(name)) {
        match Header::read(file, elf.machine, section.span) {
            Ok(Some(header)) => return Ok(header),
            Ok(None) | Err(ReadError::Truncated) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !identity::looks_like_go(file, elf)? {
        return Err(GoError::NotGo);
    }
    // Data first: it is where the table is, and it is the smaller half.
    let code = elf.segments.iter().filter(|segment| segment.is_executable());
    let data = elf.segments.iter().filter(|segment| !segment.is_executable());
    let mut left = CANDIDATES_MAX;
    for segment in data.chain(code) {
        if let Some(header) = search(file, elf.machine, segment.span, &mut left)? {
            return Ok(header);
        }
    }
    Err(GoError::NotGo)
}

fn search<R: ReadAt>(
    file: &mut Windows<R>,
    machine: Machine,
    span: Span,
    left: &mut usize,
) -> Result<Option<Header>, ReadError> {
    let heads = [0xffff_fffa, 0xffff_fff0, 0xffff_fff1_u64]
        .map(|magic| magic | u64::from(quantum(machine)) << 48 | 8 << 56);
    let mut found = None;
    words(file, span, |file, at, word| {
        if !heads.contains(&word) || *left == 0 {
            return Ok(*left > 0);
        }
        *left -= 1;
        let into = at - span.offset;
        let rest = Span { offset: at, address: span.address + into, length: span.length - into };
        found = Header::read(file, machine, rest)?;
        Ok(found.is_none())
    })?;
    Ok(found)
}

/// Shows each aligned word of a stretch with its offset in the file, until `is_on` says no or the stretch ends.
pub(super) fn words<R: ReadAt>(
    file: &mut Windows<R>,
    span: Span,
    mut is_on: impl FnMut(&mut Windows<R>, u64, u64) -> Result<bool, ReadError>,
) -> Result<(), ReadError> {
    let end = span.offset.saturating_add(span.length).min(file.length());
    let mut offset = span.offset.saturating_add(span.address.wrapping_neg() % 8);
    let mut bytes =
        vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(CHUNK_BYTES)];
    while offset < end {
        let now = usize::try_from(end - offset).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        bytes.truncate(now);
        file.fill(offset, &mut bytes)?;
        for (word, into) in bytes.chunks_exact(8).zip((0..).step_by(8)) {
            if !is_on(file, offset + into, u64_at(word, 0))? {
                return Ok(());
            }
        }
        offset += u64::try_from(now).unwrap_or(u64::MAX);
    }
    Ok(())
}

//! What is needed of an executable or a library: segments, sections, notes, relative relocations.
//!
//! Owns the map between addresses and offsets of a 64-bit little-endian ELF file for x86-64 or arm64. The kernel needs no
//! sections, so a damaged section table is an empty one; what the kernel needs is an error when it is damaged.

mod relocations;

use super::file::{ReadAt, ReadError, Windows, u16_at, u32_at, u64_at};

pub(super) use relocations::relative;

/// All headers of a file with 8,192 sections are half a mebibyte; what is scattered over a file must not cost more.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Executables have about a dozen.
const SEGMENTS_MAX: usize = 256;
/// Executables have about forty; a few thousand when each function has its own.
const SECTIONS_MAX: usize = 8_192;
/// The longest section name that anybody looks for has half as many bytes; longer ones are cut.
const NAME_BYTES_MAX: usize = 64;
/// Of one note segment or section: build ids stand at the beginning of at most a few hundred bytes.
const NOTE_BYTES_MAX: u64 = 8 << 10;
/// Note segments and sections that are looked at.
const NOTE_AREAS_MAX: usize = 32;

const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: u16 = 56;
const SECTION_BYTES: u16 = 64;

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_NOTE: u32 = 4;
/// `PT_GNU_EH_FRAME`: where the index of the unwinding table is, without the names of sections.
const SEGMENT_EH_FRAME: u32 = 0x6474_e550;
const EXECUTABLE: u32 = 1;
const WRITABLE: u32 = 2;
const SECTION_NOTE: u32 = 7;
const SECTION_WITHOUT_BYTES: u32 = 8;
const SECTION_EXECUTABLE: u64 = 4;

/// Why a file is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// Something else than an ELF file.
    #[error("not an ELF file")]
    NotElf,
    /// An ELF file of a kind that is not read here.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A part that the kernel needs makes no sense.
    #[error("{0} damaged")]
    Damaged(&'static str),
}

/// What the code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// AMD and Intel, 64 bits.
    X86_64,
    /// ARM, 64 bits.
    Arm64,
}

/// A stretch of the file and where it is in memory, before the loader moves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// In the file.
    pub offset: u64,
    /// In memory.
    pub address: u64,
    /// Bytes in the file.
    pub length: u64,
}

impl Span {
    /// Where an address of it is in the file.
    #[must_use]
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let into = address.checked_sub(self.address).filter(|into| *into < self.length)?;
        self.offset.checked_add(into)
    }

    /// Where an offset of it is in memory.
    #[must_use]
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let into = offset.checked_sub(self.offset).filter(|into| *into < self.length)?;
        self.address.checked_add(into)
    }
}

/// A part of the file that the loader maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where.
    pub span: Span,
    flags: u32,
    /// Bytes in memory: more than in the file where zeros follow, and where the file has nothing but debug information.
    memory: u64,
}

impl Segment {
    /// Are these addresses of it, whether the file has bytes for them or not?
    #[must_use]
    pub fn holds(&self, address: u64, length: u64) -> bool {
        let into = address.checked_sub(self.span.address).and_then(|into| into.checked_add(length));
        into.is_some_and(|end| end <= self.memory)
    }

    /// Is it code?
    #[must_use]
    pub fn is_executable(&self) -> bool {
        self.flags & EXECUTABLE != 0
    }

    /// Is it data?
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.flags & WRITABLE != 0
    }
}

/// A named part of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Cut at 64 bytes.
    pub name: String,
    /// Where; the length is 0 when it has no bytes in the file.
    pub span: Span,
    pub(super) kind: u32,
    pub(super) flags: u64,
    /// Another section that belongs to it: names, for symbols.
    pub(super) link: u32,
    /// Bytes in memory, also when there are none in the file.
    pub(super) size: u64,
}

impl Section {
    /// Is it code?
    pub(super) fn is_executable(&self) -> bool {
        self.flags & SECTION_EXECUTABLE != 0
    }
}

/// The layout of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// What its code is for.
    pub machine: Machine,
    /// What is mapped, as it stands in the file.
    pub segments: Vec<Segment>,
    /// Empty when there are none, and when their table is damaged.
    pub sections: Vec<Section>,
    /// The address of the first instruction.
    pub entry: u64,
    notes: Vec<Span>,
    dynamic: Option<Span>,
    eh_frame_header: Option<Span>,
}

/// How a process has mapped a part of a file: a line of /proc/PID/maps or an mmap event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The first address.
    pub start: u64,
    /// The offset in the file of that address.
    pub offset: u64,
}

impl Elf {
    /// Reads the headers.
    ///
    /// # Errors
    /// See [`ElfError`].
    pub fn read<R: ReadAt>(file: &mut Windows<R>) -> Result<Elf, ElfError> {
        file.allow(READ_BYTES_MAX);
        let header = match file.bytes(0, HEADER_BYTES) {
            Ok(bytes) => bytes.to_vec(),
            Err(ReadError::Truncated) => return Err(ElfError::NotElf),
            Err(error) => return Err(error.into()),
        };
        let machine = machine(&header)?;
        let mut elf = Elf {
            machine,
            segments: Vec::new(),
            sections: Vec::new(),
            entry: u64_at(&header, 24),
            notes: Vec::new(),
            dynamic: None,
            eh_frame_header: None,
        };
        elf.read_segments(file, &header)?;
        match sections(file, &header) {
            Ok(sections) => elf.sections = sections,
            Err(error @ ElfError::Read(ReadError::Io(_) | ReadError::Budget)) => return Err(error),
            Err(_) => {}
        }
        let named = elf.sections.iter().filter(|section| section.kind == SECTION_NOTE);
        elf.notes.extend(named.map(|section| section.span));
        elf.notes.truncate(NOTE_AREAS_MAX);
        Ok(elf)
    }

    fn read_segments<R: ReadAt>(&mut self, file: &mut Windows<R>, header: &[u8]) -> Result<(), ElfError> {
        let (table, count) = (u64_at(header, 32), usize::from(u16_at(header, 56)));
        if u16_at(header, 54) != SEGMENT_BYTES || count > SEGMENTS_MAX {
            return Err(ElfError::Damaged("the segment table is"));
        }
        for at in 0..count {
            let raw = entry(file, table, at, SEGMENT_BYTES)?;
            let span = Span { offset: u64_at(raw, 8), address: u64_at(raw, 16), length: u64_at(raw, 32) };
            let is_sane =
                span.offset.checked_add(span.length).and(span.address.checked_add(span.length)).is_some();
            if !is_sane {
                return Err(ElfError::Damaged("a segment is"));
            }
            match u32_at(raw, 0) {
                SEGMENT_LOAD => {
                    self.segments.push(Segment { span, flags: u32_at(raw, 4), memory: u64_at(raw, 40) });
                }
                SEGMENT_DYNAMIC => self.dynamic = Some(span),
                SEGMENT_NOTE => self.notes.push(span),
                SEGMENT_EH_FRAME => self.eh_frame_header = Some(span),
                _ => {}
            }
        }
        Ok(())
    }

    /// From the first to behind the last address of code, if that is less than 4 GiB: distances then fit 32 bits.
    pub(super) fn code(&self) -> Option<std::ops::Range<u64>> {
        let (mut start, mut end) = (u64::MAX, 0);
        for segment in self.segments.iter().filter(|segment| segment.is_executable()) {
            start = start.min(segment.span.address);
            end = end.max(segment.span.address.saturating_add(segment.memory));
        }
        (start < end && end - start <= u64::from(u32::MAX)).then_some(start..end)
    }

    /// The section of this name, if it has bytes.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.span.length > 0)
    }

    /// The index of the unwinding table, as the loader knows it.
    #[must_use]
    pub fn eh_frame_header(&self) -> Option<Span> {
        self.eh_frame_header
    }

    /// Where an address is in the file.
    #[must_use]
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| segment.span.offset_of(address))
    }

    /// The address in this file's own terms of an instruction in a running process.
    ///
    /// Two segments may share a page of the file, and both are mapped with it: code is in the executable one.
    #[must_use]
    pub fn code_address(&self, mapped: Mapped, instruction: u64) -> Option<u64> {
        let offset = instruction.checked_sub(mapped.start)?.checked_add(mapped.offset)?;
        let code = self.segments.iter().filter(|segment| segment.is_executable());
        code.into_iter().find_map(|segment| segment.span.address_of(offset))
    }

    /// The bytes of the first note with this owner and kind.
    pub(super) fn note<R: ReadAt>(
        &self,
        file: &mut Windows<R>,
        owner: &[u8],
        kind: u32,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        for area in &self.notes {
            let length = usize::try_from(area.length.min(NOTE_BYTES_MAX)).unwrap_or(0);
            match file.bytes(area.offset, length) {
                Ok(bytes) => {
                    if let Some(found) = note_in(bytes, owner, kind) {
                        return Ok(Some(found.to_vec()));
                    }
                }
                Err(ReadError::Truncated) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn machine(header: &[u8]) -> Result<Machine, ElfError> {
    if !header.starts_with(b"\x7fELF") {
        return Err(ElfError::NotElf);
    }
    if header.get(4..6) != Some(&[2, 1]) {
        return Err(ElfError::Unsupported("a 32-bit or big-endian file"));
    }
    match (u16_at(header, 16), u16_at(header, 18)) {
        (2 | 3, 62) => Ok(Machine::X86_64),
        (2 | 3, 183) => Ok(Machine::Arm64),
        (2 | 3, _) => Err(ElfError::Unsupported("the processor")),
        _ => Err(ElfError::Unsupported("what is neither program nor library")),
    }
}

fn entry<R: ReadAt>(file: &mut Windows<R>, table: u64, at: usize, size: u16) -> Result<&[u8], ReadError> {
    let into = u64::try_from(at).ok().and_then(|at| at.checked_mul(u64::from(size)));
    let offset = into.and_then(|into| table.checked_add(into)).ok_or(ReadError::Truncated)?;
    file.bytes(offset, usize::from(size))
}

fn sections<R: ReadAt>(file: &mut Windows<R>, header: &[u8]) -> Result<Vec<Section>, ElfError> {
    let (table, count) = (u64_at(header, 40), usize::from(u16_at(header, 60)));
    let names_at = usize::from(u16_at(header, 62));
    if u16_at(header, 58) != SECTION_BYTES || count > SECTIONS_MAX || names_at >= count {
        return Err(ElfError::Damaged("the section table is"));
    }
    let names = span_of(entry(file, table, names_at, SECTION_BYTES)?);
    let mut sections = Vec::new();
    for at in 0..count {
        let raw = entry(file, table, at, SECTION_BYTES)?;
        let (name_at, mut section) = (u64::from(u32_at(raw, 0)), section_of(raw));
        if section.kind == SECTION_WITHOUT_BYTES {
            // Where its bytes would be: behind the file's end, where Go's linker puts one.
            (section.span.offset, section.span.length) = (0, 0);
        }
        let span = section.span;
        if span.offset.checked_add(span.length).is_none_or(|end| end > file.length())
            || name_at >= names.length
        {
            return Err(ElfError::Damaged("a section is"));
        }
        let offset = names.offset.checked_add(name_at).ok_or(ElfError::Damaged("a name is"))?;
        section.name = file.text(offset, NAME_BYTES_MAX)?.map(|name| name.into_owned()).unwrap_or_default();
        sections.push(section);
    }
    Ok(sections)
}

/// All of a section but its name.
fn section_of(raw: &[u8]) -> Section {
    let span = span_of(raw);
    let (kind, flags, link) = (u32_at(raw, 4), u64_at(raw, 8), u32_at(raw, 40));
    Section { name: String::new(), span, kind, flags, link, size: span.length }
}

fn span_of(section: &[u8]) -> Span {
    Span { offset: u64_at(section, 24), address: u64_at(section, 16), length: u64_at(section, 32) }
}

/// Notes are {length of owner, length of content, kind, owner, content}, both padded to four bytes.
fn note_in<'a>(mut bytes: &'a [u8], owner: &[u8], kind: u32) -> Option<&'a [u8]> {
    while bytes.len() >= 12 {
        let size = |at| usize::try_from(u32_at(bytes, at)).ok();
        let (owner_size, content_size) = (size(0)?, size(4)?);
        let content_at = owner_size.checked_next_multiple_of(4)?.checked_add(12)?;
        let end = content_at.checked_add(content_size)?;
        let content = bytes.get(content_at..end)?;
        if u32_at(bytes, 8) == kind && bytes.get(12..12 + owner_size)? == owner {
            return Some(content);
        }
        bytes = bytes.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two segments that share a page of the file, as linkers like to lay them out, and a note.
    fn made() -> Vec<u8> {
        let mut bytes = vec![0; 0x3000];
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, 0x0001_0102_464c_457f);
        put(16, 3 | 62 << 16 | 1 << 32);
        put(32, 64);
        put(52, 64 | 56 << 16 | 3 << 32 | 64 << 48);
        let segments = [(1, 4, 0, 0, 0x1100), (1, 5, 0x1100, 0x2100, 0x1000), (4, 4, 0x200, 0x200, 40)];
        for (segment, (kind, flags, offset, address, length)) in segments.into_iter().enumerate() {
            let at = 64 + segment * 56;
            put(at, kind | flags << 32);
            put(at + 8, offset);
            put(at + 16, address);
            put(at + 32, length);
        }
        put(0x200, 4 | 4 << 32);
        put(0x208, 1 | u64::from(u32::from_le_bytes(*b"GNU\0")) << 32);
        put(0x214, 4 | 4 << 32);
        put(0x21c, 3 | u64::from(u32::from_le_bytes(*b"GNU\0")) << 32);
        put(0x224, 0x0403_0201);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Elf, ElfError> {
        Elf::read(&mut Windows::new(bytes)?)
    }

    #[test]
    fn an_instruction_is_in_the_executable_one_of_two_segments() {
        let elf = read(&made()).unwrap();
        let mapped = Mapped { start: 0x7f00_0000_1000, offset: 0x1000 };
        assert_eq!(elf.code_address(mapped, 0x7f00_0000_1180), Some(0x2180));
        assert_eq!(elf.code_address(mapped, 0x7f00_0000_1080), None);
        assert_eq!(elf.code_address(mapped, 0x1000), None);
        assert_eq!(elf.offset_of(0x2180), Some(0x1180));
        assert_eq!(elf.offset_of(0x3100), None);
    }

    #[test]
    fn a_note_is_found_behind_others() {
        let bytes = made();
        let mut file = Windows::new(&bytes[..]).unwrap();
        let elf = Elf::read(&mut file).unwrap();
        assert_eq!(elf.note(&mut file, b"GNU\0", 3).unwrap(), Some(vec![1, 2, 3, 4]));
        assert_eq!(elf.note(&mut file, b"Go\0\0", 4).unwrap(), None);
    }

    #[test]
    fn what_is_not_for_us_is_told_apart() {
        assert_eq!(read(b"#!/bin/sh"), Err(ElfError::NotElf));
        let with = |at: usize, value: u8| {
            let mut bytes = made();
            bytes[at] = value;
            read(&bytes)
        };
        assert_eq!(with(4, 1), Err(ElfError::Unsupported("a 32-bit or big-endian file")));
        assert_eq!(with(18, 8), Err(ElfError::Unsupported("the processor")));
        assert_eq!(with(16, 1), Err(ElfError::Unsupported("what is neither program nor library")));
        assert_eq!(with(57, 2), Err(ElfError::Damaged("the segment table is")));
        // The last byte of the first segment's length.
        assert_eq!(with(64 + 39, 0xff).map(|elf| elf.segments.len()), Ok(2));
        assert_eq!(with(64 + 56 + 39, 0xff).map(|elf| elf.segments.len()), Ok(2));
    }

    #[test]
    fn a_damaged_section_table_is_an_empty_one() {
        let mut bytes = made();
        bytes[40] = 0x40;
        bytes[58..64].copy_from_slice(&[64, 0, 3, 0, 1, 0]);
        assert_eq!(read(&bytes).unwrap().sections, []);
        bytes[41] = 0xff;
        bytes[47] = 0xff;
        assert_eq!(read(&bytes).unwrap().sections, []);
    }

    #[test]
    fn a_section_without_bytes_may_lie_behind_the_end() {
        let mut bytes = made();
        let (table, names) = (0x2000, 0x2800);
        bytes[40..48].copy_from_slice(&u64::try_from(table).unwrap().to_le_bytes());
        bytes[58..64].copy_from_slice(&[64, 0, 3, 0, 1, 0]);
        bytes[names..names + 12].copy_from_slice(b"\0names\0.bss\0");
        let end = u64::try_from(bytes.len()).unwrap();
        let sections: [(u64, u64, u64, u64); 2] =
            [(1, 3, u64::try_from(names).unwrap(), 12), (7, 8, end + 0x1000, 0x10_0000)];
        for ((name, kind, offset, length), at) in sections.into_iter().zip([1, 2]) {
            let at = table + at * 64;
            bytes[at..at + 8].copy_from_slice(&(name | kind << 32).to_le_bytes());
            bytes[at + 24..at + 32].copy_from_slice(&offset.to_le_bytes());
            bytes[at + 32..at + 40].copy_from_slice(&length.to_le_bytes());
        }
        let elf = read(&bytes).unwrap();
        let named: Vec<&str> = elf.sections.iter().map(|section| &*section.name).collect();
        assert_eq!(named, ["", "names", ".bss"]);
        assert!(elf.section("names").is_some() && elf.section(".bss").is_none());
    }

    #[test]
    fn a_table_scattered_over_a_file_is_not_followed_for_ever() {
        let mut bytes = made();
        bytes.resize(64 << 20, 0);
        // 8,192 sections, whose names are each in another window.
        let table = bytes.len() - 8_192 * 64;
        bytes[40..48].copy_from_slice(&u64::try_from(table).unwrap().to_le_bytes());
        bytes[58..64].copy_from_slice(&[64, 0, 0, 0x20, 0, 0]);
        bytes[table + 32..table + 40].copy_from_slice(&(32_u64 << 20).to_le_bytes());
        for section in 1..8_192_u32 {
            let at = table + usize::try_from(section).unwrap() * 64;
            bytes[at..at + 4].copy_from_slice(&(section % 512 * 60_000).to_le_bytes());
        }
        assert_eq!(read(&bytes), Err(ElfError::Read(ReadError::Budget)));
    }
}

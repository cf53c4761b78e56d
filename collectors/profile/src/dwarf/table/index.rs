//! From an address to the entry that may cover it.

use gimli::constants::{DW_EH_PE_absptr, DW_EH_PE_pcrel, DW_EH_PE_sdata4, DwEhPe};
use gimli::{BaseAddresses, EhFrame, EndianSlice, LittleEndian, UnwindSection};

use super::entry::{Entry, Section};
use crate::symbols::elf::{Elf, Span};
use crate::symbols::file::{ReadAt, ReadError, Windows, u32_at, u64_at};

/// Of a section without an index; one pass over it when the file is opened. Static programs have a few hundred KiB.
const SCAN_BYTES_MAX: u64 = 8 << 20;
/// Entries of an index that is made here: 1 MiB of them. What comes after has no rules.
const MADE_MAX: usize = 65_536;
/// Different shared entries remembered during a pass. Compilers write one or two for each language.
const SHARED_MAX: usize = 16;
/// Of a shared entry, as far as its encodings are concerned.
const SHARED_BYTES: usize = 256;
/// The header of `.eh_frame_hdr`: version, three encodings, pointer, count.
const HEADER_BYTES: u64 = 12;
/// In the only form that linkers write: version 1; a relative pointer of four bytes; a count of four; pairs of four bytes
/// each, relative to the header.
const HEADER: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
/// Lengths from here on say that a longer one follows. No entry is so long.
const EXTENDED: u32 = 0xffff_fff0;

/// One entry of an index made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Made {
    start: u64,
    offset: u64,
}

/// How entries are found.
#[derive(Debug)]
pub(super) enum Index {
    /// By what the linker has sorted: pairs at an offset of the file, relative to an address.
    Sorted { pairs: u64, count: u64, base: u64 },
    /// By what was sorted here.
    Made { made: Vec<Made>, section: Section },
    /// There are none.
    None,
}

impl Index {
    /// Those of a file, in the order in which they are asked: what is for debuggers knows functions that the other leaves
    /// out, where a compiler was told to write no table for exceptions.
    pub(super) fn find<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<[Index; 2], ReadError> {
        let named = |name| elf.section(name).map(|section| section.span);
        file.allow(3 * SCAN_BYTES_MAX);
        let header = elf.eh_frame_header().or_else(|| named(".eh_frame_hdr"));
        let loaded = match header.map(|header| sorted(file, header)).transpose()?.flatten() {
            Some(sorted) => sorted,
            None => made(file, named(".eh_frame").map(Section::Eh))?,
        };
        // Go writes .debug_frame too, and keeps frame pointers: those reach further than a copy of the stack.
        let is_go = named(".gopclntab").is_some() || named(".go.buildinfo").is_some();
        let debug = named(".debug_frame").filter(|_| !is_go).map(Section::Debug);
        Ok([loaded, made(file, debug)?])
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Index::Made { made, .. } => made.capacity() * size_of::<Made>(),
            Index::Sorted { .. } | Index::None => 0,
        }
    }

    /// The first address of an entry.
    pub(super) fn start<R: ReadAt>(&self, file: &mut Windows<R>, at: u64) -> Option<u64> {
        match self {
            Index::Sorted { pairs, count, base } => {
                (at < *count).then(|| pair(file, (*pairs, *base), at))?.map(|(start, _)| start)
            }
            Index::Made { made, .. } => made.get(usize::try_from(at).ok()?).map(|made| made.start),
            Index::None => None,
        }
    }

    /// The entry that begins last at or before an address. Whether it covers that is for the entry to say.
    pub(super) fn entry<R: ReadAt>(&self, file: &mut Windows<R>, elf: &Elf, address: u64) -> Option<Entry> {
        match self {
            Index::Sorted { pairs, count, base } => {
                let (mut low, mut high) = (0, *count);
                while low < high {
                    let middle = low + (high - low) / 2;
                    let (start, _) = pair(file, (*pairs, *base), middle)?;
                    if start <= address {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                let (_, address) = pair(file, (*pairs, *base), low.checked_sub(1)?)?;
                let section = Section::Eh(Span::default());
                Some(Entry { section, offset: elf.offset_of(address)?, address })
            }
            Index::Made { made, section } => {
                let after = made.partition_point(|made| made.start <= address);
                let offset = made.get(after.checked_sub(1)?)?.offset;
                let address = section.address_of(offset)?;
                Some(Entry { section: *section, offset, address })
            }
            Index::None => None,
        }
    }
}

/// Where an entry's code begins, and where the entry is, both as addresses.
fn pair<R: ReadAt>(file: &mut Windows<R>, (pairs, base): (u64, u64), at: u64) -> Option<(u64, u64)> {
    let bytes = file.bytes(pairs.checked_add(at.checked_mul(8)?)?, 8).ok()?;
    let relative = |at| base.wrapping_add_signed(i64::from(u32_at(bytes, at).cast_signed()));
    Some((relative(0), relative(4)))
}

fn sorted<R: ReadAt>(file: &mut Windows<R>, header: Span) -> Result<Option<Index>, ReadError> {
    let bytes = match file.bytes(header.offset, 12) {
        Ok(bytes) => bytes,
        Err(ReadError::Truncated) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !bytes.starts_with(&HEADER) {
        return Ok(None);
    }
    let count = u64::from(u32_at(bytes, 8)).min(header.length.saturating_sub(HEADER_BYTES) / 8);
    let pairs = header.offset.saturating_add(HEADER_BYTES);
    Ok((count > 0).then_some(Index::Sorted { pairs, count, base: header.address }))
}

/// An index of a section that has none.
fn made<R: ReadAt>(file: &mut Windows<R>, section: Option<Section>) -> Result<Index, ReadError> {
    let Some(section) = section else { return Ok(Index::None) };
    let mut made = scan(file, section)?;
    if made.is_empty() {
        return Ok(Index::None);
    }
    made.sort_unstable();
    made.shrink_to_fit();
    Ok(Index::Made { made, section })
}

/// One pass over a section.
fn scan<R: ReadAt>(file: &mut Windows<R>, section: Section) -> Result<Vec<Made>, ReadError> {
    let span = section.span();
    let end = span.offset.saturating_add(span.length.min(SCAN_BYTES_MAX));
    let (mut made, mut shared) = (Vec::new(), Vec::new());
    let mut at = span.offset;
    while at < end && made.len() < MADE_MAX {
        let mut head = [0; 24];
        match file.bytes(at, head.len()) {
            Ok(bytes) => head.copy_from_slice(bytes),
            // The last entry, or the zero that ends the section.
            Err(ReadError::Truncated) => break,
            Err(error) => return Err(error),
        }
        let length = u32_at(&head, 0);
        if length >= EXTENDED || (length == 0 && matches!(section, Section::Eh(_))) {
            break;
        }
        if let Some(shared_at) = section.shared(at, u32_at(&head, 4))
            && let Some(encoding) = encoding(file, section, shared_at, &mut shared)
            && let Some(start) = start(&head, section.address_of(at), encoding)
        {
            made.push(Made { start, offset: at });
        }
        at = at.saturating_add(4).saturating_add(u64::from(length));
    }
    Ok(made)
}

/// How the entries that share this one write addresses; `None` when it makes no sense.
fn encoding<R: ReadAt>(
    file: &mut Windows<R>,
    section: Section,
    at: u64,
    known: &mut Vec<(u64, Option<DwEhPe>)>,
) -> Option<DwEhPe> {
    if let Section::Debug(_) = section {
        return Some(DW_EH_PE_absptr);
    }
    if let Some((_, encoding)) = known.iter().find(|(known, _)| *known == at) {
        return *encoding;
    }
    let encoding = shared_encoding(file, at);
    if known.len() >= SHARED_MAX {
        known.remove(0);
    }
    known.push((at, encoding));
    encoding
}

fn shared_encoding<R: ReadAt>(file: &mut Windows<R>, at: u64) -> Option<DwEhPe> {
    let rest = usize::try_from(file.length().checked_sub(at)?).ok()?.min(SHARED_BYTES);
    let frame = EhFrame::from(EndianSlice::new(file.bytes(at, rest).ok()?, LittleEndian));
    let bases = BaseAddresses::default().set_eh_frame(0).set_text(0).set_got(0);
    let shared = frame.cie_from_offset(&bases, 0.into()).ok()?;
    Some(shared.fde_address_encoding().unwrap_or(DW_EH_PE_absptr))
}

/// The first address of an entry, in the two encodings that compilers write.
fn start(head: &[u8], address: Option<u64>, encoding: DwEhPe) -> Option<u64> {
    if encoding == DW_EH_PE_absptr {
        return Some(u64_at(head, 8));
    }
    let is_relative = encoding.0 == DW_EH_PE_pcrel.0 | DW_EH_PE_sdata4.0;
    let from = address.filter(|_| is_relative)?.wrapping_add(8);
    Some(from.wrapping_add_signed(i64::from(u32_at(head, 8).cast_signed())))
}

//! The symbol table: which function an address is in, by the sizes that the linker wrote.
//!
//! Owns a compact index of `.symtab` or `.dynsym`: 12 bytes a symbol, names stay in the file. Refuses to guess: a symbol
//! covers its size and nothing behind it. One without a size covers its own address, and, if it is a function of
//! `.symtab`, as assembly has them, what is behind it up to the next symbol or the end of its section.

use super::super::{
    elf::{Elf, Section},
    file::{ReadAt, ReadError, Windows, u16_at, u32_at, u64_at},
};
use super::{Refusal, Symbol, demangle};

/// The table of a large browser has 1.5 million; 24 bytes each are read once.
const SYMBOLS_MAX: u64 = 4 << 20;
/// Functions that are kept, 24 MiB of them. More are refused, not cut: a table with holes would name wrongly.
const FUNCTIONS_MAX: usize = 2 << 20;
const SYMBOL_BYTES: u64 = 24;
/// Symbols read at once, 96 KiB.
const SYMBOLS_AT_ONCE: u64 = 4 << 10;
/// How many symbols that begin before an address are looked at: functions within functions, which only assembly has.
const LOOKED_AT_MAX: usize = 64;

const SECTION_SYMBOLS: u32 = 2;
const SECTION_DYNAMIC_SYMBOLS: u32 = 11;

const KIND_NONE: u8 = 0;
const KIND_FUNCTION: u8 = 2;
const KIND_CHOSEN_AT_START: u8 = 10;

const LOCAL: u8 = 0;
const WEAK: u8 = 2;

/// In [`Entry::size`]: the linker wrote no size, the rest is how far it is taken to reach.
const SIZELESS: u32 = 1 << 31;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// From the first address of code.
    start: u32,
    size: u32,
    /// Among the names.
    name: u32,
}

/// One with what is needed to put it in its place.
#[derive(Clone, Copy, Debug)]
struct Raw {
    entry: Entry,
    section: u16,
    /// The least is the best of several at one address.
    rank: u8,
    may_reach_on: bool,
}

/// The functions of one table.
#[derive(Debug)]
pub(super) struct Table {
    entries: Vec<Entry>,
    base: u64,
    /// Where the names are in the file.
    names: u64,
    names_length: u64,
}

impl Table {
    /// Reads `.symtab`, or `.dynsym` where there is none; `None` where there is neither.
    pub(super) fn load<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<Option<Table>, Refusal> {
        let of_kind =
            |kind| elf.sections.iter().find(|section| section.kind == kind && section.span.length > 0);
        let Some(section) = of_kind(SECTION_SYMBOLS).or_else(|| of_kind(SECTION_DYNAMIC_SYMBOLS)) else {
            return Ok(None);
        };
        let names = usize::try_from(section.link).ok().and_then(|link| elf.sections.get(link));
        let names = names.ok_or(Refusal::Damaged)?.span;
        let count = section.span.length / SYMBOL_BYTES;
        if count > SYMBOLS_MAX {
            return Err(Refusal::TooManySymbols);
        }
        let code = elf.code().ok_or(Refusal::Damaged)?;
        file.allow(count * SYMBOL_BYTES);
        let mut raw = read(file, elf, section, code.start)?;
        raw.sort_unstable_by_key(|raw| (raw.entry.start, raw.rank, raw.entry.name));
        raw.dedup_by_key(|raw| raw.entry.start);
        let entries = reaching(&raw, elf, code.start);
        Ok(Some(Table { entries, base: code.start, names: names.offset, names_length: names.length }))
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The function that covers an address: of several within one another, the innermost with a size.
    pub(super) fn find<R: ReadAt>(
        &self,
        file: &mut Windows<R>,
        address: u64,
    ) -> Result<Option<Symbol>, ReadError> {
        let Some(entry) = self.entry(address) else { return Ok(None) };
        let offset = self.names.checked_add(u64::from(entry.name));
        let rest = self.names_length.checked_sub(u64::from(entry.name));
        let (offset, rest) = offset.zip(rest).ok_or(ReadError::Truncated)?;
        let most = usize::try_from(rest).unwrap_or(usize::MAX).min(demangle::MANGLED_BYTES_MAX + 1);
        // Marks of the assembler for where code begins, and where data in code, begin with a dollar.
        let name = file.text(offset, most)?.filter(|name| !name.is_empty() && !name.starts_with('$'));
        Ok(name.map(|name| Symbol {
            name: demangle::demangle(&name),
            start: self.base + u64::from(entry.start),
            size: entry.size & !SIZELESS,
        }))
    }

    fn entry(&self, address: u64) -> Option<Entry> {
        let at = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let before = self.entries.get(..self.entries.partition_point(|entry| entry.start <= at))?;
        let covers = |entry: &&Entry| at - entry.start < entry.size & !SIZELESS;
        let mut sized = before.iter().rev().take(LOOKED_AT_MAX).filter(|entry| entry.size & SIZELESS == 0);
        sized.find(covers).or_else(|| before.last().filter(covers)).copied()
    }
}

fn read<R: ReadAt>(
    file: &mut Windows<R>,
    elf: &Elf,
    section: &Section,
    base: u64,
) -> Result<Vec<Raw>, Refusal> {
    let (mut raw, mut bytes) = (Vec::new(), Vec::new());
    let (mut offset, mut left) = (section.span.offset, section.span.length / SYMBOL_BYTES);
    let is_whole = section.kind == SECTION_SYMBOLS;
    while left > 0 {
        let now = left.min(SYMBOLS_AT_ONCE);
        bytes.resize(usize::try_from(now * SYMBOL_BYTES).unwrap_or(0), 0);
        file.fill(offset, &mut bytes)?;
        for symbol in bytes.chunks_exact(usize::try_from(SYMBOL_BYTES).unwrap_or(1)) {
            raw.extend(function(elf, symbol, base, is_whole));
            if raw.len() > FUNCTIONS_MAX {
                return Err(Refusal::TooManySymbols);
            }
        }
        offset += now * SYMBOL_BYTES;
        left -= now;
    }
    Ok(raw)
}

/// {name, kind and binding, visibility, section, value, size}: kept if it is code, or a mark in code.
fn function(elf: &Elf, symbol: &[u8], base: u64, is_whole: bool) -> Option<Raw> {
    let [info] = symbol.get(4..)?.first_chunk().copied()?;
    let (kind, binding, index) = (info & 15, info >> 4, u16_at(symbol, 6));
    let (name, value, size) = (u32_at(symbol, 0), u64_at(symbol, 8), u64_at(symbol, 16));
    let section = elf.sections.get(usize::from(index)).filter(|section| section.is_executable())?;
    let is_function = kind == KIND_FUNCTION || kind == KIND_CHOSEN_AT_START;
    if !is_function && kind != KIND_NONE || value < section.span.address || name == 0 {
        return None;
    }
    // Beyond the section's end nothing is the section's: a symbol that says where it ends, or a wrong size.
    let room = section.size.checked_sub(value - section.span.address).filter(|room| *room > 0)?;
    let start = u32::try_from(value.checked_sub(base)?).ok()?;
    let size = u32::try_from(size.min(room)).ok().filter(|size| size & SIZELESS == 0)?;
    let rank = u8::from(size == 0) * 8
        + u8::from(!is_function) * 4
        + match binding {
            LOCAL => 2,
            WEAK => 1,
            _ => 0,
        };
    let may_reach_on = is_whole && kind == KIND_FUNCTION;
    Some(Raw { entry: Entry { start, size, name }, section: index, rank, may_reach_on })
}

/// Gives those without a size what they are taken to cover.
fn reaching(raw: &[Raw], elf: &Elf, base: u64) -> Vec<Entry> {
    let ends = raw.iter().skip(1).map(|next| next.entry.start).chain([u32::MAX]);
    let reach = |(raw, next): (&Raw, u32)| {
        let mut entry = raw.entry;
        if entry.size > 0 {
            return entry;
        }
        let section = elf.sections.get(usize::from(raw.section));
        let end =
            section.and_then(|section| section.span.address.checked_add(section.size)?.checked_sub(base));
        let end = end.and_then(|end| u32::try_from(end).ok()).unwrap_or(0).min(next);
        let reach = if raw.may_reach_on { end.saturating_sub(entry.start) } else { 1 };
        entry.size = SIZELESS | reach.clamp(1, SIZELESS - 1);
        entry
    };
    raw.iter().zip(ends).map(reach).collect()
}

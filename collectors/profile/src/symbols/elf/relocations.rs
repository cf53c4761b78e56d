//! Relative relocations: where the loader of a position-independent file puts addresses.
//!
//! Owns one pass over the RELA table. The packed form (RELR) needs no reader: there the file holds the address itself.

use super::super::file::{ReadAt, Windows, u32_at, u64_at};
use super::{Elf, ElfError, Machine};

/// A large position-independent Go program has about 400,000 of 24 bytes.
const TABLE_BYTES_MAX: u64 = 64 << 20;
/// Entries of the dynamic section that are looked at; there are about thirty.
const DYNAMIC_ENTRIES_MAX: usize = 256;
const ENTRY_BYTES: usize = 24;
/// Entries read at once, some 60 KiB.
const ENTRIES_AT_ONCE: usize = 2_560;

const TAG_END: u64 = 0;
const TAG_TABLE: u64 = 7;
const TAG_SIZE: u64 = 8;

/// Calls `found` with place and address of each relative relocation, in the order of the file.
pub(in super::super) fn relative<R: ReadAt>(
    file: &mut Windows<R>,
    elf: &Elf,
    mut found: impl FnMut(u64, u64),
) -> Result<(), ElfError> {
    let Some((mut offset, size)) = table(file, elf)? else { return Ok(()) };
    if size > TABLE_BYTES_MAX {
        return Err(ElfError::Damaged("the relocation table is"));
    }
    let wanted = match elf.machine {
        Machine::X86_64 => 8,
        Machine::Arm64 => 1_027,
    };
    let mut left = usize::try_from(size).unwrap_or(0) / ENTRY_BYTES;
    let mut bytes = vec![0; left.min(ENTRIES_AT_ONCE) * ENTRY_BYTES];
    while left > 0 {
        let now = left.min(ENTRIES_AT_ONCE);
        bytes.truncate(now * ENTRY_BYTES);
        file.fill(offset, &mut bytes)?;
        for entry in bytes.chunks_exact(ENTRY_BYTES) {
            if u32_at(entry, 8) == wanted {
                found(u64_at(entry, 0), u64_at(entry, 16));
            }
        }
        offset += u64::try_from(bytes.len()).unwrap_or(0);
        left -= now;
    }
    Ok(())
}

/// Offset and size of the table, as the dynamic section says: it is there without sections, too.
fn table<R: ReadAt>(file: &mut Windows<R>, elf: &Elf) -> Result<Option<(u64, u64)>, ElfError> {
    let Some(dynamic) = elf.dynamic else { return Ok(None) };
    let length = usize::try_from(dynamic.length).unwrap_or(usize::MAX).min(DYNAMIC_ENTRIES_MAX * 16);
    let (mut address, mut size) = (None, None);
    for entry in file.bytes(dynamic.offset, length)?.chunks_exact(16) {
        match (u64_at(entry, 0), u64_at(entry, 8)) {
            (TAG_END, _) => break,
            (TAG_TABLE, value) => address = Some(value),
            (TAG_SIZE, value) => size = Some(value),
            _ => {}
        }
    }
    Ok(address.and_then(|address| elf.offset_of(address)).zip(size))
}

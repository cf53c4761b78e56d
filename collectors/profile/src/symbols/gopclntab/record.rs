//! What is kept of one function, and of one call that was inlined into it.

use super::{
    GoError,
    header::{Era, Header},
    index::{Index, Place},
};
use crate::symbols::{
    elf::Elf,
    file::{ReadAt, ReadError, Windows, u32_at, u64_at},
};

/// Tables of values a function has: five in Go 1.27.
const VALUE_TABLES_MAX: u32 = 64;
/// Pieces of data a function has: eight in Go 1.27.
const DATA_MAX: u8 = 64;
/// Which table of values numbers the inlined calls.
const INLINED_CALLS: u32 = 2;
/// Which piece of data is the tree of inlined calls.
const INLINED_TREE: u8 = 3;

const FLAG_TOP: u8 = 1;
const FLAG_SWITCHES_STACK: u8 = 2;
const FLAG_ASSEMBLY: u8 = 4;

const DAMAGED: GoError = GoError::Damaged("the record of a function is");

/// One function. Tables are offsets among the values, 0 for none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// From the beginning of the code.
    pub(super) start: u32,
    /// Up to the next function.
    pub(super) size: u32,
    /// Among the names.
    pub(super) name: u32,
    pub(super) stack_pointers: u32,
    pub(super) files: u32,
    pub(super) lines: u32,
    pub(super) inlined: u32,
    /// Where its compilation unit's files begin, if there are any.
    pub(super) unit: Option<u32>,
    pub(super) start_line: Option<u32>,
    pub(super) id: u8,
    flags: u8,
    /// Where in the file the word about its tree is.
    tree: Option<u64>,
}

impl Record {
    pub(super) fn read<R: ReadAt>(
        file: &mut Windows<R>,
        header: &Header,
        place: Place,
    ) -> Result<Record, GoError> {
        let at_entry = if header.era == Era::Go116 { 8 } else { 4 };
        let at_id = at_entry + if header.era == Era::Go120 { 36 } else { 32 };
        let offset = header.records.piece(place.record, at_id + 4).ok_or(DAMAGED)?;
        let raw = file.bytes(offset, usize::try_from(at_id + 4).unwrap_or(0))?;
        let (at_entry, id_at) = (usize::try_from(at_entry).unwrap_or(0), usize::try_from(at_id).unwrap_or(0));
        let field = |at: usize| u32_at(raw, at_entry + at * 4);
        let [id, flags, _, data] =
            raw.get(id_at..).and_then(|rest| rest.first_chunk()).copied().ok_or(DAMAGED)?;
        let tables = field(6);
        let is_its_own = header.era == Era::Go116 || u32_at(raw, 0) == place.start;
        if !is_its_own || tables > VALUE_TABLES_MAX || data > DATA_MAX {
            return Err(DAMAGED);
        }
        let mut record = Record {
            start: place.start,
            size: place.size,
            name: field(0),
            stack_pointers: field(3),
            files: field(4),
            lines: field(5),
            inlined: 0,
            unit: Some(field(7)).filter(|unit| *unit != u32::MAX),
            start_line: (header.era == Era::Go120)
                .then(|| field(8))
                .filter(|line| *line > 0 && *line < 1 << 31),
            id,
            flags,
            tree: None,
        };
        let tables_at = place.record + at_id + 4;
        if tables > INLINED_CALLS {
            let at = header.records.piece(tables_at + u64::from(INLINED_CALLS) * 4, 4).ok_or(DAMAGED)?;
            record.inlined = file.u32(at)?;
        }
        if data > INLINED_TREE {
            record.tree = Some(tree_place(header, tables_at + u64::from(tables) * 4).ok_or(DAMAGED)?);
        }
        Ok(record)
    }

    /// Has the runtime no name for its role?
    pub(super) fn is_plain(&self) -> bool {
        self.id == 0
    }

    pub(super) fn is_top(&self) -> bool {
        self.flags & FLAG_TOP != 0
    }

    pub(super) fn switches_stack(&self) -> bool {
        self.flags & FLAG_SWITCHES_STACK != 0
    }

    pub(super) fn is_assembly(&self) -> bool {
        self.flags & FLAG_ASSEMBLY != 0
    }

    /// Where in the file the word about its tree is.
    pub(super) fn tree_word(&self) -> Option<u64> {
        self.tree
    }

    /// The tree's address, or how far it is from where trees begin; see [`Era::trees_are_relative`].
    pub(super) fn tree<R: ReadAt>(
        &self,
        file: &mut Windows<R>,
        header: &Header,
        index: &Index,
    ) -> Result<Option<u64>, ReadError> {
        let Some(at) = self.tree else { return Ok(None) };
        if header.era.trees_are_relative() {
            return Ok(Some(file.u32(at)?).filter(|tree| *tree != u32::MAX).map(u64::from));
        }
        let written = file.u64(at)?;
        Ok(if written == 0 { index.relocated_tree(header, at) } else { Some(written) })
    }
}

/// Data follows the tables; addresses, as Go 1.16 has them, at multiples of their size.
fn tree_place(header: &Header, data_at: u64) -> Option<u64> {
    let tree = u64::from(INLINED_TREE);
    if header.era.trees_are_relative() {
        return header.records.piece(data_at + tree * 4, 4);
    }
    let address = header.address_of(header.records)?.checked_add(data_at)?;
    header.records.piece(data_at + address.wrapping_neg() % 8 + tree * 8, 8)
}

/// A call that has no code of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct InlinedCall {
    pub(super) id: u8,
    /// Among the names.
    pub(super) name: u32,
    /// An instruction of whoever it is inlined into, at the call, in bytes into the function.
    pub(super) parent: u32,
    pub(super) start_line: Option<u32>,
}

impl InlinedCall {
    /// One entry of the tree at an address; `None` when it is not one.
    pub(super) fn read<R: ReadAt>(
        file: &mut Windows<R>,
        elf: &Elf,
        header: &Header,
        tree: u64,
        at: u32,
    ) -> Result<Option<InlinedCall>, ReadError> {
        let size = if header.era == Era::Go120 { 16 } else { 20 };
        let address = tree.checked_add(u64::from(at) * size);
        let Some(offset) = address.and_then(|address| elf.offset_of(address)) else { return Ok(None) };
        let raw = file.bytes(offset, usize::try_from(size).unwrap_or(0))?;
        let low = u32_at(raw, 0);
        let line = u32_at(raw, 12);
        let (call, padding) = match header.era {
            Era::Go120 => {
                let start_line = Some(line).filter(|line| *line > 0 && *line < 1 << 31);
                let id = low.to_le_bytes()[0];
                (InlinedCall { id, name: u32_at(raw, 4), parent: u32_at(raw, 8), start_line }, low >> 8)
            }
            Era::Go116 | Era::Go118 => {
                let id = low.to_le_bytes()[2];
                (InlinedCall { id, name: line, parent: u32_at(raw, 16), start_line: None }, low >> 24)
            }
        };
        let is_one = padding == 0 && header.names.begins(file, call.name)?;
        Ok(is_one.then_some(call))
    }
}

/// The first word of a record of Go 1.16: the function's address, or 0 when the loader has still to write it.
pub(super) fn address<R: ReadAt>(
    file: &mut Windows<R>,
    header: &Header,
    record: u64,
) -> Result<u64, GoError> {
    let offset = header.records.piece(record, 8).ok_or(DAMAGED)?;
    Ok(file.bytes(offset, 8).map(|raw| u64_at(raw, 0))?)
}

//! Names for native code: C, C++, Rust, and whatever else has an ELF symbol table or DWARF.
//!
//! Owns the order of sources: debug information of the file, or of one that was split from it; then the symbol table; then
//! the table for the dynamic linker. What a source cannot answer, or may not because it would take too long, the next one
//! answers, and [`NativeSymbols::shortfalls`] says so. Refuses to cache answers, to read split debug information (`.dwo`),
//! supplementary files (`dwz`) and the packed symbols of Fedora (`.gnu_debugdata`, which needs a decoder of xz).

mod demangle;
mod dwarf;
mod piece;
pub mod separate;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, fs::File, path::Path};

use super::{
    elf::{Elf, ElfError},
    file::{self, ReadAt, ReadError, Windows},
    gopclntab::{Frame, Pc},
};
use dwarf::{Answer, Dwarf, Flaw, Found};
use store::{Shared, Store};
use table::Table;

/// One look-up in a symbol table reads a name: one window, two at most.
const LOOKUP_BYTES_MAX: u64 = 64 << 10;

/// Why there is no answer at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NativeError {
    /// The file could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The file is no use at all.
    #[error("{0}")]
    Elf(#[from] ElfError),
}

/// Why a source of names is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than four million symbols, two million functions.
    #[error("the symbol table has more than 2 million functions")]
    TooManySymbols,
    /// More than 256 Ki units, 2 Mi ranges.
    #[error("the debug information has too many units")]
    TooManyUnits,
    /// It would take more steps than one file may.
    #[error("the debug information takes too long to read")]
    Costly,
    /// It makes no sense, or the code is larger than 4 GiB.
    #[error("headers, symbols or debug information are damaged, or code lies 4 GiB apart")]
    Damaged,
    /// A compressed section.
    #[error("{0}")]
    Unpacked(#[from] Unpacked),
    /// The file.
    #[error("{0}")]
    Read(#[from] ReadError),
}

/// Why a section is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpacked {
    /// All that is unpacked at a time is 64 MiB.
    #[error("unpacked, the debug information is larger than 64 MiB")]
    TooLarge,
    /// Neither zlib nor zstd, or not what its header says.
    #[error("a compressed section is damaged, or compressed in a way that is not known")]
    Damaged,
    /// The file.
    #[error("{0}")]
    Read(#[from] ReadError),
}

/// A function by its symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Demangled.
    pub name: String,
    /// Its first address.
    pub start: u64,
    /// Bytes; what is assumed where the table says none.
    pub size: u32,
}

/// What was not used of a file, or not for each answer. All counts are of look-ups since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortfalls {
    /// Why the symbol table is not used.
    pub symbols: Option<Refusal>,
    /// Why the debug information is not used.
    pub debug: Option<Refusal>,
    /// Answers without debug information, or a part of it, because its unit is over a bound.
    pub costly: u64,
    /// The same because its unit is damaged.
    pub damaged: u64,
}

/// Something that is loaded when it is first asked for.
#[derive(Debug)]
enum Lazily<T> {
    Unread,
    Absent,
    Here(T),
}

/// A file and what was read from it.
#[derive(Debug)]
struct Image<R> {
    elf: Elf,
    store: Shared<R>,
    table: Lazily<Table>,
    dwarf: Lazily<Dwarf>,
}

/// The names of one file.
#[derive(Debug)]
pub struct NativeSymbols<R> {
    main: Image<R>,
    /// What was split from it.
    separate: Option<Image<R>>,
    shortfalls: Shortfalls,
}

impl<R: ReadAt> Image<R> {
    fn new(file: Windows<R>, elf: Elf) -> Image<R> {
        let store = RefCell::new(Store::new(file));
        Image { elf, store, table: Lazily::Unread, dwarf: Lazily::Unread }
    }

    fn has(&self, section: &str) -> bool {
        self.elf.section(section).is_some()
    }

    fn load_table(&mut self, shortfalls: &mut Shortfalls) {
        if matches!(self.table, Lazily::Unread) {
            self.table = match Table::load(&mut self.store.get_mut().file, &self.elf) {
                Ok(Some(table)) => Lazily::Here(table),
                Ok(None) => Lazily::Absent,
                Err(refusal) => {
                    shortfalls.symbols = Some(refusal);
                    Lazily::Absent
                }
            };
        }
    }

    fn symbol(&mut self, address: u64) -> Result<Option<Symbol>, ReadError> {
        let Lazily::Here(table) = &self.table else { return Ok(None) };
        let file = &mut self.store.get_mut().file;
        file.allow(LOOKUP_BYTES_MAX);
        table.find(file, address)
    }

    fn answer(&mut self, address: u64, shortfalls: &mut Shortfalls) -> Answer {
        if matches!(self.dwarf, Lazily::Unread) {
            self.dwarf = match Dwarf::load(&self.store, &self.elf) {
                Ok(Some(dwarf)) => Lazily::Here(dwarf),
                Ok(None) => Lazily::Absent,
                Err(refusal) => {
                    shortfalls.debug = Some(refusal);
                    Lazily::Absent
                }
            };
        }
        let Lazily::Here(dwarf) = &mut self.dwarf else { return Answer::default() };
        dwarf.find(&self.store, address)
    }
}

impl<R: ReadAt> NativeSymbols<R> {
    /// Reads the headers. Tables are read when they are asked for.
    ///
    /// # Errors
    /// See [`NativeError`].
    pub fn open(source: R) -> Result<NativeSymbols<R>, NativeError> {
        let mut file = Windows::new(source)?;
        let elf = Elf::read(&mut file)?;
        Ok(NativeSymbols::load(file, elf))
    }

    /// The same, for a file whose headers are known.
    #[must_use]
    pub fn load(file: Windows<R>, elf: Elf) -> NativeSymbols<R> {
        NativeSymbols { main: Image::new(file, elf), separate: None, shortfalls: Shortfalls::default() }
    }

    /// The layout of the file.
    #[must_use]
    pub fn elf(&self) -> &Elf {
        &self.main.elf
    }

    /// What was not used.
    #[must_use]
    pub fn shortfalls(&self) -> Shortfalls {
        self.shortfalls
    }

    /// How many functions the symbol table has.
    pub fn symbols(&mut self) -> usize {
        match self.with_table().map(|image| &image.table) {
            Some(Lazily::Here(table)) => table.len(),
            _ => 0,
        }
    }

    /// Whether there is a symbol table that lists all functions, and not only those that the dynamic linker needs.
    pub fn is_whole(&mut self) -> bool {
        let has_all = self.with_table().is_some_and(|image| image.has(".symtab"));
        has_all && self.shortfalls.symbols.is_none()
    }

    /// All functions at `pc`: first the innermost, last the one with the code. None where no table covers it.
    ///
    /// # Errors
    /// See [`NativeError`].
    pub fn frames(&mut self, pc: Pc) -> Result<Vec<Frame>, NativeError> {
        let address = pc.instruction();
        let answer = self.answer(address);
        let needs_symbol = answer.functions.last().is_none_or(|last| {
            last.described.symbol.is_none() && (answer.is_scoped || last.described.name.is_none())
        });
        let symbol = if needs_symbol { self.symbol(pc)? } else { None };
        let mut frames: Vec<Frame> = answer.functions.into_iter().map(frame).collect();
        match (frames.last_mut(), symbol) {
            // One that was not mangled has no more to say, but perhaps which part of the function it is.
            (Some(last), Some(symbol)) if last.function.is_empty() || is_mangled(&symbol.name) => {
                last.function = symbol.name;
            }
            (None, Some(symbol)) => frames.push(Frame {
                function: symbol.name,
                source: answer.source,
                start_line: None,
                inlined: false,
                wrapper: false,
            }),
            _ => {}
        }
        // Debug information that has no name for the function that is executed has nothing to say of its callers either.
        let is_named = frames.iter().all(|frame| !frame.function.is_empty());
        Ok(if is_named { frames } else { Vec::new() })
    }

    /// The function with code at `pc`, by the symbol table alone: its name and its bounds, without lines.
    ///
    /// # Errors
    /// See [`NativeError`].
    pub fn symbol(&mut self, pc: Pc) -> Result<Option<Symbol>, NativeError> {
        match self.with_table() {
            Some(image) => Ok(image.symbol(pc.instruction())?),
            None => Ok(None),
        }
    }

    /// The file whose symbol table is used: one with `.symtab`, else the one that runs.
    fn with_table(&mut self) -> Option<&mut Image<R>> {
        let is_main =
            self.main.has(".symtab") || !self.separate.as_ref().is_some_and(|file| file.has(".symtab"));
        let image = if is_main { Some(&mut self.main) } else { self.separate.as_mut() }?;
        image.load_table(&mut self.shortfalls);
        Some(image)
    }

    fn answer(&mut self, address: u64) -> Answer {
        let shortfalls = &mut self.shortfalls;
        let answer = match (self.main.has(".debug_info"), &mut self.separate) {
            (false, Some(separate)) => separate.answer(address, shortfalls),
            _ => self.main.answer(address, shortfalls),
        };
        match answer.flaw {
            Some(Flaw::Costly) => shortfalls.costly += 1,
            Some(Flaw::Damaged) => shortfalls.damaged += 1,
            None => {}
        }
        answer
    }
}

/// Was a demangled name mangled: has it a scope or parameters?
fn is_mangled(name: &str) -> bool {
    name.contains("::") || name.contains('(')
}

fn frame(found: Found) -> Frame {
    let Found { described, source, inlined } = found;
    let function = described.symbol.or(described.name).map(|name| demangle::demangle(&name));
    Frame {
        function: function.unwrap_or_default(),
        source,
        start_line: described.line,
        inlined,
        wrapper: false,
    }
}

/// Opens a regular file.
///
/// # Errors
/// See [`NativeError`].
pub fn open(path: &Path) -> Result<NativeSymbols<File>, NativeError> {
    let file = file::open(path).map_err(|error| ReadError::Io(error.kind()))?;
    NativeSymbols::open(file)
}

//! Go's own tables: function, file, line and inlined calls of each instruction, in stripped programs too.
//!
//! Owns the format of Go 1.16 to 1.27, and what an unwinder of Go code needs beside names. Each table is held against the
//! others when it is loaded; where they disagree there is a [`GoError`], where one is missing there is no answer from it.
//! Refuses to cache names: who asks knows what is asked twice.

mod header;
mod index;
mod module;
mod record;
#[cfg(test)]
mod tests;
mod values;

use std::{fs::File, path::Path};

use super::{
    elf::{Elf, ElfError},
    file::{self, ReadAt, ReadError, Windows},
};
use header::Header;
use index::{Index, Place, Unwinding};
use record::{InlinedCall, Record};
use values::Steps;

/// To load a table: the functions of an etcd are 2 MiB, a search without sections reads the whole file. Bounds a hostile
/// one to a few tenths of a second.
const LOAD_BYTES_MAX: u64 = 256 << 20;
/// One look-up reads about six windows of 16 KiB; a function of a megabyte with tables to match, sixty.
const LOOKUP_BYTES_MAX: u64 = 4 << 20;
/// Calls inlined into one another at one instruction. Real programs stay below forty.
const INLINED_MAX: usize = 128;
/// Go's longest generic names stay below 2 KiB.
const NAME_BYTES_MAX: usize = 4_096;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GoError {
    /// The file could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The file is no use at all.
    #[error("{0}")]
    Elf(#[from] ElfError),
    /// No table of Go 1.16 or newer.
    #[error("no table of Go 1.16 or newer")]
    NotGo,
    /// A table that says nowhere to which addresses it belongs.
    #[error("nothing says where the code begins")]
    NoText,
    /// Two parts disagree.
    #[error("{0} damaged")]
    Damaged(&'static str),
}

/// An address in the terms of the file (see [`Elf::code_address`]), and how it was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pc {
    /// Where a thread was: this instruction is next.
    Sampled(u64),
    /// Where a call returns to: the instruction before is meant, which may belong to another line.
    Return(u64),
}

impl Pc {
    pub(super) fn instruction(self) -> u64 {
        match self {
            Pc::Sampled(address) => address,
            Pc::Return(address) => address.saturating_sub(1),
        }
    }
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the compiler knew it; with `-trimpath` it begins with the module.
    pub file: String,
    /// From 1.
    pub line: u32,
}

/// One function at an instruction: the one that is executed, or one that it is inlined into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// As in Go's own profiles, with package path and type arguments.
    pub function: String,
    /// The instruction's, or the call's of the frame before.
    pub source: Option<Source>,
    /// Where the function begins in its file; Go knows it since 1.20.
    pub start_line: Option<u32>,
    /// It has no code of its own here: it is inlined into the next frame.
    pub inlined: bool,
    /// The compiler made it up. Go's tracebacks leave it out, unless what it calls is a panic.
    pub wrapper: bool,
}

/// What an unwinder must know of a function with code of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// As in Go's own profiles.
    pub name: String,
    /// Its first address.
    pub start: u64,
    /// The next function's.
    pub end: u64,
    /// Its place in the runtime, if that is special.
    pub role: Role,
    /// Nothing called it: a stack ends here. Known since Go 1.17.
    pub is_top: bool,
    /// It moves to another stack, so its caller is not to be found on this one. Go 1.17 and newer know it of some, Go 1.20
    /// of more: [`Function::role`] is what to go by where there is one.
    pub switches_stack: bool,
    /// Written in assembly, perhaps without a frame pointer. Known since Go 1.18.
    pub is_assembly: bool,
}

/// How the frame of a function lies at one of its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    /// The function's first address.
    pub start: u64,
    /// Its place in the runtime, if that is special.
    pub role: Role,
    /// How far the stack pointer is below where it was when the function was called, with the return address there, in
    /// bytes: 0 before anything was pushed. `None` where no table says so, and in functions that switch stacks.
    pub sp_delta: Option<u32>,
}

/// Functions of the runtime at which stacks end, change or need care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Any other.
    Plain,
    /// The bottom of a goroutine.
    Goexit,
    /// The bottom of a thread.
    Mstart,
    /// The program's first instruction.
    Rt0Go,
    /// From a goroutine to the thread's stack, for good.
    Mcall,
    /// From a goroutine to the thread's stack and back.
    Systemstack,
    /// Where [`Role::Systemstack`] left the goroutine's stack.
    SystemstackSwitch,
    /// From Go to C.
    Asmcgocall,
    /// From C to Go.
    Cgocallback,
    /// A stack that had to grow.
    Morestack,
    /// On to a goroutine.
    Gogo,
    /// As if the instruction that faulted had called it.
    Sigpanic,
    /// A panic; wrappers that call it are shown.
    Gopanic,
    /// The panic of a wrapper; wrappers that call it are shown.
    Panicwrap,
    /// As if the instruction that was interrupted had called it.
    AsyncPreempt,
}

impl Role {
    /// Of the function with this name.
    pub(crate) fn of(name: &str) -> Role {
        match name {
            "runtime.goexit" => Role::Goexit,
            "runtime.mstart" => Role::Mstart,
            "runtime.rt0_go" => Role::Rt0Go,
            "runtime.mcall" => Role::Mcall,
            "runtime.systemstack" => Role::Systemstack,
            "runtime.systemstack_switch" => Role::SystemstackSwitch,
            "runtime.asmcgocall" => Role::Asmcgocall,
            "runtime.cgocallback" => Role::Cgocallback,
            "runtime.morestack" => Role::Morestack,
            "runtime.gogo" => Role::Gogo,
            "runtime.sigpanic" => Role::Sigpanic,
            "runtime.gopanic" => Role::Gopanic,
            "runtime.panicwrap" => Role::Panicwrap,
            "runtime.asyncPreempt" => Role::AsyncPreempt,
            _ => Role::Plain,
        }
    }

    /// Whether wrappers that call it are shown.
    pub(crate) fn is_panic(self) -> bool {
        matches!(self, Role::Gopanic | Role::Sigpanic | Role::Panicwrap)
    }
}

/// The tables of one file, and the file.
#[derive(Debug)]
pub struct GoSymbols<R> {
    file: Windows<R>,
    elf: Elf,
    header: Header,
    index: Index,
    /// The address that the index counts from.
    text: u64,
    /// The address that trees of inlined calls count from; without it they cannot be read.
    trees: Option<u64>,
}

impl<R: ReadAt> GoSymbols<R> {
    /// Finds the table and reads the index: some 12 bytes a function.
    ///
    /// # Errors
    /// See [`GoError`].
    pub fn open(source: R) -> Result<GoSymbols<R>, GoError> {
        let mut file = Windows::new(source)?;
        let elf = Elf::read(&mut file)?;
        GoSymbols::load(file, elf)
    }

    /// The same, for a file whose headers are known.
    ///
    /// # Errors
    /// See [`GoError`].
    pub fn load(mut file: Windows<R>, elf: Elf) -> Result<GoSymbols<R>, GoError> {
        file.allow(LOAD_BYTES_MAX);
        let header = header::find(&mut file, &elf)?;
        let index = Index::load(&mut file, &elf, &header)?;
        let (text, trees) = module::places(&mut file, &elf, &header, &index)?;
        let (first, last) =
            (text.checked_add(index.first()), text.checked_add(index.end().saturating_sub(1)));
        let mut code = elf.segments.iter().filter(|segment| segment.is_executable());
        let is_code = first.zip(last).is_some_and(|(first, last)| {
            code.any(|code| code.span.offset_of(first).and(code.span.offset_of(last)).is_some())
        });
        if !is_code {
            return Err(GoError::Damaged("the place of the code is"));
        }
        Ok(GoSymbols { file, elf, header, index, text, trees })
    }

    /// The layout of the file.
    #[must_use]
    pub fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The file.
    pub fn file(&mut self) -> &mut Windows<R> {
        &mut self.file
    }

    /// First address and end of the code that the table is about.
    #[must_use]
    pub fn code(&self) -> std::ops::Range<u64> {
        self.text + self.index.first()..self.text + self.index.end()
    }

    /// How many functions there are.
    #[must_use]
    pub fn functions(&self) -> usize {
        self.index.len()
    }

    /// First addresses of all functions, in order.
    pub fn entries(&self) -> impl Iterator<Item = u64> {
        self.index.starts().map(|start| self.text + u64::from(start))
    }

    /// The function with code at `pc`; `None` where there is no Go code.
    ///
    /// # Errors
    /// See [`GoError`].
    pub fn function(&mut self, pc: Pc) -> Result<Option<Function>, GoError> {
        let Some((record, _)) = self.record(pc)? else { return Ok(None) };
        let name = self.name(record.name)?;
        let start = self.text + u64::from(record.start);
        Ok(Some(Function {
            start,
            end: start + u64::from(record.size),
            role: if record.is_plain() { Role::Plain } else { Role::of(&name) },
            is_top: record.is_top(),
            switches_stack: record.switches_stack(),
            is_assembly: record.is_assembly(),
            name,
        }))
    }

    /// What an unwinder asks of the function with code at `pc`; `None` where there is no Go code. A name is read only where
    /// that tells the role.
    ///
    /// # Errors
    /// See [`GoError`].
    pub fn frame_layout(&mut self, pc: Pc) -> Result<Option<FrameLayout>, GoError> {
        let Some((function, at)) = self.unwinding(pc) else { return Ok(None) };
        let role = match function.is_plain {
            true => Role::Plain,
            false => Role::of(&self.name_at(function.place)?),
        };
        let sp_delta = match function.switches_stack {
            true => None,
            false => self.value(function.stack_pointers, at, &mut Steps::default())?,
        };
        let sp_delta = sp_delta.filter(|delta| delta % 8 == 0);
        Ok(Some(FrameLayout { start: self.text + u64::from(function.place.start), role, sp_delta }))
    }

    /// All functions at `pc`: first the innermost, last the one with the code. None where there is no Go code.
    ///
    /// # Errors
    /// See [`GoError`].
    pub fn frames(&mut self, pc: Pc) -> Result<Vec<Frame>, GoError> {
        let Some((record, mut at)) = self.record(pc)? else { return Ok(Vec::new()) };
        let (mut frames, mut steps, mut inner) = (Vec::new(), Steps::default(), u32::MAX);
        for _ in 0..=INLINED_MAX {
            let call = self.value(record.inlined, at, &mut steps)?;
            let Some(number) = call else {
                let source = self.source(&record, at, &mut steps)?;
                frames.push(self.own_frame(&record, source)?);
                return Ok(frames);
            };
            // Callers have lower numbers. Where Go's compiler moves a call into an initial value, it forgets the caller,
            // and the entry leads in a circle: what is known is where it ends, and whose code it is.
            let call = if number < inner { self.inlined_call(&record, number)? } else { None };
            let Some(call) = call else {
                frames.truncate(1);
                frames.push(self.own_frame(&record, None)?);
                return Ok(frames);
            };
            frames.push(Frame {
                function: self.name(call.name)?,
                source: self.source(&record, at, &mut steps)?,
                start_line: call.start_line,
                inlined: true,
                wrapper: self.index.is_wrapper(call.id),
            });
            (at, inner) = (call.parent, number);
        }
        Err(GoError::Damaged("a tree of inlined calls is"))
    }

    fn own_frame(&mut self, record: &Record, source: Option<Source>) -> Result<Frame, GoError> {
        Ok(Frame {
            function: self.name(record.name)?,
            source,
            start_line: record.start_line,
            inlined: false,
            wrapper: self.index.is_wrapper(record.id),
        })
    }

    /// How far into the code `pc` is. Every question begins here, so the bound on what it reads does, too.
    fn offset(&mut self, pc: Pc) -> Option<u32> {
        self.file.allow(LOOKUP_BYTES_MAX);
        pc.instruction().checked_sub(self.text).and_then(|offset| u32::try_from(offset).ok())
    }

    /// The record of the function at `pc`, and how far into it that is.
    fn record(&mut self, pc: Pc) -> Result<Option<(Record, u32)>, GoError> {
        let offset = self.offset(pc);
        let Some((offset, place)) = offset.and_then(|offset| Some((offset, self.index.find(offset)?))) else {
            return Ok(None);
        };
        let record = Record::read(&mut self.file, &self.header, place)?;
        Ok(Some((record, offset - place.start)))
    }

    /// What an unwinder asks of the function at `pc`, and how far into it that is: nothing of the file is read.
    fn unwinding(&mut self, pc: Pc) -> Option<(Unwinding, u32)> {
        let offset = self.offset(pc)?;
        let function = self.index.unwinding(offset)?;
        Some((function, offset - function.place.start))
    }

    fn name_at(&mut self, place: Place) -> Result<String, GoError> {
        let record = Record::read(&mut self.file, &self.header, place)?;
        self.name(record.name)
    }

    fn value(&mut self, table: u32, at: u32, steps: &mut Steps) -> Result<Option<u32>, GoError> {
        values::at(&mut self.file, &self.header, table, at, steps)
    }

    /// `None` when there is no base for trees, or the function has none.
    fn inlined_call(&mut self, record: &Record, call: u32) -> Result<Option<InlinedCall>, GoError> {
        let Some(tree) = record.tree(&mut self.file, &self.header, &self.index)? else { return Ok(None) };
        let address = match self.header.era.trees_are_relative() {
            true => self.trees.and_then(|base| base.checked_add(tree)),
            false => Some(tree),
        };
        let Some(address) = address else { return Ok(None) };
        let read = InlinedCall::read(&mut self.file, &self.elf, &self.header, address, call)?;
        read.filter(|call| call.parent < record.size)
            .map(Some)
            .ok_or(GoError::Damaged("a tree of inlined calls is"))
    }

    fn source(&mut self, record: &Record, at: u32, steps: &mut Steps) -> Result<Option<Source>, GoError> {
        let (file, line) = (self.value(record.files, at, steps)?, self.value(record.lines, at, steps)?);
        let (Some(unit), Some((file, line))) = (record.unit, file.zip(line)) else { return Ok(None) };
        let unit = unit.checked_add(file).ok_or(GoError::Damaged("the list of files is"))?;
        let path = self.header.units.slot(unit, 4).ok_or(GoError::Damaged("the list of files is"))?;
        match self.file.u32(path)? {
            u32::MAX => Ok(None),
            path => Ok(Some(Source { file: self.header.paths.text(&mut self.file, path)?, line })),
        }
    }

    fn name(&mut self, at: u32) -> Result<String, GoError> {
        self.header.names.text(&mut self.file, at)
    }
}

/// Opens a regular file and loads its tables.
///
/// # Errors
/// See [`GoError`].
pub fn open(path: &Path) -> Result<GoSymbols<File>, GoError> {
    let file = file::open(path).map_err(|error| ReadError::Io(error.kind()))?;
    GoSymbols::open(file)
}

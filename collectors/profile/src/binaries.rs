//! The files that processes run: found where the process sees them, held against what the kernel said of them, opened once
//! for all who ask.
//!
//! Owns the bound on how many are open; `find` has the way to a file and the proof that it is the one. Refuses to take a
//! file of the same name for the same file: who replaces a program while it runs would get names of the other one.

mod find;
mod ids;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::perf::modules::Module;
use crate::perf::record::Identity;
use crate::symbols::elf::{Elf, Span};
use crate::symbols::file::Windows;
use crate::symbols::gopclntab::{GoError, GoSymbols};
use crate::symbols::native::NativeSymbols;

use find::{Found, find};
pub use ids::Ids;

/// Files held open. A node runs some dozens of programs that take any CPU time; each takes two descriptors.
const BINARIES_MAX: usize = 64;
/// Memory of their tables: that of thirty programs as large as etcd.
const BYTES_MAX: usize = 16 << 20;
/// What a file takes beside its index of functions: windows of 256 KiB when all of them have been used, headers.
const BINARY_BYTES: usize = 280 << 10;
/// Memory of one function in the index.
const FUNCTION_BYTES: usize = 8;

/// Why there is nothing to be had of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Missing {
    /// It is memory, not a file.
    #[error("memory without a file")]
    Memory,
    /// Nobody who maps it lives, or the file has gone from where it was.
    #[error("no process that still shows it")]
    Gone,
    /// We may not look into the process.
    #[error("no permission: CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH open files of other users' processes")]
    Denied,
    /// There is another file in its place.
    #[error("replaced by another file since it was mapped")]
    Replaced,
    /// It is no ELF file that we read, or it is damaged.
    #[error("unreadable")]
    Unreadable,
}

impl Missing {
    /// All of them, in order.
    pub const ALL: [Missing; 5] =
        [Missing::Memory, Missing::Gone, Missing::Denied, Missing::Replaced, Missing::Unreadable];

    /// The label of counters.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Missing::Memory => "memory",
            Missing::Gone => "gone",
            Missing::Denied => "denied",
            Missing::Replaced => "replaced",
            Missing::Unreadable => "unreadable",
        }
    }

    fn of(error: &io::Error) -> Missing {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Missing::Denied,
            io::ErrorKind::InvalidInput => Missing::Unreadable,
            _ => Missing::Gone,
        }
    }
}

/// The reader of native tables, opened when it is first asked for.
#[derive(Debug, Default)]
enum Native {
    #[default]
    Closed,
    Open(Box<NativeSymbols<File>>),
    Unusable,
}

/// One file, open, and what has been read of it.
#[derive(Debug)]
pub struct Binary {
    /// Its layout.
    pub elf: Elf,
    /// Which build it is.
    pub ids: Ids,
    go: Mutex<Option<Box<GoSymbols<File>>>>,
    is_go: bool,
    native: Mutex<Native>,
    /// The root of the process that it was found by, where its debug information may lie, and its path there.
    place: (PathBuf, PathBuf),
    bytes: usize,
    file: File,
    was: State,
}

/// What changes when somebody writes to a file, or puts another one in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl State {
    fn of(file: &File) -> io::Result<State> {
        let is = file.metadata()?;
        Ok(State {
            device: is.dev(),
            inode: is.ino(),
            bytes: is.size(),
            written: (is.mtime(), is.mtime_nsec()),
            changed: (is.ctime(), is.ctime_nsec()),
        })
    }
}

impl Binary {
    fn of(found: Found) -> Result<Binary, Missing> {
        let Found { file, was, mut windows, elf, build_id, place } = found;
        let ids = Ids::read(&mut windows, &elf, build_id.as_deref())?;
        let go = tables_of_go(windows, &elf);
        let bytes = BINARY_BYTES + go.as_ref().map_or(0, |symbols| symbols.functions() * FUNCTION_BYTES);
        let (is_go, native) = (go.is_some(), Mutex::default());
        Ok(Binary { elf, ids, go: Mutex::new(go), is_go, native, place, bytes, file, was })
    }

    /// Whether Go built it, and its tables could be read.
    #[must_use]
    pub fn is_go(&self) -> bool {
        self.is_go
    }

    /// Nobody has written to it since it was opened.
    #[must_use]
    pub fn is_as_it_was(&self) -> bool {
        State::of(&self.file).is_ok_and(|is| is == self.was)
    }

    /// The file and its state when it was opened: as long as that is the same, so is everything in it.
    #[must_use]
    pub fn state(&self) -> State {
        self.was
    }

    /// Go's own tables, for as long as the guard lives; `None` where Go did not build it.
    pub fn go(&self) -> MutexGuard<'_, Option<Box<GoSymbols<File>>>> {
        self.go.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names by symbol table and debug information. They take memory until [`Binary::close`].
    pub fn with_native<T>(&self, ask: impl FnOnce(&mut NativeSymbols<File>) -> T) -> Option<T> {
        let mut native = self.native.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*native, Native::Closed) {
            *native = self.open_native().map_or(Native::Unusable, Native::Open);
        }
        match &mut *native {
            Native::Open(symbols) => Some(ask(symbols)),
            Native::Closed | Native::Unusable => None,
        }
    }

    fn open_native(&self) -> Option<Box<NativeSymbols<File>>> {
        let windows = Windows::new(self.file.try_clone().ok()?).ok()?;
        let mut symbols = Box::new(NativeSymbols::load(windows, self.elf.clone()));
        // Without debug information the symbol table is what there is.
        symbols.find_separate(&self.place.0, &self.place.1).ok();
        Some(symbols)
    }

    /// Frees what was read of native tables; they are read again when somebody asks.
    pub fn close(&self) {
        let mut native = self.native.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*native, Native::Open(_)) {
            *native = Native::Closed;
        }
    }

    /// The executable segment that an offset in the file is in.
    #[must_use]
    pub fn code_at(&self, offset: u64) -> Option<Span> {
        let mut code = self.elf.segments.iter().filter(|segment| segment.is_executable());
        code.find(|segment| segment.span.address_of(offset).is_some()).map(|segment| segment.span)
    }

    /// The address, in the file's own terms, of an instruction at an offset in it.
    #[must_use]
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.code_at(offset)?.address_of(offset)
    }
}

/// Where there are no sections, only a search through the whole file can tell. With sections, Go's linker leaves some of
/// its own, whatever was stripped, and a browser of 200 MiB need not be searched.
fn may_be_go(elf: &Elf) -> bool {
    let is_of_go =
        |name: &str| name.contains("gopclntab") || name.starts_with(".go.") || name.starts_with(".note.go.");
    elf.sections.is_empty() || elf.sections.iter().any(|section| is_of_go(&section.name))
}

fn tables_of_go(windows: Windows<File>, elf: &Elf) -> Option<Box<GoSymbols<File>>> {
    if !may_be_go(elf) {
        return None;
    }
    match GoSymbols::load(windows, elf.clone()) {
        Ok(symbols) => Some(Box::new(symbols)),
        Err(GoError::NotGo) => None,
        Err(error) => {
            tracing::debug!(%error, "tables of Go that cannot be read");
            None
        }
    }
}

#[derive(Debug)]
struct Kept {
    binary: Arc<Binary>,
    used: u64,
}

#[derive(Debug, Default)]
struct Table {
    kept: HashMap<(Identity, PathBuf), Kept>,
    uses: u64,
}

/// Open files, shared by those who unwind and those who name.
#[derive(Clone, Debug, Default)]
pub struct Binaries {
    table: Arc<Mutex<Table>>,
}

fn key(module: &Module) -> (Identity, PathBuf) {
    (module.identity, module.path.clone())
}

impl Binaries {
    /// The file of a module, which a process maps.
    ///
    /// # Errors
    /// See [`Missing`].
    pub fn open(&self, module: &Module, pid: u32) -> Result<Arc<Binary>, Missing> {
        let key = key(module);
        if let Some(known) = self.table().get(&key) {
            return Ok(known);
        }
        // Not under the lock: others go on while this file is read.
        let binary = Arc::new(Binary::of(find(module, pid)?)?);
        self.table().put(key, &binary);
        Ok(binary)
    }

    /// A handle of that file alone, without what takes time to read: for who must not wait.
    ///
    /// # Errors
    /// See [`Missing`].
    pub fn file(&self, module: &Module, pid: u32) -> Result<File, Missing> {
        let known = self.table().get(&key(module));
        // Not under the lock either.
        match known {
            Some(known) => known.file.try_clone().map_err(|error| Missing::of(&error)),
            None => find(module, pid).map(|found| found.file),
        }
    }

    /// How many files are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().kept.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn get(&mut self, key: &(Identity, PathBuf)) -> Option<Arc<Binary>> {
        self.uses += 1;
        let kept = self.kept.get_mut(key)?;
        if !kept.binary.is_as_it_was() {
            self.kept.remove(key);
            return None;
        }
        kept.used = self.uses;
        Some(Arc::clone(&kept.binary))
    }

    fn put(&mut self, key: (Identity, PathBuf), binary: &Arc<Binary>) {
        self.uses += 1;
        self.kept.insert(key, Kept { binary: Arc::clone(binary), used: self.uses });
        while self.kept.len() > BINARIES_MAX || (self.kept.len() > 1 && self.bytes() > BYTES_MAX) {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            oldest.map(|oldest| self.kept.remove(&oldest));
        }
    }

    fn bytes(&self) -> usize {
        self.kept.values().map(|kept| kept.binary.bytes).sum()
    }
}

#[cfg(test)]
mod tests;

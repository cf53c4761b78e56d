//! The files that processes run: found where the process sees them, held against what the kernel said of them, opened once
//! for all who ask.
//!
//! Owns the way to a file, the proof that it is the one that is mapped, and the bound on how many are open. Refuses to
//! take a file of the same name for the same file: who replaces a program while it runs would get names of the other one.

mod ids;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::perf::maps;
use crate::perf::modules::{Kind, Module};
use crate::perf::record::Identity;
use crate::symbols::elf::{Elf, Span};
use crate::symbols::file::{self, Windows};
use crate::symbols::gopclntab::{GoError, GoSymbols};
use crate::symbols::identity;
use crate::symbols::native::NativeSymbols;

pub use ids::Ids;

/// Files held open. A node runs some dozens of programs that take any CPU time; each takes two descriptors.
const BINARIES_MAX: usize = 64;
/// Memory of their tables: that of thirty programs as large as etcd.
const BYTES_MAX: usize = 16 << 20;
/// What a file takes beside its index of functions: windows of 256 KiB when all of them have been used, headers.
const BINARY_BYTES: usize = 280 << 10;
/// Memory of one function in the index.
const FUNCTION_BYTES: usize = 8;
/// Of /proc/PID/maps, where a removed file is looked for. A JVM's is 1 MiB.
const MAPS_BYTES_MAX: u64 = 1 << 20;

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
    fn read(file: File, module: &Module, (proc, way): (&Path, Way)) -> Result<Binary, Missing> {
        let failed = |error: io::Error| Missing::of(&error);
        let (was, second) = (State::of(&file).map_err(failed)?, file.try_clone().map_err(failed)?);
        let mut windows = Windows::new(second).map_err(|_| Missing::Unreadable)?;
        let elf = Elf::read(&mut windows).map_err(|_| Missing::Unreadable)?;
        let id = identity::build_id(&mut windows, &elf).map_err(|_| Missing::Unreadable)?;
        if !is_the_same(&module.identity, (was.device, was.inode), id.as_deref(), way) {
            return Err(Missing::Replaced);
        }
        let ids = Ids::read(&mut windows, &elf, id.as_deref())?;
        let go = tables_of_go(windows, &elf);
        let bytes = BINARY_BYTES + go.as_ref().map_or(0, |symbols| symbols.functions() * FUNCTION_BYTES);
        let (is_go, native) = (go.is_some(), Mutex::default());
        let place = (proc.join("root"), module.path.clone());
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

    /// Another handle of the file, for who reads what is not read here.
    pub(crate) fn file(&self) -> Result<File, Missing> {
        self.file.try_clone().map_err(|error| Missing::of(&error))
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

/// How a file was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As the process itself has it: by what it holds, or below its root.
    Held,
    /// As we see it.
    Named,
}

/// The build id proves it, else device and inode. Layered file systems number a device here and another one there, so where
/// we have the file as the process has it the inode is enough: as long as it is mapped nobody else gets its number.
fn is_the_same(identity: &Identity, (device, inode): (u64, u64), id: Option<&[u8]>, way: Way) -> bool {
    match identity {
        Identity::BuildId(length, bytes) => {
            let told = bytes.get(..usize::from(*length)).unwrap_or_default();
            // The kernel reports at most 20 bytes of a longer one.
            id.is_some_and(|id| !told.is_empty() && id.starts_with(told))
        }
        Identity::Inode { major, minor, inode: told } => {
            let is_device = (libc::major(device), libc::minor(device)) == (*major, *minor);
            *told == inode && inode != 0 && (is_device || way == Way::Held)
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

impl Binaries {
    /// The file of a module, which a process maps.
    ///
    /// # Errors
    /// See [`Missing`].
    pub fn open(&self, module: &Module, pid: u32) -> Result<Arc<Binary>, Missing> {
        if matches!(module.kind, Kind::Anonymous | Kind::Vdso) {
            return Err(Missing::Memory);
        }
        let key = (module.identity, module.path.clone());
        if let Some(known) = self.table().get(&key) {
            return Ok(known);
        }
        // Not under the lock: others go on while this file is read.
        let binary = Arc::new(find(module, pid)?);
        self.table().put(key, &binary);
        Ok(binary)
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

/// Opens it in one of the ways there are; what the first one says is what is told when none leads anywhere.
fn find(module: &Module, pid: u32) -> Result<Binary, Missing> {
    let mut why = None;
    let mut tried = |proc: &Path, path: PathBuf, way: Way| {
        let opened = file::open(&path).map_err(|error| Missing::of(&error));
        opened.and_then(|file| Binary::read(file, module, (proc, way))).map_err(|missing| {
            // That there was another file says more than that there was none.
            let worse = why.filter(|why| !matches!(why, Missing::Gone));
            why = Some(worse.unwrap_or(missing));
        })
    };
    let pids = if module.pid == pid { vec![pid] } else { vec![pid, module.pid] };
    for proc in pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}"))) {
        let is_its_program = fs::read_link(proc.join("exe")).is_ok_and(|path| is_or_was(&path, &module.path));
        if is_its_program && let Ok(binary) = tried(&proc, proc.join("exe"), Way::Held) {
            return Ok(binary);
        }
        if module.kind == Kind::File
            && let Ok(below) = module.path.strip_prefix("/")
            && let Ok(binary) = tried(&proc, proc.join("root").join(below), Way::Held)
        {
            return Ok(binary);
        }
        if let Some(range) = range_of(&proc, &module.path)
            && let Ok(binary) = tried(&proc, proc.join("map_files").join(range), Way::Held)
        {
            return Ok(binary);
        }
    }
    // Without the right to look into the process, which outside of containers sees what we see.
    if module.kind == Kind::File
        && let Ok(binary) = tried(Path::new("/"), module.path.clone(), Way::Named)
    {
        return Ok(binary);
    }
    Err(why.unwrap_or(Missing::Gone))
}

/// Whether the kernel's name of a program is this one, though its file may have been removed or replaced since.
fn is_or_was(link: &Path, path: &Path) -> bool {
    let (link, path) = (link.as_os_str().as_encoded_bytes(), path.as_os_str().as_encoded_bytes());
    link == path || link.strip_suffix(b" (deleted)") == Some(path)
}

/// What `/proc/PID/map_files` calls the first executable range of a file.
fn range_of(proc: &Path, path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(proc.join("maps")).ok()?.take(MAPS_BYTES_MAX).read_to_end(&mut text).ok()?;
    let lines = text.split(|byte| *byte == b'\n');
    let found = lines
        .filter_map(|line| maps::mapping(0, line))
        .find(|range| range.path == path.as_os_str().as_encoded_bytes())?;
    Some(format!("{:x}-{:x}", found.start, found.start.checked_add(found.length)?))
}

#[cfg(test)]
mod tests;

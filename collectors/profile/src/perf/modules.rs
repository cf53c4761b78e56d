//! What is mapped where: the files of all processes, once each, and the address ranges of one process.
//!
//! Owns the bound on both. Refuses to open a file: a module is what the kernel said of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use super::record::{Identity, Mmap};

/// Modules known at a time: ten times what a busy node has. When it is full those that nobody maps go first.
const MODULES_MAX: usize = 16_384;
/// Longest path kept, the kernel's own limit.
const PATH_BYTES_MAX: usize = 4096;
/// Executable ranges of one process. A JVM with its code cache has a few thousand.
pub const MAPPINGS_MAX: usize = 4096;

/// What kind of thing code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A file.
    File,
    /// A file that was removed or replaced since it was mapped.
    Deleted,
    /// A file that never had a name: its path is for people.
    Memfd,
    /// The kernel's page of user code.
    Vdso,
    /// Memory: compiled at run time, or a stack that is executable.
    Anonymous,
}

/// What the kernel calls its page of user code.
const VDSO: &[u8] = b"[vdso]";
/// The same in a 32-bit process: memory to us.
const VDSO_OF_32_BITS: &[u8] = b"[vdso32]";

impl Kind {
    /// Whether there is a file to be opened.
    pub(crate) fn is_of_file(self) -> bool {
        matches!(self, Kind::File | Kind::Deleted | Kind::Memfd)
    }

    fn of(path: &[u8]) -> Kind {
        if path == VDSO {
            Kind::Vdso
        } else if path.starts_with(b"/memfd:") {
            Kind::Memfd
        } else if !path.starts_with(b"/") || path.starts_with(b"//anon") || path.starts_with(b"/dev/zero") {
            Kind::Anonymous
        } else if path.ends_with(b" (deleted)") {
            Kind::Deleted
        } else {
            Kind::File
        }
    }
}

/// One file, or what stands for one.
#[derive(Debug)]
pub struct Module {
    /// Never used twice, so that it can stand for the module in a key.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// Which file exactly.
    pub identity: Identity,
    /// As the first process that mapped it saw it; in a container not as we do.
    pub path: PathBuf,
    /// That process: the file can be opened below its root while it lives.
    pub pid: u32,
}

/// All modules, each once.
#[derive(Debug, Default)]
pub struct Modules {
    known: HashMap<(Identity, PathBuf), Arc<Module>>,
    last_id: u32,
    refused: u64,
}

impl Modules {
    /// The module of a mapping; `None` when there are too many, all of them in use.
    pub fn intern(&mut self, pid: u32, identity: Identity, path: &[u8]) -> Option<Arc<Module>> {
        let path = path.get(..path.len().min(PATH_BYTES_MAX)).unwrap_or_default();
        let key = (identity, Path::new(OsStr::from_bytes(path)).to_owned());
        if let Some(module) = self.known.get(&key) {
            return Some(Arc::clone(module));
        }
        if self.known.len() >= MODULES_MAX {
            self.known.retain(|_, module| Arc::strong_count(module) > 1);
        }
        if self.known.len() >= MODULES_MAX {
            self.refused += 1;
            return None;
        }
        // 0 stands for "no module" in keys.
        self.last_id = self.last_id.checked_add(1)?;
        let module = Module { id: self.last_id, kind: Kind::of(path), identity, path: key.1.clone(), pid };
        let module = Arc::new(module);
        self.known.insert(key, Arc::clone(&module));
        Some(module)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Mappings that got no module.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// An executable range.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Where in the module it begins.
    pub offset: u64,
    /// What is there.
    pub module: Arc<Module>,
}

/// A place in a module.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Which.
    pub module: &'a Arc<Module>,
    /// Where in the file; for memory without a file the address itself.
    pub offset: u64,
}

/// The executable ranges of a process, ascending and apart from each other.
#[derive(Clone, Debug, Default)]
pub struct Mappings(Vec<Mapping>);

impl Mappings {
    /// What is at an address.
    #[must_use]
    pub fn locate(&self, address: u64) -> Option<Place<'_>> {
        let after = self.0.partition_point(|mapping| mapping.start <= address);
        let mapping = self.0.get(after.checked_sub(1)?).filter(|mapping| address < mapping.end)?;
        Some(Place { module: &mapping.module, offset: address - mapping.start + mapping.offset })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts a range over whatever was there: the kernel does not tell when something is unmapped. False when it does not
    /// fit any more.
    pub fn put(&mut self, mut new: Mapping) -> bool {
        if new.start >= new.end {
            return true;
        }
        let first = self.0.partition_point(|old| old.end <= new.start);
        let after = self.0.partition_point(|old| old.start < new.end).max(first);
        let mut pieces: Vec<Mapping> = Vec::with_capacity(3);
        let left = self.0.get(first).filter(|old| old.start < new.start);
        pieces.extend(left.map(|old| Mapping { end: new.start, ..old.clone() }));
        let right = after.checked_sub(1).and_then(|at| self.0.get(at)).filter(|old| old.end > new.end);
        let right = right.map(|old| Mapping {
            start: new.end,
            offset: old.offset.wrapping_add(new.end - old.start),
            ..old.clone()
        });
        // A compiler that asks for one page after the other makes one range.
        let before = pieces.last().or_else(|| first.checked_sub(1).and_then(|at| self.0.get(at)));
        let grows = before.filter(|old| {
            let distance = new.start.wrapping_sub(old.start);
            old.end == new.start
                && Arc::ptr_eq(&old.module, &new.module)
                && old.offset.wrapping_add(distance) == new.offset
        });
        let mut from = first;
        if let Some(old) = grows {
            (new.start, new.offset) = (old.start, old.offset);
            if pieces.pop().is_none() {
                from = first.saturating_sub(1);
            }
        }
        pieces.push(new);
        pieces.extend(right);
        if self.0.len() - (after - from) + pieces.len() > MAPPINGS_MAX {
            return false;
        }
        self.0.splice(from..after, pieces);
        true
    }

    /// As [`Mappings::put`] for what has just been mapped; without a file the address is the place.
    pub fn map(&mut self, start: u64, length: u64, offset: u64, module: Arc<Module>) -> bool {
        let offset = if module.kind == Kind::Anonymous { start } else { offset };
        self.put(Mapping { start, end: start.saturating_add(length), offset, module })
    }

    /// Puts a range there as it was told. False when there is no room for it or for its module.
    pub fn take(&mut self, range: &Mmap<'_>, modules: &mut Modules) -> bool {
        // A 32-bit process has another image of that name. It alone can have one there: with 64 bits it lies beside the stack.
        let is_of_32_bits = range.path == VDSO && range.start <= u64::from(u32::MAX);
        let path = if is_of_32_bits { VDSO_OF_32_BITS } else { range.path };
        let module = modules.intern(range.pid, range.identity, path);
        module.is_some_and(|module| self.map(range.start, range.length, range.offset, module))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::record::Identity;
    use super::{Kind, MAPPINGS_MAX, MODULES_MAX, Mappings, Modules};

    fn inode(inode: u64) -> Identity {
        Identity::Inode { major: 8, minor: 1, inode }
    }

    /// Ranges as (start, end, offset, module).
    fn ranges(mappings: &Mappings) -> Vec<(u64, u64, u64, u32)> {
        mappings.iter().map(|one| (one.start, one.end, one.offset, one.module.id)).collect()
    }

    #[test]
    fn a_new_range_cuts_what_was_there() {
        let mut modules = Modules::default();
        let [a, b] = [1, 2].map(|id| modules.intern(1, inode(id), b"/lib/x").unwrap());
        let mut mappings = Mappings::default();
        assert!(mappings.map(100, 100, 1000, Arc::clone(&a)));
        assert!(mappings.map(140, 20, 0, Arc::clone(&b)));
        assert_eq!(ranges(&mappings), [(100, 140, 1000, 1), (140, 160, 0, 2), (160, 200, 1060, 1)]);
        let place = mappings.locate(170).unwrap();
        assert_eq!((place.module.id, place.offset), (1, 1070));
        assert!(mappings.locate(99).is_none() && mappings.locate(200).is_none());
        assert!(mappings.map(0, 1000, 0, b));
        assert_eq!(ranges(&mappings), [(0, 1000, 0, 2)]);
        assert!(mappings.map(500, 0, 0, a));
        assert_eq!(mappings.len(), 1);
    }

    #[test]
    fn neighbours_of_one_file_are_one_range() {
        let mut modules = Modules::default();
        let anon = modules.intern(1, inode(0), b"//anon").unwrap();
        let mut mappings = Mappings::default();
        for page in 0..10 {
            assert!(mappings.map(0x1000 * page, 0x1000, 7, Arc::clone(&anon)));
        }
        assert_eq!(ranges(&mappings), [(0, 0xa000, 0, 1)]);
        assert!(mappings.map(0x5000, 0x1000, 7, anon));
        assert_eq!(mappings.locate(0x5010).unwrap().offset, 0x5010);
        assert_eq!(mappings.locate(0x9010).unwrap().offset, 0x9010);
    }

    #[test]
    fn ranges_of_a_process_are_bounded() {
        let mut modules = Modules::default();
        let file = modules.intern(1, inode(1), b"/x").unwrap();
        let mut mappings = Mappings::default();
        let kept = (0..10_000).filter(|at| mappings.map(at * 100, 10, 0, Arc::clone(&file))).count();
        assert_eq!((kept, mappings.len()), (MAPPINGS_MAX, MAPPINGS_MAX));
    }

    #[test]
    fn modules_that_nobody_maps_make_room() {
        let mut modules = Modules::default();
        let held = modules.intern(1, inode(0), b"/held").unwrap();
        for id in 1..40_000 {
            assert!(modules.intern(1, inode(id), b"/gone").is_some());
            assert!(modules.len() <= MODULES_MAX);
        }
        let again = modules.intern(2, inode(0), b"/held").unwrap();
        assert!(Arc::ptr_eq(&held, &again));
        let all: Vec<_> = (0..17_000).map(|id| modules.intern(1, inode(id), b"/used")).collect();
        assert!(all.last().unwrap().is_none() && modules.refused() > 0);
    }

    #[test]
    fn a_path_says_what_kind_it_is() {
        let check = |path: &str, kind: Kind| assert_eq!(Kind::of(path.as_bytes()), kind, "{path}");
        check("/usr/bin/etcd", Kind::File);
        check("/usr/bin/etcd (deleted)", Kind::Deleted);
        check("/memfd:jit (deleted)", Kind::Memfd);
        check("[vdso]", Kind::Vdso);
        check("//anon", Kind::Anonymous);
        check("/dev/zero (deleted)", Kind::Anonymous);
        check("[stack]", Kind::Anonymous);
        check("", Kind::Anonymous);
    }
}

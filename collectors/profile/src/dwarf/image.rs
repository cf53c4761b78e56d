//! The bytes that a process runs, read from where they really came from.
//!
//! Owns the ways to a module's file: through the root of a process that mapped it, by the kernel's own link to what is
//! mapped, by its name as we see it. Each but the kernel's link is held against what the kernel said of the mapping: a file
//! that was replaced since then is another one. Refuses to map anything.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::perf::modules::{Kind, Mappings, Module};
use crate::perf::record::Identity;
use crate::symbols::elf::Elf;
use crate::symbols::file::{self, ReadAt, Windows};
use crate::symbols::identity;
use crate::symbols::vdso;

/// The kernel's page of user code is two pages; four times as much is no vdso.
const VDSO_BYTES_MAX: usize = 32 << 10;
/// Build ids in the kernel's records are cut to so many bytes.
const KERNEL_ID_BYTES: usize = 20;

/// Why a module's bytes cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Memory without a file: there is nothing to read but the memory of the process.
    #[error("memory without a file")]
    Anonymous,
    /// No way to it worked; why the last one did not.
    #[error("open: {0}")]
    Open(io::ErrorKind),
    /// Something is there, but not what was mapped.
    #[error("another file is there now")]
    Replaced,
}

/// A file, or the kernel's page of code.
#[derive(Debug)]
pub enum Image {
    /// Open.
    File(File),
    /// A copy of our own: the kernel gives all programs of 64 bits the same.
    Vdso(Arc<[u8]>),
}

impl ReadAt for Image {
    fn length(&self) -> io::Result<u64> {
        match self {
            Image::File(file) => ReadAt::length(file),
            Image::Vdso(bytes) => ReadAt::length(&&**bytes),
        }
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Image::File(file) => ReadAt::read_at(file, offset, into),
            Image::Vdso(bytes) => ReadAt::read_at(&&**bytes, offset, into),
        }
    }
}

impl Image {
    /// What a process has mapped of a module.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn open(pid: u32, module: &Module, mappings: &Mappings) -> Result<Image, ImageError> {
        match module.kind {
            Kind::Anonymous => Err(ImageError::Anonymous),
            Kind::Vdso => own_vdso().map(Image::Vdso).ok_or(ImageError::Open(io::ErrorKind::NotFound)),
            Kind::File | Kind::Deleted | Kind::Memfd => file(pid, module, mappings).map(Image::File),
        }
    }
}

fn file(pid: u32, module: &Module, mappings: &Mappings) -> Result<File, ImageError> {
    let mut why = ImageError::Open(io::ErrorKind::NotFound);
    for (path, is_link) in ways(pid, module, mappings) {
        match file::open(&path) {
            Ok(file) if is_link || is_it(&file, module) => return Ok(file),
            Ok(_) => why = ImageError::Replaced,
            Err(error) if why != ImageError::Replaced => why = ImageError::Open(error.kind()),
            Err(_) => {}
        }
    }
    Err(why)
}

/// Paths to try, and whether each is the kernel's own link to what is mapped.
fn ways(pid: u32, module: &Module, mappings: &Mappings) -> Vec<(PathBuf, bool)> {
    let mut ways = Vec::new();
    let path = module.path.strip_prefix("/").unwrap_or(&module.path);
    if module.kind == Kind::File {
        let mut processes = vec![pid];
        processes.extend(Some(module.pid).filter(|other| *other != pid));
        let below = |process| (Path::new("/proc").join(format!("{process}/root")).join(path), false);
        ways.extend(processes.into_iter().map(below));
        // Without the right to look below its root: as we see it, which is the same outside of containers.
        ways.push((module.path.clone(), false));
    }
    // The program itself, though its name has gone; it is another module's link as often as not.
    ways.push((format!("/proc/{pid}/exe").into(), false));
    // Needs more privileges than any other way, and an exact range.
    let mapped = mappings.iter().find(|mapping| mapping.module.id == module.id);
    ways.extend(mapped.map(|mapping| {
        (format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end).into(), true)
    }));
    ways
}

/// Whether this is the file that the kernel told of.
fn is_it(file: &File, module: &Module) -> bool {
    match module.identity {
        Identity::BuildId(length, expected) => {
            let expected = expected.get(..usize::from(length)).unwrap_or_default();
            has_id(file, expected).unwrap_or(false)
        }
        // Layered file systems number a device here and another one there; a file of the same name with the same number
        // is the same all the same.
        Identity::Inode { inode, .. } => {
            inode != 0 && file.metadata().is_ok_and(|metadata| metadata.ino() == inode)
        }
    }
}

fn has_id(file: &File, expected: &[u8]) -> Option<bool> {
    let mut windows = Windows::new(file.try_clone().ok()?).ok()?;
    let elf = Elf::read(&mut windows).ok()?;
    let id = identity::build_id(&mut windows, &elf).ok()??;
    Some(!expected.is_empty() && id.get(..id.len().min(KERNEL_ID_BYTES)) == Some(expected))
}

/// Read once, from our own memory.
fn own_vdso() -> Option<Arc<[u8]>> {
    static READ: OnceLock<Option<Arc<[u8]>>> = OnceLock::new();
    READ.get_or_init(read_vdso).clone()
}

fn read_vdso() -> Option<Arc<[u8]>> {
    let mut bytes = vdso::image().ok()?;
    bytes.truncate(VDSO_BYTES_MAX);
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::table::Table;
    use super::{Image, ImageError};
    use crate::perf::modules::{Mappings, Modules};
    use crate::perf::record::Identity;

    #[test]
    fn our_own_vdso_has_a_table() {
        let mut modules = Modules::default();
        let identity = Identity::Inode { major: 0, minor: 0, inode: 0 };
        let vdso = modules.intern(1, identity, b"[vdso]").unwrap();
        let image = Image::open(1, &vdso, &Mappings::default()).unwrap();
        let mut table = Table::open(image).unwrap();
        assert!(!table.is_empty() && table.start(0).is_some());
    }

    #[test]
    fn only_what_was_mapped_is_opened() {
        let mut modules = Modules::default();
        let folder = std::env::temp_dir().join(format!("image-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("library");
        std::fs::write(&path, b"one").unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let mut module = |inode| {
            let identity = Identity::Inode { major: 0, minor: 0, inode };
            modules.intern(std::process::id(), identity, path.as_os_str().as_encoded_bytes()).unwrap()
        };
        let open = |module: Arc<_>| Image::open(std::process::id(), &module, &Mappings::default());
        assert!(open(module(inode)).is_ok());
        assert_eq!(open(module(inode + 1)).unwrap_err(), ImageError::Replaced);
        assert_eq!(open(module(0)).unwrap_err(), ImageError::Replaced);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

//! The bytes that a process runs: a module's file, or the kernel's page of code, which is no file.
//!
//! Refuses to map anything.

use std::fs::File;
use std::io;
use std::sync::{Arc, OnceLock};

use crate::binaries::{Binaries, Missing};
use crate::perf::modules::{Kind, Module};
use crate::symbols::file::ReadAt;
use crate::symbols::vdso;

/// The kernel's page of user code is two pages; four times as much is no vdso.
const VDSO_BYTES_MAX: usize = 32 << 10;

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
    /// See [`Missing`].
    pub fn open(binaries: &Binaries, pid: u32, module: &Module) -> Result<Image, Missing> {
        if module.kind == Kind::Vdso {
            return own_vdso().map(Image::Vdso).ok_or(Missing::Unreadable);
        }
        binaries.file(module, pid).map(Image::File)
    }
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
    use super::super::table::Table;
    use super::Image;
    use crate::binaries::Binaries;
    use crate::perf::modules::Modules;
    use crate::perf::record::Identity;

    #[test]
    fn our_own_vdso_has_a_table() {
        let mut modules = Modules::default();
        let identity = Identity::Inode { major: 0, minor: 0, inode: 0 };
        let vdso = modules.intern(1, identity, b"[vdso]").unwrap();
        let image = Image::open(&Binaries::default(), 1, &vdso).unwrap();
        let mut table = Table::open(image).unwrap();
        assert!(!table.is_empty() && table.start(0).is_some());
    }
}

//! Debug information that was split from a file: by build id, or by the name and the checksum in `.gnu_debuglink`.
//!
//! Owns the places where it may be, and the proof that it belongs to the file. Refuses what is not proved: the same build
//! id, or where one of them has none the checksum of the whole; and the same place of the code.

use std::{
    fs::File,
    path::{Component, Path, PathBuf},
};

use super::{
    super::{
        elf::{Elf, ElfError},
        file::{self, ReadAt, ReadError, Windows, u32_at},
        identity::{self, hex},
    },
    Image, NativeSymbols,
};

/// A larger file is not read to sum it up; a second or two even from memory. Those with a build id need no sum.
const SUMMED_BYTES_MAX: u64 = 1 << 30;
/// Bytes read at once for a sum.
const CHUNK_BYTES: u64 = 64 << 10;
/// The longest name of a file, and what follows it.
const LINK_BYTES_MAX: usize = 264;
/// To read the notes of the file that runs.
const NOTES_BYTES_MAX: u64 = 1 << 20;

/// Where distributions put such files.
const PLACE: &str = "usr/lib/debug";

/// Why a file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeparateError {
    /// It cannot be read.
    #[error("{0}")]
    Elf(#[from] ElfError),
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// Build id, checksum or layout are others.
    #[error("it belongs to another build")]
    Other,
    /// Without build ids, a file of more than 1 GiB.
    #[error("too large for a checksum")]
    TooLarge,
}

/// What `.gnu_debuglink` says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    name: String,
    sum: u32,
}

impl<R: ReadAt> NativeSymbols<R> {
    /// Takes debug information from another file, if it is of the same build.
    ///
    /// # Errors
    /// See [`SeparateError`].
    pub fn attach(&mut self, source: R) -> Result<(), SeparateError> {
        let mut file = Windows::new(source)?;
        let elf = Elf::read(&mut file)?;
        if elf.code().map(|code| code.start) != self.main.elf.code().map(|code| code.start) {
            return Err(SeparateError::Other);
        }
        let theirs = identity::build_id(&mut file, &elf)?;
        match (self.build_id()?, theirs, self.link()?) {
            (Some(ours), Some(theirs), _) if ours == theirs => {}
            (Some(_), Some(_), _) | (_, _, None) => return Err(SeparateError::Other),
            (_, _, Some(link)) if sum(&mut file)? == link.sum => {}
            _ => return Err(SeparateError::Other),
        }
        self.separate = Some(Image::new(file, elf));
        Ok(())
    }

    fn build_id(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        identity::build_id(&mut self.main.store.get_mut().file, &self.main.elf)
    }

    fn link(&mut self) -> Result<Option<Link>, ReadError> {
        let Some(section) = self.main.elf.section(".gnu_debuglink") else { return Ok(None) };
        let length = usize::try_from(section.span.length).unwrap_or(usize::MAX);
        if length > LINK_BYTES_MAX {
            return Ok(None);
        }
        let file = &mut self.main.store.get_mut().file;
        file.allow(NOTES_BYTES_MAX);
        Ok(read_link(file.bytes(section.span.offset, length)?))
    }
}

impl NativeSymbols<File> {
    /// Looks for debug information below a root: `/`, or `/proc/PID/root` of a process in a container, where `path` is the
    /// file's own. Returns what was taken. Nothing is looked for when the file has its own.
    ///
    /// # Errors
    /// When the file itself cannot be read; files that do not fit are passed over.
    pub fn find_separate(&mut self, root: &Path, path: &Path) -> Result<Option<PathBuf>, ReadError> {
        if self.main.has(".debug_info") {
            return Ok(None);
        }
        let id = self.build_id()?;
        let by_id = id.filter(|id| id.len() > 1).map(|id| {
            let (first, rest) = (hex(id.iter().take(1)), hex(id.iter().skip(1)));
            root.join(PLACE).join(".build-id").join(first).join(format!("{rest}.debug"))
        });
        let folder: PathBuf = path.parent().map_or_else(PathBuf::new, below);
        let by_name = self.link()?.map(|Link { name, .. }| {
            let here = root.join(&folder);
            [here.join(&name), here.join(".debug").join(&name), root.join(PLACE).join(&folder).join(&name)]
        });
        for place in by_id.into_iter().chain(by_name.into_iter().flatten()) {
            let taken = file::open(&place).is_ok_and(|file| self.attach(file).is_ok());
            if taken {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// A path without its root, and without steps that lead out of it.
fn below(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// {name, zeros up to a multiple of four, checksum}. The name is one of a file, not a way elsewhere.
fn read_link(bytes: &[u8]) -> Option<Link> {
    let end = memchr::memchr(0, bytes)?;
    let name = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let is_plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    let sum = bytes.get((end + 1).next_multiple_of(4)..).filter(|rest| rest.len() >= 4)?;
    is_plain.then(|| Link { name: name.to_owned(), sum: u32_at(sum, 0) })
}

fn sum<R: ReadAt>(file: &mut Windows<R>) -> Result<u32, SeparateError> {
    let length = file.length();
    if length > SUMMED_BYTES_MAX {
        return Err(SeparateError::TooLarge);
    }
    file.allow(length);
    let (mut sum, mut offset, mut bytes) = (flate2::Crc::new(), 0, Vec::new());
    while offset < length {
        let now = (length - offset).min(CHUNK_BYTES);
        bytes.resize(usize::try_from(now).unwrap_or(0), 0);
        file.fill(offset, &mut bytes)?;
        sum.update(&bytes);
        offset += now;
    }
    Ok(sum.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_a_file_and_nothing_else() {
        let link = |name: &str| {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize((name.len() + 1).next_multiple_of(4), 0);
            bytes.extend([4, 3, 2, 1]);
            read_link(&bytes)
        };
        assert_eq!(link("etcd.debug"), Some(Link { name: "etcd.debug".to_owned(), sum: 0x0102_0304 }));
        for hostile in ["", ".", "..", "../../etc/shadow", "/etc/shadow", "a/b"] {
            assert_eq!(link(hostile), None, "{hostile}");
        }
        assert_eq!(read_link(b"abc\0\x01\x02\x03"), None);
        assert_eq!(read_link(b"no end"), None);
    }
}

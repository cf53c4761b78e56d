//! One open file: who it is, how far it was read, what is lost. Owns reading at an offset; refuses to hold a line back in
//! memory: an unterminated tail stays in the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Bytes of the head that are hashed: enough for a first line with its time in it.
const HEAD_BYTES: usize = 256;

/// What makes a file the same file: an inode number is used again, so the first bytes count too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes that were hashed, at most [`HEAD_BYTES`].
    pub head_bytes: usize,
    /// FNV-1a of those bytes.
    pub head_hash: u64,
}

/// An open file.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    pub id: FileId,
    /// Next byte to read: a line start, unless `mid_line`.
    pub offset: u64,
    /// Whether the bytes up to the next newline belong to a line that was cut or begun before us.
    pub mid_line: bool,
    /// Size when it was last looked at.
    pub size: u64,
}

/// Lines that were read at once.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// Whole lines; a cut line ends without its newline.
    pub bytes: Vec<u8>,
    /// Offset of the first byte.
    pub from: u64,
    /// Offset after the last byte taken, dropped ones included.
    pub to: u64,
    /// Bytes of long lines that were dropped.
    pub dropped_bytes: u64,
}

impl OpenFile {
    /// Opens a regular file at its first byte. `Ok(None)` for anything else.
    pub(super) fn open(path: &Path) -> io::Result<Option<OpenFile>> {
        // Looked at before opening: opening a pipe for reading may block, and being a pipe's reader may block etcd.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut open = OpenFile { file, id: FileId::default(), offset: 0, mid_line: false, size: meta.len() };
        open.id = FileId { dev: meta.dev(), ino: meta.ino(), ..open.head(HEAD_BYTES)? };
        Ok(Some(open))
    }

    /// Continues at an offset; one in the middle of a line waits for the next.
    pub(super) fn seek(&mut self, offset: u64) {
        self.offset = offset.min(self.size);
        let mut before = [0];
        self.mid_line = self.offset > 0
            && self.file.read_at(&mut before, self.offset - 1).is_ok_and(|n| n == 1)
            && before != *b"\n";
    }

    /// Whether `id` is this file, or a shorter past of it.
    pub(super) fn was(&self, id: &FileId) -> bool {
        self.id.dev == id.dev
            && self.id.ino == id.ino
            && self
                .head(id.head_bytes)
                .is_ok_and(|head| head.head_bytes == id.head_bytes && head.head_hash == id.head_hash)
    }

    /// Looks at the size. Returns the bytes that are lost when the file was truncated or replaced in place; reading then begins
    /// at the first byte again.
    pub(super) fn look(&mut self) -> io::Result<Option<u64>> {
        let size = self.file.metadata()?.len();
        if size == self.size && size >= self.offset {
            return Ok(None);
        }
        // Regrown past our offset between two looks: only the head tells.
        let replaced = size < self.offset || !self.was(&self.id.clone());
        let unread = self.size.saturating_sub(self.offset);
        if replaced {
            self.offset = 0;
            self.mid_line = false;
        }
        self.size = size;
        if replaced || self.id.head_bytes < HEAD_BYTES {
            let head = self.head(HEAD_BYTES)?;
            self.id = FileId { dev: self.id.dev, ino: self.id.ino, ..head };
        }
        Ok(replaced.then_some(unread))
    }

    /// Reads whole lines of at most `slice` bytes, or one longer line of at most `line_max`; `None` when there is none.
    pub(super) fn read(&mut self, slice: usize, line_max: usize) -> io::Result<Option<Slice>> {
        let from = self.offset;
        let mut dropped_bytes = 0;
        if self.mid_line && !self.skip_line(slice, &mut dropped_bytes)? {
            return Ok((dropped_bytes > 0).then(|| Slice {
                from,
                to: self.offset,
                dropped_bytes,
                ..Slice::default()
            }));
        }
        let start = self.offset;
        let mut bytes = self.at(start, slice)?;
        if memchr::memrchr(b'\n', &bytes).is_none() && bytes.len() == slice && slice < line_max {
            bytes = self.at(start, line_max)?;
        }
        match memchr::memrchr(b'\n', &bytes) {
            Some(last) => bytes.truncate(last + 1),
            None if bytes.len() >= line_max => self.mid_line = true,
            None => bytes.clear(),
        }
        self.offset = start.saturating_add(len64(&bytes));
        let nothing = bytes.is_empty() && dropped_bytes == 0;
        // What was dropped before the first whole line need not be had again.
        let from = if bytes.is_empty() { from } else { start };
        Ok((!nothing).then_some(Slice { bytes, from, to: self.offset, dropped_bytes }))
    }

    /// A range that was read before.
    pub(super) fn read_again(&self, from: u64, to: u64) -> io::Result<Slice> {
        let bytes = self.at(from, usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX))?;
        Ok(Slice { bytes, from, to, ..Slice::default() })
    }

    /// What stands after the last newline, once nobody writes to the file any more.
    pub(super) fn read_tail(&mut self, line_max: usize) -> io::Result<Option<Slice>> {
        if self.mid_line {
            return Ok(None);
        }
        let from = self.offset;
        let bytes = self.at(from, line_max)?;
        self.offset = from.saturating_add(len64(&bytes));
        Ok((!bytes.is_empty()).then_some(Slice { bytes, from, to: self.offset, ..Slice::default() }))
    }

    /// Drops up to and with the next newline; whether it was found within one slice.
    fn skip_line(&mut self, slice: usize, dropped: &mut u64) -> io::Result<bool> {
        let bytes = self.at(self.offset, slice)?;
        let end = memchr::memchr(b'\n', &bytes);
        let taken = end.map_or(len64(&bytes), |end| u64::try_from(end).unwrap_or(0) + 1);
        self.offset = self.offset.saturating_add(taken);
        *dropped = taken;
        self.mid_line = end.is_none();
        Ok(end.is_some())
    }

    fn head(&self, most: usize) -> io::Result<FileId> {
        let bytes = self.at(0, most.min(HEAD_BYTES))?;
        let head_hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Ok(FileId { dev: 0, ino: 0, head_bytes: bytes.len(), head_hash })
    }

    fn at(&self, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let room = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; room];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset.saturating_add(u64::try_from(filled).unwrap_or(0))) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

fn len64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

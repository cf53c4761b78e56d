//! A file in pieces: `pread` into a few windows, never a mapping.
//!
//! Owns the bound on memory and on bytes read. A file that shrinks while it is read gives [`ReadError::Truncated`].

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// The largest window, for what is read from its beginning to its end.
const WINDOW_BYTES: usize = 16 << 10;
/// All windows kept for one file.
const HELD_BYTES_MAX: usize = 256 << 10;
/// So many at most: a table walk touches a few hundred bytes at each of about eight places, and they are looked for in turn.
const WINDOWS_MAX: usize = 64;
/// Windows begin at a multiple of this, so that neighbours find the same window. One that is jumped to is no longer than
/// what is asked for: copying what nobody asks for was most of what a look-up took.
const ALIGNMENT: u64 = 4 << 10;
/// Most texts are shorter.
const TEXT_BYTES: usize = 256;
/// The longest piece [`Windows::bytes`] gives: it fits a window wherever it begins.
pub const PIECE_BYTES_MAX: usize = WINDOW_BYTES - 4_096;

/// Why a piece of a file could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("read: {0}")]
    Io(io::ErrorKind),
    /// The piece is not within the file, or no longer.
    #[error("the file ends before")]
    Truncated,
    /// More bytes than this walk was allowed; see [`Windows::allow`].
    #[error("more bytes than one walk may read")]
    Budget,
}

/// Bytes at an offset: an open file, or bytes in tests and fuzzers.
pub trait ReadAt {
    /// How long it is now.
    ///
    /// # Errors
    /// As the system says.
    fn length(&self) -> io::Result<u64>;

    /// Reads some bytes; fewer than asked for only at the end.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for File {
    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            match FileExt::read_at(self, rest, at) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

impl ReadAt for &[u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.len()).unwrap_or(u64::MAX))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let length = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }
}

/// Opens a regular file for reading. Nothing else: a pipe that somebody put in its place must not block us.
///
/// # Errors
/// As the system says; `InvalidInput` when it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    Ok(file)
}

#[derive(Debug)]
struct Window {
    offset: u64,
    bytes: Vec<u8>,
    used: u64,
}

impl Window {
    fn piece(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.bytes.get(from..from.checked_add(length)?)
    }
}

/// A file behind a few windows, the least recently used of which makes room for the next.
#[derive(Debug)]
pub struct Windows<R> {
    source: R,
    length: u64,
    windows: Vec<Window>,
    uses: u64,
    left: u64,
    /// Where the last window ended: who asks for what is next will ask for more.
    next: u64,
    /// Which one was asked for last: it is the likeliest.
    last: usize,
}

impl<R: ReadAt> Windows<R> {
    /// With nothing allowed yet.
    ///
    /// # Errors
    /// [`ReadError::Io`], when its length cannot be had.
    pub fn new(source: R) -> Result<Windows<R>, ReadError> {
        let length = source.length().map_err(|error| ReadError::Io(error.kind()))?;
        Ok(Windows { source, length, windows: Vec::new(), uses: 0, left: 0, next: u64::MAX, last: 0 })
    }

    /// How long the file was when it was opened.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of memory that the windows take.
    #[must_use]
    pub fn held(&self) -> usize {
        self.windows.iter().map(|window| window.bytes.capacity()).sum()
    }

    /// What is left of the bytes that were allowed.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// From now on at most so many bytes are read from the file. What a window holds already is free.
    pub fn allow(&mut self, bytes: u64) {
        self.left = bytes;
    }

    /// The bytes at an offset, at most [`PIECE_BYTES_MAX`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], ReadError> {
        let has = |window: &Window| window.piece(offset, length).is_some();
        let at = match self.windows.get(self.last).is_some_and(has) {
            true => self.last,
            false => match self.windows.iter().position(has) {
                Some(at) => at,
                None => self.load(offset, length)?,
            },
        };
        (self.uses, self.last) = (self.uses + 1, at);
        let window = self.windows.get_mut(at).ok_or(ReadError::Truncated)?;
        window.used = self.uses;
        window.piece(offset, length).ok_or(ReadError::Truncated)
    }

    /// Exactly the bytes at an offset, past the windows: for what is read once, from its beginning to its end.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn fill(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let length = u64::try_from(into.len()).map_err(|_| ReadError::Truncated)?;
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(ReadError::Truncated);
        }
        self.left = self.left.checked_sub(length).ok_or(ReadError::Budget)?;
        match self.source.read_at(offset, into) {
            Ok(read) if read == into.len() => Ok(()),
            Ok(_) => Err(ReadError::Truncated),
            Err(error) => Err(ReadError::Io(error.kind())),
        }
    }

    /// Loads the window for a piece and says where it is.
    fn load(&mut self, offset: u64, length: usize) -> Result<usize, ReadError> {
        let begin = offset - offset % ALIGNMENT;
        let end = offset.checked_add(u64::try_from(length).unwrap_or(u64::MAX));
        let end = end.filter(|end| *end <= self.length).ok_or(ReadError::Truncated)?;
        let most = begin.saturating_add(u64::try_from(WINDOW_BYTES).unwrap_or(u64::MAX));
        let is_next = (begin..=end).contains(&self.next);
        let pages = if is_next { most } else { end.next_multiple_of(ALIGNMENT) };
        if end > most {
            return Err(ReadError::Truncated);
        }
        let size = usize::try_from(pages.min(self.length) - begin).unwrap_or(0);
        let mut bytes = self.room(size);
        // What is kept for a small one is no more than that.
        bytes.truncate(size);
        bytes.shrink_to(size);
        bytes.reserve_exact(size - bytes.len());
        bytes.resize(size, 0);
        self.fill(begin, &mut bytes)?;
        self.next = begin.saturating_add(u64::try_from(size).unwrap_or(0));
        self.windows.push(Window { offset: begin, bytes, used: self.uses });
        Ok(self.windows.len() - 1)
    }

    /// Makes room for another window, and gives the memory of the last one that is forgotten for it.
    fn room(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.windows.len() >= WINDOWS_MAX || (self.held() + size > HELD_BYTES_MAX) {
            let oldest = self.windows.iter().enumerate().min_by_key(|(_, window)| window.used);
            let Some(oldest) = oldest.map(|(at, _)| at) else { break };
            bytes = self.windows.swap_remove(oldest).bytes;
        }
        bytes
    }

    /// A little-endian number of 32 bits.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn u32(&mut self, offset: u64) -> Result<u32, ReadError> {
        self.bytes(offset, 4).map(|bytes| u32_at(bytes, 0))
    }

    /// A little-endian number of 64 bits.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn u64(&mut self, offset: u64) -> Result<u64, ReadError> {
        self.bytes(offset, 8).map(|bytes| u64_at(bytes, 0))
    }

    /// A text that ends with a zero byte, within `most` bytes; `None` when there is no end so soon.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn text(&mut self, offset: u64, most: usize) -> Result<Option<Cow<'_, str>>, ReadError> {
        let here = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let most = most.min(PIECE_BYTES_MAX).min(here);
        let is_short = memchr::memchr(0, self.bytes(offset, most.min(TEXT_BYTES))?).is_some();
        let bytes = self.bytes(offset, if is_short { most.min(TEXT_BYTES) } else { most })?;
        Ok(memchr::memchr(0, bytes).and_then(|end| bytes.get(..end)).map(String::from_utf8_lossy))
    }
}

/// The number there; 0 when the bytes end before.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u16::from_le_bytes(*raw))
}

/// The number there; 0 when the bytes end before.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// The number there; 0 when the bytes end before.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u64::from_le_bytes(*raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(bytes: &[u8]) -> Windows<&[u8]> {
        let mut file = Windows::new(bytes).unwrap();
        file.allow(1 << 30);
        file
    }

    #[test]
    fn pieces_are_what_is_there() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut file = windows(&bytes);
        for at in (0..99_000_u32).step_by(37).chain((0..99_000).rev().step_by(1_001)) {
            assert_eq!(file.u32(u64::from(at) * 4), Ok(at));
            let from = usize::try_from(at).unwrap() * 4;
            assert_eq!(file.bytes(u64::from(at) * 4, 4_000).unwrap(), &bytes[from..from + 4_000]);
        }
        assert!(file.windows.len() <= WINDOWS_MAX && file.held() <= HELD_BYTES_MAX);
        let end = u64::try_from(bytes.len()).unwrap();
        assert_eq!(file.u32(end - 4), Ok(99_999));
        assert_eq!(file.bytes(end - 3, 4), Err(ReadError::Truncated));
        assert_eq!(file.bytes(u64::MAX - 1, 4), Err(ReadError::Truncated));
        assert_eq!(file.bytes(0, WINDOW_BYTES + 1), Err(ReadError::Truncated));
    }

    #[test]
    fn a_walk_may_read_so_much_and_no_more() {
        let bytes = vec![0; 1 << 20];
        let mut file = Windows::new(&bytes[..]).unwrap();
        assert_eq!(file.u32(0), Err(ReadError::Budget));
        file.allow(40_000);
        let read = (0..64).map(|window| file.u32(window * 16_384)).filter(Result::is_ok).count();
        assert_eq!(read, 9);
        // What is held already is free.
        assert_eq!(file.u32(100), Ok(0));
    }

    #[test]
    fn what_is_read_in_order_is_read_in_large_pieces() {
        let bytes = vec![0; 1 << 20];
        let mut file = windows(&bytes);
        for at in 0..(1 << 18) {
            file.u32(at * 4).unwrap();
        }
        // But for the one at the end.
        let large = file.windows.iter().filter(|window| window.bytes.len() == WINDOW_BYTES).count();
        assert_eq!((large + 1, file.held()), (file.windows.len(), HELD_BYTES_MAX - 4_096));
        assert_eq!(file.windows.len(), 16);
        file.u32(8).unwrap();
        assert_eq!(file.windows.last().map(|window| window.bytes.len()), Some(4_096));
    }

    #[test]
    fn a_text_has_an_end() {
        let mut file = windows(b"one\0two\0\xff\0open");
        assert_eq!(file.text(4, 100).unwrap().as_deref(), Some("two"));
        assert_eq!(file.text(4, 3).unwrap(), None);
        assert_eq!(file.text(8, 100).unwrap().as_deref(), Some("\u{fffd}"));
        assert_eq!(file.text(10, 100).unwrap(), None);
        assert_eq!(file.text(15, 100), Err(ReadError::Truncated));
    }

    #[test]
    fn only_regular_files_are_opened() {
        assert_eq!(open(Path::new("/dev/null")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(open(Path::new("/nonexistent")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(open(Path::new("/proc/self/exe")).is_ok());
    }
}

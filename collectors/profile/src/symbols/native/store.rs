//! One file for a reader that jumps: pages of it, sections that had to be unpacked, and the bound on work.
//!
//! Owns the memory that debug information may take and the count of what is done with it. A page is read when it is
//! needed; a compressed section cannot be read in pieces, so it is held whole or refused.

use std::cell::RefCell;

use super::{
    super::{
        elf::Section,
        file::{ReadAt, ReadError, Windows, u32_at, u64_at},
    },
    Unpacked,
};

/// Debug information is read here and there, some KiB at a time.
const PAGE_BYTES: u64 = 8 << 10;
/// Pages kept for one file, 512 KiB in all: a lookup touches six sections at a few places each.
const PAGES: u64 = 64;
/// All unpacked sections of one file; those of a large C library are 10 MiB. The rest of the file is not unpacked then,
/// and names come from its symbol table.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;
/// How much larger than packed a section may be. Real ones are three to eight times as large.
const RATIO_MAX: u64 = 64;
/// What a packed section begins with: kind, size, alignment.
const PACKED_HEADER_BYTES: u64 = 24;

const COMPRESSED: u64 = 1 << 11;
const BY_ZLIB: u32 = 1;
const BY_ZSTD: u32 = 2;

/// Why a read did not happen. The library that reads has no word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// More steps than one question may take.
    Work,
    /// The file.
    Read(ReadError),
}

#[derive(Debug, Default)]
struct Page {
    /// Its number and 1; 0 for none.
    tag: u64,
    bytes: Vec<u8>,
}

/// Where the bytes of a section are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// 0 for the file, else the number of an unpacked section.
    pub(super) space: u8,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A file, in pages.
#[derive(Debug)]
pub(super) struct Store<R> {
    pub(super) file: Windows<R>,
    pages: Vec<Page>,
    unpacked: Vec<Vec<u8>>,
    work: u64,
    trouble: Option<Trouble>,
}

/// Readers share it; each touches it for the length of one read.
pub(super) type Shared<R> = RefCell<Store<R>>;

impl<R: ReadAt> Store<R> {
    pub(super) fn new(file: Windows<R>) -> Store<R> {
        Store { file, pages: Vec::new(), unpacked: Vec::new(), work: 0, trouble: None }
    }

    /// From now on at most so many steps, and so many bytes from the file.
    pub(super) fn allow(&mut self, steps: u64, bytes: u64) {
        self.work = steps;
        self.trouble = None;
        self.file.allow(bytes);
    }

    /// What stopped the last reader.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// How many of them are left.
    pub(super) fn steps_left(&self) -> u64 {
        self.work
    }

    /// Allows fewer of them for a while, and says how many are set aside.
    pub(super) fn lend(&mut self, most: u64) -> u64 {
        let rest = self.work.saturating_sub(most);
        self.work -= rest;
        rest
    }

    /// Allows again what was set aside.
    pub(super) fn give_back(&mut self, rest: u64) {
        self.work = self.work.saturating_add(rest);
    }

    /// Counts steps that are no reads.
    pub(super) fn spend(&mut self, steps: u64) -> bool {
        match self.work.checked_sub(steps) {
            Some(left) => self.work = left,
            None => {
                self.work = 0;
                self.trouble = Some(Trouble::Work);
            }
        }
        self.trouble.is_none()
    }

    /// Finds the bytes of a section, unpacking them if need be.
    pub(super) fn section(&mut self, section: &Section) -> Result<Extent, Unpacked> {
        let span = section.span;
        if section.flags & COMPRESSED == 0 {
            return Ok(Extent { space: 0, offset: span.offset, length: span.length });
        }
        let header = self.file.bytes(span.offset, 24)?;
        let (kind, size) = (u32_at(header, 0), u64_at(header, 8));
        let packed = span.length.saturating_sub(PACKED_HEADER_BYTES);
        let held: usize = self.unpacked.iter().map(Vec::len).sum();
        let room = UNPACKED_BYTES_MAX.saturating_sub(u64::try_from(held).unwrap_or(u64::MAX));
        if size > room || packed > UNPACKED_BYTES_MAX {
            return Err(Unpacked::TooLarge);
        }
        let sizes = usize::try_from(packed).ok().zip(usize::try_from(size).ok());
        let (packed_size, real_size) =
            sizes.filter(|_| size / RATIO_MAX <= packed).ok_or(Unpacked::Damaged)?;
        let space = u8::try_from(self.unpacked.len() + 1).map_err(|_| Unpacked::TooLarge)?;
        let mut bytes = vec![0; packed_size];
        self.file.fill(span.offset.saturating_add(PACKED_HEADER_BYTES), &mut bytes)?;
        self.unpacked.push(unpack(kind, &bytes, real_size)?);
        Ok(Extent { space, offset: 0, length: size })
    }

    /// The bytes there; `false`, with the trouble noted, when they are not to be had.
    #[inline]
    pub(super) fn read(&mut self, space: u8, offset: u64, into: &mut [u8]) -> bool {
        if !self.spend(1) {
            return false;
        }
        if space > 0 {
            return self.read_unpacked(space, offset, into);
        }
        let (number, at) = (offset / PAGE_BYTES, usize::try_from(offset % PAGE_BYTES).unwrap_or(0));
        let slot = usize::try_from(number % PAGES).unwrap_or(0);
        if let Some(page) = self.pages.get(slot).filter(|page| page.tag == number + 1)
            && let Some(piece) = page.bytes.get(at..at.saturating_add(into.len()))
        {
            into.copy_from_slice(piece);
            return true;
        }
        self.read_pages(offset, into)
    }

    fn read_unpacked(&mut self, space: u8, offset: u64, into: &mut [u8]) -> bool {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let held = self.unpacked.get(usize::from(space) - 1);
        match held.and_then(|held| held.get(at..at.checked_add(into.len())?)) {
            Some(piece) => into.copy_from_slice(piece),
            None => self.trouble = Some(Trouble::Read(ReadError::Truncated)),
        }
        self.trouble.is_none()
    }

    /// Byte ranges that are on no page yet, or on two.
    fn read_pages(&mut self, mut offset: u64, mut into: &mut [u8]) -> bool {
        while !into.is_empty() {
            let piece = match self.page(offset / PAGE_BYTES) {
                Ok(page) => page.get(usize::try_from(offset % PAGE_BYTES).unwrap_or(0)..).unwrap_or_default(),
                Err(error) => {
                    self.trouble = Some(Trouble::Read(error));
                    return false;
                }
            };
            let length = piece.len().min(into.len());
            let (now, rest) = into.split_at_mut(length);
            match piece.get(..length).filter(|piece| !piece.is_empty()) {
                Some(piece) => now.copy_from_slice(piece),
                None => {
                    self.trouble = Some(Trouble::Read(ReadError::Truncated));
                    return false;
                }
            }
            offset = offset.saturating_add(u64::try_from(length).unwrap_or(0));
            into = rest;
        }
        true
    }

    fn page(&mut self, number: u64) -> Result<&[u8], ReadError> {
        if self.pages.is_empty() {
            self.pages.resize_with(usize::try_from(PAGES).unwrap_or(0), Page::default);
        }
        let slot = usize::try_from(number % PAGES).unwrap_or(0);
        let page = self.pages.get_mut(slot).ok_or(ReadError::Truncated)?;
        if page.tag != number + 1 {
            let offset = number.checked_mul(PAGE_BYTES).ok_or(ReadError::Truncated)?;
            let size = self.file.length().checked_sub(offset).ok_or(ReadError::Truncated)?.min(PAGE_BYTES);
            page.tag = 0;
            page.bytes.resize(usize::try_from(size).unwrap_or(0), 0);
            self.file.fill(offset, &mut page.bytes)?;
            page.tag = number + 1;
        }
        Ok(&page.bytes)
    }

    /// How far behind `offset` a zero byte is, if it is within `most` bytes.
    pub(super) fn find_zero(&mut self, space: u8, offset: u64, most: u64) -> Option<u64> {
        let mut buffer = [0; 256];
        let mut into = 0;
        while into < most {
            let now = usize::try_from((most - into).min(256)).unwrap_or(0);
            // A short read near the end of a section, and so of a page, is one read more.
            let piece = buffer.get_mut(..now)?;
            if !self.read(space, offset.checked_add(into)?, piece) {
                return None;
            }
            if let Some(at) = memchr::memchr(0, piece) {
                return into.checked_add(u64::try_from(at).ok()?);
            }
            into += u64::try_from(now).unwrap_or(1);
        }
        None
    }
}

fn unpack(kind: u32, packed: &[u8], size: usize) -> Result<Vec<u8>, Unpacked> {
    let mut real = vec![0; size];
    let written = match kind {
        BY_ZLIB => {
            let mut inflater = flate2::Decompress::new(true);
            let outcome = inflater.decompress(packed, &mut real, flate2::FlushDecompress::Finish);
            outcome.ok().and_then(|_| usize::try_from(inflater.total_out()).ok())
        }
        // In one call: the output is the window, and nothing else is allocated.
        BY_ZSTD => zstd::bulk::decompress_to_buffer(packed, &mut real).ok(),
        _ => None,
    };
    written.filter(|written| *written == size).map(|_| real).ok_or(Unpacked::Damaged)
}

//! The target's memory, a page at a time, read and never written.
//!
//! Owns the bound on bytes read. A pass forgets what the one before has seen. Refuses to keep a page longer than a pass.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
};

use super::HeapError;
use crate::symbols::file::{ReadAt, u32_at, u64_at};

/// What the kernel maps at once: a page is there as a whole or not at all.
const PAGE_BYTES: usize = 4_096;
/// Pages held during a pass, 4 MiB in all: all buckets of an etcd are in under 200.
const PAGES_MAX: usize = 1_024;
/// Of one reading with all its passes. The largest profile that is read has 25 MiB, an etcd's half a mebibyte, and copying
/// this much takes some 30 ms.
const BYTES_MAX: u64 = 128 << 20;

/// `/proc/PID/mem`: it goes on to mean the same program when the process id does not.
#[derive(Debug)]
pub(super) struct ProcessMemory(File);

impl ProcessMemory {
    pub(super) fn open(pid: u32) -> io::Result<ProcessMemory> {
        let flags = libc::O_NOCTTY;
        File::options().read(true).custom_flags(flags).open(format!("/proc/{pid}/mem")).map(ProcessMemory)
    }
}

impl ReadAt for ProcessMemory {
    fn length(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.0, into, offset)
    }
}

/// Memory behind pages.
#[derive(Debug)]
pub(super) struct Memory<R> {
    source: R,
    pages: HashMap<u64, Vec<u8>>,
    read: u64,
}

impl<R: ReadAt> Memory<R> {
    pub(super) fn new(source: R) -> Memory<R> {
        Memory { source, pages: HashMap::new(), read: 0 }
    }

    /// How many bytes were read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.read
    }

    /// From now on everything is read again.
    pub(super) fn forget(&mut self) {
        self.pages.clear();
    }

    /// Exactly the bytes at an address.
    pub(super) fn fill(&mut self, address: u64, into: &mut [u8]) -> Result<(), HeapError> {
        let size = u64::try_from(PAGE_BYTES).unwrap_or(u64::MAX);
        let mut at = address;
        let mut rest = into;
        while !rest.is_empty() {
            let begin = at - at % size;
            let from = usize::try_from(at - begin).unwrap_or(0);
            let length = rest.len().min(PAGE_BYTES - from);
            let page = self.page(begin)?;
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(page.get(from..from + length).ok_or(HeapError::NotThere)?);
            rest = later;
            at = begin.checked_add(size).ok_or(HeapError::NotThere)?;
        }
        Ok(())
    }

    /// A number of 64 bits.
    pub(super) fn u64(&mut self, address: u64) -> Result<u64, HeapError> {
        let mut raw = [0; 8];
        self.fill(address, &mut raw)?;
        Ok(u64_at(&raw, 0))
    }

    /// A number of 32 bits, as it is at this very moment.
    pub(super) fn u32_now(&mut self, address: u64) -> Result<u32, HeapError> {
        let mut raw = [0; 4];
        match self.source.read_at(address, &mut raw) {
            Ok(4) => Ok(u32_at(&raw, 0)),
            Ok(_) => Err(HeapError::NotThere),
            Err(error) => Err(HeapError::of_memory(&error)),
        }
    }

    fn page(&mut self, begin: u64) -> Result<&[u8], HeapError> {
        if self.pages.len() >= PAGES_MAX && !self.pages.contains_key(&begin) {
            self.pages.clear();
        }
        match self.pages.entry(begin) {
            std::collections::hash_map::Entry::Occupied(page) => Ok(page.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let mut bytes = vec![0; PAGE_BYTES];
                let read =
                    self.source.read_at(begin, &mut bytes).map_err(|error| HeapError::of_memory(&error))?;
                bytes.truncate(read);
                self.read += u64::try_from(read).unwrap_or(0);
                if self.read > BYTES_MAX {
                    return Err(HeapError::TooLarge("bytes"));
                }
                Ok(place.insert(bytes))
            }
        }
    }
}

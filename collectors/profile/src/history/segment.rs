//! A segment on its way to disk: what is in the file, and what waits to be.
//!
//! Owns the order "pack, remember, write at a known place", so that a failed write is simply tried again over whatever it
//! left. Refuses to know about directories and bounds.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use model::time::Stamp;
use zstd::bulk::Compressor;

use super::block::{self, Block, Listed, Part};

/// zstd level: measured on windows of etcd under load, 3 saves a tenth of the bytes of 1 for the same time.
const LEVEL: i32 = 3;

/// The segment being filled, or one that could not be written yet.
#[derive(Debug)]
pub(super) struct Open {
    header: block::Segment,
    file: Option<(u32, File)>,
    /// Bytes of whole blocks in the file.
    written: u64,
    unwritten: Vec<u8>,
    unwritten_windows: u64,
    unwritten_blocks: u64,
    ordinal: u32,
    windows: u32,
    last_sum: u32,
    end: Stamp,
}

impl Open {
    pub(super) fn new(header: block::Segment) -> Open {
        let unwritten = header.write();
        Open {
            header,
            file: None,
            written: 0,
            last_sum: block::last_sum(&unwritten),
            unwritten,
            unwritten_windows: 0,
            unwritten_blocks: 0,
            ordinal: 0,
            windows: 0,
            end: header.at,
        }
    }

    /// Packs one block and keeps it for the next write.
    pub(super) fn push(&mut self, dictionary: &[u8], samples: &[u8], windows: Vec<Listed>) -> io::Result<()> {
        let (packed_dictionary, packed_samples) = (pack(dictionary)?, pack(samples)?);
        if let Some(last) = windows.last() {
            self.end = last.at.plus_ns(last.duration_ns);
        }
        let count = u32::try_from(windows.len()).unwrap_or(u32::MAX);
        let block = Block {
            ordinal: self.ordinal,
            first: self.windows,
            dictionary: part(dictionary, &packed_dictionary),
            samples: part(samples, &packed_samples),
            before: self.last_sum,
            windows,
        };
        let header = block.write();
        self.last_sum = block::last_sum(&header);
        self.ordinal += 1;
        self.windows += count;
        self.unwritten_windows += u64::from(count);
        self.unwritten_blocks += 1;
        for bytes in [header, packed_dictionary, packed_samples] {
            self.unwritten.extend_from_slice(&bytes);
        }
        Ok(())
    }

    /// Writes what waits: bytes and blocks that are in the file now and were not.
    pub(super) fn write(&mut self) -> io::Result<(u64, u64)> {
        let Some((_, file)) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all_at(&self.unwritten, self.written) {
            // Half a block is harmless where it stands, but the space it takes is what others lack.
            drop(file.set_len(self.written));
            return Err(error);
        }
        let bytes = block::wide(self.unwritten.len());
        self.written += bytes;
        self.unwritten = Vec::new();
        self.unwritten_windows = 0;
        Ok((bytes, std::mem::take(&mut self.unwritten_blocks)))
    }

    pub(super) fn attach(&mut self, id: u32, file: File) {
        self.file = Some((id, file));
    }

    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref().map(|(_, file)| file)
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.file.as_ref().map(|(id, _)| *id)
    }

    /// Whether somebody has removed the file: what we write then is read by nobody.
    pub(super) fn is_removed(&self) -> bool {
        self.file().and_then(|file| file.metadata().ok()).is_some_and(|metadata| metadata.nlink() == 0)
    }

    /// What a reader must be given beside the file: from where on, and the bytes.
    pub(super) fn unwritten(&self) -> (u64, &[u8]) {
        (self.written, &self.unwritten)
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.unwritten_blocks > 0
    }

    pub(super) fn unwritten_windows(&self) -> u64 {
        self.unwritten_windows
    }

    pub(super) fn bytes(&self) -> u64 {
        self.written + block::wide(self.unwritten.len())
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn windows(&self) -> u32 {
        self.windows
    }

    pub(super) fn header(&self) -> &block::Segment {
        &self.header
    }

    /// When its last window ended.
    pub(super) fn end(&self) -> Stamp {
        self.end
    }
}

fn pack(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.compress(plain)
}

fn part(plain: &[u8], packed: &[u8]) -> Part {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Part { packed: size(packed), plain: size(plain), sum: block::checksum(packed) }
}

//! A recording: what the engine was told and what it said, in the order it happened, so that a replay can be held against it.
//!
//! Format: 8 bytes magic, 2 bytes version (LE), then blocks of a 4-byte length (LE) and one zstd frame with its content
//! checksum. A block holds entries: 4-byte length (LE) and postcard bytes each. A torn tail ends the recording at its
//! last whole block. Layouts of metrics pages are written once a generation. Files are 0600: pages and log lines are in them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use model::finding::Outcome;
use model::record::{Fact, Record};
use model::scrape::Layout;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"BACKBURN";
/// Grows when an entry changes its meaning; an unknown version is refused, not guessed.
pub(crate) const VERSION: u16 = 4;
/// A block is closed at this size, or when its writer is asked to flush: the unit of loss after a crash.
const BLOCK_BYTES: usize = 1 << 20;
/// No block of ours is larger; a longer length is a damaged file, not a reason to allocate.
const BLOCK_BYTES_MAX: usize = 64 << 20;
/// zstd level: recordings are written beside etcd, so speed before size.
const LEVEL: i32 = 1;

/// One entry of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// First entry: the engine's state before the first record (`Engine::snapshot`), without secrets.
    Start {
        /// The agent's version.
        version: String,
        /// Postcard of the engine.
        engine: Vec<u8>,
    },
    /// The shape of the scrapes of one target from here on.
    Layout(Arc<str>, Layout),
    /// One record, as applied.
    Record(Record),
    /// One line the recording run said: a finding or a decision, as JSON.
    Said(String),
    /// The recorder could not keep up: so many records are missing here, and no replay can be held against the rest.
    Missing(u64),
}

/// Why a recording could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordingError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The magic is another.
    #[error("not a recording: it does not begin with the mark of one")]
    NotARecording,
    /// Written by another version.
    #[error("recording format {0} is not format {VERSION}: use the agent that wrote it")]
    Version(u16),
    /// A block in the middle is not what was written.
    #[error("damaged after {0} whole blocks")]
    Block(u64),
    /// An entry could not be encoded or decoded.
    #[error("damaged entry: {0}")]
    Entry(#[from] postcard::Error),
}

/// Writes a recording, block by block.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    block: Vec<u8>,
    generations: BTreeMap<Arc<str>, u64>,
}

impl Writer {
    /// Creates the file; it must not exist yet.
    pub(crate) fn create(path: &Path, engine: Vec<u8>) -> Result<Writer, RecordingError> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        let mut writer = Writer { file, block: Vec::new(), generations: BTreeMap::new() };
        writer.push(&Entry::Start { version: env!("CARGO_PKG_VERSION").to_owned(), engine })?;
        writer.flush()?;
        Ok(writer)
    }

    /// Adds what was applied and what was said.
    pub(crate) fn applied(&mut self, record: &Record, outcome: &Outcome) -> Result<(), RecordingError> {
        if let Fact::Scrape(scrape) = &record.fact
            && self.generations.get(&scrape.target) != Some(&scrape.generation)
        {
            self.generations.insert(Arc::clone(&scrape.target), scrape.generation);
            self.push(&Entry::Layout(Arc::clone(&scrape.target), Layout::clone(&scrape.layout)))?;
        }
        self.push(&Entry::Record(record.clone()))?;
        for line in said(outcome) {
            self.push(&Entry::Said(line))?;
        }
        if self.block.len() >= BLOCK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Notes that records are missing here.
    pub(crate) fn missing(&mut self, records: u64) -> Result<(), RecordingError> {
        self.push(&Entry::Missing(records))
    }

    /// Closes the open block and hands it to the kernel.
    pub(crate) fn flush(&mut self) -> Result<(), RecordingError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.write_all(&self.block)?;
        let packed = encoder.finish()?;
        self.file.write_all(&u32::try_from(packed.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.file.write_all(&packed)?;
        self.block.clear();
        Ok(())
    }

    fn push(&mut self, entry: &Entry) -> Result<(), RecordingError> {
        let bytes = postcard::to_stdvec(entry)?;
        self.block.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.block.extend_from_slice(&bytes);
        Ok(())
    }
}

/// What a run says of one outcome, a JSON line each: the contract between a recording and its replay.
pub(crate) fn said(outcome: &Outcome) -> Vec<String> {
    let findings = outcome.findings.iter().map(|finding| line("finding", finding));
    let decisions = outcome.decisions.iter().map(|decision| line("decision", decision));
    findings.chain(decisions).collect()
}

fn line(kind: &str, value: &impl Serialize) -> String {
    // Our own types: no map keys but strings, no failing Serialize; a failure would still be a line that differs.
    let json = serde_json::to_string(value).unwrap_or_else(|error| format!("\"{error}\""));
    format!("{{\"{kind}\":{json}}}")
}

/// Reads a recording, block by block; memory is one block.
#[derive(Debug)]
pub(crate) struct Reader {
    file: BufReader<File>,
    block: Vec<u8>,
    at: usize,
    layouts: BTreeMap<Arc<str>, Arc<Layout>>,
    torn: bool,
    /// Whole blocks so far.
    blocks: u64,
}

impl Reader {
    /// Opens the file and checks its mark.
    pub(crate) fn open(path: &Path) -> Result<Reader, RecordingError> {
        let mut file = BufReader::new(File::open(path)?);
        let mut head = [0; 10];
        file.read_exact(&mut head).map_err(|_| RecordingError::NotARecording)?;
        let (magic, version) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(RecordingError::NotARecording);
        }
        let version = version.try_into().map(u16::from_le_bytes).unwrap_or(0);
        if version != VERSION {
            return Err(RecordingError::Version(version));
        }
        Ok(Reader { file, block: Vec::new(), at: 0, layouts: BTreeMap::new(), torn: false, blocks: 0 })
    }

    /// Whether the file ended within a block.
    pub(crate) fn torn(&self) -> bool {
        self.torn
    }

    /// The next entry, scrapes with their layout; `None` at the end of the last whole block.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, RecordingError> {
        loop {
            let Some(bytes) = self.bytes() else {
                if self.fill()? {
                    continue;
                }
                return Ok(None);
            };
            let mut entry: Entry = postcard::from_bytes(&bytes)?;
            match &mut entry {
                Entry::Layout(target, layout) => {
                    self.layouts.insert(Arc::clone(target), Arc::new(layout.clone()));
                    continue;
                }
                Entry::Record(Record { fact: Fact::Scrape(scrape), .. }) => {
                    if let Some(layout) = self.layouts.get(&scrape.target) {
                        scrape.layout = Arc::clone(layout);
                    }
                }
                _ => {}
            }
            return Ok(Some(entry));
        }
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let head = self.block.get(self.at..self.at + 4)?;
        let length = usize::try_from(u32::from_le_bytes(head.try_into().ok()?)).ok()?;
        let bytes = self.block.get(self.at + 4..self.at + 4 + length)?.to_vec();
        self.at += 4 + length;
        Some(bytes)
    }

    /// Reads the next whole block; false at the end of the file, or within its last block. A block that is whole and does
    /// not unpack while others follow was changed, not torn: nothing after it can be believed.
    fn fill(&mut self) -> Result<bool, RecordingError> {
        let mut head = Vec::new();
        self.file.by_ref().take(4).read_to_end(&mut head)?;
        if head.is_empty() {
            return Ok(false);
        }
        self.torn = true;
        let Some(length) = head.first_chunk().map(|head| u32::from_le_bytes(*head)) else { return Ok(false) };
        if usize::try_from(length).is_ok_and(|length| length > BLOCK_BYTES_MAX) {
            return Err(RecordingError::Block(self.blocks));
        }
        let mut packed = Vec::new();
        self.file.by_ref().take(u64::from(length)).read_to_end(&mut packed)?;
        if u32::try_from(packed.len()) != Ok(length) {
            return Ok(false);
        }
        let mut block = Vec::new();
        let unpacked = zstd::Decoder::new(packed.as_slice())
            .and_then(|decoder| decoder.take(BLOCK_BYTES_MAX as u64).read_to_end(&mut block));
        if unpacked.is_err() {
            let is_last = self.file.fill_buf()?.is_empty();
            return if is_last { Ok(false) } else { Err(RecordingError::Block(self.blocks)) };
        }
        self.torn = false;
        self.blocks += 1;
        self.block = block;
        self.at = 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use model::origin::Origin;
    use model::record::Tick;
    use model::time::Stamp;

    use super::*;

    fn tick(second: u64) -> Record {
        let at = Stamp { mono_ns: second * 1_000_000_000, wall_ns: second * 1_000_000_000 };
        Record { at, origin: Arc::new(Origin::default()), fact: Fact::Tick(Tick::default()) }
    }

    fn written(blocks: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.rec");
        let mut writer = Writer::create(&path, vec![1, 2, 3]).unwrap();
        for second in 0..blocks {
            writer.applied(&tick(second), &Outcome::default()).unwrap();
            writer.flush().unwrap();
        }
        (dir, path)
    }

    fn records(path: &Path) -> (usize, bool) {
        let mut reader = Reader::open(path).unwrap();
        let mut count = 0;
        while let Some(entry) = reader.next().unwrap() {
            count += usize::from(matches!(entry, Entry::Record(_)));
        }
        (count, reader.torn())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (_dir, path) = written(5);
        assert_eq!(records(&path), (5, false));
    }

    #[test]
    fn a_torn_tail_ends_at_the_last_whole_block() {
        let (_dir, path) = written(5);
        let bytes = std::fs::read(&path).unwrap();
        let whole = bytes.len();
        for cut in 1..40 {
            std::fs::write(&path, &bytes[..whole - cut]).unwrap();
            let (count, torn) = records(&path);
            assert!(count < 5 && (torn || count == 4), "cut {cut}: {count} records, torn {torn}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_by_the_checksum() {
        let (_dir, path) = written(3);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(records(&path), (2, true));
    }

    #[test]
    fn a_flipped_bit_before_other_blocks_is_damage_and_no_torn_tail() {
        let (_dir, path) = written(3);
        let mut bytes = std::fs::read(&path).unwrap();
        // Magic, version, length: this is in the first block's frame.
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert!(matches!(reader.next(), Err(RecordingError::Block(0))));
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not.rec");
        for bytes in [&b""[..], b"BACKBUR", b"ELF and more bytes", b"BACKBURN\x63\x00"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Reader::open(&path).is_err(), "{bytes:?}");
        }
    }
}

//! The journal: an append-only file of JSON lines, each with a checksum, folded into a [`Book`] at start.
//!
//! Owns `journal.jsonl`, its lock and the evidence files beside it. Refuses a second agent on the same folder. A line that
//! was torn by a crash is cut off; a line that rotted is skipped and counted: the effect it ended is sent again with its
//! id, which the receiver knows.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::book::{Book, Entry};

/// Rotated from this size on, or from twice the size after the last rotation: a signal takes about 10 kB with its body.
const ROTATE_BYTES: u64 = 1 << 20;

/// Read at start: [`super::book::OPEN_MAX`] signals with all their events are 22 MB; more is not ours.
const READ_BYTES_MAX: u64 = 64 << 20;

/// Evidence files kept; the oldest go first. One is a few hundred kB at most.
const EVIDENCE_FILES_MAX: usize = 256;

/// A line begins with this, then 16 hex digits of the entry's SHA-256, [`LINE_MID`], the entry, `}`.
const LINE_HEAD: &str = r#"{"sum":""#;

/// Between sum and entry.
const LINE_MID: &str = r#"","entry":"#;

/// Hex digits of the sum: 64 bits find every accident.
const SUM_HEX: usize = 16;

/// Why the journal cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process holds the folder.
    #[error("another agent uses {0}")]
    Locked(PathBuf),
    /// The file is larger than this program writes.
    #[error("{0} is larger than any journal of this agent: move it away")]
    TooLarge(PathBuf),
    /// The disk said no.
    #[error("{verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An entry that cannot be written as JSON.
    #[error("encode a journal entry")]
    Encode(#[from] serde_json::Error),
}

/// Puts verb and path around an I/O error.
fn at<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::Io { verb, path: path.to_owned(), source }
}

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    file: File,
    /// Bytes of whole lines; what a failed write leaves behind them is cut off.
    bytes: u64,
    rotate_at: u64,
    lock: File,
}

impl Drop for Journal {
    /// Lets the folder go at once: closing the file leaves it locked while a child just forked, by any thread, has yet to
    /// become its program, for it holds the file till then.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, folder = %self.folder.display(), "the journal's lock is let go with its last holder");
        }
    }
}

/// What was found at start.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// All that was written.
    pub(crate) book: Book,
    /// Lines that were skipped.
    pub(crate) rotten: u64,
}

impl Journal {
    /// Opens (or begins) the journal in `folder`, which is made with mode 0700 where it is missing.
    pub(crate) fn open(folder: &Path) -> Result<(Journal, Recovered), JournalError> {
        let signals = folder.join("signals");
        DirBuilder::new().recursive(true).mode(0o700).create(&signals).map_err(at("create", &signals))?;
        let lock_path = folder.join("journal.lock");
        let lock = private().open(&lock_path).map_err(at("open", &lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::Locked(folder.to_owned()),
            TryLockError::Error(source) => at("lock", &lock_path)(source),
        })?;
        let path = folder.join("journal.jsonl");
        let mut file = private().read(true).open(&path).map_err(at("open", &path))?;
        let found = file.metadata().map_err(at("stat", &path))?.len();
        if found > READ_BYTES_MAX {
            return Err(JournalError::TooLarge(path));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at("read", &path))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let recovered = fold(bytes.get(..whole).unwrap_or_default());
        let whole = u64::try_from(whole).unwrap_or(u64::MAX);
        if whole < found {
            file.set_len(whole).and_then(|()| file.sync_all()).map_err(at("truncate", &path))?;
        }
        if found == 0 {
            // A journal that begins must not lose its name in a power cut.
            sync_folder(folder)?;
        }
        let rotate_at = ROTATE_BYTES.max(whole.saturating_mul(2));
        Ok((Journal { folder: folder.to_owned(), file, bytes: whole, rotate_at, lock }, recovered))
    }

    /// Bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends one entry; with `durable` it is on the disk when this returns. After an error nothing was appended.
    pub(crate) fn append(&mut self, entry: &Entry, durable: bool) -> Result<(), JournalError> {
        let line = encode(entry)?;
        let path = self.folder.join("journal.jsonl");
        let written = self.file.write_all(line.as_bytes());
        let synced = written.and_then(|()| if durable { self.file.sync_data() } else { Ok(()) });
        if let Err(source) = synced {
            // What is left of the line must not stand before the next one; if cutting fails too, the next start skips it.
            self.file.set_len(self.bytes).map_err(at("truncate", &path))?;
            return Err(JournalError::Io { verb: "append to", path, source });
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Whether the file is due for [`Journal::rotate`].
    pub(crate) fn is_large(&self) -> bool {
        self.bytes >= self.rotate_at
    }

    /// Writes the book anew and puts it in the file's place: open signals stay whole, closed ones shrink to their ids.
    pub(crate) fn rotate(&mut self, book: &Book) -> Result<(), JournalError> {
        let mut text = String::new();
        for entry in book.entries() {
            text.push_str(&encode(&entry)?);
        }
        let path = self.folder.join("journal.jsonl");
        replace(&path, text.as_bytes())?;
        self.file = private().open(&path).map_err(at("open", &path))?;
        self.bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.rotate_at = ROTATE_BYTES.max(self.bytes.saturating_mul(2));
        Ok(())
    }

    /// Where the evidence of a signal lies.
    pub(crate) fn evidence_path(&self, signal: &str) -> PathBuf {
        // Ids are `sig_` and hex: no path can be made of them.
        self.folder.join("signals").join(format!("{signal}.json"))
    }

    /// Writes a signal's evidence, durable when this returns, and drops the oldest files beyond the bound.
    pub(crate) fn write_evidence(&self, signal: &str, value: &Value) -> Result<(), JournalError> {
        replace(&self.evidence_path(signal), serde_json::to_string_pretty(value)?.as_bytes())?;
        self.prune();
        Ok(())
    }

    /// The evidence as it stands; `None` where it is missing or unreadable.
    pub(crate) fn read_evidence(&self, signal: &str) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.evidence_path(signal)).ok()?).ok()
    }

    fn prune(&self) {
        let Ok(listed) = fs::read_dir(self.folder.join("signals")) else { return };
        let mut files: Vec<_> = listed
            .filter_map(Result::ok)
            .filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path())))
            .collect();
        files.sort();
        let surplus = files.len().saturating_sub(EVIDENCE_FILES_MAX);
        for (_, path) in files.into_iter().take(surplus) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "old evidence stays");
            }
        }
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options
}

/// Atomic and durable: a new file, synced, in the old one's place, and the folder synced.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), JournalError> {
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(at("create", &fresh))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at("write", &fresh))?;
    fs::rename(&fresh, path).map_err(at("rename", &fresh))?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> Result<(), JournalError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at("sync", folder))
}

fn encode(entry: &Entry) -> Result<String, JournalError> {
    let json = serde_json::to_string(entry)?;
    Ok(format!("{LINE_HEAD}{}{LINE_MID}{json}}}\n", sum(&json)))
}

fn sum(json: &str) -> String {
    let mut text = model::hex::text(&Sha256::digest(json.as_bytes()));
    text.truncate(SUM_HEX);
    text
}

fn decode(line: &[u8]) -> Option<Entry> {
    let text = std::str::from_utf8(line).ok()?.strip_prefix(LINE_HEAD)?;
    let (given, rest) = text.split_at_checked(SUM_HEX)?;
    let json = rest.strip_prefix(LINE_MID)?.strip_suffix('}')?;
    if sum(json) == given { serde_json::from_str(json).ok() } else { None }
}

fn fold(bytes: &[u8]) -> Recovered {
    let mut recovered = Recovered { book: Book::default(), rotten: 0 };
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match decode(line) {
            Some(entry) => recovered.book.apply(&entry),
            None => recovered.rotten += 1,
        }
    }
    recovered
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::super::book::tests::story;
    use super::super::book::{Book, Entry};
    use super::{Journal, JournalError, encode};

    fn folder(name: &str) -> PathBuf {
        // Thousands of syncs: in memory where the host has it.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = base.join(format!("backburn-journal-{}-{name}", std::process::id()));
        let _absent = fs::remove_dir_all(&folder);
        folder
    }

    fn folded(entries: &[Entry]) -> Book {
        let mut book = Book::default();
        entries.iter().for_each(|entry| book.apply(entry));
        book
    }

    #[test]
    fn a_crash_at_every_byte_leaves_the_entries_before_it_and_a_journal_that_goes_on() {
        let folder = folder("prefix");
        fs::create_dir_all(&folder).unwrap();
        let lines: Vec<String> = story().iter().map(|entry| encode(entry).unwrap()).collect();
        let text = lines.concat();
        for cut in 0..=text.len() {
            fs::write(folder.join("journal.jsonl"), &text.as_bytes()[..cut]).unwrap();
            let whole = text.as_bytes()[..cut].iter().filter(|&&byte| byte == b'\n').count();
            let (mut journal, recovered) = Journal::open(&folder).unwrap();
            assert_eq!(recovered.rotten, 0, "cut at {cut}");
            assert_eq!(recovered.book, folded(&story()[..whole]), "cut at {cut}");
            // The rest is written again, as a running agent would: nothing of the torn line may disturb it.
            if cut % 7 == 0 {
                story()[whole..].iter().for_each(|entry| journal.append(entry, false).unwrap());
                drop(journal);
                let (_, recovered) = Journal::open(&folder).unwrap();
                assert_eq!((recovered.rotten, recovered.book), (0, folded(&story())), "cut at {cut}");
            }
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_rotten_line_costs_itself_alone() {
        let folder = folder("rot");
        fs::create_dir_all(&folder).unwrap();
        let lines: Vec<String> = story().iter().map(|entry| encode(entry).unwrap()).collect();
        for rotten in 0..lines.len() {
            let mut bytes = lines.concat().into_bytes();
            let start: usize = lines[..rotten].iter().map(String::len).sum();
            bytes[start + lines[rotten].len() / 2] ^= 0x20;
            fs::write(folder.join("journal.jsonl"), &bytes).unwrap();
            let (_, recovered) = Journal::open(&folder).unwrap();
            let mut left = story();
            left.remove(rotten);
            assert_eq!((recovered.rotten, recovered.book), (1, folded(&left)), "line {rotten}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn garbage_of_any_kind_is_counted_and_never_stops_the_start() {
        let folder = folder("garbage");
        fs::create_dir_all(&folder).unwrap();
        for (bytes, rotten) in [
            (&b"\0\0\0\0\n"[..], 1),
            (b"{}\n{\"sum\":\"\n\n\n", 2),
            (b"\xff\xfe\n", 1),
            (b"{\"sum\":\"0123456789abcdef\",\"entry\":{}}\n", 1),
            (&[b'x'; 1 << 16], 0),
        ] {
            fs::write(folder.join("journal.jsonl"), bytes).unwrap();
            let (_, recovered) = Journal::open(&folder).unwrap();
            assert_eq!((recovered.rotten, recovered.book), (rotten, Book::default()));
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn rotation_keeps_open_signals_and_forgets_the_way_there() {
        let folder = folder("rotate");
        let (mut journal, _) = Journal::open(&folder).unwrap();
        let entries = &story()[..9];
        entries.iter().for_each(|entry| journal.append(entry, true).unwrap());
        let before = journal.bytes();
        journal.rotate(&folded(entries)).unwrap();
        assert!(journal.bytes() < before);
        journal.append(&story()[9], true).unwrap();
        drop(journal);
        let (_, recovered) = Journal::open(&folder).unwrap();
        assert_eq!(recovered.book, folded(&story()[..10]));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn one_folder_has_one_agent_and_private_files() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder("lock");
        let (journal, _) = Journal::open(&folder).unwrap();
        assert!(matches!(Journal::open(&folder), Err(JournalError::Locked(_))));
        journal.write_evidence("sig_1", &serde_json::json!({"a": 1})).unwrap();
        for file in ["journal.jsonl", "journal.lock", "signals/sig_1.json"] {
            let mode = fs::metadata(folder.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert_eq!(journal.read_evidence("sig_1").unwrap()["a"], 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_journal_that_is_closed_is_free_at_once() {
        let folder = folder("closed");
        let (journal, _) = Journal::open(&folder).unwrap();
        // What a child has between fork and exec: the same open file.
        let inherited = journal.lock.try_clone().unwrap();
        drop(journal);
        Journal::open(&folder).unwrap();
        drop(inherited);
        fs::remove_dir_all(folder).unwrap();
    }
}

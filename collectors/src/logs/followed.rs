//! One path and the files it has meant: rotation, what is on its way, what must be read again. Owns the order of lines of one
//! path; refuses to read on while a lost batch waits to be read again.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use model::ledger::Ledger;
use model::log::{LogBatch, Receipt, ReceiptState, Stub};
use model::origin::Origin;
use model::time::{SECOND_NS, Stamp};

use crate::logs::Config;
use crate::logs::checkpoint::Mark;
use crate::logs::file::{FileId, OpenFile, Slice};
use crate::logs::line::Context;
use crate::logs::read::{Read, service_of, zone};
use crate::target::Identity;

/// A renamed file is done when it was silent this long: its writer has opened the new one by then.
const QUIET_NS: u64 = 5 * SECOND_NS;
/// Wait before a lost batch is read again, doubling up to a minute: the queue that lost it is full.
const AGAIN_NS: u64 = SECOND_NS;
const AGAIN_DOUBLINGS_MAX: u32 = 6;
/// A batch that was lost so often, over some minutes, is given up: reading it for ever would hold up all that stands behind it.
const TRIES_MAX: u32 = 8;
/// Batches whose receipts are joined end here: so much is read again at once when one of them is lost.
const JOINED_BYTES_MAX: u64 = 1 << 20;

/// Files of one path that are held open while they are drained: a held file keeps its disk space.
const FILES_OF_A_PATH_MAX: usize = 16;

/// Who a file's lines are about.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    /// Services of the node.
    Node(Arc<Origin>),
    /// The member that writes the file.
    Member(Identity),
}

impl Owner {
    fn origin(&self) -> Arc<Origin> {
        match self {
            Owner::Node(origin) => Arc::clone(origin),
            Owner::Member(identity) => identity.origin(),
        }
    }
}

/// A batch to send.
#[derive(Debug)]
pub(super) struct Parsed {
    pub origin: Arc<Origin>,
    pub batch: LogBatch,
    /// About its size in memory.
    pub bytes: usize,
}

#[derive(Debug)]
struct OnTheWay {
    from: u64,
    to: u64,
    stub: Stub,
    tries: u32,
}

#[derive(Debug)]
struct Again {
    from: u64,
    to: u64,
    not_before_ns: u64,
    tries: u32,
}

/// One open file under its path.
#[derive(Debug)]
pub(super) struct Entry {
    file: OpenFile,
    on_the_way: VecDeque<OnTheWay>,
    again: VecDeque<Again>,
    /// The path means another file now, or none.
    rotated: bool,
    /// Read to its end, tail included.
    finished: bool,
    last_read_ns: u64,
}

/// One path and the files it has meant, oldest first.
#[derive(Debug)]
pub(super) struct Followed {
    path: PathBuf,
    name: Arc<str>,
    service: String,
    owner: Owner,
    entries: VecDeque<Entry>,
    zone_ns: Option<i64>,
    /// Lines read since the last batch that was sent.
    lines: u64,
    lost_bytes: u64,
}

/// What all files share in one turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn<'a> {
    pub config: &'a Config,
    pub now: Stamp,
    pub ledger: &'a Ledger,
    /// So much is on its way that batches behind one another are joined.
    pub join: bool,
}

/// What is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// Ranges of files that nobody has answered for.
    pub ranges: usize,
    /// Batches that are not encoded yet.
    pub parsed: usize,
}

/// What one turn gave.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing to read.
    Idle,
    /// Lines were read, none worth sending.
    Quiet,
    /// A batch to send.
    Batch(Parsed),
}

impl Followed {
    pub(super) fn new(path: PathBuf, owner: Owner, entries: VecDeque<Entry>) -> Followed {
        let service = match owner {
            Owner::Member(_) => "etcd".to_owned(),
            Owner::Node(_) => service_of(&path),
        };
        let name = path.to_string_lossy().into();
        Followed { path, name, service, owner, entries, zone_ns: None, lines: 0, lost_bytes: 0 }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Files of this path that are open, the current one last.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Reads the receipts.
    pub(super) fn settle(&mut self, now: Stamp, ledger: &Ledger) {
        self.entries.iter_mut().for_each(|entry| entry.settle(now, ledger));
    }

    /// Lets go of a file that is read and safe.
    pub(super) fn close_finished(&mut self) -> Option<FileId> {
        self.entries.front().filter(|entry| entry.is_done())?;
        self.entries.pop_front().map(|entry| entry.file.id)
    }

    /// Compares the path with the file that is open.
    pub(super) fn notice_rotation(&mut self, now: Stamp, ledger: &Ledger) {
        let Some(current) = self.entries.back_mut() else { return };
        match fs::metadata(&self.path) {
            Ok(meta) if meta.dev() == current.file.id.dev && meta.ino() == current.file.id.ino => {
                current.rotated = current.finished; // renamed back before it was finished
            }
            Ok(_) => match OpenFile::open(&self.path) {
                Ok(Some(file)) => {
                    current.rotated = true;
                    self.entries.push_back(Entry::new(file, false, now));
                }
                Ok(None) | Err(_) => ledger.add("agent_logs_files_skipped_total", "unreadable", 1),
            },
            // Between rename and reopen the path means nothing; the open file does.
            Err(error) => current.rotated |= error.kind() == io::ErrorKind::NotFound,
        }
        if self.entries.len() > FILES_OF_A_PATH_MAX {
            let given_up = self
                .entries
                .pop_front()
                .map_or(0, |entry| entry.file.size - entry.safe_offset().min(entry.file.size));
            ledger.add("agent_logs_lost_bytes_total", "rotated_too_fast", given_up);
            self.lost_bytes = self.lost_bytes.saturating_add(given_up);
        }
    }

    /// Reads one slice of the oldest file that has one.
    pub(super) fn step(&mut self, turn: &Turn<'_>) -> Step {
        let ledger = turn.ledger;
        for index in 0..self.entries.len() {
            let Some(entry) = self.entries.get_mut(index) else { break };
            let was_lost = self.lost_bytes;
            let slice = entry.next_slice(turn.config, turn.now, &mut self.lost_bytes);
            ledger.add("agent_logs_lost_bytes_total", "truncated", self.lost_bytes - was_lost);
            let (slice, tries) = match slice {
                Ok(Some(found)) => found,
                Ok(None) if entry.at_end() => continue,
                Ok(None) => return Step::Idle,
                Err(_) => {
                    ledger.add("agent_logs_read_errors_total", "io", 1);
                    return Step::Idle;
                }
            };
            return self.parse(index, &slice, tries, turn);
        }
        Step::Idle
    }

    fn parse(&mut self, index: usize, slice: &Slice, tries: u32, turn: &Turn<'_>) -> Step {
        let &Turn { config, now, .. } = turn;
        let at_end = self.entries.get(index).is_some_and(|entry| slice.to >= entry.file.size);
        if at_end && self.zone_ns.is_none() {
            self.zone_ns = zone(&slice.bytes, now.wall_ns);
        }
        let context = Context {
            service: &self.service,
            member: matches!(self.owner, Owner::Member(_)),
            now_ns: now.wall_ns,
            zone_ns: self.zone_ns.unwrap_or(0),
            ship_all: config.ship_all,
        };
        let mut read = Read::default();
        slice
            .bytes
            .split_inclusive(|&byte| byte == b'\n')
            .for_each(|raw| read.line(raw, &context, config.line_bytes_max));
        read.count(turn.ledger, slice);
        self.lines += read.lines;
        let Some(entry) = self.entries.get_mut(index) else { return Step::Quiet };
        entry.last_read_ns = now.mono_ns;
        if read.events.is_empty() && !read.rejected() && self.lost_bytes == 0 {
            return Step::Quiet;
        }
        let receipt = entry.sent(slice, tries, turn.join);
        let bytes = read.bytes();
        let batch = LogBatch {
            file: Arc::clone(&self.name),
            rejects: read.rejects(),
            events: read.events,
            lines: std::mem::take(&mut self.lines),
            lost_bytes: std::mem::take(&mut self.lost_bytes),
            receipt,
        };
        Step::Batch(Parsed { origin: self.owner.origin(), batch, bytes })
    }
}

impl Entry {
    /// Whether this inode is open here.
    pub(super) fn is(&self, dev: u64, ino: u64) -> bool {
        self.file.id.dev == dev && self.file.id.ino == ino
    }

    /// What nobody has answered for yet.
    pub(super) fn open(&self) -> Open {
        let parsed = self.on_the_way.iter().map(|range| range.stub.parsed()).sum::<u32>();
        Open { ranges: self.on_the_way.len(), parsed: usize::try_from(parsed).unwrap_or(usize::MAX) }
    }

    /// Remembers a slice until its receipt is resolved. With `join`, new lines count to the range before them: a receiver that
    /// is away for long then costs a range a megabyte, not one a batch.
    fn sent(&mut self, slice: &Slice, tries: u32, join: bool) -> Receipt {
        let (from, to) = (slice.from, slice.to);
        let before = self.on_the_way.back_mut().filter(|range| {
            join && tries + range.tries == 0
                && range.to <= from
                && range.to - range.from < JOINED_BYTES_MAX
                && range.stub.state() == ReceiptState::Pending
        });
        if let Some(range) = before {
            range.to = to;
            return range.stub.issue();
        }
        let stub = Stub::default();
        let receipt = stub.issue();
        let place = self.on_the_way.partition_point(|other| other.from < from);
        self.on_the_way.insert(place, OnTheWay { from, to, stub, tries });
        receipt
    }

    /// How far this file is safe.
    pub(super) fn mark(&self, path: &Path) -> Mark {
        Mark { path: path.to_owned(), id: self.file.id.clone(), offset: self.safe_offset() }
    }

    /// The file of a mark under whatever name it has in its directory now.
    pub(super) fn renamed(path: &Path, mark: &Mark) -> Option<OpenFile> {
        /// Names looked at in one log directory.
        const NAMES_MAX: usize = 10_000;
        fs::read_dir(path.parent()?).ok()?.take(NAMES_MAX).filter_map(Result::ok).find_map(|entry| {
            let meta = entry.metadata().ok()?;
            if meta.dev() != mark.id.dev || meta.ino() != mark.id.ino {
                return None;
            }
            let mut file = OpenFile::open(&entry.path()).ok().flatten().filter(|file| file.was(&mark.id))?;
            file.seek(mark.offset);
            Some(file)
        })
    }

    pub(super) fn new(file: OpenFile, rotated: bool, now: Stamp) -> Entry {
        Entry {
            file,
            on_the_way: VecDeque::new(),
            again: VecDeque::new(),
            rotated,
            finished: false,
            last_read_ns: now.mono_ns,
        }
    }

    /// A lost slice first, then new lines, then, when the file is done, its tail. With the number of earlier tries.
    fn next_slice(
        &mut self,
        config: &Config,
        now: Stamp,
        lost: &mut u64,
    ) -> io::Result<Option<(Slice, u32)>> {
        if let Some(unread) = self.file.look()? {
            // What was on its way cannot be read again from here any more.
            let again: u64 = self.again.drain(..).map(|range| range.to - range.from).sum();
            self.on_the_way.clear();
            *lost = lost.saturating_add(unread).saturating_add(again);
        }
        if let Some(range) = self.again.front() {
            if now.mono_ns < range.not_before_ns {
                return Ok(None);
            }
            let (slice, tries) = (self.file.read_again(range.from, range.to)?, range.tries);
            self.again.pop_front();
            return Ok(Some((slice, tries)));
        }
        if self.finished {
            return Ok(None);
        }
        if let Some(slice) = self.file.read(config.slice_bytes, config.line_bytes_max)? {
            return Ok(Some((slice, 0)));
        }
        let silent = now.mono_ns.saturating_sub(self.last_read_ns) >= QUIET_NS;
        if self.rotated && silent {
            self.finished = true;
            return Ok(self.file.read_tail(config.line_bytes_max)?.map(|slice| (slice, 0)));
        }
        Ok(None)
    }

    /// Everything that stands in it now was read: the next file may follow.
    fn at_end(&self) -> bool {
        self.again.is_empty() && (self.finished || self.rotated)
    }

    pub(super) fn is_done(&self) -> bool {
        self.finished && self.again.is_empty() && self.on_the_way.is_empty()
    }

    pub(super) fn safe_offset(&self) -> u64 {
        let sent = self.on_the_way.iter().map(|range| range.from).min();
        let again = self.again.iter().map(|range| range.from).min();
        [sent, again].into_iter().flatten().fold(self.file.offset, u64::min)
    }

    pub(super) fn settle(&mut self, now: Stamp, ledger: &Ledger) {
        let again = &mut self.again;
        self.on_the_way.retain(|range| match range.stub.state() {
            ReceiptState::Taken => false,
            ReceiptState::Pending => true,
            ReceiptState::Lost if range.tries >= TRIES_MAX => {
                ledger.add("agent_logs_lost_bytes_total", "lost_too_often", range.to - range.from);
                false
            }
            ReceiptState::Lost => {
                let wait = AGAIN_NS << range.tries.min(AGAIN_DOUBLINGS_MAX);
                again.push_back(Again {
                    from: range.from,
                    to: range.to,
                    not_before_ns: now.mono_ns.saturating_add(wait),
                    tries: range.tries + 1,
                });
                ledger.add("agent_logs_read_again_total", "batch_lost", 1);
                false
            }
        });
    }
}

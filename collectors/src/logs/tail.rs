//! All files that are followed, and one pass over them: look, read a slice of each, parse. Owns rotation, what is on its way
//! and what must be read again. Blocking file calls only; the caller keeps them off the runtime's thread.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::ledger::Ledger;
use model::log::{LogBatch, Receipt, ReceiptState};
use model::origin::Origin;
use model::time::{SECOND_NS, Stamp};

use crate::logs::checkpoint::{self, Mark};
use crate::logs::file::{FileId, OpenFile, Slice};
use crate::logs::line::{self, Context, Line, Reject};
use crate::logs::{Config, StartAt, pattern, time};
use crate::target::Identity;

/// Patterns are looked up this often; a directory walk costs more than a look at a known file.
const SCAN_NS: u64 = SECOND_NS;
/// A renamed file is done when it was silent this long: its writer has opened the new one by then.
const QUIET_NS: u64 = 5 * SECOND_NS;
/// Batches whose receipt is open, over all files: with slices of 256 KiB at most 16 MiB of lines are on their way.
const ON_THE_WAY_MAX: usize = 64;
/// Slices of one pass: bounds what is parsed before anything is sent.
const SLICES_MAX: usize = 8;
/// Finished files that are remembered, so that a rotated name that matches a pattern is not read twice.
const DONE_MAX: usize = 1024;
/// Wait before a lost batch is read again, doubling up to a minute: the queue that lost it is full.
const AGAIN_NS: u64 = SECOND_NS;
const AGAIN_DOUBLINGS_MAX: u32 = 6;

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

/// What one pass gave.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub batches: Vec<Parsed>,
    /// Whether more can be read at once.
    pub more: bool,
}

#[derive(Debug)]
struct OnTheWay {
    from: u64,
    to: u64,
    receipt: Receipt,
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
struct Entry {
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
struct Followed {
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

/// All followed files.
#[derive(Debug)]
pub(super) struct Tail {
    config: Config,
    sources: Vec<(PathBuf, Owner)>,
    followed: Vec<Followed>,
    done: VecDeque<FileId>,
    saved: Vec<Mark>,
    first_scan: bool,
    scanned_ns: Option<u64>,
    next: usize,
    ledger: Ledger,
}

impl Tail {
    pub(super) fn new(config: Config, sources: Vec<(PathBuf, Owner)>, ledger: Ledger) -> Tail {
        let saved = config.checkpoint.as_deref().map(checkpoint::load).unwrap_or_default();
        Tail {
            config,
            sources,
            followed: Vec::new(),
            done: VecDeque::new(),
            saved,
            first_scan: true,
            scanned_ns: None,
            next: 0,
            ledger,
        }
    }

    /// One round: find files, then one slice of each that has lines, beginning with another file each time.
    pub(super) fn pass(&mut self, now: Stamp) -> Pass {
        if self.scanned_ns.is_none_or(|at| now.mono_ns.saturating_sub(at) >= SCAN_NS) {
            self.scan(now);
            self.scanned_ns = Some(now.mono_ns);
        }
        let mut pass = Pass::default();
        let count = self.followed.len();
        let mut room = ON_THE_WAY_MAX.saturating_sub(self.settle(now));
        for turn in 0..count {
            let index = (self.next + turn) % count;
            let Some(followed) = self.followed.get_mut(index) else { continue };
            followed.notice_rotation(now, &self.ledger);
            if room == 0 || pass.batches.len() >= SLICES_MAX {
                pass.more |= room > 0;
                continue;
            }
            match followed.step(&self.config, now, &self.ledger) {
                Step::Idle => {}
                Step::Quiet => pass.more = true,
                Step::Batch(parsed) => {
                    pass.more = true;
                    room -= 1;
                    pass.batches.push(parsed);
                }
            }
        }
        self.next = self.next.wrapping_add(1) % count.max(1);
        self.close_finished();
        pass
    }

    /// Batches that nobody has answered for yet.
    pub(super) fn on_the_way(&self) -> usize {
        self.followed.iter().flat_map(|followed| &followed.entries).map(|entry| entry.on_the_way.len()).sum()
    }

    /// How far each file is safe.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let entries = |followed: &Followed| {
            let path = followed.path.clone();
            let mark = move |entry: &Entry| Mark {
                path: path.clone(),
                id: entry.file.id.clone(),
                offset: entry.safe_offset(),
            };
            followed.entries.iter().map(mark).collect::<Vec<_>>()
        };
        self.followed.iter().flat_map(entries).collect()
    }

    /// Reads the receipts; returns how many are still open.
    pub(super) fn settle(&mut self, now: Stamp) -> usize {
        let ledger = &self.ledger;
        self.followed
            .iter_mut()
            .flat_map(|followed| &mut followed.entries)
            .for_each(|entry| entry.settle(now, ledger));
        self.on_the_way()
    }

    fn scan(&mut self, now: Stamp) {
        let found: Vec<(PathBuf, Owner)> = self
            .sources
            .iter()
            .flat_map(|(pattern, owner)| {
                pattern::expand(pattern).into_iter().map(move |path| (path, owner.clone()))
            })
            .collect();
        for (path, owner) in found {
            if self.followed.iter().any(|followed| followed.path == path) {
                continue;
            }
            let open: usize = self.followed.iter().map(|followed| followed.entries.len()).sum();
            if open >= self.config.files_max {
                self.ledger.add("agent_logs_files_skipped_total", "too_many", 1);
                break;
            }
            if let Some(followed) = self.begin(path, owner, now) {
                self.followed.push(followed);
            }
        }
        self.first_scan = false;
        self.saved.clear();
        self.ledger.set("agent_logs_files", "", u64::try_from(self.followed.len()).unwrap_or(0));
    }

    /// Opens a file that is not followed yet, where the checkpoint left it.
    fn begin(&mut self, path: PathBuf, owner: Owner, now: Stamp) -> Option<Followed> {
        let meta = fs::metadata(&path).ok()?;
        if self.is_open(meta.dev(), meta.ino()) {
            return None;
        }
        let mut current = match OpenFile::open(&path) {
            Ok(Some(file)) => file,
            Ok(None) => {
                self.ledger.add(
                    "agent_logs_files_skipped_total",
                    "not_a_regular_file",
                    u64::from(self.first_scan),
                );
                return None;
            }
            Err(_) => {
                self.ledger.add("agent_logs_files_skipped_total", "unreadable", 1);
                return None;
            }
        };
        if self.done.iter().any(|id| current.was(id)) {
            return None;
        }
        let (mine, others): (Vec<&Mark>, Vec<&Mark>) =
            self.saved.iter().filter(|mark| mark.path == path).partition(|mark| current.was(&mark.id));
        let mut entries = VecDeque::new();
        for mark in &others {
            match renamed(&path, mark) {
                Some(file) => entries.push_back(Entry::new(file, true, now)),
                None => self.ledger.add("agent_logs_lost_files_total", "gone_while_away", 1),
            }
        }
        let offset = match mine.first() {
            Some(mark) => mark.offset,
            None if others.is_empty() && self.first_scan && self.config.start_at == StartAt::End => {
                current.size
            }
            None => 0,
        };
        current.seek(offset);
        entries.push_back(Entry::new(current, false, now));
        let service = match owner {
            Owner::Member(_) => "etcd".to_owned(),
            Owner::Node(_) => {
                path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
            }
        };
        let name = path.to_string_lossy().into();
        Some(Followed { path, name, service, owner, entries, zone_ns: None, lines: 0, lost_bytes: 0 })
    }

    fn is_open(&self, dev: u64, ino: u64) -> bool {
        self.followed
            .iter()
            .flat_map(|followed| &followed.entries)
            .any(|entry| entry.file.id.dev == dev && entry.file.id.ino == ino)
    }

    fn close_finished(&mut self) {
        for followed in &mut self.followed {
            while followed.entries.front().is_some_and(Entry::is_done) {
                let Some(entry) = followed.entries.pop_front() else { break };
                self.done.push_back(entry.file.id);
                if self.done.len() > DONE_MAX {
                    self.done.pop_front();
                }
            }
        }
        self.followed.retain(|followed| !followed.entries.is_empty());
    }
}

/// The file of a mark under whatever name it has in its directory now.
fn renamed(path: &Path, mark: &Mark) -> Option<OpenFile> {
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

enum Step {
    /// Nothing to read.
    Idle,
    /// Lines were read, none worth sending.
    Quiet,
    Batch(Parsed),
}

impl Followed {
    /// Compares the path with the file that is open.
    fn notice_rotation(&mut self, now: Stamp, ledger: &Ledger) {
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
            Err(_) => current.rotated = true,
        }
    }

    /// Reads one slice of the oldest file that has one.
    fn step(&mut self, config: &Config, now: Stamp, ledger: &Ledger) -> Step {
        for index in 0..self.entries.len() {
            let Some(entry) = self.entries.get_mut(index) else { break };
            let was_lost = self.lost_bytes;
            let slice = entry.next_slice(config, now, &mut self.lost_bytes);
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
            return self.parse(index, &slice, tries, (config, now, ledger));
        }
        Step::Idle
    }

    fn parse(&mut self, index: usize, slice: &Slice, tries: u32, with: (&Config, Stamp, &Ledger)) -> Step {
        let (config, now, ledger) = with;
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
        read.count(ledger, slice);
        self.lines += read.lines;
        let receipt = Receipt::default();
        let sent = !read.events.is_empty() || read.rejected() || self.lost_bytes > 0;
        if !sent {
            receipt.take();
        }
        if let Some(entry) = self.entries.get_mut(index) {
            entry.last_read_ns = now.mono_ns;
            let (from, to) = (slice.from, slice.to);
            let place = entry.on_the_way.partition_point(|other| other.from < from);
            entry.on_the_way.insert(place, OnTheWay { from, to, receipt: receipt.clone(), tries });
        }
        if !sent {
            return Step::Quiet;
        }
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
    fn new(file: OpenFile, rotated: bool, now: Stamp) -> Entry {
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
    ) -> std::io::Result<Option<(Slice, u32)>> {
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

    fn is_done(&self) -> bool {
        self.finished && self.again.is_empty() && self.on_the_way.is_empty()
    }

    fn safe_offset(&self) -> u64 {
        let sent = self.on_the_way.iter().map(|range| range.from).min();
        let again = self.again.iter().map(|range| range.from).min();
        [sent, again].into_iter().flatten().fold(self.file.offset, u64::min)
    }

    fn settle(&mut self, now: Stamp, ledger: &Ledger) {
        let again = &mut self.again;
        self.on_the_way.retain(|range| match range.receipt.state() {
            ReceiptState::Taken => false,
            ReceiptState::Pending => !range.receipt.is_last(),
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

/// Lines of one slice, parsed.
#[derive(Debug, Default)]
struct Read {
    events: Vec<model::log::LogEvent>,
    lines: u64,
    rejected: [(u64, Option<Reject>); 4],
}

impl Read {
    fn line(&mut self, raw: &[u8], context: &Context<'_>, line_max: usize) {
        self.lines += 1;
        if raw.len() >= line_max && raw.last() != Some(&b'\n') {
            return self.reject(Reject::TooLong);
        }
        match line::parse(raw, context) {
            Line::Event(event) => self.events.push(*event),
            Line::Quiet => {}
            Line::Reject(reason) => self.reject(reason),
        }
    }

    fn reject(&mut self, reason: Reject) {
        let place = self.rejected.iter_mut().find(|(_, known)| known.is_none_or(|known| known == reason));
        if let Some((count, known)) = place {
            *count += 1;
            *known = Some(reason);
        }
    }

    fn rejected(&self) -> bool {
        self.rejected.iter().any(|(count, _)| *count > 0)
    }

    fn rejects(&self) -> Vec<(String, u64)> {
        self.rejected
            .iter()
            .filter_map(|(count, reason)| Some((reason.as_ref()?.reason().to_owned(), *count)))
            .collect()
    }

    fn count(&self, ledger: &Ledger, slice: &Slice) {
        ledger.add("agent_logs_lines_total", "read", self.lines);
        ledger.add("agent_logs_lines_total", "kept", u64::try_from(self.events.len()).unwrap_or(0));
        ledger.add("agent_logs_lost_bytes_total", "line_too_long", slice.dropped_bytes);
        for (count, reason) in &self.rejected {
            if let Some(reason) = reason {
                ledger.add("agent_logs_rejects_total", reason.reason(), *count);
            }
        }
    }

    /// About the memory the events take.
    fn bytes(&self) -> usize {
        let event = |event: &model::log::LogEvent| {
            let attributes: usize =
                event.attributes.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
            256 + event.message.len() + event.service.len() + attributes
        };
        256 + self.events.iter().map(event).sum::<usize>()
    }
}

/// What to add to times without a zone in a file that is written now: the last line's time against ours, to the quarter hour.
fn zone(bytes: &[u8], now_ns: u64) -> Option<i64> {
    const QUARTER_NS: i64 = 900 * 1_000_000_000;
    const MOST: i64 = 56; // fourteen hours
    let line = bytes.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty())?;
    let (written, _) = time::civil(line.strip_prefix(b"raft").unwrap_or(line))?;
    let behind = i64::try_from(now_ns).ok()?.checked_sub(i64::try_from(written.ns).ok()?)?;
    let quarters = (behind + QUARTER_NS / 2).div_euclid(QUARTER_NS);
    let rest = (behind - quarters * QUARTER_NS).abs();
    (!written.zoned && quarters.abs() <= MOST && rest <= QUARTER_NS / 15).then_some(quarters * QUARTER_NS)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};

    use model::log::LogEvent;

    use super::*;

    /// A directory with one log, the tail that follows it, and a clock that the story moves.
    struct Story {
        dir: PathBuf,
        tail: Tail,
        now: Stamp,
        config: Config,
        kept: Vec<Receipt>,
    }

    impl Drop for Story {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.dir).ok();
        }
    }

    impl Story {
        fn new(config: Config) -> Story {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = std::env::temp_dir().join(format!("agent-logs-{}-{n}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let now = Stamp { mono_ns: 1_000 * SECOND_NS, wall_ns: 1_795_176_000 * SECOND_NS };
            let tail = Story::tail(&dir, &config);
            Story { dir, tail, now, config, kept: Vec::new() }
        }

        fn beginning() -> Story {
            Story::new(Config { start_at: StartAt::Beginning, ship_all: true, ..Config::default() })
        }

        fn tail(dir: &Path, config: &Config) -> Tail {
            let origin = Arc::new(Origin::default());
            let config = Config {
                checkpoint: config.checkpoint.as_ref().map(|name| dir.join(name)),
                ..config.clone()
            };
            Tail::new(config, vec![(dir.join("app*.log"), Owner::Node(origin))], Ledger::default())
        }

        /// The agent stops, writing its checkpoint, and starts again.
        fn restart(&mut self) {
            let path = self.dir.join(self.config.checkpoint.as_ref().unwrap());
            self.tail.settle(self.now);
            checkpoint::save(&path, self.tail.marks()).unwrap();
            self.tail = Story::tail(&self.dir, &self.config);
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        /// Passes until nothing more comes; every batch is kept by an exporter that has not said anything yet.
        fn batches(&mut self) -> Vec<LogBatch> {
            let mut all = Vec::new();
            for _ in 0..200 {
                self.now = self.now.plus_ns(1_100_000_000);
                let pass = self.tail.pass(self.now);
                self.kept.extend(pass.batches.iter().map(|parsed| parsed.batch.receipt.clone()));
                all.extend(pass.batches.into_iter().map(|parsed| parsed.batch));
                if !pass.more {
                    break;
                }
            }
            all
        }

        fn lines(&mut self) -> Vec<String> {
            let text = |event: LogEvent| event.message;
            self.batches().into_iter().flat_map(|batch| batch.events).map(text).collect()
        }

        fn wait(&mut self, seconds: u64) {
            self.now = self.now.plus_ns(seconds * SECOND_NS);
        }
    }

    #[test]
    fn a_renamed_file_is_drained_before_the_new_one() {
        let mut story = Story::beginning();
        story.write("app.log", "one\n");
        assert_eq!(story.lines(), ["one"]);
        story.write("app.log", "two\n");
        fs::rename(story.path("app.log"), story.path("app.log.1")).unwrap();
        story.write("app.log", "four\n");
        story.write("app.log.1", "three\n");
        assert_eq!(story.lines(), ["two", "three", "four"]);
        story.wait(10);
        story.kept.iter().for_each(Receipt::take);
        assert!(story.lines().is_empty());
        assert_eq!(story.tail.marks().len(), 1, "the old file is closed");
    }

    #[test]
    fn a_rotated_name_that_matches_the_pattern_is_not_read_twice() {
        let mut story = Story::beginning();
        story.write("app.log", "one\n");
        assert_eq!(story.lines(), ["one"]);
        fs::rename(story.path("app.log"), story.path("app-old.log")).unwrap();
        story.write("app.log", "two\n");
        assert_eq!(story.lines(), ["two"]);
        story.kept.iter().for_each(Receipt::take);
        for _ in 0..10 {
            story.wait(10);
            assert!(story.lines().is_empty());
        }
    }

    #[test]
    fn truncation_begins_anew_and_counts_what_was_unread() {
        let mut story = Story::beginning();
        story.write("app.log", "one, and more\ntorn");
        assert_eq!(story.lines(), ["one, and more"]);
        File::create(story.path("app.log")).unwrap();
        story.write("app.log", "two\n");
        let batches = story.batches();
        assert_eq!(batches[0].events[0].message, "two");
        assert_eq!(batches[0].lost_bytes, 4, "`torn` is gone");
    }

    #[test]
    fn a_copy_truncated_file_that_grew_past_us_is_noticed() {
        let mut story = Story::beginning();
        story.write("app.log", "2026-01-01 one\n");
        assert_eq!(story.lines().len(), 1);
        File::create(story.path("app.log")).unwrap();
        story.write("app.log", "2026-01-02 one is longer now\n2026-01-02 two\n");
        assert_eq!(story.lines().len(), 2);
    }

    #[test]
    fn a_torn_last_line_waits_for_its_end() {
        let mut story = Story::beginning();
        story.write("app.log", "one\ntw");
        assert_eq!(story.lines(), ["one"]);
        assert!(story.lines().is_empty());
        story.write("app.log", "o\n");
        assert_eq!(story.lines(), ["two"]);
    }

    #[test]
    fn a_torn_last_line_of_a_rotated_file_comes_once() {
        let mut story = Story::beginning();
        story.write("app.log", "one\nlast");
        assert_eq!(story.lines(), ["one"]);
        fs::rename(story.path("app.log"), story.path("app.log.1")).unwrap();
        assert!(story.lines().is_empty());
        story.wait(10);
        assert_eq!(story.lines(), ["last"]);
        story.wait(10);
        assert!(story.lines().is_empty());
    }

    #[test]
    fn a_long_line_is_cut_and_counted() {
        let mut story = Story::new(Config {
            start_at: StartAt::Beginning,
            ship_all: true,
            line_bytes_max: 64,
            slice_bytes: 16,
            ..Config::default()
        });
        story.write("app.log", &format!("{}\nshort\n{}\n", "x".repeat(500), "y".repeat(40)));
        let batches = story.batches();
        let lines: Vec<&str> =
            batches.iter().flat_map(|batch| &batch.events).map(|event| event.message.as_str()).collect();
        assert_eq!(lines, ["short", "y".repeat(40).as_str()]);
        let rejects: u64 = batches.iter().flat_map(|batch| &batch.rejects).map(|(_, n)| n).sum();
        assert_eq!(rejects, 1);
        let dropped = story.tail.ledger.get("agent_logs_lost_bytes_total", "line_too_long");
        assert_eq!(dropped, 500 - 64 + 1);
    }

    #[test]
    fn a_first_start_begins_at_the_end_and_later_files_at_their_beginning() {
        let mut story = Story::new(Config { ship_all: true, ..Config::default() });
        story.write("app.log", "old\nha");
        assert!(story.lines().is_empty());
        story.write("app.log", "lf\nnew\n");
        story.write("app2.log", "first\n");
        let mut lines = story.lines();
        lines.sort();
        assert_eq!(lines, ["first", "new"]);
    }

    fn checkpointed() -> Story {
        Story::new(Config {
            start_at: StartAt::Beginning,
            ship_all: true,
            checkpoint: Some("offsets.json".into()),
            ..Config::default()
        })
    }

    #[test]
    fn a_restart_continues_after_what_was_taken() {
        let mut story = checkpointed();
        story.write("app.log", "one\n");
        assert_eq!(story.lines(), ["one"]);
        story.kept.iter().for_each(Receipt::take);
        story.write("app.log", "two\n");
        assert_eq!(story.lines(), ["two"]);
        story.restart(); // nobody has taken `two`
        story.write("app.log", "three\n");
        assert_eq!(story.lines(), ["two", "three"]);
    }

    #[test]
    fn a_restart_finds_the_file_that_was_renamed_meanwhile() {
        let mut story = checkpointed();
        story.write("app.log", "one\n");
        assert_eq!(story.lines(), ["one"]);
        story.kept.iter().for_each(Receipt::take);
        story.write("app.log", "two\n");
        fs::rename(story.path("app.log"), story.path("app.log.1")).unwrap();
        story.write("app.log", "three\n");
        story.restart();
        assert_eq!(story.lines(), ["two", "three"]);
    }

    #[test]
    fn a_damaged_checkpoint_is_a_first_start() {
        let mut story = checkpointed();
        story.write("app.log", "one\n");
        story.write("offsets.json", "{\"version\":1,\"files\":[{");
        story.tail = Story::tail(&story.dir, &story.config);
        assert_eq!(story.lines(), ["one"]);
    }

    #[test]
    fn a_lost_batch_is_read_again_before_anything_new() {
        let mut story = Story::beginning();
        story.write("app.log", "one\n");
        assert_eq!(story.lines(), ["one"]);
        story.write("app.log", "two\n");
        assert_eq!(story.lines(), ["two"]);
        story.kept[0].lose();
        story.kept[1].take();
        story.write("app.log", "three\n");
        let mut lines = story.lines();
        story.wait(2);
        lines.extend(story.lines());
        assert_eq!(lines, ["one", "three"], "`two` is safe and does not come again");
        assert_eq!(story.tail.on_the_way(), 2);
        let marks = story.tail.marks();
        assert_eq!(marks[0].offset, 0, "the checkpoint stays before what is not safe");
    }

    #[test]
    fn nothing_is_read_while_too_much_is_on_its_way() {
        let mut story = Story::new(Config {
            start_at: StartAt::Beginning,
            ship_all: true,
            slice_bytes: 8,
            ..Config::default()
        });
        story.write("app.log", &"a line\n".repeat(200));
        let first = story.lines().len();
        assert_eq!(first, ON_THE_WAY_MAX);
        story.kept.drain(..).for_each(|receipt| receipt.take());
        assert!(!story.lines().is_empty());
    }

    #[test]
    fn a_noisy_file_does_not_starve_another() {
        let mut story = Story::new(Config {
            start_at: StartAt::Beginning,
            ship_all: true,
            slice_bytes: 64,
            ..Config::default()
        });
        story.write("app-noisy.log", &"noise noise\n".repeat(1000));
        story.write("app-quiet.log", "quiet\n");
        story.now = story.now.plus_ns(2 * SECOND_NS);
        let pass = story.tail.pass(story.now);
        assert!(pass.batches.iter().any(|parsed| parsed.batch.events[0].message == "quiet"));
    }

    #[test]
    fn a_directory_or_pipe_is_not_followed() {
        let mut story = Story::beginning();
        fs::create_dir(story.path("app-dir.log")).unwrap();
        assert!(story.lines().is_empty());
        assert_eq!(story.tail.ledger.get("agent_logs_files_skipped_total", "not_a_regular_file"), 1);
    }

    #[test]
    fn a_zone_is_learnt_from_a_line_that_was_just_written() {
        let now = 1_795_176_000 * SECOND_NS; // 12:00:00Z
        let check = |line: &str, hours: Option<i64>| {
            let expected = hours.map(|hours| hours * 3600 * 1_000_000_000);
            assert_eq!(zone(line.as_bytes(), now), expected, "{line}");
        };
        check("2026-11-20 11:59:59.769904 I | embed: x\n", Some(0));
        check("2026-11-20 19:59:59.769904 I | embed: x\n", Some(-8));
        check("raft2026/11/20 07:00:00 INFO: x\n", Some(5));
        check("2026-11-20 11:52:00.769904 I | embed: x\n", None);
        check("2026-11-20T12:00:00Z", None);
    }
}

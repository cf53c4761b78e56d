//! All files that are followed, and one pass over them. Owns discovery, turns and the bounds over all files. Blocking file calls only; the caller keeps them off the runtime's thread.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use model::ledger::Ledger;
use model::time::{SECOND_NS, Stamp};

use crate::logs::checkpoint::{self, Mark};
use crate::logs::file::{FileId, OpenFile};
use crate::logs::followed::{Entry, Followed, Open, Owner, Parsed, Step, Turn};
use crate::logs::{Config, StartAt, pattern};

/// Patterns are looked up this often; a directory walk costs more than a look at a known file.
const SCAN_NS: u64 = SECOND_NS;
/// Batches that are not encoded yet, over all files: with slices of 256 KiB at most 16 MiB of lines stand parsed in memory.
const PARSED_MAX: usize = 64;
/// Ranges of files without an answer, over all files, from which on batches behind one another become one range. The engine
/// needs the lines even while the receiver is away, so reading goes on; below it, each batch is known by itself, and a
/// crash repeats as little as can be.
const JOIN_FROM: usize = 64;
/// At so many ranges reading waits: with joined ranges that is a gigabyte of lines that no receiver has taken, far more than
/// the exporter's queue holds before it gives up its oldest.
const RANGES_MAX: usize = 1024;
/// Slices of one pass: bounds what is parsed before anything is sent.
const SLICES_MAX: usize = 8;
/// Finished files that are remembered, so that a rotated name that matches a pattern is not read twice.
const DONE_MAX: usize = 1024;
/// What one pass gave.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub batches: Vec<Parsed>,
    /// Whether more can be read at once.
    pub more: bool,
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
    begun: bool,
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
            begun: false,
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
        let open = self.settle(now);
        let turn = Turn { config: &self.config, now, ledger: &self.ledger, join: open.ranges >= JOIN_FROM };
        let mut room = PARSED_MAX.saturating_sub(open.parsed).min(RANGES_MAX.saturating_sub(open.ranges));
        if open.ranges >= RANGES_MAX {
            self.ledger.add("agent_logs_waits_total", "unacknowledged", 1);
        }
        for step in 0..count {
            let index = (self.next + step) % count;
            let Some(followed) = self.followed.get_mut(index) else { continue };
            followed.notice_rotation(now, &self.ledger);
            if room == 0 || pass.batches.len() >= SLICES_MAX {
                pass.more |= room > 0;
                continue;
            }
            match followed.step(&turn) {
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

    /// Whether a path was begun since this was last asked: where it begins must survive a crash.
    pub(super) fn take_begun(&mut self) -> bool {
        std::mem::take(&mut self.begun)
    }

    /// How far each file is safe.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let of = |followed: &Followed| {
            followed.entries().map(|entry| entry.mark(followed.path())).collect::<Vec<_>>()
        };
        // A path that has not come back yet keeps its old mark.
        self.followed.iter().flat_map(of).chain(self.saved.iter().cloned()).collect()
    }

    /// Reads the receipts; returns what is still open.
    pub(super) fn settle(&mut self, now: Stamp) -> Open {
        let ledger = &self.ledger;
        self.followed.iter_mut().for_each(|followed| followed.settle(now, ledger));
        let each = self.followed.iter().flat_map(Followed::entries).map(Entry::open);
        each.fold(Open::default(), |sum, one| Open {
            ranges: sum.ranges + one.ranges,
            parsed: sum.parsed + one.parsed,
        })
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
            if self.followed.iter().any(|followed| followed.path() == path) {
                continue;
            }
            let open: usize = self.followed.iter().map(|followed| followed.entries().count()).sum();
            if open >= self.config.files_max {
                self.ledger.add("agent_logs_files_skipped_total", "too_many", 1);
                break;
            }
            if let Some(followed) = self.begin(path, owner, now) {
                self.followed.push(followed);
                self.begun = true;
            }
        }
        self.first_scan = false;
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
            match Entry::renamed(&path, mark) {
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
        self.saved.retain(|mark| mark.path != path);
        current.seek(offset);
        entries.push_back(Entry::new(current, false, now));
        Some(Followed::new(path, owner, entries))
    }

    fn is_open(&self, dev: u64, ino: u64) -> bool {
        self.followed.iter().flat_map(Followed::entries).any(|entry| entry.is(dev, ino))
    }

    fn close_finished(&mut self) {
        for followed in &mut self.followed {
            while let Some(id) = followed.close_finished() {
                self.done.push_back(id);
                if self.done.len() > DONE_MAX {
                    self.done.pop_front();
                }
            }
        }
        self.followed.retain(|followed| followed.entries().next().is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use model::log::{LogBatch, LogEvent, Receipt};
    use model::origin::Origin;

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
        assert_eq!(story.lines(), ["2026-01-02 one is longer now", "2026-01-02 two"]);
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
    fn a_restart_between_rename_and_reopen_loses_nothing() {
        let mut story = checkpointed();
        story.write("app.log", "one\n");
        assert_eq!(story.lines(), ["one"]);
        story.kept.iter().for_each(Receipt::take);
        story.write("app.log", "two\n");
        fs::rename(story.path("app.log"), story.path("app.log.1")).unwrap();
        story.restart();
        assert!(story.lines().is_empty());
        story.restart();
        story.write("app.log", "three\n");
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
        assert_eq!(story.tail.settle(story.now).ranges, 2);
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
        assert_eq!(first, PARSED_MAX);
        story.kept.drain(..).for_each(|receipt| receipt.take());
        assert!(!story.lines().is_empty());
    }

    #[test]
    fn an_absent_receiver_does_not_stop_the_reading_and_moves_no_checkpoint() {
        let mut story = Story::new(Config {
            start_at: StartAt::Beginning,
            ship_all: true,
            slice_bytes: 8,
            checkpoint: Some("offsets.json".into()),
            ..Config::default()
        });
        story.write("app.log", &"a line\n".repeat(5000));
        let mut read = 0;
        for _ in 0..200 {
            read += story.lines().len();
            story.kept.iter().for_each(Receipt::encoded);
        }
        assert_eq!(read, 5000, "the engine has had them all");
        let open = story.tail.settle(story.now);
        assert_eq!((open.ranges, open.parsed), (JOIN_FROM, 0), "what is behind one another is one range");
        assert_eq!(story.tail.marks()[0].offset, 0);
        // All but one of the last, joined range are answered for.
        let last = story.kept.pop().unwrap();
        story.kept.drain(..).for_each(|receipt| receipt.take());
        story.tail.settle(story.now);
        let first_of_last = u64::try_from("a line\n".len() * (JOIN_FROM - 1)).unwrap();
        assert_eq!(story.tail.marks()[0].offset, first_of_last);
        last.take();
        story.tail.settle(story.now);
        assert_eq!(story.tail.marks()[0].offset, u64::try_from("a line\n".len() * 5000).unwrap());
    }

    #[test]
    fn a_batch_that_nobody_takes_is_not_read_for_ever() {
        let mut story = Story::beginning();
        story.write("app.log", "one\n");
        let mut times = 0;
        for _ in 0..100 {
            times += story.lines().len();
            story.kept.drain(..).for_each(|receipt| receipt.lose());
            story.wait(120);
        }
        assert_eq!(times, 9, "once, and eight times again");
        assert_eq!(story.tail.ledger.get("agent_logs_lost_bytes_total", "lost_too_often"), 4);
        assert_eq!(story.tail.marks()[0].offset, 4);
    }

    #[test]
    fn a_path_that_rotates_without_end_holds_few_files() {
        let mut story = Story::beginning();
        for turn in 0..40 {
            story.write("app.log", "a line\n");
            story.batches(); // whose receipts stay open
            fs::rename(story.path("app.log"), story.path(&format!("app.log.{turn}"))).unwrap();
        }
        assert!(story.tail.marks().len() <= 17, "{}", story.tail.marks().len());
        assert!(story.tail.ledger.get("agent_logs_lost_bytes_total", "rotated_too_fast") > 0);
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
}

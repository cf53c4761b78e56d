//! Writers that end in the middle, and readers that look at that moment.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use profile::history::Limits;
use profile::history::reader::Reader;
use profile::history::writer::{OpenError, Writer};

use crate::windows::{BOOT, all, limits, numbers, window};

/// Set in the process that is to be killed.
const CHILD: &str = "HISTORY_CHILD";

/// Writes windows until it is killed, and says after each how far it is.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
fn write_forever(path: &Path) {
    let first: u64 = env::var("HISTORY_FIRST").unwrap().parse().unwrap();
    let mut writer = Writer::open(path, limits(), BOOT).unwrap();
    for number in first.. {
        writer.append(&window(number));
        println!("written {number}");
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_it_had_written() {
    if let Some(path) = env::var_os(CHILD) {
        return write_forever(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut first = 0;
    for round in 1..=10_u64 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "lives::a_killed_writer_loses_nothing_that_it_had_written", "--nocapture"])
            .env(CHILD, dir.path())
            .env("HISTORY_FIRST", first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // One more each time, so that it is killed in all states of a segment.
        let wanted = first + round * 7;
        let mut said = None;
        while said < Some(wanted) {
            let line = lines.next().expect("it writes until it is killed").unwrap();
            said = line.strip_prefix("written ").map(|number| number.parse().unwrap()).or(said);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let reader = Reader::open(dir.path()).unwrap();
        let selection = all(&reader);
        let read = numbers(&selection);
        let end = *read.last().unwrap();
        assert!(end >= wanted, "said {said:?}, read up to {end}");
        assert_eq!(read, (0..=end).collect::<Vec<_>>(), "round {round}");
        assert_eq!(selection.loss.lost_windows, 0);
        assert_eq!(u64::try_from(selection.gaps.len()).unwrap(), round - 1, "each start is told");
        first = end + 1;
    }
}

#[test]
fn the_lock_of_a_killed_writer_is_free_and_that_of_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let held = Writer::open(dir.path(), limits(), BOOT).unwrap();
    assert_eq!(Writer::open(dir.path(), limits(), BOOT).err(), Some(OpenError::Locked));
    drop(held);
    assert!(Writer::open(dir.path(), limits(), BOOT).is_ok());
}

#[test]
fn readers_see_whole_windows_while_others_are_written_and_removed() {
    /// Some hundred windows, so that old ones are removed all the time.
    const BYTES: u64 = 256 << 10;
    let dir = tempfile::tempdir().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = Writer::open(dir.path(), Limits { bytes: BYTES, ..limits() }, BOOT).unwrap();
            for number in 0..4_000 {
                writer.append(&window(number));
            }
            assert_eq!((writer.trouble(), writer.account().lost_windows), (None, 0));
            assert!(writer.account().removed_bytes > 10, "{:?}", writer.account());
            is_over.store(true, Ordering::Release);
        });
        let (mut rounds, mut newest) = (0, 0);
        while !is_over.load(Ordering::Acquire) {
            let reader = Reader::open(dir.path()).unwrap();
            let selection = all(&reader);
            let read = numbers(&selection);
            // Removed between the list and the reading: counted, and nothing else is missing.
            let lost = selection.loss.lost_windows;
            assert_eq!(u64::try_from(read.len()).unwrap() + lost, reader.windows().len().try_into().unwrap());
            let missing: u64 = read.windows(2).map(|pair| pair[1] - pair[0] - 1).sum();
            assert!(missing <= lost, "{missing} missing, {lost} told");
            assert_eq!((reader.loss().unreadable_segments, reader.gaps()), (0, Vec::new()));
            if let Some(last) = read.last() {
                assert!(*last >= newest, "{last} after {newest}");
                newest = *last;
            }
            rounds += 1;
        }
        assert!(rounds > 10, "{rounds} rounds: the writer was too fast for this to say anything");
    });
}

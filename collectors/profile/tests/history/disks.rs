//! Disks that refuse: a small tmpfs in a mount namespace of its own, filled, made read-only, and given back.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use profile::history::account::Trouble;
use profile::history::reader::Reader;
use profile::history::writer::Writer;
use profile::history::{Limits, Window};

use crate::windows::{BOOT, all, limits, numbers, window};

/// Between two looks whether a lock is free.
const A_MOMENT: Duration = Duration::from_millis(10);

/// Set inside of the namespace.
const INSIDE: &str = "HISTORY_DISK";

/// Runs the test of this name again in a namespace where a tmpfs may be mounted; as root or as anybody.
fn inside(test: &str) {
    let own = format!("disks::{test}");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &own, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare of util-linux");
    assert!(status.success(), "{own} failed inside (user namespaces must be allowed): {status}");
}

fn mount(arguments: &[&str], path: &Path) {
    let status = Command::new("mount").args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "mount {arguments:?}: {status}");
}

/// Appends until there is trouble; the number after the last.
fn until_trouble(writer: &mut Writer, first: u64) -> u64 {
    for number in first..first + 100_000 {
        writer.append(&window(number));
        if writer.trouble().is_some() {
            return number + 1;
        }
    }
    panic!("no trouble in a tmpfs of a megabyte");
}

fn read(writer: &mut Writer) -> Vec<u64> {
    let unwritten = writer.unwritten();
    let selection = all(&Reader::open_with(writer.path(), unwritten).unwrap());
    assert_eq!(selection.loss.lost_windows, 0);
    numbers(&selection)
}

#[test]
fn a_full_disk_is_bridged_by_memory_and_written_when_there_is_room() {
    if env::var_os(INSIDE).is_none() {
        return inside("a_full_disk_is_bridged_by_memory_and_written_when_there_is_room");
    }
    let dir = tempfile::tempdir().unwrap();
    mount(&["-t", "tmpfs", "-o", "size=1m", "ring"], dir.path());
    fs::write(dir.path().join("others"), vec![0; 700 << 10]).unwrap();
    let mut writer = Writer::open(&dir.path().join("history"), limits(), BOOT).unwrap();
    let full = until_trouble(&mut writer, 0);
    assert_eq!(writer.trouble(), Some(Trouble::Full));
    assert_eq!(writer.account().troubles[&Trouble::Full], 1);
    // A quarter of an hour goes by; the process itself sees all of it, others what is on disk.
    for number in full..full + 90 {
        writer.append(&window(number));
    }
    assert_eq!((writer.account().lost_windows, writer.trouble()), (0, Some(Trouble::Full)));
    assert_eq!(read(&mut writer), (0..full + 90).collect::<Vec<_>>());
    let on_disk = numbers(&all(&Reader::open(writer.path()).unwrap()));
    assert_eq!(on_disk, (0..full - 1).collect::<Vec<_>>());
    // Somebody tidies up.
    fs::remove_file(dir.path().join("others")).unwrap();
    writer.append(&window(full + 90));
    assert_eq!((writer.trouble(), writer.account().lost_windows), (None, 0));
    let on_disk = numbers(&all(&Reader::open(writer.path()).unwrap()));
    assert_eq!(on_disk, (0..=full + 90).collect::<Vec<_>>());
}

#[test]
fn a_disk_that_stays_full_costs_the_oldest_windows_and_no_memory() {
    if env::var_os(INSIDE).is_none() {
        return inside("a_disk_that_stays_full_costs_the_oldest_windows_and_no_memory");
    }
    let dir = tempfile::tempdir().unwrap();
    mount(&["-t", "tmpfs", "-o", "size=64k", "ring"], dir.path());
    let mut writer = Writer::open(&dir.path().join("history"), limits(), BOOT).unwrap();
    let full = until_trouble(&mut writer, 0);
    let mut most = 0;
    for number in full..full + 8_000 {
        writer.append(&window(number));
        most = most.max(writer.memory_bytes());
    }
    assert!(most < 2 << 20, "{most} bytes");
    let account = writer.account().clone();
    assert!(account.lost_windows > 0 && account.troubles[&Trouble::Full] > 1_000, "{account:?}");
    // What is there: the beginning on disk, and the last in memory. What is lost lies between.
    let unwritten = writer.unwritten();
    let selection = all(&Reader::open_with(writer.path(), unwritten).unwrap());
    let there = numbers(&selection);
    assert_eq!(u64::try_from(there.len()).unwrap() + account.lost_windows, full + 8_000);
    assert!(there.ends_with(&(full + 7_900..full + 8_000).collect::<Vec<_>>()));
}

#[test]
fn a_read_only_disk_is_named_and_used_again_when_it_is_not() {
    if env::var_os(INSIDE).is_none() {
        return inside("a_read_only_disk_is_named_and_used_again_when_it_is_not");
    }
    let dir = tempfile::tempdir().unwrap();
    mount(&["-t", "tmpfs", "-o", "size=1m", "ring"], dir.path());
    let path = dir.path().join("history");
    // The mount alone: a regular user may not change the file system.
    mount(&["-o", "remount,bind,ro"], dir.path());
    let mut writer = Writer::open(&path, limits(), BOOT).unwrap();
    assert_eq!(writer.trouble(), Some(Trouble::ReadOnly));
    for number in 0..20 {
        writer.append(&window(number));
    }
    assert_eq!((read(&mut writer), writer.account().lost_windows), ((0..20).collect(), 0));
    mount(&["-o", "remount,bind,rw"], dir.path());
    writer.append(&window(20));
    assert_eq!(writer.trouble(), None);
    assert_eq!(numbers(&all(&Reader::open(&path).unwrap())), (0..=20).collect::<Vec<_>>());
}

#[test]
fn a_directory_in_the_way_of_nothing_we_may_touch_is_a_counted_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history");
    fs::write(&path, b"a file").unwrap();
    let mut writer = Writer::open(&path, limits(), BOOT).unwrap();
    writer.append(&window(0));
    assert_eq!(writer.account().losses().last(), Some(&("io", 2)));
    assert_eq!(fs::read(&path).unwrap(), b"a file");
    fs::remove_file(&path).unwrap();
    writer.append(&window(1));
    assert_eq!(numbers(&all(&Reader::open(&path).unwrap())), [0, 1]);
}

#[test]
fn the_last_of_a_file_system_is_left_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let greedy = |window: &Window, limits: Limits| {
        // Between fork and exec what another story starts has our lock too.
        let open = |_| Writer::open(dir.path(), limits, BOOT).inspect_err(|_| sleep(A_MOMENT)).ok();
        let mut writer = (0..100).find_map(open).unwrap();
        writer.append(window);
        writer.trouble()
    };
    let all_of_it = Limits { free_percent: 101, free_bytes_max: u64::MAX, ..limits() };
    assert_eq!(greedy(&window(0), all_of_it), Some(Trouble::Guard));
    let bytes = Limits { free_bytes_min: u64::MAX / 2, ..limits() };
    assert_eq!(greedy(&window(1), bytes), Some(Trouble::Guard));
    // However full the disk is that the test runs on.
    let at_most_a_byte = Limits { free_percent: 101, free_bytes_max: 1, ..limits() };
    assert_eq!(greedy(&window(2), at_most_a_byte), None);
    assert_eq!(numbers(&all(&Reader::open(dir.path()).unwrap())), [2]);
}

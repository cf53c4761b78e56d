//! Slow-request lines that a member wrote meanwhile. Owns the window of bytes that is read; refuses more than a bound of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use collectors::logs::{Context, Line, parse};
use model::log::{LogEvent, Meaning};

use super::decide::{SlowRanges, duration};

/// etcd writes a slow request in three lines of some 500 bytes: 2,700 slow requests.
const BYTES_MAX: u64 = 4 << 20;
/// Kinds of slow work that are shown.
const SHOWN_MAX: usize = 6;

/// A member's log and where its end was.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    from: u64,
}

/// What the lines said, by kind of line and operation: how many, and the longest in nanoseconds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Slow {
    work: BTreeMap<(&'static str, String), (u64, u64)>,
}

impl Tail {
    /// Remembers the file's end; `None` when it cannot be opened.
    pub(super) fn begin(path: &Path) -> Option<Tail> {
        let from = File::open(path).and_then(|file| file.metadata()).ok()?.len();
        Some(Tail { path: path.to_owned(), from })
    }

    /// Reads what came since; a file that is shorter now is a new one. `None` when it cannot be read any more.
    pub(super) fn end(&self, now_ns: u64) -> Option<Slow> {
        let mut file = File::open(&self.path).ok()?;
        let from = if file.metadata().ok()?.len() < self.from { 0 } else { self.from };
        file.seek(SeekFrom::Start(from)).ok()?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let context = Context { service: "etcd", member: true, now_ns, zone_ns: 0, ship_all: false };
        let mut slow = Slow::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            if let Line::Event(event) = parse(line, &context) {
                slow.add(&event);
            }
        }
        Some(slow)
    }
}

impl Slow {
    fn add(&mut self, event: &LogEvent) {
        let (kind, work) = match &event.meaning {
            Meaning::EtcdTrace { work, .. } => ("trace", work),
            Meaning::EtcdSlowApply { work, .. } => ("apply", work),
            Meaning::EtcdRequest { work, .. } => ("request", work),
            Meaning::Plain | Meaning::Work(_) => return,
        };
        let (count, longest) = self.work.entry((kind, work.operation.clone())).or_default();
        *count = count.saturating_add(1);
        *longest = (*longest).max(work.duration_ns);
    }

    /// Ranges: one request may stand in a line of each kind, so the kind with most lines counts.
    pub(super) fn ranges(&self) -> SlowRanges {
        let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for ((kind, operation), (count, longest)) in &self.work {
            if operation.to_ascii_lowercase().contains("range") && !operation.contains("Delete") {
                let entry = kinds.entry(kind).or_default();
                entry.0 = entry.0.saturating_add(*count);
                entry.1 = entry.1.max(*longest);
            }
        }
        let count = kinds.values().map(|(count, _)| *count).max().unwrap_or(0);
        let longest = kinds.values().map(|(_, longest)| *longest).max().unwrap_or(0);
        SlowRanges { count, longest_s: longest as f64 / 1e9 }
    }

    /// For people, most frequent first.
    pub(super) fn told(&self) -> String {
        if self.work.is_empty() {
            return "none".to_owned();
        }
        let mut rows: Vec<_> = self.work.iter().collect();
        rows.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let told: Vec<String> = rows
            .iter()
            .take(SHOWN_MAX)
            .map(|((kind, operation), (count, longest))| {
                format!("{count} {kind} {operation} (longest {})", duration(*longest as f64 / 1e9))
            })
            .collect();
        told.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const SLOW: &str = concat!(
        r#"{"level":"warn","ts":"2026-11-21T04:32:33.123456Z","caller":"etcdserver/util.go:170","#,
        r#""msg":"apply request took too long","took":"240.1ms","expected-duration":"100ms","#,
        r#""prefix":"read-only range ","request":"key:\"/orders/\" range_end:\"/orders0\" ","#,
        r#""response":"range_response_count:30000 size:3690031"}"#,
        "\n"
    );

    #[test]
    fn only_lines_of_the_window_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        std::fs::write(&path, SLOW).unwrap();
        let tail = Tail::begin(&path).unwrap();
        assert_eq!(tail.end(0), Some(Slow::default()));
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        write!(file, "{SLOW}{SLOW}not a line of etcd\n\u{0}").unwrap();
        let slow = tail.end(0).unwrap();
        assert_eq!(slow.ranges(), SlowRanges { count: 2, longest_s: 0.2401 });
        assert_eq!(slow.told(), "2 apply range (longest 240.1 ms)");
        std::fs::write(&path, &SLOW[1..]).unwrap();
        assert_eq!(tail.end(0).unwrap().told(), "none", "rotated, and its first line is torn");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(tail.end(0), None);
        assert!(Tail::begin(&path).is_none());
    }
}

//! Follows log files and turns lines into events: through rename rotation, truncation and restarts of the agent, with a byte
//! count for what could not be had.
//!
//! The file is the buffer: nothing is read while the inbox is full, and the checkpoint passes a line only when the receiver has
//! it or it was given up for a counted reason. Reading does not wait for the receiver: the engine needs the lines. Key and value bytes of etcd's lines end in the parser. Refuses pipes and everything else that is not a regular
//! file: an etcd that writes into a full pipe hangs.

mod capnslog;
mod checkpoint;
mod container;
mod etcd;
mod file;
mod flat;
mod follow;
mod followed;
mod ids;
mod json;
mod line;
mod pattern;
mod read;
mod redact;
mod tail;
mod time;
mod zap;

use std::path::PathBuf;

pub use follow::Follower;
pub use line::{Context, Line, Reject, parse};
pub use pattern::newest;

/// What to follow, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Files, each a path whose parts may hold `*`. A file that appears later is found later.
    pub files: Vec<PathBuf>,
    /// Keep and ship every line, not only warnings, slow lines and lines with a trace id.
    pub ship_all: bool,
    /// Longest line; the rest of a longer one is dropped and counted.
    pub line_bytes_max: usize,
    /// Bytes read of one file before the next one has its turn.
    pub slice_bytes: usize,
    /// Files that are held open at once; further ones wait.
    pub files_max: usize,
    /// Where the offsets are kept over a restart of the agent; nowhere when `None`.
    pub checkpoint: Option<PathBuf>,
    /// Where a file that was there before the first start is begun.
    pub start_at: StartAt,
}

/// Where to begin a file that no checkpoint knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// After its last line: history is not news.
    End,
    /// At its first line.
    Beginning,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            files: Vec::new(),
            ship_all: false,
            line_bytes_max: 1024 * 1024,
            slice_bytes: 256 * 1024,
            files_max: 256,
            checkpoint: None,
            start_at: StartAt::End,
        }
    }
}

impl Config {
    /// One line for the start of the agent: what is followed.
    #[must_use]
    pub fn describe(&self) -> String {
        let lines =
            if self.ship_all { "every line" } else { "warnings, slow lines and lines with a trace id" };
        format!("follows {} log patterns, ships {lines}", self.files.len())
    }
}

//! What was recorded: windows of real profiles, small enough to lie in the repository.
//!
//! Owns the file: one zstd frame of a postcard value in which stacks share their beginnings.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Where `diffset score` finds what `diffset record` left.
pub(crate) const FILE: &str = "deploy/dev/diffset/data/windows.zst";
/// The repository is read by people who did not ask for a megabyte.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Inflated; a recording of an hour has a tenth of it.
const INFLATED_BYTES_MAX: usize = 64 << 20;
/// Slow and small: it is written once.
const LEVEL: i32 = 19;

/// All runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recording {
    /// Names.
    pub(crate) functions: Vec<String>,
    /// (caller, function): the caller's number in this list plus one, 0 at the root; and an index into `functions`.
    pub(crate) nodes: Vec<(u32, u32)>,
    /// In the order recorded.
    pub(crate) runs: Vec<Run>,
}

/// One start of one program under one load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// What ran: `etcd`, `program`.
    pub(crate) subject: String,
    /// What was asked of it.
    pub(crate) load: String,
    /// Samples a second of CPU time.
    pub(crate) hz: u32,
    /// Nanoseconds of each window.
    pub(crate) window_ns: u64,
    /// One after the other, without gaps.
    pub(crate) windows: Vec<Window>,
}

/// Some seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Answered in it.
    pub(crate) requests: u64,
    /// (leaf, samples), ascending.
    pub(crate) stacks: Vec<(u32, u32)>,
}

impl Window {
    /// All samples.
    pub(crate) fn samples(&self) -> u64 {
        self.stacks.iter().map(|(_, count)| u64::from(*count)).sum()
    }
}

impl Recording {
    /// Names of a stack, leaf first.
    pub(crate) fn path(&self, leaf: u32) -> Vec<u32> {
        let (mut path, mut at) = (Vec::new(), leaf + 1);
        while let Some((caller, function)) = at.checked_sub(1).and_then(|at| self.nodes.get(at as usize)) {
            path.push(*function);
            at = *caller;
        }
        path
    }

    /// Reads [`FILE`].
    pub(crate) fn read(path: &Path) -> Result<Recording> {
        let bytes =
            fs::read(path).with_context(|| format!("read {}: run `diffset record` first", path.display()))?;
        let plain = zstd::bulk::decompress(&bytes, INFLATED_BYTES_MAX).context("inflate the recording")?;
        postcard::from_bytes(&plain).context("read the recording")
    }

    /// Writes it whole.
    pub(crate) fn write(&self, path: &Path) -> Result<usize> {
        let bytes = zstd::bulk::compress(&postcard::to_stdvec(self)?, LEVEL)?;
        ensure!(bytes.len() <= FILE_BYTES_MAX, "{} bytes are too much for the repository", bytes.len());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, &bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(bytes.len())
    }
}

/// Puts stacks in.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// What there is so far.
    pub(crate) recording: Recording,
    functions: HashMap<String, u32>,
    nodes: HashMap<(u32, u32), u32>,
}

impl Recorder {
    /// Goes on where a recording ended.
    pub(crate) fn resume(recording: Recording) -> Recorder {
        let functions = recording.functions.iter().cloned().zip(0..).collect();
        let nodes = recording.nodes.iter().copied().zip(0..).collect();
        Recorder { recording, functions, nodes }
    }

    /// The number of a stack, leaf first; `None` for an empty one.
    pub(crate) fn leaf(&mut self, path: &[String]) -> Option<u32> {
        let mut caller = 0;
        for name in path.iter().rev() {
            let function = match self.functions.get(name) {
                Some(function) => *function,
                None => {
                    let function = u32::try_from(self.recording.functions.len()).ok()?;
                    self.recording.functions.push(name.clone());
                    self.functions.insert(name.clone(), function);
                    function
                }
            };
            let next = u32::try_from(self.recording.nodes.len()).ok()?;
            let node = *self.nodes.entry((caller, function)).or_insert(next);
            if node == next {
                self.recording.nodes.push((caller, function));
            }
            caller = node + 1;
        }
        caller.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::{Recorder, Recording};

    #[test]
    fn stacks_come_back_as_they_went_in() {
        let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        let mut recorder = Recorder::default();
        let stacks = [path(&["c", "b", "a"]), path(&["b", "a"]), path(&["a"]), path(&["a", "a"])];
        let leaves: Vec<u32> = stacks.iter().map(|stack| recorder.leaf(stack).unwrap()).collect();
        assert_eq!(recorder.leaf(&path(&["c", "b", "a"])), Some(leaves[0]));
        assert_eq!(recorder.leaf(&[]), None);
        let Recording { functions, nodes, .. } = &recorder.recording;
        assert_eq!((functions.len(), nodes.len()), (3, 4));
        for (leaf, stack) in leaves.iter().zip(&stacks) {
            let names: Vec<&str> = recorder
                .recording
                .path(*leaf)
                .iter()
                .map(|function| functions[*function as usize].as_str())
                .collect();
            assert_eq!(&names, stack);
        }
    }
}

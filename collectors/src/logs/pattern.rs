//! Paths with `*` in their parts. Owns matching and the bound on what one pattern may find; refuses `**` and classes.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Directory entries looked at for one part of one pattern: a log directory with more is not one.
const ENTRIES_MAX: usize = 10_000;

/// The files that a pattern means now, sorted.
#[must_use]
pub(super) fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let wild = match part {
            Component::Normal(name) => name.to_str().filter(|name| name.contains('*')),
            _ => None,
        };
        match wild {
            None => found.iter_mut().for_each(|path| path.push(part)),
            Some(glob) => found = found.iter().flat_map(|directory| entries(directory, glob)).collect(),
        }
    }
    found.sort();
    found
}

/// Of the files that a pattern means now the one that was written to last.
#[must_use]
pub fn newest(pattern: &Path) -> Option<PathBuf> {
    let written = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).ok();
    expand(pattern).into_iter().max_by_key(written)
}

fn entries(directory: &Path, glob: &str) -> Vec<PathBuf> {
    let Ok(listed) = std::fs::read_dir(directory) else { return Vec::new() };
    listed
        .take(ENTRIES_MAX)
        .filter_map(Result::ok)
        .filter(|entry| name_matches(glob, &entry.file_name()))
        .map(|entry| entry.path())
        .collect()
}

fn name_matches(glob: &str, name: &OsStr) -> bool {
    // Hidden files are editors' and rotators' scratch.
    name.to_str().is_some_and(|name| !name.starts_with('.') && matches(glob, name))
}

/// `*` stands for any run of characters.
fn matches(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else { return false };
    let mut tail = None;
    for part in parts {
        if let Some(previous) = tail.replace(part) {
            let Some(at) = rest.find(previous) else { return false };
            rest = rest.get(at + previous.len()..).unwrap_or("");
        }
    }
    tail.map_or(rest.is_empty(), |tail| rest.ends_with(tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        let check = |glob, name, expected| assert_eq!(matches(glob, name), expected, "{glob} {name}");
        check("*.log", "m1.log", true);
        check("*.log", "m1.log.1", false);
        check("m*-*.log", "m1-a.log", true);
        check("m*-*.log", "m1.log", false);
        check("*", "", true);
        check("a*a", "a", false);
        check("etcd", "etcd", true);
        check("etcd", "etcd2", false);
    }

    #[test]
    fn the_newest_is_the_one_that_was_written_to_last() {
        let dir = std::env::temp_dir().join(format!("agent-newest-{}", std::process::id()));
        let pattern = dir.join("pod_*/etcd/*.log");
        assert_eq!(newest(&pattern), None);
        let file = |name: &str, at: u64| {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let written = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
            std::fs::File::create(&path).unwrap().set_modified(written).unwrap();
            path
        };
        file("pod_1/etcd/9.log", 1);
        let last = file("pod_2/etcd/0.log", 3);
        file("pod_2/etcd/0.log.20261126-084500", 4);
        file("pod_2/etcd/1.log", 2);
        assert_eq!(newest(&pattern), Some(last));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

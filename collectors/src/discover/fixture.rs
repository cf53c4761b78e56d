//! A throw-away directory tree that stands for the root of a node: `/proc`, `/etc`, `/var` as a test writes them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The tree; gone with the value.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty tree; `name` keeps the trees of one test run apart.
    pub(crate) fn new(name: &str) -> Tree {
        let root = std::env::temp_dir().join(format!("backburn-{name}-{}", std::process::id()));
        fs::remove_dir_all(&root).ok();
        fs::create_dir_all(&root).expect("create the fixture tree");
        Tree { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file with its directories.
    pub(crate) fn file(&self, path: &str, content: &str) -> &Tree {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a parent")).expect("create directories");
        fs::write(path, content).expect("write the file");
        self
    }

    /// A process: its arguments and environment as the kernel shows them, its start in ticks.
    pub(crate) fn process(
        &self,
        pid: u32,
        arguments: &[&str],
        environment: &[&str],
        start_ticks: u64,
    ) -> &Tree {
        let nul = |words: &[&str]| words.iter().map(|word| format!("{word}\0")).collect::<String>();
        let zeros = "0 ".repeat(18);
        self.file(&format!("proc/{pid}/cmdline"), &nul(arguments));
        self.file(&format!("proc/{pid}/environ"), &nul(environment));
        self.file(&format!("proc/{pid}/stat"), &format!("{pid} (a (b) c) S {zeros}{start_ticks} 1 2 3\n"))
    }

    /// A symbolic link, e.g. `proc/7/fd/2` to a log file.
    pub(crate) fn link(&self, path: &str, to: &str) -> &Tree {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a parent")).expect("create directories");
        fs::remove_file(&path).ok();
        symlink(to, path).expect("link");
        self
    }

    /// Ends a process.
    pub(crate) fn end(&self, pid: u32) {
        fs::remove_dir_all(self.root.join(format!("proc/{pid}"))).expect("remove the process");
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).ok();
    }
}

//! Copies of programs that can be run at once.
//!
//! Owns that another process writes them: what a thread of ours forks meanwhile would hold the file of ours open, and a file that
//! is open for writing cannot be run.

use std::path::Path;
use std::process::Command;

/// Copies a program with its mode.
pub(crate) fn copy(program: &Path, to: &Path) {
    let done = Command::new("cp").arg("--preserve=mode").arg(program).arg(to).status();
    assert!(done.is_ok_and(|done| done.success()), "copy to {}", to.display());
}
